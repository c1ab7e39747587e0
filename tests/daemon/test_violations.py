"""Mistakes are counted by kind, told a few times in full, and go with the channel their message names."""

from __future__ import annotations

from typing import Any, cast

import pytest
import structlog

from emulator.daemon.violations import LISTED_KINDS, Repeats, Tally, Violations, is_told
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusError, BusFault, Violation
from emulator.vmbus.host import HostBus
from emulator.vmbus.messages import pack_message


def mistake(fault: BusFault, detail: str = "something") -> Violation:
    return Violation.of(BusError(fault, detail))


class Recorder:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append({"event": event, **values})


def test_each_kind_is_logged_five_times_and_then_at_powers_of_ten() -> None:
    recorder = Recorder()
    violations = Violations(cast(structlog.typing.FilteringBoundLogger, recorder))
    for _ in range(100_001):
        violations.note(mistake(BusFault.PAUSED), None)
    violations.note(mistake(BusFault.INVALID_RING), None, "bus.open_failed")
    counts = [line["count"] for line in recorder.lines if line["fault"] == "PAUSED"]
    assert counts == [1, 2, 3, 4, 5, 10, 100, 1000, 10_000, 100_000]
    assert recorder.lines[-1]["event"] == "bus.open_failed"
    assert violations.total == 100_002
    assert violations.tally.counts() == {"PAUSED (2.5)": 100_001, "INVALID_RING (2.6)": 1}


def test_repeats_are_counted_for_each_kind() -> None:
    repeats = Repeats()
    told = [(kind, count) for kind in "ab" * 11 if is_told(count := repeats.add(kind))]
    assert told == [(kind, count) for count in (1, 2, 3, 4, 5, 10) for kind in "ab"]


def test_a_tally_lists_the_kinds_seen_last_and_what_was_said_of_the_last_of_each() -> None:
    tally = Tally()
    kinds = list(BusFault)
    for number in range(2):
        for kind in kinds:
            tally.add(mistake(kind, f"number {number}"))
    tally.add(mistake(kinds[0], "x" * 10_000))
    latest = tally.latest()
    assert [entry["fault"] for entry in latest] == [kinds[0].name, kinds[-1].name, kinds[-2].name][:LISTED_KINDS]
    assert [entry["count"] for entry in latest] == [3, 2, 2]
    assert latest[1]["last"].startswith("number 1: ")
    assert len(latest[0]["last"]) <= 600
    assert len(tally.counts()) == len(kinds)


@pytest.mark.parametrize("fault", BusFault)
def test_every_sentence_says_what_is_wrong_the_rule_and_what_to_do(fault: BusFault) -> None:
    text = str(BusError(fault, "channel 7"))
    assert text == f"channel 7: {fault.sentence} [{fault.rule}]; {fault.advice}"
    assert fault.rule[0].isdigit()
    assert fault.sentence[0].islower()
    assert fault.advice[0].islower()


@pytest.mark.parametrize(
    ("message", "channel_id"),
    [
        (m.CloseChannel(7), 7),
        (m.GpadlTeardown(8, 1), 8),
        (m.RelIdReleased(9), 9),
        (m.GpadlBody(10, 11, b""), None),
        (m.RequestOffers(), None),
    ],
)
def test_a_violation_has_the_channel_its_message_names(message: m.Message, channel_id: int | None) -> None:
    bus = HostBus()
    bus.post_message(4, pack_message(m.InitiateContact(m.Version.V5_0, 0, 2, 0, 0)))
    bus.modify_connection_done()
    bus.post_message(1, pack_message(m.RequestOffers()))
    (violation,) = bus.post_message(1, pack_message(message)).effects
    assert isinstance(violation, Violation)
    assert violation.channel_id == channel_id
    assert bus.key_of(7) is None
