"""Any order of receives, handlers, their answers, loans, cancels, time-outs and cleanups.

Every request ends once and with nothing on an error, nothing is written outside a buffer or before its end, no handler
is called after a cleanup or twice at once, and every loan is out exactly as long as its client keeps it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl
from emulator.status import NtStatus, Refused
from emulator.tdi.constants import EventType, ReceiveFlags
from emulator.tdi.effects import Ask
from emulator.tdi.irp import Irp, IrpState, MdlBuffer
from emulator.tdi.receives import ReceiveDatagram, ReceivedDatagram, ReturnInformation, build_receive_datagram
from emulator.tdi.structures import SocketAddress
from tests.tdi.bench import Bench

MARK = b"\xee"
PAGES = 64
STATUSES = [
    NtStatus.SUCCESS,
    NtStatus.PENDING,
    NtStatus.MORE_PROCESSING_REQUIRED,
    NtStatus.DATA_NOT_ACCEPTED,
    NtStatus.UNSUCCESSFUL,
]
BUFFERS = st.sampled_from([(0,), (1,), (7,), (3, 0, 9), (30, 30)])
SETTABLE = [EventType.RECEIVE_DATAGRAM, EventType.CHAINED_RECEIVE_DATAGRAM, EventType.ERROR_EX]


class Interleavings(RuleBasedStateMachine):
    """One machine, two owners, three places in every queue."""

    network = "udp"
    buffering = False
    handles: Bundle[int] = Bundle("handles")
    irps: Bundle[Irp] = Bundle("irps")

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(
            self.network,
            max_posted_receives=3,
            max_backlog_bytes=3 * (64 + 20),
            maximum_lookahead_bytes=130,
            buffers_internally=self.buffering,
        )
        self.transport = self.bench.transport
        self.transport.loans._most_for_one_owner = 2
        self.memory = GuestMemory(memoryview(bytearray(MARK * (PAGES * PAGE_SIZE))))
        self.used = 0
        self.places: dict[Irp, tuple[int, int]] = {}
        self.submitted: list[Irp] = []
        self.over: dict[int, tuple[int, ...]] = {}
        self.answered: set[int] = set()
        self.expired = 0
        self.kept: set[int] = set()
        self.number = 0

    # ---- what can happen

    @rule(target=handles, port=st.sampled_from([5000, 5001]), owner=st.sampled_from(["one", "two"]))
    def open(self, port: int, owner: str) -> int:
        return self.bench.open(port, owner=owner)

    @rule(handle=handles, size=st.sampled_from([0, 3, 20, 140]), port=st.sampled_from([7000, 7001]))
    def arrive(self, handle: int, size: int, port: int) -> None:
        if self.is_open(handle):
            self.number += 1
            source = SocketAddress(self.bench.peer.host, port)
            self.bench.arrive(handle, (b"%d " % self.number).ljust(size, b"."), source)

    def receive(self, handle: int, sizes: tuple[int, ...], in_memory: bool, wanted: dict[str, Any]) -> Irp:
        """A request with a buffer of its own, in memory (each MDL on a page of its own) or not."""
        total = sum(sizes)
        if not in_memory or self.used + len(sizes) >= PAGES:
            return build_receive_datagram(handle, total, **wanted)
        first = self.used
        self.used += len(sizes)
        head: Mdl | None = None
        for index, size in reversed(list(enumerate(sizes))):
            head = Mdl(100, size, (first + index,), next=head)
        assert head is not None
        irp = build_receive_datagram(handle, MdlBuffer(self.memory, head), **wanted)
        self.places[irp] = first, len(sizes)
        return irp

    @rule(
        target=irps,
        handle=handles,
        sizes=BUFFERS,
        in_memory=st.booleans(),
        port=st.sampled_from([0, 7000, 7001]),
        peek=st.booleans(),
        room=st.sampled_from([None, 0, 5, 22]),
    )
    def post(
        self, handle: int, sizes: tuple[int, ...], in_memory: bool, port: int, peek: bool, room: int | None
    ) -> Irp:
        wanted = {
            "source": SocketAddress("0.0.0.0", port),
            "flags": ReceiveFlags.PEEK if peek else ReceiveFlags.NONE,
            "returned": ReturnInformation(room),
        }
        irp = self.receive(handle, sizes, in_memory, wanted)
        self.submitted.append(irp)
        self.bench.perform(self.transport.submit(irp, self.bench.now))
        return irp

    @rule(irp=irps)
    def cancel(self, irp: Irp) -> None:
        self.bench.perform(self.transport.cancel(irp))

    @rule(handle=handles, event=st.sampled_from(SETTABLE), function=st.sampled_from([0, 1, 2]))
    def set_handler(self, handle: int, event: EventType, function: int) -> None:
        self.submitted.append(self.bench.set_handler(handle, event, function))

    @rule(
        data=st.data(),
        status=st.sampled_from(STATUSES),
        taken=st.sampled_from([0, 1, 20, 500]),
        hands_over=st.sampled_from(["nothing", "new", "new", "cancelled", "elsewhere", "pending"]),
        sizes=BUFFERS,
    )
    def answer(
        self, data: st.DataObject, status: NtStatus, taken: int, hands_over: str, sizes: tuple[int, ...]
    ) -> None:
        """Any call that was ever made is answered, perhaps for the second time or too late."""
        if not self.bench.asked:
            return
        ask = data.draw(st.sampled_from(self.bench.asked[-4:]))
        irp = self.handed_over(ask, hands_over, sizes)
        if ask.token not in self.answered and ask.token in self.transport.calls._calls:
            loan = self.transport.loans._loans.get(ask.event.descriptor)
            # One whose owner is dead is not there any more, and one returned early is not kept.
            if loan is not None and not loan.returned and status is NtStatus.PENDING:
                self.kept.add(ask.event.descriptor)
            self.answered.add(ask.token)
        self.bench.answer(status, taken, irp, ask)
        if irp is not None and hands_over != "pending":
            assert irp.state is IrpState.COMPLETED

    def handed_over(self, ask: Ask, what: str, sizes: tuple[int, ...]) -> Irp | None:
        if what == "nothing":
            return None
        if what == "pending":
            return next((irp for irp in self.submitted if irp.state is IrpState.PENDING), None)
        irp = self.receive(ask.handle + 100 * (what == "elsewhere"), sizes, True, {})
        self.submitted.append(irp)
        if what == "cancelled":
            self.bench.perform(self.transport.cancel(irp))
        return irp

    @rule(data=st.data())
    def return_chained(self, data: st.DataObject) -> None:
        descriptor = data.draw(st.integers(0, self.transport.loans._last_descriptor + 1))
        out = descriptor in self.kept
        in_call = self.in_a_call(descriptor)
        try:
            self.transport.return_chained([descriptor])
        except Refused:
            assert not out
        else:
            assert out or in_call, "one whose handler still runs may come back early: it is then not kept"
        self.kept.discard(descriptor)

    def in_a_call(self, descriptor: int) -> bool:
        return any(
            call.ask.event.descriptor == descriptor and descriptor for call in self.transport.calls._calls.values()
        )

    @rule(seconds=st.sampled_from([1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.bench.now += seconds
        self.bench.perform(self.transport.expire(self.bench.now))

    @rule(handle=handles)
    def fail(self, handle: int) -> None:
        told = len(self.bench.told)
        self.bench.perform(self.transport.error_event(handle, NtStatus.PORT_UNREACHABLE, None))
        assert len(self.bench.told) == told or handle not in self.over

    @rule(handle=handles, closes=st.booleans())
    def cleanup(self, handle: int, closes: bool) -> None:
        if handle not in self.over:
            self.over[handle] = self.heard(handle)
            self.bench.perform(self.transport.cleanup(handle, self.bench.now))
            assert self.bench.cleaned[-1] == handle
            assert not any(irp.handle == handle and irp.state is IrpState.PENDING for irp in self.submitted)
        if closes and handle in self.transport._files:
            self.bench.perform(self.transport.close(handle))

    @rule(owner=st.sampled_from(["one", "two"]))
    def owner_dies(self, owner: str) -> None:
        for file in list(self.transport._files.values()):
            if file.owner == owner and file.handle not in self.over:
                self.over[file.handle] = self.heard(file.handle)
        for descriptor, loan in list(self.transport.loans._loans.items()):
            if loan.owner == owner:
                self.kept.discard(descriptor)
        self.bench.perform(self.transport.close_owner(owner, self.bench.now))

    # ---- what always holds

    def is_open(self, handle: int) -> bool:
        return handle in self.transport._files and handle not in self.over

    def heard(self, handle: int) -> tuple[int, ...]:
        calls = sum(ask.handle == handle for ask in self.bench.asked)
        return calls, sum(tell.handle == handle for tell in self.bench.told), len(self.bench.heard(handle))

    @invariant()
    def each_request_ends_once_and_with_nothing_on_an_error(self) -> None:
        ended = Counter(id(complete.irp) for complete in self.bench.completions)
        for irp in self.submitted:
            assert ended[id(irp)] == (irp.state is IrpState.COMPLETED)
        for complete in self.bench.completions:
            assert complete.information == 0 or not complete.status.is_error
            assert complete.status is not NtStatus.PENDING

    @invariant()
    def nothing_is_written_but_what_a_completed_request_says(self) -> None:
        image = bytearray(MARK * self.memory.byte_count)
        for irp, (first, count) in self.places.items():
            returned = irp.returned
            if not isinstance(returned, ReceivedDatagram):
                continue
            assert irp.state is IrpState.COMPLETED
            left = returned.data
            assert isinstance(irp.parameters, ReceiveDatagram)
            buffer = irp.parameters.buffer
            assert isinstance(buffer, MdlBuffer)
            for index, link in zip(range(count), buffer.mdl.chain(), strict=True):
                part, left = left[: link.byte_count], left[link.byte_count :]
                at = (first + index) * PAGE_SIZE + 100
                image[at : at + len(part)] = part
            assert left == b""
        assert self.memory.read(0, self.memory.byte_count) == bytes(image)

    @invariant()
    def no_handler_is_called_after_a_cleanup(self) -> None:
        for handle, heard in self.over.items():
            assert self.heard(handle) == heard

    @invariant()
    def one_call_at_a_time_for_one_address(self) -> None:
        waiting = Counter(call.ask.handle for call in self.transport.calls._calls.values())
        assert all(count == 1 for count in waiting.values())
        for file in self.transport._files.values():
            intake = getattr(file, "intake", None)
            if intake is not None:
                assert intake.busy == (waiting[file.handle] == 1)
                assert len(intake.backlog) == 0 or intake.busy
        deadline = self.transport.next_deadline()
        assert (deadline is None) == (not waiting)
        assert deadline is None or deadline > self.bench.now

    @invariant()
    def loans_are_those_kept_and_those_in_a_call(self) -> None:
        loans = self.transport.loans
        in_calls = {call.ask.event.descriptor for call in self.transport.calls._calls.values()} - {0}
        out = {descriptor for descriptor, loan in loans._loans.items() if loan.kept}
        assert out == self.kept & set(loans._loans)
        assert set(loans._loans) - out <= in_calls
        assert loans.byte_count == sum({id(loan.lent): loan.lent.byte_count for loan in loans._loans.values()}.values())


class OnASegment(Interleavings):
    network = "lan"


class Buffering(Interleavings):
    buffering = True


class BufferingOnASegment(OnASegment):
    buffering = True


BUDGET = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestUdp = Interleavings.TestCase
TestSegment = OnASegment.TestCase
TestBufferingUdp = Buffering.TestCase
TestBufferingSegment = BufferingOnASegment.TestCase
TestUdp.settings = TestSegment.settings = TestBufferingUdp.settings = TestBufferingSegment.settings = BUDGET
