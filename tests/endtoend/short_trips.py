"""A guest and a host in short round trips over direct channels, and somebody who writes over their rings meanwhile.

``main`` runs one of them: ``guest MODE FAILURES``, ``host MODE``, ``scribbler SEED``. Each exits with 0 only if
whatever it met was an error that the client library documents; guest and host say what they met in one JSON line.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections import Counter
from random import Random

import clients.sync
from clients import RequestFailed
from clients.direct import DirectEnd
from clients.sync import Channel, Machine
from emulator.memory import PAGE_SIZE, GuestMemory
from emulator.status import NtStatus
from emulator.vmbus.ring import RING_BUILD

ECHO = "5f1d2b6c-7f10-4b6e-9c53-0e6d0c5a0007"
MARKER = b"a marker nobody else has"
STOP = b"stop it!"
RING_PAGES = 2  # a control page and one of data
# The pages of a channel that was damaged are free when its host has let go of them, and the next one has others: on a
# busy machine there may be many before it does, and one that nobody finds lives for ever.
SEARCHED_PAGES = 1024
CALM_TRIPS = 200
# What was written over may be that a doorbell is wanted: nothing rings then, and a wait ends by its time-out.
LOST_DOORBELL_SECONDS = 0.1
LOOK_SECONDS = 0.02  # longer than usual: a hosted peer, or one on a busy machine, shall be met in the ring, too
EXPECTED = {NtStatus.DEVICE_REMOVED, NtStatus.CANCELLED, NtStatus.DEVICE_NOT_READY}


def reversed_payload(payload: bytes) -> bytes:
    """What the host answers: not the same bytes, so that a marker stands in one ring only."""
    return payload[::-1]


class Met(Counter[str]):
    """What happened how often: finds of the short ways, and how things ended."""

    def count_finds(self, kind: type[object], name: str) -> None:
        """Count under its own name how often a method found something."""
        real = getattr(kind, name)

        def counted(*args: object) -> object:
            found = real(*args)
            self[name] += found is not None and found is not False
            return found

        setattr(kind, name, counted)

    def failure(self, failed: RequestFailed) -> None:
        """An error of the documented kind; any other ends the program."""
        if failed.status not in EXPECTED:
            raise failed
        self["failures"] += 1
        # The second is what a guest may hear of it first when its host's client found the damage.
        self["damage"] += any(
            text in str(failed) for text in ("the ring is damaged, as ", "the host closed the channel")
        )

    def say(self) -> None:
        print("met:", json.dumps([RING_BUILD, self]), flush=True)


def open_channel(machine: Machine, mode: str) -> Channel:
    return machine.open_channel(ECHO, mode=mode, send_pages=1, receive_pages=1)


def troubled_guest(machine: Machine, mode: str, failures: int, met: Met) -> None:
    """Open a channel and send on it until that fails, so many times. What comes back may be anything meanwhile."""
    while met["failures"] + met["silence"] < failures:
        try:
            with open_channel(machine, mode) as channel:
                send_until_it_fails(channel, met)
        except RequestFailed as failed:
            met.failure(failed)  # rings written over before there was a channel


def send_until_it_fails(channel: Channel, met: Met) -> None:
    try:
        while True:
            channel.send(MARKER)
            met["trips"] += 1
    except RequestFailed as failed:
        met.failure(failed)
    except TimeoutError:
        met["silence"] += 1


def calm_guest(machine: Machine, mode: str, met: Met) -> None:
    """With nobody writing over anything every answer is right; then have the host stop."""
    with open_channel(machine, mode) as channel:
        for number in range(CALM_TRIPS):
            payload = number.to_bytes(8, "little")
            assert channel.send(payload) == reversed_payload(payload)
            met["trips"] += 1
        channel.send(STOP)


def guest(mode: str, failures: int, met: Met) -> None:
    timeout_seconds = LOST_DOORBELL_SECONDS if failures else 30.0
    with clients.sync.connect(timeout_seconds=timeout_seconds, busy_poll_seconds=LOOK_SECONDS) as daemon:
        machine = daemon.machine("vm1")
        if failures:
            troubled_guest(machine, mode, failures, met)
        else:
            calm_guest(machine, mode, met)


def host(mode: str, met: Met) -> None:
    with clients.sync.connect(busy_poll_seconds=LOOK_SECONDS) as daemon:
        offered = daemon.machine("vm1").offer_channel(ECHO, mode=mode)
        print("offered", flush=True)
        for packet in offered:
            # A completion that does not go through ends the channel, which is for its guest to hear.
            packet.complete(reversed_payload(packet.payload))
            if packet.payload == STOP:
                break


def first_channel(memory: GuestMemory) -> int:
    """The first page of the first channel's rings, as soon as a marker went through them."""
    while (at := memory.read(0, memory.byte_count).find(MARKER)) < 0:
        time.sleep(0.01)
    return at // PAGE_SIZE - 1


def channels_from(memory: GuestMemory, first: int) -> list[int]:
    """Where rings are, or were a moment ago: the pages in front of those with a marker, from the first one on."""
    content = memory.read(first * PAGE_SIZE, SEARCHED_PAGES * PAGE_SIZE)
    found = []
    at = content.find(MARKER)
    while at >= 0:
        page = at // PAGE_SIZE
        found.append(first + page - 1)
        at = content.find(MARKER, (page + 1) * PAGE_SIZE)
    return found


def hostile_piece(random: Random) -> tuple[int, bytes]:
    """Where to write, counted from a ring's control page, and what: some words of that, or part of a packet."""
    kind = random.random()
    if kind < 0.3:  # one index or both, such as could be right and such as could not
        words = [random.choice([random.randrange(0, PAGE_SIZE, 8), random.randrange(1 << 32)]) for _ in range(2)]
        return random.choice((0, 4)), struct.pack("<II", *words)[: random.choice((4, 8))]
    if kind < 0.35:  # the mask, the pending size
        return random.choice((8, 12)), struct.pack("<I", random.choice((0, 1, 64, PAGE_SIZE)))
    at = PAGE_SIZE + random.randrange(0, PAGE_SIZE, 8)
    if kind < 0.4:
        return at, random.randbytes(8)
    length8 = random.choice((0, 1, 2, 3, 4, 20, 0xFFFF))
    return at, struct.pack("<HHHH", random.choice((6, 9, 11)), random.choice((1, 2, 3)), length8, random.choice((0, 1)))


def scribbler(seed: int) -> None:
    """Write over the rings now and then, some pieces at a time, until somebody ends this."""
    random = Random(seed)
    with clients.sync.connect() as daemon:
        memory = daemon.machine("vm1").memory.mapped
        print("attached", flush=True)
        first = first_channel(memory)
        while True:
            for channel in channels_from(memory, first):
                for _ in range(random.choice((1, 1, 4, 16))):
                    at, piece = hostile_piece(random)
                    ring = channel + random.choice((0, RING_PAGES))
                    memory.write(ring * PAGE_SIZE + at, piece)
            time.sleep(random.random() * 2e-3)  # so that round trips come between


def main() -> None:
    what, *rest = sys.argv[1:]
    met = Met()
    for short in ("take_answer", "_take_plain"):  # what a short round trip consists of
        met.count_finds(DirectEnd, short)
    if what == "scribbler":
        scribbler(int(rest[0]))
    elif what == "guest":
        guest(rest[0], int(rest[1]), met)
    else:
        host(rest[0], met)
    met.say()
