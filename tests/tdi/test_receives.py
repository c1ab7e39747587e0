"""Posted receives: rules R6 to R24, on both networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from emulator.memory import GuestMemory, Mdl
from emulator.status import NtStatus
from emulator.tdi.constants import EventType, ReceiveFlags, ServiceFlags
from emulator.tdi.irp import ConnectionInformation, Irp, IrpState, MdlBuffer
from emulator.tdi.receives import Arrived, ReturnInformation, build_receive_datagram
from emulator.tdi.structures import SocketAddress, pack_transport_address
from tests.tdi.bench import NETWORKS, Bench
from tests.tdi.raw_form import FORMS


@pytest.fixture(autouse=True, scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every rule here is tried with requests of objects and of bytes, for both kinds of client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "form", request.param)
        yield


both = pytest.mark.parametrize("network", NETWORKS)
SUCCESS, OVERFLOW = NtStatus.SUCCESS, NtStatus.BUFFER_OVERFLOW


def near(bench: Bench, last: int) -> SocketAddress:
    """A sender on the bench's own network."""
    return SocketAddress(bench.host.rpartition(".")[0] + f".{last}", 700 + last)


# ---- the order of preference


@both
def test_r6_while_a_receive_is_outstanding_no_handler_is_called(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.set_handler(handle, EventType.RECEIVE_DATAGRAM)
    bench.set_handler(handle, EventType.CHAINED_RECEIVE_DATAGRAM)
    irp = bench.post(handle)
    bench.arrive(handle, b"for the receive")
    assert (bench.outcome(irp), bench.asked) == ((SUCCESS, 15), [])
    bench.arrive(handle, b"for a handler")
    assert [ask.event.data for ask in bench.asked] == [b"for a handler"]


@both
@pytest.mark.parametrize("goes_on", [True, False])
def test_r7_a_datagram_no_filter_wants_goes_on_to_the_handlers_or_is_dropped(network: str, goes_on: bool) -> None:
    bench = Bench(network, indicates_past_filters=goes_on)
    handle = bench.open()
    bench.set_handler(handle, EventType.RECEIVE_DATAGRAM)
    irp = bench.post(handle, source=near(bench, 77))
    bench.arrive(handle, b"from another")
    assert [ask.event.data for ask in bench.asked] == ([b"from another"] if goes_on else [])
    assert irp.state is IrpState.PENDING
    bench.arrive(handle, b"from them", near(bench, 77))
    assert bench.outcome(irp) == (SUCCESS, 9)


@both
def test_r8_one_datagram_completes_one_receive_of_each_address_object(network: str) -> None:
    bench = Bench(network)
    one, two = bench.open(), bench.open()
    first, second, other = bench.post(one), bench.post(one), bench.post(two)
    bench.arrive(one, b"x")
    assert [irp.state for irp in (first, second, other)] == [
        IrpState.COMPLETED,
        IrpState.PENDING,
        IrpState.COMPLETED,
    ]
    assert bench.deliveries == []


# ---- posting


@both
def test_r11_a_receive_names_its_buffer_its_filter_and_what_to_return(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    irp = bench.post(handle, 64, source=near(bench, 9), flags=ReceiveFlags.NORMAL)
    bench.arrive(handle, b"data", near(bench, 9))
    assert bench.outcome(irp) == (SUCCESS, 4)
    received = bench.received(irp)
    assert (received.data, received.source) == (b"data", near(bench, 9))
    assert received.remote_address == pack_transport_address(near(bench, 9))


@both
def test_r11_another_minor_function_or_file_is_refused(network: str) -> None:
    bench = Bench(network)
    handle, control = bench.open(), bench.control()
    wrong = Irp(handle, build_receive_datagram(handle, 1).parameters, minor=0x55)
    bench.perform(bench.transport.submit(wrong, bench.now))
    assert bench.outcome(wrong) == (NtStatus.INVALID_DEVICE_REQUEST, 0)
    assert bench.outcome(bench.post(control)) == (NtStatus.INVALID_PARAMETER, 0)
    assert bench.outcome(bench.post(99)) == (NtStatus.INVALID_HANDLE, 0)


def chain_of(sizes: list[int]) -> tuple[GuestMemory, Mdl]:
    """Memory full of marks, and a chain of buffers of these sizes, each at the end of a page of its own."""
    memory = GuestMemory(memoryview(bytearray(b"\xee" * (4096 * (2 * len(sizes) + 2)))))
    head: Mdl | None = None
    for index in reversed(range(len(sizes))):
        head = Mdl(4096 - 8, sizes[index], (2 * index + 1, 2 * index + 2), next=head)
    assert head is not None
    return memory, head


def written(memory: GuestMemory) -> bytes:
    """What is not a mark any more, whole memory."""
    return memory.read(0, memory.byte_count).replace(b"\xee", b"")


@both
@pytest.mark.parametrize(
    ("receive_length", "capacity"), [(0, 30), (30, 30), (29, 29), (31, 30), (1, 1), (0xFFFFFFFF, 30)]
)
def test_r12_the_capacity_is_the_smaller_of_length_and_chain(network: str, receive_length: int, capacity: int) -> None:
    bench = Bench(network)
    handle = bench.open()
    memory, mdl = chain_of([11, 0, 19])
    irp = bench.post(handle, MdlBuffer(memory, mdl), receive_length=receive_length)
    bench.arrive(handle, bytes(range(100, 140)))
    assert bench.outcome(irp) == (OVERFLOW, capacity)
    assert written(memory) == bytes(range(100, 100 + capacity))
    assert memory.read(4096 + 4088, min(capacity, 11)) == bytes(range(100, 100 + min(capacity, 11)))


@both
def test_r12_a_chain_outside_memory_is_refused_at_once(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    memory, _ = chain_of([1])
    bad = MdlBuffer(memory, Mdl(0, 10, (1,), next=Mdl(0, 10, (999,))))
    assert bench.outcome(bench.post(handle, bad)) == (NtStatus.INVALID_PARAMETER, 0)
    beyond = bench.post(handle, bad, receive_length=10)
    bench.arrive(handle, b"x" * 30)
    assert bench.outcome(beyond) == (OVERFLOW, 10), "the bad page is behind what the length uses"
    assert bench.outcome(bench.post(handle, 5, receive_length=-1)) == (NtStatus.INVALID_PARAMETER, 0)


@both
@pytest.mark.parametrize(
    "anybody",
    [
        None,
        ConnectionInformation(None),
        ConnectionInformation(bytes(22), 0),
        ConnectionInformation(bytes(22)),
        ConnectionInformation(SocketAddress("0.0.0.0", 0)),
        ConnectionInformation(pack_transport_address(SocketAddress("0.0.0.0", 0)), 22, options_length=4),
    ],
    ids=["null", "no address", "length 0", "zeros", "wildcard", "wildcard bytes"],
)
def test_r13_no_address_or_one_of_zeros_takes_any_sender(network: str, anybody: ConnectionInformation | None) -> None:
    bench = Bench(network)
    handle = bench.open()
    irp = bench.post(handle, source=anybody)
    bench.arrive(handle, b"x", near(bench, 55))
    assert bench.outcome(irp) == (SUCCESS, 1)


@both
@pytest.mark.parametrize(
    ("with_host", "with_port", "matches"),
    [(True, True, [3]), (True, False, [1, 3]), (False, True, [2, 3])],
)
def test_r14_a_filter_compares_what_is_not_zero(
    network: str, with_host: bool, with_port: bool, matches: list[int]
) -> None:
    bench = Bench(network)
    handle = bench.open()
    them = near(bench, 20)
    wanted = SocketAddress(them.host if with_host else "0.0.0.0", them.port if with_port else 0)
    senders = [near(bench, 21), SocketAddress(them.host, 1), SocketAddress(near(bench, 21).host, them.port), them]
    got = []
    for index, sender in enumerate(senders):
        irp = bench.post(handle, source=wanted)
        bench.arrive(handle, b"x", sender)
        if irp.state is IrpState.COMPLETED:
            got.append(index)
        else:
            bench.perform(bench.transport.cancel(irp))
    assert got == matches


@both
@pytest.mark.parametrize(
    "unreadable",
    [
        ConnectionInformation(b"\1" * 22),
        ConnectionInformation(pack_transport_address(SocketAddress("127.0.0.1", 1)), 23),
        ConnectionInformation(b"\1\0\0\0\2\0\2\0ab"),
        ConnectionInformation(SocketAddress("not an address", 1)),
        ConnectionInformation(SocketAddress("127.0.0.1", 70_000)),
    ],
)
def test_r14_an_address_that_cannot_be_read_is_refused_at_once(network: str, unreadable: ConnectionInformation) -> None:
    bench = Bench(network)
    irp = bench.post(bench.open(), source=unreadable)
    assert (bench.outcome(irp), bench.rule(irp)) == ((NtStatus.INVALID_ADDRESS, 0), "R14")


@both
def test_r15_receives_pend_in_order_and_any_number_of_them(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    irps = [bench.post(handle) for _ in range(300)]
    for number in range(300):
        bench.arrive(handle, b"%d" % number)
    assert [bench.received(irp).data for irp in irps] == [b"%d" % number for number in range(300)]


@both
def test_r15_beyond_the_provider_s_bound_a_receive_is_refused_and_disturbs_nothing(network: str) -> None:
    bench = Bench(network, max_posted_receives=2)
    handle = bench.open()
    first, second, third = (bench.post(handle) for _ in range(3))
    assert bench.outcome(third) == (NtStatus.INSUFFICIENT_RESOURCES, 0)
    bench.arrive(handle, b"1")
    bench.arrive(handle, b"2")
    assert [bench.received(irp).data for irp in (first, second)] == [b"1", b"2"]


# ---- completing


@both
@pytest.mark.parametrize("size", [0, 1, 19, 20])
def test_r16_a_datagram_that_fits_completes_with_its_length(network: str, size: int) -> None:
    bench = Bench(network)
    handle = bench.open()
    irp = bench.post(handle, 20)
    bench.arrive(handle, b"x" * size)
    assert bench.outcome(irp) == (SUCCESS, size)
    assert bench.received(irp).data == b"x" * size


@both
@pytest.mark.parametrize("capacity", [0, 1, 19])
def test_r17_what_does_not_fit_is_cut_and_lost(network: str, capacity: int) -> None:
    bench = Bench(network)
    handle = bench.open()
    irp, following = bench.post(handle, capacity), bench.post(handle)
    bench.arrive(handle, bytes(range(20)))
    assert bench.outcome(irp) == (OVERFLOW, capacity)
    assert bench.received(irp).data == bytes(range(capacity))
    bench.arrive(handle, b"next")
    assert bench.received(following).data == b"next"


@both
def test_r18_without_return_information_nothing_is_reported(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    none, nothing = bench.post(handle, returned=None), bench.post(handle, returned=ReturnInformation(0, 0))
    bench.arrive(handle)
    bench.arrive(handle)
    for irp in (none, nothing):
        assert bench.outcome(irp) == (SUCCESS, 2)
        assert (bench.received(irp).remote_address, bench.received(irp).options) == (b"", b"")


@both
@pytest.mark.parametrize(("room", "status"), [(22, SUCCESS), (100, SUCCESS), (21, OVERFLOW), (8, OVERFLOW)])
def test_r18_r19_the_returned_address_is_cut_to_its_room_and_never_longer(
    network: str, room: int, status: NtStatus
) -> None:
    bench = Bench(network)
    handle = bench.open()
    irp = bench.post(handle, returned=ReturnInformation(room, 0))
    bench.arrive(handle, b"12345")
    assert bench.outcome(irp) == (status, 5)
    assert bench.received(irp).remote_address == pack_transport_address(bench.peer)[:room]


@both
@pytest.mark.parametrize("strict", [True, False])
def test_r18_room_for_less_than_a_header_is_refused_by_a_strict_provider(network: str, strict: bool) -> None:
    bench = Bench(network, strict_return_structures=strict)
    handle = bench.open()
    irp = bench.post(handle, returned=ReturnInformation(7, 0))
    if strict:
        assert bench.outcome(irp) == (NtStatus.BUFFER_TOO_SMALL, 0)
    else:
        bench.arrive(handle)
        assert bench.outcome(irp) == (OVERFLOW, 2)
        assert len(bench.received(irp).remote_address) == 7


@both
@pytest.mark.parametrize(
    ("room", "pointer", "got", "status"),
    [
        (None, True, b"ttl=64", SUCCESS),
        (6, True, b"ttl=64", SUCCESS),
        (3, True, b"ttl", OVERFLOW),
        (0, True, b"", SUCCESS),
        (6, False, b"", SUCCESS),
    ],
)
def test_r20_options_are_copied_into_the_room_there_is(
    network: str, room: int | None, pointer: bool, got: bytes, status: NtStatus
) -> None:
    bench = Bench(network)
    handle = bench.open()
    irp = bench.post(handle, returned=ReturnInformation(None, room, has_options=pointer))
    bench.arrive_with_options(handle, Arrived(bench.peer, b"x", options=b"ttl=64"))
    assert bench.outcome(irp) == (status, 1)
    assert bench.received(irp).options == got


@both
def test_r21_user_data_is_refused(network: str) -> None:
    bench = Bench(network)
    irp = bench.post(bench.open(), source=ConnectionInformation(None, user_data_length=1))
    assert (bench.outcome(irp), bench.rule(irp)) == ((NtStatus.INVALID_PARAMETER, 0), "R21")


@both
def test_r22_without_a_buffer_of_its_own_a_provider_ignores_peek(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    peek, after = bench.post(handle, flags=ReceiveFlags.PEEK), bench.post(handle)
    bench.arrive(handle, b"once")
    assert bench.outcome(peek) == (SUCCESS, 4)
    assert after.state is IrpState.PENDING


@both
def test_r22_peek_leaves_a_buffered_datagram_for_the_next(network: str) -> None:
    bench = Bench(network, buffers_internally=True)
    flags = bench.transport._devices[network].profile.service_flags
    assert ServiceFlags.INTERNAL_BUFFERING in flags
    handle = bench.open()
    waiting = [bench.post(handle, 2, flags=ReceiveFlags.PEEK), bench.post(handle)]
    for data in (b"first", b"second"):
        bench.arrive(handle, data)
    assert [bench.received(irp).data for irp in waiting] == [b"fi", b"first"]
    later = [bench.post(handle, flags=ReceiveFlags.PEEK), bench.post(handle, flags=ReceiveFlags.PEEK)]
    later += [bench.post(handle), bench.post(handle)]
    assert [bench.received(irp).data for irp in later[:3]] == [b"second"] * 3
    assert (later[3].state, bench.deliveries) == (IrpState.PENDING, [])


@both
def test_r22_a_provider_s_buffer_is_bounded_and_keeps_the_oldest(network: str) -> None:
    bench = Bench(network, buffers_internally=True, max_backlog_bytes=2 * (64 + 10))
    handle = bench.open()
    bench.post(handle, source=near(bench, 99))
    for number in range(4):
        bench.arrive(handle, b"%d" % number * 10)
    taken = [bench.post(handle) for _ in range(3)]
    assert [irp.state for irp in taken] == [IrpState.COMPLETED, IrpState.COMPLETED, IrpState.PENDING]
    assert [bench.received(irp).data for irp in taken[:2]] == [b"0" * 10, b"1" * 10]
    bench.arrive(handle, b"room again")
    assert bench.received(taken[2]).data == b"room again"


@both
def test_r23_an_empty_datagram_completes_a_receive(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    irp, without = bench.post(handle), bench.post(handle, None)
    bench.arrive(handle, b"")
    bench.arrive(handle, b"")
    assert (bench.outcome(irp), bench.outcome(without)) == ((SUCCESS, 0), (SUCCESS, 0))


def ends_without_writing(bench: Bench, end: Any) -> None:
    handle = bench.open()
    memory, mdl = chain_of([40])
    irps = [bench.post(handle, MdlBuffer(memory, mdl)), bench.post(handle, 9)]
    assert [irp.returned for irp in irps] == [None, None]
    end(bench, handle, irps)
    for irp in irps:
        assert (bench.outcome(irp), bench.rule(irp)) == ((NtStatus.CANCELLED, 0), "R24")
        assert irp.returned is None
    assert written(memory) == b""


@both
def test_r24_cancel_ends_a_receive_and_touches_nothing(network: str) -> None:
    def cancel(bench: Bench, handle: int, irps: list[Irp]) -> None:
        for irp in irps:
            bench.perform(bench.transport.cancel(irp))
            assert bench.transport.cancel(irp) == []
        bench.arrive(handle, b"late")
        assert bench.heard(handle) == [b"late"]

    ends_without_writing(Bench(network), cancel)


@both
def test_r24_cleanup_ends_receives_first_and_touches_nothing(network: str) -> None:
    def cleanup(bench: Bench, handle: int, irps: list[Irp]) -> None:
        bench.perform(bench.transport.cleanup(handle, bench.now))
        assert bench.cleaned == [handle]
        assert bench.outcome(bench.post(handle)) == (NtStatus.CANCELLED, 0)

    ends_without_writing(Bench(network), cleanup)


@both
def test_r24_a_receive_cancelled_before_it_was_posted_ends_when_it_is(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    irp = build_receive_datagram(handle, 5)
    bench.perform(bench.transport.cancel(irp))
    bench.perform(bench.transport.submit(irp, bench.now))
    bench.arrive(handle, b"x")
    assert bench.outcome(irp) == (NtStatus.CANCELLED, 0)


@both
def test_r24_cancel_takes_one_receive_out_of_the_middle(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    first, middle, last = (bench.post(handle) for _ in range(3))
    bench.perform(bench.transport.cancel(middle))
    bench.arrive(handle, b"1")
    bench.arrive(handle, b"2")
    assert [bench.received(irp).data for irp in (first, last)] == [b"1", b"2"]
