"""Two endpoints over one guest memory, driven at random: nothing lost, duplicated, reordered, or left asleep."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.memory import PAGE_SIZE
from emulator.status import NtStatus, Refused
from emulator.vmbus.endpoint import ChannelEndpoint, Completed, EndpointLimits, Progress
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.profile import KmclProfile
from tests.vmbus.channel_pair import WAIT, ChannelPair

pytestmark = pytest.mark.usefixtures("ring_build")


class Driver:
    """One end that behaves as a driver does: it sleeps until its doorbell rings, and completes when it likes.

    Every packet starts with its number, so the other end can see order, loss and duplicates.
    """

    def __init__(self, name: str, endpoint: ChannelEndpoint, random: Random, is_guest: bool, pair: ChannelPair) -> None:
        self.name = name
        self.endpoint = endpoint
        self.random = random
        self.is_guest = is_guest
        self.pair = pair
        self.peer = self
        self.awake = True
        self.sent = 0
        self.sent_payloads: deque[bytes] = deque()  # as the peer shall see them
        self.open_contexts: dict[int, bool] = {}  # number -> waits for a completion
        self.to_complete: list[tuple[int, bytes, bool]] = []
        self.ended: list[int] = []
        self.slept = 0
        self.paused_steps = 0

    def ring(self, doorbell: bool) -> None:
        if doorbell:
            self.peer.awake = True

    def send(self) -> None:
        random = self.random
        number = self.sent
        self.sent += 1
        payload = number.to_bytes(8, "little") + random.randbytes(random.choice([0, 1, 8, 100, 1500, 3500]))
        waits = random.random() < 0.5
        if self.is_guest and random.random() < 0.2:
            waits = True
            mdl = self.pair.mdl(random.randrange(4096), 5000, 1, 0, 2)
            outcome = self.endpoint.send_with_external_mdl(payload, mdl, random.randrange(5000), 0, WAIT, number)
        else:
            outcome = self.endpoint.send(payload, None, WAIT if waits else 0, number)
        self.sent_payloads.append(payload + bytes(-len(payload) % 8))
        self.ring(outcome.doorbell)
        if waits or not outcome.written:
            self.open_contexts[number] = waits
        if random.random() < 0.03:
            self.cancel(outcome.transaction_id, number)

    def send_many(self) -> None:
        random = self.random
        waits = random.random() < 0.5
        numbers = range(self.sent, self.sent + random.randrange(1, 12))
        self.sent = numbers.stop
        payloads = [number.to_bytes(8, "little") + random.randbytes(random.choice([0, 8, 700])) for number in numbers]
        outcome = self.endpoint.send_many(payloads, numbers, WAIT if waits else 0)
        self.sent_payloads += [payload + bytes(-len(payload) % 8) for payload in payloads]
        self.ring(outcome.doorbell)
        self.open_contexts.update(dict.fromkeys(numbers if waits else numbers[outcome.written :], waits))

    def cancel(self, transaction_id: int, number: int) -> None:
        cancelled = self.endpoint.cancel(transaction_id)
        assert (cancelled is not None) == (number in self.open_contexts)
        if cancelled is not None:
            assert cancelled.status is NtStatus.CANCELLED
            assert cancelled.context == number
            del self.open_contexts[number]
            if cancelled.never_written:
                self.sent_payloads.pop()

    def poll(self) -> None:
        random = self.random
        progress = self.endpoint.receive(random.choice([0, 1, 2, 50]), random.choice([1, 2000, 1 << 20]))
        self.take(progress)
        if not progress.more or progress.quota_blocked:
            self.awake = not self.endpoint.go_idle()
            self.slept += not self.awake

    def take(self, progress: Progress) -> None:
        self.ring(progress.doorbell)
        for packet in progress.packets:
            assert packet.payload == self.peer.sent_payloads.popleft()
            self.to_complete.append((packet.handle, packet.payload[:8], packet.completion_requested))
        for completed in progress.completed:
            self.end(completed)

    def end(self, completed: Completed) -> None:
        number = completed.context
        assert isinstance(number, int)
        assert completed.status is NtStatus.SUCCESS
        waits = self.open_contexts.pop(number)
        if waits:
            assert int.from_bytes(completed.payload[:8], "little") == number
            assert len(completed.payload) >= 8
        else:
            assert completed.payload == b""
        self.ended.append(number)

    def complete(self) -> None:
        if len(self.to_complete) > 5 and self.random.random() < 0.3:
            done, self.to_complete = self.to_complete[::2], self.to_complete[1::2]
            outcome = self.endpoint.complete_many([(handle, number) for handle, number, _ in done])
            self.ring(outcome.doorbell)
            self.awake |= outcome.receive_again
        elif self.to_complete:
            handle, number, _ = self.to_complete.pop(self.random.randrange(len(self.to_complete)))
            extra = self.random.randbytes(self.random.choice([0, 8, 1000]))
            outcome = self.endpoint.complete(handle, number + extra)
            self.ring(outcome.doorbell)
            self.awake |= outcome.receive_again

    def step(self) -> None:
        if self.paused_steps:
            self.paused_steps -= 1
            return
        choice = self.random.random()
        if choice < 0.005:
            self.paused_steps = self.random.randrange(100)
        elif choice < 0.32:
            self.send()
        elif choice < 0.36:
            self.send_many()
        elif choice < 0.7:
            self.complete()
        elif self.awake:
            self.poll()


def drivers(seed: int, data_pages: int, limits: EndpointLimits, profile: KmclProfile) -> tuple[Driver, Driver]:
    pair = ChannelPair(data_pages, limits=limits, profile=profile)
    random = Random(seed)
    guest = Driver("guest", pair.guest, random, True, pair)
    host = Driver("host", pair.host, random, False, pair)
    guest.peer, host.peer = host, guest
    return guest, host


def settle(*ends: Driver) -> None:
    """No new packets: only what is awake moves, until nothing is."""
    for _ in range(100_000):
        if not any(end.awake or end.to_complete for end in ends):
            return
        for end in ends:
            end.complete()
            if end.awake:
                end.poll()
    raise AssertionError("the two never came to rest")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("quota", "strict"), [(3, True), (3, False), (4096, True)])
@pytest.mark.parametrize("data_pages", [1, 3])
def test_nothing_lost_duplicated_reordered_or_left_asleep(seed: int, quota: int, strict: bool, data_pages: int) -> None:
    profile = KmclProfile(quota_stops_completions=strict)
    guest, host = drivers(seed, data_pages, EndpointLimits(transaction_quota=quota), profile)
    for _ in range(10_000):
        for end in (guest, host):
            if len(end.open_contexts) < 40:
                end.step()
            elif end.awake:
                end.poll()
            else:
                end.complete()
    settle(guest, host)
    for end in (guest, host):
        assert not end.sent_payloads
        assert not end.open_contexts
        assert (end.endpoint.outstanding, end.endpoint.queued_packets, end.endpoint.delivered) == (0, 0, 0)
        assert end.sent > 1000
        assert end.slept > 100


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(0, 150), pages=st.integers(1, 2), quota=st.integers(1, 5))
def test_short_runs_settle_too(seed: int, steps: int, pages: int, quota: int) -> None:
    guest, host = drivers(seed, pages, EndpointLimits(transaction_quota=quota), KmclProfile())
    for _ in range(steps):
        guest.step()
        host.step()
    settle(guest, host)
    assert not guest.open_contexts
    assert not host.open_contexts


def test_crosswise_full_rings_drain() -> None:
    guest, host = drivers(0, 1, EndpointLimits(), KmclProfile())
    for number in range(20):
        for end in (guest, host):
            payload = number.to_bytes(8, "little") + bytes(2000)
            end.sent_payloads.append(payload)
            end.open_contexts[number] = True
            end.ring(end.endpoint.send(payload, None, WAIT, number).doorbell)
    assert guest.endpoint.queued_packets > 10
    assert host.endpoint.queued_packets > 10
    settle(guest, host)
    assert sorted(guest.ended) == sorted(host.ended) == list(range(20))


class Account:
    """What was accepted from one end's sender, and what came back for it."""

    def __init__(self, endpoint: ChannelEndpoint) -> None:
        self.endpoint = endpoint
        self.accepted: list[object] = []
        self.ended: list[object] = []
        self.failures: list[str] = []

    def send(self, number: int, byte_count: int, flags: int) -> None:
        outcome = self.endpoint.send(bytes(byte_count), None, flags, number)
        self.accepted.append(number)
        if outcome.written and not flags:
            self.ended.append(number)

    def turn(self, random: Random) -> None:
        progress = self.endpoint.receive(10, 1 << 16)
        self.ended += [completed.context for completed in progress.completed]
        for packet in progress.packets:
            if random.random() < 0.9:
                self.endpoint.complete(packet.handle, random.randbytes(8))
        self.endpoint.go_idle()

    def guarded(self, random: Random, number: int) -> None:
        """A send and a turn; only corruption may come out, or the refusal of a line that is full."""
        try:
            with suppress(Refused):
                self.send(number, random.randrange(400), random.choice([0, WAIT]))
        except RingCorruption as corruption:
            self.failures.append(str(corruption))
        try:
            self.turn(random)
        except RingCorruption as corruption:
            self.failures.append(str(corruption))


