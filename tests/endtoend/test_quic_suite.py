"""The client API's tests of the first day, as they stand, with QUIC in the place of the Unix socket.

Left out are those that look at mapped memory or count descriptors from the test itself, those of very many packets
(``test_quic_path`` has ten thousand over a bad path), and those that kill a client and expect it to be noticed at once.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clients import Connection, connect
from emulator.remote.keyring import Keyring
from tests.endtoend import test_connections, test_datagrams, test_full_rings, test_packets
from tests.support.processes import Daemon, start_daemon
from tests.support.remote import EVERYTHING, quic_section

SUITE: tuple[Callable[[Path], Awaitable[None]], ...] = (
    test_packets.test_posts_without_completion_arrive_whole_and_in_order,
    test_full_rings.test_two_programs_crosswise_guest_and_host_of_each_other_drain,
    test_connections.test_records_both_ways_and_a_release,
    partial(
        test_datagrams.test_programs_of_two_machines_exchange_datagrams,
        network="udp",
        here="127.0.0.1",
        there="127.0.0.1",
        limit=65_507,
    ),
    partial(
        test_datagrams.test_programs_of_two_machines_exchange_datagrams,
        network="lan",
        here="10.0.0.1",
        there="10.0.0.2",
        limit=1_472,
    ),
    test_datagrams.test_an_ordinary_udp_socket_is_a_peer,
    partial(test_datagrams.test_address_objects_that_share_an_address_each_get_every_datagram, network="lan"),
    test_datagrams.test_an_address_in_use_is_refused,
    partial(test_datagrams.test_s9_the_three_queries_name_the_same_limit, network="lan", limit=1_472),
    test_datagrams.test_datagrams_that_are_not_taken_are_dropped_at_the_bound_and_counted,
)
MODULES = (test_packets, test_full_rings, test_connections, test_datagrams)


def name_of(test: Any) -> str:
    """A test's name, with the network it is for."""
    made = getattr(test, "func", test)
    network = getattr(test, "keywords", {}).get("network", "")
    return f"{made.__name__.removeprefix('test_')}{'-' if network else ''}{network}"


@pytest.mark.parametrize("test", SUITE, ids=name_of)
async def test_over_udp(
    test: Callable[[Path], Awaitable[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everybody_over_udp(path: str | os.PathLike[str], **options: Any) -> AbstractAsyncContextManager[Connection]:
        return connect(os.environ["VMBUS_PLACE"], **options, credentials=os.environ["VMBUS_CREDENTIALS"])

    @asynccontextmanager
    async def reached_over_udp(tmp_path: Path, config: str = "", **options: Any) -> AsyncIterator[Daemon]:
        keyring = Keyring.init(tmp_path / "keys")
        credentials = keyring.add("everything", EVERYTHING)
        async with start_daemon(tmp_path, config + quic_section(keyring.directory), **options) as daemon:
            async with connect(daemon.socket_path) as local:
                (described,) = await local.inspect("daemon")
            monkeypatch.setenv("VMBUS_PLACE", f"quic://{described['quic']}")
            monkeypatch.setenv("VMBUS_CREDENTIALS", str(credentials))
            yield daemon

    for module in MODULES:
        monkeypatch.setattr(module, "start_daemon", reached_over_udp)
        monkeypatch.setattr(module, "connect", everybody_over_udp)
    await test(tmp_path)
