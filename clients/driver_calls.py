"""What both faces' driver channels are made of: checks, calls and packets. A face adds the waiting.

Sending is in ``driver_sends``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from clients import attaching, requests, taking
from clients.calls import Call, RequestFailed
from clients.direct import DirectEnd
from clients.direct_calls import DirectPacket
from clients.driver import ChannelCallbacks, DriverPhase
from clients.driver_sends import DriverSends
from clients.inbox import ReceivedPacket
from clients.memory import Buffer, MachineMemory
from clients.protocol import GRANT, ClientProtocol
from clients.verifier import call_site
from emulator.memory import GpaRange, Mdl, MdlFlags
from emulator.status import NtStatus, Refused
from emulator.vmbus.life_cycle import Callback
from emulator.vmbus.profile import Side
from emulator.wire.runs import pack_mdl_chain, parse_mdl_chain_untrusted
from emulator.wire.schema import (
    DRIVER_ALLOCATE,
    DRIVER_CLEANUP,
    DRIVER_DISABLE,
    DRIVER_ENABLE,
    DRIVER_LATENCY,
    DRIVER_PAUSE,
    DRIVER_QUOTA,
    DRIVER_START,
    GPADL_CREATE,
    GPADL_DELETE,
    GPADL_MAP,
    GPADL_UNMAP,
)


class DriverCore(DriverSends):
    """One driver channel, but for the waiting."""

    def __init__(
        self,
        protocol: ClientProtocol,
        machine: tuple[int, MachineMemory],
        side: Side,
        callbacks: ChannelCallbacks,
        mode: str,
        channel: Any,
    ) -> None:
        super().__init__(protocol, machine, side, callbacks, channel)
        self._direct = requests.direct_memory(mode, self._memory)
        if self._direct is not None:
            of = protocol, self.state.machine
            self.state.attach = partial(attaching.attach_driver, of, self._direct, self.state)
        self._is_allocated = False

    # ---- life cycle

    def allocate(self) -> Call | None:
        """The first call of an enable; None when it was made before. Seals the setup. Raises Refused."""
        self._require_not_disposed()
        if self._is_allocated:
            return None
        document = self.setup.seal()
        state = self.state
        is_host, is_direct = state.side is Side.HOST, self._direct is not None

        def build(result: tuple[Any, ...]) -> None:
            state.number, state.verifier.is_on = result
            self._is_allocated = True
            self.protocol.add_driver(state)
            if state.quota is not None:
                self.protocol.call(DRIVER_QUOTA, state.number, state.quota)

        def undo(result: tuple[Any, ...]) -> None:
            # Nobody waits for it: the next enable begins anew.
            self._is_allocated = False
            self.protocol.forget_driver(state)
            self.protocol.call(DRIVER_CLEANUP, result[0])

        return self.protocol.call(
            DRIVER_ALLOCATE, state.machine, is_host, is_direct, document, *GRANT, build=build, undo=undo
        )

    def enable(self) -> Call:
        """Windows: VmbChannelEnable."""
        self._require_not_disposed()
        self.verifier.remember("enable")
        self.state.was_disabled = False
        return self.protocol.call(DRIVER_ENABLE, self.state.number)

    def start(self) -> Call:
        """Windows: VmbChannelStart."""
        return self._step(DRIVER_START, "Start belongs between Enable and Disable; enable the channel first")

    def pause(self) -> Call:
        """Windows: VmbChannelPause."""
        return self._step(DRIVER_PAUSE, "")

    def disable(self) -> Call | None:
        """Windows: VmbChannelDisable; None when it was never enabled."""
        return self._step(DRIVER_DISABLE, "") if self._is_allocated else None

    def _step(self, method: Any, unless_allocated: str) -> Call:
        self._require_not_disposed()
        if not self._is_allocated and unless_allocated:
            raise Refused(NtStatus.INVALID_DEVICE_STATE, unless_allocated, rule="4.3")
        return self.protocol.call(method, self.state.number, self.in_callback() is not None)

    def give_up_taken(self) -> None:
        """Nobody will complete what was taken: a program ends with an exception."""
        for received in list(self.state.taken):
            requests.fail(self.protocol, received)
            self.ended(received)

    def cleanup(self) -> Call | None:
        """Windows: VmbChannelCleanup; None when the daemon never heard of it."""
        self._require_not_disposed()
        if not self._is_allocated:
            self._dispose(())
            return None
        if self.state.phase is not DriverPhase.DISABLED:
            what = f"a channel was cleaned up while {self.state.phase.value}"
            self.verifier.report("4.3", what, self.verifier.place_of("enable"))
        return self.protocol.call(DRIVER_CLEANUP, self.state.number, build=self._dispose)

    def _dispose(self, result: tuple[Any, ...]) -> None:
        self._is_disposed = True
        error = RequestFailed(NtStatus.INVALID_DEVICE_STATE, "the channel has been cleaned up")
        self.protocol.drop_driver(self.state, error)

    @property
    def is_gone(self) -> bool:
        """Whether nothing can be asked of it any more."""
        return self._is_disposed or self.state.closed is not None

    @property
    def is_over(self) -> bool:
        """Whether no packet comes any more: it was disabled, and its callbacks have returned."""
        state = self.state
        is_disabled = state.was_disabled and state.running is None
        return self._is_disposed or state.closed is not None or is_disabled

    def mmio_space(self) -> tuple[int, int]:
        """(address, bytes). Raises Refused before it is open."""
        opened = self.state.phase is DriverPhase.OPEN or self.in_callback() == Callback.OPENED
        if not opened:
            text = f"the MMIO space is known once the channel is open, and it is {self.state.phase.value}"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.2")
        return self.state.mmio

    # ---- receiving

    def take(self) -> ReceivedPacket | DirectPacket:
        """The next packet, which there is."""
        state = self.state
        items = state.items
        received: ReceivedPacket | DirectPacket = items[0]
        if received.is_again:
            items.popleft()
        else:
            received = taking.take_packet(self.protocol, items)
        state.taken.add(received)
        return received

    def check_completion(self, received: ReceivedPacket | DirectPacket) -> None:
        """Before a packet is completed or failed. Raises RequestFailed for one that was put back."""
        if received.completed:
            what = f"packet {received.handle} was completed twice"
            self.verifier.report("4.4", what, self.verifier.place_of(received))
        if received.is_again and received in self.state.items:
            text = f"packet {received.handle} was put back; complete it when it comes again"
            raise RequestFailed(NtStatus.INVALID_DEVICE_STATE, text)

    def ended(self, received: ReceivedPacket | DirectPacket) -> None:
        """A packet is completed, or failed."""
        self.verifier.remember(received)
        self.protocol.packet_ended(self.state, received)

    def external_mdl(self, received: ReceivedPacket | DirectPacket, *, read_only: bool) -> Mdl:
        """Windows: VmbChannelPacketGetExternalData. Raises RequestFailed."""
        if received.mdl is None:
            ranges = requests.usable_ranges(self.protocol, self.state.machine, received)
            pfns = tuple(pfn for each in ranges for pfn in each.pfns)
            if self.protocol.is_paged_out(self.state.machine, pfns):
                self.protocol.wait_for_pages(pfns, self.state, received)
                text = "pages of it are out; return without completing the packet, and it comes again when they are in"
                raise RequestFailed(NtStatus.PENDING, text)
            received.mdl = _mdl_of(ranges, read_only)
        return received.mdl

    def defer(self, received: ReceivedPacket | DirectPacket) -> None:
        """Windows: VmbChannelPacketDeferToPassive. Raises RequestFailed for one that is completed, or put back."""
        if received.completed or received not in self.state.taken:
            text = f"packet {received.handle} has been completed already, or its channel has closed"
            raise RequestFailed(NtStatus.INVALID_DEVICE_STATE, text)
        if received in self.state.items:
            raise RequestFailed(NtStatus.INVALID_DEVICE_STATE, f"packet {received.handle} has been put back already")
        self.state.put_back(received)
        self.protocol.touch(self.state)

    def set_quota(self, quota: int) -> Call | None:
        """Windows: VmbChannelSetTransactionQuota; None for a direct end, whose own it is. Raises Refused (Q4)."""
        if quota <= 0 and not self.protocol.profile_of(self.state.machine).kmcl.raise_on_zero_quota:
            return None
        if quota <= 0:
            raise Refused(NtStatus.INVALID_PARAMETER, f"a transaction quota is above 0, not {quota}", rule="Q4")
        self.state.quota = quota
        if isinstance(self.state.opening, DirectEnd):
            self.state.opening.set_transaction_quota(quota)
        return self.protocol.call(DRIVER_QUOTA, self.state.number, quota) if self.state.number else None

    # ---- page lists, latency

    def _known_number(self) -> int:
        if not self.state.number:
            raise Refused(NtStatus.INVALID_DEVICE_STATE, "the channel was never enabled; enable it first", rule="4.3")
        return self.state.number

    def create_gpadl(self, memory: Mdl | Buffer, offset: int, length: int, *, read_only: bool) -> Call:
        """Windows: VmbChannelCreateGpadlFromMdl, VmbChannelCreateGpadlFromBuffer."""
        mdl = memory.mdl if isinstance(memory, Buffer) else memory
        place = call_site() if self.verifier.is_on else ""

        def build(result: tuple[Any, ...]) -> None:
            self.state.gpadls.add(result[0])
            self.verifier.place("gpadl", result[0], place)

        def undo(result: tuple[Any, ...]) -> None:
            self.delete_gpadl(result[0])

        args = self._known_number(), read_only, pack_mdl_chain(mdl), offset, length
        return self.protocol.call(GPADL_CREATE, *args, build=build, undo=undo)

    def delete_gpadl(self, handle: int) -> Call:
        """Windows: VmbChannelDeleteGpadl."""
        self.state.gpadls.discard(handle)
        return self.protocol.call(GPADL_DELETE, self._known_number(), handle)

    def map_gpadl(self, handle: int, *, read_only: bool) -> Call:
        """Windows: VmbChannelMapGpadl."""

        def undo(result: tuple[Any, ...]) -> None:
            self.unmap_gpadl(handle)

        return self.protocol.call(GPADL_MAP, self._known_number(), handle, read_only, undo=undo)

    @staticmethod
    def mapped(result: tuple[Any, ...]) -> Mdl:
        """What a mapping answered."""
        mdl = parse_mdl_chain_untrusted(result[0])
        assert mdl is not None, "a page list has at least one page"
        return mdl

    def unmap_gpadl(self, handle: int) -> Call:
        """Windows: VmbChannelUnmapGpadl."""
        return self.protocol.call(GPADL_UNMAP, self._known_number(), handle)

    def set_interrupt_latency(self, latency: int) -> Call:
        """Windows: VmbChannelSetInterruptLatency."""
        return self.protocol.call(DRIVER_LATENCY, self._known_number(), latency)


def _mdl_of(ranges: tuple[GpaRange, ...], read_only: bool) -> Mdl:
    """A chain of locked MDLs, one for each range (R6); for reading only, they do not say that they may be written."""
    flags = MdlFlags.PAGES_LOCKED if read_only else MdlFlags.PAGES_LOCKED | MdlFlags.WRITE_OPERATION
    head: Mdl | None = None
    for count, offset, pfns in reversed(ranges):
        head = Mdl(offset, count, pfns, flags, head)
    assert head is not None, "a packet with external data has a range"
    return head
