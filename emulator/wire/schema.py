"""The numbered table of methods: what clients and the daemon may say to each other.

MessagePack-RPC, as its specification has it: a request is ``[0, msgid, method, params]``, a response
``[1, msgid, error, result]``, a notification ``[2, method, params]``. Params and results are arrays in the order given
here. An error is ``[status, message]``: an NTSTATUS and a sentence.

Identifiers of machines, offers, channels and addresses belong to one session: the daemon gives them out, counting up,
and never gives one out twice. So a late message about something that has just gone is recognised as late, and no
session can name what belongs to another.
"""

from __future__ import annotations

from emulator.wire.bus_rows import (
    BUS_ATTACH,
    BUS_DETACH,
    BUS_DOORBELL,
    BUS_EVENT,
    BUS_EVENT_FLAGS_PAGE,
    BUS_MESSAGE,
    BUS_MESSAGE_TAKEN,
    BUS_POST,
    BUS_SIGNAL,
    CHANNEL_DAMAGED,
)
from emulator.wire.connection_rows import (
    CONNECTION_ACCEPT,
    CONNECTION_ASSOCIATE,
    CONNECTION_CLOSE,
    CONNECTION_CONNECT,
    CONNECTION_DISASSOCIATE,
    CONNECTION_DISCONNECT,
    CONNECTION_LISTEN,
    CONNECTION_OPEN,
    CONNECTION_QUERY,
    CONNECTION_RECEIVE,
    CONNECTION_SEND,
)
from emulator.wire.driver_rows import (
    DRIVER_ALLOCATE,
    DRIVER_CALLBACK,
    DRIVER_CLEANUP,
    DRIVER_DISABLE,
    DRIVER_DRAINED,
    DRIVER_ENABLE,
    DRIVER_LATENCY,
    DRIVER_OPENED,
    DRIVER_PAUSE,
    DRIVER_QUOTA,
    DRIVER_START,
    DRIVER_STATE,
    GPADL_CREATE,
    GPADL_DELETE,
    GPADL_MAP,
    GPADL_UNMAP,
    MEMORY_PAGE,
    MEMORY_PAGED,
    PACKET_SEND_EXTERNAL_PFNS,
)
from emulator.wire.fields import Field, Maybe
from emulator.wire.file_rows import FILE_CREATE, IRP_SUBMIT, IRP_SUBMIT_AT
from emulator.wire.filter_rows import (
    FILTER_ATTACH,
    FILTER_CLEANUP,
    FILTER_COMPLETED,
    FILTER_DETACH,
    FILTER_DETACHED,
    FILTER_QUERY,
    FILTER_REQUEST,
)
from emulator.wire.method import (
    ADDRESS,
    BOOL,
    BOTH,
    BUFFER,
    CHANNEL,
    CHUNK,
    COMPLETION,
    DATAGRAM,
    DOCUMENT,
    FLAGS,
    GRANT,
    GUID,
    HOST,
    IN,
    IO_STATUS,
    MACHINE,
    MDL_CHAIN,
    NAME,
    OUT,
    PAYLOAD,
    PFNS,
    RINGS,
    RUN,
    SENTENCE,
    STATUS,
    U8,
    U16,
    U32,
    U64,
    Direction,
    Kind,
    Method,
    row,
)
from emulator.wire.network_rows import (
    ADDRESS_JOIN,
    ADDRESS_LEAVE,
    ADDRESS_OPTIONS,
    ADDRESS_SEND_BURST,
    SEGMENT_CHANGE,
)
from emulator.wire.operation_rows import DAEMON_LOG_LEVEL, MACHINE_CREATE, MACHINE_REMOVE, OFFER_RESCINDED
from emulator.wire.receive_rows import (
    ADDRESS_EVENT,
    ADDRESS_RECEIVE_DATAGRAM,
    ADDRESS_REQUEST_COMPLETED,
    ADDRESS_SET_EVENT_HANDLER,
    ADDRESS_TOLD,
    MACHINE_RETURN_CHAINED,
)
from emulator.wire.remote_rows import KEYS_RELOAD

