"""Two processes, one ring, and no time-out anywhere: does a doorbell that is due always ring?

``python -m tests.vmbus.litmus --decisions 10000000`` [``--build pure``] [``--without-fence``]

The reader drains the ring, says that it goes idle, and then really sleeps: it blocks in a read of its eventfd. The
writer sends one packet at a time and decides each time whether to ring; when the ring is full it sleeps in the same
way until the reader rings. Most packets are sent in the very moment in which the reader, having drained the ring, is
about to sleep. One wake-up lost, and nobody ever moves again; a third process sees that and ends the run with exit
code 1: the sleeper is asleep in the kernel, its eventfd is silent, and the ring is not as a sleeper may leave it.
"""

from __future__ import annotations

import argparse
import mmap
import os
import select
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NoReturn

from emulator.memory import PAGE_SIZE, GuestMemory
from emulator.vmbus.packets import encode_in_band
from emulator.vmbus.ring import RING_BUILD, RING_BUILDS, RingBuild, initialise_as_guest, no_fence
from tests.vmbus.ring_variants import compile_ring, load_ring

IN, OUT = 0, 1
RING_PAGES = 9
FOREVER = 1 << 30
LAST = (1 << 64) - 1
DECISIONS, SIGNALS, READER_SLEEPS, WRITER_SLEEPS, RECEIVED = range(5)
_number = struct.Struct("<Q")
_lock = threading.Lock()


def lock_fence() -> None:
    """A fence for plain Python on x86-64."""
    _lock.acquire()
    _lock.release()


class Table:
    """What the two processes share: the ring, a doorbell for each, and counters for whoever watches."""

    def __init__(self, build: RingBuild, fenced: bool) -> None:
        self.build = build
        self.fence = lock_fence if build.needs_fence and fenced else no_fence
        self.memory = GuestMemory(memoryview(mmap.mmap(-1, (RING_PAGES + 1) * PAGE_SIZE)))
        self.ring = build.memory.over(self.memory, range(RING_PAGES))
        initialise_as_guest(self.ring)
        self.counters = self.memory.view(RING_PAGES * PAGE_SIZE, PAGE_SIZE).cast("Q")
        self.reader_bell = os.eventfd(0, os.EFD_CLOEXEC)
        self.writer_bell = os.eventfd(0, os.EFD_CLOEXEC)


def read(table: Table) -> None:
    """Drain, go idle, sleep; until the last packet. Every packet has the number after the one before it."""
    receiver = table.build.receiver(table.ring, table.fence)
    counters = table.counters
    expected = sleeps = rounds = 0
    random = Random(0)
    jitter = [random.randrange(-20, 20) for _ in range(1021)]
    delay = 0
    while True:
        received = receiver.receive_batch(FOREVER, FOREVER)
        if received.signal:
            os.eventfd_write(table.writer_bell, 1)
        for image in received.images:
            (number,) = _number.unpack_from(image, 16)
            if number == LAST:
                return
            if number != expected:
                raise SystemExit(f"packet {number} came where {expected} was due")
            expected += 1
        counters[RECEIVED] = expected
        # Later when the last packet came too late, earlier when it came too soon: so the next one comes meanwhile.
        rounds += 1
        for _ in range(delay + jitter[rounds % 1021]):
            pass
        if not (received.empty and receiver.go_idle()):
            delay = max(0, delay - 1)
        else:
            delay = min(1000, delay + 1)
            sleeps += 1
            counters[READER_SLEEPS] = sleeps
            os.eventfd_read(table.reader_bell)


