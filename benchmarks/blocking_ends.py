"""The two ends without an event loop: through ``clients.sync``, or plain blocking sockets through a relay.

``python -m benchmarks.blocking_ends near|far FACE CARRIER DIRECTORY ECHO_PORT``. The near end takes measurements from
standard input; the far end serves until it is killed.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import repeat
from time import perf_counter_ns
from typing import Protocol

from benchmarks import timing
from benchmarks.raw import (
    ANSWER_BYTES,
    HEADER_BYTES,
    QUESTION,
    RECEIVE_BYTES,
    UDP,
    Batch,
    answer,
    daemon_path,
    relay_path,
    require,
)
from benchmarks.rows import (
    BY_LIBRARY,
    COALESCED_PACKETS,
    DIRECT_RING_PAGES,
    EXTERNAL_BYTES,
    INTERFACES,
    MACHINE,
    ROUND_TRIPS,
    Carrier,
    Measure,
)
from benchmarks.timing import Command, Setting
from clients.sync import Machine, OfferedChannel, connect


class Link(Protocol):
    """The near end of a carrier."""

    def exchange(self, batch: Batch) -> Callable[[], None]:
        """Announce a batch of round trips; the call that does one of them."""

    def pour(self, batch: Batch) -> int:
        """Send a batch one way; how many messages the far end counted."""


class LibraryLink:
    """A guest of the daemon's, hosted or direct as the carrier says."""

    def __init__(self, machine: Machine, setting: Setting) -> None:
        pages = DIRECT_RING_PAGES if setting.carrier is Carrier.DIRECT else 0
        self._channel = machine.open_channel(
            INTERFACES[setting.face], mode=setting.carrier, send_pages=pages, receive_pages=pages
        )
        self._buffer = machine.allocate(EXTERNAL_BYTES)
        self._address = machine.open_address(("127.0.0.1", 0))
        self._echo = "127.0.0.1", setting.echo_port

    def exchange(self, batch: Batch) -> Callable[[], None]:
        payload = bytes(batch.message_bytes)
        send, address, echo = self._channel.send, self._address, self._echo

        def packet() -> None:
            require(len(send(payload)), len(payload), "bytes of a completion")

        def datagram() -> None:
            address.send_datagram(payload, echo)
            require(len(next(address).data), len(payload), "bytes of a datagram")

        if batch.measure is Measure.EXTERNAL:
            return self._exchange_external(payload)
        return datagram if batch.measure is Measure.DATAGRAM else packet

    def _exchange_external(self, payload: bytes) -> Callable[[], None]:
        buffer = self._buffer
        mdl, send = buffer.mdl, self._channel.send_with_external_mdl

        def external() -> None:
            buffer.write(0, payload)
            require(int.from_bytes(send(b"take", mdl), "little"), len(payload), "bytes of external data")

        return external

    def pour(self, batch: Batch) -> int:
        self._channel.post(repeat(bytes(batch.message_bytes), batch.messages))
        return int.from_bytes(self._channel.send(QUESTION), "little")


class RawLink:
    """A client of a relay."""

    def __init__(self, stream: socket.socket, datagrams: socket.socket | None) -> None:
        self._stream = stream
        self._datagrams = datagrams

    def exchange(self, batch: Batch) -> Callable[[], None]:
        payload = bytes(batch.message_bytes)
        sock, answer_bytes = self._stream, batch.message_bytes
        if batch.measure is Measure.DATAGRAM and self._datagrams is not None:
            sock = self._datagrams
        else:
            sock.sendall(batch.pack())
        if batch.measure is Measure.EXTERNAL:
            answer_bytes = ANSWER_BYTES

        def trip() -> None:
            sock.sendall(payload)
            receive(sock, answer_bytes)

        return trip

    def pour(self, batch: Batch) -> int:
        sock, left = self._stream, batch.messages
        sock.sendall(batch.pack())
        run = bytes(batch.message_bytes) * COALESCED_PACKETS
        while left >= COALESCED_PACKETS:
            sock.sendall(run)
            left -= COALESCED_PACKETS
        sock.sendall(run[: left * batch.message_bytes])
        return int.from_bytes(receive(sock, ANSWER_BYTES), "little")


def receive(sock: socket.socket, byte_count: int) -> bytes:
    """So many bytes; EOFError when the peer has gone."""
    data = sock.recv(byte_count)
    if len(data) == byte_count:
        return data
    parts = bytearray(data)
    while data and len(parts) < byte_count:
        data = sock.recv(byte_count - len(parts))
        parts += data
    if not data:
        raise EOFError
    return bytes(parts)


# ---- near


