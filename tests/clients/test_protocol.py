"""The client's half of the conversation, read as transcripts: a daemon's bytes go in, bytes to it come out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import address_calls, requests, taking
from clients.calls import Post
from clients.inbox import AddressState, ChannelState, OfferState
from clients.protocol import GRANT, Call, ClientProtocol, ConnectionLost, RequestFailed, hello_arguments
from emulator.status import NtStatus
from emulator.tdi.structures import SocketAddress, pack_transport_address
from emulator.vmbus.packets import encode_in_band
from emulator.wire.codec import (
    FrameDecoder,
    Message,
    Notification,
    Request,
    Response,
    WireError,
    encode_error,
    encode_notification,
    encode_request,
    encode_response,
)
from emulator.wire.runs import pack_datagrams, pack_pfns
from emulator.wire.schema import (
    ADDRESS_CLOSE,
    ADDRESS_DATAGRAMS,
    ADDRESS_SEND_DATAGRAM,
    ADDRESS_WINDOW,
    CANCEL,
    CHANNEL_CLOSE,
    CHANNEL_CLOSED,
    CHANNEL_OPEN,
    CHANNEL_OPENED,
    CHANNEL_PACKETS,
    CHANNEL_WINDOW,
    GOODBYE,
    HELLO,
    MACHINE_ATTACH,
    MEMORY_ALLOCATE,
    MEMORY_FREE,
    OFFER_RESCIND,
    PACKET_COMPLETE,
    PACKET_SEND,
    PACKET_SEND_RUN,
    PING,
    Direction,
    Method,
)

INTERFACE = UUID("6a0f0d11-9f3b-4a52-a5c6-2f7b1a9c0001")
INSTANCE = UUID("6a0f0d11-9f3b-4a52-a5c6-2f7b1a9c0002")
WAIT = 0x1


class Daemon:
    """The other side of a transcript: it checks what the protocol says with the daemon's own decoder, and answers."""

    def __init__(self, outstanding: int = 100) -> None:
        self.protocol = ClientProtocol()
        self._decoder = FrameDecoder(Direction.TO_DAEMON)
        hello = requests.hello(self.protocol, "transcript")
        (greeting,) = self.heard()
        assert greeting == Request(hello.msgid, HELLO, hello_arguments("transcript"))
        self.answer(hello, 1, "0.1", 1, 1_200_000, 64, outstanding)

    def heard(self) -> list[Message]:
        """What the client has said since the last time."""
        data = bytes(self.protocol.outgoing)
        self.protocol.outgoing.clear()
        return list(self._decoder.feed(data))

    def methods(self) -> list[Method]:
        """The methods of it."""
        return [message.method for message in self.heard() if isinstance(message, Request | Notification)]

    def notices(self) -> list[tuple[Method, tuple[Any, ...]]]:
        """The notifications among it, and nothing else may be there."""
        heard = self.heard()
        assert all(isinstance(message, Notification) for message in heard), heard
        return [(message.method, message.args) for message in heard if isinstance(message, Notification)]

    def say(self, frame: bytes, descriptors: Iterable[int] = ()) -> list[Any]:
        return self.protocol.receive(frame, descriptors)

    def tell(self, method: Method, *args: object) -> list[Any]:
        return self.say(encode_notification(method, *args))

    def answer(self, call: Call, *result: object) -> list[Any]:
        return self.say(encode_response(call.msgid, *result))

    def refuse(self, call: Call, status: NtStatus, message: str) -> list[Any]:
        return self.say(encode_error(call.msgid, status, message))

    def channel(self, number: int = 1, packets: int = 8, byte_count: int = 65536) -> ChannelState:
        """An open channel, as its guest."""
        call = self.open_call()
        self.heard()
        self.answer(call, number, INSTANCE.bytes_le, False, packets, byte_count)
        state: ChannelState = call.built[0]
        return state

    def open_call(self) -> Call:
        return requests.open_channel(self.protocol, 1, INTERFACE, None, wait=True, ring_pages=(0, 0))

    def address(self, number: int = 1, packets: int = 8, byte_count: int = 65536) -> AddressState:
        call = address_calls.open_address(self.protocol, 1, "udp", ("127.0.0.1", 0), False)
        self.heard()
        self.answer(call, number, "127.0.0.1", 5000, packets, byte_count)
        state: AddressState = call.built[0]
        return state

    def offer(self, number: int = 1) -> OfferState:
        call = requests.offer_channel(self.protocol, 1, INTERFACE, None, pipe=False)
        self.heard()
        self.answer(call, number, INSTANCE.bytes_le)
        state: OfferState = call.built
        return state

    def send(self, state: ChannelState, payload: bytes = b"12345678") -> Call:
        call = requests.send(self.protocol, state, payload, None, WAIT)
        assert isinstance(call, Call)
        return call


