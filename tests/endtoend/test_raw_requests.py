"""Requests as bytes through the daemon: a driver's stack locations, structures and MDLs, from both faces."""

from __future__ import annotations

import re
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import clients.sync
from clients import Buffer, RequestFailed, connect
from clients.files import File
from clients.vmbus import Machine
from emulator.memory import Mdl
from emulator.status import NtStatus
from emulator.tdi import builders
from emulator.tdi.constants import FileKind, QueryType, ShareAccess
from emulator.tdi.control_codes import Ioctl
from emulator.tdi.guest_irp import pack_mdl
from emulator.tdi.layout import Arch
from emulator.tdi.nt_layouts import IRP
from emulator.tdi.request_layouts import TDI_REQUEST_SEND_DATAGRAM
from emulator.tdi.structures import SocketAddress, pack_transport_address, parse_transport_address_untrusted
from tests.support.processes import ROOT, start_daemon

SHARED = ShareAccess.READ | ShareAccess.WRITE
PATIENCE_SECONDS = 20.0
archs = pytest.mark.parametrize("arch", Arch, ids=lambda arch: arch.name.lower())


async def create(machine: Machine, arch: Arch, local: SocketAddress | None, network: str = "lan") -> File:
    attributes = b"" if local is None else builders.address_attribute(pack_transport_address(local))
    return await machine.create(builders.create(arch, len(attributes), SHARED), attributes, network=network)


@asynccontextmanager
async def two_machines(tmp_path: Path) -> AsyncIterator[tuple[Machine, Machine]]:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        with trio.fail_after(PATIENCE_SECONDS):
            yield await attached.machine("vm1"), await attached.machine("vm2")


def put_destination(buffer: Buffer, arch: Arch, destination: tuple[str, int]) -> int:
    """A TDI_CONNECTION_INFORMATION at the beginning of a buffer; the pointer to it."""
    remote = pack_transport_address(SocketAddress(*destination))
    buffer.write(0, builders.connection_information(arch, buffer.address(), remote))
    return buffer.address()


@archs
@pytest.mark.parametrize("network", ["udp", "lan"])
async def test_a_driver_opens_sends_asks_and_closes_in_bytes(tmp_path: Path, arch: Arch, network: str) -> None:
    hosts = ("127.0.0.1", "127.0.0.1") if network == "udp" else ("10.0.0.1", "10.0.0.2")
    async with two_machines(tmp_path) as (here, there):
        far = await there.open_address((hosts[1], 0), network=network)
        file = await create(here, arch, SocketAddress(hosts[0], 0), network)
        assert file.kind is FileKind.ADDRESS
        memory, data = await here.allocate(4096), await here.allocate(6000)
        pointer = put_destination(memory, arch, far.local)
        data.write(0, b"from a driver")
        sent = await file.submit(builders.send_datagram(arch, 13, pointer), mdl=data.mdl)
        assert sent[:2] == (NtStatus.SUCCESS, 13)
        datagram = await anext(aiter(far))
        assert (datagram.data, datagram.source) == (b"from a driver", file.local)

        asked = await file.submit(builders.query_information(arch, QueryType.ADDRESS_INFO), mdl=data.mdl)
        assert asked[:2] == (NtStatus.SUCCESS, 26)
        assert parse_transport_address_untrusted(data.read(4, 22)) == file.local

        await far.send_datagram(b"back", file.local)
        assert (await anext(aiter(file.address))).data == b"back"
        assert (await file.submit(builders.cleanup(arch)))[:2] == (NtStatus.SUCCESS, 0)
        late = await file.submit(builders.send_datagram(arch, 13, pointer), mdl=data.mdl)
        assert late[:2] == (NtStatus.CANCELLED, 0)
        assert (await file.submit(builders.cleanup(arch))).status is NtStatus.INVALID_HANDLE
        assert (await file.submit(builders.close(arch)))[:2] == (NtStatus.SUCCESS, 0)
        with pytest.raises(RequestFailed) as closed:
            await file.submit(builders.cleanup(arch))
        assert closed.value.status is NtStatus.FILE_CLOSED
        again = await here.open_address(file.local, network=network)
        assert again.local == file.local, "the address is free again"


