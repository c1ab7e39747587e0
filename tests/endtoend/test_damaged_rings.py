"""Guest memory is shared: any client of a machine can write over a ring. That ends the channel, and only that."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import trio

from clients import Channel, Machine, RequestFailed, connect
from emulator.memory import PAGE_SIZE
from emulator.status import NtStatus
from tests.daemon.raw import RawClient, raw_client
from tests.endtoend.programs import ECHO
from tests.endtoend.test_killed import round_trip
from tests.support.processes import start_client, start_daemon

OTHER = ECHO[:-1] + "2"
PATIENCE_SECONDS = 20.0
INTERFACE = bytes(range(16))
TEXT = "03020100-0504-0706-0809-0a0b0c0d0e0f"
WAIT = 0x1


def find(machine: Machine, marker: bytes) -> int:
    """The page of the machine's memory that holds these bytes."""
    memory = machine.memory
    everything = memory.mapped.read(0, memory.byte_count)
    at = everything.find(marker)
    assert at >= 0
    assert everything.find(marker, at + 1) < 0
    return at // PAGE_SIZE


# What is written where, counted from the control page of the ring from guest to host, and what is then found.
DAMAGES = {
    "everything is ones": (
        0,
        b"\xff" * PAGE_SIZE,
        r"the ring's (in|out) index is 0xFFFFFFFF: not a multiple of 8 below",
    ),
    "an odd index": (0, struct.pack("<I", 0x105), "the ring's in index is 0x105: not a multiple of 8 below 0x10000"),
    "an index that went back": (0, struct.pack("<I", 0), "a packet of 0 bytes, payload at 0, where the ring holds"),
    "the reader's index": (4, struct.pack("<I", 0xFFF0), "the ring's out index moved back to 0xFFF0"),
    "packets from nowhere": (0, struct.pack("<I", 0x8000), "bytes, payload at 0, where the ring holds"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_junk_over_a_control_page_ends_that_channel_on_both_sides(tmp_path: Path, damage: str) -> None:
    offset, junk, found = DAMAGES[damage]
    async with (
        start_daemon(tmp_path) as daemon,
        connect(daemon.socket_path) as one,
        connect(daemon.socket_path) as two,
        raw_client(daemon.socket_path) as host,
    ):
        guest, villain = await one.machine("vm1"), await two.machine("vm1")
        await host.attach()
        await host.offer(INTERFACE)
        channel = await guest.open_channel(TEXT)
        (host_channel,) = [(await host.notice("channel.opened"))[1]]
        failures: dict[bytes, NtStatus] = {}

        async def send(payload: bytes) -> None:
            with pytest.raises(RequestFailed) as failed:
                await channel.send(payload)
            failures[payload] = failed.value.status

        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, b"a marker nobody else has")
                await host.notice("channel.packets")
                page = find(villain, b"a marker nobody else has")
                villain.memory.mapped.write((page - 1) * PAGE_SIZE + offset, junk)
                # The host's end looks at the ring, and then the guest's: each finds what the other one owns.
                await host.notify("channel.window", host_channel, 1, 1)
                await host.call("ping")
                nursery.start_soon(send, b"the next")
                number, status, reason = await host.notice("channel.closed")
        assert (number, status) == (host_channel, NtStatus.DEVICE_REMOVED)
        assert reason.startswith("the ring is damaged, as the ")
        assert failures[b"a marker nobody else has"] is NtStatus.DEVICE_REMOVED
        # This one may have come when the channel had closed already.
        assert failures[b"the next"] in (NtStatus.DEVICE_REMOVED, NtStatus.CANCELLED)
        assert channel.closed == (NtStatus.DEVICE_REMOVED, reason)
        assert re.search(found, reason), reason
        # The offer stands, both clients live, and so does everything else on the machine.
        again = await guest.open_channel(TEXT)
        await exchange(again, host)
        await round_trip(daemon, OTHER)


async def exchange(channel: Channel, host: RawClient) -> None:
    """One packet to a host without a library, and its completion."""
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            number, handle, _, _ = await host.notice("channel.packets")
            await host.notify("packet.complete", number, handle, b"answered")

        nursery.start_soon(answer)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await channel.send(b"anything") == b"answered"


async def test_a_completion_nobody_asked_for_ends_the_channel_that_it_came_on(tmp_path: Path) -> None:
    """The villain changes the transaction number of a packet before the host takes it out."""
    async with (
        start_daemon(tmp_path) as daemon,
        connect(daemon.socket_path) as one,
        connect(daemon.socket_path) as two,
        raw_client(daemon.socket_path) as host,
    ):
        guest, villain = await one.machine("vm1"), await two.machine("vm1")
        await host.attach()
        await host.offer(INTERFACE, grant=(0, 0))
        channel = await guest.open_channel(TEXT)
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    with pytest.raises(RequestFailed, match="the ring is damaged, as the guest's end found") as failed:
                        await channel.send(b"a marker nobody else has")
                    assert failed.value.status is NtStatus.DEVICE_REMOVED

                nursery.start_soon(send)
                while (await one.inspect("channels"))[0]["guest_outstanding"] != 1:
                    await trio.lowlevel.checkpoint()
                page = find(villain, b"a marker nobody else has")
                villain.memory.mapped.write(page * PAGE_SIZE + 8, struct.pack("<Q", 0xDEAD))
                await host.notify("channel.window", 1, 100, 1 << 20)
                number, handle, _, _ = await host.notice("channel.packets")
                await host.notify("packet.complete", number, handle, b"")
        assert "the peer completed transaction 0xDEAD, which is not outstanding" in str(channel.closed)
        logged = [json.loads(line) for line in daemon.stderr.splitlines() if "channel.failed" in line]
        assert [(line["transaction"], line["found_by"]) for line in logged] == [(0xDEAD, "guest")]
        await host.notify("channel.window", number, 1, 1)
        await host.call("ping")
        await round_trip(daemon, OTHER)


SCRIBBLER = """
import sys, trio
from clients import connect
async def main():
    async with connect() as daemon:
        machine = await daemon.machine("vm1")
        words = machine.memory.mapped.view(0, machine.memory.byte_count).cast("I")
        places = [page * 1024 + word for page in range(int(sys.argv[1]), int(sys.argv[2])) for word in (0, 1)]
        print("scribbling", flush=True)
        while True:
            for place in places:
                words[place] = 0xFFFFFFFF
trio.run(main)
"""


async def test_rings_that_are_scribbled_on_while_they_are_laid_out_harm_nobody(tmp_path: Path) -> None:
    script = tmp_path / "scribbler.py"
    script.write_text(SCRIBBLER)
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
        guest, host = await one.machine("vm1"), await two.machine("vm1")
        (before,) = await one.inspect("machines", "vm1")
        offered = await host.offer_channel(TEXT)
        failures: list[NtStatus] = []

        async def answer() -> None:
            async for packet in offered:
                await packet.complete(b"answered")

        async def open_and_use() -> None:
            try:
                async with await guest.open_channel(TEXT, send_pages=1, receive_pages=1) as channel:
                    assert await channel.send(b"anything") == b"answered"
            except RequestFailed as failed:
                failures.append(failed.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            probe = await guest.open_channel(TEXT, send_pages=1, receive_pages=1)
            await probe.send(b"a marker nobody else has")
            page = find(guest, b"a marker nobody else has")
            pages = str(page - 1), str(page + 3)
            async with start_client(tmp_path, "scribbler", script, *pages, daemon=daemon) as scribbler:
                await scribbler.wait_for_line("scribbling")
                await probe.close()
                with trio.fail_after(60):
                    while len(failures) < 100:
                        await open_and_use()
            assert set(failures) <= {NtStatus.DEVICE_NOT_READY, NtStatus.DEVICE_REMOVED, NtStatus.CANCELLED}
            failures.clear()
            await open_and_use()
            assert failures == []
            nursery.cancel_scope.cancel()
        with trio.fail_after(PATIENCE_SECONDS):
            while (await one.inspect("machines", "vm1"))[0]["free_bytes"] != before["free_bytes"]:
                await trio.lowlevel.checkpoint()
        await round_trip(daemon, OTHER)
