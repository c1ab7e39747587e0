"""GPADLs, pages of a guest's memory described to its host, under KMCL's Windows names."""

from __future__ import annotations

from clients.kmcl_calls import awaits_nothing, awaits_status
from clients.kmcl_channel import VMBCHANNEL
from clients.kmcl_types import VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY, Out
from clients.memory import Buffer
from emulator.memory import Mdl
from emulator.status import NtStatus, Refused


def _read_only(flags: int) -> bool:
    if flags & ~VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY:
        raise Refused(NtStatus.INVALID_PARAMETER_2, f"flags 0x{flags:X}: only 0x1, read only, is known", rule="4.2")
    return bool(flags & VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY)


@awaits_status
async def VmbChannelCreateGpadlFromMdl(
    Channel: VMBCHANNEL,
    Flags: int,
    Mdl: Mdl,
    StartOffsetWithinMdl: int,
    DataLengthWithinMdl: int,
    GpadlHandle: Out[int],
) -> None:
    """Describe part of the ``Mdl`` chain to the host of ``Channel``, and set ``GpadlHandle``. Await it.

    ``StartOffsetWithinMdl`` bytes into it, ``DataLengthWithinMdl`` bytes; 0 is all up to the end. ``Flags`` is 0 or
    VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY. For clients.

    Returns SUCCESS when the host has confirmed it; INVALID_PARAMETER_2 for unknown flags, or the status of what was
    refused.

    Python: `clients.driver_channel.DriverChannel.create_gpadl`. Rules: 4.2, K12, K13, K16.
    """
    read_only = _read_only(Flags)
    driver = Channel.driver
    GpadlHandle.value = await driver.create_gpadl(Mdl, StartOffsetWithinMdl, DataLengthWithinMdl, read_only=read_only)


@awaits_status
async def VmbChannelCreateGpadlFromBuffer(
    Channel: VMBCHANNEL, Flags: int, Buffer: Buffer, ByteCount: int, GpadlHandle: Out[int]
) -> None:
    """Describe the first ``ByteCount`` bytes of ``Buffer``, guest memory, to the host of ``Channel``. Await it.

    Sets ``GpadlHandle``. ``Flags`` is 0 or VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY. For clients.

    Returns SUCCESS when the host has confirmed it; INVALID_PARAMETER_2 for unknown flags, INVALID_PARAMETER_4 for no
    bytes or more than there are, or the status of what was refused.

    Python: `clients.driver_channel.DriverChannel.create_gpadl`. Rules: 4.2.
    """
    read_only = _read_only(Flags)
    if not 0 < ByteCount <= len(Buffer):
        text = f"{ByteCount} bytes of a buffer of {len(Buffer)} cannot be described"
        raise Refused(NtStatus.INVALID_PARAMETER_4, text, rule="4.2")
    GpadlHandle.value = await Channel.driver.create_gpadl(Buffer, 0, ByteCount, read_only=read_only)


@awaits_nothing
async def VmbChannelDeleteGpadl(Channel: VMBCHANNEL, GpadlHandle: int) -> None:
    """Take back ``GpadlHandle`` of ``Channel``. Await it: it returns when the server has it mapped no more.

    Returns nothing. Raises Misuse for a handle there is not.

    Python: `clients.driver_channel.DriverChannel.delete_gpadl`. Rules: 4.2.
    """
    await Channel.driver.delete_gpadl(GpadlHandle)


@awaits_status
async def VmbChannelMapGpadl(Channel: VMBCHANNEL, Flags: int, GpadlHandle: int, Mdl: Out[Mdl]) -> None:
    """Map the client's ``GpadlHandle`` on ``Channel``, and set ``Mdl`` to a chain over its memory. Await it.

    One mapping at a time. ``Flags`` is 0 or VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY, without which a GPADL that was created
    read only cannot be mapped. For servers.

    Returns SUCCESS; INVALID_PARAMETER_2 for unknown flags, or the status of what was refused.

    Python: `clients.driver_channel.DriverChannel.map_gpadl`. Rules: 4.2.
    """
    Mdl.value = await Channel.driver.map_gpadl(GpadlHandle, read_only=_read_only(Flags))


@awaits_nothing
async def VmbChannelUnmapGpadl(Channel: VMBCHANNEL, GpadlHandle: int) -> None:
    """Undo VmbChannelMapGpadl of ``GpadlHandle`` on ``Channel``. Await it.

    Returns nothing. Raises Misuse for a handle that is not mapped.

    Python: `clients.driver_channel.DriverChannel.unmap_gpadl`. Rules: 4.2.
    """
    await Channel.driver.unmap_gpadl(GpadlHandle)