def time_round_trips(link: Link, batch: Batch) -> list[int]:
    """What each of a batch took, in nanoseconds."""
    trip = link.exchange(batch)
    samples = []
    before = perf_counter_ns()
    for _ in range(batch.messages):
        trip()
        after = perf_counter_ns()
        samples.append(after - before)
        before = after
    return samples


def time_pouring(link: Link, batch: Batch) -> int:
    """What a whole batch took, until the far end said how many had come; in nanoseconds."""
    before = perf_counter_ns()
    came = link.pour(batch)
    elapsed = perf_counter_ns() - before
    require(came, batch.messages, "packets at the far end")
    return elapsed


def measure(link: Link, command: Command) -> dict[str, float]:
    """One measurement, after a trial that warms up and says how many messages are a batch."""
    batch = Batch(command.measure, command.message_bytes, command.warm_up)
    nanoseconds, left = command.nanoseconds, command.nanoseconds
    if command.measure in ROUND_TRIPS:
        batch = timing.sized(batch, command, sum(time_round_trips(link, batch)))
        samples: list[int] = []
        while left > 0:
            samples += (taken := time_round_trips(link, batch))
            left -= sum(taken)
        return timing.round_trip(samples)
    while timing.says_little(command, elapsed := time_pouring(link, batch)):
        batch = batch._replace(messages=4 * batch.messages)
    batch = timing.sized(batch, command, elapsed)
    messages = 0
    while left > 0:
        left -= time_pouring(link, batch)
        messages += batch.messages
    return timing.rate(messages, nanoseconds - left)


def near(setting: Setting) -> None:
    """Take measurements as they are asked for."""
    with ExitStack() as stack:
        link: Link
        if setting.carrier in BY_LIBRARY:
            connection = stack.enter_context(connect(daemon_path(setting.directory), name="near"))
            link = LibraryLink(connection.machine(MACHINE), setting)
        else:
            stream = stack.enter_context(_connected(setting, setting.carrier))
            joined = setting.carrier is Carrier.RELAY
            link = RawLink(stream, stack.enter_context(_connected(setting, UDP)) if joined else None)
        timing.say("ready")
        for command in timing.commands():
            timing.say(measure(link, command))


def _connected(setting: Setting, name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(relay_path(setting.directory, name, setting.face)))
    return sock


# ---- far


def far(setting: Setting) -> None:
    """Serve the near end until it goes."""
    if setting.carrier in BY_LIBRARY:
        with connect(daemon_path(setting.directory), name="far") as connection:
            offered = connection.machine(MACHINE).offer_channel(INTERFACES[setting.face], mode=setting.carrier)
            timing.say("ready")
            (serve_runs if setting.carrier is Carrier.DIRECT else serve_packets)(offered)
    else:
        with _connected(setting, setting.carrier) as sock:
            timing.say("ready")
            while True:
                serve_batch(sock, Batch.unpack(receive(sock, HEADER_BYTES)))


def serve_packets(offered: OfferedChannel) -> None:
    """Complete with the payload, with the length of external data, or with the count of packets to be counted."""
    counted = 0
    for packet in offered:
        if packet.has_external_data:
            packet.complete(answer(len(packet.external_data())))
        elif not packet.wants_completion:
            counted += 1
        elif packet.payload == QUESTION:
            packet.complete(answer(counted))
            counted = 0
        else:
            packet.complete(packet.payload)


def serve_runs(offered: OfferedChannel) -> None:
    """The same for a host that collects what needs no completion once some has come; no packet has external data."""
    counted = 0
    for packet in offered:
        if not packet.wants_completion:
            counted += 1
            while payloads := offered.collect():
                counted += len(payloads)
        elif packet.payload == QUESTION:
            packet.complete(answer(counted))
            counted = 0
        else:
            packet.complete(packet.payload)


def serve_batch(sock: socket.socket, batch: Batch) -> None:
    """Do the far end's part of a batch."""
    if batch.measure is Measure.ROUND_TRIP:
        for _ in range(batch.messages):
            sock.sendall(receive(sock, batch.message_bytes))
    elif batch.measure is Measure.EXTERNAL:
        for _ in range(batch.messages):
            sock.sendall(answer(len(receive(sock, batch.message_bytes))))
    else:
        came, wanted = 0, batch.messages * batch.message_bytes
        while came < wanted:
            came += len(receive(sock, min(RECEIVE_BYTES, wanted - came)))
        sock.sendall(answer(came // batch.message_bytes))


if __name__ == "__main__":
    chosen = timing.setting_from(sys.argv[1:])
    (near if chosen.end == "near" else far)(chosen)
