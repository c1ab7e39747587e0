"""The benchmark of clients over UDP runs, and shows each row by both ways."""

from __future__ import annotations

from benchmarks.remote import ROWS, measure, shown


async def test_every_row_is_measured_by_both_ways() -> None:
    found = await measure(0.001)
    assert list(found) == [name for name, *_ in ROWS]
    assert all(by_way.keys() == {"unix", "quic"} and min(by_way.values()) > 0 for by_way in found.values())
    assert shown(found).count("\n") == len(ROWS) + 1
