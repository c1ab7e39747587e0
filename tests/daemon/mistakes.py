"""Everything a client can say that breaks the wire protocol, and the sentence it is told for it."""

from __future__ import annotations

from typing import NamedTuple

import msgpack

from tests.daemon.raw import notification, request

HELLO = request(1, "hello", 1, 1, "hostile")
GUID = bytes(range(16))


class Mistake(NamedTuple):
    """What is said, and why the session ends."""

    name: str
    said: bytes
    sentence: str


MISTAKES = (
    Mistake("garbage", b"\xc1\xc1\xc1\xc1", "the bytes are not MessagePack (0xC1 never occurs in it)"),
    Mistake(
        "another protocol",
        b"GET / HTTP/1.1\r\nHost: vm1\r\n\r\n",
        "a frame must be a MessagePack-RPC array: [0, msgid, method, params] or its siblings",
    ),
    Mistake("an ext type", b"\x94\x00\xd4\x01\x00", "MessagePack ext types are not part of this protocol (byte 0xD4)"),
    Mistake(
        "a frame that announces too much",
        HELLO + b"\x94\x00\x02\xa9memory.wr\x94\x01\x00\xc6\x7f\xff\xff\xff",
        "a frame is longer than 1200000 bytes",
    ),
    Mistake("millions of elements", b"\xdd\x7f\xff\xff\xff", "a frame holds more than 64 MessagePack elements"),
    Mistake("deep nesting", b"\x91" * 100, "a frame nests arrays or maps deeper than 4"),
    Mistake("no hello", request(1, "ping"), "the first message must be the request 'hello'"),
    Mistake("a notification for a hello", notification("cancel", 1), "the first message must be the request 'hello'"),
    Mistake("a bad request for a hello", request(1, "nonsense"), "the first message must be the request 'hello'"),
    Mistake("a second hello", HELLO + request(2, "hello", 1, 1, "again"), "a second hello: a session says it once"),
    Mistake(
        "another version",
        request(1, "hello", 7, 9, "later"),
        "this daemon speaks protocol version 1, the client 7 to 9",
    ),
    Mistake("an unknown notification", HELLO + notification("explode"), "there is no notification 'explode'"),
    Mistake(
        "a notification that is a request",
        HELLO + notification("channel.open"),
        "there is no notification 'channel.open'",
    ),
    Mistake(
        "a notification for the other side",
        HELLO + notification("goodbye", 0, "you"),
        "there is no notification 'goodbye'",
    ),
    Mistake(
        "a notification with wrong arguments",
        HELLO + notification("cancel", "three"),
        "cancel: 'msgid' must be an unsigned 32-bit integer, not 'three'",
    ),
    Mistake(
        "a response to nothing", HELLO + msgpack.packb([1, 9, None, []]), "a response came to a request that was never"
    ),
    Mistake("a msgid that is none", HELLO + msgpack.packb([0, -1, "ping", []]), "a msgid must be an unsigned 32-bit"),
    Mistake("text that is not UTF-8", HELLO + b"\x93\x02\xa2\xff\xfe\x90", "a frame cannot be decoded: "),
    Mistake(
        "a channel it never had",
        HELLO + request(2, "channel.close", 5),
        "there is no channel 5: this session was never given it",
    ),
    Mistake(
        "an offer it never had",
        HELLO + request(2, "offer.rescind", 1),
        "there is no offer 1: this session was never given it",
    ),
    Mistake(
        "an address it never had",
        HELLO + request(2, "address.send_datagram", 1, "127.0.0.1", 9, b""),
        "there is no address 1: this session was never given it",
    ),
    Mistake(
        "a window for a channel it never had",
        HELLO + notification("channel.window", 0, 1, 1),
        "there is no channel 0: this session was never given it",
    ),
    Mistake(
        "a completion on a channel it never had",
        HELLO + notification("packet.complete", 1, 1, b""),
        "there is no channel 1: this session was never given it",
    ),
    Mistake(
        "a msgid that is still waiting",
        HELLO
        + request(2, "machine.attach", "vm1", False)
        + request(3, "channel.open", 1, GUID, None, True, 0, 0, 1, 1) * 2,
        "request 3 is still unanswered; its msgid cannot be used again yet",
    ),
)
