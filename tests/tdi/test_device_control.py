"""Device controls: address options, multicast, the list of entities, and TDI requests from user mode (O1 to O16)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl
from emulator.status import NtStatus
from emulator.tdi import builders
from emulator.tdi.constants import MinorFunction, QueryType, ShareAccess
from emulator.tdi.control_codes import AddressOption, Entity, Ioctl, Method
from emulator.tdi.irp import Irp
from emulator.tdi.layout import Arch
from emulator.tdi.parameters import DeviceControl
from emulator.tdi.query_layouts import TCP_REQUEST_QUERY_INFORMATION_EX, TDI_OBJECT_ID
from emulator.tdi.raw import raw_irp
from emulator.tdi.request_layouts import (
    TDI_CONNECTION_INFORMATION,
    TDI_REQUEST_ACCEPT,
    TDI_REQUEST_ASSOCIATE_ADDRESS,
    TDI_REQUEST_CONNECT,
    TDI_REQUEST_DISCONNECT,
    TDI_REQUEST_LISTEN,
    TDI_REQUEST_QUERY_INFORMATION,
    TDI_REQUEST_RECEIVE,
    TDI_REQUEST_RECEIVE_DATAGRAM,
    TDI_REQUEST_SEND,
    TDI_REQUEST_SEND_DATAGRAM,
    TDI_REQUEST_SET_EVENT_HANDLER,
    TDI_REQUEST_SET_INFORMATION,
)
from emulator.tdi.structures import SocketAddress, pack_transport_address
from tests.tdi.bench import NETWORKS, Bench

both = pytest.mark.parametrize("network", NETWORKS)
archs = pytest.mark.parametrize("arch", Arch, ids=lambda arch: arch.name.lower())
BASE = 0x7FF0_1000
"""Where the program has its buffer: an address of its own, not one of guest memory."""
DATA = Mdl(3, 8, (1,), next=Mdl(0, 8, (3,)))
JOIN = bytes.fromhex("01040000 00000000 00020000 00020000 06000000 08000000 EF010203 00000000")


class Program:
    """A client that uses device controls."""

    def __init__(self, network: str, arch: Arch = Arch.X64, **provider: NtStatus) -> None:
        self.bench = Bench(network, segment=None, **provider)
        self.arch = arch
        self.memory = GuestMemory(memoryview(bytearray(b"\xee" * (8 * PAGE_SIZE))))
        self.handle = self.bench.open()
        self.outputs: dict[Irp, bytes] = {}

    def control(
        self, code: int, data: bytes, mdl: Mdl | None = None, *, handle: int | None = None, room: int = 0
    ) -> Irp:
        location = builders.device_control(self.arch, code, len(data), room)
        at = self.handle if handle is None else handle
        irp = raw_irp(at, location.image, self.arch, self.memory, mdl=mdl, system_buffer=data, base=BASE)
        control = irp.parameters
        assert isinstance(control, DeviceControl)
        self.bench.perform(self.bench.transport.submit(irp, self.bench.now))
        irp.context = control
        return irp

    def output(self, irp: Irp) -> bytes:
        """What goes back to the program, once the request is over."""
        assert isinstance(irp.context, DeviceControl)
        return irp.context.completed(irp)

    def outcome(self, irp: Irp) -> tuple[NtStatus, int, str | None]:
        return *self.bench.outcome(irp), self.bench.rule(irp)

    def set(self, option: int, value: bytes, **where: int) -> tuple[NtStatus, int, str | None]:
        return self.outcome(self.control(Ioctl.TCP_SET_INFORMATION_EX, setting(option, value, **where)))


def setting(option: int, value: bytes, size: int | None = None, **where: int) -> bytes:
    values = {"toi_entity.tei_entity": Entity.CL_TL, "toi_class": 0x200, "toi_type": 0x200, "toi_id": option, **where}
    length = len(value) if size is None else size
    return TDI_OBJECT_ID.pack(Arch.X64, values) + struct.pack("<I", length) + value


OK = (NtStatus.SUCCESS, 0, None)


@both
def test_o1_lengths_are_checked_and_slack_is_taken(network: str) -> None:
    program = Program(network)
    good = setting(AddressOption.TTL, struct.pack("<I", 9))
    for slack in (0, 3, 4):
        assert program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, good + bytes(slack))) == OK
    for bad in (
        b"",
        good[:23],
        setting(AddressOption.TTL, b"\t", size=2),
        setting(AddressOption.TTL, b"", size=2**32 - 1),
    ):
        refused = program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, bad))
        assert refused == (NtStatus.INVALID_PARAMETER, 0, "O1")
    assert program.bench.transport.options(program.handle).ttl == 9


@pytest.mark.parametrize("width", [1, 4])
def test_o2_address_options_are_numbers_of_one_byte_or_four(width: int) -> None:
    program = Program("udp")
    for option, number in (
        (AddressOption.TTL, 17),
        (AddressOption.MCASTTTL, 3),
        (AddressOption.TOS, 0x10),
        (AddressOption.MCASTLOOP, 0),
        (AddressOption.BROADCAST, 0),
    ):
        assert program.set(option, number.to_bytes(width, "little")) == OK
    options = program.bench.transport.options(program.handle)
    assert (options.ttl, options.multicast_ttl, options.type_of_service) == (17, 3, 0x10)
    assert (options.multicast_loop, options.broadcast) == (False, False)
    assert program.set(AddressOption.TTL, b"\1\0") == (NtStatus.INVALID_PARAMETER, 0, "8.1")
    assert program.set(AddressOption.TTL, b"\0")[0] is NtStatus.INVALID_PARAMETER


@both
def test_o2_s20_a_broadcast_needs_the_option(network: str) -> None:
    program = Program(network)
    everyone = SocketAddress("255.255.255.255", 700)
    assert program.set(AddressOption.BROADCAST, b"\0") == OK
    refused = program.bench.send(program.handle, b"all", everyone)
    assert (*program.bench.outcome(refused), program.bench.rule(refused)) == (NtStatus.INVALID_ADDRESS, 0, "S20")
    assert program.set(AddressOption.BROADCAST, b"\1") == OK


def test_o2_the_interface_of_multicasts() -> None:
    program = Program("lan")
    own = bytes(int(part) for part in program.bench.host.split("."))
    assert program.set(AddressOption.MCASTIF, own) == OK
    assert program.bench.transport.options(program.handle).multicast_interface == program.bench.host
    assert program.set(AddressOption.MCASTIF, bytes(4)) == OK
    assert program.bench.transport.options(program.handle).multicast_interface is None
    assert program.set(AddressOption.MCASTIF, b"\1\2\3\4")[0] is NtStatus.INVALID_ADDRESS
    assert program.set(AddressOption.MCASTIF, b"\1\2\3") == (NtStatus.INVALID_PARAMETER, 0, "O1")


@both
def test_o3_the_file_says_which_object_and_the_instance_does_not(network: str) -> None:
    program = Program(network)
    second = program.bench.open(5_001)
    data = setting(AddressOption.TTL, b"\5", **{"toi_entity.tei_instance": 77})
    assert program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, data, handle=second)) == OK
    assert program.bench.transport.options(second).ttl == 5
    assert program.bench.transport.options(program.handle).ttl is None
    on_control = program.control(Ioctl.TCP_SET_INFORMATION_EX, data, handle=program.bench.control())
    assert program.outcome(on_control) == (NtStatus.INVALID_PARAMETER, 0, "O3")
    wrong = program.set(AddressOption.TTL, b"\5", **{"toi_entity.tei_entity": Entity.IF})
    assert wrong == (NtStatus.INVALID_PARAMETER, 0, "O3")


def test_o4_unknown_options_classes_and_types() -> None:
    program = Program("udp")
    for option in (0, 39, 2**31):
        assert program.set(option, b"\1") == (NtStatus.INVALID_DEVICE_REQUEST, 0, "O4")
    for kind in (0x100, 0x300, 5):
        assert program.set(AddressOption.TTL, b"\1", toi_class=kind) == (NtStatus.INVALID_DEVICE_REQUEST, 0, "O4")
    assert program.set(AddressOption.TTL, b"\1", toi_type=0x100) == (NtStatus.INVALID_PARAMETER, 0, "O4")
    assert program.set(1, b"\1", toi_type=0x300) == (NtStatus.INVALID_DEVICE_REQUEST, 0, "O4")
    assert program.bench.transport.options(program.handle).ttl is None


SET_HERE = {"TTL", "MCASTTTL", "MCASTIF", "ADD_MCAST", "DEL_MCAST", "TOS", "MCASTLOOP", "BROADCAST"}


@pytest.mark.parametrize("option", [each for each in AddressOption if each.name not in SET_HERE])
def test_o5_options_without_an_effect_here_are_refused_not_swallowed(option: AddressOption) -> None:
    assert Program("udp").set(option, b"\1\0\0\0") == (NtStatus.NOT_SUPPORTED, 0, "8.1")


@archs
def test_o6_the_list_of_entities(arch: Arch) -> None:
    program = Program("udp", arch)
    assert TCP_REQUEST_QUERY_INFORMATION_EX.size(arch) == (40 if arch is Arch.X64 else 36)

    def ask(entity: int, number: int, room: int = 100, **where: int) -> tuple[tuple[NtStatus, int, str | None], bytes]:
        values = {"toi_entity.tei_entity": entity, "toi_class": 0x100, "toi_type": 0x100, "toi_id": number, **where}
        data = TDI_OBJECT_ID.pack(arch, values).ljust(36, b"\0")
        irp = program.control(Ioctl.TCP_QUERY_INFORMATION_EX, data, room=room)
        return program.outcome(irp), program.output(irp)

    outcome, entities = ask(0, 0)
    assert outcome == (NtStatus.SUCCESS, 24, None)
    assert [struct.unpack_from("<II", entities, at) for at in (0, 8, 16)] == [(0x401, 0), (0x400, 0), (0x301, 0)]
    assert ask(0, 0, room=8) == ((NtStatus.SUCCESS, 24, None), entities[:8]), "a short buffer is told the length"
    for entity, kind in ((0x401, 0x403), (0x400, 0x404), (0x301, 0x303)):
        assert ask(entity, 1) == ((NtStatus.SUCCESS, 4, None), struct.pack("<I", kind))
    assert ask(0x380, 1)[0] == (NtStatus.INVALID_PARAMETER, 0, "O6")
    assert ask(0, 2)[0] == (NtStatus.INVALID_DEVICE_REQUEST, 0, "O4")
    assert ask(0, 0, toi_class=0x200)[0] == (NtStatus.INVALID_DEVICE_REQUEST, 0, "O4")
    assert ask(0, 0, toi_type=0x200)[0] == (NtStatus.INVALID_PARAMETER, 0, "O4")
    short = program.control(Ioctl.TCP_QUERY_INFORMATION_EX, bytes(35))
    assert program.outcome(short) == (NtStatus.INVALID_PARAMETER, 0, "O1")


@both
def test_o7_the_join_byte_for_byte(network: str) -> None:
    program = Program(network)
    assert len(JOIN) == 32
    assert program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, JOIN)) == OK
    assert program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, JOIN)) == OK, "joined twice, and counted"
    if network == "udp":
        [join] = program.bench.joined
        assert (join.group, join.interface) == ("239.1.2.3", "127.0.0.1")
    unicast = JOIN[:24] + bytes((10, 0, 0, 1)) + bytes(4)
    assert program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, unicast))[0] is NtStatus.INVALID_ADDRESS
    nowhere = JOIN[:28] + bytes((9, 9, 9, 9))
    assert program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, nowhere))[0] is NtStatus.INVALID_ADDRESS
    assert program.set(AddressOption.ADD_MCAST, bytes(7)) == (NtStatus.INVALID_PARAMETER, 0, "O1")


def test_o7_a_join_the_host_does_not_allow_is_taken_back() -> None:
    program = Program("udp")
    program.bench.join_status = NtStatus.INSUFFICIENT_RESOURCES
    refused = program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, JOIN))
    assert refused == (NtStatus.INSUFFICIENT_RESOURCES, 0, "O7")
    program.bench.join_status = NtStatus.SUCCESS
    assert program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, JOIN)) == OK
    assert len(program.bench.joined) == 2, "the first left nothing behind"


@both
def test_o8_leaving_what_was_not_joined(network: str) -> None:
    program = Program(network)
    leave = JOIN[:16] + struct.pack("<I", AddressOption.DEL_MCAST) + JOIN[20:]
    refused = program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, leave))
    assert refused == (NtStatus.INVALID_ADDRESS, 0, "O8")
    program.control(Ioctl.TCP_SET_INFORMATION_EX, JOIN)
    assert program.outcome(program.control(Ioctl.TCP_SET_INFORMATION_EX, leave)) == OK


def test_o9_a_member_hears_its_group_and_another_object_does_not() -> None:
    program = Program("lan")
    group = SocketAddress("239.1.2.3", 5_000)
    other = program.bench.open(5_000, "0.0.0.0")
    program.control(Ioctl.TCP_SET_INFORMATION_EX, JOIN)
    program.bench.perform(program.bench.segment.carry(program.bench.peer, group, b"all", 0.0))
    assert (program.bench.heard(program.handle), program.bench.heard(other)) == ([b"all"], [])


# From user mode.


def user_information(program: Program, at: int, remote: bytes) -> bytes:
    """A TDI_CONNECTION_INFORMATION and its address for a place in the program's buffer."""
    return builders.connection_information(program.arch, BASE + at, remote)