# A family of rows in a module of its own is imported here and named below: what stands in this module is the table.
__all__ = [
    "ADDRESS_EVENT",
    "ADDRESS_JOIN",
    "ADDRESS_LEAVE",
    "ADDRESS_OPTIONS",
    "ADDRESS_RECEIVE_DATAGRAM",
    "ADDRESS_REQUEST_COMPLETED",
    "ADDRESS_SEND_BURST",
    "ADDRESS_SET_EVENT_HANDLER",
    "ADDRESS_TOLD",
    "BUS_ATTACH",
    "BUS_DETACH",
    "BUS_DOORBELL",
    "BUS_EVENT",
    "BUS_EVENT_FLAGS_PAGE",
    "BUS_MESSAGE",
    "BUS_MESSAGE_TAKEN",
    "BUS_POST",
    "BUS_SIGNAL",
    "BY_NAME",
    "CHANNEL_DAMAGED",
    "CONNECTION_ACCEPT",
    "CONNECTION_ASSOCIATE",
    "CONNECTION_CLOSE",
    "CONNECTION_CONNECT",
    "CONNECTION_DISASSOCIATE",
    "CONNECTION_DISCONNECT",
    "CONNECTION_LISTEN",
    "CONNECTION_OPEN",
    "CONNECTION_QUERY",
    "CONNECTION_RECEIVE",
    "CONNECTION_SEND",
    "DAEMON_LOG_LEVEL",
    "DRIVER_ALLOCATE",
    "DRIVER_CALLBACK",
    "DRIVER_CLEANUP",
    "DRIVER_DISABLE",
    "DRIVER_DRAINED",
    "DRIVER_ENABLE",
    "DRIVER_LATENCY",
    "DRIVER_OPENED",
    "DRIVER_PAUSE",
    "DRIVER_QUOTA",
    "DRIVER_START",
    "DRIVER_STATE",
    "FILE_CREATE",
    "FILTER_ATTACH",
    "FILTER_CLEANUP",
    "FILTER_COMPLETED",
    "FILTER_DETACH",
    "FILTER_DETACHED",
    "FILTER_QUERY",
    "FILTER_REQUEST",
    "GPADL_CREATE",
    "GPADL_DELETE",
    "GPADL_MAP",
    "GPADL_UNMAP",
    "IRP_SUBMIT",
    "IRP_SUBMIT_AT",
    "KEYS_RELOAD",
    "MACHINE_CREATE",
    "MACHINE_REMOVE",
    "MACHINE_RETURN_CHAINED",
    "MEMORY_PAGE",
    "MEMORY_PAGED",
    "METHODS",
    "OFFER_RESCINDED",
    "PACKET_SEND_EXTERNAL_PFNS",
    "PAYLOAD",
    "PROTOCOL_VERSION",
    "SEGMENT_CHANGE",
    "Direction",
    "Kind",
    "Method",
]

PROTOCOL_VERSION = 1

_PACKETS = Field("packets", U32, "packets more")
_BYTES = Field("bytes", U64, "bytes more")
_CHAIN = Field("mdl", MDL_CHAIN, "the MDL chain as a run; empty means NULL")

# fmt: off
HELLO = row(1, "hello", IN, (
    Field("lowest", U32, "lowest protocol version the client speaks"),
    Field("highest", U32, "highest protocol version the client speaks"),
    Field("client", NAME, "a name for logs and listings"),
), (
    Field("version", U32, "the version chosen"),
    Field("daemon", NAME, "the daemon's own version"),
    Field("session", U32, "this session's number"),
    Field("frame_bytes", U32, "largest frame either side may send"),
    Field("frame_elements", U32, "most MessagePack elements in one frame"),
    Field("outstanding", U32, "most requests a client may have unanswered"),
), "First of all, once. Anything else before it, or a second one, ends the session.")
PING = row(2, "ping", BOTH, (), (), "Answered at once.")
CANCEL = row(3, "cancel", BOTH, (Field("msgid", U32, "the request to give up"),), None,
    "Ask for a request's early end. It still gets its one response: CANCELLED, or its result if that came first.")
GOODBYE = row(4, "goodbye", OUT, (STATUS, Field("reason", SENTENCE, "what ended the session")), None,
    "The daemon is about to close this connection, and why.")
DAEMON_INSPECT = row(5, "daemon.inspect", IN, (
    Field("what", NAME, "`daemon`, `machines`, `channels`, `details` (of channels), `waiting` (guests) or `segments`"),
    Field("machine", Maybe(NAME), "only this machine's"),
    Field("after", U32, "how many entries to skip, for paging"),
), (
    Field("document", DOCUMENT, "a JSON array of objects"),
    Field("more", BOOL, "whether entries are left"),
), "What the daemon holds, as JSON.")

MACHINE_ATTACH = row(10, "machine.attach", IN, (
    Field("name", NAME, "the machine's name"),
    Field("map_memory", BOOL, "whether to hand over a descriptor of its memory"),
), (
    Field("machine", U32, "its number in this session"),
    Field("memory_bytes", U64, "size of its memory"),
    Field("descriptors", U8, "how many descriptors came with this response: the memory's, or none"),
), "Begin to act on a machine. The descriptor is a sealed memfd, passed with SCM_RIGHTS.")
MEMORY_ALLOCATE = row(11, "memory.allocate", IN, (MACHINE, Field("pages", U32, "how many")), (
    Field("pfns", PFNS, "their page numbers, u64 little-endian each"),
), "Zeroed pages of guest memory, freed with the session at the latest.")
MEMORY_FREE = row(12, "memory.free", IN, (MACHINE, Field("pfns", PFNS, "as allocated, or part of it")), (),
    "Give pages back.")
