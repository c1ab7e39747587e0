"""Receives and connection requests as a client's bytes: filters, buffers and return structures in guest memory."""

from __future__ import annotations

import struct

import pytest

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl
from emulator.status import NtStatus, Refused
from emulator.tdi import builders
from emulator.tdi.connection_requests import Receive, Send
from emulator.tdi.constants import ReceiveFlags, SendFlags, ShareAccess
from emulator.tdi.effects import Complete, Effect
from emulator.tdi.irp import Irp
from emulator.tdi.layout import Arch
from emulator.tdi.raw import RawParameters, raw_irp
from emulator.tdi.request_layouts import TDI_CONNECTION_INFORMATION
from emulator.tdi.structures import SocketAddress, pack_transport_address
from tests.tdi.bench import NETWORKS, Bench

BUFFER = Mdl(5, 4, (2,), next=Mdl(0, 6, (4,)))
INFORMATION_AT = PAGE_SIZE
RESULT_AT = 3 * PAGE_SIZE
both = pytest.mark.parametrize("network", NETWORKS)
archs = pytest.mark.parametrize("arch", Arch, ids=lambda arch: arch.name.lower())


class Receiver:
    """A client that lays its receives out in guest memory."""

    def __init__(self, network: str, arch: Arch) -> None:
        self.bench = Bench(network)
        self.arch = arch
        self.memory = GuestMemory(memoryview(bytearray(b"\xee" * (16 * PAGE_SIZE))))
        self.handle = self.bench.open()

    def submit(self, handle: int, location: builders.Location, mdl: Mdl | None = None) -> Irp:
        irp = raw_irp(handle, location.image, self.arch, self.memory, mdl=mdl)
        raw = irp.parameters
        assert isinstance(raw, RawParameters)
        irp.context = raw
        self.perform(self.bench.transport.submit(irp, self.bench.now))
        return irp

    def perform(self, effects: list[Effect]) -> None:
        self.bench.perform(effects)
        self.finish()

    def finish(self) -> None:
        """What whoever submitted the requests does with their completions."""
        for complete in self.bench.completions:
            assert isinstance(complete, Complete)
            if isinstance(complete.irp.context, RawParameters):
                complete.irp.context.completed(complete.irp)

    def structure(self, at: int, remote_room: int, options: int = 0, remote: bytes | None = None) -> None:
        values = {"RemoteAddressLength": remote_room, "RemoteAddress": at + 100, "OptionsLength": options}
        self.memory.write(at, TDI_CONNECTION_INFORMATION.pack(self.arch, values))
        self.memory.write(at + 100, b"\xdd" * 60 if remote is None else remote)

    def receive(self, length: int = 0, filter_by: int = 0, returned: int = RESULT_AT, flags: int = 0) -> Irp:
        location = builders.receive_datagram(self.arch, length, filter_by, returned, flags)
        return self.submit(self.handle, location, BUFFER)

    def arrive(self, data: bytes) -> None:
        self.bench.arrive(self.handle, data)
        self.finish()

    def data(self) -> bytes:
        return self.memory.read(2 * PAGE_SIZE + 5, 4) + self.memory.read(4 * PAGE_SIZE, 6)

    def remote(self) -> tuple[int, bytes]:
        at = RESULT_AT + TDI_CONNECTION_INFORMATION.offset("RemoteAddressLength", self.arch)
        (length,) = struct.unpack("<i", self.memory.read(at, 4))
        return length, self.memory.read(RESULT_AT + 100, 40)


@archs
@both
def test_r16_r18_a_datagram_fills_the_chain_and_the_structure(network: str, arch: Arch) -> None:
    receiver = Receiver(network, arch)
    receiver.structure(RESULT_AT, 40)
    irp = receiver.receive()
    assert receiver.remote() == (40, b"\xdd" * 40), "a receive that waits leaves the structure alone (R24)"
    receiver.arrive(b"datagram")
    assert receiver.bench.outcome(irp) == (NtStatus.SUCCESS, 8)
    assert receiver.data() == b"datagram\xee\xee"
    peer = pack_transport_address(receiver.bench.peer)
    assert receiver.remote() == (22, peer + b"\xdd" * 18)
    assert receiver.memory.read(2 * PAGE_SIZE + 9, 20) == b"\xee" * 20


