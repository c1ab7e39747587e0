"""QUIC packets in and out of one UDP socket. Several leave, and several come, in one call where the kernel can.

Nothing here waits. What the socket has no room for is dropped, as it may be anywhere on its way: QUIC sends it again.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from typing import Any

# Linux's numbers, where Python 3.11 has no names for them.
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
# What the kernel takes as one train.
TRAIN_PACKETS, TRAIN_BYTES = 64, 65_507
# Calls in one turn before others get theirs.
CALLS_PER_TURN = 64
LARGEST_BYTES = 65_536
_SEGMENT = struct.Struct("=H")
_ANCILLARY_BYTES = socket.CMSG_SPACE(4)
# The kernel, or the path's device, cannot do trains.
_NO_TRAINS = {errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE}

Address = Any
Packet = tuple[bytes, Address]

_buffer = memoryview(bytearray(LARGEST_BYTES))


class PacketSocket:
    """A UDP socket that does not block."""

    def __init__(self, family: int, buffer_bytes: int, *, trains: bool = True) -> None:
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        # The kernel gives what it allows, without saying so when that is less.
        for name in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, name, buffer_bytes)
        self.makes_trains = trains
        self.dropped = 0
        if trains:
            try:
                self.socket.setsockopt(SOL_UDP, UDP_GRO, 1)
            except OSError:
                self.makes_trains = False

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def receive(self) -> tuple[list[Packet], OSError | None]:
        """What has arrived, at most a turn's worth, and the error that ended it, if one did."""
        packets: list[Packet] = []
        for _ in range(CALLS_PER_TURN):
            try:
                size, ancillary, _flags, source = self.socket.recvmsg_into([_buffer], _ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                return packets, error
            each = size
            for level, kind, data in ancillary:
                if (level, kind) == (SOL_UDP, UDP_GRO):
                    each = int.from_bytes(data[:4], "little") or size
            packets += [(bytes(_buffer[at : min(at + each, size)]), source) for at in range(0, size, max(each, 1))]
        return packets, None

    def send(self, packets: Sequence[Packet]) -> OSError | None:
        """Send them, in order; the error the host refused one with, if it did. The others are sent all the same."""
        failure: OSError | None = None
        at = 0
        while at < len(packets):
            count = self._train_from(packets, at) if self.makes_trains else 1
            try:
                if count > 1:
                    self._send_train(packets[at : at + count])
                else:
                    self.socket.sendto(*packets[at])
            except BlockingIOError:
                self.dropped += len(packets) - at
                break
            except OSError as error:
                if count > 1 and error.errno in _NO_TRAINS:
                    self.makes_trains = False
                    continue
                failure = error
            at += count
        return failure

    def _send_train(self, packets: Sequence[Packet]) -> None:
        first = packets[0]
        self.socket.sendmsg(
            [data for data, _ in packets], [(SOL_UDP, UDP_SEGMENT, _SEGMENT.pack(len(first[0])))], 0, first[1]
        )

    @staticmethod
    def _train_from(packets: Sequence[Packet], at: int) -> int:
        """How many from there on can be one train: one destination, one length, and perhaps a shorter last one."""
        data, destination = packets[at]
        each, total, count = len(data), len(data), 1
        for following, its_destination in packets[at + 1 : at + TRAIN_PACKETS]:
            if its_destination != destination or len(following) > each or total + len(following) > TRAIN_BYTES:
                break
            count += 1
            total += len(following)
            if len(following) < each:
                break
        return count
