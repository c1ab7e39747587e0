"""Rings that a bus guest laid out: which channels use the memory of a page list, and when it may go back to the guest.

The memory is the guest's own. A hosted end is done with it at once; a direct host reads its rings to the end first, and
until it says that it has, neither the page list goes back to the guest nor, should the guest be gone, the pages to the
machine. Only a machine that starts over waits for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from emulator.daemon.bus_guest import BusGuest, BusGuestChannel
from emulator.daemon.log import logger
from emulator.daemon.offers import Offer
from emulator.memory import AddressOutsideMemory
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.bus_link import Effect
from emulator.vmbus.faults import BusFault
from emulator.vmbus.host import HostBus
from emulator.vmbus.host_effects import OpenRequest
from emulator.vmbus.message_types import STATUS_FAILED, STATUS_OK

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session

# A page list by the offer key of its channel and its own id.
PageList = tuple[int, int]


class BusGuestRings:
    """The channels of one machine's bus guest, by the page lists their rings lie in."""

    def __init__(self, machine: Machine, host: HostBus) -> None:
        self._machine = machine
        self._host = host
        self._users: dict[PageList, list[BusGuestChannel]] = {}
        self._owed: dict[PageList, list[BusGuestChannel]] = {}  # asked back while a direct host is not done
        self._lingering: set[BusGuestChannel] = set()  # of guests that are gone, and their direct hosts not done
        self._is_starting_over = False
        self._end = ""  # why the guest side starts over, while it does
        self._log = logger().bind(machine=machine.name)

    def open(self, offer: Offer, request: OpenRequest, guest: BusGuest) -> int:
        """Both ends of a channel; the status for the host bus."""
        channel = BusGuestChannel(offer, guest, request)
        try:
            offer.machine.quotas.check_channels()
            channel.open(request, wait=offer.driver is not None)
        except (PeerViolation, AddressOutsideMemory) as error:
            channel.note(BusFault.UNUSABLE_RING, str(error), "bus.open_failed")
            return STATUS_FAILED
        except Refused as refusal:
            self._log.warning("bus.open_failed", channel_id=request.channel_id, error=str(refusal))
            return STATUS_FAILED
        offer.channel = channel
        at = offer.key, request.ring_gpadl_id
        before = [each for each in self._users.get(at, ()) if each.is_held]
        self._users[at] = [*before, channel]
        return STATUS_OK

    def finish_open(self, offer: Offer, status: int) -> int:
        """The host's driver has decided on a channel of the bus guest's; the status for the host bus."""
        channel = offer.channel
        if not isinstance(channel, BusGuestChannel):
            return status
        if status == STATUS_OK:
            try:
                channel.open_guest_end()
                return STATUS_OK
            except PeerViolation as error:
                self._log.warning("bus.open_failed", channel_id=channel.channel_id, error=str(error))
        channel.give_back_pages()
        offer.channel = None
        return STATUS_FAILED

    @property
    def is_starting_over(self) -> bool:
        """Whether nothing is waited for, since the guest side starts over."""
        return self._is_starting_over

    def close(self, offer: Offer) -> None:
        """The guest closed a channel."""
        if isinstance(offer.channel, BusGuestChannel):
            offer.channel.end(NtStatus.CANCELLED, self._end or "the guest closed the channel")
            offer.channel.give_back_pages()
            offer.channel = None

    def revoke(self, offer: Offer) -> None:
        """The host took the offer back: nobody will be asked for its page lists any more."""
        if isinstance(offer.channel, BusGuestChannel):
            offer.channel.give_back_pages()
            offer.channel = None
        self._users = {at: each for at, each in self._users.items() if at[0] != offer.key}

    def tear_down(self, at: PageList) -> Iterable[Effect]:
        """The guest wants a page list back: now, or when the last direct host is done with rings in it."""
        channels = self._users.pop(at, [])
        for channel in channels:
            channel.end(NtStatus.CANCELLED, self._end or "the guest took back the memory of the rings")
        held = [channel for channel in channels if channel.is_held]
        if held and not self._end:
            self._owed[at] = held
            return ()
        self._linger(held)
        return self._host.gpadl_torn_down(*at)

    def let_go(self, channel: BusGuestChannel) -> Iterator[Effect]:
        """A direct host is done with the rings of a channel."""
        for at, held in list(self._owed.items()):
            if channel in held:
                held.remove(channel)
                if not held:
                    del self._owed[at]
                    yield from self._host.gpadl_torn_down(*at)
        if channel in self._lingering:
            self._lingering.remove(channel)
            self._machine.take_memory_back(channel.holder)

    def start_over(self, reason: str) -> Iterator[Effect]:
        """The guest side starts over, from when this is begun until it is used up: nothing is waited for."""
        self._end, self._is_starting_over = reason, True
        for at, held in list(self._owed.items()):
            del self._owed[at]
            self._linger(held)
            yield from self._host.gpadl_torn_down(*at)
        yield from self._host.reset()

    def started_over(self, offers: Iterable[Offer]) -> None:
        """The guest side has started over. Drivers that still think about opening do so for nobody."""
        for offer in offers:
            if isinstance(offer.channel, BusGuestChannel) and offer.driver is not None and not offer.channel.is_open:
                offer.driver.closing(waits=False)
                offer.channel.give_back_pages()
                offer.channel = None
        self._end, self._is_starting_over = "", False
        self._users.clear()

    def _linger(self, held: Iterable[BusGuestChannel]) -> None:
        self._lingering.update(channel for channel in held if not channel.holder.is_open)

    def linger_in(self, session: Session) -> bool:
        """Whether a direct host may still look at rings in memory of this session, which was a bus guest."""
        return any(channel.holder is session for channel in self._lingering)