def send_request(program: Program, remote: bytes) -> bytes:
    structure = TDI_REQUEST_SEND_DATAGRAM
    size = structure.size(program.arch)
    head = structure.pack(program.arch, {"SendDatagramInformation": BASE + size})
    return head + user_information(program, size, remote)


@archs
@both
def test_o10_s45_a_send_from_user_mode_is_the_same_send(network: str, arch: Arch) -> None:
    program = Program(network, arch)
    program.memory.write(PAGE_SIZE + 3, b"from use")
    program.memory.write(3 * PAGE_SIZE, b"r mode!!")
    request = send_request(program, pack_transport_address(program.bench.peer))
    irp = program.control(Ioctl.SEND_DATAGRAM, request, DATA)
    assert program.outcome(irp) == (NtStatus.SUCCESS, 16, None)
    assert (irp.major, irp.minor) == (0x0F, MinorFunction.SEND_DATAGRAM)
    assert program.bench.peer_heard() == [b"from user mode!!"]
    empty = program.control(Ioctl.SEND_DATAGRAM, request)
    assert program.outcome(empty) == OK
    nobody = program.control(Ioctl.SEND_DATAGRAM, request, DATA, handle=program.bench.control())
    assert program.outcome(nobody) == (NtStatus.INVALID_PARAMETER, 0, "S2")
    missing = program.control(Ioctl.SEND_DATAGRAM, TDI_REQUEST_SEND_DATAGRAM.pack(arch, {}), DATA)
    assert program.outcome(missing) == (NtStatus.INVALID_PARAMETER, 0, "S4")


