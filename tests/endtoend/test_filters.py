"""Filters above a device: programs that see, change and refuse what others ask of a transport, and their failures."""

from __future__ import annotations

import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

import clients.sync
from clients import (
    Connection,
    Filter,
    FilterRequest,
    HandlerEvent,
    HandlerResult,
    RequestFailed,
    TdiEvent,
    connect,
)
from emulator.config import Config, LimitsConfig
from emulator.daemon.server import Server
from emulator.status import NtStatus
from emulator.tdi import builders
from emulator.tdi.constants import FileKind, MajorFunction, MinorFunction, QueryType, ShareAccess
from emulator.tdi.control_codes import AddressOption, Ioctl
from emulator.tdi.layout import Arch
from emulator.tdi.nt_layouts import IRP
from emulator.tdi.request_layouts import TDI_REQUEST_SEND_DATAGRAM
from emulator.tdi.structures import SocketAddress, pack_transport_address, parse_transport_address_untrusted
from tests.daemon.raw import served
from tests.support.processes import start_daemon

PATIENCE_SECONDS = 20.0
HOSTS = {"udp": ("127.0.0.1", "127.0.0.1"), "lan": ("10.0.0.1", "10.0.0.2")}
both = pytest.mark.parametrize("network", HOSTS)


@asynccontextmanager
async def three_programs(tmp_path: Path, **limits: Any) -> AsyncIterator[tuple[Server, Connection, Connection]]:
    """A daemon, a client and a filter to be."""
    async with (
        served(tmp_path, Config(limits=LimitsConfig(**limits))) as (server, path),
        connect(path, name="client") as client,
        connect(path, name="filter") as other,
    ):
        with trio.fail_after(PATIENCE_SECONDS):
            yield server, client, other


Judge = Callable[[Filter, FilterRequest], Awaitable[None] | None]


@asynccontextmanager
async def judging(stack: Filter, judge: Judge) -> AsyncIterator[list[FilterRequest]]:
    """A filter at work: what it has seen, in order."""
    seen: list[FilterRequest] = []

    async def work() -> None:
        async for request in stack:
            seen.append(request)
            done = judge(stack, request)
            if done is not None:
                await done

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        yield seen
        nursery.cancel_scope.cancel()


def set_option(option: AddressOption, value: bytes) -> bytes:
    """TCP_REQUEST_SET_INFORMATION_EX with an option of an address object, counted out by hand."""
    return struct.pack("<6I", 0x401, 0, 0x200, 0x200, option, len(value)) + value


def pass_all(_: Filter, request: FilterRequest) -> None:
    request.pass_on()


@both
async def test_t7_t9_a_filter_sees_every_kind_of_request(tmp_path: Path, network: str) -> None:
    here, there = HOSTS[network]
    async with three_programs(tmp_path) as (_, client, other):
        machine = await client.machine("vm1")
        far = await (await client.machine("vm2")).open_address((there, 0), network=network)
        top = await (await other.machine("vm1")).attach_filter(network)
        async with judging(top, pass_all) as seen:
            address = await machine.open_address((here, 0), network=network)
            await address.send_datagram(b"seen", far.local)
            await address.query(QueryType.ADDRESS_INFO)
            await address.close()
            while not (seen and seen[-1].is_cleanup):
                await trio.lowlevel.checkpoint()
        create, send, query, cleanup = seen
        assert (create.is_create, create.kind, create.local) == (True, FileKind.ADDRESS, (here, 0))
        assert (send.major, send.minor) == (MajorFunction.INTERNAL_DEVICE_CONTROL, MinorFunction.SEND_DATAGRAM)
        assert (send.remote, send.data, send.length, send.local) == (far.local, b"seen", 4, address.local)
        assert (query.minor, query.code) == (MinorFunction.QUERY_INFORMATION, QueryType.ADDRESS_INFO)
        assert len({send.file, query.file, cleanup.file}) == 1
        assert (await anext(aiter(far))).data == b"seen"