def error_of(call: Call) -> tuple[NtStatus, str]:
    with pytest.raises(RequestFailed) as caught:
        call.outcome()
    return caught.value.status, caught.value.message


# ---- requests and how many may be unanswered


def test_a_request_gets_its_result_and_wakes_whoever_waits() -> None:
    daemon = Daemon()
    call = daemon.protocol.call(PING)
    assert daemon.heard() == [Request(call.msgid, PING, ())]
    before = call.done
    assert daemon.answer(call) == [call]
    assert (before, call.done) == (False, True)
    assert call.outcome() == ()


def test_a_refusal_has_its_status_and_sentence() -> None:
    daemon = Daemon()
    call = daemon.protocol.call(PING)
    daemon.refuse(call, NtStatus.INVALID_HANDLE, "attach first")
    assert error_of(call) == (NtStatus.INVALID_HANDLE, "attach first")


def test_a_status_nobody_knows_keeps_its_number_in_the_text() -> None:
    daemon = Daemon()
    call = daemon.protocol.call(PING)
    daemon.say(encode_error(call.msgid, 0xC0DE0001, "odd"))
    assert error_of(call) == (NtStatus.UNSUCCESSFUL, "odd (0xC0DE0001)")


def test_answers_in_any_order_find_their_requests() -> None:
    daemon = Daemon()
    calls = [address_calls.query_address(daemon.protocol, AddressState(n, (1, 1), GRANT), n, 64) for n in range(4)]
    for call, text in zip(reversed(calls), "dcba", strict=True):
        daemon.answer(call, 0, 0, text, b"")
    assert [call.outcome()[2] for call in calls] == ["a", "b", "c", "d"]


def test_beyond_the_limit_of_unanswered_requests_calls_are_held_and_go_in_order() -> None:
    daemon = Daemon(outstanding=2)
    calls = [daemon.protocol.call(MEMORY_ALLOCATE, 1, pages) for pages in (1, 2, 3, 4)]
    assert [message.args for message in daemon.heard() if isinstance(message, Request)] == [(1, 1), (1, 2)]
    daemon.answer(calls[1], b"")
    assert [message.args for message in daemon.heard() if isinstance(message, Request)] == [(1, 3)]
    daemon.refuse(calls[0], NtStatus.INVALID_HANDLE, "no")
    assert [message.args for message in daemon.heard() if isinstance(message, Request)] == [(1, 4)]


def test_msgids_of_unanswered_requests_are_never_used_again() -> None:
    daemon = Daemon()
    waiting = daemon.protocol.call(PING)
    daemon.protocol._last_msgid = 0xFFFFFFFF - 1
    daemon.protocol._calls[0xFFFFFFFF] = waiting
    first, second = daemon.protocol.call(PING), daemon.protocol.call(PING)
    assert first.msgid == 0
    assert len({first.msgid, second.msgid, waiting.msgid, 0xFFFFFFFF}) == 4


def test_a_response_that_nobody_waits_for_breaks_the_protocol() -> None:
    daemon = Daemon()
    with pytest.raises(WireError, match="answered request 77, which was not sent"):
        daemon.say(encode_response(77))


def test_a_result_of_the_wrong_shape_breaks_the_protocol() -> None:
    daemon = Daemon()
    call = daemon.open_call()
    with pytest.raises(WireError, match=r"the result of channel\.open has 1 values where it takes 5"):
        daemon.answer(call, 1)


def test_the_daemon_may_ping_and_nothing_else() -> None:
    daemon = Daemon()
    daemon.say(encode_request(5, PING))
    daemon.say(encode_request(6, MEMORY_ALLOCATE, 1, 1))
    answered, refused = daemon.heard()
    assert answered == Response(5, None, [])
    assert isinstance(refused, Response)
    assert refused.error is not None
    assert (refused.msgid, refused.error[0]) == (6, NtStatus.NOT_IMPLEMENTED)


