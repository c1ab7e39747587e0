"""What a client may ask about its driver channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from emulator.daemon.driver import Driver
from emulator.daemon.driver_guest import GuestDriver
from emulator.daemon.driver_host import HostDriver
from emulator.daemon.machine_requests import stale_or_unknown
from emulator.daemon.obligations import Patient
from emulator.daemon.roles import Role
from emulator.memory import mdl_from_ranges
from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus.channel_setup import parse_setup_untrusted
from emulator.vmbus.gpadl_arguments import gpadl_ranges
from emulator.vmbus.life_cycle import Phase
from emulator.vmbus.profile import Side
from emulator.wire.codec import encode_error, encode_response
from emulator.wire.runs import pack_mdl_chain, parse_mdl_chain_untrusted

if TYPE_CHECKING:
    from emulator.daemon.session import Session

_BEFORE_CLOSED = frozenset({Phase.DISABLED, Phase.ENABLED, Phase.REFUSED, Phase.CLOSED, Phase.DISPOSED})


class DriverRequests:
    """One session's driver channels, and the requests that name them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._drivers: dict[int, Driver] = {}
        self._given = 0

    def find(self, number: int) -> Driver:
        """The driver channel of that number."""
        driver = self._drivers.get(number)
        if driver is None:
            stale_or_unknown("driver channel", number, self._given)
            text = f"driver channel {number} has been cleaned up; allocate another"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.3")
        driver.machine.require_alive()
        self._session.acting_on = driver.machine
        return driver

    def close_all(self, reason: str) -> None:
        """The session ended: its driver channels leave without another callback."""
        for driver in list(self._drivers.values()):
            with driver.machine.contained():
                driver.abort(reason)
        self._drivers.clear()

    # ---- life cycle

    def driver_allocate(
        self, msgid: int, machine: int, host: bool, direct: bool, setup: str, packets: int, byte_count: int
    ) -> tuple[Any, ...]:
        session = self._session
        found = session.machine_requests.find(machine)
        session.require_role_on(Role.HOST if host else Role.GUEST, found)
        if len(self._drivers) >= session.limits.channels_per_session:
            text = f"this session already has {len(self._drivers)} driver channels"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)
        values = parse_setup_untrusted(setup)
        pages = max(values.incoming_pages, values.outgoing_pages)
        if pages > session.limits.largest_ring_pages:
            text = f"a ring has at most {session.limits.largest_ring_pages} data pages, not {pages}"
            raise Refused(NtStatus.INVALID_PARAMETER, text)
        self._given += 1
        kind = HostDriver if host else GuestDriver
        grant = None if direct else (packets, byte_count)
        self._drivers[self._given] = kind(session, found, values, grant, self._given)
        return self._given, found.has_verifier

    def driver_enable(self, msgid: int, driver: int) -> tuple[Any, ...]:
        self.find(driver).enable()
        return ()

    def driver_start(self, msgid: int, driver: int, from_callback: bool) -> tuple[Any, ...]:
        found = self.find(driver)
        found.perform(found.life.start(trio.current_time(), from_callback=from_callback))
        return ()

    def driver_pause(self, msgid: int, driver: int, from_callback: bool) -> tuple[Any, ...] | None:
        found = self.find(driver)
        effects = found.life.pause(trio.current_time(), from_callback=from_callback)
        if not found.life.pause_is_due:
            found.perform(effects)
            return ()
        self._wait(msgid, found.when_paused)
        found.perform(effects)
        return None

    def driver_disable(self, msgid: int, driver: int, from_callback: bool) -> None:
        found = self.find(driver)
        effects = found.life.disable(trio.current_time(), from_callback=from_callback)
        self._wait(msgid, found.when_disabled)
        found.perform(effects)

    def _wait(self, msgid: int, waiting: list[Callable[[], None]]) -> None:
        pending = PendingStep(self._session, msgid)
        self._session.pending[msgid] = pending
        waiting.append(pending.finish)

    def driver_cleanup(self, msgid: int, driver: int) -> tuple[Any, ...]:
        self.find(driver).life.cleanup()
        del self._drivers[driver]
        return ()

    def driver_drained(self, driver: int) -> None:
        # One that has been cleaned up has drained, too.
        found = self.find(driver)
        found.perform(found.life.drained(trio.current_time()))

    # ---- settings of an open channel

    def driver_quota(self, msgid: int, driver: int, quota: int) -> tuple[Any, ...]:
        found = self.find(driver)
        try:
            found.set_quota(quota)
        except Misuse as misuse:
            raise Refused(NtStatus.INVALID_PARAMETER, str(misuse), rule="Q4") from None
        return ()

    def driver_latency(self, msgid: int, driver: int, latency: int) -> tuple[Any, ...]:
        found = self.find(driver)
        if found.side is Side.HOST or found.life.phase in _BEFORE_CLOSED:
            text = f"the interrupt latency is a guest's, from Opened to Closed; the {found} is {found.life.phase.value}"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.2")
        before, found.latency = found.latency, latency
        return (before,)

    # ---- page lists

    def _find_guest(self, number: int) -> GuestDriver:
        found = self.find(number)
        if not isinstance(found, GuestDriver):
            text = "page lists are made and deleted by guests; a host maps them"
            raise Refused(NtStatus.NOT_SUPPORTED, text, rule="4.2")
        return found

    def _find_host(self, number: int) -> HostDriver:
        found = self.find(number)
        if not isinstance(found, HostDriver):
            raise Refused(NtStatus.NOT_SUPPORTED, "page lists are mapped by hosts; a guest makes them", rule="4.2")
        return found

    def gpadl_create(
        self, msgid: int, driver: int, read_only: bool, mdl: bytes, offset: int, length: int
    ) -> tuple[Any, ...]:
        found = self._find_guest(driver)
        offer = found.described_to()
        memory = found.machine.memory
        ranges = gpadl_ranges(parse_mdl_chain_untrusted(mdl), offset, length, memory.page_count)
        bus = found.machine.bus
        handle = bus.gpadls.create(bus.guest, offer, ranges, read_only=read_only)
        found.gpadls.add(handle)
        return (handle,)

    def gpadl_delete(self, msgid: int, driver: int, gpadl: int) -> None:
        found = self._find_guest(driver)
        if gpadl not in found.gpadls:
            text = f"the {found} has no GPADL 0x{gpadl:X}"
            raise Refused(NtStatus.INVALID_HANDLE, text, rule="4.2")
        found.gpadls.discard(gpadl)
        pending = PendingStep(self._session, msgid)
        self._session.pending[msgid] = pending
        bus = found.machine.bus
        bus.gpadls.delete(bus.guest, gpadl, pending.finish)

    def gpadl_map(self, msgid: int, driver: int, gpadl: int, read_only: bool) -> tuple[Any, ...]:
        found = self._find_host(driver)
        denied = found.machine.profile.kmcl.read_only_gpadl_status
        ranges = found.machine.bus.gpadls.map(found.host_offer(), gpadl, read_only=read_only, denied=denied)
        return (pack_mdl_chain(mdl_from_ranges(ranges)),)

    def gpadl_unmap(self, msgid: int, driver: int, gpadl: int) -> tuple[Any, ...]:
        found = self._find_host(driver)
        found.machine.bus.gpadls.unmap(found.host_offer(), gpadl)
        return ()


class PendingStep(Patient):
    """A request answered when a channel is paused or disabled, or a page list free: when its drivers let it."""

    def __init__(self, session: Session, msgid: int) -> None:
        self._session = session
        self._msgid = msgid

    def finish(self) -> None:
        """It is."""
        if self._session.settle(self._msgid, self):
            self._session.put(encode_response(self._msgid))

    def cancel(self) -> None:
        """Nobody waits for it any more; it happens all the same."""
        if self._session.settle(self._msgid, self):
            text = "nobody waits for it any more; the channel goes on pausing or closing"
            self._session.put(encode_error(self._msgid, NtStatus.CANCELLED, text))
