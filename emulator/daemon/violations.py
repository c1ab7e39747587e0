"""What guests did wrong on a machine: counted, remembered in words, and logged so that it cannot fill the log.

Almost every mistake of a guest's is silent on the bus, as on a real one. Here each kind is logged a few times in full,
then at its tenth, hundredth, thousandth, and so on; the count goes along. Listings have the count and the last words.
"""

from __future__ import annotations

from typing import Any

import structlog

from emulator.vmbus.faults import BusFault, Violation

# Enough to see each of the mistakes of one attempt at something; a guest that repeats them adds nothing new.
FIRST_LOGGED = 5
# A listing of many channels, or machines, has to fit into one document.
LISTED_KINDS = 3
LONGEST_TEXT = 600


class Tally:
    """Mistakes by kind, the kind seen last at the end. There are only so many kinds."""

    def __init__(self) -> None:
        self._kinds: dict[BusFault, tuple[int, str]] = {}

    def add(self, violation: Violation) -> int:
        """One more; how many of its kind there are now."""
        count = self._kinds.pop(violation.fault, (0, ""))[0] + 1
        self._kinds[violation.fault] = count, violation.message[:LONGEST_TEXT]
        return count

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {f"{fault.name} ({fault.rule})": count for fault, (count, _) in self._kinds.items()}

    def latest(self) -> list[dict[str, Any]]:
        """The kinds seen last, the last first, each with what was said of the last one of it."""
        kinds = list(reversed(self._kinds.items()))[:LISTED_KINDS]
        return [
            {"fault": fault.name, "rule": fault.rule, "count": count, "last": text} for fault, (count, text) in kinds
        ]


def is_told(count: int) -> bool:
    """Whether the log shall have something that has happened so often."""
    return count <= FIRST_LOGGED or _is_power_of_ten(count)


class Repeats:
    """How often each of a few things has happened, for what is logged as the mistakes of guests are."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, kind: str) -> int:
        """Once more; how often it has now. There have to be only so many kinds."""
        self._counts[kind] = count = self._counts.get(kind, 0) + 1
        return count


class Violations:
    """The mistakes of one machine's guests, and where they are told."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self.tally = Tally()
        self.total = 0

    def note(self, violation: Violation, channel: Tally | None, event: str = "bus.violation") -> None:
        """A guest did something wrong; ``channel`` is the tally of the channel it was about, if it was about one."""
        fault = violation.fault
        self.total += 1
        count = self.tally.add(violation)
        if channel is not None:
            channel.add(violation)
        if is_told(count):
            self._log.warning(event, fault=fault.name, rule=fault.rule, message=violation.message, count=count)


def _is_power_of_ten(count: int) -> bool:
    return str(count).rstrip("0") == "1"