@pytest.mark.parametrize("network", ["lan", "tcp"])
async def test_t7_t9_a_filter_sees_connections_denies_them_and_leads_them_elsewhere(
    tmp_path: Path, network: str
) -> None:
    here, there = HOSTS.get(network, HOSTS["udp"])
    async with three_programs(tmp_path) as (_, client, other):
        far = await (await client.machine("vm2")).open_address((there, 0), network=network)
        machine = await client.machine("vm1")
        near = await machine.open_address((here, 0), network=network)

        def judge(_: Filter, request: FilterRequest) -> None:
            if request.minor == MinorFunction.CONNECT and request.remote == (there, 1):
                request.end(NtStatus.ACCESS_DENIED)
            elif request.minor == MinorFunction.CONNECT:
                request.change(remote=far.local)
            elif request.minor == MinorFunction.SEND:
                request.change(data=request.data.upper())
            else:
                request.pass_on()

        top = await (await other.machine("vm1")).attach_filter(network)
        async with judging(top, judge) as seen, trio.open_nursery() as nursery:
            opened = await near.open_connection()
            with pytest.raises(RequestFailed) as denied:
                await opened.connect((there, 1))
            assert denied.value.status is NtStatus.ACCESS_DENIED
            listening = await far.open_connection()
            nursery.start_soon(listening.listen)
            await trio.testing.wait_all_tasks_blocked()
            await opened.connect((there, 2))  # which is led to the one that listens
            await opened.send(b"loud")
            assert await listening.receive() == b"LOUD"
            await listening.send(b"answer")
            assert await opened.receive() == b"answer"
            await opened.disconnect(abort=True)
            await opened.close()
            while not seen[-1].is_cleanup:
                await trio.lowlevel.checkpoint()
        internal = [each for each in seen if each.major == MajorFunction.INTERNAL_DEVICE_CONTROL]
        assert [each.minor for each in internal] == [
            MinorFunction.ASSOCIATE_ADDRESS,
            MinorFunction.CONNECT,
            MinorFunction.CONNECT,
            MinorFunction.SEND,
            MinorFunction.RECEIVE,
            MinorFunction.DISCONNECT,
        ]
        assert {each.kind for each in internal} == {FileKind.CONNECTION}
        assert internal[3].data == b"loud"


@both
async def test_t9_the_same_datagram_by_every_way_is_seen(tmp_path: Path, network: str) -> None:
    here, there = HOSTS[network]
    async with three_programs(tmp_path) as (_, client, other):
        machine = await client.machine("vm1")
        far = await (await client.machine("vm2")).open_address((there, 0), network=network)
        top = await (await other.machine("vm1")).attach_filter(network)
        arch = Arch.X64
        remote = pack_transport_address(SocketAddress(*far.local))

        def deny(_: Filter, request: FilterRequest) -> None:
            if request.minor == MinorFunction.SEND_DATAGRAM and request.event is None and not request.is_create:
                request.end(NtStatus.ACCESS_DENIED)
            else:
                request.pass_on()

        async with judging(top, deny) as seen:
            address = await machine.open_address((here, 0), network=network)
            memory, data = await machine.allocate(4096), await machine.allocate(8)
            memory.write(0, builders.connection_information(arch, memory.address(), remote))
            with pytest.raises(RequestFailed, match="a filter ended it") as refused:
                await address.send_datagram(b"by name", far.local)
            assert refused.value.status is NtStatus.ACCESS_DENIED
            raw = await address.file.submit(builders.send_datagram(arch, 8, memory.address()), mdl=data.mdl)
            assert raw[:2] == (NtStatus.ACCESS_DENIED, 0)
            size = TDI_REQUEST_SEND_DATAGRAM.size(arch)
            request = TDI_REQUEST_SEND_DATAGRAM.pack(arch, {"SendDatagramInformation": 0x1000 + size})
            request += builders.connection_information(arch, 0x1000 + size, remote)
            control = builders.device_control(arch, Ioctl.SEND_DATAGRAM, len(request))
            user = await address.file.submit(control, mdl=data.mdl, buffer=request, buffer_at=0x1000)
            assert user[:2] == (NtStatus.ACCESS_DENIED, 0)
        sends = [each for each in seen if each.minor == MinorFunction.SEND_DATAGRAM and not each.is_create]
        assert [each.remote for each in sends] == [far.local] * 3
        await top.detach()
        await address.send_datagram(b"free again", far.local)
        assert (await anext(aiter(far))).data == b"free again"


