"""The conversation's part for filters: what the daemon asks and tells a client that stands above a device. Pure."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from clients.handlers import Handlers
from emulator.status import NtStatus
from emulator.tdi.constants import MajorFunction
from emulator.wire.codec import encode_error
from emulator.wire.schema import FILTER_CLEANUP, FILTER_COMPLETED, FILTER_DETACHED, Method

MOST_ENDS = 1_024
"""Ends of watched requests that are kept for whoever asks; the oldest goes for the newest."""


class Asked(NamedTuple):
    """What a filter was asked about: the request to answer, None for what is only told, and its fields."""

    msgid: int | None
    args: tuple[Any, ...]


class FilterState:
    """One attached filter: what it has been asked, and the ends it watches for."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: deque[Asked] = deque()
        self.ends: dict[int, tuple[Any, ...]] = {}
        self.closed: tuple[NtStatus, str] | None = None
        self.waiter: Any = None

    def ended(self, serial: int, end: tuple[Any, ...]) -> None:
        """A watched request is over."""
        if len(self.ends) >= MOST_ENDS:
            del self.ends[next(iter(self.ends))]
        self.ends[serial] = end


class Filtering(Handlers):
    """What is received for filters."""

    def __init__(self) -> None:
        super().__init__()
        self._filters: dict[int, FilterState] = {}

    def add_filter(self, state: FilterState) -> None:
        """This client is a filter."""
        self._filters[state.number] = state

    def drop_filter(self, state: FilterState, status: NtStatus, reason: str) -> None:
        """It is not any more."""
        self._filters.pop(state.number, None)
        state.closed = state.closed or (status, reason)
        self._touched.append(state)

    def _close_filters(self, reason: str) -> None:
        for state in list(self._filters.values()):
            self.drop_filter(state, NtStatus.DEVICE_REMOVED, reason)

    def _filter_asked(self, msgid: int, args: tuple[Any, ...]) -> None:
        state = self._filters.get(args[0])
        if state is None:
            self.outgoing += encode_error(msgid, NtStatus.INVALID_DEVICE_STATE, "this filter has been detached")
            return
        state.items.append(Asked(msgid, args[1:]))
        self._touched.append(state)

    def _filter_told(self, method: Method, args: tuple[Any, ...]) -> None:
        state = self._filters.get(args[0])
        if state is None:
            return
        if method is FILTER_COMPLETED:
            state.ended(args[1], args[2:])
        elif method is FILTER_CLEANUP:
            cleanup = 0, args[1], args[2], int(MajorFunction.CLEANUP), 0, 0, b"", b"", 0, b"", None
            state.items.append(Asked(None, cleanup))
        elif method is FILTER_DETACHED:
            self.drop_filter(state, NtStatus.DEVICE_REMOVED, f"the filter was removed: {args[1]}")
        self._touched.append(state)