MEMORY_READ = row(13, "memory.read", IN, (
    MACHINE, Field("address", U64, "guest physical address"), Field("length", U32, "bytes, at most 262,144"),
), (Field("data", CHUNK, "the bytes"),), "For clients that cannot map memory.")
MEMORY_WRITE = row(14, "memory.write", IN, (
    MACHINE, Field("address", U64, "guest physical address"), Field("data", CHUNK, "the bytes"),
), (), "For clients that cannot map memory.")

MACHINE_PROFILE = row(79, "machine.profile", OUT, (
    MACHINE,
    Field("document", DOCUMENT, "JSON: `{\"kmcl\": {…}, \"channel\": {…}}`, the choices as docs/choices.md names them"),
), None, "Before the answer to `machine.attach`, for a machine whose channels are not configured as by default: what "
    "its direct ends shall do where the documents are silent, and what drivers check before a channel is open. "
    "Other clients need not look at it.")

CHANNEL_OFFER = row(20, "channel.offer", IN, (
    MACHINE,
    Field("interface", GUID, "interface (class) id, little-endian GUID bytes"),
    Field("instance", Maybe(GUID), "instance id; the daemon makes one for nil"),
    Field("pipe", BOOL, "named-pipe mode: packets carry the pipe header, and exact lengths"),
    *GRANT,
), (
    Field("offer", U32, "its number in this session"),
    Field("instance", GUID, "its instance id"),
), "Offer a channel on a machine, as its host. The grant is what may be delivered at each opening.")
OFFER_RESCIND = row(21, "offer.rescind", IN, (Field("offer", U32, "the offer"),), (),
    "Take an offer back; its open channel closes.")
CHANNEL_OPEN = row(22, "channel.open", IN, (
    MACHINE,
    Field("interface", GUID, "interface id to look for"),
    Field("instance", Maybe(GUID), "one instance, or any for nil"),
    Field("wait", BOOL, "wait for the offer; otherwise its absence is a refusal"),
    Field("send_pages", U32, "data pages of the guest-to-host ring; 0 for the default"),
    Field("receive_pages", U32, "data pages of the host-to-guest ring; 0 for the default"),
    *GRANT,
), (
    Field("channel", U32, "its number in this session"),
    Field("instance", GUID, "the instance that was opened"),
    Field("pipe", BOOL, "named-pipe mode"),
    *GRANT,
), "Open an offered channel, as its guest.")
CHANNEL_CLOSE = row(23, "channel.close", IN, (CHANNEL,), (),
    "Close an open channel, from either side. The host's offer stands.")
CHANNEL_OPENED = row(24, "channel.opened", OUT, (
    Field("offer", U32, "the offer that was opened"), CHANNEL, *GRANT,
), None, "A guest opened the host's offer; each opening is a channel of its own.")
CHANNEL_CLOSED = row(25, "channel.closed", OUT, (
    CHANNEL, STATUS, Field("reason", SENTENCE, "who closed it, and why"),
), None, "A channel is gone; what was outstanding on it has been completed. A direct client reads its rings to the "
    "end, then sends `channel.close`: they are kept until then.")
CHANNEL_WINDOW = row(26, "channel.window", BOTH, (CHANNEL, _PACKETS, _BYTES), None,
    "The receiver of this may send so much more on the channel.")
CHANNEL_PACKETS = row(27, "channel.packets", OUT, (
    CHANNEL,
    Field("first", U64, "handle of the first packet; the others count up from it"),
    Field("run", RUN, "packets as they stood in the ring, back to back, without footers"),
    Field("errors", DOCUMENT, "empty, or JSON `[[handle, status, message], …]` for external data that cannot be used"),
), None, "Packets that arrived.")

PACKET_SEND = row(30, "packet.send", IN, (CHANNEL, FLAGS, BUFFER, _CHAIN), COMPLETION,
    "Windows: VmbPacketSend. Answered when completed (or, without WAIT_FOR_COMPLETION, when in the ring).")
PACKET_SEND_EXTERNAL_MDL = row(31, "packet.send_external_mdl", IN, (
    CHANNEL, FLAGS, BUFFER, _CHAIN,
    Field("offset", U64, "MdlOffset: bytes from the start of the described buffer"),
    Field("length", U64, "MdlLength: bytes to send; 0 for all from the offset"),
), COMPLETION, "Windows: VmbPacketSendWithExternalMdl.")
PACKET_SEND_RUN = row(32, "packet.send_run", IN, (
    CHANNEL, Field("run", RUN, "in-band packets without completion, back to back, as they shall stand in the ring"),
), (Field("packets", U32, "how many were written"),),
    "Many packets in one call, all or none. Answered when all are in the ring.")