# ---- giving a call up


def test_a_sent_call_is_cancelled_once_and_still_gets_its_end() -> None:
    daemon = Daemon()
    call = daemon.open_call()
    daemon.heard()
    daemon.protocol.abandon(call)
    daemon.protocol.abandon(call)
    assert daemon.notices() == [(CANCEL, (call.msgid,))]
    daemon.refuse(call, NtStatus.CANCELLED, "as you wished")
    assert call.done
    assert daemon.heard() == []


@pytest.mark.parametrize("answered_first", [False, True])
def test_a_channel_that_was_opened_for_nobody_is_closed_again(answered_first: bool) -> None:
    daemon = Daemon()
    call = daemon.open_call()
    daemon.heard()
    if answered_first:
        # Both in one turn: the result was read, and its waiter was cancelled before it ran.
        daemon.answer(call, 3, INSTANCE.bytes_le, False, 8, 65536)
        daemon.protocol.abandon(call)
    else:
        daemon.protocol.abandon(call)
        assert daemon.methods() == [CANCEL]
        daemon.answer(call, 3, INSTANCE.bytes_le, False, 8, 65536)
    (close,) = daemon.heard()
    assert isinstance(close, Request)
    assert (close.method, close.args) == (CHANNEL_CLOSE, (3,))
    daemon.protocol.take_touched()
    assert daemon.tell(CHANNEL_PACKETS, 3, 1, encode_in_band(b"late" * 2), "") == []
    assert daemon.tell(CHANNEL_CLOSED, 3, NtStatus.CANCELLED, "late") == []


@pytest.mark.parametrize("answered_first", [False, True])
def test_an_offer_an_address_and_pages_for_nobody_are_given_back(answered_first: bool) -> None:
    daemon = Daemon()
    protocol = daemon.protocol
    calls = [
        requests.offer_channel(protocol, 1, INTERFACE, None, pipe=False),
        address_calls.open_address(protocol, 1, "udp", ("127.0.0.1", 0), False),
        requests.allocate_pages(protocol, 1, 2),
    ]
    answers: list[tuple[Any, ...]] = [(4, INSTANCE.bytes_le), (5, "127.0.0.1", 7, 8, 65536), (pack_pfns((8, 9)),)]
    daemon.heard()
    for call, answer in zip(calls, answers, strict=True):
        if not answered_first:
            protocol.abandon(call)
        daemon.answer(call, *answer)
        if answered_first:
            protocol.abandon(call)
    undone = [(m.method, m.args) for m in daemon.heard() if isinstance(m, Request)]
    assert undone == [(OFFER_RESCIND, (4,)), (ADDRESS_CLOSE, (5,)), (MEMORY_FREE, (1, pack_pfns((8, 9))))]


def test_a_call_that_failed_has_nothing_to_undo() -> None:
    daemon = Daemon()
    call = daemon.open_call()
    daemon.refuse(call, NtStatus.NO_SUCH_DEVICE, "nobody")
    daemon.heard()
    daemon.protocol.abandon(call)
    assert daemon.heard() == []


def test_a_held_call_that_is_given_up_was_never_sent() -> None:
    daemon = Daemon(outstanding=1)
    first, held = daemon.protocol.call(PING), daemon.open_call()
    daemon.heard()
    daemon.protocol.abandon(held)
    assert error_of(held) == (NtStatus.CANCELLED, "the call was abandoned before it was sent")
    daemon.answer(first)
    assert daemon.heard() == []


def test_a_held_call_that_is_given_up_gives_its_room_to_the_next() -> None:
    daemon = Daemon(outstanding=1)
    state = daemon.channel(packets=1)
    first = daemon.protocol.call(PING)
    held, waiting = daemon.send(state, b"held" * 2), daemon.send(state, b"next" * 2)
    daemon.heard()
    daemon.protocol.abandon(held)
    daemon.answer(first)
    (sent,) = daemon.heard()
    assert isinstance(sent, Request)
    assert sent.args[2] == b"next" * 2
    assert not waiting.done