@both
async def test_t9_bursts_and_questions_about_the_device_are_seen_one_by_one(tmp_path: Path, network: str) -> None:
    here, there = HOSTS[network]
    async with three_programs(tmp_path) as (_server, client, other):
        machine = await client.machine("vm1")
        address = await machine.open_address((here, 0), network=network)
        far = await (await client.machine("vm2")).open_address((there, 0), network=network)
        top = await (await other.machine("vm1")).attach_filter(network)

        def judge(_: Filter, request: FilterRequest) -> None:
            if request.data == b"2":
                request.end(NtStatus.ACCESS_DENIED)
            elif request.code == QueryType.BROADCAST_ADDRESS:
                request.end(NtStatus.NOT_SUPPORTED)
            elif not request.is_cleanup:
                request.pass_on()

        async with judging(top, judge) as seen:
            results = await address.send_many([b"0", b"1", b"2", b"3"], far.local)
            assert [result.status for result in results] == [
                *(NtStatus.SUCCESS, NtStatus.SUCCESS),
                *(NtStatus.ACCESS_DENIED, NtStatus.SUCCESS),
            ]
            inbox = aiter(far)
            assert [(await anext(inbox)).data for _ in range(3)] == [b"0", b"1", b"3"]
            assert len(await machine.query_network(QueryType.PROVIDER_INFO, network=network)) == 40
            with pytest.raises(RequestFailed) as refused:
                await machine.query_network(QueryType.BROADCAST_ADDRESS, network=network)
            assert refused.value.status is NtStatus.NOT_SUPPORTED
        assert [each.data for each in seen[:4]] == [b"0", b"1", b"2", b"3"]
        kinds = [each.kind for each in seen if each.minor == MinorFunction.QUERY_INFORMATION]
        assert kinds == [FileKind.CONTROL] * 2


GROUP = "239.1.2.3"


@both
async def test_t9_joins_and_options_by_name_are_the_device_controls_they_stand_for(
    tmp_path: Path, network: str
) -> None:
    here, _ = HOSTS[network]
    async with three_programs(tmp_path) as (_, client, other):
        address = await (await client.machine("vm1")).open_address((here, 0), network=network)
        top = await (await other.machine("vm1")).attach_filter(network)
        async with judging(top, pass_all) as seen:
            await address.join(GROUP, interface=here)
            assert (await address.options(ttl=7, multicast_loop=False))["ttl"] == 7
            await address.options(ttl=None, multicast_interface=here)
            await address.leave(GROUP, interface=here)
            with pytest.raises(RequestFailed) as late:
                await address.leave(GROUP, interface=here)
            assert late.value.status is NtStatus.INVALID_ADDRESS
        membership = IPv4Address(GROUP).packed + IPv4Address(here).packed
        options = [
            (AddressOption.ADD_MCAST, membership),
            (AddressOption.TTL, b"\x07\0\0\0"),
            (AddressOption.MCASTLOOP, bytes(4)),
            (AddressOption.MCASTIF, IPv4Address(here).packed),
            (AddressOption.TTL, b"\xff\xff\xff\xff"),
            (AddressOption.DEL_MCAST, membership),
            (AddressOption.DEL_MCAST, membership),
        ]
        assert {(each.major, each.code) for each in seen} == {
            (MajorFunction.DEVICE_CONTROL, Ioctl.TCP_SET_INFORMATION_EX)
        }
        assert [each.data for each in seen] == [set_option(*each) for each in options]


