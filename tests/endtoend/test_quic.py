"""Clients over UDP: the same conversation, to a daemon in another process."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from clients import connect
from tests.endtoend.programs import ECHO
from tests.support.remote import start_remote


@pytest.mark.parametrize("packet_bytes", [1200, 1452, 16_000])
async def test_a_guest_and_a_host_over_udp_exchange_packets(tmp_path: Path, packet_bytes: int) -> None:
    async with start_remote(tmp_path, f"packet_bytes = {packet_bytes}") as remote:
        async with (
            connect(remote.where, credentials=remote.credentials, packet_bytes=packet_bytes) as one,
            connect(remote.where, credentials=remote.credentials, packet_bytes=packet_bytes) as two,
        ):
            guest, host = await one.machine("vm1"), await two.machine("vm1")
            offered = await host.offer_channel(ECHO)
            channel = await guest.open_channel(ECHO)
            async with trio.open_nursery() as nursery:

                async def answer() -> None:
                    async for packet in offered:
                        await packet.complete(packet.payload[::-1])

                nursery.start_soon(answer)
                for size in (8, 800, 4000):
                    data = bytes(index % 251 for index in range(size))
                    assert await channel.send(data) == data[::-1]
                nursery.cancel_scope.cancel()
