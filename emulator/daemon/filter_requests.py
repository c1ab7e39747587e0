"""What a client may ask as a filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.daemon.filters import FilterEnd
from emulator.daemon.machine_requests import stale_or_unknown
from emulator.status import NtStatus, Refused

if TYPE_CHECKING:
    from emulator.daemon.session import Session


class FilterRequests:
    """One session's filters."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._filters: dict[int, FilterEnd] = {}
        self._given = 0

    def _find(self, number: int) -> FilterEnd:
        end = self._filters.get(number)
        if end is None or end.place is None or end.place.removed:
            stale_or_unknown("filter", number, self._given)
            raise Refused(NtStatus.INVALID_DEVICE_STATE, f"filter {number} is not attached any more")
        self._session.acting_on = end.filters.machine
        end.filters.machine.require_alive()
        return end

    def close_all(self, reason: str) -> None:
        """The session ended: its filters go, and what they hold passes on."""
        for end in self._filters.values():
            if end.filters.machine.failure is None:
                with end.filters.machine.contained():
                    end.filters.remove(end, reason)
        self._filters.clear()

    def filter_attach(self, msgid: int, machine: int, network: str, events: bool) -> tuple[Any, ...]:
        found = self._session.machine_requests.find(machine)
        end = FilterEnd(found.datagrams.filters, self._session, network, self._given + 1)
        found.datagrams.filters.attach(end, events=events)
        self._given += 1
        self._filters[end.number] = end
        return (end.number,)

    def filter_detach(self, msgid: int, filter: int) -> tuple[Any, ...]:
        end = self._filters.pop(filter, None)
        if end is None:
            stale_or_unknown("filter", filter, self._given)
        else:
            end.filters.remove(end, "it was detached")
        return ()

    def filter_query(
        self,
        msgid: int,
        filter: int,
        file: int,
        query_type: int,
        length: int,
    ) -> tuple[Any, ...]:
        found = self._find(filter).filters.query(file, query_type, length)
        return int(found.status), found.information, found.message, found.data
