"""What a machine lets its clients have, one refusal for each bound; and what one client may say in a second."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from emulator.config import Config, LimitsConfig, MachineConfig
from emulator.daemon.pace import Pace
from emulator.limits_config import QuotaConfig
from emulator.memory import GpaRange, Mdl
from emulator.status import NtStatus
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import ChannelOpened, OffersDelivered
from emulator.wire.runs import pack_mdl_chain, unpack_pfns
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, request, served
from tests.daemon.test_bus_guest import until
from tests.daemon.test_driver_requests import both_started

INTERFACE = bytes(16)
ADDRESS = ("address.open", 1, "lan", "10.0.0.1", 0, False, *GRANT)
CONNECTION = ("connection.open", 1, "lan", 0)


def config(**quota: int) -> Config:
    """vm1 with that quota, and vm2 without any."""
    machine = MachineConfig(segments={"lan": "10.0.0.1"}, quota=QuotaConfig(**quota))
    return Config(machines={"vm1": machine, "vm2": MachineConfig(segments={"lan": "10.0.0.2"})})


async def refusal(client: RawClient, *said: Any) -> str:
    """The sentence of a request refused for want of resources; the session goes on."""
    with pytest.raises(Answered) as caught:
        await client.call(*said)
    assert caught.value.status is NtStatus.INSUFFICIENT_RESOURCES
    await client.call("ping")
    return caught.value.message


def sentence(count: int, what: str, most: int, key: str) -> str:
    text = f"machine vm1 has {count} {what} and may have {most}; close one first, or raise"
    return f"{text} [machines.vm1.quota] {key}"


async def test_sessions_of_a_machine(tmp_path: Path) -> None:
    async with served(tmp_path, config(sessions=1)) as (_, path), raw_client(path) as first, raw_client(path) as second:
        await first.attach()
        await first.call("machine.attach", "vm1", False)  # the same session again is no other
        await second.hello()
        assert await refusal(second, "machine.attach", "vm1", False) == sentence(1, "attached sessions", 1, "sessions")
        await second.call("machine.attach", "vm2", False)
        first.close()
        with trio.fail_after(10):
            while True:
                try:
                    await second.call("machine.attach", "vm1", False)
                except Answered:
                    continue
                break


async def test_memory_of_a_session_in_buffers_and_rings(tmp_path: Path) -> None:
    async with served(tmp_path, config(session_memory_bytes=40 * 4096)) as (_, path):
        async with raw_client(path) as host, raw_client(path) as guest:
            await host.attach()
            await host.offer(INTERFACE)
            await guest.attach()
            pfns = (await guest.call("memory.allocate", 1, 10))[0]
            assert "holds 40960 bytes of machine vm1's memory and wants 126976 more, with 163840 allowed" in (
                await refusal(guest, "memory.allocate", 1, 31)
            )
            # 34 pages of rings and the ten are too many; without the ten they are not.
            opening = ("channel.open", 1, INTERFACE, None, True, 16, 16, *GRANT)
            assert "raise [machines.vm1.quota] session_memory_bytes" in await refusal(guest, *opening)
            await guest.call("memory.free", 1, pfns)
            await guest.call(*opening)
            await refusal(guest, "memory.allocate", 1, 7)
            await guest.call("memory.allocate", 1, 6)
            await host.call("memory.allocate", 1, 40)  # another session has its own


async def test_offers_and_channels_of_a_machine(tmp_path: Path) -> None:
    async with served(tmp_path, config(offers=2, channels=1)) as (_, path):
        async with raw_client(path) as host, raw_client(path) as guest:
            await host.attach()
            for number in (0, 1):
                await host.offer(bytes([number]) * 16)
            offering = ("channel.offer", 1, b"x" * 16, None, False, *GRANT)
            assert await refusal(host, *offering) == sentence(2, "offers", 2, "offers")
            await guest.attach()
            channel = await guest.open(bytes(16))
            opening = ("channel.open", 1, bytes([1]) * 16, None, False, 0, 0, *GRANT)
            assert await refusal(guest, *opening) == sentence(1, "open channels", 1, "channels")
            await guest.call("channel.close", channel)
            await guest.call(*opening)


@pytest.mark.parametrize(("opening", "key"), [(ADDRESS, "addresses"), (CONNECTION, "connections")])
async def test_addresses_and_connections_of_a_machine(tmp_path: Path, opening: tuple[Any, ...], key: str) -> None:
    async with served(tmp_path, config(**{key: 2})) as (_, path):
        async with raw_client(path) as first, raw_client(path) as second:
            await first.attach()
            await second.attach()
            number = (await first.call(*opening))[0]
            await second.call(*opening)
            for client in (first, second):
                assert (await refusal(client, *opening)).startswith(sentence(2, f"open {key}", 2, key))
            await first.call(key.removesuffix("es" if key == "addresses" else "s") + ".close", number)
            await second.call(*opening)


# ---- what a client may say in a second


def test_a_pace_lets_a_second_through_at_once_and_then_takes_its_time() -> None:
    pace = Pace(1000, None, now=10.0)
    assert pace.pause(1000, 1 << 20, 10.0) == 0
    assert pace.pause(500, 0, 10.0) == pytest.approx(0.5)
    assert pace.pause(0, 0, 10.25) == pytest.approx(0.25)
    assert pace.pause(0, 0, 10.5) == 0
    assert pace.pause(1000, 0, 1000.0) == 0  # no more than a second's worth is saved up
    assert pace.pause(1000, 0, 1000.0) == pytest.approx(1.0)


def test_the_slower_of_two_paces_counts() -> None:
    pace = Pace(1000, 100_000, now=0.0)
    assert pace.pause(1500, 100_000, 0.0) == pytest.approx(0.5)
    assert pace.pause(0, 200_000, 0.5) == pytest.approx(1.5)
    assert Pace.of(None, None, 0.0) is None


@pytest.mark.parametrize("limits", [LimitsConfig(frames_per_second=1_000), LimitsConfig(bytes_per_second=65_536)])
async def test_a_client_that_says_too_much_is_read_later_and_not_ended(
    tmp_path: Path, limits: LimitsConfig, autojump_clock: MockClock
) -> None:
    count = 30_000
    async with served(tmp_path, Config(limits=limits)) as (server, path), raw_client(path) as client:
        await client.hello()
        said = b"".join(request(10 + number, "ping") for number in range(count))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.say, said)
            while len(client.answers) < count:
                assert await client.hear()
        took = trio.current_time() - began
        expected = count / 1_000 if limits.frames_per_second else len(said) / 65_536
        # The first second's worth comes at once, and what came with the last read is answered before the pause for it.
        assert expected / 2 <= took <= expected
        assert server.session_count == 1


@pytest.mark.parametrize("shut", [True, False])
async def test_a_paced_client_that_goes_is_gone_at_once_and_what_it_said_last_is_done(
    tmp_path: Path, shut: bool
) -> None:
    limits = LimitsConfig(frames_per_second=1_000)
    async with served(tmp_path, Config(limits=limits)) as (server, path), raw_client(path) as client:
        await client.hello()
        said = b"".join(request(10 + number, "ping") for number in range(8_000))
        await client.say(said + request(9_000, "machine.create", "last", "{}"))
        if shut:
            client.sock.shutdown(socket.SHUT_WR)
        else:
            client.close()
        with trio.fail_after(4):  # at its pace it would take seven seconds
            while server.session_count:
                await trio.lowlevel.checkpoint()
        assert "last" in server.machines


async def test_gpadls_of_a_driver_and_those_of_rings_are_one_quota(tmp_path: Path) -> None:
    async with served(tmp_path, config(gpadls=2)) as (server, path):
        async with raw_client(path) as guest, raw_client(path) as host:
            await both_started(guest, host)
            assert server.machines["vm1"].bus.gpadls.count == 1
            pfn = unpack_pfns((await guest.call("memory.allocate", 1, 1))[0])[0]
            chain = pack_mdl_chain(Mdl(0, 4096, (pfn,)))
            creating = ("gpadl.create", 1, False, chain, 0, 4096)
            gpadl = (await guest.call(*creating))[0]
            assert await refusal(guest, *creating) == sentence(2, "GPADLs", 2, "gpadls")
            await host.call("channel.offer", 1, b"x" * 16, None, False, *GRANT)
            opening = ("channel.open", 1, b"x" * 16, None, False, 0, 0, *GRANT)
            assert await refusal(guest, *opening) == sentence(2, "GPADLs", 2, "gpadls")
            await guest.call("gpadl.delete", 1, gpadl)
            await guest.call(*creating)


@pytest.mark.parametrize("quota", [{"gpadls": 0}, {"channels": 0}])
async def test_a_bus_guest_over_its_quota_is_told_by_its_bus(tmp_path: Path, quota: dict[str, int]) -> None:
    async with served(tmp_path, config(**quota)) as (_, path), raw_client(path) as host, raw_client(path) as client:
        await host.attach()
        await host.offer(INTERFACE)
        await client.attach()
        await client.call("bus.attach", 1)
        guest = GuestBus()
        await until(client, guest, guest.connect(), OffersDelivered)
        pfns = unpack_pfns((await client.call("memory.allocate", 1, 4))[0])
        _, effects = guest.open_channel(1, (GpaRange(4 * 4096, 0, pfns),), 2)
        await until(client, guest, effects, ChannelOpened)
        assert guest.state.channels
        await host.call("ping")
        assert not [name for name, _ in host.notices if name == "channel.opened"]
