"""Random hostile TDI clients against a real daemon: the machines live on, others are served, nothing is left behind."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import trio

from clients import Connection, connect
from tests.daemon.raw import raw_client
from tests.endtoend.test_connections import both
from tests.endtoend.test_hostile_clients import descriptors_come_back
from tests.support.processes import start_daemon
from tests.support.tdi_attacker import NETWORKS, Attacker

# What attackers hold up is over soon; no filter or handler of theirs costs anyone more.
CONFIG = """
[limits]
handler_seconds = 0.05
filter_seconds = 0.05

[segments.lan]

[segments.stream]
connections = "stream"

[machines.vm1.segments]
lan = "10.0.0.1"
stream = "10.0.0.1"

[machines.vm2.segments]
lan = "10.0.0.2"
stream = "10.0.0.2"
"""
PATIENCE_SECONDS = 60.0
HELD = (
    "udp_sockets",
    "tcp_connections",
    "tcp_addresses",
    "handler_calls_waiting",
    "chained_kept",
    "free_bytes",
    "state",
)
AS_IT_WAS = {
    "loss": 0,
    "duplication": 0,
    "reordering": 0,
    "latency_seconds": 0,
    "jitter_seconds": 0,
    "maximum_datagram_bytes": 1472,
    "partition": [],
}


async def served(attached: Connection) -> None:
    """A datagram and a connection from one machine to the other, on each segment."""
    one, two = await attached.machine("vm1"), await attached.machine("vm2")
    for network in NETWORKS[:2]:
        await attached.change_segment(network, **AS_IT_WAS)
        near = await one.open_address(("10.0.0.1", 0), network=network)
        far = await two.open_address(("10.0.0.2", 0), network=network)
        await near.send_datagram(b"still there", far.local)
        assert (await anext(aiter(far))).data == b"still there"
        listening = await far.open_connection()
        here = await near.open_connection()
        await both(listening.listen, partial(here.connect, far.local))
        await here.send(b"data")
        assert await listening.receive() == b"data"
        await near.close()
        await far.close()


async def open_real_sockets(attached: Connection) -> None:
    """Once on each machine and of each kind: what watches them stays as long as the machine."""
    for name in ("vm1", "vm2"):
        for network in ("udp", "tcp"):
            machine = await attached.machine(name)
            await (await machine.open_address(("127.0.0.1", 0), network=network)).close()


async def held(attached: Connection) -> list[dict[str, object]]:
    return [{name: machine[name] for name in HELD} for machine in await attached.inspect("machines")]


@pytest.mark.parametrize("seed", range(4))
async def test_random_requests_of_three_clients_end_no_machine_and_leave_nothing(tmp_path: Path, seed: int) -> None:
    ends: Counter[tuple[str, bool]] = Counter()
    async with start_daemon(tmp_path, CONFIG, "--log-level", "warning") as daemon:

        async def attack(number: int) -> None:
            async with raw_client(daemon.socket_path) as client:
                attacker = Attacker(client, random.Random(f"{seed} {number}"))
                await attacker.run(25)
                ends.update(attacker.ends)
                assert not [notice for notice in client.notices if notice[0] == "goodbye"], "it kept to the wire"

        async with connect(daemon.socket_path) as attached:
            with trio.fail_after(PATIENCE_SECONDS):
                await served(attached)
                await open_real_sockets(attached)
                descriptors, before = daemon.descriptor_count(), await held(attached)
                for _ in range(3):
                    async with trio.open_nursery() as nursery:
                        for number in range(3):
                            nursery.start_soon(attack, number)
                await descriptors_come_back(daemon, descriptors)
                assert await held(attached) == before
                await served(attached)
        assert "Traceback" not in daemon.stderr, daemon.stderr
    for method in ("address.send_datagram", "address.set_event_handler", "connection.connect", "file.create"):
        assert ends[method, True], f"no {method} succeeded, so what is behind it was not reached"
        assert ends[method, False], f"no {method} was refused"
