"""Page lists between drivers: what a guest has described to a host, and who has it mapped.

The lists themselves are the buses'. Here stands what KMCL adds: a host maps one at a time, one that was made read-only
cannot be mapped for writing, and a guest that deletes one waits until the host does not have it mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from emulator.daemon.log import logger
from emulator.daemon.offers import Offer
from emulator.memory import GpaRange
from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus.bus_link import Effect
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.host import HostBus
from emulator.vmbus.message_types import STATUS_OK, is_failure


@dataclass(slots=True)
class PageList:
    """One page list that the host bus accepted."""

    ranges: tuple[GpaRange, ...]
    is_read_only: bool = False
    is_mapped: bool = False
    is_asked_back: bool = False


class MachineGpadls:
    """The page lists of one machine, by offer key and handle. ``run`` carries out what the buses want."""

    def __init__(self, host: HostBus, run: Callable[[Iterable[Effect]], None]) -> None:
        self._host = host
        self._run = run
        self._lists: dict[tuple[int, int], PageList] = {}
        self._results: dict[int, int] = {}
        self._when_gone: dict[int, Callable[[], None]] = {}

    # ---- what the buses tell

    def accepted(self, offer: Offer, handle: int, ranges: tuple[GpaRange, ...]) -> int:
        """The guest described memory to an offer's host; the status for the bus. Our own guest asked before."""
        try:
            offer.machine.quotas.check_gpadls()
        except Refused as refusal:
            logger().warning("bus.gpadl_refused", machine=offer.machine.name, gpadl=handle, why=refusal.text)
            return int(refusal.status)
        self._lists[offer.key, handle] = PageList(ranges)
        return STATUS_OK

    @property
    def count(self) -> int:
        """How many there are, those of rings included."""
        return len(self._lists)

    def may_go(self, key: int, handle: int) -> bool:
        """The guest wants a list back: now, or when it is unmapped."""
        found = self._lists.get((key, handle))
        if found is not None and found.is_mapped:
            found.is_asked_back = True
            return False
        self._lists.pop((key, handle), None)
        return True

    def forget(self, key: int) -> None:
        """An offer is gone; the bus answers for it from now on."""
        self._lists = {at: found for at, found in self._lists.items() if at[0] != key}

    def created(self, handle: int, status: int) -> None:
        """The end of a creation by the daemon's own guest bus."""
        self._results[handle] = status

    def gone(self, handle: int) -> None:
        """The end of a deletion."""
        when = self._when_gone.pop(handle, None)
        if when is not None:
            when()

    # ---- what a guest's driver asks

    def create(self, guest: GuestBus, offer: Offer, ranges: tuple[GpaRange, ...], *, read_only: bool) -> int:
        """Describe memory to an offer's host; the handle. Raises Refused."""
        if offer.channel_id is None:
            raise Refused(NtStatus.DEVICE_REMOVED, f"{offer} is not offered any more")
        offer.machine.quotas.check_gpadls()
        try:
            handle, effects = guest.create_gpadl(offer.channel_id, ranges)
        except Misuse as misuse:
            raise Refused(NtStatus.INVALID_PARAMETER, str(misuse), rule="2.7") from None
        self._run(effects)
        if is_failure(self._results.pop(handle, -1)):
            text = "the host refused the page list; are all its pages in this machine's memory?"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="2.7")
        self._lists[offer.key, handle].is_read_only = read_only
        return handle

    def delete(self, guest: GuestBus, handle: int, when_gone: Callable[[], None]) -> None:
        """Take memory back. One that went with its channel is gone already."""
        try:
            effects = guest.teardown_gpadl(handle)
        except Refused:
            when_gone()
            return
        self._when_gone[handle] = when_gone
        self._run(effects)

    # ---- what a host's driver asks

    def map(self, offer: Offer, handle: int, *, read_only: bool, denied: NtStatus) -> tuple[GpaRange, ...]:
        """The memory of a list. Raises Refused, with ``denied`` for writing to one that is read-only."""
        found = self._find(offer, handle)
        if found.is_mapped:
            text = f"GPADL 0x{handle:X} is mapped already, and one mapping is all there can be; unmap it first"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.2")
        if found.is_read_only and not read_only:
            text = f"GPADL 0x{handle:X} was made read-only; map it with READ_ONLY (0x1)"
            raise Refused(denied, text, rule="4.2")
        found.is_mapped = True
        return found.ranges

    def unmap(self, offer: Offer, handle: int) -> None:
        """Undo ``map``. Raises Refused for one that is not mapped."""
        found = self._find(offer, handle)
        if not found.is_mapped:
            text = f"GPADL 0x{handle:X} is not mapped"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.2")
        found.is_mapped = False
        if found.is_asked_back:
            del self._lists[offer.key, handle]
            self._run(self._host.gpadl_torn_down(offer.key, handle))

    def unmap_all(self, offer: Offer) -> None:
        """The host's driver is done with an opening, or gone."""
        for key, handle in list(self._lists):
            if key == offer.key and self._lists[key, handle].is_mapped:
                self.unmap(offer, handle)

    def mapped(self, offer: Offer) -> list[int]:
        """Handles of what an offer's host has mapped."""
        return [handle for (key, handle), found in self._lists.items() if key == offer.key and found.is_mapped]

    def _find(self, offer: Offer, handle: int) -> PageList:
        found = self._lists.get((offer.key, handle))
        if found is None:
            text = f"the guest of {offer} has described no memory as GPADL 0x{handle:X}"
            raise Refused(NtStatus.INVALID_HANDLE, text, rule="4.2")
        return found