@archs
@pytest.mark.parametrize("room", [1, 8, 21])
def test_r18_r19_an_address_that_does_not_fit_is_cut_and_its_length_never_grows(arch: Arch, room: int) -> None:
    receiver = Receiver("lan", arch)
    receiver.structure(RESULT_AT, room)
    irp = receiver.receive()
    receiver.arrive(b"x")
    assert receiver.bench.outcome(irp) == (NtStatus.BUFFER_OVERFLOW, 1)
    peer = pack_transport_address(receiver.bench.peer)
    assert receiver.remote() == (room, peer[:room] + b"\xdd" * (40 - room))


@archs
def test_r17_t25_more_than_the_chain_holds_is_cut_but_there(arch: Arch) -> None:
    receiver = Receiver("udp", arch)
    irp = receiver.receive(returned=0)
    receiver.arrive(bytes(range(12)))
    assert receiver.bench.outcome(irp) == (NtStatus.BUFFER_OVERFLOW, 10)
    assert receiver.data() == bytes(range(10))


@archs
@both
def test_t19_one_structure_as_filter_and_result_with_options_of_length_four(network: str, arch: Arch) -> None:
    receiver = Receiver(network, arch)
    receiver.structure(RESULT_AT, 22, options=4, remote=bytes(22))
    irp = receiver.receive(filter_by=RESULT_AT)
    receiver.arrive(b"from anybody")
    assert receiver.bench.outcome(irp)[1] == 10
    assert receiver.remote()[1][:22] == pack_transport_address(receiver.bench.peer)


@archs
def test_r14_a_filter_in_bytes(arch: Arch) -> None:
    receiver = Receiver("udp", arch)
    other = pack_transport_address(SocketAddress("127.0.0.9", 99))
    receiver.structure(INFORMATION_AT, 22, remote=other)
    waiting = receiver.receive(filter_by=INFORMATION_AT, returned=0)
    receiver.arrive(b"not for it")
    receiver.bench.arrive(receiver.handle, b"for it", SocketAddress("127.0.0.9", 99))
    assert receiver.bench.outcome(waiting) == (NtStatus.SUCCESS, 6)
    receiver.structure(INFORMATION_AT, 7, remote=other)
    bad = receiver.receive(filter_by=INFORMATION_AT, returned=0)
    assert receiver.bench.outcome(bad) == (NtStatus.INVALID_ADDRESS, 0)


@archs
def test_r24_cancelled_and_failed_receives_touch_nothing(arch: Arch) -> None:
    receiver = Receiver("lan", arch)
    receiver.structure(RESULT_AT, 40)
    before = receiver.memory.read(0, 16 * PAGE_SIZE)
    irp = receiver.receive()
    receiver.perform(receiver.bench.transport.cancel(irp))
    assert receiver.bench.outcome(irp) == (NtStatus.CANCELLED, 0)
    outside = receiver.receive(returned=16 * PAGE_SIZE - 4)
    assert receiver.bench.outcome(outside) == (NtStatus.ACCESS_VIOLATION, 0)
    assert receiver.memory.read(0, 16 * PAGE_SIZE) == before


def test_a_return_pointer_that_leads_nowhere_costs_the_address_and_no_more() -> None:
    receiver = Receiver("lan", Arch.X64)
    values = {"RemoteAddressLength": 22, "RemoteAddress": 1 << 40}
    receiver.memory.write(RESULT_AT, TDI_CONNECTION_INFORMATION.pack(Arch.X64, values))
    irp = receiver.receive()
    receiver.arrive(b"data")
    assert receiver.bench.outcome(irp) == (NtStatus.SUCCESS, 4)
    assert receiver.data()[:4] == b"data"


@archs
def test_r41_r44_handlers_in_bytes(arch: Arch) -> None:
    receiver = Receiver("lan", arch)
    good = receiver.submit(receiver.handle, builders.set_event_handler(arch, 4, 0x1234, 0x5678))
    assert receiver.bench.outcome(good) == (NtStatus.SUCCESS, 0)
    for unknown in (11, -1, 1 << 30):
        bad = receiver.submit(receiver.handle, builders.set_event_handler(arch, unknown, 1, 0))
        assert receiver.bench.outcome(bad) == (NtStatus.INVALID_PARAMETER, 0)


