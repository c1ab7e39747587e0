"""Rows for files and requests as bytes: what a driver would hand to a transport, field by field (80 to 89)."""

from __future__ import annotations

from emulator.wire.fields import Binary, Field
from emulator.wire.method import CHUNK, HOST, IN, IO_STATUS, MACHINE, MDL_CHAIN, NAME, U8, U16, U32, U64, row

LOCATION = Binary(72)
ATTRIBUTES = Binary(65_536)
_FILE = Field("file", U32, "an open file: the number of an address, or of what `file.create` opened")
_ARCH = Field("pointer_bytes", U8, "8 for a client of x64, 4 for one of x86")
_LOCATION = Field("location", LOCATION, "IO_STACK_LOCATION: 72 bytes on x64, 36 on x86")

# fmt: off
FILE_CREATE = row(80, "file.create", IN, (
    MACHINE,
    Field("network", NAME, "`udp` for real UDP sockets, or the name of a segment"),
    _ARCH, _LOCATION,
    Field("attributes", ATTRIBUTES, "the system buffer: FILE_FULL_EA_INFORMATION, or nothing"),
    Field("window_packets", U32, "datagrams that may be delivered for an address at once"),
    Field("window_bytes", U64, "bytes of them"),
), (
    *IO_STATUS,
    Field("file", U32, "its number in this session; 0 when it was not opened"),
    Field("kind", U8, "1 an address, 2 a connection endpoint, 3 a control channel, as FsContext2 says it"),
    Field("host", HOST, "the address it is bound to; empty for other kinds"),
    Field("port", U16, "the port it is bound to"),
    Field("window_packets", U32, "datagrams the client may send on the address at once"),
    Field("window_bytes", U64, "bytes of them"),
), "IRP_MJ_CREATE, as bytes. The number of an address is that of an address object in every other row.")
IRP_SUBMIT = row(81, "irp.submit", IN, (
    _FILE, _ARCH, _LOCATION,
    Field("buffer", ATTRIBUTES, "a device control's input; empty for other requests"),
    Field("buffer_at", U64, "the address the client has that input at: pointers into it count from here"),
    Field("mdl", MDL_CHAIN, "the MDL chain as a run; empty means NULL"),
), (*IO_STATUS, Field("output", CHUNK, "a device control's output; empty for other requests")),
    "Any request on an open file, its parameters as the bytes of a stack location. Pointers in it are guest physical "
    "addresses. Cleanup (major 0x12) and close (0x02) too.")
IRP_SUBMIT_AT = row(82, "irp.submit_at", IN, (
    _FILE, _ARCH, Field("irp", U64, "guest physical address of an IRP, whose current stack location is the request"),
), IO_STATUS, "The same with everything in guest memory: the IRP, its stack location, MDLs and buffers. Its status "
    "block is written before this is answered.")
# fmt: on