class Writer:
    """The process that sends: sometimes at once, mostly just as the reader goes idle, sometimes long after."""

    def __init__(self, table: Table, seed: int) -> None:
        self.table = table
        self.sender = table.build.sender(table.ring, table.fence)
        self.sleeps = self.signals = 0
        random = Random(seed)
        self.plan = [self.choose(random) for _ in range(4096)]

    @staticmethod
    def choose(random: Random) -> tuple[bool, int, bytes]:
        """Whether to wait until the ring is empty, how long to wait then, and what to send behind the number."""
        choice = random.random()
        if choice < 0.8:
            return True, random.randrange(60), bytes(random.choice([0, 0, 400, 3000]))
        if choice < 0.9:
            return True, random.randrange(2000), bytes(random.randrange(100))
        return False, 0, bytes(900)

    def run(self, decisions: int) -> None:
        control = self.table.ring.control
        counters = self.table.counters
        plan = self.plan
        for number in range(decisions):
            wait, delay, filling = plan[number & 4095]
            image = encode_in_band(_number.pack(number) + filling)
            if wait:
                tries = 0
                while control[OUT] != control[IN] and tries < 5000:
                    tries += 1
                for _ in range(delay):
                    pass
            self.send(image)
            counters[DECISIONS] = number + 1
        self.send(encode_in_band(_number.pack(LAST)))

    def send(self, image: bytes) -> None:
        sender = self.sender
        while True:
            sent = sender.send_batch((image,))
            if sent.signal:
                self.signals += 1
                self.table.counters[SIGNALS] = self.signals
                os.eventfd_write(self.table.reader_bell, 1)
            if sent.written:
                sender.unblock()
                return
            if not sender.block(len(image) + 8):
                self.sleeps += 1
                self.table.counters[WRITER_SLEEPS] = self.sleeps
                os.eventfd_read(self.table.writer_bell)


def forked(job: Callable[[], None]) -> int:
    """Run it in a process of its own; its process id."""
    pid = os.fork()
    if not pid:
        _run_and_exit(job)
    return pid


def _run_and_exit(job: Callable[[], None]) -> NoReturn:
    try:
        job()
    except BaseException as problem:  # noqa: BLE001  # whatever it was, this process must not go on as its parent
        sys.stderr.write(f"{problem}\n")
        os._exit(2)
    os._exit(0)


def is_silent(bell: int) -> bool:
    """Whether an eventfd has nothing to tell; looking does not change it."""
    poll = select.poll()
    poll.register(bell, select.POLLIN)
    return not poll.poll(0)


def is_asleep(pid: int) -> bool:
    """Whether the kernel has this process sleeping."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def is_lost(table: Table, reader: int, writer: int) -> bool:
    """Whether the reader sleeps over packets, or both sleep over an empty ring, and no doorbell is on its way."""
    waiting = table.ring.control[IN] != table.ring.control[OUT]
    if not (is_asleep(reader) and is_silent(table.reader_bell)):
        return False
    return waiting or (is_asleep(writer) and is_silent(table.writer_bell))


def watch(table: Table, reader: int, writer: int, tick_seconds: float = 0.25) -> bool:
    """Wait until both are done; False when they sleep for good. Nothing either of them waits for has a time-out."""
    left = {reader, writer}
    before = suspicious = -1
    while left:
        time.sleep(tick_seconds)
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                left.discard(pid)
                if status:
                    raise SystemExit(f"a process ended with status {status}")
        now = sum(table.counters[:5])
        # A packet may be under way between two sleepers for a moment; the same picture four times over is none.
        suspicious = suspicious + 1 if left and now == before and is_lost(table, reader, writer) else 0
        before = now
        if suspicious > 3:
            for pid in left:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
            return False
    return True


def choose_build(name: str, fenced: bool, directory: str) -> RingBuild:
    """The build to test; a compiled one without its fence is made for this run."""
    if fenced or name == "pure":
        return RING_BUILDS[name]
    return load_ring(compile_ring(Path(directory), "-DVMBUS_RING_WITHOUT_FENCE"), name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=10_000_000, help="how many times the writer decides")
    parser.add_argument("--build", choices=sorted(RING_BUILDS), default=RING_BUILD)
    parser.add_argument("--without-fence", action="store_true", help="take the fence out: this has to fail")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        table = Table(choose_build(options.build, not options.without_fence, directory), not options.without_fence)
    began = time.monotonic()
    reader = forked(lambda: read(table))
    writer = forked(lambda: Writer(table, options.seed).run(options.decisions))
    ended_well = watch(table, reader, writer)
    seconds = time.monotonic() - began
    decisions, signals, reader_sleeps, writer_sleeps, received = table.counters[:5]
    fence = "without its fence" if options.without_fence else "with its fence"
    sys.stdout.write(
        f"{options.build} ring {fence}: {decisions} decisions, {signals} doorbells, the reader asleep {reader_sleeps} "
        f"times, the writer {writer_sleeps} times, {received} packets received in order, {seconds:.0f} s\n"
    )
    if ended_well:
        sys.stdout.write("no wake-up was lost\n")
        return 0
    words = [table.ring.control[word] for word in range(4)]
    sys.stdout.write(f"LOST A WAKE-UP: asleep for good with in, out, mask, pending = {words}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
