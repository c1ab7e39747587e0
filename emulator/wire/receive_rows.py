"""The rows of receiving beyond plain streams: posted receives, event handlers and their calls, chained loans."""

from __future__ import annotations

from emulator.wire.fields import Binary, Field, Maybe
from emulator.wire.method import ADDRESS, DATAGRAM, HOST, IN, IO_STATUS, MACHINE, OUT, STATUS, U16, U32, U64, row

MOST_USER_DATA = 4096
_REMOTE = Field("remote", Binary(64), "a TRANSPORT_ADDRESS, the other side's; empty for none")
_FLAGS = Field("flags", U32, "TDI_RECEIVE_* bits")
_EVENT = (
    Field("event", U32, "TDI_EVENT_*"),
    Field("handler", U64, "as `address.set_event_handler` gave it"),
    Field("context", U64, "likewise"),
    Field("connection", U64, "ConnectionContext of the endpoint concerned; 0 where there is none"),
    Field("status", STATUS.type, "what an error handler is called with; 0 for the others"),
    _FLAGS,
    Field("available", U64, "bytes there are in all; `data` may be the beginning of them"),
    Field("descriptor", U64, "TsduDescriptor of a chained event; 0 for the others"),
    _REMOTE,
    Field("options", Binary(4096), "options that came along"),
    Field("data", DATAGRAM, "the bytes indicated, or user data"),
)

# fmt: off
ADDRESS_RECEIVE_DATAGRAM = row(90, "address.receive_datagram", IN, (
    ADDRESS,
    Field("length", U32, "size of the caller's buffer in bytes"),
    Field("host", HOST, "take datagrams from this IP address only; empty or 0.0.0.0 for any"),
    Field("port", U16, "and from this port only; 0 for any"),
    Field("flags", U32, "0, or TDI_RECEIVE_PEEK"),
), (*IO_STATUS, _REMOTE, _FLAGS, Field("data", DATAGRAM, "the datagram, cut to the buffer")),
    "TDI_RECEIVE_DATAGRAM. Answered when a datagram came for it; it then is not in `address.datagrams` as well.")
ADDRESS_SET_EVENT_HANDLER = row(91, "address.set_event_handler", IN, (
    ADDRESS,
    Field("event", U32, "TDI_EVENT_*"),
    Field("handler", U64, "the client's own number for its function; 0 takes the handler away"),
    Field("context", U64, "the client's own, handed back with each call"),
), IO_STATUS, "TDI_SET_EVENT_HANDLER. Calls that have begun may still come or be under way after the response.")
ADDRESS_EVENT = row(92, "address.event", OUT, (ADDRESS, *_EVENT), (
    Field("status", U32, "what the handler returns: SUCCESS, MORE_PROCESSING_REQUIRED, DATA_NOT_ACCEPTED or PENDING"),
    Field("taken", U64, "BytesTaken, of the bytes in `data`"),
    Field("request", U32, "the client's own number for a request that is handed over; 0 for none"),
    Field("length", U32, "size of that request's buffer in bytes"),
    Field("endpoint", U32, "the connection a handed-over accept is for; 0 for none"),
    Field("context", Maybe(U64), "ConnectionContext of that endpoint, which must be its own; nil to leave it out"),
    Field("user_data", Binary(MOST_USER_DATA), "bytes of a handed-over accept for the client that connects"),
), "A handler is called, and the daemon waits for what it returns: 5 seconds, unless configured; later it counts as "
    "not accepted. One call at a time for one address object or connection.")
ADDRESS_TOLD = row(93, "address.told", OUT, (ADDRESS, *_EVENT), None,
    "A handler is called whose return value counts for nothing: errors, disconnects, room to send.")
ADDRESS_REQUEST_COMPLETED = row(94, "address.request_completed", OUT, (
    ADDRESS,
    Field("request", U32, "as the handler's answer numbered it"),
    *IO_STATUS, _REMOTE, _FLAGS,
    Field("data", DATAGRAM, "the rest of the data, cut to the buffer"),
), None, "The end of a request that a handler handed over: exactly one for each.")
MACHINE_RETURN_CHAINED = row(95, "machine.return_chained", IN, (
    MACHINE, Field("descriptors", Binary(65536, unit=8), "TsduDescriptors, u64 little-endian each"),
), (), "TdiReturnChainedReceives: chained data this client kept by answering PENDING. Refused at the first that is not "
    "its own or not out; those before it are returned.")
# fmt: on