@archs
async def test_an_irp_in_guest_memory_whole(tmp_path: Path, arch: Arch) -> None:
    async with two_machines(tmp_path) as (here, there):
        far = await there.open_address(("10.0.0.2", 0), network="lan")
        file = await create(here, arch, SocketAddress("10.0.0.1", 0))
        page, first, second = [await here.allocate(4096) for _ in range(3)]
        first.write(4000, b"two ")
        second.write(7, b"buffers")
        chain = Mdl(4000, 4, first.pfns, next=Mdl(7, 7, second.pfns))
        pointer = put_destination(page, arch, far.local)
        location = builders.send_datagram(arch, 11, pointer, builders.Target(completion_routine=1, context=2))
        page.write(1024, location.image)
        page.write(2048, pack_mdl(arch, chain, page.address(2048)))
        values = {"MdlAddress": page.address(2048), "Tail.Overlay.CurrentStackLocation": page.address(1024)}
        page.write(512, IRP.pack(arch, {**values, "IoStatus.Status": 0x103, "IoStatus.Information": 99}))
        before = page.read()
        assert (await file.submit_at(page.address(512), arch))[:2] == (NtStatus.SUCCESS, 11)
        assert (await anext(aiter(far))).data == b"two buffers"
        after = bytearray(page.read())
        block = 512 + IRP.offset("IoStatus", arch)
        assert struct.unpack_from("<QQ" if arch is Arch.X64 else "<II", after, block) == (0, 11)
        after[block : block + 2 * arch.pointer_bytes] = before[block : block + 2 * arch.pointer_bytes]
        assert after == before, "nothing but the status block is written"

        page.write(512 + IRP.offset("Cancel", arch), b"\1")
        assert (await file.submit_at(page.address(512), arch))[:2] == (NtStatus.CANCELLED, 0)
        assert struct.unpack_from("<I", page.read(), block) == (NtStatus.CANCELLED,)
        nowhere = await file.submit_at(here.memory.byte_count - 8, arch)
        assert nowhere[:2] == (NtStatus.ACCESS_VIOLATION, 0)


async def test_a_chain_of_mdls_without_an_end_is_refused(tmp_path: Path) -> None:
    arch = Arch.X64
    async with two_machines(tmp_path) as (here, _):
        file = await create(here, arch, SocketAddress("10.0.0.1", 0))
        page = await here.allocate(4096)
        mdl = bytearray(pack_mdl(arch, Mdl(0, 0, ()), page.address(2048)))
        mdl[:8] = page.address(2048).to_bytes(8, "little")
        page.write(2048, mdl)
        page.write(1024, builders.send_datagram(arch, 0, 0).image)
        values = {"MdlAddress": page.address(2048), "Tail.Overlay.CurrentStackLocation": page.address(1024)}
        page.write(0, IRP.pack(arch, values))
        refused = await file.submit_at(page.address(), arch)
        assert refused[:2] == (NtStatus.INVALID_PARAMETER, 0)
        assert "has it an end?" in refused.message


async def test_a_send_that_waits_is_cancelled_and_cleaned_up(tmp_path: Path) -> None:
    async with two_machines(tmp_path) as (here, _):
        control = await create(here, Arch.X64, None)
        assert (control.kind, control.local) == (FileKind.CONTROL, None)
        room = await here.allocate(40)
        info = await control.submit(builders.query_information(Arch.X64, QueryType.PROVIDER_INFO), mdl=room.mdl)
        assert info[:2] == (NtStatus.SUCCESS, 40)
        assert struct.unpack_from("<I", room.read(), 12) == (1472,)
        with pytest.raises(ValueError, match="a control file has no address"):
            _ = control.address
        wrong = await control.submit(builders.send_datagram(Arch.X64, 0, 0))
        assert wrong[:2] == (NtStatus.INVALID_PARAMETER, 0)
        assert "[S2]" in wrong.message
        await control.close()
        await control.close()


async def test_a_refused_create_says_why(tmp_path: Path) -> None:
    async with two_machines(tmp_path) as (here, _):
        attributes = builders.attribute(b"Weather", b"rain")
        with pytest.raises(RequestFailed, match="unknown") as refused:
            await here.create(builders.create(Arch.X86, len(attributes), SHARED), attributes)
        assert refused.value.status is NtStatus.INVALID_EA_NAME


JOIN = bytes.fromhex("01040000 00000000 00020000 00020000 06000000 08000000 EF010203 00000000")


