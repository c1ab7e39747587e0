"""Requests as a client's bytes: what they mean, and what bytes that mean nothing lead to."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl
from emulator.status import NtStatus, Refused
from emulator.tdi import builders
from emulator.tdi.constants import MajorFunction, MinorFunction, QueryType, ShareAccess
from emulator.tdi.irp import Irp
from emulator.tdi.layout import Arch
from emulator.tdi.raw import RawCreate, raw_irp
from emulator.tdi.request_layouts import TDI_CONNECTION_INFORMATION
from emulator.tdi.structures import pack_transport_address
from tests.tdi.bench import NETWORKS, Bench

PAGES = 16
INFORMATION_AT = PAGE_SIZE + 6
DATA = Mdl(10, 20, (3,), next=Mdl(0, 30, (5,)))
both = pytest.mark.parametrize("network", NETWORKS)
archs = pytest.mark.parametrize("arch", Arch, ids=lambda arch: arch.name.lower())


class Driver:
    """A client that builds its requests in guest memory."""

    def __init__(self, network: str, arch: Arch) -> None:
        self.bench = Bench(network)
        self.arch = arch
        self.store = bytearray(PAGES * PAGE_SIZE)
        self.memory = GuestMemory(memoryview(self.store))
        self.handle = self.bench.open()

    def submit(
        self, location: builders.Location, mdl: Mdl | None = None, handle: int | None = None, **more: object
    ) -> Irp:
        at = self.handle if handle is None else handle
        irp = raw_irp(at, location.image, location.arch, self.memory, mdl=mdl)
        self.bench.perform(self.bench.transport.submit(irp, self.bench.now))
        return irp

    def send(self, send_length: int, mdl: Mdl | None = DATA, information: int = INFORMATION_AT) -> Irp:
        return self.submit(builders.send_datagram(self.arch, send_length, information), mdl)

    def address(self, at: int = INFORMATION_AT, options: bytes = b"") -> None:
        remote = pack_transport_address(self.bench.peer)
        self.memory.write(at, builders.connection_information(self.arch, at, remote, options))

    def outcome(self, irp: Irp) -> tuple[NtStatus, int]:
        return self.bench.outcome(irp)


@archs
@both
def test_a_datagram_from_bytes_in_guest_memory(network: str, arch: Arch) -> None:
    driver = Driver(network, arch)
    driver.address(options=b"ttl!")
    driver.memory.write(3 * PAGE_SIZE + 10, bytes(range(20)))
    driver.memory.write(5 * PAGE_SIZE, bytes(range(20, 50)))
    assert driver.outcome(driver.send(50)) == (NtStatus.SUCCESS, 50)
    assert driver.outcome(driver.send(0, None)) == (NtStatus.SUCCESS, 0)
    assert driver.bench.peer_heard() == [bytes(range(50)), b""]


@archs
def test_s4_a_null_pointer_and_one_that_leads_nowhere(arch: Arch) -> None:
    driver = Driver("udp", arch)
    assert driver.outcome(driver.send(1, information=0)) == (NtStatus.INVALID_PARAMETER, 0)
    outside = driver.send(1, information=PAGES * PAGE_SIZE - 8)
    assert driver.outcome(outside) == (NtStatus.ACCESS_VIOLATION, 0)
    image = bytearray(builders.connection_information(arch, 0, pack_transport_address(driver.bench.peer)))
    at = TDI_CONNECTION_INFORMATION.offset("RemoteAddress", arch)
    image[at : at + 4] = struct.pack("<I", PAGES * PAGE_SIZE - 4)
    driver.memory.write(INFORMATION_AT, image)
    assert driver.outcome(driver.send(1)) == (NtStatus.ACCESS_VIOLATION, 0)
    assert driver.bench.peer_heard() == []


@archs
@pytest.mark.parametrize("length", [-(2**31), -1, 0, 7])
def test_s13_a_remote_address_of_less_than_one_header(arch: Arch, length: int) -> None:
    driver = Driver("udp", arch)
    image = bytearray(builders.connection_information(arch, INFORMATION_AT, pack_transport_address(driver.bench.peer)))
    struct.pack_into("<i", image, TDI_CONNECTION_INFORMATION.offset("RemoteAddressLength", arch), length)
    driver.memory.write(INFORMATION_AT, image)
    irp = driver.send(1)
    assert (*driver.outcome(irp), driver.bench.rule(irp)) == (NtStatus.INVALID_ADDRESS, 0, "S13")


def test_a_length_of_two_gigabytes_copies_no_more_than_anyone_looks_at() -> None:
    driver = Driver("udp", Arch.X64)
    image = bytearray(builders.connection_information(Arch.X64, INFORMATION_AT, bytes(22)))
    struct.pack_into("<i", image, TDI_CONNECTION_INFORMATION.offset("RemoteAddressLength", Arch.X64), 2**31 - 1)
    driver.memory.write(INFORMATION_AT, image)
    irp = driver.send(1)
    assert (*driver.outcome(irp), driver.bench.rule(irp)) == (NtStatus.INVALID_ADDRESS, 0, "S14")


@archs
def test_s6_options_of_length_four_without_a_pointer_are_none(arch: Arch) -> None:
    driver = Driver("udp", arch)
    driver.address()
    at = TDI_CONNECTION_INFORMATION.offset("OptionsLength", arch)
    driver.memory.write(INFORMATION_AT + at, struct.pack("<I", 4))
    assert driver.outcome(driver.send(5)) == (NtStatus.SUCCESS, 5)


@both
def test_s12c_what_the_client_changes_after_submitting_is_not_sent(network: str) -> None:
    driver = Driver(network, Arch.X64)
    driver.address()
    driver.memory.write(3 * PAGE_SIZE + 10, b"before")
    driver.bench.stall()
    irp = driver.send(6)
    driver.memory.write(3 * PAGE_SIZE + 10, b"AFTER!")
    driver.memory.write(INFORMATION_AT, bytes(200))
    driver.bench.resume()
    assert driver.outcome(irp) == (NtStatus.SUCCESS, 6)
    assert driver.bench.peer_heard() == [b"before"]


@archs
def test_the_order_of_checks_is_the_same_for_bytes(arch: Arch) -> None:
    driver = Driver("udp", arch)
    nowhere = 2**31
    control = driver.bench.control()
    irp = driver.submit(builders.send_datagram(arch, 1, nowhere), DATA, control)
    assert (*driver.outcome(irp), driver.bench.rule(irp)) == (NtStatus.INVALID_PARAMETER, 0, "S2")
    cancelled = raw_irp(control, builders.send_datagram(arch, 1, nowhere).image, arch, driver.memory)
    driver.bench.perform(driver.bench.transport.cancel(cancelled))
    driver.bench.perform(driver.bench.transport.submit(cancelled, 0.0))
    assert (*driver.outcome(cancelled), driver.bench.rule(cancelled)) == (NtStatus.CANCELLED, 0, "S37")
    driver.bench.perform(driver.bench.transport.cleanup(driver.handle, 0.0))
    closed = driver.submit(builders.send_datagram(arch, 1, nowhere), DATA)
    assert (*driver.outcome(closed), driver.bench.rule(closed)) == (NtStatus.CANCELLED, 0, "S41")


@archs
@pytest.mark.parametrize(("major", "minor"), [(0x0F, 0), (0x0F, 0x0F), (0x0F, 0x27), (0x0F, 0x29), (3, 0), (0x1B, 9)])
def test_unknown_requests_are_invalid(arch: Arch, major: int, minor: int) -> None:
    driver = Driver("udp", arch)
    irp = driver.submit(builders.location(arch, major, minor, b""))
    assert driver.outcome(irp) == (NtStatus.INVALID_DEVICE_REQUEST, 0)


def test_too_few_bytes_are_no_stack_location() -> None:
    with pytest.raises(Refused, match="72 bytes on x64, and 36"):
        raw_irp(1, bytes(36), Arch.X64, Driver("udp", Arch.X64).memory)


@pytest.mark.parametrize("form", ["x64", "x86"])
def test_the_suite_in_bytes_really_submits_bytes(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "form", form)
    bench = Bench("lan")
    handle = bench.open()
    irps = [bench.send(handle, b"x"), bench.post(handle), bench.set_handler(handle, 4)]
    assert set(bench.raw) == set(irps)


@archs
def test_cr1_what_a_create_says_beside_its_attributes(arch: Arch) -> None:
    location = builders.create(arch, 51, ShareAccess.READ | ShareAccess.WRITE)
    create = RawCreate(location.image, arch)
    assert (create.share, create.ea_length) == (ShareAccess.READ | ShareAccess.WRITE, 51)
    assert create.attributes(bytes(60)) == bytes(51)
    with pytest.raises(Refused) as caught:
        create.attributes(bytes(50))
    assert (caught.value.status, caught.value.rule) == (NtStatus.INVALID_PARAMETER, "CR2")
    with pytest.raises(Refused, match="major function 0, not 0x12"):
        RawCreate(builders.cleanup(arch).image, arch)


@given(
    st.sampled_from(list(Arch)),
    st.sampled_from([0x09, 0x0C, 0x0D, 0x0E]),
    st.binary(max_size=72),
    st.booleans(),
    st.binary(min_size=64, max_size=64),
)
def test_any_bytes_complete_once_and_touch_nothing_else(
    arch: Arch, minor: int, tail: bytes, control: bool, structure: bytes
) -> None:
    driver = Driver("lan", arch)
    handle = driver.bench.control() if control else driver.handle
    driver.memory.write(INFORMATION_AT, structure)
    before = bytes(driver.store)
    location = bytes((MajorFunction.INTERNAL_DEVICE_CONTROL, minor)) + tail
    irp = raw_irp(handle, location.ljust(72, b"\0"), arch, driver.memory, mdl=DATA)
    driver.bench.perform(driver.bench.transport.submit(irp, 0.0))
    status, information = driver.outcome(irp)
    assert not (status.is_error and information)
    after = bytearray(driver.store)
    written = information if minor == MinorFunction.QUERY_INFORMATION else 0
    for at, size in ((3 * PAGE_SIZE + 10, 20), (5 * PAGE_SIZE, 30)):
        taken = min(written, size)
        after[at : at + taken] = before[at : at + taken]
        written -= taken
    assert bytes(after) == before


@archs
@both
def test_a_query_in_bytes_answers_into_its_chain(network: str, arch: Arch) -> None:
    driver = Driver(network, arch)
    irp = driver.submit(builders.query_information(arch, QueryType.ADDRESS_INFO), DATA)
    assert driver.outcome(irp) == (NtStatus.SUCCESS, 26)
    answer = driver.memory.read(3 * PAGE_SIZE + 10, 20) + driver.memory.read(5 * PAGE_SIZE, 6)
    assert answer == driver.bench.transport.query(driver.handle, QueryType.ADDRESS_INFO, 100).data
