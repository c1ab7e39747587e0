"""The rows of connection endpoints: opened, associated, connected, listened on, sent and received on, disconnected."""

from __future__ import annotations

from emulator.wire.fields import Binary, Field, Maybe
from emulator.wire.method import ADDRESS, CHUNK, HOST, IN, IO_STATUS, MACHINE, NAME, U16, U32, U64, row

_CONNECTION = Field("connection", U32, "the connection endpoint")
_TIMEOUT = Field("timeout", Maybe(U64), "in units of 100 ns, from now; nil for the provider's own")
_USER_DATA = Field("user_data", Binary(4096), "bytes for the client at the other side")
_THEIR_DATA = Field("user_data", Binary(4096), "bytes from the client at the other side")
_PEER = (Field("host", HOST, "the peer's IP address"), Field("port", U16, "the peer's port"))

# fmt: off
CONNECTION_OPEN = row(105, "connection.open", IN, (
    MACHINE,
    Field("network", NAME, "`tcp` for real TCP sockets, or the name of a segment"),
    Field("context", U64, "the client's own, which comes back as `connection` in every event"),
), (
    Field("connection", U32, "its number in this session"),
    Field("window_packets", U32, "sends the client may have on the way at once"),
    Field("window_bytes", U64, "and bytes of them"),
), "Open a connection endpoint (IRP_MJ_CREATE with a ConnectionContext).")
CONNECTION_CLOSE = row(106, "connection.close", IN, (_CONNECTION,), (),
    "IRP_MJ_CLEANUP, then IRP_MJ_CLOSE: a connection that stands is aborted.")
CONNECTION_ASSOCIATE = row(107, "connection.associate", IN, (_CONNECTION, ADDRESS), IO_STATUS,
    "TDI_ASSOCIATE_ADDRESS, with an address object on the same network.")
CONNECTION_DISASSOCIATE = row(108, "connection.disassociate", IN, (_CONNECTION,), IO_STATUS,
    "TDI_DISASSOCIATE_ADDRESS.")
CONNECTION_CONNECT = row(109, "connection.connect", IN, (
    _CONNECTION, *_PEER, _TIMEOUT, _USER_DATA,
), (*IO_STATUS, *_PEER, _THEIR_DATA), "TDI_CONNECT. Answered when the peer has accepted or refused, or in time.")
CONNECTION_LISTEN = row(110, "connection.listen", IN, (
    _CONNECTION,
    Field("flags", U32, "0, or TDI_QUERY_ACCEPT"),
    Field("host", HOST, "take offers from this IP address only; empty or 0.0.0.0 for any"),
    Field("port", U16, "and from this port only; 0 for any"),
    _USER_DATA,
), (*IO_STATUS, *_PEER, _THEIR_DATA), "TDI_LISTEN. Answered when an offer came: it is connected then, or with "
    "TDI_QUERY_ACCEPT waits for `connection.accept` or `connection.disconnect`, a second at most.")
CONNECTION_ACCEPT = row(111, "connection.accept", IN, (_CONNECTION, _USER_DATA), (*IO_STATUS, *_PEER), "TDI_ACCEPT.")
CONNECTION_DISCONNECT = row(112, "connection.disconnect", IN, (
    _CONNECTION,
    Field("flags", U32, "TDI_DISCONNECT_RELEASE; anything else aborts"),
    _TIMEOUT, _USER_DATA,
), (*IO_STATUS, _THEIR_DATA), "TDI_DISCONNECT. A release is answered when the peer has released too, and its data have "
    "been received.")
CONNECTION_SEND = row(113, "connection.send", IN, (
    _CONNECTION,
    Field("flags", U32, "TDI_SEND_* bits"),
    Field("data", CHUNK, "the bytes"),
), IO_STATUS, "TDI_SEND. One response for each; it gives its packet and bytes back to the window.")
CONNECTION_RECEIVE = row(114, "connection.receive", IN, (
    _CONNECTION,
    Field("flags", U32, "TDI_RECEIVE_NORMAL, _EXPEDITED, _PEEK; 0 for data of either kind"),
    Field("length", U32, "size of the caller's buffer in bytes, at most 262,144"),
), (*IO_STATUS, Field("data", CHUNK, "the bytes")), "TDI_RECEIVE. Data nobody asks for stay with the daemon, and then "
    "with the peer.")
CONNECTION_QUERY = row(115, "connection.query", IN, (
    _CONNECTION, Field("type", U32, "TDI_QUERY_*"), Field("length", U32, "size of the caller's buffer in bytes"),
), (*IO_STATUS, Field("data", CHUNK, "the structure, byte for byte")), "TDI_QUERY_INFORMATION.")
# fmt: on