@both
async def test_t7_a_filter_refuses_a_join_and_an_option_by_name(tmp_path: Path, network: str) -> None:
    here, _ = HOSTS[network]
    async with three_programs(tmp_path) as (_, client, other):
        address = await (await client.machine("vm1")).open_address((here, 0), network=network)

        def judge(_: Filter, request: FilterRequest) -> None:
            if request.data in (set_option(AddressOption.MCASTTTL, bytes((9, 0, 0, 0))), joining):
                request.end(NtStatus.ACCESS_DENIED)
            else:
                request.pass_on()

        joining = set_option(AddressOption.ADD_MCAST, IPv4Address(GROUP).packed + IPv4Address(here).packed)
        top = await (await other.machine("vm1")).attach_filter(network)
        async with judging(top, judge) as seen:
            for wanted in (
                partial(address.join, GROUP, interface=here),
                partial(address.options, multicast_ttl=9, ttl=3),
            ):
                with pytest.raises(RequestFailed) as denied:
                    await wanted()
                assert denied.value.status is NtStatus.ACCESS_DENIED
            for wrong in ({"ttl": 300, "broadcast": False}, {"hops": 1}):
                with pytest.raises(RequestFailed):
                    await address.options(**wrong)
            now = await address.options()
            assert (now["multicast_ttl"], now["ttl"], now["broadcast"]) == (1, 3, True), "what is wrong changes nothing"
            assert len(seen) == 3, "nor is it shown"
        with pytest.raises(RequestFailed):
            await address.leave(GROUP, interface=here)  # it never joined


