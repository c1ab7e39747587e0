"""The rows of filters: a client above a device, which sees each request before the transport does (120 to 127)."""

from __future__ import annotations

from emulator.wire.fields import Binary, Field, Maybe
from emulator.wire.method import (
    BOOL,
    CHUNK,
    DATAGRAM,
    IN,
    IO_STATUS,
    MACHINE,
    NAME,
    OUT,
    SENTENCE,
    STATUS,
    U8,
    U32,
    U64,
    row,
)

_FILTER = Field("filter", U32, "the filter, as `filter.attach` numbered it")
_SERIAL = Field("serial", U64, "this request's own number")
_FILE = Field("file", U64, "the same for everything on one open file; 0 for a create")
_ADDRESS = Binary(4096)

# fmt: off
FILTER_ATTACH = row(120, "filter.attach", IN, (
    MACHINE, Field("network", NAME, "`udp`, or the name of a segment"),
    Field("events", BOOL, "whether to see what goes up to clients as well: datagrams, and calls of event handlers"),
), (_FILTER,), "Come to stand above a device of a machine, and above the filters it has. From now on every create and "
    "request on it waits for this client's answer.")
FILTER_DETACH = row(121, "filter.detach", IN, (_FILTER,), (), "Leave; what it holds passes on.")
FILTER_REQUEST = row(122, "filter.request", OUT, (
    _FILTER, _SERIAL, _FILE,
    Field("kind", U8, "1 an address, 2 a connection endpoint, 3 a control channel, as FsContext2 says it"),
    Field("major", U8, "IRP_MJ_*"),
    Field("minor", U8, "TDI_*, for major 0x0F"),
    Field("code", U32, "event type, query or set type, device control code, disconnect flags, or share access"),
    Field("local", _ADDRESS, "the file's TRANSPORT_ADDRESS, or for a create the one asked for; empty for none"),
    Field("remote", _ADDRESS, "where it is to go, or came from: a TRANSPORT_ADDRESS, or empty"),
    Field("length", U64, "bytes to be sent or received"),
    Field("data", DATAGRAM, "the data, at most 65,535 bytes of them"),
    Field("event", Maybe(U32), "TDI_EVENT_* for what goes up to a client; nil for a request on its way down"),
), (
    Field("action", U8, "0 it passes on, 1 it ends here, 2 it passes on changed"),
    STATUS,
    Field("information", U64, "with action 1, what the client gets as IO_STATUS_BLOCK"),
    Field("remote", Maybe(_ADDRESS), "with action 2, where it is to go instead; nil leaves it"),
    Field("data", Maybe(DATAGRAM), "with action 2, the data instead; nil leaves them"),
    Field("watch", BOOL, "whether to be told how it ends"),
), "Something is on its way. Answer within 5 seconds, unless configured; a later filter is removed, and everything it "
    "holds passes on.")
FILTER_COMPLETED = row(123, "filter.completed", OUT, (
    _FILTER, _SERIAL, *IO_STATUS, _FILE,
    Field("local", _ADDRESS, "of a create that succeeded: the TRANSPORT_ADDRESS it is bound to"),
), None, "A request that was watched is over.")
FILTER_CLEANUP = row(124, "filter.cleanup", OUT, (_FILTER, _FILE, Field("kind", U8, "as in `filter.request`")), None,
    "IRP_MJ_CLEANUP of a file, which cannot be refused; IRP_MJ_CLOSE follows it.")
FILTER_QUERY = row(125, "filter.query", IN, (
    _FILTER, _FILE, Field("type", U32, "TDI_QUERY_*"), Field("length", U32, "size of the caller's buffer in bytes"),
), (*IO_STATUS, Field("data", CHUNK, "the structure, byte for byte")),
    "TDI_QUERY_INFORMATION on somebody's file, below this filter.")
FILTER_DETACHED = row(126, "filter.detached", OUT, (_FILTER, Field("reason", SENTENCE, "why")), None,
    "The filter is out: it was late, or its machine failed.")
# fmt: on
