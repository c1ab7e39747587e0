"""Driver channels without an event loop: callbacks run while something is waited for, and may wait themselves."""

from __future__ import annotations

import queue
from pathlib import Path
from uuid import UUID

import pytest
import trio

import clients.sync
from clients.calls import RequestFailed
from clients.driver import ChannelCallbacks, DriverPhase
from clients.sync import DriverChannel
from clients.verifier import VerifierReport
from emulator.config import Config, MachineConfig
from emulator.memory import PAGE_SIZE
from emulator.status import NtStatus, Refused
from emulator.vmbus.profile import Side
from tests.daemon.raw import served

DISK = UUID("0e2f8f35-64b1-4f4c-9d2c-5a1e000000d3")
SECONDS = 20
MODES = pytest.mark.parametrize("mode", ["hosted", "direct"])


def recording(names: list[str]) -> ChannelCallbacks:
    """Callbacks that say that they were called; PostStarted says its version to the peer first."""

    def post_started(channel: DriverChannel) -> None:
        names.append("post_started")
        if channel.side is Side.GUEST:
            reply = channel.send_synchronous(b"version1", completion_bytes=8, timeout_seconds=SECONDS)
            names.append(bytes(reply).decode())

    return ChannelCallbacks(
        opened=lambda channel: names.append("opened"),
        closed=lambda channel: names.append("closed"),
        started=lambda channel: names.append("started"),
        post_started=post_started,
        suspend=lambda channel: names.append("suspend"),
    )


def serve(path: Path, mode: str, said: queue.Queue[list[str]]) -> None:
    """A host that completes every packet with its bytes, until its guest has closed."""
    names: list[str] = []
    with clients.sync.connect(path, timeout_seconds=SECONDS) as daemon:
        channel = daemon.machine("vm1").allocate_channel(Side.HOST, callbacks=recording(names), mode=mode)
        channel.setup.set_target_interface(DISK)
        channel.enable()
        channel.start()
        said.put(["enabled"])
        channel.until(DriverPhase.OPEN)
        for packet in channel:
            if packet.payload == b"last    ":
                with pytest.raises(RequestFailed, match=r"held and not completed: packet .*last"):
                    channel.pause(timeout_seconds=0.05)
            size = packet.external_mdl().byte_count if packet.has_external_data else 0
            packet.complete(size.to_bytes(8, "little") if size else packet.payload)
            if packet.payload == b"last    ":
                break
        channel.until(DriverPhase.ENABLED)
        channel.disable()
        channel.cleanup()
    said.put(names)


def drive(path: Path, mode: str) -> list[str]:
    """A guest's driver from its first call to its last."""
    names: list[str] = []
    with clients.sync.connect(path, timeout_seconds=SECONDS) as daemon:
        machine = daemon.machine("vm1")
        channel = machine.allocate_channel(Side.GUEST, callbacks=recording(names), mode=mode)
        channel.setup.set_target(DISK)
        early = channel.submit(b"early   ")
        channel.enable()
        channel.until(DriverPhase.OPEN, active=True)
        assert channel.finish(early) == b"early   "
        with machine.allocate(3 * PAGE_SIZE) as data:
            assert int.from_bytes(channel.send_with_external_mdl(b"", data.mdl, 10, 5000), "little") == 5000
            assert int.from_bytes(channel.send_with_external_pfns(b"", data.pfns[:2]), "little") == 2 * PAGE_SIZE
            with pytest.raises(Refused, match="K10"):
                channel.send_with_external_mdl(b"", data.mdl, flags=0)
        with pytest.raises(Refused, match="Y3"):
            channel.send_synchronous(b"", completion_bytes=3)
        channel.pause()
        assert channel.is_paused
        late = channel.submit(b"late    ")
        with pytest.raises(RequestFailed) as ended:
            channel.send_synchronous(b"paused  ", timeout_seconds=0.05)
        assert ended.value.status is NtStatus.CANCELLED
        channel.start()
        channel.until(DriverPhase.OPEN, active=True)
        assert channel.finish(late) == b"late    "
        assert channel.send(b"last    ") == b"last    "
        channel.disable()
        channel.cleanup()
    return names


@MODES
async def test_two_drivers_without_an_event_loop(tmp_path: Path, mode: str) -> None:
    said: queue.Queue[list[str]] = queue.Queue()
    seen_by_guest: list[str] = []
    async with served(tmp_path) as (_, path):
        with trio.fail_after(2 * SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, serve, path, mode, said)
                await trio.to_thread.run_sync(said.get)
                seen_by_guest = await trio.to_thread.run_sync(drive, path, mode)
    opening = ["opened", "started", "post_started"]
    again = ["suspend", "started", "post_started", "version1", "suspend", "closed"]
    assert seen_by_guest == [*opening, "version1", *again]
    assert said.get() == [*opening, "suspend", "closed"]


def misuse(path: Path) -> None:
    """What a synchronous driver is told in its callbacks."""

    def started(channel: DriverChannel) -> None:
        with pytest.raises(RequestFailed, match="may not be called from a state callback"):
            channel.pause()
        with pytest.raises(VerifierReport, match="Y5"):
            channel.send(b"never")

    with clients.sync.connect(path, timeout_seconds=SECONDS) as host_of, clients.sync.connect(path) as guest_of:
        offered = host_of.machine("vm1").offer_channel(DISK)
        machine = guest_of.machine("vm1")
        guest = machine.allocate_channel(Side.GUEST, callbacks=ChannelCallbacks(started=started))
        guest.setup.set_target(DISK)
        guest.enable()
        guest.until(DriverPhase.OPEN, active=True)
        guest.create_gpadl(machine.allocate(8))
        with pytest.raises(VerifierReport, match="left 1 GPADL"):
            guest.disable()
        offered.rescind()


async def test_reports_come_out_of_the_call_that_waits(tmp_path: Path) -> None:
    async with served(tmp_path, Config(machines={"vm1": MachineConfig(verifier=True)})) as (_, path):
        with trio.fail_after(2 * SECONDS):
            await trio.to_thread.run_sync(misuse, path)
