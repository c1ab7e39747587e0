"""Driver channels in single messages: what the daemon asks when, with bus guests, with clients that go or misbehave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from emulator.config import Config, LimitsConfig, MachineConfig
from emulator.daemon.server import Server
from emulator.memory import GpaRange
from emulator.status import NtStatus
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import ChannelClosed, ChannelOpened, OffersDelivered
from emulator.wire.runs import unpack_pfns
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, response, served
from tests.daemon.test_bus_guest import until

DISK = bytes(range(16))
OPENED, CLOSED, STARTED, POST_STARTED, SUSPEND, PNP_FAILURE = range(1, 7)
OK, FAILED = int(NtStatus.SUCCESS), int(NtStatus.UNSUCCESSFUL)


async def allocated(client: RawClient, is_host: bool, **values: Any) -> int:
    """A driver channel of this client's, disabled."""
    setup = json.dumps({"interface": str(UUID(bytes_le=DISK)), **values})
    number: int = (await client.call("driver.allocate", 1, is_host, False, setup, *GRANT))[0]
    return number


async def enabled(client: RawClient, is_host: bool) -> int:
    await client.attach()
    number = await allocated(client, is_host)
    await client.call("driver.enable", number)
    if is_host:
        await client.call("driver.start", number, False)
    return number


async def called(client: RawClient, callback: int, status: int = OK) -> None:
    """The next callback, which is this one, answered."""
    msgid, args = await client.question("driver.callback")
    assert args[1] == callback
    await client.respond(msgid, status)


async def both_started(guest: RawClient, host: RawClient) -> tuple[int, int]:
    """The channel numbers of both ends of one that is active."""
    await enabled(host, is_host=True)
    await enabled(guest, is_host=False)
    await called(host, OPENED)
    await called(guest, OPENED)
    for client in (host, guest):
        await called(client, STARTED)
        await called(client, POST_STARTED)
    return (await guest.notice("driver.opened"))[1], (await host.notice("driver.opened"))[1]


def states(server: Server) -> list[str]:
    return [entry["state"] for entry in server.machines["vm1"].describe_channels()]


async def opening_bus_guest(client: RawClient) -> tuple[GuestBus, list[Any]]:
    """A bus guest that has asked to open channel 1."""
    await client.attach()
    await client.call("bus.attach", 1)
    bus = GuestBus()
    await until(client, bus, bus.connect(), OffersDelivered)
    pfns = unpack_pfns((await client.call("memory.allocate", 1, 4))[0])
    _, effects = bus.open_channel(1, (GpaRange(4 * 4096, 0, pfns),), 2)
    return bus, effects


@pytest.mark.parametrize("accepts", [True, False])
async def test_a_bus_guest_waits_for_opened_of_the_hosts_driver(tmp_path: Path, accepts: bool) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as guest, raw_client(path) as host:
        driver = await enabled(host, is_host=True)
        bus, effects = await opening_bus_guest(guest)
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await called(host, OPENED, OK if accepts else FAILED)

            nursery.start_soon(answer)
            await until(guest, bus, effects, ChannelOpened)
        if not accepts:
            assert states(server) == ["offered"]
            return
        await called(host, STARTED)
        await called(host, POST_STARTED)
        assert states(server) == ["open"]
        async with trio.open_nursery() as nursery:

            async def close() -> None:
                await called(host, SUSPEND)
                await host.notify("driver.drained", driver)
                await called(host, CLOSED)

            nursery.start_soon(close)
            await until(guest, bus, bus.close_channel(1), ChannelClosed)
        # A bus guest that goes in the middle of a close waits for nobody, and its successor finds the channel.
        await guest.call("bus.detach", 1)