@archs
@both
def test_o10_a_receive_from_user_mode_reports_into_the_buffer(network: str, arch: Arch) -> None:
    program = Program(network, arch)
    structure = TDI_REQUEST_RECEIVE_DATAGRAM
    at = structure.size(arch)
    information = TDI_CONNECTION_INFORMATION.pack(
        arch, {"RemoteAddressLength": 30, "RemoteAddress": BASE + at + TDI_CONNECTION_INFORMATION.size(arch)}
    )
    request = structure.pack(arch, {"ReturnInformation": BASE + at}) + information + b"\xdd" * 30
    irp = program.control(Ioctl.RECEIVE_DATAGRAM, request, DATA)
    program.bench.arrive(program.handle, b"hello")
    assert program.outcome(irp) == (NtStatus.SUCCESS, 5, None)
    output = program.output(irp)
    remote = pack_transport_address(program.bench.peer)
    assert output[at + TDI_CONNECTION_INFORMATION.size(arch) :] == remote + b"\xdd" * 8
    assert program.memory.read(PAGE_SIZE + 3, 6) == b"hello\xee"


@archs
def test_o10_o13_queries_and_settings_from_user_mode(arch: Arch) -> None:
    program = Program("lan", arch)
    asked = TDI_REQUEST_QUERY_INFORMATION.pack(arch, {"QueryType": QueryType.MAX_DATAGRAM_INFO})
    irp = program.control(Ioctl.QUERY_INFORMATION, asked, DATA)
    assert program.outcome(irp) == (NtStatus.SUCCESS, 4, None)
    assert program.memory.read(PAGE_SIZE + 3, 4) == struct.pack("<I", 1472)
    assert program.outcome(program.control(Ioctl.QUERY_INFORMATION, asked))[0] is NtStatus.INVALID_PARAMETER
    setting_type = TDI_REQUEST_SET_INFORMATION.pack(arch, {"SetType": QueryType.ADDRESS_INFO})
    assert program.outcome(program.control(Ioctl.SET_INFORMATION, setting_type, DATA))[2] == "6.3"
    assert program.outcome(program.control(Ioctl.ACTION, bytes(32), DATA))[2] == "6.4"
    for code in Ioctl:
        expected = {"SEND": 1, "SEND_DATAGRAM": 1, "SET_INFORMATION": 1, "RECEIVE": 2, "RECEIVE_DATAGRAM": 2}
        expected |= {"QUERY_INFORMATION": 2, "ACTION": 2, "TCP_QUERY_INFORMATION_EX": 3}
        expected |= {"QUERY_DIRECT_SEND_HANDLER": 3, "QUERY_DIRECT_SENDDG_HANDLER": 3}
        assert Method.of(code) == expected.get(code.name, 0), code.name


