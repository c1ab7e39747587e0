"""Short round trips of direct channels while another process writes over their rings: nobody crashes, nobody hangs."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from clients import Connection, connect
from emulator.vmbus.ring import RING_BUILDS
from tests.endtoend.programs import ECHO
from tests.endtoend.short_trips import CALM_TRIPS
from tests.support.processes import Daemon, Running, start_daemon, start_process

# A process that imports no compiled ring has the other one.
PROGRAM = {
    "compiled": "from tests.endtoend.short_trips import main; main()",
    "pure": "import sys; sys.modules['emulator.vmbus.compiled_ring'] = None; "
    "from tests.endtoend.short_trips import main; main()",
}
FAILURES = 25
SEED = "7"
PATIENCE_SECONDS = 100.0
CASES = [
    ("compiled", "direct", "direct"),
    ("pure", "direct", "direct"),
    ("compiled", "direct", "hosted"),
    ("compiled", "hosted", "direct"),
]


@asynccontextmanager
async def program(tmp_path: Path, daemon: Daemon, build: str, *words: str) -> AsyncIterator[Running]:
    command = [sys.executable, "-c", PROGRAM[build], *words]
    environment = {"VMBUS_SOCKET": str(daemon.socket_path)}
    async with start_process(tmp_path, "-".join(words[:3]), command, environment=environment) as running:
        yield running


async def met(running: Running, build: str) -> dict[str, int]:
    """What a program that has come to its end met, if it ended well, and had the ring it should have."""
    ring, counts = json.loads((await running.wait_for_line("met: ", PATIENCE_SECONDS)).removeprefix("met: "))
    assert ring == build
    assert await running.process.wait() == 0, running.report()
    found: dict[str, int] = counts
    return found


@asynccontextmanager
async def unharmed(daemon: Daemon) -> AsyncIterator[Connection]:
    """Round trips on another machine all along; each comes back as it went."""
    async with connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
        guest, host = await one.machine("vm2"), await two.machine("vm2")
        offered = await host.offer_channel(ECHO)
        channel = await guest.open_channel(ECHO)
        trips = 0

        async def answer() -> None:
            async for packet in offered:
                await packet.complete(packet.payload)

        async def ask() -> None:
            nonlocal trips
            while True:
                question = trips.to_bytes(8, "little")
                with trio.fail_after(20):
                    assert await channel.send(question) == question
                trips += 1
                await trio.sleep(0.001)  # the programs want the processors

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            nursery.start_soon(ask)
            yield one
            nursery.cancel_scope.cancel()
        assert trips > 10


@pytest.mark.parametrize(("build", "guest_mode", "host_mode"), CASES)
async def test_rings_written_over_in_the_middle_of_short_round_trips(
    tmp_path: Path, build: str, guest_mode: str, host_mode: str
) -> None:
    if build not in RING_BUILDS:
        pytest.skip("there is no compiled ring here")
    with trio.fail_after(PATIENCE_SECONDS):
        async with start_daemon(tmp_path) as daemon, unharmed(daemon) as watcher:
            (before,) = await watcher.inspect("machines", "vm1")
            async with program(tmp_path, daemon, build, "host", host_mode) as host:
                await host.wait_for_line("offered")
                async with program(tmp_path, daemon, build, "scribbler", SEED) as scribbler:
                    await scribbler.wait_for_line("attached")
                    async with program(tmp_path, daemon, build, "guest", guest_mode, str(FAILURES)) as guest:
                        troubled = await met(guest, build)
                async with program(tmp_path, daemon, build, "guest", guest_mode, "0") as guest:
                    calm = await met(guest, build)
                hosted = await met(host, build)
            while (await watcher.inspect("machines", "vm1"))[0]["free_bytes"] != before["free_bytes"]:
                await trio.lowlevel.checkpoint()
        assert "Traceback" not in daemon.stderr, daemon.report()
    # It was the short way that was written over, time and again, and most of the time somebody saw it.
    assert troubled["trips"] > 10, troubled
    assert troubled["damage"] > FAILURES / 4, troubled
    assert calm["trips"] == CALM_TRIPS
    if guest_mode == "direct":
        assert troubled["take_answer"] > 0
        assert calm["take_answer"] > 0
    if host_mode == "direct":
        assert hosted["_take_plain"] > 0