async def test_a_bus_guest_that_goes_while_opened_runs_leaves_the_offer(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as host:
        driver = await enabled(host, is_host=True)
        async with raw_client(path) as guest:
            bus, effects = await opening_bus_guest(guest)
            async with trio.open_nursery() as nursery:

                async def go() -> None:
                    msgid, _ = await host.question("driver.callback")
                    nursery.cancel_scope.cancel()
                    kept.append(msgid)

                kept: list[int] = []
                nursery.start_soon(go)
                await until(guest, bus, effects, ChannelOpened)
            await guest.call("bus.detach", 1)
        await host.respond(kept[0], OK)
        await called(host, CLOSED)
        await host.call("ping")
        assert states(server) == ["offered"]
        await host.call("driver.disable", driver, False)


async def test_a_driver_that_goes_while_a_callback_runs_is_waited_for_no_more(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as guest:
        async with raw_client(path) as host:
            await enabled(host, is_host=True)
            await enabled(guest, is_host=False)
            await host.question("driver.callback")
        msgid, args = await guest.question("driver.callback")
        assert args[1] == PNP_FAILURE
        await guest.respond(msgid, OK)
        assert states(server) == []
        await guest.call("driver.enable", 1)


async def test_a_guest_that_goes_is_closed_for_its_host(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as host:
        async with raw_client(path) as guest:
            await both_started(guest, host)
        await called(host, SUSPEND)
        await host.notify("driver.drained", 1)
        await called(host, CLOSED)
        await host.call("ping")
        assert states(server) == ["offered"]


async def test_one_callback_at_a_time_and_a_late_answer_counts_for_nothing(tmp_path: Path) -> None:
    config = Config(machines={"vm1": MachineConfig()}, limits=LimitsConfig(callback_seconds=0.1))
    async with served(tmp_path, config) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await enabled(host, is_host=True)
        await enabled(guest, is_host=False)
        late, args = await host.question("driver.callback")
        assert args[1] == OPENED
        await called(guest, PNP_FAILURE)
        await host.respond(late, OK)
        await host.call("ping")
        assert not host.questions
        await guest.call("driver.enable", 1)
        await called(host, OPENED)
        await called(guest, OPENED)


async def test_an_answer_that_is_an_error_fails_opened(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await enabled(host, is_host=True)
        await enabled(guest, is_host=False)
        msgid, _ = await host.question("driver.callback")
        await host.say(response(msgid, error=[int(NtStatus.NOT_IMPLEMENTED), "no such thing here"]))
        await called(guest, PNP_FAILURE)


async def test_drained_counts_after_suspend_only(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await both_started(guest, host)
        await host.notify("driver.drained", 1)
        paused = await host.start("driver.pause", 1, False)
        await host.notify("driver.drained", 1)
        await called(host, SUSPEND)
        await host.call("ping")
        assert paused not in host.answers
        await host.notify("driver.drained", 1)
        await host.answer(paused)


async def test_packets_stay_in_the_ring_until_started_has_returned(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await enabled(host, is_host=True)
        await enabled(guest, is_host=False)
        await called(host, OPENED)
        started, _ = await host.question("driver.callback")
        await called(guest, OPENED)
        channel = (await guest.notice("driver.opened"))[1]
        await guest.call("packet.send", channel, 0, b"12345678", b"")
        await host.call("ping")
        assert not [name for name, _ in host.notices if name == "channel.packets"]
        await host.respond(started, OK)
        await host.notice("channel.packets")


@pytest.mark.parametrize(
    ("method", "args"),
    [("driver.enable", ()), ("driver.start", (False,)), ("driver.pause", (False,)), ("driver.cleanup", ())],
)
async def test_a_channel_that_was_cleaned_up_is_refused_and_one_never_given_ends_the_session(
    tmp_path: Path, method: str, args: tuple[object, ...]
) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        await client.attach()
        number = await allocated(client, is_host=True)
        await client.call("driver.cleanup", number)
        with pytest.raises(Answered, match="has been cleaned up; allocate another"):
            await client.call(method, number, *args)
        await client.start(method, number + 1, *args)
        assert "this session was never given it" in (await client.goodbye())[1]


async def test_page_lists_of_a_channel_that_was_never_enabled_are_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        await client.attach()
        guest, host = await allocated(client, is_host=False), await allocated(client, is_host=True)
        for method, args in (
            ("gpadl.create", (guest, False, b"", 0, 0)),
            ("gpadl.create", (host, False, b"", 0, 0)),
            ("gpadl.delete", (guest, 1)),
            ("gpadl.delete", (host, 1)),
            ("gpadl.map", (guest, 1, False)),
            ("gpadl.map", (host, 1, False)),
            ("gpadl.unmap", (host, 1)),
            ("driver.latency", (guest, 1)),
            ("driver.quota", (guest, 0)),
        ):
            with pytest.raises(Answered):
                await client.call(method, *args)
        assert await client.call("ping") == []


async def test_a_session_has_a_bounded_number_of_driver_channels(tmp_path: Path) -> None:
    config = Config(machines={"vm1": MachineConfig()}, limits=LimitsConfig(channels_per_session=2))
    async with served(tmp_path, config) as (_, path), raw_client(path) as client:
        await client.attach()
        with pytest.raises(Answered, match="nobody knows"):
            await allocated(client, is_host=True, surprise=1)
        for _ in range(2):
            await allocated(client, is_host=True)
        with pytest.raises(Answered, match="already has 2 driver channels"):
            await allocated(client, is_host=True)