@archs
def test_o10_a_connection_from_user_mode(arch: Arch) -> None:
    program = Program("lan", arch)
    server_address = program.bench.open(6_000)
    ends = []
    for address in (program.handle, server_address):
        outcome = program.bench.transport.create(
            "lan", builders.connection_attribute(Arch.X64, 1), ShareAccess.READ, "client"
        )
        associate = TDI_REQUEST_ASSOCIATE_ADDRESS.pack(arch, {"AddressHandle": address})
        done = program.control(Ioctl.ASSOCIATE_ADDRESS, associate, handle=outcome.handle)
        assert program.outcome(done) == OK
        ends.append(outcome.handle)
    client, server = ends
    listening = program.control(Ioctl.LISTEN, TDI_REQUEST_LISTEN.pack(arch, {}), handle=server)
    at = TDI_REQUEST_CONNECT.size(arch)
    head = TDI_REQUEST_CONNECT.pack(arch, {"RequestConnectionInformation": BASE + at, "Timeout": -(10**7)})
    remote = pack_transport_address(SocketAddress(program.bench.host, 6_000))
    connect = head + user_information(program, at, remote)
    assert program.outcome(program.control(Ioctl.CONNECT, connect, handle=client))[0] is NtStatus.SUCCESS
    assert program.outcome(listening)[0] is NtStatus.SUCCESS
    receiving = program.control(Ioctl.RECEIVE, TDI_REQUEST_RECEIVE.pack(arch, {}), DATA, handle=server)
    sending = program.control(Ioctl.SEND, TDI_REQUEST_SEND.pack(arch, {}), Mdl(0, 5, (3,)), handle=client)
    assert program.outcome(sending)[:2] == (NtStatus.SUCCESS, 5)
    assert program.outcome(receiving)[:2] == (NtStatus.SUCCESS, 5)
    unasked = program.control(Ioctl.ACCEPT, TDI_REQUEST_ACCEPT.pack(arch, {}), handle=server)
    assert program.outcome(unasked)[0].is_error
    gone = program.control(Ioctl.DISCONNECT, TDI_REQUEST_DISCONNECT.pack(arch, {}), handle=client)
    assert program.outcome(gone)[0] is NtStatus.SUCCESS
    assert program.outcome(program.control(Ioctl.DISASSOCIATE_ADDRESS, bytes(32), handle=client)) == OK


