"""Guest memory by message, for clients that have not mapped it: in chunks, several of them on the way at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from clients.calls import Call
from clients.memory import pages_of
from emulator.memory import GpaRange
from emulator.wire.schema import MEMORY_READ, MEMORY_WRITE

if TYPE_CHECKING:
    from clients.connection import Connection

# Chunks are up to 256 KiB: enough of them to fill a path of 100 ms and 80 Mbit/s, and little of what may be unanswered.
MOST_ON_THE_WAY = 4


async def read_ranges(connection: Connection, machine: int, ranges: Iterable[GpaRange]) -> bytes:
    """A copy of ranges of guest memory, one after another. Raises RequestFailed."""
    call = connection.protocol.call
    pieces = (piece for rng in ranges for piece in pages_of(rng))
    results = await _all_done(connection, (call(MEMORY_READ, machine, address, size) for address, size in pieces))
    return b"".join([data for (data,) in results])


async def write_range(connection: Connection, machine: int, rng: GpaRange, data: bytes) -> None:
    """Copy ``data`` to the beginning of a range of guest memory. Raises RequestFailed."""
    await _all_done(connection, _writes(connection, machine, rng, data))


def _writes(connection: Connection, machine: int, rng: GpaRange, data: bytes) -> Iterator[Call]:
    done = 0
    for address, size in pages_of(rng):
        portion = data[done : done + size]
        if not portion:
            break
        yield connection.protocol.call(MEMORY_WRITE, machine, address, portion)
        done += len(portion)


async def _all_done(connection: Connection, calls: Iterator[Call]) -> list[tuple[Any, ...]]:
    """The results of calls, each made when there is room for it. One that fails ends them all."""
    results: list[tuple[Any, ...]] = []
    waiting: deque[Call] = deque()
    try:
        for call in calls:
            waiting.append(call)
            if len(waiting) >= MOST_ON_THE_WAY:
                connection.flush()
                results.append(await connection.finish(waiting.popleft()))
        while waiting:
            results.append(await connection.finish(waiting.popleft()))
    finally:
        for call in waiting:
            connection.protocol.abandon(call)
        if waiting:
            connection.flush()
    return results
