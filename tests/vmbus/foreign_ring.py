"""A channel worked by ring code of other people: DPDK's VMBus bus driver, as Debian's librte-bus-vmbus23 brings it.

The library is made for Linux guests on Hyper-V. Its calls that move packets need no set-up of DPDK, no device and no
root: all they look at is a channel structure and the memory that points to. The structure is in no installed header;
its layout below is read off what the library's functions access. It belongs to that one version of the library, which
is the only one loaded here, and ``find_library`` checks what can be checked of it without following a pointer.

What the library leaves to its caller is done here in the caller's place: the interrupt mask and the pending size.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from emulator.memory import PAGE_SIZE, GpaRange, GuestMemory
from tests.support.tools import in_ci
from tests.vmbus.channel_pair import IN, ring_over

LIBRARY = "librte_bus_vmbus.so.23"
PACKAGE = "librte-bus-vmbus23"
MONITOR_ID = 37
MONITOR_WORD, MONITOR_BIT = 4, 1 << 5  # groups of 32 bits, from word 2 on in every second word
LARGEST_PACKET = 0xFFFF * 8


class _Ring(ctypes.Structure):
    _fields_ = [("pages", ctypes.c_void_p), ("data_bytes", ctypes.c_uint32), ("write_index", ctypes.c_uint32)]


class _Channel(ctypes.Structure):
    _fields_ = [
        ("lists", ctypes.c_void_p * 3),
        ("device", ctypes.c_void_p),
        ("incoming", _Ring),
        ("outgoing", _Ring),
        ("channel_id", ctypes.c_uint16),
        ("sub_channel", ctypes.c_uint16),
        ("monitor_id", ctypes.c_uint8),
        ("monitor_page", ctypes.c_void_p),
    ]


class _Range(ctypes.Structure):
    _fields_ = [("byte_count", ctypes.c_uint32), ("byte_offset", ctypes.c_uint32), ("pfn", ctypes.c_uint64)]


def find_library() -> ctypes.CDLL:
    """The library; without it the calling test is skipped, and in an automatic run it fails."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as problem:
        message = f"{LIBRARY} cannot be loaded ({problem}); on Debian 12: apt install {PACKAGE}"
        if in_ci():
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    channel = ctypes.c_void_p
    flag = ctypes.POINTER(ctypes.c_bool)
    number = ctypes.POINTER(ctypes.c_uint32)
    body = (ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint64)
    library.rte_vmbus_chan_send.argtypes = (channel, ctypes.c_uint16, *body, ctypes.c_uint32, flag)
    library.rte_vmbus_chan_send_sglist.argtypes = (channel, ctypes.POINTER(_Range), ctypes.c_uint32, *body, flag)
    library.rte_vmbus_chan_recv_raw.argtypes = (channel, ctypes.c_char_p, number)
    library.rte_vmbus_chan_recv.argtypes = (channel, ctypes.c_char_p, number, ctypes.POINTER(ctypes.c_uint64))
    library.rte_vmbus_chan_signal_read.argtypes = (channel, ctypes.c_uint32)
    library.rte_vmbus_chan_signal_read.restype = None
    library.rte_vmbus_chan_rx_empty.argtypes = (channel,)
    library.rte_vmbus_chan_rx_empty.restype = ctypes.c_bool
    library.rte_vmbus_sub_channel_index.argtypes = (channel,)
    library.rte_vmbus_sub_channel_index.restype = ctypes.c_uint16
    probe = _Channel(sub_channel=0x1234)
    assert library.rte_vmbus_sub_channel_index(ctypes.byref(probe)) == 0x1234, "not the layout we know"
    return library


class Taken(NamedTuple):
    """A packet without its descriptor, as ``take_payload`` gives it."""

    payload: bytes
    transaction_id: int