PACKET_COMPLETE = row(33, "packet.complete", IN, (
    CHANNEL, Field("handle", U64, "the packet"), Field("payload", PAYLOAD, "the completion's bytes"),
), None, "Windows: VmbChannelPacketComplete. Exactly once for each packet received that asks for a completion or is "
    "GPA-direct; any other is finished when it is delivered.")
PACKET_FAIL = row(34, "packet.fail", IN, (CHANNEL, Field("handle", U64, "the packet")), None,
    "Windows: VmbChannelPacketFail. No completion is sent, and the channel delivers nothing more.")

CHANNEL_OFFER_DIRECT = row(35, "channel.offer_direct", IN, (
    MACHINE,
    Field("interface", GUID, "interface (class) id, little-endian GUID bytes"),
    Field("instance", Maybe(GUID), "instance id; the daemon makes one for nil"),
    Field("pipe", BOOL, "named-pipe mode"),
), (
    Field("offer", U32, "its number in this session"),
    Field("instance", GUID, "its instance id"),
), "Like `channel.offer`, for a host that works the rings itself.")
CHANNEL_OPEN_DIRECT = row(36, "channel.open_direct", IN, (
    MACHINE,
    Field("interface", GUID, "interface id to look for"),
    Field("instance", Maybe(GUID), "one instance, or any for nil"),
    Field("wait", BOOL, "wait for the offer; otherwise its absence is a refusal"),
    Field("send_pages", U32, "data pages of the guest-to-host ring; 0 for the default"),
    Field("receive_pages", U32, "data pages of the host-to-guest ring; 0 for the default"),
), (
    Field("channel", U32, "its number in this session"),
    Field("instance", GUID, "the instance that was opened"),
    Field("pipe", BOOL, "named-pipe mode"),
    *RINGS,
), "Like `channel.open`, for a guest that works the rings itself; they are laid out already.")
CHANNEL_OPENED_DIRECT = row(37, "channel.opened_direct", OUT, (
    Field("offer", U32, "the offer that was opened"), CHANNEL, *RINGS,
), None, "Like `channel.opened`, to a host that works the rings itself.")

ADDRESS_OPEN = row(40, "address.open", IN, (
    MACHINE,
    Field("network", NAME, "`udp` for real UDP sockets, or the name of a segment"),
    Field("host", HOST, "local IP address; 0.0.0.0 or :: for any"),
    Field("port", U16, "local port; 0 for a free one"),
    Field("share", BOOL, "whether others may open the same address (FILE_SHARE_READ | FILE_SHARE_WRITE)"),
    *GRANT,
), (
    Field("address", U32, "its number in this session"),
    Field("host", HOST, "the address it is bound to"),
    Field("port", U16, "the port it is bound to"),
    *GRANT,
), "Open an address object (IRP_MJ_CREATE with a TransportAddress).")
ADDRESS_CLOSE = row(41, "address.close", IN, (ADDRESS,), (), "IRP_MJ_CLEANUP, then IRP_MJ_CLOSE.")
ADDRESS_SEND_DATAGRAM = row(42, "address.send_datagram", IN, (
    ADDRESS, Field("host", HOST, "destination IP address"), Field("port", U16, "destination port"),
    Field("data", DATAGRAM, "the datagram, whole"),
), IO_STATUS, "TDI_SEND_DATAGRAM. One response for each; it gives its packet and bytes back to the window.")
ADDRESS_QUERY = row(43, "address.query", IN, (
    ADDRESS, Field("type", U32, "TDI_QUERY_*"), Field("length", U32, "size of the caller's buffer in bytes"),
), (*IO_STATUS, Field("data", CHUNK, "the structure, byte for byte")), "TDI_QUERY_INFORMATION.")
NETWORK_QUERY = row(44, "network.query", IN, (
    MACHINE, Field("network", NAME, "`udp` or a segment"),
    Field("type", U32, "TDI_QUERY_*"), Field("length", U32, "size of the caller's buffer in bytes"),
), (*IO_STATUS, Field("data", CHUNK, "the structure, byte for byte")),
    "TDI_QUERY_INFORMATION on a control channel of the device.")
ADDRESS_WINDOW = row(45, "address.window", IN, (ADDRESS, _PACKETS, _BYTES), None,
    "The daemon may deliver so much more for this address.")
ADDRESS_DATAGRAMS = row(46, "address.datagrams", OUT, (
    ADDRESS, Field("run", RUN, "datagrams as a run"),
    Field("dropped", U64, "datagrams lost so far because the client was slow"),
), None, "Datagrams that arrived.")
# fmt: on

METHODS: tuple[Method, ...] = tuple(
    sorted((each for each in globals().values() if isinstance(each, Method)), key=lambda each: each.number)
)
BY_NAME: dict[str, Method] = {each.name: each for each in METHODS}
