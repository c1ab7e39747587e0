"""Rows of the table for driver channels: KMCL's life cycle and callbacks, page lists, pages that are out."""

from __future__ import annotations

from emulator.wire.fields import Field, Maybe, Text
from emulator.wire.method import (
    BOOL,
    BUFFER,
    CHANNEL,
    COMPLETION,
    FLAGS,
    GRANT,
    GUID,
    IN,
    MACHINE,
    MDL_CHAIN,
    NAME,
    OUT,
    PFNS,
    RINGS,
    U8,
    U16,
    U32,
    U64,
    row,
)

_SETUP = Text(4096)
_DRIVER = Field("driver", U32, "the driver channel, as `driver.allocate` numbered it")
_FROM_CALLBACK = Field("from_callback", BOOL, "whether a state callback of this channel asks: then it is refused")
_GPADL = Field("gpadl", U32, "the page list's handle")
_READ_ONLY = Field("read_only", BOOL, "VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY")

# fmt: off
DRIVER_ALLOCATE = row(60, "driver.allocate", IN, (
    MACHINE,
    Field("host", BOOL, "whether it is a host's end; otherwise a guest's"),
    Field("direct", BOOL, "whether the client works the rings itself"),
    Field("setup", _SETUP, "JSON: the values of the Init* calls"),
    *GRANT,
), (
    _DRIVER,
    Field("verifier", BOOL, "whether misuse is to be reported: the machine's setting"),
), "Windows: VmbChannelAllocate and the Init* calls. The channel is disabled. The grant is what may be delivered at "
    "each opening.")
DRIVER_ENABLE = row(61, "driver.enable", IN, (_DRIVER,), (),
    "Windows: VmbChannelEnable. A host's offer is made; a guest's is taken now or when it comes.")
DRIVER_START = row(62, "driver.start", IN, (_DRIVER, _FROM_CALLBACK), (), "Windows: VmbChannelStart.")
DRIVER_PAUSE = row(63, "driver.pause", IN, (_DRIVER, _FROM_CALLBACK), (),
    "Windows: VmbChannelPause. Answered when it is paused.")
DRIVER_DISABLE = row(64, "driver.disable", IN, (_DRIVER, _FROM_CALLBACK), (),
    "Windows: VmbChannelDisable. Answered when it is disabled.")
DRIVER_CLEANUP = row(65, "driver.cleanup", IN, (_DRIVER,), (), "Windows: VmbChannelCleanup. Refused unless disabled.")
DRIVER_CALLBACK = row(66, "driver.callback", OUT, (
    _DRIVER,
    Field("callback", U8, "1 Opened, 2 Closed, 3 Started, 4 PostStarted, 5 Suspend, 6 PnpFailure"),
    Field("status", U32, "for PnpFailure: why the channel could not be opened"),
), (
    Field("status", U32, "for Opened: an error rolls the channel back"),
), "A state callback; the next one comes when it is answered. One that is not answered in time is taken to have "
    "returned, Opened to have failed; its late answer is ignored.")
DRIVER_DRAINED = row(67, "driver.drained", IN, (_DRIVER,), None,
    "After the answer to Suspend, once: every packet that the driver took has been completed. Before that answer it "
    "counts only when the answer does not come in time.")
DRIVER_STATE = row(68, "driver.state", OUT, (
    _DRIVER,
    Field("phase", NAME, "`disabled`, `enabled` or `open`"),
    Field("paused", BOOL, "whether nothing is delivered before `driver.start`"),
    Field("instance", Maybe(GUID), "the instance of the active offer"),
    Field("mmio_address", U64, "where its MMIO space begins"),
    Field("mmio_bytes", U64, "how long that is; 0 for none"),
), None, "Where a driver channel is now.")
DRIVER_QUOTA = row(69, "driver.quota", IN, (_DRIVER, Field("quota", U32, "packets")), (),
    "Windows: VmbChannelSetTransactionQuota, for a client that does not work the rings itself.")
PACKET_SEND_EXTERNAL_PFNS = row(70, "packet.send_external_pfns", IN, (
    CHANNEL, FLAGS, BUFFER, Field("pfns", Maybe(PFNS), "the pages, u64 little-endian each; nil means NULL"),
), COMPLETION, "Windows: VmbPacketSendWithExternalPfns.")
GPADL_CREATE = row(71, "gpadl.create", IN, (
    _DRIVER, _READ_ONLY,
    Field("mdl", MDL_CHAIN, "the MDL chain as a run"),
    Field("offset", U64, "bytes from the start of the described buffer"),
    Field("length", U64, "bytes; 0 for all from the offset"),
), (_GPADL,), "Windows: VmbChannelCreateGpadlFromMdl. Answered when the host has confirmed.")
GPADL_DELETE = row(72, "gpadl.delete", IN, (_DRIVER, _GPADL), (),
    "Windows: VmbChannelDeleteGpadl. Answered when the host does not have it mapped.")
GPADL_MAP = row(73, "gpadl.map", IN, (_DRIVER, _GPADL, _READ_ONLY), (
    Field("mdl", MDL_CHAIN, "its memory, an MDL for each range"),
), "Windows: VmbChannelMapGpadl. One mapping at a time; one made read-only takes a read-only mapping.")
GPADL_UNMAP = row(74, "gpadl.unmap", IN, (_DRIVER, _GPADL), (), "Windows: VmbChannelUnmapGpadl.")
MEMORY_PAGE = row(75, "memory.page", IN, (
    MACHINE, Field("pfns", PFNS, "the pages"), Field("out", BOOL, "out, or in again"),
), (), "Mark pages of a machine as paged out, or in again: external data in pages that are out has to be waited for.")
MEMORY_PAGED = row(76, "memory.paged", OUT, (
    MACHINE, Field("pfns", PFNS, "the pages"), Field("out", BOOL, "out, or in again"),
), None, "Pages of a machine were marked, here or by another client; after `machine.attach`, those that are out.")
DRIVER_LATENCY = row(77, "driver.latency", IN, (_DRIVER, Field("latency", U16, "in 100 ns")), (
    Field("before", U16, "what it was"),
), "Windows: VmbChannelSetInterruptLatency. A guest's, from Opened to Closed.")
DRIVER_OPENED = row(78, "driver.opened", OUT, (
    _DRIVER, CHANNEL, *GRANT,
    Field("pipe", BOOL, "named-pipe mode"),
    *RINGS,
), None, "Rings are between both ends. Sends go through this channel number from the answer to Opened on. A client "
    "that does not work the rings itself gets no pages and no doorbell.")
# fmt: on
