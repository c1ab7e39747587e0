"""``vmbusctl why``: every cause it knows, produced for real and read back in words; and what ``inspect`` shows then."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import trio
import trio.testing

import clients.sync
from clients import Connection, connect
from clients.commands.inspect import _rates
from clients.diagnosis import OUTBOX_HIGH_BYTES, diagnose_absence, diagnose_offer
from clients.driver_channel import DriverChannel
from clients.vmbus import Channel, OfferedChannel
from tests.clients.driver_pair import Seen, active, guest_of, host_of, machines
from tests.daemon.raw import raw_client, request, served
from tests.endtoend.programs import ECHO
from tests.support.processes import Daemon, run_client, start_daemon

CLI = "clients.cli"
NO_WAIT = 0


@asynccontextmanager
async def opened(
    tmp_path: Path, config: str | None = None, host_mode: str = "hosted", guest_mode: str = "hosted"
) -> AsyncIterator[tuple[Daemon, Connection, OfferedChannel, Channel]]:
    """A daemon, the host's connection, and both ends of an open channel on vm1."""
    async with (
        start_daemon(tmp_path, config) as daemon,
        connect(daemon.socket_path, name="the host") as host,
        connect(daemon.socket_path, name="the guest") as guest,
    ):
        offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=host_mode)
        channel = await (await guest.machine("vm1")).open_channel(ECHO, send_pages=1, mode=guest_mode)
        await offered.opened()
        yield daemon, host, offered, channel


async def why(daemon: Daemon, channel: str = "vm1") -> dict[str, Any]:
    """What is said of the one channel there is."""
    said = await run_client(CLI, "why", channel, "--json", daemon=daemon)
    (found,) = json.loads(said.stdout)
    return dict(found)


async def inspected(daemon: Daemon) -> dict[str, Any]:
    said = await run_client(CLI, "inspect", "vm1", "--json", daemon=daemon)
    (entry,) = json.loads(said.stdout)
    return dict(entry)


async def settled(connection: Connection) -> None:
    """What was sent before this has been dispatched."""
    await connection.ping()


async def test_nothing_waits(tmp_path: Path) -> None:
    async with opened(tmp_path) as (daemon, _, _, _):
        found = await why(daemon, "vm1/1")
        assert found["cause"] == "nothing_waits"
        plain = await run_client(CLI, "why", "vm1", daemon=daemon)
        assert plain.stdout == f"vm1/1: {found['sentence']}\n    {found['next_step']}\n"
        entry = await inspected(daemon)
        assert (await run_client(CLI, "inspect", "vm1", daemon=daemon)).stdout.startswith("channel 1 ")
        assert entry["rings"]["to_host"] | {"interrupt_mask": 0} == {
            "data_bytes": 4096,
            "write_index": 0,
            "read_index": 0,
            "used_bytes": 0,
            "free_bytes": 4096,
            "interrupt_mask": 0,
            "pending_send_bytes": 0,
            "feature_bits": 1,
        }
        assert entry["ends"]["guest"]["window_in"] == {"packets": 256, "bytes": 4096}


