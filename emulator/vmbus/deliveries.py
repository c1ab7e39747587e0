"""Packets of the peer that were delivered and not completed: their handles, their external data, the quota of them."""

from __future__ import annotations

from typing import NamedTuple

from emulator.memory import AddressOutsideMemory, GpaRange, GuestMemory
from emulator.status import Misuse, Refused
from emulator.vmbus.packets import (
    COMPLETION_REQUESTED,
    Packet,
    PacketKind,
    unframe_pipe_message_untrusted,
)
from emulator.vmbus.profile import EndpointLimits, KmclProfile
from emulator.vmbus.progress import ReceivedPacket

_GPA_DIRECT = PacketKind.GPA_DIRECT
_new = tuple.__new__  # a third of the price of calling a named tuple's class


class Delivered(NamedTuple):
    """What is remembered of a packet until it is completed."""

    transaction_id: int
    completion_requested: bool
    has_external_data: bool
    ranges: tuple[GpaRange, ...]
    external_error: Refused | None
    since: float


class Deliveries:
    """The table of one endpoint. ``quota_blocked`` is set while packets stay in the ring because it is full (Q1)."""

    def __init__(self, memory: GuestMemory, profile: KmclProfile, limits: EndpointLimits, *, is_pipe: bool) -> None:
        self._memory = memory
        self._profile = profile
        self._limits = limits
        self._is_pipe = is_pipe
        self._hold_unasked = profile.hold_unasked_packets
        # Whether a packet that wants no answer is done with when its payload is there, and that is as it was sent.
        self.takes_payloads = not (is_pipe or profile.hold_unasked_packets)
        self._held: dict[int, Delivered] = {}
        self._quota = limits.transaction_quota
        self.last_handle = 0
        self.now = 0.0  # seconds, when packets are admitted
        self.quota_blocked = False

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, handle: int) -> bool:
        return handle in self._held

    @property
    def quota(self) -> int:
        """How many packets may be delivered and not completed (Q1)."""
        return self._quota

    def room(self) -> int:
        """How many more packets may be delivered now. Once blocked, none before one was completed (Q3)."""
        return 0 if self.quota_blocked else max(0, self._quota - len(self._held))

    def set_quota(self, quota: int) -> None:
        """Change the quota, also below what is held (Q2). Raises Misuse for 0, or ignores it, by the profile (Q4)."""
        if quota > 0:
            self._quota = quota
        elif self._profile.raise_on_zero_quota:
            raise Misuse(f"a transaction quota is above 0, not {quota}")

    def admit(self, packet: Packet, image: bytes) -> ReceivedPacket:
        """Give a parsed data packet its handle. Raises RingCorruption for a pipe packet that is no whole message."""
        kind, flags, transaction_id, payload, ranges, transfer, _ = packet
        requested = flags & COMPLETION_REQUESTED != 0
        external = kind is _GPA_DIRECT
        error = None
        if self._is_pipe:
            payload = unframe_pipe_message_untrusted(payload)
        if external or transfer is not None:
            ranges, error = self._usable_ranges(packet)
        handle = self.last_handle = self.last_handle + 1
        if requested or external or self._hold_unasked:
            self._held[handle] = _new(Delivered, (transaction_id, requested, external, ranges, error, self.now))
        return _new(ReceivedPacket, (handle, payload, external, ranges, requested, image, error, transfer))

    def admit_plain(self, payload: bytes, transaction_id: int, requested: bool) -> ReceivedPacket:
        """The same for an in-band packet, not of a pipe, whose image nobody keeps."""
        handle = self.last_handle = self.last_handle + 1
        if requested or self._hold_unasked:
            self._held[handle] = _new(Delivered, (transaction_id, requested, False, (), None, self.now))
        return _new(ReceivedPacket, (handle, payload, False, (), requested, b"", None, None))

    def _usable_ranges(self, packet: Packet) -> tuple[tuple[GpaRange, ...], Refused | None]:
        """The ranges, or none and why the driver gets an error for them (R7, K24)."""
        limits = self._limits
        rule, problem = "R7", packet.range_error
        ranges = packet.ranges
        if problem is None and ranges:
            total = sum(rng.byte_count for rng in ranges)
            if total > limits.max_external_bytes or len(ranges) > limits.max_external_chain:
                most = f"at most {limits.max_external_bytes} bytes in {limits.max_external_chain}"
                rule, problem = (
                    "K24",
                    f"{total} bytes of external data in {len(ranges)} ranges; this channel takes {most}",
                )
            else:
                try:
                    for rng in ranges:
                        self._memory.check_pages(rng.pfns)
                except AddressOutsideMemory as outside:
                    problem = str(outside)
        if problem is None:
            return ranges, None
        return (), Refused(self._profile.bad_ranges_status, problem, rule=rule)

    def find(self, handle: int) -> Delivered:
        """What is remembered of a packet. Raises Misuse for a handle that is not outstanding."""
        entry = self._held.get(handle)
        if entry is None:
            state = "has been completed already" if 0 < handle <= self.last_handle else "was never delivered"
            raise Misuse(f"packet {handle} {state}")
        return entry

    def oldest(self) -> Delivered | None:
        """What is held longest."""
        return next(iter(self._held.values()), None)

    def external_data(self, handle: int) -> tuple[GpaRange, ...]:
        """The ranges of a packet. Raises Refused when it has none or they cannot be used, Misuse as ``find``."""
        entry = self.find(handle)
        if not entry.has_external_data:
            raise Refused(self._profile.no_external_data_status, f"packet {handle} has no external data", rule="R6")
        error = entry.external_error
        if error is not None:
            raise Refused(error.status, error.message, rule=error.rule)
        return entry.ranges

    def remove(self, handle: int) -> bool:
        """Forget a packet; True when the quota held others back and no longer does."""
        del self._held[handle]
        if self.quota_blocked and len(self._held) < self._quota:
            self.quota_blocked = False
            return True
        return False

    def give_up(self, handle: int) -> None:
        """Forget a packet that is malformed (R4). Raises Misuse as ``find``, or for a handle never given out."""
        if handle in self._held or self._hold_unasked or not 0 < handle <= self.last_handle:
            self.find(handle)
            self.remove(handle)

    def clear(self) -> None:
        """The channel is gone."""
        self._held.clear()
        self.quota_blocked = False