@pytest.mark.parametrize("network", ["udp", "lan"])
async def test_device_controls_join_a_group_and_send_from_user_mode(tmp_path: Path, network: str) -> None:
    arch = Arch.X64
    host = "127.0.0.1" if network == "udp" else "10.0.0.1"
    async with two_machines(tmp_path) as (here, _):
        member = await create(here, arch, SocketAddress(host, 0), network)
        sender = await here.open_address((host, 0), network=network)
        joined = await member.submit(builders.device_control(arch, Ioctl.TCP_SET_INFORMATION_EX, 32), buffer=JOIN)
        assert joined == (NtStatus.SUCCESS, 0, "", b"")
        base, size = 0x1000, TDI_REQUEST_SEND_DATAGRAM.size(arch)
        assert member.local is not None
        group = pack_transport_address(SocketAddress("239.1.2.3", member.local[1]))
        request = TDI_REQUEST_SEND_DATAGRAM.pack(arch, {"SendDatagramInformation": base + size})
        request += builders.connection_information(arch, base + size, group)
        data = await here.allocate(5)
        data.write(0, b"group")
        location = builders.device_control(arch, Ioctl.SEND_DATAGRAM, len(request))
        sent = await sender.file.submit(location, mdl=data.mdl, buffer=request, buffer_at=base)
        if network == "udp":
            assert sent[:2] == (NtStatus.NETWORK_UNREACHABLE, 0), "the default lets machines reach the loopback alone"
        else:
            assert sent[:2] == (NtStatus.SUCCESS, 5)
            assert (await anext(aiter(member.address))).data == b"group"
        query = builders.device_control(arch, Ioctl.TCP_QUERY_INFORMATION_EX, 40, 24)
        entities = await member.submit(query, buffer=struct.pack("<5I20x", 0, 0, 0x100, 0x100, 0))
        assert (entities.information, len(entities.output)) == (24, 24)


def drive(socket_path: Path) -> None:
    """The same without an event loop."""
    with clients.sync.connect(socket_path, timeout_seconds=30) as daemon:
        here, there = daemon.machine("vm1"), daemon.machine("vm2")
        attributes = builders.address_attribute(pack_transport_address(SocketAddress("10.0.0.1", 0)))
        with (
            there.open_address(("10.0.0.2", 0), network="lan") as far,
            here.create(builders.create(Arch.X86, 50, SHARED), attributes + bytes(3), network="lan") as file,
        ):
            memory, data = here.allocate(4096), here.allocate(10)
            pointer = put_destination(memory, Arch.X86, far.local)
            data.write(0, b"0123456789")
            location = builders.send_datagram(Arch.X86, 10, pointer)
            assert file.submit(location, mdl=data.mdl)[:2] == (NtStatus.SUCCESS, 10)
            assert next(far).source == file.local
            memory.write(1024, location.image)
            memory.write(2048, pack_mdl(Arch.X86, data.mdl, memory.address(2048)))
            values = {"MdlAddress": memory.address(2048), "Tail.Overlay.CurrentStackLocation": memory.address(1024)}
            memory.write(512, IRP.pack(Arch.X86, values))
            assert file.submit_at(memory.address(512), Arch.X86)[:2] == (NtStatus.SUCCESS, 10)
            assert next(far).data == b"0123456789"
            with here.open_address(("10.0.0.1", 0), network="lan") as near:
                assert near.file.submit(location, mdl=data.mdl).status is NtStatus.SUCCESS
                assert next(far).source == near.local
            assert file.address.send_datagram(b"by name", far.local).information == 7


async def in_thread(task: Callable[..., None], *args: object) -> None:
    with trio.fail_after(60):
        await trio.to_thread.run_sync(task, *args, abandon_on_cancel=True)


async def test_requests_as_bytes_without_an_event_loop(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        await in_thread(drive, daemon.socket_path)


async def test_the_example_of_the_documentation_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "requests-as-bytes.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    async with two_machines(tmp_path) as (_, there):
        far = await there.open_address(("10.0.0.2", 700), network="lan")
        await in_thread(names["send_as_a_driver_does"], str(tmp_path / "vmbusd.sock"))
        assert (await anext(aiter(far))).data == b"hello"
    assert capsys.readouterr().out == "STATUS_SUCCESS (0x00000000) 5 \n"
