"""What the two ends of a ring pair do in a measurement: over the ring and its eventfds, and over a Pipe beside it."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import perf_counter_ns
from typing import NoReturn

import trio

from emulator.memory import PAGE_SIZE, GuestMemory
from emulator.vmbus.packets import encode_completion, encode_in_band, parse_packet_untrusted
from emulator.vmbus.ring import Fence, RingBuild, RingMemory, RingReceiver, RingSender, initialise_as_guest, no_fence

DATA_PAGES = 16
# One way between processes: room for many packets, so that a sleeper seldom sleeps and its waking costs little.
STREAM_DATA_PAGES = 256
BATCH = 32
EVERYTHING = 1 << 29
_lock = threading.Lock()


def lock_fence() -> None:
    """What the daemon gives a ring that has no fence of its own."""
    _lock.acquire()
    _lock.release()


def fence_for(build: RingBuild) -> Fence:
    """The fence this build needs between processes."""
    return lock_fence if build.needs_fence else no_fence


def ring_in(
    memory: GuestMemory, build: RingBuild, first: int, data_pages: int = DATA_PAGES, *, scattered: bool = False
) -> RingMemory:
    """A ring in the pages from ``first`` on; the data pages in the reverse order when ``scattered``."""
    data = range(first + 1, first + 1 + data_pages)
    ring = build.memory.over(memory, [first, *(reversed(data) if scattered else data)])
    initialise_as_guest(ring)
    return ring


def local(build: RingBuild, payload_bytes: int, batch: int, count: int, scattered: bool) -> float:
    """Nanoseconds to put and get a packet, both ends in this thread, with the fence two processes would need."""
    memory = GuestMemory(memoryview(mmap.mmap(-1, (DATA_PAGES + 1) * PAGE_SIZE)))
    ring = ring_in(memory, build, 0, scattered=scattered)
    fence = fence_for(build)
    send = build.sender(ring, fence).send_batch
    receive = build.receiver(ring, fence).receive_batch
    images = (encode_in_band(bytes(payload_bytes)),) * batch
    began = perf_counter_ns()
    for _ in range(count // batch):
        send(images)
        receive(EVERYTHING, EVERYTHING)
    return (perf_counter_ns() - began) / (count // batch * batch)


@dataclass
class Direction:
    """One ring of a pair between two processes, with a doorbell for the end that sleeps at each side."""

    ring: RingMemory
    build: RingBuild
    data_bell: int
    room_bell: int

    def sender(self) -> RingSender:
        return self.build.sender(self.ring, fence_for(self.build))

    def receiver(self) -> RingReceiver:
        return self.build.receiver(self.ring, fence_for(self.build))


def two_directions(build: RingBuild, flags: int = 0, data_pages: int = DATA_PAGES) -> tuple[Direction, Direction]:
    """A ring pair in memory that a forked process shares."""
    memory = GuestMemory(memoryview(mmap.mmap(-1, 2 * (data_pages + 1) * PAGE_SIZE)))
    there, back = (
        Direction(ring_in(memory, build, first, data_pages), build, os.eventfd(0, flags), os.eventfd(0, flags))
        for first in (0, data_pages + 1)
    )
    return there, back


def close_bells(*directions: Direction) -> None:
    for direction in directions:
        os.close(direction.data_bell)
        os.close(direction.room_bell)


def forked(job: Callable[[], object]) -> int:
    """Run it in a process of its own."""
    pid = os.fork()
    if not pid:
        _run_and_exit(job)
    return pid


def _run_and_exit(job: Callable[[], object]) -> NoReturn:
    try:
        job()
    finally:
        os._exit(0)


def send_stream(direction: Direction, payload_bytes: int, count: int) -> None:
    """So many packets in batches, sleeping while there is no room."""
    sender = direction.sender()
    images = [encode_in_band(bytes(payload_bytes))] * BATCH
    cost = len(images[0]) + 8
    left = count
    while left:
        sent = sender.send_batch(images[: min(left, BATCH)])
        if sent.signal:
            os.eventfd_write(direction.data_bell, 1)
        left -= sent.written
        if sent.written < BATCH and left:
            if not sender.block(cost):
                os.eventfd_read(direction.room_bell)
            sender.unblock()


def receive_some(direction: Direction, receiver: RingReceiver) -> list[bytes]:
    """What is there, asleep until there is something."""
    while True:
        received = receiver.receive_batch(EVERYTHING, EVERYTHING)
        if received.signal:
            os.eventfd_write(direction.room_bell, 1)
        if received.images:
            return received.images
        if receiver.go_idle():
            os.eventfd_read(direction.data_bell)


def wait_for_some(direction: Direction, receiver: RingReceiver) -> list[bytes]:
    """The same for an end that expects to sleep: it does not look first."""
    while True:
        if receiver.go_idle():
            os.eventfd_read(direction.data_bell)
        images = receiver.receive_batch(EVERYTHING, EVERYTHING).images
        if images:
            return images


def stream(build: RingBuild, payload_bytes: int, count: int, data_pages: int = STREAM_DATA_PAGES) -> float:
    """Nanoseconds for a packet from one process to another, in batches."""
    there, back = two_directions(build, data_pages=data_pages)
    pid = forked(lambda: send_stream(there, payload_bytes, count))
    receiver = there.receiver()
    came = len(receive_some(there, receiver))
    began = perf_counter_ns()
    while came < count:
        came += len(receive_some(there, receiver))
    nanoseconds = perf_counter_ns() - began
    os.waitpid(pid, 0)
    close_bells(there, back)
    return nanoseconds / count


def pipe_stream(payload_bytes: int, count: int) -> float:
    """The same packets through a Pipe, one message each: it has no batches."""
    reader, writer = Pipe(duplex=False)
    image = encode_in_band(bytes(payload_bytes))

    def send() -> None:
        for _ in range(count):
            writer.send_bytes(image)

    pid = forked(send)
    reader.recv_bytes()
    began = perf_counter_ns()
    for _ in range(count - 1):
        reader.recv_bytes()
    nanoseconds = perf_counter_ns() - began
    os.waitpid(pid, 0)
    reader.close()
    writer.close()
    return nanoseconds / count


def answer_all(there: Direction, back: Direction, count: int) -> None:
    """Complete each packet with its own payload."""
    receiver, sender = there.receiver(), back.sender()
    while count:
        images = wait_for_some(there, receiver)
        answers = []
        for image in images:
            packet = parse_packet_untrusted(image)
            answers.append(encode_completion(packet.payload, packet.transaction_id))
        if sender.send_batch(answers).signal:
            os.eventfd_write(back.data_bell, 1)
        count -= len(images)


def trip(build: RingBuild, payload_bytes: int, count: int) -> float:
    """Nanoseconds from a request to its completion, both ends asleep in between; the ends encode and parse too."""
    there, back = two_directions(build)
    pid = forked(lambda: answer_all(there, back, count))
    sender, receiver = there.sender(), back.receiver()
    payload = bytes(payload_bytes)
    began = perf_counter_ns()
    for number in range(count):
        if sender.send_batch((encode_in_band(payload, number, True),)).signal:
            os.eventfd_write(there.data_bell, 1)
        (image,) = wait_for_some(back, receiver)
        if parse_packet_untrusted(image).transaction_id != number:
            raise RuntimeError("a completion of something else")
    nanoseconds = perf_counter_ns() - began
    os.waitpid(pid, 0)
    close_bells(there, back)
    return nanoseconds / count


def echo_images(there: Direction, back: Direction, count: int) -> None:
    """Send every packet back as it came."""
    receiver, sender = there.receiver(), back.sender()
    for _ in range(count):
        if sender.send_batch(wait_for_some(there, receiver)).signal:
            os.eventfd_write(back.data_bell, 1)


def bare_trip(build: RingBuild, payload_bytes: int, count: int) -> float:
    """The same with packets that were encoded before and that nobody parses: what the rings and the doorbells take."""
    there, back = two_directions(build)
    pid = forked(lambda: echo_images(there, back, count))
    sender, receiver = there.sender(), back.receiver()
    images = (encode_in_band(bytes(payload_bytes)),)
    began = perf_counter_ns()
    for _ in range(count):
        if sender.send_batch(images).signal:
            os.eventfd_write(there.data_bell, 1)
        wait_for_some(back, receiver)
    nanoseconds = perf_counter_ns() - began
    os.waitpid(pid, 0)
    close_bells(there, back)
    return nanoseconds / count


def echo(connection: Connection, count: int) -> None:
    for _ in range(count):
        connection.send_bytes(connection.recv_bytes())


def pipe_trip(payload_bytes: int, count: int) -> float:
    """The same payload there and back through a Pipe."""
    near, far = Pipe()
    pid = forked(lambda: echo(far, count))
    payload = bytes(payload_bytes)
    began = perf_counter_ns()
    for _ in range(count):
        near.send_bytes(payload)
        near.recv_bytes()
    nanoseconds = perf_counter_ns() - began
    os.waitpid(pid, 0)
    near.close()
    far.close()
    return nanoseconds / count


async def receive_some_in_trio(direction: Direction, receiver: RingReceiver) -> list[bytes]:
    """What is there; this task sleeps until there is something."""
    while True:
        if receiver.go_idle():
            await trio.lowlevel.wait_readable(direction.data_bell)
            try:
                os.eventfd_read(direction.data_bell)
            except BlockingIOError:
                continue
        received = receiver.receive_batch(EVERYTHING, EVERYTHING)
        if received.images:
            return received.images


async def answer_in_trio(there: Direction, back: Direction, count: int) -> None:
    receiver, sender = there.receiver(), back.sender()
    for _ in range(count):
        (image,) = await receive_some_in_trio(there, receiver)
        packet = parse_packet_untrusted(image)
        if sender.send_batch((encode_completion(packet.payload, packet.transaction_id),)).signal:
            os.eventfd_write(back.data_bell, 1)


async def ask_in_trio(there: Direction, back: Direction, payload: bytes, count: int) -> float:
    sender, receiver = there.sender(), back.receiver()
    began = perf_counter_ns()
    for number in range(count):
        if sender.send_batch((encode_in_band(payload, number, True),)).signal:
            os.eventfd_write(there.data_bell, 1)
        (image,) = await receive_some_in_trio(back, receiver)
        parse_packet_untrusted(image)
    return (perf_counter_ns() - began) / count


def trio_trip(build: RingBuild, payload_bytes: int, count: int) -> float:
    """The same with both ends in trio."""
    there, back = two_directions(build, os.EFD_NONBLOCK)
    pid = forked(lambda: trio.run(answer_in_trio, there, back, count))
    nanoseconds = trio.run(ask_in_trio, there, back, bytes(payload_bytes), count)
    os.waitpid(pid, 0)
    close_bells(there, back)
    return nanoseconds
