"""What a fault in a segment ends: the segment and the machines on it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import trio
import trio.testing

from emulator.config import Config, MachineConfig
from emulator.daemon.segments import Segments
from emulator.segment_config import SegmentConfig
from emulator.tdi.effects import Effect
from emulator.tdi.segment import Segment
from emulator.tdi.structures import SocketAddress


class Recorder:
    """A machine that notes what it is given, and what it would have failed with."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.failures: list[Exception] = []

    def perform(self, effects: Iterable[Effect]) -> None:
        try:
            self.effects += effects
        except ArithmeticError as error:
            self.failures.append(error)


async def test_a_fault_ends_the_machines_of_the_segment_and_no_other(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        machines={
            "one": MachineConfig(segments={"bad": "10.0.0.1"}),
            "two": MachineConfig(segments={"good": "10.0.0.1"}),
        },
        segments={"bad": SegmentConfig(latency_seconds=1), "good": SegmentConfig(latency_seconds=2)},
    )
    segments = Segments(config)
    machines = {name: Recorder() for name in config.machines}
    for name, settings in config.machines.items():
        (port,) = segments.ports_of(name, settings).values()
        segments.serve(name, machines[name])
        port.segment.carry(SocketAddress("10.0.0.9", 1), SocketAddress("10.0.0.1", 1), b"x", trio.current_time())
        segments.sent_on([port])
    polled: list[str] = []
    deliver = Segment.poll

    def poll(segment: Segment, now: float) -> list[Effect]:
        polled.append(segment.name)
        if segment.name == "bad":
            raise ArithmeticError("a fault in the core")
        return deliver(segment, now)

    monkeypatch.setattr(Segment, "poll", poll)
    async with trio.open_nursery() as nursery:
        await nursery.start(segments.run, lambda: None)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    segments.close()
    assert len(machines["one"].failures) == 1
    assert machines["two"].failures == []
    assert polled.count("bad") == 1
    assert "good" in polled


async def test_an_idle_segment_has_no_timer(autojump_clock: trio.testing.MockClock) -> None:
    segments = Segments(Config())
    woken = 0

    def pump() -> None:
        nonlocal woken
        woken += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(segments.run, pump)
        await trio.sleep(80_000)
        nursery.cancel_scope.cancel()
    segments.close()
    assert woken == 0