def test_a_call_that_waits_for_its_window_is_given_up_without_a_trace() -> None:
    daemon = Daemon()
    state = daemon.channel(packets=1)
    _, waiting, behind = (daemon.send(state, text * 4) for text in (b"aa", b"bb", b"cc"))
    daemon.heard()
    daemon.protocol.abandon(waiting)
    assert error_of(waiting) == (NtStatus.CANCELLED, "the call was abandoned before it was sent")
    daemon.tell(CHANNEL_WINDOW, 1, 1, 100)
    (sent,) = daemon.heard()
    assert isinstance(sent, Request)
    assert sent.args[2] == b"cc" * 4
    assert not behind.done


def test_a_call_that_was_given_up_still_ends_with_the_connection() -> None:
    daemon = Daemon()
    call = daemon.open_call()
    daemon.protocol.abandon(call)
    daemon.protocol.lose(ConnectionLost("gone"))
    daemon.protocol.abandon(call)
    with pytest.raises(ConnectionLost, match="gone"):
        call.outcome()


# ---- windows


def test_a_send_waits_while_the_packets_are_used_up_and_goes_in_order() -> None:
    daemon = Daemon()
    state = daemon.channel(packets=2)
    calls = [daemon.send(state, bytes([n]) * 8) for n in range(5)]
    assert daemon.methods() == [PACKET_SEND] * 2
    daemon.answer(calls[0], 0, b"")
    assert daemon.heard() == [], "a completion is no room in the ring"
    daemon.tell(CHANNEL_WINDOW, 1, 2, 144)
    sent = [message.args[2][0] for message in daemon.heard() if isinstance(message, Request)]
    assert sent == [2, 3]


def test_the_last_send_may_overdraw_the_bytes_and_the_next_waits_until_they_are_above_zero() -> None:
    daemon = Daemon()
    state = daemon.channel(packets=100, byte_count=100)
    for size in (8, 1000, 8):
        daemon.send(state, bytes(size))
    assert daemon.methods() == [PACKET_SEND] * 2
    daemon.tell(CHANNEL_WINDOW, 1, 1, 1036)
    assert daemon.methods() == [], "100 - 72 - 1,064 + 1,036 is 0, which is not room"
    daemon.tell(CHANNEL_WINDOW, 1, 0, 1)
    assert daemon.methods() == [PACKET_SEND]


def test_a_channel_without_room_holds_up_no_other_channel_and_no_address() -> None:
    daemon = Daemon()
    full, free = daemon.channel(1, packets=0), daemon.channel(2)
    address = daemon.address()
    daemon.send(full)
    assert daemon.methods() == []
    daemon.send(free)
    address_calls.send_datagram(daemon.protocol, address, b"x", ("127.0.0.1", 9))
    assert daemon.methods() == [PACKET_SEND, ADDRESS_SEND_DATAGRAM]


def test_the_answer_to_a_datagram_gives_its_room_back() -> None:
    daemon = Daemon()
    address = daemon.address(packets=1)
    first, second = (address_calls.send_datagram(daemon.protocol, address, b"x", ("127.0.0.1", 9)) for _ in range(2))
    assert daemon.methods() == [ADDRESS_SEND_DATAGRAM]
    daemon.answer(first, 0, 1, "")
    assert daemon.methods() == [ADDRESS_SEND_DATAGRAM]
    daemon.refuse(second, NtStatus.INVALID_HANDLE, "no")
    assert (address.sends.packets, address.sends.bytes) == (1, 65536)


