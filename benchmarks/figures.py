"""Repetitions to medians and ratios.

A ratio says how fast the daemon is in units of the relay: relay time by hosted time, or hosted rate by relay rate. So
1.0 is the speed of a program that moves the same bytes and does nothing else, 0.25 is a quarter of that, and higher is
better. It is taken inside each repetition, from two measurements next to each other, and the median is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.rows import Carrier, Row

Measurement = Mapping[str, float]
Repetition = Mapping[Carrier, Measurement]
Figure = dict[str, dict[str, float]]


def figure(row: Row, repetitions: Sequence[Repetition]) -> Figure:
    """What is kept of a row: for each carrier p50 and p99 in microseconds, or packets a second; and the ratio."""
    keys = ("p50", "p99") if row.is_round_trip else ("rate",)
    kept: Figure = {}
    for carrier in row.carriers:
        kept[carrier] = {key: round(median(each[carrier][key] for each in repetitions), 1) for key in keys}
    ratio: dict[str, float] = {}
    for key in keys:
        ratio[key] = round(median(_ratios(repetitions, key)), 3)
    first = _ratios(repetitions, keys[0])
    kept["ratio"] = {**ratio, "lowest": round(min(first), 3), "highest": round(max(first), 3)}
    return kept


def _ratios(repetitions: Sequence[Repetition], key: str) -> list[float]:
    pairs = [(each[Carrier.HOSTED][key], each[Carrier.RELAY][key]) for each in repetitions]
    return [hosted / relay if key == "rate" else relay / hosted for hosted, relay in pairs]
