"""Verifier mode: each misuse is a report that names the rule and both places in the program."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from clients import Machine, RequestFailed
from clients.driver import DriverPhase
from clients.driver_channel import DriverChannel
from clients.kmcl import VmbPacketAllocate, VmbPacketFree, VmbPacketSend
from clients.verifier import VerifierReport
from emulator.config import Config, MachineConfig
from emulator.status import Refused
from emulator.vmbus.send_rules import SendFlags
from tests.clients.driver_pair import Seen, both_active, echo, guest_of, host_of, machines
from tests.clients.kmcl_drivers import WAIT, drivers, good

HERE = __file__
VERIFIED = Config(machines={"vm1": MachineConfig(verifier=True)})


@asynccontextmanager
async def verified(tmp_path: Path) -> AsyncIterator[tuple[DriverChannel, DriverChannel, Machine]]:
    """A guest's and a host's channel of a machine with the verifier."""
    async with machines(tmp_path, VERIFIED) as (_, near, far):
        guest, host = guest_of(near, Seen()), host_of(far, Seen())
        await both_active(guest, host)
        yield guest, host, near


def line(text: str) -> str:
    """``file:line`` of the one line of this file with that comment."""
    numbers = [
        number for number, each in enumerate(Path(HERE).read_text().splitlines(), 1) if each.endswith(f"# {text}")
    ]
    assert len(numbers) == 1
    return f"{HERE}:{numbers[0]}"


async def test_4_4_a_packet_completed_twice(tmp_path: Path) -> None:
    async with verified(tmp_path) as (guest, host, _):
        guest.submit(b"once    ")
        packet = await anext(host)
        await packet.complete()  # the first completion
        with pytest.raises(VerifierReport, match=r"packet 1 was completed twice \[4.4\]") as report:
            await packet.complete()  # the second completion
        assert report.value.first == line("the first completion")
        assert report.value.second == line("the second completion")
        assert host.verifier.reports == [report.value]


async def test_4_3_a_channel_cleaned_up_while_open(tmp_path: Path) -> None:
    async with verified(tmp_path) as (guest, _, _):
        await guest.disable()
        await guest.enable()  # enabled here
        await guest.until(DriverPhase.OPEN)
        with pytest.raises(VerifierReport, match=r"cleaned up while open \[4.3\]") as report:
            await guest.cleanup()  # cleaned up here
        assert report.value.first == line("enabled here")
        assert report.value.second == line("cleaned up here")


async def leave_a_page_list(tmp_path: Path, channels: list[DriverChannel]) -> None:
    async with verified(tmp_path) as (guest, _, near):
        channels.append(guest)
        await guest.create_gpadl(near.memory.allocate(8))  # made here
        await guest.disable()
        await trio.sleep_forever()


async def test_4_2_a_page_list_left_at_closed_ends_the_connection(tmp_path: Path) -> None:
    channels: list[DriverChannel] = []
    with pytest.raises(BaseExceptionGroup):
        await leave_a_page_list(tmp_path, channels)
    (report,) = channels[0].verifier.reports
    assert "Closed returned and left 1 GPADL" in report.what
    assert (report.rule, report.first) == ("4.2", line("made here"))
    assert "driver_pair.py:" in report.second, "the program's Closed"


async def test_4_2_a_page_list_deleted_in_closed_is_no_misuse(tmp_path: Path) -> None:
    async def delete(channel: DriverChannel) -> None:
        for handle in handles:
            await channel.delete_gpadl(handle)

    handles: list[int] = []
    async with machines(tmp_path, VERIFIED) as (_, near, far):
        guest, host = guest_of(near, Seen(closed=delete)), host_of(far, Seen())
        await both_active(guest, host)
        handles.append(await guest.create_gpadl(near.memory.allocate(8)))
        await guest.disable()
        assert guest.verifier.reports == []


@pytest.mark.parametrize("where", ["opened", "started", "closed", "suspend"])
async def test_4_2_waiting_for_a_packet_where_none_comes(tmp_path: Path, where: str) -> None:
    async def wait(channel: DriverChannel) -> None:
        with pytest.raises(VerifierReport, match="and none is completed before it has returned") as report:
            await channel.send(b"never")  # waited for here
        reports.append(report.value)

    reports: list[VerifierReport] = []
    async with machines(tmp_path, VERIFIED) as (_, near, far):
        guest, host = guest_of(near, Seen(**{where: wait})), host_of(far, Seen())
        await both_active(guest, host)
        await guest.disable()
        (report,) = reports
        assert report.second == line("waited for here")
        assert report.rule == ("Y5" if where == "started" else "4.2")
        assert "driver_pair.py:" in report.first


async def test_y5_a_synchronous_request_in_started(tmp_path: Path) -> None:
    async def wait(channel: DriverChannel) -> None:
        with pytest.raises(VerifierReport, match="Y5"):
            await channel.send_synchronous(b"never")

    async with machines(tmp_path, VERIFIED) as (_, near, far):
        await both_active(guest_of(near, Seen(started=wait)), host_of(far, Seen()))


async def test_k4_a_buffer_changed_under_way(tmp_path: Path) -> None:
    async with verified(tmp_path) as (guest, host, _), trio.open_nursery() as nursery:
        buffer = bytearray(b"before  ")
        sent = guest.submit(buffer)  # lent here
        protected = guest.submit(buffer, flags=SendFlags.WAIT_FOR_COMPLETION | SendFlags.PAGED_BUFFER)
        buffer[:] = b"after   "
        nursery.start_soon(echo, host)
        with pytest.raises(VerifierReport, match=r"PAGED_BUFFER \(0x4\) was not set \[K4\]") as report:
            await guest.finish(sent)
        assert report.value.first == line("lent here")
        assert await guest.finish(protected) == b"before  ", "and what was sent is what it was"
        assert await guest.send(bytearray(b"left    ")) == b"left    "
        await host.disable()


async def test_4_4_a_packet_sent_or_freed_in_flight(tmp_path: Path) -> None:
    async with drivers(tmp_path, config=VERIFIED) as pair:
        await pair.open()
        packet = VmbPacketAllocate(pair.client.channel)
        assert packet is not None
        good(VmbPacketSend(packet, b"12345678", 8, None, WAIT))  # sent here
        with pytest.raises(VerifierReport, match=r"VmbPacketSend: this packet is in flight \[4.4\]") as again:
            VmbPacketSend(packet, b"12345678", 8, None, WAIT)  # sent again here
        with pytest.raises(VerifierReport, match=r"VmbPacketFree: this packet is in flight \[4.4\]") as freed:
            VmbPacketFree(packet)  # freed here
        assert again.value.first == freed.value.first == line("sent here")
        assert (again.value.second, freed.value.second) == (line("sent again here"), line("freed here"))


async def test_without_the_verifier_nothing_is_reported(tmp_path: Path) -> None:
    async with machines(tmp_path) as (_, near, far), trio.open_nursery() as nursery:
        guest, host = guest_of(near, Seen()), host_of(far, Seen())
        await both_active(guest, host)
        buffer = bytearray(b"before  ")
        sent = guest.submit(buffer)
        buffer[:] = b"after   "
        packet = await anext(host)
        await packet.complete(packet.payload)
        with pytest.raises(RequestFailed, match="has been completed already"):
            await packet.complete()
        assert await guest.finish(sent) == b"before  "
        with pytest.raises((RequestFailed, Refused), match="before its cleanup"):
            await guest.cleanup()
        assert guest.verifier.reports == host.verifier.reports == []
        nursery.cancel_scope.cancel()