@archs
def test_o11_user_mode_registers_no_handlers(arch: Arch) -> None:
    program = Program("udp", arch)
    request = TDI_REQUEST_SET_EVENT_HANDLER.pack(arch, {"EventType": 4, "EventHandler": 0x1000})
    refused = program.outcome(program.control(Ioctl.SET_EVENT_HANDLER, request))
    assert refused == (NtStatus.INVALID_PARAMETER, 0, "O11")


@archs
def test_o11_pointers_that_lead_out_of_the_buffer(arch: Arch) -> None:
    program = Program("udp", arch)
    good = bytearray(send_request(program, pack_transport_address(program.bench.peer)))
    size, pointer = TDI_REQUEST_SEND_DATAGRAM.size(arch), arch.pointer_bytes
    for at in (
        TDI_REQUEST_SEND_DATAGRAM.offset("SendDatagramInformation", arch),
        size + TDI_CONNECTION_INFORMATION.offset("RemoteAddress", arch),
    ):
        for wild in (BASE - 1, BASE + len(good) - 1, BASE + len(good), 8, (1 << 8 * pointer) - 1):
            bad = good.copy()
            bad[at : at + pointer] = wild.to_bytes(pointer, "little")
            refused = program.outcome(program.control(Ioctl.SEND_DATAGRAM, bytes(bad), DATA))
            assert refused == (NtStatus.INVALID_PARAMETER, 0, "O11")
    assert program.bench.peer_heard() == []
    short = program.control(Ioctl.SEND_DATAGRAM, bytes(size - 1), DATA)
    assert program.outcome(short)[:2] == (NtStatus.INVALID_PARAMETER, 0)


