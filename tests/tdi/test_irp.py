"""A request ends exactly once: rules P1 to P10."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl
from emulator.status import Misuse, NtStatus
from emulator.tdi.effects import Transmit
from emulator.tdi.irp import IrpState, MdlBuffer, SendDatagram, build_send_datagram
from emulator.tdi.structures import SocketAddress
from tests.tdi.bench import NETWORKS, Bench
from tests.tdi.raw_form import FORMS


@pytest.fixture(autouse=True, scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every rule here is tried with requests of objects and of bytes, for both kinds of client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "form", request.param)
        yield


both = pytest.mark.parametrize("network", NETWORKS)
PEER = SocketAddress("127.0.0.1", 7000)


def test_p1_a_second_completion_is_our_own_mistake() -> None:
    irp = build_send_datagram(1, PEER, b"x")
    irp.complete(NtStatus.SUCCESS, 1)
    with pytest.raises(Misuse, match="completed twice"):
        irp.complete(NtStatus.CANCELLED)
    assert (irp.status, irp.information) == (NtStatus.SUCCESS, 1)


@both
def test_p1_a_request_is_submitted_once(network: str) -> None:
    bench = Bench(network)
    irp = bench.send(bench.open())
    with pytest.raises(Misuse):
        bench.submit(irp)
    bench.stall()
    waiting = bench.send(1)
    with pytest.raises(Misuse):
        bench.submit(waiting)


def test_p2_t2_a_completed_request_cannot_become_pending() -> None:
    irp = build_send_datagram(1, PEER, b"x")
    irp.complete(NtStatus.SUCCESS, 1)
    with pytest.raises(Misuse):
        irp.mark_pending()


def test_p3_t3_pending_is_never_how_a_request_ends() -> None:
    irp = build_send_datagram(1, PEER, b"x")
    with pytest.raises(Misuse, match="STATUS_PENDING"):
        irp.complete(NtStatus.PENDING)
    assert irp.state is IrpState.NEW


def test_p4_t4_a_failure_carries_no_bytes() -> None:
    irp = build_send_datagram(1, PEER, b"x")
    with pytest.raises(Misuse, match="took none"):
        irp.complete(NtStatus.CANCELLED, 1)
    assert irp.complete(NtStatus.BUFFER_OVERFLOW, 1).information == 1


@both
def test_p5_p7_t5_of_cancel_and_completion_one_wins(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.stall()
    irp = bench.send(handle)
    bench.perform(bench.transport.cancel(irp))
    assert bench.transport.cancel(irp) == []
    bench.perform(bench.transport.expire(bench.now + 10))
    bench.resume()
    bench.close(handle)
    assert bench.outcome(irp) == (NtStatus.CANCELLED, 0)


@both
def test_p10_nothing_of_a_completed_request_is_kept(network: str) -> None:
    bench = Bench(network)
    irp = bench.send(bench.open(), bytes(1_000))
    assert irp.state is IrpState.COMPLETED
    for device in bench.transport._devices.values():
        assert (len(device.queues), device.queues.byte_count) == (0, 0)


def test_the_head_of_a_socket_stays_until_it_is_answered() -> None:
    bench = Bench("udp")
    handle = bench.open()
    first, second = (build_send_datagram(handle, bench.peer, data) for data in (b"1", b"2"))
    assert bench.transport.send_datagram(first, 0.0) == [Transmit(1)]
    assert bench.transport.send_datagram(second, 0.0) == [Transmit(1)]
    head = bench.transport.next_transmit(1)
    assert head is not None
    assert (head.data, head.destination) == (b"1", bench.peer)
    assert bench.transport.next_transmit(1) is head
    bench.perform(bench.transport.cancel(first))
    with pytest.raises(Misuse, match="not at the head"):
        bench.transport.transmitted(1, head.token, NtStatus.SUCCESS)
    bench.transmit(1)
    assert bench.peer_heard() == [b"2"]
    assert bench.transport.next_transmit(1) is None
    assert bench.transport.next_transmit(99) is None
    with pytest.raises(Misuse):
        bench.transport.transmitted(99, 1, NtStatus.SUCCESS)


def test_a_chain_without_a_length_is_our_own_mistake() -> None:
    memory = GuestMemory(memoryview(bytearray(PAGE_SIZE)))
    with pytest.raises(Misuse):
        _ = SendDatagram(None, MdlBuffer(memory, Mdl(0, 1, (0,)))).length