@pytest.mark.parametrize("seed", range(40))
def test_36_a_scribbling_peer_ends_in_one_sticky_error_and_every_context_comes_back(seed: int) -> None:
    random = Random(seed)
    pair = ChannelPair(1, limits=EndpointLimits(transaction_quota=100, max_queued_packets=50))
    spare = pair.first_spare * PAGE_SIZE
    canary = random.randbytes(8 * PAGE_SIZE)
    pair.memory.write(spare, canary)
    accounts = [Account(pair.guest), Account(pair.host)]
    for number in range(1500):
        if random.random() < 0.05:
            scribble(pair, random)
        for account in accounts:
            account.guarded(random, number)
    for account in accounts:
        assert len(account.failures) > 1
        assert len(set(account.failures)) == 1
        account.ended += [completed.context for completed in account.endpoint.close()]
        assert sorted(map(repr, account.ended)) == sorted(map(repr, account.accepted))
    assert pair.memory.read(spare, len(canary)) == canary


def scribble(pair: ChannelPair, random: Random) -> None:
    """Any bytes anywhere in the two rings' pages, most often in the control words."""
    page = random.randrange(pair.first_spare)
    at = random.choice([0, 4, 8, 12, 64, random.randrange(4088)])
    value = random.choice([random.randrange(0, 4096, 8), random.randrange(1 << 32)])
    pair.memory.write(page * PAGE_SIZE + at, value.to_bytes(4, "little"))
