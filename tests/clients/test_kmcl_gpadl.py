"""GPADLs through the Windows names: one side describes its memory, the other maps it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from clients.kmcl import (
    STATUS_INVALID_PARAMETER_2,
    STATUS_INVALID_PARAMETER_4,
    STATUS_SUCCESS,
    VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY,
    Misuse,
    Out,
    VmbChannelCreateGpadlFromBuffer,
    VmbChannelCreateGpadlFromMdl,
    VmbChannelDeleteGpadl,
    VmbChannelMapGpadl,
    VmbChannelUnmapGpadl,
)
from emulator.memory import Mdl
from tests.clients.kmcl_drivers import MODES, PATIENCE_SECONDS, drivers, good

READ_ONLY = VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("VmbChannelCreateGpadlFromBuffer", "VmbChannelMapGpadl", "VmbChannelUnmapGpadl")
async def test_a_server_sees_and_changes_the_memory_of_a_gpadl(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair:
        await pair.open()
        memory = pair.client.device.machine.memory
        data = memory.allocate(10_000)
        data.write(0, b"from the client")
        handle: Out[int] = Out()
        good(await VmbChannelCreateGpadlFromBuffer(pair.client.channel, 0, data, 10_000, handle))
        mdl: Out[Mdl] = Out()
        good(await VmbChannelMapGpadl(pair.server.channel, 0, handle.value, mdl))
        seen = b"".join(
            [pair.server.device.machine.memory.mapped.read_range(link.whole()) for link in mdl.value.chain()]
        )
        assert seen == data.read()
        pair.server.device.machine.memory.mapped.write_range(mdl.value.whole(), b"from the server")
        assert data.read(0, 15) == b"from the server"
        again: Out[Mdl] = Out()
        assert not (await VmbChannelMapGpadl(pair.server.channel, 0, handle.value, again)).is_success
        await VmbChannelUnmapGpadl(pair.server.channel, handle.value)
        good(await VmbChannelMapGpadl(pair.server.channel, READ_ONLY, handle.value, again))
        await VmbChannelUnmapGpadl(pair.server.channel, handle.value)
        with pytest.raises(Misuse, match="VmbChannelUnmapGpadl"):
            await VmbChannelUnmapGpadl(pair.server.channel, handle.value)
        await VmbChannelDeleteGpadl(pair.client.channel, handle.value)
        with pytest.raises(Misuse, match="VmbChannelDeleteGpadl"):
            await VmbChannelDeleteGpadl(pair.client.channel, handle.value)


@pytest.mark.windows("VmbChannelCreateGpadlFromMdl")
async def test_a_gpadl_of_part_of_a_chain(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        await pair.open()
        memory = pair.client.device.machine.memory.mapped
        data = pair.client.device.machine.memory.allocate(8192)
        data.write(0, bytes(range(256)) * 32)
        chain = Mdl(16, 100, data.pfns[:1], next=Mdl(0, 50, data.pfns[1:]))
        content = data.read(16, 100) + data.read(4096, 50)
        for offset, length, expected in ((0, 0, content), (90, 20, content[90:110]), (120, 0, content[120:])):
            handle, mdl = Out[int](), Out[Mdl]()
            good(await VmbChannelCreateGpadlFromMdl(pair.client.channel, 0, chain, offset, length, handle))
            good(await VmbChannelMapGpadl(pair.server.channel, 0, handle.value, mdl))
            assert b"".join([memory.read_range(link.whole()) for link in mdl.value.chain()]) == expected
            await VmbChannelUnmapGpadl(pair.server.channel, handle.value)
            await VmbChannelDeleteGpadl(pair.client.channel, handle.value)
        handle = Out()
        for offset, length in ((150, 1), (0, 151)):
            status = await VmbChannelCreateGpadlFromMdl(pair.client.channel, 0, chain, offset, length, handle)
            assert not status.is_success


@pytest.mark.windows("VmbChannelMapGpadl", "VmbChannelCreateGpadlFromBuffer")
async def test_a_read_only_gpadl_is_mapped_read_only_or_not_at_all(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        await pair.open()
        data = pair.client.device.machine.memory.allocate(4096)
        handle, mdl = Out[int](), Out[Mdl]()
        channel = pair.client.channel
        assert await VmbChannelCreateGpadlFromBuffer(channel, 2, data, 8, handle) is STATUS_INVALID_PARAMETER_2
        assert await VmbChannelCreateGpadlFromBuffer(channel, 0, data, 4097, handle) is STATUS_INVALID_PARAMETER_4
        assert await VmbChannelCreateGpadlFromBuffer(channel, 0, data, 0, handle) is STATUS_INVALID_PARAMETER_4
        good(await VmbChannelCreateGpadlFromBuffer(channel, READ_ONLY, data, 4096, handle))
        assert not (await VmbChannelMapGpadl(pair.server.channel, 0, handle.value, mdl)).is_success
        assert await VmbChannelMapGpadl(pair.server.channel, 2, handle.value, mdl) is STATUS_INVALID_PARAMETER_2
        assert await VmbChannelMapGpadl(pair.server.channel, READ_ONLY, handle.value, mdl) is STATUS_SUCCESS
        await VmbChannelUnmapGpadl(pair.server.channel, handle.value)
        await VmbChannelDeleteGpadl(channel, handle.value)


@pytest.mark.windows("VmbChannelDeleteGpadl", "VmbChannelUnmapGpadl")
async def test_deleting_waits_until_the_server_has_unmapped(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair, trio.open_nursery() as nursery:
        await pair.open()
        data = pair.client.device.machine.memory.allocate(4096)
        handle, mdl = Out[int](), Out[Mdl]()
        good(await VmbChannelCreateGpadlFromBuffer(pair.client.channel, 0, data, 4096, handle))
        good(await VmbChannelMapGpadl(pair.server.channel, 0, handle.value, mdl))
        nursery.start_soon(VmbChannelDeleteGpadl, pair.client.channel, handle.value)
        await wait_all_tasks_blocked(0.02)
        assert nursery.child_tasks
        await VmbChannelUnmapGpadl(pair.server.channel, handle.value)
        with trio.fail_after(PATIENCE_SECONDS):
            while nursery.child_tasks:
                await trio.lowlevel.checkpoint()
