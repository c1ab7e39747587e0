"""The synthetic interrupt controller's share: hypercall statuses, connection ids, ports, message slots, event flags.

A guest posts messages and rings doorbells by connection id; the host writes messages into one 256-byte slot for each
(virtual processor, SINT) of a guest page, and sets one of 2,048 event flags in another. A slot is free while its type
is 0: the host writes the payload and the length first and the type last, the guest frees it by writing 0 to the type
and, when the pending bit was set, asks for the next message.
"""

from __future__ import annotations

import struct
from enum import Enum, IntEnum

from emulator.memory import PAGE_SIZE
from emulator.status import Misuse
from emulator.vmbus.message_types import MAX_PAYLOAD_BYTES
from emulator.vmbus.shared_bits import set_bit, take_bits

VMBUS_SINT = 2
REDIRECTED_SINT = 7  # where a channel's interrupts go when its opener redirects them
SINT_COUNT = 16
VMBUS_MESSAGE_TYPE = 1
PORT_BUFFERS = 16  # messages one port holds; the next one fails with INSUFFICIENT_BUFFERS
MAX_CHANNELS = 2047  # event flag 0 never means a channel, and there are 2,048 flags
CONNECTION_ID_MASK = 0xFFFFFF

LEGACY_EVENT_CONNECTION = 2
MESSAGE_CONNECTION = 1
MULTICLIENT_CONNECTION = 4

_SLOT_BYTES = 256
_slot_header = struct.Struct("<BB2xQ")  # behind the 32-bit type


class HvStatus(IntEnum):
    """Hypercall results. Windows: HV_STATUS."""

    SUCCESS = 0
    INVALID_INPUT = 3
    BAD_ALIGNMENT = 4
    INVALID_PARAMETER = 5
    NO_MEMORY = 0xB
    INVALID_PORT = 0x11
    INVALID_CONNECTION_ID = 0x12
    INSUFFICIENT_BUFFERS = 0x13


class Port(Enum):
    """What the host listens on for messages."""

    ORDINARY = "ordinary"
    MULTICLIENT = "multiclient"


def redirected_connection_id(vtl: int, sint: int, vp: int) -> int:
    """The message connection of a redirected bus, such as 0x800074 for VTL 2, SINT 7, VP 0."""
    return MULTICLIENT_CONNECTION | sint << 4 | vp << 8 | vtl << 22


def channel_connection_id(channel_id: int, vtl: int = 0) -> int:
    """The doorbell of a channel as its offer announces it: 0x2001 for channel 1 at VTL 0. Opaque to the guest."""
    return channel_id | VMBUS_SINT << 12 | vtl << 16


def message_port(connection_id: int, vtl: int, has_multiclient: bool) -> Port | None:
    """The message port a connection id names at this VTL; None where there is none (INVALID_CONNECTION_ID)."""
    number = connection_id & CONNECTION_ID_MASK
    if number == MESSAGE_CONNECTION:
        return Port.ORDINARY
    if not has_multiclient:
        return None
    if number == MULTICLIENT_CONNECTION or (vtl and number == redirected_connection_id(vtl, REDIRECTED_SINT, 0)):
        return Port.MULTICLIENT
    return None


def _check_page(page: memoryview, sint: int) -> None:
    if page.nbytes != PAGE_SIZE or not 0 <= sint < SINT_COUNT:
        raise Misuse(f"a SynIC page has {PAGE_SIZE} bytes and SINTs 0..15, not {page.nbytes} bytes and SINT {sint}")


def deliver_message(page: memoryview, sint: int, payload: bytes, sender: int = 0) -> bool:
    """Put a VMBus message into its slot of a message page; False when the slot is taken (the pending bit is then set).

    After False, try again when the guest asks for the next message (end of message).
    """
    _check_page(page, sint)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Misuse(f"a message carries at most {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
    slot = page[sint * _SLOT_BYTES : (sint + 1) * _SLOT_BYTES]
    kind = slot.cast("I")
    if kind[0]:
        slot[5] |= 1
        return False
    slot[16 : 16 + len(payload)] = payload
    slot[4:16] = _slot_header.pack(len(payload), 0, sender)
    kind[0] = VMBUS_MESSAGE_TYPE  # last: from here on the guest may read it
    return True


def take_message(page: memoryview, sint: int) -> tuple[bytes, bool] | None:
    """The guest's half: the message in a slot, now free, and whether another one is pending; None for an empty slot."""
    _check_page(page, sint)
    slot = page[sint * _SLOT_BYTES : (sint + 1) * _SLOT_BYTES]
    kind = slot.cast("I")
    if not kind[0]:
        return None
    payload = bytes(slot[16 : 16 + min(slot[4], MAX_PAYLOAD_BYTES)])
    kind[0] = 0
    return payload, bool(slot[5] & 1)


def set_event_flag(page: memoryview, sint: int, flag: int) -> bool:
    """Set an event flag in an event flags page; True when it was clear, and so the guest is to be interrupted."""
    _check_page(page, sint)
    if not 0 <= flag <= MAX_CHANNELS:
        raise Misuse(f"event flags run from 0 to {MAX_CHANNELS}, not {flag}")
    return set_bit(page, sint * _SLOT_BYTES * 8 + flag)


def take_event_flags(page: memoryview, sint: int) -> list[int]:
    """The guest's half: every flag that is set for this SINT, now cleared, lowest first."""
    _check_page(page, sint)
    return take_bits(page[sint * _SLOT_BYTES : (sint + 1) * _SLOT_BYTES])


def set_interrupt_bit(page: memoryview, channel_id: int) -> bool:
    """The host's half of an interrupt page (versions below 2.4): a channel to look at; True when its bit was clear."""
    _check_page(page, 0)
    if not 0 < channel_id <= MAX_CHANNELS:
        raise Misuse(f"channel ids run from 1 to {MAX_CHANNELS}, not {channel_id}")
    return set_bit(page[: PAGE_SIZE // 2], channel_id)


def take_interrupt_bits(page: memoryview) -> list[int]:
    """The guest's half of an interrupt page, which it sets its channels' bits in: those channels, now cleared."""
    _check_page(page, 0)
    return take_bits(page[PAGE_SIZE // 2 :])