class ForeignChannel:
    """One end of a channel. Each ring is a run of neighbouring pages; one that is not used may be left out.

    Calls that send return None without room, else whether the peer's doorbell must be rung.
    """

    def __init__(
        self, library: ctypes.CDLL, memory: GuestMemory, *, incoming: range | None = None, outgoing: range | None = None
    ) -> None:
        self._library = library
        self._memory = memory
        self._exports: list[object] = []
        self._monitor = (ctypes.c_uint32 * (PAGE_SIZE // 4))()
        self._channel = _Channel(monitor_id=MONITOR_ID, monitor_page=ctypes.addressof(self._monitor))
        self._receives = ctypes.create_string_buffer(LARGEST_PACKET)
        if incoming is not None:
            self._channel.incoming = self._ring(incoming)
            self.in_control = ring_over(memory, incoming).control
        if outgoing is not None:
            self._channel.outgoing = self._ring(outgoing)
            self.out_control = ring_over(memory, outgoing).control

    def _ring(self, pfns: range) -> _Ring:
        assert pfns.step == 1, "the library knows rings in one piece only"
        view = self._memory.view(pfns[0] * PAGE_SIZE, len(pfns) * PAGE_SIZE)
        pages = (ctypes.c_char * view.nbytes).from_buffer(view)
        self._exports.append(pages)
        write_index = ring_over(self._memory, pfns).control[IN]
        return _Ring(ctypes.addressof(pages), view.nbytes - PAGE_SIZE, write_index)

    def rang(self) -> bool:
        """Whether the library itself rang since last asked: a bit of the monitor page, and nothing else, says so."""
        page = list(self._monitor)
        self._monitor[MONITOR_WORD] = 0
        pending = page.pop(MONITOR_WORD)
        assert not any(page)
        assert pending in (0, MONITOR_BIT)
        return bool(pending)

    def _sent(self, result: int, signal: bool) -> bool | None:
        if result == -errno.EAGAIN:
            assert not signal
            return None
        assert result == 0
        return signal

    def send(self, kind: int, payload: bytes, transaction_id: int, flags: int = 0) -> bool | None:
        """A packet without ranges."""
        signal = ctypes.c_bool()
        where = ctypes.byref(self._channel), kind, payload, len(payload), transaction_id, flags
        return self._sent(self._library.rte_vmbus_chan_send(*where, ctypes.byref(signal)), signal.value)

    def send_and_ring(self, kind: int, payload: bytes, transaction_id: int, flags: int = 0) -> bool | None:
        """The same, but the library rings by itself where it must, and that is looked at."""
        where = ctypes.byref(self._channel), kind, payload, len(payload), transaction_id, flags
        return self._sent(self._library.rte_vmbus_chan_send(*where, None), self.rang())

    def send_ranges(self, ranges: Sequence[GpaRange], payload: bytes, transaction_id: int) -> bool | None:
        """A GPA-direct packet. The library has ranges of a single page only."""
        assert all(len(rng.pfns) == 1 for rng in ranges)
        table = (_Range * len(ranges))(*[_Range(rng.byte_count, rng.byte_offset, rng.pfns[0]) for rng in ranges])
        signal = ctypes.c_bool()
        where = ctypes.byref(self._channel), table, len(ranges), payload, len(payload), transaction_id
        return self._sent(self._library.rte_vmbus_chan_send_sglist(*where, ctypes.byref(signal)), signal.value)

    def take(self) -> tuple[bytes, int] | None:
        """A packet, descriptor to padding, and the ring bytes it gave back; None from an empty ring."""
        length = ctypes.c_uint32(LARGEST_PACKET)
        where = ctypes.byref(self._channel), self._receives, ctypes.byref(length)
        result: int = self._library.rte_vmbus_chan_recv_raw(*where)
        if result == -errno.EAGAIN:
            return None
        assert result == length.value + 8
        return ctypes.string_at(self._receives, length.value), result

    def signal_after_taking(self, ring_bytes: int) -> bool:
        """Whether the peer's doorbell must be rung when so much was taken with ``take``."""
        self._library.rte_vmbus_chan_signal_read(ctypes.byref(self._channel), ring_bytes)
        return self.rang()

    def take_payload(self) -> Taken | None:
        """What is behind the descriptor of a packet, and its transaction id. ``rang`` says about the doorbell."""
        length = ctypes.c_uint32(LARGEST_PACKET)
        transaction_id = ctypes.c_uint64()
        where = ctypes.byref(self._channel), self._receives, ctypes.byref(length), ctypes.byref(transaction_id)
        result: int = self._library.rte_vmbus_chan_recv(*where)
        if result == -errno.EAGAIN:
            return None
        assert result == 0
        return Taken(ctypes.string_at(self._receives, length.value), transaction_id.value)

    def is_empty(self) -> bool:
        """Whether nothing waits to be taken."""
        empty: bool = self._library.rte_vmbus_chan_rx_empty(ctypes.byref(self._channel))
        return empty
