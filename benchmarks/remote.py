"""``python -m benchmarks.remote``: the same hosted client over QUIC and over the Unix socket, side by side, as ratios.

A daemon as a process of its own; guest and host in this one, each with a connection. Three repetitions of each, in
turns, and the best of them: other work on the machine only makes them slower.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from statistics import median

import click
import trio

from clients import Channel, Connection, OfferedChannel, connect
from emulator.remote.keyring import Keyring

INTERFACE = "5c0e1f8a-4f0b-4a53-9c53-0b6f5a1d7e11"
REPETITIONS = 3
ROLES = ("guest", "host", "datagram")
SMALLEST_PACKET_BYTES = 1200
Place = tuple[str, str | None]


@asynccontextmanager
async def daemon(directory: Path, packet_bytes: int) -> AsyncIterator[dict[str, Place]]:
    """A running daemon; where it is by each way."""
    keyring = Keyring.init(directory / "keys")
    credentials = keyring.add("benchmark", {"vm1": ROLES})
    config, path = directory / "vmbusd.toml", directory / "socket"
    config.write_text(f'[listen.quic]\nport = 0\nkeys = "{keyring.directory}"\npacket_bytes = {packet_bytes}\n')
    command = [sys.executable, "-m", "emulator", "--socket", str(path), "--config", str(config), "--log-level", "error"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        await process.stdout.receive_some()  # that it is ready
        async with connect(path) as local:
            (described,) = await local.inspect("daemon")
        yield {"unix": (str(path), None), "quic": (f"quic://{described['quic']}", str(credentials))}
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


@asynccontextmanager
async def opened(place: Place, packet_bytes: int) -> AsyncIterator[tuple[Channel, OfferedChannel]]:
    """A channel with both ends here, each over a connection of its own."""
    where, credentials = place

    def attached() -> AbstractAsyncContextManager[Connection]:
        return connect(where, map_memory=False, credentials=credentials, packet_bytes=packet_bytes)

    async with attached() as one, attached() as two:
        offered = await (await two.machine("vm1")).offer_channel(INTERFACE)
        channel = await (await one.machine("vm1")).open_channel(INTERFACE)
        yield channel, offered


async def round_trip(channel: Channel, offered: OfferedChannel, size: int, count: int) -> float:
    """Seconds from a packet to its completion, the median."""

    async def answer() -> None:
        async for packet in offered:
            await packet.complete(packet.payload)

    taken: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        for _ in range(count):
            began = trio.current_time()
            await channel.send(bytes(size))
            taken.append(trio.current_time() - began)
        nursery.cancel_scope.cancel()
    return median(taken)


async def post(channel: Channel, offered: OfferedChannel, size: int, count: int) -> float:
    """Packets in a second, one way."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.post, [bytes(size)] * count)
        came = 0
        while came < count:
            came += len(await offered.collect())
    return count / (trio.current_time() - began)


Measured = Callable[[Channel, OfferedChannel, int, int], Awaitable[float]]
# Name, what, bytes of a packet, packets of a full run.
ROWS: tuple[tuple[str, Measured, int, int], ...] = (
    ("round-trip.64", round_trip, 64, 1000),
    ("round-trip.1400", round_trip, 1400, 1000),
    ("post.64", post, 64, 40_000),
    ("post.1400", post, 1400, 8000),
)


async def measure(effort: float, packet_bytes: int = SMALLEST_PACKET_BYTES) -> dict[str, dict[str, float]]:
    """Every row by each way: seconds of a round trip, packets in a second of a post."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as made:
        async with daemon(Path(made), packet_bytes) as places:
            for name, what, size, count in ROWS:
                best = min if what is round_trip else max
                for _ in range(REPETITIONS):
                    for way, place in places.items():
                        async with opened(place, packet_bytes) as (channel, offered):
                            value = await what(channel, offered, size, max(20, int(count * effort)))
                        known = found.setdefault(name, {}).get(way, value)
                        found[name][way] = best(known, value)
    return found


def shown(found: dict[str, dict[str, float]]) -> str:
    """As a table of Markdown."""
    lines = ["| row | unix | quic | ratio |", "|---|---|---|---|"]
    for name, by_way in found.items():
        unix, quic = by_way["unix"], by_way["quic"]
        if name.startswith("round-trip"):
            texts = [f"{value * 1e6:,.0f} µs" for value in (unix, quic)]
        else:
            texts = [f"{value:,.0f}/s" for value in (unix, quic)]
        lines.append(f"| {name} | {texts[0]} | {texts[1]} | {quic / unix:.2f} |")
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A few seconds, to see that it works; the figures mean little.")
@click.option(
    "--packet-bytes",
    type=click.IntRange(1200, 65_000),
    default=SMALLEST_PACKET_BYTES,
    show_default=True,
    help="What a packet of either side holds: 1452 is what Ethernet carries.",
)
def main(*, quick: bool, packet_bytes: int) -> None:
    """Measure a hosted client over QUIC against the same over the Unix socket."""
    found = trio.run(measure, 0.02 if quick else 1.0, packet_bytes)
    click.echo(shown(found))
    click.echo(f"load before and after: {os.getloadavg()[1]:.1f}, {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