# Connections.


class Connections(Receiver):
    """Two machines of a segment: a listener in objects' place at the other end, ours in bytes."""

    def endpoint(self, context: int = 7) -> int:
        attributes = builders.connection_attribute(self.arch, context)
        outcome = self.bench.transport.create(
            self.bench.network, attributes, ShareAccess.READ, "client", pointer_bytes=self.arch.pointer_bytes
        )
        assert outcome.status is NtStatus.SUCCESS
        return outcome.handle


@archs
def test_c1_c7_connect_send_and_receive_in_bytes(arch: Arch) -> None:
    side = Connections("lan", arch)
    server_address = side.bench.open(6_000)
    client, server = side.endpoint(), side.endpoint()
    for endpoint, address in ((client, side.handle), (server, server_address)):
        done = side.submit(endpoint, builders.associate_address(arch, address))
        assert side.bench.outcome(done) == (NtStatus.SUCCESS, 0)
    listening = side.submit(server, builders.listen(arch, 0, 0, 0))
    remote = pack_transport_address(SocketAddress(side.bench.host, 6_000))
    side.memory.write(INFORMATION_AT, builders.connection_information(arch, INFORMATION_AT, remote))
    side.memory.write(6 * PAGE_SIZE, struct.pack("<q", -10_000_000))
    side.structure(RESULT_AT, 40)
    connecting = side.submit(client, builders.connect(arch, INFORMATION_AT, RESULT_AT, 6 * PAGE_SIZE))
    assert side.bench.outcome(listening)[0] is NtStatus.SUCCESS
    assert side.bench.outcome(connecting)[0] is NtStatus.SUCCESS
    assert side.remote()[0] == 22
    receiving = side.submit(server, builders.receive(arch, 0, 0), BUFFER)
    side.memory.write(8 * PAGE_SIZE, b"stream!")
    sending = side.submit(client, builders.send(arch, 7, 0), Mdl(0, 7, (8,)))
    assert side.bench.outcome(sending) == (NtStatus.SUCCESS, 7)
    assert side.bench.outcome(receiving) == (NtStatus.SUCCESS, 7)
    assert side.data()[:7] == b"stream!"
    ended = side.submit(client, builders.disconnect(arch, 2, 0, 0, 0))
    assert side.bench.outcome(ended)[0] is NtStatus.SUCCESS
    assert side.bench.outcome(side.submit(client, builders.disassociate_address(arch))) == (NtStatus.SUCCESS, 0)


@archs
def test_t20_the_same_bits_mean_other_things_for_sends_and_receives(arch: Arch) -> None:
    memory = GuestMemory(memoryview(bytearray(PAGE_SIZE)))
    asked = {}
    for bits in (0x20, 0x40):
        for location in (builders.send(arch, 0, bits), builders.receive(arch, 0, bits)):
            irp = raw_irp(1, location.image, arch, memory)
            assert isinstance(irp.parameters, RawParameters)
            read = irp.parameters.read()
            assert isinstance(read, (Send, Receive))
            asked[type(read), bits] = read.flags
    assert asked == {
        (Send, 0x20): SendFlags.EXPEDITED,
        (Receive, 0x20): ReceiveFlags.NORMAL,
        (Send, 0x40): SendFlags.PARTIAL,
        (Receive, 0x40): ReceiveFlags.EXPEDITED,
    }


def test_c1_a_handle_of_nobody() -> None:
    side = Connections("lan", Arch.X64)

    def refuse(handle: int) -> int:
        raise Refused(NtStatus.INVALID_HANDLE, f"{handle} is no file", rule="C1")

    location = builders.associate_address(Arch.X64, 99)
    irp = raw_irp(side.endpoint(), location.image, Arch.X64, side.memory, handle_of=refuse)
    side.perform(side.bench.transport.submit(irp, 0.0))
    assert side.bench.outcome(irp) == (NtStatus.INVALID_HANDLE, 0)
