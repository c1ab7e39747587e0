"""Connections under random interleavings of everything both clients, the segment and time can do (section 10).

What must hold whatever happens: each request is completed once and not more, with no bytes on an error; data arrive
in order and unchanged; no handler is called after its address was cleaned up; in the end nothing is left.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from emulator.status import NtStatus
from emulator.tdi.connection_requests import Associate, Receive, build_connection_request
from emulator.tdi.connection_states import State
from emulator.tdi.constants import EventType, ReceiveFlags, SendFlags
from emulator.tdi.irp import Irp, IrpState
from tests.tdi.connection_bench import ABORT, RELEASE, Bench, Side

NEAR_FAR = st.sampled_from(["near", "far"])
CODES = (NtStatus.SUCCESS, NtStatus.DATA_NOT_ACCEPTED, NtStatus.MORE_PROCESSING_REQUIRED, NtStatus.PENDING)


class Interleavings(RuleBasedStateMachine):
    """Two endpoints, one on each machine, which connect, talk and part again."""

    @initialize(stream=st.booleans(), room=st.sampled_from([1, 7, 64, 65_536]))
    def begin(self, stream: bool, room: int) -> None:
        self.bench = Bench(stream=stream, receive_buffer_bytes=room, send_buffer_bytes=32, max_queued_requests=5)
        self.stream = stream
        self.irps: list[tuple[Side, Irp]] = []
        self.addresses = {"near": self.bench.near.address(), "far": self.bench.far.address(7_000)}
        self.handles = {name: self.side(name).associated(address=self.addresses[name]) for name in self.addresses}

    def side(self, name: str) -> Side:
        return self.bench.near if name == "near" else self.bench.far

    def add(self, name: str, irp: Irp) -> None:
        self.irps.append((self.side(name), irp))

    @rule(query=st.booleans())
    def listen(self, query: bool) -> None:
        self.add("far", self.bench.far.listen(self.handles["far"], query=query))

    @rule()
    def connect(self) -> None:
        self.add("near", self.bench.near.connect(self.handles["near"], self.bench.there))

    @rule()
    def accept(self) -> None:
        self.add("far", self.bench.far.accept(self.handles["far"]))

    @rule(name=NEAR_FAR, data=st.binary(max_size=40), flags=st.sampled_from([0, 0x20, 0x40, 0x100, 0x200]))
    def send(self, name: str, data: bytes, flags: int) -> None:
        self.add(name, self.side(name).send(self.handles[name], data, SendFlags(flags)))

    @rule(name=NEAR_FAR, length=st.integers(0, 50), flags=st.sampled_from([0, 0x20, 0x40, 0x80]))
    def receive(self, name: str, length: int, flags: int) -> None:
        self.add(name, self.side(name).receive(self.handles[name], length, ReceiveFlags(flags)))

    @rule(name=NEAR_FAR, flags=st.sampled_from([ABORT, RELEASE]), timeout=st.sampled_from([None, 0.5]))
    def disconnect(self, name: str, flags: Any, timeout: float | None) -> None:
        self.add(name, self.side(name).disconnect(self.handles[name], flags, timeout))

    @rule(name=NEAR_FAR, event=st.sampled_from([0, 1, 3, 5, 6, 7, 9]), function=st.integers(0, 1))
    def handler(self, name: str, event: int, function: int) -> None:
        self.side(name).handler(self.addresses[name], EventType(event), function)

    @rule(code=st.sampled_from(CODES), taken=st.integers(0, 60), length=st.integers(-1, 30))
    def answer(self, code: NtStatus, taken: int, length: int) -> None:
        if not self.bench.asks:
            return
        name = "near" if self.bench.asks[0].machine == "vm1" else "far"
        irp = None
        if length >= 0:
            irp = build_connection_request(self.handles[name], Receive(length))
            self.add(name, irp)
        self.side(name).answer(code, taken, irp)

    @rule(index=st.integers(0, 1_000))
    def cancel(self, index: int) -> None:
        waiting = [(side, irp) for side, irp in self.irps if self.bench.outcome(irp) is None]
        if waiting:
            side, irp = waiting[index % len(waiting)]
            side.cancel(irp)

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 130.0]))
    def wait(self, seconds: float) -> None:
        self.bench.pass_time(seconds)

    @rule(stalled=st.booleans())
    def stall(self, stalled: bool) -> None:
        if stalled:
            self.bench.segment.stall()
        else:
            self.bench.perform(self.bench.segment.resume(self.bench.now))

    @rule(
        delay=st.sampled_from([0.0, 0.3, 2.0]),
        jitter=st.sampled_from([0.0, 0.2]),
        loss=st.sampled_from([0.0, 0.3, 1.0]),
        rate=st.sampled_from([0.0, 40.0, 1e6]),
        parted=st.booleans(),
    )
    def impair(self, delay: float, jitter: float, loss: float, rate: float, parted: bool) -> None:
        partition = (frozenset({"vm1"}),) if parted else ()
        self.bench.impair(
            delay_seconds=delay, jitter_seconds=jitter, loss=loss, rate_bytes_per_second=rate, partition=partition
        )

    @rule(name=NEAR_FAR)
    def reopen(self, name: str) -> None:
        side = self.side(name)
        side.close(self.handles[name])
        assert all(self.bench.outcome(irp) is not None for owner, irp in self.irps if owner is side)
        self.handles[name] = side.endpoint()
        side.status(self.handles[name], Associate(self.addresses[name]))

    @invariant()
    def pending_means_no_completion(self) -> None:
        for _, irp in getattr(self, "irps", []):
            assert (self.bench.outcome(irp) is None) == (irp.state is not IrpState.COMPLETED)

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        bench.perform(bench.segment.resume(bench.now))
        for name in ("near", "far"):
            side, handle = self.side(name), self.handles[name]
            if side.state(handle) is not State.ASSOCIATED:
                assert side.core(handle).link is not None or side.state(handle) is State.LISTENING
            bench.perform(side.transport.cleanup(self.addresses[name], bench.now))
            asked = len(bench.asks)
            side.close(handle)
            assert len(bench.asks) == asked, "no handler is called after the cleanup of its address"
        while bench.asks:
            (bench.near if bench.asks[0].machine == "vm1" else bench.far).answer(NtStatus.SUCCESS)
        assert all(bench.outcome(irp) is not None for _, irp in self.irps)
        assert not bench.segment.links
        for side in (bench.near, bench.far):
            assert side.transport.connections.endpoints.next_deadline() is None


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=40)
