"""The driver channels of one connection: what the daemon tells of them, and the callbacks it asks for. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from clients.calls import RequestFailed
from clients.driver import CallbackDue, DriverPhase, DriverState
from clients.holdings import Holdings
from clients.inbox import ChannelState
from emulator.memory import PagedOut
from emulator.status import NtStatus, known_status
from emulator.vmbus.life_cycle import Callback
from emulator.wire.codec import encode_response
from emulator.wire.runs import unpack_pfns
from emulator.wire.schema import (
    DRIVER_DRAINED,
    DRIVER_OPENED,
    DRIVER_STATE,
    MEMORY_PAGED,
    Method,
)

# What this client lets arrive before it must be taken: a few hundred packets, or a MiB of them.
GRANT = 256, 1024 * 1024


class DriverTable(Holdings):
    """The part of a conversation that is about driver channels."""

    def __init__(self) -> None:
        super().__init__()
        self._drivers: dict[int, DriverState] = {}
        self._startable: list[CallbackDue] = []
        self._paged: dict[int, PagedOut] = {}
        self._paging: list[tuple[int, tuple[int, ...], DriverState, Any]] = []

    def add_driver(self, state: DriverState) -> None:
        """A driver channel was allocated."""
        self._drivers[state.number] = state

    def forget_driver(self, state: DriverState) -> None:
        """Its allocation was undone; it may be allocated again."""
        self._drivers.pop(state.number, None)
        state.number = 0

    def drop_driver(self, state: DriverState, error: Exception) -> None:
        """It was cleaned up."""
        self._drivers.pop(state.number, None)
        self._touched += state.cancel_held(error)
        self._touched.append(state)

    def _close_all(self, reason: str) -> None:
        super()._close_all(reason)
        for state in list(self._drivers.values()):
            state.close(NtStatus.DEVICE_REMOVED, reason)
            self.drop_driver(state, RequestFailed(NtStatus.DEVICE_REMOVED, reason))

    def told_of_drivers(self) -> dict[Method, Callable[..., None]]:
        """What to do with the notifications about driver channels."""
        return {DRIVER_STATE: self._driver_state, DRIVER_OPENED: self._driver_opened, MEMORY_PAGED: self.paged}

    # ---- where a channel is

    def _driver_state(
        self, number: int, phase: str, paused: bool, instance: bytes | None, mmio_address: int, mmio_bytes: int
    ) -> None:
        state = self._drivers.get(number)
        if state is None:
            return
        state.phase, state.is_paused = DriverPhase(phase), paused
        state.instance_id = UUID(bytes_le=instance) if instance is not None else None
        state.mmio = mmio_address, mmio_bytes
        if state.phase is DriverPhase.DISABLED:
            state.was_disabled = True
            if state.opening is not None:  # Opened failed, so there was no Closed to end it
                self.drop_channel(state.opening, self._closed_status(state), "the channel closed")
            error = RequestFailed(self.profile_of(state.machine).kmcl.closed_first_status, "the channel was disabled")
            self._touched += state.cancel_held(error)
        self._touched.append(state)

    def _driver_opened(self, number: int, channel: int, packets: int, byte_count: int, pipe: bool, *rings: Any) -> None:
        state = self._drivers.get(number)
        descriptor = self._announced_descriptor() if rings[-1] else None
        if state is None:
            if descriptor is not None:
                self._unclaimed.append(descriptor)
            return
        state.pipe, state.ring_bytes = pipe, byte_count
        state.largest = rings[2], rings[3], rings[4]
        if descriptor is None:
            opening: Any = ChannelState(channel, (packets, byte_count), GRANT, pipe=pipe, offer=state)
        else:
            assert state.attach is not None, "a direct driver channel knows how to attach"
            opening = state.attach(channel, rings, descriptor)
        if opening is not None:
            state.opened(opening)
            self.add_channel(opening)
            self._touched += state.release()
        self._touched.append(state)

    # ---- callbacks

    def callback_asked(self, msgid: int, number: int, kind: int, status: int) -> None:
        """The daemon wants a callback run."""
        state = self._drivers.get(number)
        if state is None:
            self.outgoing += encode_response(msgid, int(NtStatus.SUCCESS))
            return
        if state.begin(kind):
            self.notify(DRIVER_DRAINED, state.number)
        if kind == Callback.CLOSED:
            self._paging = [entry for entry in self._paging if entry[2] is not state]
        if kind == Callback.CLOSED and state.opening is not None and not isinstance(state.opening, ChannelState):
            self.drop_channel(state.opening, self._closed_status(state), "the channel closed")
        elif kind == Callback.SUSPEND:
            self._deliver(state, on=False)
        due = CallbackDue(state, kind, int(known_status(status)), msgid, state.opening)
        if state.running is None:
            state.running = due
            self._startable.append(due)
        else:
            state.callbacks_due.append(due)

    def _closed_status(self, state: DriverState) -> NtStatus:
        return self.profile_of(state.machine).kmcl.closed_first_status

    def _deliver(self, state: DriverState, *, on: bool) -> None:
        """A direct end takes from its ring, or leaves all there; a hosted one is the daemon's business."""
        opening: Any = state.opening
        if opening is not None and not isinstance(opening, ChannelState):
            opening.deliver(on)

    def take_callbacks(self) -> list[CallbackDue]:
        """Callbacks to run now, each followed by ``answer_callback``."""
        startable, self._startable = self._startable, []
        return startable

    def answer_callback(self, due: CallbackDue, status: NtStatus) -> None:
        """A callback has returned; the next of its channel may run."""
        state = due.state
        self.outgoing += encode_response(due.msgid, int(status))
        if state.returned(due, status):
            self.notify(DRIVER_DRAINED, state.number)
        if due.kind == Callback.STARTED and not state.is_late(due):
            self._deliver(state, on=True)
        self._touched += state.release()
        self._touched.append(state)
        state.running = state.callbacks_due.popleft() if state.callbacks_due else None
        if state.running is not None:
            self._startable.append(state.running)

    def packet_ended(self, state: DriverState, received: Any) -> None:
        """A packet a driver took is completed."""
        if state.ended(received):
            self.notify(DRIVER_DRAINED, state.number)

    # ---- pages that are out

    def paged(self, machine: int, pfns: bytes, out: bool) -> None:
        """Pages went out, or came in: what waited for these comes again."""
        paged = self._paged.setdefault(machine, PagedOut())
        paged.mark(unpack_pfns(pfns), out=out)
        if out:
            return
        waiting, self._paging = self._paging, []
        for entry in waiting:
            number, pages, state, received = entry
            if number != machine or paged.has_any_of(pages):
                self._paging.append(entry)
            elif received in state.taken:
                state.put_back(received)
                self._touched.append(state)

    def is_paged_out(self, machine: int, pfns: tuple[int, ...]) -> bool:
        """Whether one of these pages is out."""
        paged = self._paged.get(machine)
        return paged is not None and paged.has_any_of(pfns)

    def wait_for_pages(self, pfns: tuple[int, ...], state: DriverState, received: Any) -> None:
        """A packet is to be seen again when all of these pages are in (R6)."""
        self._paging.append((state.machine, pfns, state, received))
