"""What a segment does to datagrams on their way, and that the same seed and the same sends give the same again."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.status import Misuse, NtStatus
from emulator.tdi.effects import Deliver
from emulator.tdi.medium import Luck
from emulator.tdi.profile import Profile, SegmentProfile
from emulator.tdi.segment import Segment
from emulator.tdi.structures import SocketAddress
from emulator.tdi.transport import Transport
from tests.tdi.bench import SHARED, Bench

MACHINES = ("a", "b", "c")
# The first datagram comes late, the second does not.
JITTER_LATE_THEN_NONE = 1


def luck(seed: int) -> Luck:
    return Luck(*(random.Random(f"{seed} {name}") for name in Luck._fields))


class Lan:
    """Three machines on one segment, each with an address object on port 9, and what they heard and when."""

    def __init__(self, profile: SegmentProfile, seed: int = 1) -> None:
        self.segment = Segment("lan", profile, luck(seed), "10.0.0.0/24")
        self.ports = {name: self.segment.attach(name) for name in MACHINES}
        self.heard: dict[str, list[tuple[float, bytes]]] = {name: [] for name in MACHINES}
        for name, port in self.ports.items():
            Transport(name, Profile(), {"lan": port}).open_address("lan", SocketAddress("0.0.0.0", 9), SHARED, name)

    def send(self, sender: str, to: str, data: bytes, now: float) -> None:
        source = self.ports[sender]
        host = self.ports[to].host if to in self.ports else to
        self.take(self.segment.carry(SocketAddress(source.host, 9), SocketAddress(host, 9), data, now, source), now)

    def take(self, effects: list[Any], now: float) -> None:
        for effect in effects:
            assert isinstance(effect, Deliver)
            self.heard[effect.machine].append((now, effect.data))

    def change(self, profile: SegmentProfile, now: float) -> None:
        self.take(self.segment.change(profile, now), now)

    def run(self, until: float = float("inf")) -> None:
        """Let time pass, from deadline to deadline."""
        while (due := self.segment.next_deadline()) is not None and due <= until:
            self.take(self.segment.poll(due), due)

    def datagrams(self, machine: str) -> list[bytes]:
        return [data for _, data in self.heard[machine]]

    def times(self, machine: str) -> list[float]:
        return [at for at, _ in self.heard[machine]]


def test_a_segment_without_impairments_has_no_deadline() -> None:
    lan = Lan(SegmentProfile())
    lan.send("a", "b", b"x", 5.0)
    assert lan.heard["b"] == [(5.0, b"x")]
    assert lan.segment.next_deadline() is None


def test_latency_is_the_time_on_the_way_and_there_is_no_deadline_afterwards() -> None:
    lan = Lan(SegmentProfile(delay_seconds=0.25))
    lan.send("a", "b", b"x", 5.0)
    assert lan.segment.next_deadline() == 5.25
    assert lan.segment.poll(5.2) == []
    lan.run()
    assert lan.heard["b"] == [(5.25, b"x")]
    assert lan.segment.next_deadline() is None


def test_jitter_stays_within_its_bounds_and_keeps_the_order() -> None:
    lan = Lan(SegmentProfile(delay_seconds=0.1, jitter_seconds=0.05))
    for number in range(200):
        lan.send("a", "b", bytes([number]), number * 0.001)
    lan.run()
    assert lan.datagrams("b") == [bytes([number]) for number in range(200)]
    delays = [at - number * 0.001 for number, at in enumerate(lan.times("b"))]
    assert 0.05 <= min(delays) < max(delays) <= 0.15 + 1e-9
    assert len(set(delays)) > 20


def test_a_jitter_above_the_latency_never_delivers_before_the_send() -> None:
    lan = Lan(SegmentProfile(delay_seconds=0.01, jitter_seconds=1.0))
    for number in range(50):
        lan.send("a", "b", bytes([number]), 10.0)
    lan.run()
    assert lan.datagrams("b") == [bytes([number]) for number in range(50)]
    assert min(lan.times("b")) >= 10.0


def test_reordering_holds_some_back_and_loses_none() -> None:
    lan = Lan(SegmentProfile(reorder=0.2, reorder_seconds=0.005))
    sent = [bytes([number]) for number in range(200)]
    for number, data in enumerate(sent):
        now = number * 0.001
        lan.run(now)
        lan.send("a", "b", data, now)
    lan.run()
    assert sorted(lan.datagrams("b")) == sent
    assert lan.datagrams("b") != sent
    assert 20 < lan.segment.medium.counts.reordered < 70
    late = [number for number, data in enumerate(lan.datagrams("b")) if data[0] < number - 1]
    assert all(at - data[0] * 0.001 < 0.0051 for at, data in lan.heard["b"]), late


def test_a_rate_spaces_datagrams_on_a_line_that_all_share() -> None:
    lan = Lan(SegmentProfile(rate_bytes_per_second=12_800))
    for sender, data in (("a", bytes(100)), ("c", bytes(228)), ("a", bytes(100))):
        lan.send(sender, "b", data, 1.0)
    lan.run()
    assert lan.times("b") == pytest.approx([1.01, 1.03, 1.04])
    lan.send("a", "b", b"", 50.0)
    lan.run()
    assert lan.times("b")[-1] == pytest.approx(50.0 + 28 / 12_800)


def test_a_line_too_far_behind_drops_what_comes_then() -> None:
    lan = Lan(SegmentProfile(rate_bytes_per_second=1_000, rate_backlog_seconds=0.5))
    for _ in range(10):
        lan.send("a", "b", bytes(72), 0.0)
    lan.run()
    assert len(lan.heard["b"]) == 6
    assert lan.segment.medium.counts.overflowed == 4


def test_s24_loss_and_duplication_come_about_as_often_as_they_should() -> None:
    lan = Lan(SegmentProfile(loss=0.1, duplicate=0.2))
    for number in range(2000):
        lan.send("a", "b", number.to_bytes(2, "big"), 0.0)
    counts = lan.segment.medium.counts
    assert 150 < counts.lost < 250
    assert 290 < counts.duplicated < 430
    assert len(lan.heard["b"]) == 2000 - counts.lost + counts.duplicated


def test_a_broadcast_is_lost_by_each_receiver_for_itself() -> None:
    lan = Lan(SegmentProfile(loss=0.5))
    for number in range(64):
        lan.send("a", "255.255.255.255", bytes([number]), 0.0)
    assert len({tuple(lan.datagrams(name)) for name in MACHINES}) == 3


def test_a_partition_keeps_sides_apart_and_those_it_does_not_name_together() -> None:
    lan = Lan(SegmentProfile(partition=(frozenset({"a"}),)))
    assert lan.segment.is_cut("a", "b")
    assert not lan.segment.is_cut("b", "c")
    lan.send("a", "b", b"cut", 0.0)
    lan.send("b", "c", b"together", 0.0)
    lan.send("a", "255.255.255.255", b"only me", 0.0)
    assert lan.heard == {"a": [(0.0, b"only me")], "b": [], "c": [(0.0, b"together")]}
    assert lan.segment.medium.counts.cut == 3
    lan.change(SegmentProfile(), 0.5)
    lan.send("a", "b", b"healed", 1.0)
    assert lan.datagrams("b") == [b"healed"]


def test_s23_a_send_that_the_medium_loses_is_a_success() -> None:
    for profile in (SegmentProfile(loss=1.0), SegmentProfile(partition=(frozenset({"vm2"}),))):
        bench = Bench("lan", segment=profile)
        assert bench.outcome(bench.send(bench.open(), b"gone")) == (NtStatus.SUCCESS, 4)
        assert bench.peer_heard() == []
        assert bench.segment.dropped == 1


def test_less_latency_while_datagrams_are_on_their_way_lets_none_pass_another() -> None:
    lan = Lan(SegmentProfile(delay_seconds=1.0))
    lan.send("a", "b", b"slow", 0.0)
    lan.change(SegmentProfile(delay_seconds=0.25), 0.5)
    lan.send("a", "b", b"quick", 0.6)
    lan.send("a", "c", b"elsewhere", 0.6)
    lan.run()
    assert lan.heard["b"] == [(0.75, b"slow"), (0.85, b"quick")]
    assert lan.heard["c"] == [(0.85, b"elsewhere")]
    lan.send("a", "b", b"as before", 2.0)
    lan.run()
    assert lan.heard["b"][-1] == (2.25, b"as before")


def test_a_latency_taken_back_holds_nothing_up() -> None:
    lan = Lan(SegmentProfile(delay_seconds=86_400.0))
    lan.send("a", "b", b"first", 0.0)
    lan.send("a", "b", b"second", 0.5)
    lan.change(SegmentProfile(), 1.0)
    lan.send("a", "b", b"third", 1.0)
    assert lan.heard["b"] == [(1.0, b"first"), (1.0, b"second"), (1.0, b"third")]


def test_what_is_due_and_not_yet_delivered_comes_before_what_is_sent_now() -> None:
    lan = Lan(SegmentProfile(jitter_seconds=1.0), seed=JITTER_LATE_THEN_NONE)
    lan.send("a", "b", b"due", 0.0)
    due = lan.segment.next_deadline()
    assert due is not None
    lan.send("a", "b", b"at once", due + 0.1)  # nobody has polled since it was due
    assert lan.heard["b"] == [(due + 0.1, b"due"), (due + 0.1, b"at once")]


def test_a_rate_taken_back_frees_the_line() -> None:
    lan = Lan(SegmentProfile(rate_bytes_per_second=1.0))
    lan.send("a", "b", bytes(1_000), 0.0)  # 1,028 seconds of it
    lan.change(SegmentProfile(rate_bytes_per_second=1_028.0), 0.0)
    lan.send("a", "b", bytes(1_000), 0.0)
    lan.run()
    assert lan.times("b") == [1.0, 2.0]
    lan.send("a", "b", bytes(1_000), 2.0)
    lan.change(SegmentProfile(), 2.0)
    assert lan.times("b") == [1.0, 2.0, 2.0]


def test_a_slower_line_is_no_further_behind_than_its_backlog() -> None:
    lan = Lan(SegmentProfile(rate_bytes_per_second=10_280.0, rate_backlog_seconds=2.0))
    for _ in range(10):
        lan.send("a", "b", bytes(1_000), 0.0)
    lan.change(SegmentProfile(rate_bytes_per_second=10.0, rate_backlog_seconds=2.0), 0.0)
    lan.run()
    assert lan.times("b")[-1] == pytest.approx(1.0), "what had left the machine's side arrives as it would have"
    lan.send("a", "b", b"x", 2.0)
    lan.run()
    assert lan.times("b")[-1] == pytest.approx(2.0 + 29 / 10.0)


def test_s12b_a_new_mtu_holds_from_the_next_send_and_what_is_too_long_then_fails() -> None:
    bench = Bench("lan")
    handle = bench.open()
    assert bench.outcome(bench.send(handle, bytes(1_000))) == (NtStatus.SUCCESS, 1_000)
    assert bench.segment.change(replace(bench.segment.profile, mtu_bytes=528), 0.0) == []
    assert bench.outcome(bench.send(handle, bytes(501))) == (NtStatus.INVALID_PARAMETER, 0)
    assert bench.outcome(bench.send(handle, bytes(500))) == (NtStatus.SUCCESS, 500)
    assert [len(data) for data in bench.peer_heard()] == [1_000, 500]


@pytest.mark.parametrize(
    "wrong",
    [
        {"reorder": 2.0},
        {"jitter_seconds": -1.0},
        {"rate_bytes_per_second": float("inf")},
        {"reorder_seconds": float("nan")},
        {"mtu_bytes": 28},
        {"mtu_bytes": 70_000},
        {"partition": (frozenset({"a"}), frozenset({"a", "b"}))},
    ],
)
def test_a_profile_nobody_could_obey_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        SegmentProfile(**wrong)


profiles = st.builds(
    SegmentProfile,
    loss=st.sampled_from([0.0, 0.3]),
    duplicate=st.sampled_from([0.0, 0.3]),
    delay_seconds=st.sampled_from([0.0, 0.02]),
    jitter_seconds=st.sampled_from([0.0, 0.01, 0.05]),
    reorder=st.sampled_from([0.0, 0.3]),
    rate_bytes_per_second=st.sampled_from([0.0, 20_000.0]),
    partition=st.sampled_from([(), (frozenset({"b"}),)]),
)
sends = st.lists(
    st.tuples(
        st.sampled_from(MACHINES),
        st.sampled_from([*MACHINES, "255.255.255.255"]),
        st.integers(0, 200),
        st.sampled_from([0.0, 0.001, 0.05]),
    ),
    max_size=40,
)


def play(profile: SegmentProfile, seed: int, plan: list[tuple[str, str, int, float]]) -> Lan:
    lan = Lan(profile, seed)
    now = 0.0
    for number, (sender, to, size, pause) in enumerate(plan):
        now += pause
        lan.run(now)
        lan.send(sender, to, number.to_bytes(2, "big") + bytes(size), now)
    lan.run()
    return lan


@given(profiles, st.integers(0, 3), sends)
def test_the_same_seed_and_the_same_sends_give_the_same_arrivals(
    profile: SegmentProfile, seed: int, plan: list[tuple[str, str, int, float]]
) -> None:
    assert play(profile, seed, plan).heard == play(profile, seed, plan).heard


@given(profiles, st.integers(0, 3), sends)
def test_nothing_is_made_up_early_or_unaccounted_for(
    profile: SegmentProfile, seed: int, plan: list[tuple[str, str, int, float]]
) -> None:
    lan = play(profile, seed, plan)
    counts = lan.segment.medium.counts
    receivers = sum(3 if to not in MACHINES else 1 for _, to, _, _ in plan)
    heard = sum(len(each) for each in lan.heard.values())
    assert heard == receivers + counts.duplicated - counts.lost - counts.cut
    assert lan.segment.next_deadline() is None
    if not profile.reorder:
        for machine in MACHINES:
            numbers = [int.from_bytes(data[:2], "big") for data in lan.datagrams(machine)]
            assert numbers == sorted(numbers)


@given(st.integers(0, 50), sends)
def test_switching_one_impairment_on_leaves_the_luck_of_another_alone(
    seed: int, plan: list[tuple[str, str, int, float]]
) -> None:
    alone = play(SegmentProfile(loss=0.3), seed, plan)
    together = play(SegmentProfile(loss=0.3, duplicate=0.5, delay_seconds=0.01, jitter_seconds=0.02), seed, plan)
    for machine in MACHINES:
        assert set(alone.datagrams(machine)) == set(together.datagrams(machine))