async def test_a_setting_that_a_filter_holds_ends_with_its_address(tmp_path: Path) -> None:
    async with three_programs(tmp_path) as (_, client, other):
        address = await (await client.machine("vm1")).open_address((HOSTS["lan"][0], 0), network="lan")
        await (await other.machine("vm1")).attach_filter("lan")
        ended: list[NtStatus] = []

        async def set_two() -> None:
            with pytest.raises(RequestFailed) as error:
                await address.options(ttl=3, broadcast=False)
            ended.append(error.value.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(set_two)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(address.close)
        assert ended == [NtStatus.CANCELLED]


@both
async def test_t8_a_filter_learns_the_port_of_an_open_it_watched(tmp_path: Path, network: str) -> None:
    here, _ = HOSTS[network]
    async with three_programs(tmp_path) as (_daemon, client, other):
        top = await (await other.machine("vm1")).attach_filter(network)
        machine = await client.machine("vm1")
        learned: list[tuple[str, int] | None] = []

        async def learn(stack: Filter, request: FilterRequest) -> None:
            request.pass_on(watch=True)
            end = await stack.completed(request)
            assert end.status is NtStatus.SUCCESS
            answer = await stack.query(end.file, QueryType.ADDRESS_INFO)
            learned.append(parse_transport_address_untrusted(answer[4:]))
            learned.append(end.local)

        async with judging(top, learn):
            attributes = builders.address_attribute(pack_transport_address(SocketAddress(here, 0)))
            create = builders.create(Arch.X86, len(attributes), ShareAccess.READ)
            file = await machine.create(create, attributes, network=network)
            while len(learned) < 2:
                await trio.lowlevel.checkpoint()
        assert learned == [file.local, file.local]


async def test_t9_the_end_of_a_request_that_another_machine_brings_about_is_told(tmp_path: Path) -> None:
    here, there = HOSTS["lan"]
    async with three_programs(tmp_path) as (_, client, other):
        far = await (await client.machine("vm2")).open_address((there, 0), network="lan")
        near = await (await client.machine("vm1")).open_address((here, 0), network="lan")
        listening, calling = await far.open_connection(), await near.open_connection()
        top = await (await other.machine("vm2")).attach_filter("lan")
        ends: list[tuple[int, NtStatus, int]] = []

        async def judge(stack: Filter, request: FilterRequest) -> None:
            if request.is_cleanup:
                return
            if request.minor == MinorFunction.SEND:
                request.change(data=request.data * 2, watch=True)
            else:
                request.pass_on(watch=True)
            nursery.start_soon(tell, stack, request)

        async def tell(stack: Filter, request: FilterRequest) -> None:
            end = await stack.completed(request)
            ends.append((request.minor, end.status, end.information))

        async with trio.open_nursery() as nursery, judging(top, judge):
            nursery.start_soon(listening.listen)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await calling.connect(far.local)
            nursery.start_soon(listening.receive)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await calling.send(b"12345")
            await client.change_segment("lan", latency_seconds=0.01, rate_bytes_per_second=1e6)
            assert (await listening.send(b"abc")).information == 3
            assert await calling.receive() == b"abcabc"
            while len(ends) < 3:
                await trio.lowlevel.checkpoint()
        assert sorted(ends) == [
            (MinorFunction.LISTEN, NtStatus.SUCCESS, 0),
            (MinorFunction.SEND, NtStatus.SUCCESS, 3),
            (MinorFunction.RECEIVE, NtStatus.SUCCESS, 5),
        ]


async def test_a_refused_open_and_a_changed_datagram(tmp_path: Path) -> None:
    async with three_programs(tmp_path) as (_, client, other):
        machine, second = await client.machine("vm1"), await client.machine("vm2")
        wanted = await second.open_address(("10.0.0.2", 1000), network="lan")
        instead = await second.open_address(("10.0.0.2", 2000), network="lan")
        top = await (await other.machine("vm1")).attach_filter("lan")

        def judge(_: Filter, request: FilterRequest) -> None:
            if request.is_create and request.local and request.local[1] == 99:
                request.end(NtStatus.ACCESS_DENIED)
            elif request.remote == wanted.local:
                request.change(remote=instead.local, data=b"much longer than before")
            else:
                request.pass_on()

        async with judging(top, judge):
            with pytest.raises(RequestFailed, match="a filter refused the open") as refused:
                await machine.open_address(("10.0.0.1", 99), network="lan")
            assert refused.value.status is NtStatus.ACCESS_DENIED
            attributes = builders.address_attribute(pack_transport_address(SocketAddress("10.0.0.1", 99)))
            with pytest.raises(RequestFailed, match="a filter refused the open"):
                await machine.create(builders.create(Arch.X64, 47, ShareAccess.READ), attributes, network="lan")
            address = await machine.open_address(("10.0.0.1", 0), network="lan")
            sent = await address.send_datagram(b"short", wanted.local)
            assert sent == (NtStatus.SUCCESS, 5), "its client's count stays what it was"
            assert (await anext(aiter(instead))).data == b"much longer than before"
        assert len(wanted._state.items) == 0


@both
async def test_t10_events_pass_a_filter_and_a_handler_taken_away_is_not_called(tmp_path: Path, network: str) -> None:
    here, there = HOSTS[network]
    async with three_programs(tmp_path) as (_, client, other):
        address = await (await client.machine("vm1")).open_address((here, 0), network=network)
        far = await (await client.machine("vm2")).open_address((there, 0), network=network)
        top = await (await other.machine("vm1")).attach_filter(network, events=True)

        def judge(_: Filter, request: FilterRequest) -> None:
            if request.event is not None and request.data == b"drop":
                request.end(NtStatus.DATA_NOT_ACCEPTED)
            elif request.event is not None and request.data == b"change":
                request.change(data=b"changed")
            else:
                request.pass_on()

        async with judging(top, judge) as seen:
            for data in (b"drop", b"change", b"pass"):
                await far.send_datagram(data, address.local)
            inbox = aiter(address)
            assert [(await anext(inbox)).data for _ in range(2)] == [b"changed", b"pass"]
        events = [each for each in seen if each.event is not None]
        assert [(each.event, each.remote, each.data) for each in events] == [
            (4, far.local, data) for data in (b"drop", b"change", b"pass")
        ]


async def test_t10_a_handler_taken_away_while_a_filter_has_its_event_is_not_called(tmp_path: Path) -> None:
    async with three_programs(tmp_path) as (_, client, other):
        address = await (await client.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
        far = await (await client.machine("vm2")).open_address(("10.0.0.2", 0), network="lan")
        called: list[bytes] = []

        def handler(event: HandlerEvent) -> HandlerResult:
            called.append(bytes(event.data))
            return HandlerResult(NtStatus.SUCCESS, len(event.data))

        await address.set_handler(TdiEvent.RECEIVE_DATAGRAM, handler)
        top = await (await other.machine("vm1")).attach_filter("lan", events=True)
        await far.send_datagram(b"held", address.local)
        held = await top.next_request()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(address.set_handler, TdiEvent.RECEIVE_DATAGRAM, None)
            (await top.next_request()).pass_on()
        held.pass_on()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(address.set_handler, TdiEvent.RECEIVE_DATAGRAM, handler)
            (await top.next_request()).pass_on()
        await far.send_datagram(b"called", address.local)
        (await top.next_request()).pass_on()
        while not called:
            await trio.lowlevel.checkpoint()
        assert called == [b"called"]


async def test_a_filter_that_is_late_is_removed_and_what_it_held_passes_on(tmp_path: Path) -> None:
    async with three_programs(tmp_path, filter_seconds=0.2) as (_, client, other):
        address = await (await client.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
        top = await (await other.machine("vm1")).attach_filter("lan")
        sent = await address.send_datagram(b"held, and on", address.local)
        assert sent == (NtStatus.SUCCESS, 12)
        assert (await anext(aiter(address))).data == b"held, and on"
        held = await top.next_request()
        assert held.data == b"held, and on"
        with pytest.raises(RequestFailed, match=r"did not answer within 0\.2 s"):
            await top.next_request()
        held.pass_on()
        assert (await client.inspect("machines"))[0]["filters_removed"] == 1
        assert (await address.send_datagram(b"free", address.local)).information == 4
        await top.detach()


async def test_a_filter_that_dies_lets_everything_through(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as client:
        with trio.fail_after(PATIENCE_SECONDS):
            machine = await client.machine("vm1")
            address = await machine.open_address(("10.0.0.1", 0), network="lan")
            sent: list[object] = []
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    sent.append(await address.send_datagram(b"survives", address.local))

                async with connect(daemon.socket_path) as other:
                    top = await (await other.machine("vm1")).attach_filter("lan")
                    nursery.start_soon(send)
                    nursery.start_soon(partial(machine.open_address, ("10.0.0.1", 7), network="lan"))
                    assert {(await top.next_request()).data for _ in range(2)} == {b"survives", b""}
                    assert sent == []
            assert sent == [(NtStatus.SUCCESS, 8)]
            assert (await anext(aiter(address))).data == b"survives"


async def test_cancel_cleanup_and_detach_while_a_filter_holds_requests(tmp_path: Path) -> None:
    async with three_programs(tmp_path) as (_, client, other):
        machine = await client.machine("vm1")
        address = await machine.open_address(("10.0.0.1", 0), network="lan")
        top = await (await other.machine("vm1")).attach_filter("lan")
        with trio.move_on_after(0.05):
            await address.send_datagram(b"cancelled", address.local)
        with trio.move_on_after(0.05):
            await machine.open_address(("10.0.0.1", 7), network="lan")
        cancelled = [await top.next_request(), await top.next_request()]
        failures: list[NtStatus] = []

        async def send() -> None:
            with pytest.raises(RequestFailed) as failed:
                await address.send_datagram(b"cleaned up", address.local)
            failures.append(failed.value.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            held = await top.next_request()
            await address.close()
        assert failures == [NtStatus.ADDRESS_CLOSED] or failures == [NtStatus.CANCELLED]
        assert (await top.next_request()).is_cleanup
        for request in (*cancelled, held):
            request.pass_on()
        again = trio.Event()

        async def reopen() -> None:
            await machine.open_address(("10.0.0.1", 7), network="lan")
            again.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reopen)
            assert (await top.next_request()).is_create, "the cancelled open has left nothing on that port"
            await top.detach()
            await again.wait()


async def test_t11_filters_stack_and_are_limited(tmp_path: Path) -> None:
    async with three_programs(tmp_path, filters_per_network=2) as (_, client, other):
        address = await (await client.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
        machine = await other.machine("vm1")
        low, high = await machine.attach_filter("lan"), await machine.attach_filter("lan")
        with pytest.raises(RequestFailed, match="as many as it may have"):
            await machine.attach_filter("lan")
        with pytest.raises(RequestFailed, match="has no network 'moon'"):
            await machine.attach_filter("moon")

        def double(_: Filter, request: FilterRequest) -> None:
            request.change(data=request.data * 2)

        async with judging(high, double), judging(low, double) as seen:
            assert (await address.send_datagram(b"ab", address.local)).information == 2
            assert (await anext(aiter(address))).data == b"abababab"
        assert [each.data for each in seen] == [b"abab"]


@pytest.mark.parametrize("arch", Arch, ids=lambda arch: arch.name.lower())
async def test_t1_an_irp_without_a_stack_location_for_a_filter(tmp_path: Path, arch: Arch) -> None:
    async with three_programs(tmp_path) as (_, client, other):
        machine = await client.machine("vm1")
        address = await machine.open_address(("10.0.0.1", 0), network="lan")
        page = await machine.allocate(4096)
        page.write(1024, builders.connection_information(arch, page.address(1024), pack(address.local)))
        page.write(2048, builders.send_datagram(arch, 0, page.address(1024)).image)
        values = {"Tail.Overlay.CurrentStackLocation": page.address(2048), "StackCount": 1}
        page.write(0, IRP.pack(arch, values))
        assert (await address.file.submit_at(page.address(), arch)).status is NtStatus.SUCCESS
        top = await (await other.machine("vm1")).attach_filter("lan")
        async with judging(top, pass_all):
            short = await address.file.submit_at(page.address(), arch)
            assert short[:2] == (NtStatus.INVALID_PARAMETER, 0)
            assert "there are 2 drivers to pass" in short.message
            for enough in (2, 0):
                page.write(0, IRP.pack(arch, {**values, "StackCount": enough}))
                assert (await address.file.submit_at(page.address(), arch)).status is NtStatus.SUCCESS


def pack(address: tuple[str, int]) -> bytes:
    return pack_transport_address(SocketAddress(*address))


def filter_in_a_thread(socket_path: Path, attached: threading.Event) -> None:
    """A filter without an event loop."""
    with (
        clients.sync.connect(socket_path, timeout_seconds=30) as daemon,
        daemon.machine("vm1").attach_filter("lan", events=True) as top,
    ):
        attached.set()
        for request in top:
            if request.data == b"stop":
                request.end(NtStatus.SUCCESS, 4)
                return
            request.pass_on(watch=request.event is None and not request.is_cleanup)
            if request.event is None and not request.is_cleanup:
                assert top.completed(request).status is NtStatus.SUCCESS


async def test_a_filter_without_an_event_loop(tmp_path: Path) -> None:
    attached = threading.Event()
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as client, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, filter_in_a_thread, daemon.socket_path, attached)
        await trio.to_thread.run_sync(attached.wait)
        with trio.fail_after(PATIENCE_SECONDS):
            address = await (await client.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
            assert (await address.send_datagram(b"on its way", address.local)).information == 10
            assert (await anext(aiter(address))).data == b"on its way"
            assert await address.send_datagram(b"stop", address.local) == (NtStatus.SUCCESS, 4)


@both
async def test_t9_receives_and_handlers_work_below_a_filter_that_sees_them(tmp_path: Path, network: str) -> None:
    here, there = HOSTS[network]
    async with three_programs(tmp_path) as (_, client, other):
        far = await (await client.machine("vm2")).open_address((there, 0), network=network)
        address = await (await client.machine("vm1")).open_address((here, 0), network=network)
        top = await (await other.machine("vm1")).attach_filter(network)
        called: list[bytes] = []

        def handler(event: HandlerEvent) -> None:
            called.append(event.data)

        async with judging(top, pass_all) as seen, trio.open_nursery() as nursery:
            await address.set_handler(TdiEvent.RECEIVE_DATAGRAM, handler)
            await far.send_datagram(b"for the handler", address.local)
            while not called:
                await address.serve(1)

            async def send_when_posted() -> None:
                while not any(request.minor == MinorFunction.RECEIVE_DATAGRAM for request in seen):
                    await trio.lowlevel.checkpoint()
                await other.ping()
                await far.send_datagram(b"for the receive", address.local)

            nursery.start_soon(send_when_posted)
            assert (await address.receive_datagram()).data == b"for the receive"
            await address.set_handler(TdiEvent.RECEIVE_DATAGRAM, None)
            with pytest.raises(RequestFailed, match="R44"):
                await address.set_handler(77, handler)
        assert called == [b"for the handler"]
        minors = [request.minor for request in seen if request.minor == MinorFunction.SET_EVENT_HANDLER]
        assert len(minors) == 3
