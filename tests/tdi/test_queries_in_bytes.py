"""Queries, settings and actions as a client's bytes: every type on every kind of file into every size of buffer."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl
from emulator.status import NtStatus
from emulator.tdi import builders
from emulator.tdi.constants import FileKind, QueryType, ShareAccess
from emulator.tdi.irp import Irp
from emulator.tdi.layout import Arch
from emulator.tdi.profile import QueryOverflow
from emulator.tdi.query_layouts import TDI_PROVIDER_INFO, TDI_PROVIDER_STATISTICS
from emulator.tdi.raw import raw_irp
from emulator.tdi.request_layouts import TDI_ACTION_HEADER
from emulator.tdi.structures import pack_transport_address
from tests.tdi.bench import Bench

KINDS = [("udp", FileKind.ADDRESS), ("udp", FileKind.CONTROL), *(("lan", kind) for kind in FileKind)]
on_files = pytest.mark.parametrize(("network", "kind"), KINDS)
archs = pytest.mark.parametrize("arch", Arch, ids=lambda arch: arch.name.lower())
PAGES = 12

# What each kind of file answers, and how long the answer is.
ANSWERS = {
    QueryType.BROADCAST_ADDRESS: ({FileKind.CONTROL}, 22),
    QueryType.PROVIDER_INFO: ({FileKind.CONTROL}, 40),
    QueryType.ADDRESS_INFO: ({FileKind.ADDRESS, FileKind.CONNECTION}, 26),
    QueryType.CONNECTION_INFO: ({FileKind.CONNECTION}, 56),
    QueryType.PROVIDER_STATISTICS: ({FileKind.CONTROL}, 200),
    QueryType.DATAGRAM_INFO: (set(FileKind), 8),
    QueryType.DATA_LINK_ADDRESS: ({FileKind.CONTROL}, 14),
    QueryType.NETWORK_ADDRESS: ({FileKind.CONTROL}, 22),
    QueryType.MAX_DATAGRAM_INFO: (set(FileKind), 4),
}


class Questioner:
    """A client with one file of one kind, and a buffer in three pieces."""

    def __init__(self, network: str, kind: FileKind, arch: Arch = Arch.X64, **provider: Any) -> None:
        self.bench = Bench(network, **provider)
        self.arch = arch
        self.store = bytearray(b"\xee" * (PAGES * PAGE_SIZE))
        self.memory = GuestMemory(memoryview(self.store))
        self.address = self.bench.open()
        self.handle = {FileKind.ADDRESS: lambda: self.address, FileKind.CONTROL: self.bench.control}.get(
            kind, self._endpoint
        )()

    def _endpoint(self) -> int:
        """A connection endpoint that is associated, so that it has an address to tell."""
        outcome = self.bench.transport.create(
            self.bench.network, builders.connection_attribute(Arch.X64, 5), ShareAccess.READ, "client"
        )
        assert outcome.status is NtStatus.SUCCESS
        irp = self.submit(builders.associate_address(self.arch, self.address), None, outcome.handle)
        assert self.bench.outcome(irp)[0] is NtStatus.SUCCESS
        return outcome.handle

    def submit(self, location: builders.Location, mdl: Mdl | None, handle: int | None = None) -> Irp:
        irp = raw_irp(self.handle if handle is None else handle, location.image, self.arch, self.memory, mdl=mdl)
        self.bench.perform(self.bench.transport.submit(irp, self.bench.now))
        return irp

    def pieces(self, room: int) -> Mdl:
        """A chain with room for so much: most of it in the first, an empty one in the middle."""
        first = room - room // 3
        return Mdl(4000, first, (1, 3), next=Mdl(0, 0, (), next=Mdl(7, room // 3, (5,))))

    def written(self, room: int) -> bytes:
        first = room - room // 3
        head = self.memory.read(PAGE_SIZE + 4000, min(first, 96)) + self.memory.read(3 * PAGE_SIZE, max(0, first - 96))
        return head + self.memory.read(5 * PAGE_SIZE + 7, room // 3)

    def ask(self, kind: int, room: int) -> tuple[Irp, bytes]:
        irp = self.submit(builders.query_information(self.arch, kind), self.pieces(room))
        return irp, self.written(room)


@archs
@on_files
@pytest.mark.parametrize("query", ANSWERS, ids=lambda query: query.name.lower())
def test_q1_q2_q4_q5_q7_q8_each_type_each_file_each_buffer(
    network: str, kind: FileKind, query: QueryType, arch: Arch
) -> None:
    kinds, size = ANSWERS[query]
    asker = Questioner(network, kind, arch)
    if kind not in kinds:
        irp, written = asker.ask(query, 300)
        assert (*asker.bench.outcome(irp), asker.bench.rule(irp)) == (NtStatus.INVALID_DEVICE_REQUEST, 0, "Q5")
        assert written == b"\xee" * 300
        return
    whole = asker.bench.transport.query(asker.handle, query, 1000).data
    assert len(whole) == size
    for room in (0, 1, size - 1, size, size + 1):
        asker.store[:] = b"\xee" * len(asker.store)
        irp, written = asker.ask(query, room)
        expected = (NtStatus.SUCCESS, size) if room >= size else (NtStatus.BUFFER_OVERFLOW, room)
        assert (irp.status, irp.information) == expected
        assert written == whole[:room] + b"\xee" * (room - size)
        assert asker.store.count(0xEE) >= len(asker.store) - min(size, room), "nothing outside the chain"


@archs
def test_q2_the_other_profile_writes_nothing(arch: Arch) -> None:
    asker = Questioner("udp", FileKind.CONTROL, arch, query_overflow=QueryOverflow.TOO_SMALL)
    irp, written = asker.ask(QueryType.PROVIDER_INFO, 39)
    assert asker.bench.outcome(irp) == (NtStatus.BUFFER_TOO_SMALL, 0)
    assert written == b"\xee" * 39


@archs
@on_files
def test_q3_no_chain_is_no_buffer(network: str, kind: FileKind, arch: Arch) -> None:
    asker = Questioner(network, kind, arch)
    irp = asker.submit(builders.query_information(arch, QueryType.MAX_DATAGRAM_INFO), None)
    assert (*asker.bench.outcome(irp), asker.bench.rule(irp)) == (NtStatus.INVALID_PARAMETER, 0, "Q3")


def test_q4_a_chain_on_pages_that_do_not_exist() -> None:
    asker = Questioner("lan", FileKind.CONTROL)
    mdl = Mdl(0, 20, (1,), next=Mdl(0, 20, (PAGES,)))
    irp = asker.submit(builders.query_information(Arch.X64, QueryType.PROVIDER_INFO), mdl)
    assert (*asker.bench.outcome(irp), asker.bench.rule(irp)) == (NtStatus.ACCESS_VIOLATION, 0, "Q4")
    assert set(asker.store) == {0xEE}


@archs
@on_files
@pytest.mark.parametrize(
    ("query", "status"),
    [
        (0, NtStatus.INVALID_DEVICE_REQUEST),
        (10, NtStatus.INVALID_DEVICE_REQUEST),
        (-1, NtStatus.INVALID_DEVICE_REQUEST),
        (QueryType.ADAPTER_STATUS, NtStatus.NOT_IMPLEMENTED),
        (QueryType.SESSION_STATUS, NtStatus.NOT_IMPLEMENTED),
        (QueryType.FIND_NAME, NtStatus.NOT_IMPLEMENTED),
    ],
)
def test_q6_unknown_types_and_those_of_netbios(
    network: str, kind: FileKind, query: int, status: NtStatus, arch: Arch
) -> None:
    asker = Questioner(network, kind, arch)
    irp, _ = asker.ask(query, 100)
    assert (*asker.bench.outcome(irp), asker.bench.rule(irp)) == (status, 0, "Q6")


@pytest.mark.parametrize("network", ["udp", "lan"])
def test_q9_answers_are_the_providers_and_the_same_for_every_file(network: str) -> None:
    first, second = Questioner(network, FileKind.CONTROL), Questioner(network, FileKind.CONTROL)
    for query, (kinds, size) in ANSWERS.items():
        if FileKind.CONTROL in kinds:
            assert first.ask(query, size)[1] == second.ask(query, size)[1]


@archs
@pytest.mark.parametrize("network", ["udp", "lan"])
def test_section_6_1_statistics_are_live(network: str, arch: Arch) -> None:
    asker = Questioner(network, FileKind.CONTROL, arch)
    _, before = asker.ask(QueryType.PROVIDER_STATISTICS, 216)
    asker.bench.send(asker.address, b"12345")
    asker.bench.send(asker.address, b"")
    asker.bench.send(asker.address, bytes(70_000))
    asker.bench.arrive(asker.address, b"123")
    irp, after = asker.ask(QueryType.PROVIDER_STATISTICS, 216)
    assert asker.bench.outcome(irp) == (NtStatus.SUCCESS, 200)
    record = TDI_PROVIDER_STATISTICS.parse_untrusted(after, arch)
    counted = {
        name: record.number(name)
        for name in ("DatagramsSent", "DatagramBytesSent", "DatagramsReceived", "DatagramBytesReceived")
    }
    assert counted == dict(zip(counted, (2, 5, 1, 3), strict=True))
    assert (record.number("PacketsSent"), record.number("PacketsReceived")) == (2, 1)
    assert record.number("NumberOfResources") == 0
    assert TDI_PROVIDER_STATISTICS.parse_untrusted(before, arch).number("DatagramsSent") == 0


@archs
@pytest.mark.parametrize(("network", "limit"), [("udp", 65_507), ("lan", 1_472)])
def test_section_6_1_6_2_what_the_providers_say_of_themselves(network: str, limit: int, arch: Arch) -> None:
    asker = Questioner(network, FileKind.CONTROL, arch)
    record = TDI_PROVIDER_INFO.parse_untrusted(asker.ask(QueryType.PROVIDER_INFO, 40)[1], arch)
    assert (record.number("Version"), record.number("MaxDatagramSize")) == (0x0200, limit)
    assert record.number("ServiceFlags") & 0x64 == 0x64, "connectionless, broadcast and multicast"
    assert not record.number("ServiceFlags") & 0x800, "empty datagrams are sent"
    assert record.number("MinimumLookaheadData") == 128


@archs
@on_files
def test_t33_the_limit_clients_size_their_buffers_by_is_the_real_one(network: str, kind: FileKind, arch: Arch) -> None:
    asker = Questioner(network, kind, arch)
    _, answer = asker.ask(QueryType.MAX_DATAGRAM_INFO, 4)
    (limit,) = struct.unpack("<I", answer)
    assert limit == {"udp": 65_507, "lan": 1_472}[network] < 0xFFFF
    assert asker.bench.outcome(asker.bench.send(asker.address, bytes(limit))) == (NtStatus.SUCCESS, limit)
    assert asker.bench.outcome(asker.bench.send(asker.address, bytes(limit + 1)))[0].is_error


# Settings and actions.


@archs
@on_files
@pytest.mark.parametrize("kind_set", [0, 1, 2, 3, 4, 5, 6, 9, 0x100, -1])
def test_section_6_3_settings_are_checked_and_then_not_implemented(
    network: str, kind: FileKind, kind_set: int, arch: Arch
) -> None:
    asker = Questioner(network, kind, arch)
    irp = asker.submit(builders.set_information(arch, kind_set), asker.pieces(60))
    fits = {3: FileKind.ADDRESS, 4: FileKind.CONNECTION, 2: FileKind.CONTROL, 5: FileKind.CONTROL}.get(kind_set) is kind
    expected = NtStatus.NOT_IMPLEMENTED if fits else NtStatus.INVALID_DEVICE_REQUEST
    assert (*asker.bench.outcome(irp), asker.bench.rule(irp)) == (expected, 0, "6.3")


@archs
@on_files
def test_section_6_4_actions_are_read_and_then_not_implemented(network: str, kind: FileKind, arch: Arch) -> None:
    asker = Questioner(network, kind, arch)
    header = TDI_ACTION_HEADER.pack(arch, {"TransportId": int.from_bytes(b"MNBF", "little"), "ActionCode": 3})
    asker.memory.write(PAGE_SIZE, header)
    irp = asker.submit(builders.action(arch), Mdl(0, 8, (1,)))
    assert (*asker.bench.outcome(irp), asker.bench.rule(irp)) == (NtStatus.NOT_IMPLEMENTED, 0, "6.4")
    [complete] = [each for each in asker.bench.completions if each.irp is irp]
    assert "no action 3 of transport b'MNBF'" in complete.message
    short = asker.submit(builders.action(arch), Mdl(0, 7, (1,)))
    assert asker.bench.outcome(short) == (NtStatus.INVALID_PARAMETER, 0)
    assert asker.bench.outcome(asker.submit(builders.action(arch), None)) == (NtStatus.INVALID_PARAMETER, 0)


# Creates.


@archs
@pytest.mark.parametrize("slack", [0, 3, 4])
def test_cr2_cr7_t8_an_address_by_its_attributes_and_then_its_port(arch: Arch, slack: int) -> None:
    bench = Bench("udp")
    attributes = (
        b"\xff" + builders.address_attribute(pack_transport_address(bench.peer._replace(port=0))) + bytes(slack)
    )
    outcome = bench.settle(
        bench.transport.create(
            "udp", memoryview(attributes)[1:], ShareAccess.READ, "client", pointer_bytes=arch.pointer_bytes
        )
    )
    assert outcome.status is NtStatus.SUCCESS
    memory = GuestMemory(memoryview(bytearray(2 * PAGE_SIZE)))
    location = builders.query_information(arch, QueryType.ADDRESS_INFO)
    irp = raw_irp(outcome.handle, location.image, arch, memory, mdl=Mdl(0, 26, (1,)))
    bench.perform(bench.transport.submit(irp, 0.0))
    assert bench.outcome(irp) == (NtStatus.SUCCESS, 26)
    activity, count, length, kind, port = struct.unpack_from("<IiHH2s", memory.read(PAGE_SIZE, 26))
    assert (activity, count, length, kind) == (1, 1, 14, 2)
    assert int.from_bytes(port, "big") == bench.local(outcome.handle).port != 0
