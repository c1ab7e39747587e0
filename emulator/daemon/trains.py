"""A burst of datagrams to one destination in as few system calls as the kernel allows.

Runs of one length leave as trains. A train the kernel refuses is sent again singly, so that each datagram has its own
outcome: perhaps only one of them, or only the way together, was impossible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from emulator.daemon.udp import TRAIN_BYTES, TRAIN_DATAGRAMS, UdpSocket
from emulator.tdi.structures import SocketAddress


class BurstEnd(NamedTuple):
    """How far a burst came: so many datagrams and bytes left, and why not more.

    ``error`` is the host's refusal of the next one. Without it, and with some left over, the socket had no room.
    """

    datagrams: int
    byte_count: int
    error: OSError | None = None


def send_burst(
    opened: UdpSocket, destination: SocketAddress, lengths: Sequence[int], data: memoryview, *, trains: bool = True
) -> BurstEnd:
    """Send datagrams that stand back to back in ``data``, until the socket has no room or the host refuses one."""
    sent, at, count = 0, 0, len(lengths)
    while sent < count:
        each = lengths[sent]
        cars = _cars(lengths, sent) if trains else 1
        if cars > 1:
            end = at + sum(lengths[sent : sent + cars])
            try:
                left = opened.send_train(data[at:end], each, destination)
            except OSError:
                singly = send_burst(opened, destination, lengths[sent : sent + cars], data[at:end], trains=False)
                sent, at = sent + singly.datagrams, at + singly.byte_count
                if singly.datagrams < cars:
                    return BurstEnd(sent, at, singly.error)
                continue
        else:
            end = at + each
            try:
                left = opened.send(data[at:end], destination)
            except OSError as error:
                return BurstEnd(sent, at, error)
        if not left:
            break
        sent, at = sent + cars, end
    return BurstEnd(sent, at)


def _cars(lengths: Sequence[int], first: int) -> int:
    """How many datagrams from ``first`` on can be one train: equal ones, and perhaps a shorter one as the last."""
    each = lengths[first]
    if not each:
        return 1
    most = min(TRAIN_DATAGRAMS, TRAIN_BYTES // each, len(lengths) - first)
    portion = lengths[first : first + most]
    if portion.count(each) == len(portion):
        return len(portion)
    cars = next(index for index, length in enumerate(portion) if length != each)
    return cars + 1 if 0 < portion[cars] < each else cars
