"""Looking at rings for a moment before sleeping: a peer that answers soon is then answered without any doorbell."""

from __future__ import annotations

from collections.abc import Callable
from os import sched_yield
from time import perf_counter

from emulator.status import Misuse

# Decision 9 has the figures.
BUSY_POLL_SECONDS = 100e-6
# A wait this many times longer than the look before it would not have been shortened by a longer look either.
WORTH_ANOTHER = 2


class BusyPoll:
    """One waiter's habit: it looks for up to ``seconds`` as long as that pays, and not at all where waits are long.

    Between two looks the cpu is given away, so that a peer on the same cpu can answer. 0 seconds: always sleep at once.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = perf_counter) -> None:
        if not 0 <= seconds <= 1:
            raise Misuse(f"busy polling lasts 0 to 1 seconds, not {seconds!r}; 0 turns it off")
        self._seconds = seconds
        self._clock = clock
        self._pays = seconds > 0
        self._since: float | None = None  # when a look began that found nothing, and no wait has followed it yet

    def look_for(self, found: Callable[[], bool]) -> bool:
        """Look for what takes a moment at least, where looking pays; whether it came. Never sleeps.

        Where it has not come, the ``wait`` that follows goes on from there.
        """
        if not self._pays:
            return False
        sched_yield()
        if found():
            return True  # as it mostly is, and the clock need not be read
        began = self._clock()
        deadline = began + self._seconds
        while True:
            sched_yield()
            if found():
                return True
            if self._clock() > deadline:
                self._since = began
                return False

    def wait(self, look: Callable[[], bool], sleep: Callable[[], None]) -> None:
        """Return when ``look`` has found something, or ``sleep`` has returned."""
        since, self._since = self._since, None
        if look():
            return
        if not self._seconds:
            sleep()
            return
        if since is None and self._pays and self.look_for(look):
            return
        began = since or self._since or self._clock()
        self._since = None
        sleep()
        self._pays = self._clock() - began < WORTH_ANOTHER * self._seconds
