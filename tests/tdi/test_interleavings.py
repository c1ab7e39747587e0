"""Any order of opens, sends, cancels, time-outs and cleanups.

Every request ends once, and nothing comes after a cleanup.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from emulator.status import NtStatus
from emulator.tdi.irp import Irp, IrpState
from emulator.tdi.profile import CleanupStyle
from emulator.tdi.structures import SocketAddress
from tests.tdi.bench import Bench


class Interleavings(RuleBasedStateMachine):
    """One machine with few places in its queues, so that every refusal is met."""

    network = "udp"
    style = CleanupStyle.CANCEL
    handles: Bundle[int] = Bundle("handles")
    irps: Bundle[Irp] = Bundle("irps")

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(self.network, max_queued_datagrams=3, max_datagram_bytes=20, cleanup=self.style)
        self.submitted: list[Irp] = []
        self.accepted: dict[int, list[bytes]] = {}
        self.cleaning: dict[int, int] = {}
        self.number = 0

    @rule(target=handles, port=st.sampled_from([0, 5000, 5001]), wildcard=st.booleans())
    def open(self, port: int, wildcard: bool) -> int:
        return self.bench.open(port, host="0.0.0.0" if wildcard else None)

    @rule(target=irps, handle=handles, size=st.integers(0, 22), port=st.sampled_from([0, 5000, 7000]))
    def send(self, handle: int, size: int, port: int) -> Irp:
        self.number += 1
        data = (b"%d " % self.number).ljust(size, b".")
        host = self.bench.host if port == 5000 else self.bench.peer.host
        irp = self.bench.send(handle, data, SocketAddress(host, port))
        self.submitted.append(irp)
        return irp

    @rule(irp=irps)
    def cancel(self, irp: Irp) -> None:
        self.bench.perform(self.bench.transport.cancel(irp))

    @rule(seconds=st.floats(0.1, 0.7))
    def wait(self, seconds: float) -> None:
        self.bench.now += seconds
        self.bench.perform(self.bench.transport.expire(self.bench.now))

    @rule()
    def stall(self) -> None:
        self.bench.stall()

    @rule()
    def resume(self) -> None:
        self.bench.resume()

    @rule(handle=handles)
    def cleanup(self, handle: int) -> None:
        if handle in self.cleaning:
            return
        self.cleaning[handle] = len(self.bench.heard(handle))
        self.bench.perform(self.bench.transport.cleanup(handle, self.bench.now))

    @rule(handle=handles)
    def close(self, handle: int) -> None:
        if handle in self.bench.cleaned and self.is_open(handle):
            self.bench.perform(self.bench.transport.close(handle))

    @rule()
    def owner_dies(self) -> None:
        for handle in range(1, 200):
            if handle not in self.cleaning and self.is_open(handle):
                self.cleaning[handle] = len(self.bench.heard(handle))
        self.bench.perform(self.bench.transport.close_owner("client", self.bench.now))
        assert all(irp.state is IrpState.COMPLETED for irp in self.submitted)

    def is_open(self, handle: int) -> bool:
        return handle in self.bench.transport._files

    @invariant()
    def each_request_ends_once(self) -> None:
        ended = Counter(id(complete.irp) for complete in self.bench.completions)
        for irp in self.submitted:
            assert ended[id(irp)] == (irp.state is IrpState.COMPLETED)
        for complete in self.bench.completions:
            assert complete.information == 0 or complete.status is NtStatus.SUCCESS

    @invariant()
    def every_cleanup_completes_once_and_after_its_requests(self) -> None:
        assert len(set(self.bench.cleaned)) == len(self.bench.cleaned)
        for irp in self.submitted:
            if irp.handle in self.bench.cleaned:
                assert irp.state is IrpState.COMPLETED

    @invariant()
    def nothing_arrives_after_cleanup(self) -> None:
        for handle, heard in self.cleaning.items():
            assert len(self.bench.heard(handle)) == heard

    @invariant()
    def what_waits_is_what_is_pending_and_has_a_deadline(self) -> None:
        pending = [irp for irp in self.submitted if irp.state is IrpState.PENDING]
        queues = self.bench.transport._devices[self.network].queues
        assert len(queues) == len(pending)
        deadline = self.bench.transport.next_deadline()
        assert (deadline is None) == (not pending)
        assert deadline is None or deadline > self.bench.now

    @invariant()
    def a_medium_with_room_leaves_nothing_waiting(self) -> None:
        if self.bench.writable and not self.bench.segment.stalled:
            assert all(irp.state is IrpState.COMPLETED for irp in self.submitted)

    @invariant()
    def sockets_are_those_of_open_objects(self) -> None:
        if self.network == "udp":
            files = self.bench.transport._files.values()
            used = {getattr(file, "path_key", 0) for file in files} - {0}
            assert used == set(self.bench.sockets)


class OnASegment(Interleavings):
    network = "lan"


class Draining(Interleavings):
    style = CleanupStyle.DRAIN


class DrainingOnASegment(OnASegment):
    style = CleanupStyle.DRAIN


BUDGET = settings(max_examples=150, stateful_step_count=50)
TestUdp = Interleavings.TestCase
TestSegment = OnASegment.TestCase
TestDrainingUdp = Draining.TestCase
TestDrainingSegment = DrainingOnASegment.TestCase
TestUdp.settings = TestSegment.settings = TestDrainingUdp.settings = TestDrainingSegment.settings = BUDGET