@both
@pytest.mark.parametrize("code", [0, 0x21003A, 0x2100FF, 0x120007, 2**32 - 1])
def test_o12_what_is_neither_is_an_invalid_device_request(network: str, code: int) -> None:
    program = Program(network)
    assert program.outcome(program.control(code, b"")) == (NtStatus.INVALID_DEVICE_REQUEST, 0, "O12")
    other = Program(network, unknown_control_status=NtStatus.NOT_SUPPORTED)
    assert other.outcome(other.control(code, b"")) == (NtStatus.NOT_SUPPORTED, 0, "O12")


@pytest.mark.parametrize("code", [0x210203, 0x210207])
def test_o14_there_is_no_function_to_send_with(code: int) -> None:
    program = Program("udp")
    assert program.outcome(program.control(code, b"")) == (NtStatus.INVALID_DEVICE_REQUEST, 0, "O14")


@given(
    st.sampled_from(list(Ioctl)),
    st.binary(max_size=120),
    st.sampled_from(list(Arch)),
    st.sampled_from(["address", "control"]),
)
def test_any_device_control_completes_once(code: Ioctl, data: bytes, arch: Arch, kind: str) -> None:
    program = Program("lan", arch)
    before = program.memory.read(0, 8 * PAGE_SIZE)
    handle = program.handle if kind == "address" else program.bench.control()
    irp = program.control(code, data, DATA, handle=handle, room=64)
    program.bench.perform(program.bench.transport.cancel(irp))
    status, information = irp.status, irp.information
    assert len([each for each in program.bench.completions if each.irp is irp]) == 1
    assert not (status.is_error and information)
    program.output(irp)
    after = program.memory.read(0, 8 * PAGE_SIZE)
    changed = [at for at in range(len(after)) if after[at] != before[at]]
    inside = {*range(PAGE_SIZE + 3, PAGE_SIZE + 11), *range(3 * PAGE_SIZE, 3 * PAGE_SIZE + 8)}
    assert inside.issuperset(changed)
