"""KMCL's rules for packets, seen by two drivers, hosted and direct: R, Y, Q and B, and the calls of 4.2."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from clients import Machine, RequestFailed
from clients.driver import DriverPhase
from clients.driver_channel import DriverChannel
from emulator.config import Config, LimitsConfig, MachineConfig, ProfileConfig
from emulator.memory import PAGE_SIZE, Mdl, MdlFlags
from emulator.status import NtStatus, Refused
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import OfferArrived, PostMessage
from emulator.vmbus.send_rules import SendFlags
from tests.clients.driver_pair import Seen, active, both_active, echo, guest_of, host_of, machines

MODES = pytest.mark.parametrize(
    ("guest_mode", "host_mode"),
    [("hosted", "hosted"), ("direct", "hosted"), ("hosted", "direct"), ("direct", "direct")],
)
WAIT = SendFlags.WAIT_FOR_COMPLETION
NEVER_SECONDS = 0.05
OTHER = "0e2f8f35-64b1-4f4c-9d2c-5a1e000000d2"


@asynccontextmanager
async def drivers(
    tmp_path: Path, guest_mode: str = "hosted", host_mode: str = "hosted", config: Config | None = None
) -> AsyncIterator[tuple[DriverChannel, DriverChannel, Machine, Machine]]:
    """A guest's and a host's driver channel, both active."""
    async with machines(tmp_path, config) as (_, near, far):
        guest, host = guest_of(near, Seen(), guest_mode), host_of(far, Seen(), host_mode)
        await both_active(guest, host)
        yield guest, host, near, far


async def nothing_comes(channel: DriverChannel) -> bool:
    """Whether no packet comes for a moment."""
    with trio.move_on_after(NEVER_SECONDS) as scope:
        await anext(channel)
    return scope.cancelled_caught


async def refused_at_once(channel: DriverChannel, buffer: bytes) -> NtStatus | None:
    """The status of a synchronous send with time-out 0 that did not go out."""
    try:
        await channel.send_synchronous(buffer, flags=0, timeout_seconds=0)
    except (RequestFailed, Refused) as error:
        return error.status
    return None


# ---- receiving


@MODES
async def test_r3_complete_answers_only_who_asked_and_in_any_order(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _):
        asked = [guest.submit(bytes([number]) * 8) for number in range(2)]
        assert await guest.send(b"unasked!", flags=0) == b""
        packets = [await anext(host) for _ in range(3)]
        assert [packet.wants_completion for packet in packets] == [True, True, False]
        for packet in reversed(packets):
            await packet.complete(packet.payload)
        assert [await guest.finish(each) for each in asked] == [b"\0" * 8, b"\1" * 8]
        assert host.outstanding == 0


@MODES
async def test_r4_fail_stops_the_queue_until_the_channel_is_opened_again(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _), trio.open_nursery() as nursery:
        malformed = guest.submit(b"malformed, and no completion asked", flags=0)
        await guest.finish(malformed)
        await (await anext(host)).fail()
        await host._connection.ping()
        behind = guest.submit(b"behind  ")
        assert await nothing_comes(host)
        await guest.disable()
        with pytest.raises(RequestFailed) as ended:
            await guest.finish(behind)
        assert ended.value.status is NtStatus.CANCELLED
        await guest.enable()
        await active(guest)
        nursery.start_soon(echo, host)
        assert await guest.send(b"again   ") == b"again   "
        await host.disable()


async def test_r4_a_simple_host_fails_a_packet_that_asked_for_nothing(tmp_path: Path) -> None:
    async with machines(tmp_path) as (_, near, far):
        offered = await far.offer_channel(OTHER)
        channel = await near.open_channel(OTHER)
        await channel.send(b"malformed", flags=0)
        await (await anext(offered)).fail()
        await far._connection.ping()
        await channel.send(b"behind", flags=0)
        with trio.move_on_after(NEVER_SECONDS) as scope:
            await anext(offered)
        assert scope.cancelled_caught


@MODES
async def test_r5_a_deferred_packet_comes_again_before_any_other(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _):
        sent = [guest.submit(bytes([number]) * 8) for number in range(3)]
        first = await anext(host)
        assert not first.is_deferred
        first.defer()
        with pytest.raises(RequestFailed, match="put back already"):
            first.defer()
        with pytest.raises(RequestFailed, match="put back; complete it when it comes again"):
            await first.complete()
        again = await anext(host)
        assert (again.payload, again.is_deferred, again.batch_packets) == (first.payload, True, 0)
        await again.complete(b"done    ")
        assert await guest.finish(sent[0]) == b"done    "
        assert [(await anext(host)).payload for _ in range(2)] == [b"\1" * 8, b"\2" * 8]
        with pytest.raises(RequestFailed, match="completed already"):
            again.defer()


@MODES
async def test_r6_external_data_is_one_mdl_for_each_range_the_same_every_time(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, near, _):
        with near.memory.allocate(3 * PAGE_SIZE) as data, near.memory.allocate(100) as tail:
            chain = Mdl(16, 2 * PAGE_SIZE, data.pfns, next=tail.mdl)
            guest.submit_with_external_mdl(b"", chain, 8, 0)
            guest.submit(b"none    ")
            packet, other = await anext(host), await anext(host)
            mdl = packet.external_mdl()
            assert [(link.byte_offset, link.byte_count) for link in mdl.chain()] == [(24, 2 * PAGE_SIZE - 8), (0, 100)]
            assert all(link.is_locked for link in mdl.chain())
            assert packet.external_mdl() is mdl
            with pytest.raises(RequestFailed) as refused:
                other.external_mdl()
            assert refused.value.status is NtStatus.INVALID_PARAMETER
            await packet.complete()
            await other.complete()


OTHER_STATUSES = Config(
    machines={"vm1": MachineConfig(profile="other")},
    profiles={
        "other": ProfileConfig(
            kmcl={"no_external_data_status": "NOT_SUPPORTED", "read_only_gpadl_status": "SHARING_VIOLATION"}
        )
    },
)


@MODES
async def test_r6_the_status_for_no_external_data_is_a_choice(tmp_path: Path, guest_mode: str, host_mode: str) -> None:
    async with drivers(tmp_path, guest_mode, host_mode, OTHER_STATUSES) as (guest, host, _, _):
        guest.submit(b"none    ")
        packet = await anext(host)
        for ask in (packet.external_mdl, packet.external_data):
            with pytest.raises(RequestFailed, match="no external data") as refused:
                ask()
            assert refused.value.status is NtStatus.NOT_SUPPORTED
        with pytest.raises(RequestFailed) as refused:
            await packet.read_external_data()
        assert refused.value.status is NtStatus.NOT_SUPPORTED
        await packet.complete()


async def test_4_2_the_status_for_writing_to_a_read_only_page_list_is_a_choice(tmp_path: Path) -> None:
    async with drivers(tmp_path, config=OTHER_STATUSES) as (guest, host, near, _):
        with near.memory.allocate(8) as data:
            handle = await guest.create_gpadl(data, read_only=True)
            with pytest.raises(RequestFailed) as refused:
                await host.map_gpadl(handle)
            assert refused.value.status is NtStatus.SHARING_VIOLATION
            await guest.delete_gpadl(handle)


async def test_r6_read_only_affects_the_mapping_only(tmp_path: Path) -> None:
    async with drivers(tmp_path) as (guest, host, near, _):
        with near.memory.allocate(8) as data:
            for _ in range(2):
                guest.submit_with_external_mdl(b"", data.mdl)
            reading, writing = await anext(host), await anext(host)
            assert not reading.external_mdl(read_only=True).flags & MdlFlags.WRITE_OPERATION
            assert writing.external_mdl().flags & MdlFlags.WRITE_OPERATION
            await reading.complete()
            await writing.complete()


@MODES
async def test_r6_r8_a_packet_whose_pages_are_out_comes_again_when_they_are_in(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, near, far):
        with near.memory.allocate(2 * PAGE_SIZE) as data:
            data.write(0, b"bytes")
            await near.page_out(data)
            await far._connection.ping()
            sent = guest.submit_with_external_mdl(b"first   ", data.mdl)
            packet = await anext(host)
            with pytest.raises(RequestFailed) as pending:
                packet.external_mdl()
            assert pending.value.status is NtStatus.PENDING
            assert host.outstanding == 1
            later = guest.submit(b"later   ")
            other = await anext(host)
            await near.page_in(Mdl(0, PAGE_SIZE, data.pfns[:1]))
            assert await nothing_comes(host), "one page of it is out still"
            await near.page_in(data)
            again = await anext(host)
            assert (again.payload, again.is_deferred) == (b"first   ", True)
            assert again.external_mdl().byte_count == 2 * PAGE_SIZE
            assert again.external_data()[:5] == b"bytes"
            await again.complete(b"read")
            await other.complete()
            assert await guest.finish(sent) == b"read\0\0\0\0"
            await guest.finish(later)


async def test_r8_pages_that_are_out_are_known_to_who_attaches_later(tmp_path: Path) -> None:
    async with machines(tmp_path) as (_, near, far):
        with near.memory.allocate(8) as data:
            await near.page_out(data)
            again = await far._connection.machine("vm1")
            guest, host = guest_of(near, Seen()), host_of(again, Seen())
            await both_active(guest, host)
            guest.submit_with_external_mdl(b"", data.mdl)
            with pytest.raises(RequestFailed, match="STATUS_PENDING"):
                (await anext(host)).external_mdl()
        with pytest.raises(RequestFailed, match="outside this machine's memory"):
            await near.page_out(Mdl(0, 8, (1 << 40,)))


# ---- synchronous requests


@MODES
async def test_y1_y3_a_synchronous_request_returns_what_fits(tmp_path: Path, guest_mode: str, host_mode: str) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _), trio.open_nursery() as nursery:
        nursery.start_soon(echo, host)
        whole = await guest.send_synchronous(b"x" * 16, completion_bytes=16)
        assert (whole, whole.status) == (b"x" * 16, NtStatus.SUCCESS)
        cut = await guest.send_synchronous(b"x" * 16, completion_bytes=8)
        assert (cut, cut.status) == (b"x" * 8, NtStatus.BUFFER_OVERFLOW)
        with pytest.raises(Refused, match="Y3"):
            await guest.send_synchronous(b"", completion_bytes=12)
        await host.disable()


@MODES
async def test_y1_with_time_out_0_it_does_not_queue(tmp_path: Path, guest_mode: str, host_mode: str) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _):
        await host.pause()
        sent, full = 0, None
        while full is None:
            full = await refused_at_once(guest, bytes(4000))
            sent += full is None
        assert full is NtStatus.BUFFER_OVERFLOW
        assert sent >= 10
        await host.start()
        assert [len((await anext(host)).payload) for _ in range(sent)] == [4000] * sent
        assert await nothing_comes(host), "the one that was refused was not queued"


async def test_y2_a_host_may_only_send_at_once_and_without_wait(tmp_path: Path) -> None:
    async with drivers(tmp_path) as (guest, host, _, _):
        for flags, seconds in ((WAIT, None), (WAIT, 0), (0, 1.0), (0, None)):
            with pytest.raises(Refused, match="Y2") as refused:
                await host.send_synchronous(b"", flags=flags, timeout_seconds=seconds)
            assert refused.value.status is NtStatus.INVALID_PARAMETER
        assert await host.send_synchronous(b"now     ", flags=0, timeout_seconds=0) == b""
        assert (await anext(guest)).payload == b"now     "


@MODES
async def test_y4_after_a_time_out_the_late_completion_is_swallowed(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _):
        with pytest.raises(RequestFailed) as ended:
            await guest.send_synchronous(b"slow    ", timeout_seconds=NEVER_SECONDS)
        assert ended.value.status is NtStatus.CANCELLED
        await (await anext(host)).complete(b"late    ")
        sent = guest.submit(b"next    ")
        await (await anext(host)).complete(b"in time ")
        assert await guest.finish(sent) == b"in time "


@MODES
async def test_y4_a_channel_that_closes_is_device_removed(tmp_path: Path, guest_mode: str, host_mode: str) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(RequestFailed) as ended:
                await guest.send_synchronous(b"")
            assert ended.value.status is NtStatus.DEVICE_REMOVED

        nursery.start_soon(ask)
        await anext(host)
        nursery.start_soon(guest.disable)


async def test_y5_waiting_in_started_is_refused_and_in_post_started_it_works(tmp_path: Path) -> None:
    async def deadlock(channel: DriverChannel) -> None:
        with pytest.raises(Refused, match=r"wait in PostStarted \[Y5\]"):
            await channel.send_synchronous(b"")
        said.append("refused")

    async def negotiate(channel: DriverChannel) -> None:
        said.append(bytes(await channel.send_synchronous(b"version ", completion_bytes=8)).decode())

    said: list[str] = []
    async with machines(tmp_path) as (_, near, far), trio.open_nursery() as nursery:
        guest, host = guest_of(near, Seen(started=deadlock, post_started=negotiate)), host_of(far, Seen())
        nursery.start_soon(echo, host)
        await both_active(guest, host)
        assert said == ["refused", "version "]
        await host.disable()


# ---- quota and batches


@MODES
async def test_q1_q2_q3_the_quota_holds_back_and_only_a_completion_lets_go(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _):
        await host.set_transaction_quota(2)
        sent = [guest.submit(bytes([number]) * 8) for number in range(5)]
        packets = [await anext(host) for _ in range(2)]
        assert await nothing_comes(host), "Q1: two are outstanding"
        await host.set_transaction_quota(3)
        assert await nothing_comes(host), "Q3: raising it restarts nothing"
        await packets[0].complete()
        packets += [await anext(host) for _ in range(2)]
        assert await nothing_comes(host)
        await host.set_transaction_quota(1)
        await packets[1].complete()
        assert await nothing_comes(host), "Q2: two are outstanding, and one is allowed"
        await packets[2].complete()
        await packets[3].complete()
        await (await anext(host)).complete()
        for each in sent:
            await guest.finish(each)


async def test_q4_a_quota_of_0_is_refused(tmp_path: Path) -> None:
    async with drivers(tmp_path) as (_, host, _, _):
        with pytest.raises(Refused, match="Q4"):
            await host.set_transaction_quota(0)


@MODES
async def test_b1_b2_the_last_packet_of_a_batch_says_how_many_it_had(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _):
        await host.pause()
        for number in range(20):
            guest.submit(bytes([number]) * 8, flags=0)
        await guest._connection.ping()
        await host.start()
        counts, in_batch = [], 0
        for _ in range(20):
            packet = await anext(host)
            in_batch += 1
            if packet.batch_packets:
                counts.append(packet.batch_packets)
                assert packet.batch_packets == in_batch
                in_batch = 0
            await packet.complete()
        assert sum(counts) == 20, "every packet belongs to one batch"
        assert in_batch == 0, "and the last batch has ended"


@MODES
async def test_b3_completions_do_not_count_in_a_batch(tmp_path: Path, guest_mode: str, host_mode: str) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, _, _):
        sent = guest.submit(b"asked   ")
        asked = await anext(host)
        await guest.pause()
        await asked.complete()
        host.submit(b"data    ", flags=0)
        await host._connection.ping()
        await guest.start()
        assert (await anext(guest)).batch_packets == 1
        await guest.finish(sent)


# ---- page lists


async def test_4_2_a_page_list_from_creation_to_deletion(tmp_path: Path) -> None:
    async with drivers(tmp_path) as (guest, host, near, far):
        with near.memory.allocate(3 * PAGE_SIZE) as data:
            data.write(PAGE_SIZE, b"shown")
            handle = await guest.create_gpadl(data, PAGE_SIZE, 0)
            mdl = await host.map_gpadl(handle)
            assert (mdl.byte_count, mdl.pfns) == (2 * PAGE_SIZE, data.pfns[1:])
            assert (await far.read_memory(mdl.whole()))[:5] == b"shown"
            with pytest.raises(RequestFailed, match="one mapping is all there can be"):
                await host.map_gpadl(handle)
            with trio.move_on_after(NEVER_SECONDS) as scope:
                await guest.delete_gpadl(handle)
            assert scope.cancelled_caught, "the host has it mapped"
            await host.unmap_gpadl(handle)
            with pytest.raises(RequestFailed, match="has described no memory"):
                await host.map_gpadl(handle)
            with pytest.raises(RequestFailed, match="has no GPADL"):
                await guest.delete_gpadl(handle)


async def test_4_2_delete_waits_for_the_hosts_unmap(tmp_path: Path) -> None:
    async with drivers(tmp_path) as (guest, host, near, _), trio.open_nursery() as nursery:
        with near.memory.allocate(8) as data:
            handle = await guest.create_gpadl(data.mdl)
            await host.map_gpadl(handle)
            deleted = trio.Event()

            async def delete() -> None:
                await guest.delete_gpadl(handle)
                deleted.set()

            nursery.start_soon(delete)
            await near._connection.ping()
            assert not deleted.is_set()
            await host.unmap_gpadl(handle)
            await deleted.wait()


async def test_4_2_a_read_only_page_list_refuses_a_mapping_for_writing(tmp_path: Path) -> None:
    async with drivers(tmp_path) as (guest, host, near, _):
        with near.memory.allocate(8) as data:
            handle = await guest.create_gpadl(data, read_only=True)
            with pytest.raises(RequestFailed, match="map it with READ_ONLY") as refused:
                await host.map_gpadl(handle)
            assert refused.value.status is NtStatus.ACCESS_DENIED
            await host.map_gpadl(handle, read_only=True)
            await host.unmap_gpadl(handle)
            with pytest.raises(RequestFailed, match="is not mapped"):
                await host.unmap_gpadl(handle)
            await guest.delete_gpadl(handle)


async def test_4_2_page_lists_left_at_closed_go_with_the_channel(tmp_path: Path) -> None:
    async with machines(tmp_path) as (server, near, far):
        guest, host = guest_of(near, Seen()), host_of(far, Seen())
        await both_active(guest, host)
        with near.memory.allocate(8) as data:
            handle = await guest.create_gpadl(data)
            await host.map_gpadl(handle)
            await guest.disable()
            await host.until(DriverPhase.ENABLED)
            assert server.machines["vm1"].describe_channels()[0]["gpadls"] == []
            for call in (guest.create_gpadl(data), host.create_gpadl(data), guest.map_gpadl(1)):
                with pytest.raises(RequestFailed):
                    await call


# ---- what an offer says


async def test_4_2_mmio_space_latency_instance_and_flags(tmp_path: Path) -> None:
    async with machines(tmp_path) as (server, near, far):
        guest, host = guest_of(near, Seen()), host_of(far, Seen())
        host.setup.set_mmio_megabytes(3, 1)
        host.setup.set_server_flags(0x2)
        guest.setup.set_ring_pages(4, 8)
        with pytest.raises(Refused, match="known once the channel is open"):
            _ = host.mmio_space
        await both_active(guest, host)
        assert guest.mmio_space == host.mmio_space
        address, size = guest.mmio_space
        assert size == 4 << 20
        assert address >= near.memory.byte_count
        assert address % (1 << 20) == 0
        assert guest.instance == host.instance is not None
        (entry,) = server.machines["vm1"].describe_channels()
        assert entry["ring_pages"] == 4 + 8 + 2
        assert await guest.set_interrupt_latency(100) == 0
        assert await guest.set_interrupt_latency(0) == 100
        with pytest.raises(RequestFailed, match="a guest's, from Opened to Closed"):
            await host.set_interrupt_latency(1)
        await guest.disable()
        with pytest.raises(RequestFailed, match="a guest's, from Opened to Closed"):
            await guest.set_interrupt_latency(1)


async def test_4_2_an_offer_to_another_trust_level_reaches_no_guest_here(tmp_path: Path) -> None:
    async with machines(tmp_path) as (server, near, far):
        guest, host = guest_of(near, Seen()), host_of(far, Seen())
        host.setup.set_target_vtl(2)
        await host.enable()
        await guest.enable()
        await near._connection.ping()
        assert guest.phase is DriverPhase.ENABLED
        assert server.machines["vm1"].describe_channels() == []
        await host.disable()


async def test_4_2_the_same_offer_twice_is_refused_and_the_channel_stays_disabled(tmp_path: Path) -> None:
    async with machines(tmp_path) as (_, near, far):
        first, second = host_of(far, Seen()), host_of(near, Seen())
        await first.enable()
        second.setup.values.instance = str(first.instance)
        with pytest.raises(RequestFailed, match="already offered"):
            await second.enable()
        assert second.phase is DriverPhase.DISABLED
        await first.disable()
        await second.enable()
        await second.disable()
        await second.cleanup()
        with pytest.raises(Refused, match="allocate another"):
            await second.enable()


async def test_4_2_a_guest_takes_the_instance_it_names(tmp_path: Path) -> None:
    async with machines(tmp_path) as (_, near, far):
        one, two = host_of(far, Seen()), host_of(far, Seen())
        for host in (one, two):
            await host.enable()
            await host.start()
        guest = guest_of(near, Seen())
        assert two.instance is not None
        guest.setup.values.instance = str(two.instance)
        await guest.enable()
        await active(guest)
        assert guest.instance == two.instance
        assert (one.phase, two.phase) == (DriverPhase.ENABLED, DriverPhase.OPEN)


# ---- sending


@MODES
async def test_k30_k31_whole_pages_by_their_numbers(tmp_path: Path, guest_mode: str, host_mode: str) -> None:
    async with drivers(tmp_path, guest_mode, host_mode) as (guest, host, near, _):
        with near.memory.allocate(2 * PAGE_SIZE) as data:
            sent = guest.submit_with_external_pfns(b"pages   ", data.pfns)
            packet = await anext(host)
            assert [tuple(each) for each in packet.ranges] == [(2 * PAGE_SIZE, 0, data.pfns)]
            await packet.complete(b"ok      ")
            assert await guest.finish(sent) == b"ok      "
            with pytest.raises(Refused, match="K30"):
                guest.submit_with_external_pfns(b"", data.pfns, flags=0)
            with pytest.raises(Refused, match="K32"):
                guest.submit_with_external_pfns(b"", ())


async def test_k28_a_packet_refused_before_it_is_sent_may_be_sent_again(tmp_path: Path) -> None:
    async with drivers(tmp_path) as (guest, host, near, _), trio.open_nursery() as nursery:
        nursery.start_soon(echo, host)
        with near.memory.allocate(8) as data:
            with pytest.raises(Refused, match="K10") as refused:
                guest.submit_with_external_mdl(b"", data.mdl, flags=0)
            assert refused.value.status is NtStatus.INVALID_PARAMETER_7
            assert await guest.send_with_external_mdl(b"x" * 8, data.mdl) == b"x" * 8
        with pytest.raises(Refused, match="K3"):
            guest.submit(bytes(5000))
        await host.disable()


@MODES
async def test_4_4_a_packet_may_be_cancelled_wherever_it_is(tmp_path: Path, guest_mode: str, host_mode: str) -> None:
    async with machines(tmp_path) as (_, near, far):
        guest, host = guest_of(near, Seen(), guest_mode), host_of(far, Seen(), host_mode)
        kept, early = guest.submit(b"kept    "), guest.submit(b"early   ")
        near._connection.protocol.abandon(early)
        with pytest.raises(RequestFailed, match="before it was sent"):
            await guest.finish(early)
        await both_active(guest, host)
        late = guest.submit(b"late    ")
        packets = [await anext(host) for _ in range(2)]
        near._connection.protocol.abandon(late)
        with pytest.raises(RequestFailed) as ended:
            await guest.finish(late)
        assert ended.value.status is NtStatus.CANCELLED
        for packet in packets:
            await packet.complete(packet.payload)
        assert await guest.finish(kept) == b"kept    "


# ---- callbacks that do not return


async def test_a_callback_that_takes_too_long_stalls_its_own_channel_only(tmp_path: Path) -> None:
    async def hang(channel: DriverChannel) -> None:
        await release.wait()

    release = trio.Event()
    seen = Seen(opened=hang)
    config = Config(limits=LimitsConfig(callback_seconds=0.3), machines={"vm1": MachineConfig()})
    async with machines(tmp_path, config) as (_, near, far), trio.open_nursery() as nursery:
        guest, host = guest_of(near, Seen()), host_of(far, seen)
        await host.enable()
        await guest.enable()
        offered = await far.offer_channel(OTHER)
        async with await near.open_channel(OTHER) as channel:
            sent = trio.Event()

            async def send() -> None:
                assert await channel.send(b"12345678") == b"12345678"
                sent.set()

            nursery.start_soon(send)
            packet = await anext(offered)
            await packet.complete(packet.payload)
            await sent.wait()
        assert seen.names == ["opened"]
        await guest.until(DriverPhase.DISABLED)
        release.set()
        await seen.until("opened")
        await far._connection.ping()
        assert host.phase is DriverPhase.ENABLED, "the late answer is ignored"


# ---- what a setup decides


@MODES
async def test_4_2_the_largest_packet_and_external_data_are_as_the_setup_says(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with machines(tmp_path) as (_, near, far):
        guest, host = guest_of(near, Seen(), guest_mode), host_of(far, Seen(), host_mode)
        guest.setup.set_maximum_packet_size(16)
        guest.setup.set_maximum_external_data(2 * PAGE_SIZE, 2)
        host.setup.set_maximum_external_data(PAGE_SIZE, 1)
        with pytest.raises(Refused, match="K3"):
            guest.submit(bytes(17))
        await both_active(guest, host)
        with pytest.raises(Refused, match="K3"):
            guest.submit(bytes(17))
        host.submit(bytes(4096), flags=0)
        assert len((await anext(guest)).payload) == 4096, "the host's own is the default"
        with near.memory.allocate(3 * PAGE_SIZE) as data:
            with pytest.raises(Refused, match="K24"):
                guest.submit_with_external_mdl(b"", data.mdl)
            guest.submit_with_external_mdl(b"", data.mdl, 0, 2 * PAGE_SIZE)
            packet = await anext(host)
            with pytest.raises(RequestFailed, match="K24") as refused:
                packet.external_mdl()
            assert refused.value.status is NtStatus.INVALID_PARAMETER, "R7, by the limits of who receives"
            await packet.complete()


@MODES
async def test_4_2_a_pipe_has_exact_lengths_and_no_external_data(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async with machines(tmp_path) as (_, near, far):
        guest, host = guest_of(near, Seen(), guest_mode), host_of(far, Seen(), host_mode)
        for channel in (guest, host):
            channel.setup.set_flags(0x1)
        await both_active(guest, host)
        guest.submit(b"five!", flags=0)
        packet = await anext(host)
        assert packet.payload == b"five!"
        await packet.complete()
        with near.memory.allocate(8) as data, pytest.raises(Refused, match="K5"):
            guest.submit_with_external_mdl(b"", data.mdl)


async def test_4_2_server_flags_and_mmio_are_in_the_offer(tmp_path: Path) -> None:
    async with machines(tmp_path) as (_, near, far):
        host = host_of(far, Seen())
        host.setup.set_server_flags(0x1 | 0x2 | 0x4 | 0x10)
        host.setup.set_mmio_megabytes(5, 6)
        await host.enable()
        bus = await near.attach_bus()
        guest = GuestBus()
        due = guest.connect()
        while not any(isinstance(effect, OfferArrived) for effect in due):
            for effect in due:
                if isinstance(effect, PostMessage):
                    await bus.post(effect.connection_id, effect.payload)
            due = guest.message_arrived((await bus.next_message()).payload)
        (offer,) = [effect.offer for effect in due if isinstance(effect, OfferArrived)]
        assert offer.flags == 0x100 | 0x1 | 0x10 | 0x2000
        assert (offer.mmio_megabytes, offer.mmio_megabytes_optional) == (5, 6)
        await bus.detach()


async def test_k30_a_plain_channel_sends_whole_pages_too(tmp_path: Path) -> None:
    async with machines(tmp_path) as (_, near, far), trio.open_nursery() as nursery:
        offered = await far.offer_channel(OTHER)
        async with await near.open_channel(OTHER) as channel:

            async def answer() -> None:
                packet = await anext(offered)
                await packet.complete(packet.external_data()[:8])

            with near.memory.allocate(2 * PAGE_SIZE) as data:
                data.write(0, b"of pages")
                nursery.start_soon(answer)
                assert await channel.send_with_external_pfns(b"", data.pfns) == b"of pages"
                with pytest.raises(RequestFailed, match="K30"):
                    await channel.send_with_external_pfns(b"", data.pfns, flags=0)
                with pytest.raises(RequestFailed, match="K32"):
                    await channel.send_with_external_pfns(b"", None)