def test_room_of_taken_packets_is_returned_when_half_is_due() -> None:
    daemon = Daemon()
    state = daemon.channel()
    image = encode_in_band(b"p" * 8)
    for number in range(GRANT[0]):
        daemon.tell(CHANNEL_PACKETS, 1, 1 + number, image, "")
    returned = []
    for _ in range(GRANT[0]):
        taking.take_packet(daemon.protocol, state.items)
        returned += daemon.notices()
    assert returned == [(CHANNEL_WINDOW, (1, GRANT[0] // 2, GRANT[0] // 2 * len(image)))] * 2


def test_room_of_taken_datagrams_counts_their_overhead() -> None:
    daemon = Daemon()
    state = daemon.address()
    source = pack_transport_address(SocketAddress("127.0.0.1", 53))
    for _ in range(2):
        daemon.tell(ADDRESS_DATAGRAMS, 1, pack_datagrams([(source, 0x20, bytes(5000))] * (GRANT[0] // 2)), 3)
    assert state.dropped == 3
    notices = []
    for _ in range(GRANT[0]):
        datagram = address_calls.take_datagram(daemon.protocol, state)
        assert datagram == (bytes(5000), ("127.0.0.1", 53), 0x20)
        notices += daemon.notices()
    assert notices[0] == (ADDRESS_WINDOW, (1, 104, 104 * 5064)), "half of the bytes come before half of the packets"


# ---- closing


def test_sends_that_wait_end_when_the_channel_closes() -> None:
    daemon = Daemon()
    state = daemon.channel(packets=1)
    _, waiting = daemon.send(state), daemon.send(state)
    touched = daemon.tell(CHANNEL_CLOSED, 1, NtStatus.DEVICE_REMOVED, "the host went away")
    assert state in touched
    assert waiting in touched
    assert error_of(waiting) == (NtStatus.DEVICE_REMOVED, "the host went away")
    assert error_of(daemon.send(state)) == (NtStatus.DEVICE_REMOVED, "the host went away")


def test_what_arrived_before_the_end_can_still_be_taken_but_is_not_completed() -> None:
    daemon = Daemon()
    state = daemon.channel()
    daemon.tell(CHANNEL_PACKETS, 1, 1, encode_in_band(b"p" * 8, 7, True), "")
    daemon.tell(CHANNEL_CLOSED, 1, NtStatus.CANCELLED, "over")
    packet = taking.take_packet(daemon.protocol, state.items)
    requests.complete(daemon.protocol, packet, b"")
    assert daemon.heard() == []


def test_a_packet_is_completed_once() -> None:
    daemon = Daemon()
    state = daemon.channel()
    daemon.tell(CHANNEL_PACKETS, 1, 41, encode_in_band(b"p" * 8, 7, True) + encode_in_band(b"q" * 8, 8, True), "")
    taking.take_packet(daemon.protocol, state.items)
    packet = taking.take_packet(daemon.protocol, state.items)
    requests.complete(daemon.protocol, packet, b"done")
    assert daemon.notices() == [(PACKET_COMPLETE, (1, 42, b"done"))]
    with pytest.raises(RequestFailed, match="packet 42 has been completed already"):
        requests.complete(daemon.protocol, packet, b"again")


def test_closing_a_channel_here_wakes_whoever_waits_for_it() -> None:
    daemon = Daemon()
    state = daemon.channel()
    call = requests.close_channel(daemon.protocol, state)
    assert call is not None
    assert state in daemon.protocol.take_touched()
    assert requests.close_channel(daemon.protocol, state) is None
    assert daemon.methods() == [CHANNEL_CLOSE]


def test_rescinding_an_offer_here_wakes_whoever_waits_for_its_packets() -> None:
    daemon = Daemon()
    offer = daemon.offer()
    requests.rescind(daemon.protocol, offer)
    assert offer in daemon.protocol.take_touched()
    assert offer.closed == (NtStatus.CANCELLED, "the offer was rescinded")
    assert requests.rescind(daemon.protocol, offer) is None


def test_packets_of_one_opening_after_another_come_in_order() -> None:
    daemon = Daemon()
    offer = daemon.offer()
    assert offer in daemon.tell(CHANNEL_OPENED, 1, 8, 4, 4096)
    daemon.tell(CHANNEL_PACKETS, 8, 1, encode_in_band(b"a" * 8), "")
    assert offer in daemon.tell(CHANNEL_CLOSED, 8, NtStatus.CANCELLED, "guest went")
    with pytest.raises(RequestFailed, match="no guest has this channel open"):
        requests.opening_of(offer)
    daemon.tell(CHANNEL_OPENED, 1, 9, 4, 4096)
    daemon.tell(CHANNEL_PACKETS, 9, 1, encode_in_band(b"b" * 8), "")
    assert [packet.payload for packet in offer.items] == [b"a" * 8, b"b" * 8]
    assert (requests.opening_of(offer).number, offer.openings) == (9, 2)


def test_an_opening_of_an_offer_that_is_gone_is_ignored() -> None:
    daemon = Daemon()
    requests.rescind(daemon.protocol, daemon.offer())
    assert [each for each in daemon.tell(CHANNEL_OPENED, 1, 8, 4, 4096) if isinstance(each, ChannelState)] == []
    assert daemon.methods() == [OFFER_RESCIND]


def test_external_data_that_cannot_be_used_comes_with_its_packet() -> None:
    daemon = Daemon()
    state = daemon.channel()
    run = encode_in_band(b"a" * 8, 1, True) + encode_in_band(b"b" * 8, 2, True)
    daemon.tell(CHANNEL_PACKETS, 1, 5, run, '[[6, 3221225485, "page 0x99 is outside"]]')
    assert [packet.refusal for packet in state.items] == [None, (NtStatus.INVALID_PARAMETER, "page 0x99 is outside")]


# ---- posts


def test_a_post_goes_in_runs_as_the_window_allows() -> None:
    daemon = Daemon()
    state = daemon.channel(packets=100, byte_count=1 << 20)
    post = daemon.protocol.post(state, [bytes([n]) * 8 for n in range(150)])
    runs = [message for message in daemon.heard() if isinstance(message, Request)]
    assert [len(run.args[1]) // 24 for run in runs] == [64, 36]
    for run in runs:
        daemon.say(encode_response(run.msgid, len(run.args[1]) // 24))
    assert not post.done
    daemon.tell(CHANNEL_WINDOW, 1, 100, 7200)
    (last,) = daemon.heard()
    assert isinstance(last, Request)
    assert daemon.say(encode_response(last.msgid, 50))[-1] is post
    assert post.outcome() == (150,)


def test_a_refused_run_ends_its_post_and_lets_what_waits_behind_it_go() -> None:
    daemon = Daemon()
    state = daemon.channel(packets=1)
    post = daemon.protocol.post(state, [bytes(8)] * 3)
    behind = daemon.send(state, b"behind!!")
    (run,) = daemon.heard()
    assert isinstance(run, Request)
    daemon.say(encode_error(run.msgid, NtStatus.INVALID_PARAMETER, "not that"))
    with pytest.raises(RequestFailed, match="not that"):
        post.outcome()
    daemon.tell(CHANNEL_WINDOW, 1, 1, 72)
    (sent,) = daemon.heard()
    assert isinstance(sent, Request)
    assert (sent.method, sent.args[2]) == (PACKET_SEND, b"behind!!")
    assert not behind.done


def test_a_post_that_is_given_up_sends_no_more() -> None:
    daemon = Daemon()
    state = daemon.channel(packets=1)
    post = daemon.protocol.post(state, [bytes(8)] * 3)
    assert daemon.methods() == [PACKET_SEND_RUN]
    daemon.protocol.abandon(post)
    assert post.done
    daemon.tell(CHANNEL_WINDOW, 1, 8, 7200)
    assert daemon.heard() == []


def test_a_post_ends_with_its_channel() -> None:
    daemon = Daemon()
    state = daemon.channel(packets=1)
    post = daemon.protocol.post(state, [bytes(8)] * 3)
    assert post in daemon.tell(CHANNEL_CLOSED, 1, NtStatus.DEVICE_REMOVED, "host went")
    with pytest.raises(RequestFailed, match="host went"):
        post.outcome()
    with pytest.raises(RequestFailed, match="host went"):
        daemon.protocol.post(state, [b""]).outcome()


def test_a_post_of_nothing_is_done() -> None:
    daemon = Daemon()
    assert daemon.protocol.post(daemon.channel(), []).outcome() == (0,)


# ---- the end of the connection


def test_a_goodbye_says_why() -> None:
    daemon = Daemon()
    with pytest.raises(ConnectionLost, match="the daemon ended the session: you broke it"):
        daemon.tell(GOODBYE, NtStatus.INVALID_PARAMETER, "you broke it")


def test_everything_under_way_ends_with_the_connection() -> None:
    daemon = Daemon(outstanding=3)
    state, address, offer = daemon.channel(packets=1), daemon.address(), daemon.offer()
    sent, waiting = daemon.send(state), daemon.send(state)
    datagram = address_calls.send_datagram(daemon.protocol, address, b"x", ("127.0.0.1", 9))
    post = daemon.protocol.post(state, [bytes(8)])
    ping, held = daemon.protocol.call(PING), daemon.protocol.call(PING)
    touched = daemon.protocol.lose(ConnectionLost("cable cut"))
    for call in (sent, datagram, ping, held):
        assert call in touched
        with pytest.raises(ConnectionLost, match="cable cut"):
            call.outcome()
    unsent: list[Call | Post] = [waiting, post]
    for each in unsent:
        assert each in touched
        with pytest.raises(RequestFailed, match="cable cut"):
            each.outcome()
    holders: list[ChannelState | AddressState | OfferState] = [state, address, offer]
    for holder in holders:
        assert holder in touched
        assert holder.closed == (NtStatus.DEVICE_REMOVED, "cable cut")
    with pytest.raises(ConnectionLost, match="cable cut"):
        daemon.protocol.call(PING).outcome()


def test_the_first_reason_for_the_loss_stays() -> None:
    daemon = Daemon()
    daemon.protocol.lose(ConnectionLost("first"))
    daemon.protocol.lose(ConnectionLost("second"))
    assert str(daemon.protocol.lost) == "first"


# ---- descriptors


def test_descriptors_go_to_the_responses_that_announce_them_in_order() -> None:
    daemon = Daemon()
    attaches = [daemon.protocol.call(MACHINE_ATTACH, name, True) for name in ("a", "b")]
    daemon.say(b"", [10, 11])
    assert daemon.protocol.take_unclaimed_descriptors() == []
    for number, call in enumerate(attaches, start=1):
        daemon.answer(call, number, 4096, 1)
    assert [call.descriptor for call in attaches] == [10, 11]
    assert daemon.protocol.take_unclaimed_descriptors() == []


def test_descriptors_that_nothing_announces_are_handed_out_to_be_closed() -> None:
    daemon = Daemon()
    daemon.say(encode_request(9, PING), [10, 11])
    assert daemon.protocol.take_unclaimed_descriptors() == [10, 11]
    attach = daemon.protocol.call(MACHINE_ATTACH, "a", False)
    daemon.say(encode_response(attach.msgid, 1, 4096, 0), [12])
    assert attach.descriptor is None
    assert daemon.protocol.take_unclaimed_descriptors() == [12]


def test_a_descriptor_that_was_announced_and_did_not_come_breaks_the_protocol() -> None:
    daemon = Daemon()
    attach = daemon.protocol.call(MACHINE_ATTACH, "a", True)
    with pytest.raises(WireError, match="announced a descriptor that did not come"):
        daemon.answer(attach, 1, 4096, 1)


@pytest.mark.parametrize("answered_first", [False, True])
def test_the_descriptor_of_an_attach_that_was_given_up_is_handed_out_to_be_closed(answered_first: bool) -> None:
    daemon = Daemon()
    given_up, other = (daemon.protocol.call(MACHINE_ATTACH, name, True) for name in ("a", "b"))
    if not answered_first:
        daemon.protocol.abandon(given_up)
    daemon.say(encode_response(given_up.msgid, 1, 4096, 1), [10])
    daemon.protocol.abandon(given_up)
    assert daemon.protocol.take_unclaimed_descriptors() == [10]
    daemon.say(encode_response(other.msgid, 2, 4096, 1), [11])
    assert other.descriptor == 11


# ---- however the bytes are cut


@given(st.lists(st.integers(min_value=1, max_value=40), max_size=30))
def test_it_does_not_matter_where_the_stream_is_cut(cuts: list[int]) -> None:
    daemon = Daemon()
    open_call = daemon.open_call()
    stream = (
        encode_response(open_call.msgid, 1, INSTANCE.bytes_le, False, 8, 4096)
        + encode_notification(CHANNEL_PACKETS, 1, 1, encode_in_band(b"a" * 40, 1, True), "")
        + encode_request(3, PING)
        + encode_notification(CHANNEL_PACKETS, 1, 2, encode_in_band(b"b" * 8, 2, True), "")
        + encode_notification(CHANNEL_CLOSED, 1, NtStatus.CANCELLED, "over")
    )
    for size in [*cuts, len(stream)]:
        daemon.say(stream[:size])
        stream = stream[size:]
    state: ChannelState = open_call.built[0]
    assert [(packet.handle, packet.payload) for packet in state.items] == [(1, b"a" * 40), (2, b"b" * 8)]
    assert state.closed == (NtStatus.CANCELLED, "over")
    heard = daemon.heard()
    assert isinstance(heard[0], Request)
    assert heard[0].method is CHANNEL_OPEN
    assert heard[1:] == [Response(3, None, [])]