async def test_not_open_and_no_offer_and_unknown(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path, name="early") as client:
        unknown = await why(daemon, f"vm1/{ECHO}")
        assert unknown["cause"] == "unknown"
        machine = await client.machine("vm1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.open_channel, ECHO)
            await trio.testing.wait_all_tasks_blocked()
            await settled(client)
            found = await why(daemon, f"vm1/{ECHO}")
            assert found["cause"] == "no_offer"
            assert "1 guest waits for it: session" in found["sentence"]
            nursery.cancel_scope.cancel()
        await machine.offer_channel(ECHO)
        assert (await why(daemon))["cause"] == "not_open"
        odd = await run_client(CLI, "why", "vm1/echo", daemon=daemon, expect_exit=1)
        assert "'echo' is neither the number of a channel nor a GUID" in odd.stderr


async def test_packets_that_are_not_completed(tmp_path: Path) -> None:
    async with opened(tmp_path) as (daemon, host, offered, channel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, b"answer me")
            packet = await anext(offered)
            found = await why(daemon)
            assert found["cause"] == "not_completed"
            (entry,) = await host.inspect("details")
            assert entry["ends"]["host"]["uncompleted"] == 1
            assert entry["ends"]["host"]["quota"] == 4096
            shown = await run_client(CLI, "inspect", "vm1", daemon=daemon)
            assert "the host owes 1 completion, the oldest for transaction 0x1" in shown.stdout
            assert "the host" in found["sentence"]
            assert "has 1 packet and has not completed them" in found["sentence"]
            await packet.complete()
        assert (await why(daemon))["cause"] == "nothing_waits"


async def test_a_host_that_takes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (daemon, _, _, channel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, channel)
            await stuck(daemon, "receiver_window")
            entry = await inspected(daemon)
            assert min(entry["ends"]["host"]["window_out"].values()) <= 0
            assert entry["rings"]["to_host"]["used_bytes"] > 0
            assert min(entry["ends"]["guest"]["window_in"].values()) <= 0
            nursery.cancel_scope.cancel()


async def flood(channel: Channel) -> None:
    """Packets without completion, until nobody takes them."""
    while True:
        await channel.send(bytes(512), flags=NO_WAIT)


async def stuck(daemon: Daemon, cause: str) -> dict[str, Any]:
    """What is said once the channel has come to its halt."""
    async with connect(daemon.socket_path) as looking:
        with trio.fail_after(60):
            while diagnose_offer(*await looking.inspect("details")).cause != cause:
                pass
    found = await why(daemon)
    assert found["cause"] == cause
    return found


async def test_a_quota_that_is_used_up(tmp_path: Path) -> None:
    async with opened(tmp_path, "[limits]\noutstanding_packets = 3\n") as (daemon, _, offered, channel):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(channel.send, b"12345678", None)
            held = [await anext(offered) for _ in range(3)]
            found = await stuck(daemon, "quota")
            assert "has 3 packets and has completed none of them, as many as its quota allows" in found["sentence"]
            for packet in held:
                await packet.complete()
            for _ in range(2):
                await (await anext(offered)).complete()


async def test_a_packet_that_was_failed(tmp_path: Path) -> None:
    async with opened(tmp_path) as (daemon, host, offered, channel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, b"malformed")
            await (await anext(offered)).fail()
            await settled(host)
            nursery.start_soon(channel.send, b"in vain")
            assert (await stuck(daemon, "stopped"))["next_step"] == "Close the channel and open it again."
            nursery.cancel_scope.cancel()


async def test_a_host_that_does_not_read_its_socket(tmp_path: Path) -> None:
    async with (
        start_daemon(tmp_path) as daemon,
        raw_client(daemon.socket_path) as host,
        connect(daemon.socket_path) as guest,
    ):
        await host.attach()
        await host.offer(UUID(ECHO).bytes_le)
        channel = await (await guest.machine("vm1")).open_channel(ECHO)
        # Answers it does not read fill its outbox, so that its packets stay where they are.
        await host.say(request(99, "daemon.inspect", "machines", None, 0) * 3000)
        while (await guest.inspect("details"))[0]["ends"]["host"]["outbox_bytes"] < OUTBOX_HIGH_BYTES:
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, b"anybody there?")
            found = await stuck(daemon, "client_does_not_read")
            assert "(client 'raw'" in found["sentence"]
            nursery.cancel_scope.cancel()


async def test_a_direct_host_that_does_not_look(tmp_path: Path) -> None:
    async with opened(tmp_path, host_mode="direct") as (daemon, _, offered, channel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, b"answer me", None)
            await anext(offered)
            assert (await stuck(daemon, "not_completed"))["sentence"].endswith("1 packet of the other side's.")
            nursery.cancel_scope.cancel()


