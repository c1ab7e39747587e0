"""A machine brought to life: its memory, its offers and channels, its TDI transport, and what ends it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import trio

from emulator.config import Config, MachineConfig
from emulator.daemon.bus import MachineBus
from emulator.daemon.channel_side import ChannelSide, DirectEnd
from emulator.daemon.channels import Channel
from emulator.daemon.counters import Counters
from emulator.daemon.datagrams import Datagrams
from emulator.daemon.log import logger
from emulator.daemon.memfile import MemoryFile
from emulator.daemon.mmio import MmioSpace
from emulator.daemon.offers import Offer
from emulator.daemon.quotas import Quotas
from emulator.daemon.violations import Repeats
from emulator.memory import PageAllocator, PagedOut
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.profile import ChannelProfile

if TYPE_CHECKING:
    from emulator.daemon.driver_guest import WaitingDriver
    from emulator.daemon.pending import PendingOpen
    from emulator.daemon.segments import Segments
    from emulator.daemon.session import Session


@lru_cache(64)
def _shared(profile: ChannelProfile) -> ChannelProfile:
    """A thousand machines have few different profiles between them."""
    return profile


class Machine:
    """One simulated machine. Whatever goes wrong inside it ends it, and nothing else."""

    def __init__(
        self, name: str, settings: MachineConfig, config: Config, segments: Segments, file: MemoryFile
    ) -> None:
        self.name = name
        self.limits = config.limits
        self.profile = _shared(config.channel_profile(settings))
        self.profile_name = settings.profile
        self.file = file
        self.memory = self.file.memory
        self.pages = PageAllocator(self.memory.page_count)
        self.paged_out = PagedOut()
        self.mmio = MmioSpace(self.memory.byte_count)
        self.has_verifier = settings.verifier
        self.offers: list[Offer] = []
        self.waiting: list[PendingOpen | WaitingDriver] = []
        self.channels: dict[int, Channel] = {}
        self.datagrams = Datagrams(name, config, settings, segments.ports_of(name, settings), time.time())
        self.datagrams.fault = self.fail
        self.datagrams.filters.machine = self
        self.datagrams.outside = segments
        segments.serve(name, self.datagrams)
        self.quotas = self.datagrams.quotas = Quotas(self, settings.quota)
        self.bus = MachineBus(self, settings)
        self.failure: str | None = None
        self.removed: str | None = None
        # Those that began to act on it and have not ended.
        self.attached_sessions: set[Session] = set()
        self.counters = Counters()
        # Rings found damaged, by whose end found it.
        self.damages = Repeats()
        # Reading the clock twice for each packet is for those who look at the result.
        self.measures_latency = config.metrics.listen is not None
        self._nursery: trio.Nursery | None = None
        self._pump: Callable[[], None] = lambda: None
        self._channels_opened = 0
        self._log = logger().bind(machine=name)

    def __str__(self) -> str:
        return f"machine {self.name}"

    # ---- tasks

    async def run(
        self, pump: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Everything of this machine that waits. ``pump`` sends on what it brought."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._pump = pump
            self.datagrams.begin(lambda task: nursery.start_soon(task, pump))
            task_status.started()
            try:
                if self.removed is None:  # it may have been before its task ever ran
                    await trio.sleep_forever()
            finally:
                # Sessions that end after this have nothing to wait for any more.
                self._nursery = None
                self.datagrams.begin(lambda _task: None)
                nursery.cancel_scope.cancel()

    def start_soon(self, listen: Callable[[Any, Callable[[], None]], Awaitable[None]], hosted: object) -> None:
        """A task of one channel's, which ends with the channel."""
        if self._nursery is not None:
            self._nursery.start_soon(listen, hosted, self._pump)

    # ---- memory

    def discard(self, pfns: tuple[int, ...]) -> None:
        """Freed pages go back to the system, and are zero when they are allocated again."""
        self.file.discard(pfns)

    def take_memory_back(self, session: Session) -> None:
        """A session has ended: what it held is free, but not while a direct host may still look at rings in it."""
        if not self.bus.rings.linger_in(session):
            self.discard(self.pages.release(session))

    # ---- offers and channels

    def next_channel_number(self) -> int:
        """Channels count up over the machine's life."""
        self._channels_opened += 1
        return self._channels_opened

    @staticmethod
    def new_instance_id() -> uuid.UUID:
        """An instance id for a host that named none."""
        return uuid.uuid4()

    def add_offer(self, offer: Offer) -> None:
        """Take up an offer; refused when the same interface and instance are offered already, or too much is."""
        for other in self.offers:
            if (other.interface, other.instance) == (offer.interface, offer.instance):
                text = f"{offer} is already offered by {other.session}; rescind it there, or offer another instance"
                raise Refused(NtStatus.OBJECT_NAME_COLLISION, text)
        if len(self.offers) >= self.limits.offers_per_machine:
            text = f"{self} already has {len(self.offers)} offers, as many as a bus can have"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)
        self.quotas.check_offers()
        self.bus.offer(offer)
        self.offers.append(offer)

    def offer_available(self, offer: Offer) -> None:
        """An offer is free: the longest waiting guest that wants it and can have it gets it."""
        for waiter in [waiter for waiter in self.waiting if waiter.matches(offer)]:
            if offer in self.offers and offer.channel is None:
                waiter.answer(offer)

    def rescind(self, offer: Offer, reason: str) -> None:
        """Take an offer away; its open channel closes, and the guest's packets complete with DEVICE_REMOVED."""
        if offer in self.offers:
            self.offers.remove(offer)
            self._revoke(offer, reason, offer.channel.host if offer.channel is not None else None)

    def offer_again(self, offer: Offer, reason: str, by: ChannelSide | DirectEnd) -> None:
        """The host closes an opening: on this bus that is to rescind the offer and to make it anew."""
        self._revoke(offer, reason, by)
        self.bus.offer(offer)
        self.offer_available(offer)

    def _revoke(self, offer: Offer, reason: str, by: ChannelSide | DirectEnd | None) -> None:
        if offer.channel is not None:
            offer.channel.end(NtStatus.DEVICE_REMOVED, reason, by=by)
        self.bus.revoke(offer)

    # ---- failure and end

    @property
    def is_alive(self) -> bool:
        """Whether it has neither failed nor been removed; of one that has, nothing is left to close."""
        return self.failure is None and self.removed is None

    def require_alive(self) -> None:
        """Refuse whatever is asked of a machine that has failed."""
        if self.removed is not None:
            raise Refused(NtStatus.DEVICE_REMOVED, f"{self} is gone: {self.removed}")
        if self.failure is not None:
            text = f"{self} failed ({self.failure}); restart the daemon to have it again, and please report the log"
            raise Refused(NtStatus.DEVICE_NOT_READY, text)

    @contextmanager
    def contained(self) -> Iterator[None]:
        """Around what the end of a session, or of the daemon, does here: a fault ends this machine, and the others are
        still seen to.
        """
        try:
            yield
        except PeerViolation as violation:
            self._log.warning("machine.not_let_go", why=str(violation))
        except Exception as error:  # noqa: BLE001 -- the machine is the unit of failure
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """A fault in a core: the machine ends, its channels are rescinded, and the log has the traceback once."""
        if self.failure is not None:
            return
        self.failure = f"{type(error).__name__}: {error}"
        self._log.error("machine.failed", exc_info=error)
        try:
            self._end(f"{self} failed ({self.failure})")
        except Exception as another:  # noqa: BLE001 -- a core that has failed may fail again when it is closed
            self._log.error("machine.not_closed", exc_info=another)

    def _end(self, reason: str) -> None:
        for waiter in list(self.waiting):
            waiter.give_up(NtStatus.DEVICE_NOT_READY, reason)
        self.offers.clear()
        for channel in list(self.channels.values()):
            channel.end(NtStatus.DEVICE_REMOVED, reason)
        self.datagrams.close_all()

    def stop(self, reason: str) -> None:
        """The daemon stops: offers are rescinded, and what was sent ends with DEVICE_REMOVED."""
        for waiter in list(self.waiting):
            waiter.give_up(NtStatus.DEVICE_REMOVED, reason)
        for offer in list(self.offers):
            self.offers.remove(offer)
            self._revoke(offer, reason, None)
            offer.tell_rescinded(reason)

    def remove(self, reason: str) -> None:
        """It is no longer wanted: everything of it ends, and its clients are told why."""
        self.stop(f"{self} is gone: {reason}")
        self.removed = reason
        self._end(f"{self} is gone: {reason}")
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Nobody looks at it any more."""
        self.datagrams.close_all()
        self.file.close()

    # ---- looking in

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl machines`` shows."""
        return {
            "machine": self.name,
            "profile": self.profile_name,
            "state": "failed" if self.failure else "running",
            "failure": self.failure,
            "memory_bytes": self.memory.byte_count,
            "free_bytes": self.pages.free_pages * 4096,
            "offers": len(self.offers),
            "open_channels": len(self.channels),
            "waiting_guests": len(self.waiting),
            "packets_to_host": self.counters.packets_to_host,
            "packets_to_guest": self.counters.packets_to_guest,
            "bytes_to_host": self.counters.bytes_to_host,
            "bytes_to_guest": self.counters.bytes_to_guest,
            **self.bus.describe(),
            **self.datagrams.describe(),
        }

    def describe_channels(self) -> list[dict[str, Any]]:
        """What ``vmbusctl channels`` shows: every offer, open or not."""
        return [] if self.failure else self.bus.describe_offers()
