"""Offers: what a device tells the bus about its channel, their order, channel ids and monitor ids.

Guests expect channel ids to be stable over hibernation, so the initial batch is sorted before ids are given out, lowest
free first. A sub-channel has the GUIDs of its primary and must come after it.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple
from uuid import UUID

from emulator.status import Misuse
from emulator.vmbus.message_types import (
    NO_GUID,
    NO_MONITOR_ID,
    NO_USER_DATA,
    USER_DATA_BYTES,
    FeatureFlags,
    OfferChannel,
)

NO_ORDER = (1 << 64) - 1
MONITOR_IDS = 128
PIPE_USER_BYTES = 112


class OfferFlags(IntFlag):
    """Windows: VMBUS_CHANNEL_* offer flags."""

    NONE = 0
    ENUMERATE_DEVICE_INTERFACE = 0x1
    CONFIDENTIAL_RING = 0x2
    CONFIDENTIAL_EXTERNAL_MEMORY = 0x4
    REQUIRE_PINNED_EXTERNAL_MEMORY = 0x8
    NAMED_PIPE_MODE = 0x10
    TLNPI_PROVIDER = 0x2000


class PipeMode(IntEnum):
    """How a named-pipe channel frames: a stream, or messages."""

    BYTE = 0
    MESSAGE = 4


class OfferIdentity(NamedTuple):
    """What makes an offer the same offer again."""

    interface_id: UUID
    instance_id: UUID
    subchannel_index: int


@dataclass(frozen=True, slots=True)
class OfferParameters:
    """One channel a device wants to offer. Windows: VMBUS_SERVER_OFFER / VmbServerChannelInit*.

    ``user_defined`` is up to 120 bytes, or up to 112 when ``pipe`` is set (the rest of the area then belongs to the
    pipe protocol). ``order`` sorts offers of one interface. ``preset_monitor_id`` is one somebody else gave out.
    """

    interface_id: UUID
    instance_id: UUID
    subchannel_index: int = 0
    flags: OfferFlags = OfferFlags.NONE
    mmio_megabytes: int = 0
    mmio_megabytes_optional: int = 0
    user_defined: bytes = NO_USER_DATA
    pipe: PipeMode | None = None
    order: int | None = None
    uses_monitor: bool = False
    preset_monitor_id: int | None = None

    def __post_init__(self) -> None:
        room = USER_DATA_BYTES if self.pipe is None else PIPE_USER_BYTES
        data = self.user_defined
        if self.pipe is not None and data == NO_USER_DATA:
            data = b""
        if len(data) > room:
            raise Misuse(f"an offer has at most {room} bytes of user data, not {len(data)}")
        if not 0 <= self.subchannel_index <= 0xFFFF:
            raise Misuse(f"a sub-channel index is 0..65535, not {self.subchannel_index}")
        if self.preset_monitor_id is not None and not 0 <= self.preset_monitor_id < MONITOR_IDS:
            raise Misuse(f"a monitor id is 0..{MONITOR_IDS - 1}, not {self.preset_monitor_id}")
        object.__setattr__(self, "user_defined", data.ljust(room, b"\0"))

    @property
    def identity(self) -> OfferIdentity:
        """Interface, instance and sub-channel index: unique on a bus."""
        return OfferIdentity(self.interface_id, self.instance_id, self.subchannel_index)

    @property
    def primary(self) -> OfferIdentity:
        """The identity of the channel this one is a sub-channel of (itself, for a primary)."""
        return OfferIdentity(self.interface_id, self.instance_id, 0)

    def wire_user_data(self) -> bytes:
        """The 120 user bytes of the offer message."""
        if self.pipe is None:
            return self.user_defined
        return struct.pack("<I112sI", self.pipe, self.user_defined, 0)

    def wire_flags(self, features: FeatureFlags) -> int:
        """The flags of the offer message on a connection with these features."""
        flags = int(self.flags)
        if self.pipe is not None:
            flags |= OfferFlags.NAMED_PIPE_MODE
        if not features & FeatureFlags.CONFIDENTIAL_CHANNELS:
            flags &= ~(OfferFlags.CONFIDENTIAL_RING | OfferFlags.CONFIDENTIAL_EXTERNAL_MEMORY)
        if not features & FeatureFlags.GPA_PINNING:
            flags &= ~OfferFlags.REQUIRE_PINNED_EXTERNAL_MEMORY
        return flags

    def message(
        self,
        channel_id: int,
        connection_id: int,
        monitor_id: int | None,
        features: FeatureFlags,
        *,
        is_dedicated: bool = True,
    ) -> OfferChannel:
        """The offer message. For a channel that is not dedicated a guest's interrupt page tells who was rung."""
        return OfferChannel(
            interface_id=self.interface_id,
            instance_id=self.instance_id,
            flags=self.wire_flags(features),
            mmio_megabytes=self.mmio_megabytes,
            user_defined=self.wire_user_data(),
            subchannel_index=self.subchannel_index,
            mmio_megabytes_optional=self.mmio_megabytes_optional,
            channel_id=channel_id,
            monitor_id=NO_MONITOR_ID if monitor_id is None else monitor_id,
            monitor_allocated=monitor_id is not None,
            is_dedicated=int(is_dedicated),
            connection_id=connection_id,
        )


def sort_offers(offers: list[OfferParameters], absolute_order: bool) -> list[OfferParameters]:
    """The order in which offers get their ids and are sent.

    By interface, order, instance; with ``absolute_order`` the order comes first. A sub-channel sorts with its primary's
    order, right behind it. GUIDs compare by value, field by field.
    """
    orders = {o.identity: o.order for o in offers}

    def key(offer: OfferParameters) -> tuple[int, int, int, int]:
        order = orders.get(offer.primary, offer.order)
        rank, interface = NO_ORDER if order is None else order, offer.interface_id.int
        lead = (rank, interface) if absolute_order else (interface, rank)
        return (*lead, offer.instance_id.int, offer.subchannel_index)

    return sorted(offers, key=key)


def lowest_free(taken: Container[int], first: int, count: int) -> int | None:
    """The lowest number from ``first`` on, of ``count`` numbers, that is not taken."""
    return next((number for number in range(first, first + count) if number not in taken), None)


def hvsock_offer(
    service_id: UUID, connection: UUID, for_guest_accept: bool, silo_id: UUID = NO_GUID
) -> OfferParameters:
    """The offer that carries one hvsock connection.

    ``connection`` is the endpoint id of the guest's connect request or, for a connection from host to guest
    (``for_guest_accept``), a fresh GUID.
    """
    overlay = struct.pack("<BBI", for_guest_accept, 0, 1) + silo_id.bytes_le
    return OfferParameters(
        interface_id=service_id,
        instance_id=connection,
        flags=OfferFlags.ENUMERATE_DEVICE_INTERFACE | OfferFlags.TLNPI_PROVIDER,
        user_defined=overlay,
        pipe=PipeMode.BYTE,
    )


def vsock_service_id(port: int) -> UUID:
    """The service GUID of an AF_VSOCK port."""
    return UUID(f"{port:08x}-facb-11e6-bd58-64006a7986d3")