async def test_a_direct_host_that_never_looks(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as guest:
        # Without an event loop nothing of the host's runs between its calls.
        with clients.sync.connect(daemon.socket_path, name="asleep") as host:
            host.machine("vm1").offer_channel(ECHO, mode="direct")
            channel = await (await guest.machine("vm1")).open_channel(ECHO)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.send, b"wake up!")
                found = await stuck(daemon, "direct_does_not_read")
                assert "(client 'asleep'" in found["sentence"]
                assert "leaves 32 bytes unread" in found["sentence"]
                nursery.cancel_scope.cancel()


async def test_a_machine_that_failed(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), connect(path) as client:
        server.machines["vm1"].fail(RuntimeError("a fault in a core"))
        (described,) = await client.inspect("machines", "vm1")
        found = diagnose_absence(described, await client.inspect("waiting", "vm1"))
        assert found.cause == "machine_failed"
        assert "RuntimeError: a fault in a core" in found.sentence


async def test_indices_that_were_overwritten(tmp_path: Path) -> None:
    async with opened(tmp_path, guest_mode="direct", host_mode="direct") as (daemon, host, _, _):
        memory = (await host.machine("vm1")).memory.mapped
        await (
            trio.testing.wait_all_tasks_blocked()
        )  # both ends have had their first look, and find nothing by themselves
        fresh = [
            page
            for page in range(memory.page_count)
            if memory.read(page * 4096, 8) == bytes(8) and memory.read(page * 4096 + 64, 4) == struct.pack("<I", 1)
        ]
        assert len(fresh) == 2  # the control pages of both rings
        for page in fresh:
            memory.write(page * 4096, struct.pack("<I", 0xFFFFFFF0))
        assert "somebody who maps the memory has overwritten them" in (await stuck(daemon, "ring_damaged"))["sentence"]


async def test_top_shows_rates_and_ends_after_its_count(tmp_path: Path) -> None:
    async with opened(tmp_path) as (daemon, _, _, _):
        said = await run_client(CLI, "top", "--interval", "0.05", "--count", "2", "--json", daemon=daemon)
        looks = [json.loads(line) for line in said.stdout.splitlines()]
        assert [sorted(each["machine"] for each in look) for look in looks] == [["vm1", "vm2"]] * 2
        plain = await run_client(CLI, "top", "--count", "1", daemon=daemon)
        assert "TO HOST/S" in plain.stdout


def test_rates_are_differences_over_time_and_the_busiest_comes_first() -> None:
    names = ("packets_to_host", "packets_to_guest", "bytes_to_host", "bytes_to_guest")
    before = [{"machine": name, **dict.fromkeys(names, 100)} for name in ("a", "b")]
    now = [
        {"machine": "a", **dict.fromkeys(names, 100)},
        {"machine": "b", **dict.fromkeys(names, 150)},
        {"machine": "new", **dict.fromkeys(names, 10**9)},
    ]
    rated = _rates(before, now, 2.0)
    assert [each["machine"] for each in rated] == ["b", "a", "new"]
    assert rated[0]["packets_to_host_per_second"] == 25.0


async def test_a_driver_that_has_paused_and_one_that_is_in_a_callback(tmp_path: Path) -> None:
    entered, leave = trio.Event(), trio.Event()

    async def slow_start(_channel: DriverChannel) -> None:
        entered.set()
        await leave.wait()

    async with machines(tmp_path) as (_, near, far):
        guest, host = guest_of(near, Seen()), host_of(far, Seen(started=slow_start))
        await host.enable()  # and paused, as a host is at first
        await guest.enable()
        await active(guest)
        sent = guest.submit(b"12345678")

        async def cause() -> str:
            return diagnose_offer(*await near._connection.inspect("details")).cause

        assert await cause() == "paused"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.start)
            await entered.wait()
            assert await cause() == "callback"
            leave.set()
            await (await anext(host)).complete()
        await guest.finish(sent)
        assert await cause() == "nothing_waits"
