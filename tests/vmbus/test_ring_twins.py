"""The two builds of the ring do the same: every result, every error in its very words, and every byte of memory.

A plan of calls and of scribbles is carried out in one world for each way of giving the two ends to the two builds,
mixed ones too. The worlds must not differ after any step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.memory import PAGE_SIZE, GuestMemory
from emulator.status import EmulatorError
from emulator.vmbus.packets import encode_completion, encode_in_band
from emulator.vmbus.ring import RING_BUILDS, RingBuild, initialise_as_guest
from tests.vmbus.channel_pair import FEATURES, IN, MASK, OUT, PENDING
from tests.vmbus.conftest import build_named

PAGES = 5
LAYOUTS = ((0, 1), (0, 1, 2, 3), (4, 3, 1, 2), (2, 0, 0, 4), (1, 3, 4, 0), (0, 1, 4, 3))
WORDS = (IN, OUT, MASK, PENDING, FEATURES)


@dataclass
class Step:
    """One thing that happens: a call of an end, or somebody writes to the ring. ``meanwhile`` happens in the fence."""

    name: str
    arguments: tuple[object, ...] = ()
    meanwhile: tuple[int, int] | None = None


class World:
    """One guest memory with one ring, and both its ends, each of a build of its own."""

    def __init__(self, pfns: tuple[int, ...], sender: RingBuild, receiver: RingBuild) -> None:
        self.bytes = bytearray(PAGES * PAGE_SIZE)
        self.memory = GuestMemory(memoryview(self.bytes))
        self.pfns = pfns
        self.builds = sender, receiver
        self.meanwhile: tuple[int, int] | None = None
        initialise_as_guest(sender.memory.over(self.memory, pfns))
        self.open()

    def open(self) -> None:
        """Both ends begin anew with what stands in the memory."""
        sender, receiver = self.builds
        self.space = sender.memory.over(self.memory, self.pfns)
        self.sender = sender.sender(self.space, self.fence)
        self.receiver = receiver.receiver(receiver.memory.over(self.memory, self.pfns), self.fence)

    def fence(self) -> None:
        if self.meanwhile is not None:
            self.poke(*self.meanwhile)

    def poke(self, word: int, value: int) -> None:
        self.space.control[word] = value

    def run(self, step: Step) -> str:
        """Do it; what came of it, as text that shows types as well as values."""
        self.meanwhile = step.meanwhile
        try:
            return repr(self.call(step.name)(*step.arguments))
        except EmulatorError as error:
            return f"{type(error).__name__}: {error}"

    def call(self, name: str) -> Callable[..., object]:
        own: dict[str, Callable[..., object]] = {
            "open": self.open,
            "poke": self.poke,
            "scribble": self.space.write,
            "read": self.space.read,
            "honours": lambda: self.receiver.peer_honours_pending_size,
            "largest": lambda: self.sender.largest_cost,
        }
        if name in own:
            return own[name]
        found: Callable[..., object] = getattr(self.sender if hasattr(self.sender, name) else self.receiver, name)
        return found


def all_worlds(pfns: tuple[int, ...]) -> list[World]:
    build_named("compiled")
    builds = RING_BUILDS.values()
    return [World(pfns, sender, receiver) for sender in builds for receiver in builds]


def run_alike(worlds: list[World], step: Step) -> str:
    first, *others = worlds
    result = first.run(step)
    for world in others:
        names = [build.name for build in world.builds]
        assert world.run(step) == result, f"{names} after {step}"
        assert world.bytes == first.bytes, f"{names} after {step}"
    return result


images = st.one_of(
    st.integers(0, 600).map(lambda count: encode_in_band(bytes([count & 0xFF]) * count, count)),
    st.integers(0, 5000).map(lambda count: encode_completion(bytes(count), 1)),
    st.sampled_from([b"", b"12345678", b"not padded"]),
)
indices = st.integers(0, 4 * PAGE_SIZE // 8).map(lambda unit: unit * 8)
values = st.one_of(indices, indices, st.sampled_from([0, 1, 4, 7, 0xFFFFFFF8, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
pokes = st.tuples(st.sampled_from(WORDS), values)
some = st.one_of(st.sampled_from([-1, 0, 1, 2, 1 << 20]), st.integers(0, 9000))
calls = st.one_of(
    st.tuples(st.just("send_batch"), st.tuples(st.lists(images, max_size=8))),
    st.tuples(st.just("receive_batch"), st.tuples(some, some)),
    st.tuples(st.just("receive_payloads"), st.tuples(some, some)),
    st.tuples(
        st.just("send_in_band"),
        st.tuples(
            st.lists(st.integers(0, 600).map(lambda count: bytes([count & 0xFF]) * count), max_size=8),
            st.integers(-1, 3),
            st.one_of(some, st.just(1 << 62)),
            st.integers(0, 1 << 40),
            st.sampled_from([0, 64, 500, 1 << 30]),
        ),
    ),
    st.tuples(st.sampled_from(["block", "would_ever_fit"]), st.tuples(some)),
    st.tuples(
        st.sampled_from(["send_asking", "send_completion"]),
        st.tuples(st.integers(0, 600).map(lambda count: bytes([count & 0xFF]) * count), st.integers(0, 3)),
    ),
    st.tuples(st.just("take_in_band"), st.just(())),
    st.tuples(st.just("take_completion"), st.tuples(st.integers(0, 3))),
    st.tuples(
        st.sampled_from(["unblock", "mask", "go_idle", "free_bytes", "used_bytes", "honours", "largest", "open"]),
        st.just(()),
    ),
)
steps = st.builds(lambda call, meanwhile: Step(call[0], call[1], meanwhile), calls, st.none() | pokes)
scribbles = st.one_of(
    pokes.map(lambda poke: Step("poke", poke)),
    st.tuples(st.integers(0, PAGE_SIZE - 1), st.binary(max_size=24)).map(lambda where: Step("scribble", where)),
)


@settings(max_examples=300, deadline=None)
@given(pfns=st.sampled_from(LAYOUTS), plan=st.lists(st.one_of(steps, steps, steps, scribbles), max_size=40))
def test_the_builds_do_the_same_whatever_is_asked_and_whoever_writes(pfns: tuple[int, ...], plan: list[Step]) -> None:
    worlds = all_worlds(pfns)
    for step in plan:
        run_alike(worlds, step)


def honest_step(random: Random) -> Step:
    """What two drivers do that mean well."""
    choice = random.random()
    if choice < 0.05:
        name = random.choice(["send_asking", "send_completion"])
        return Step(name, (random.randbytes(random.choice([0, 5, 64, 700])), random.randrange(3)))
    if choice < 0.1:
        return random.choice([Step("take_in_band"), Step("take_completion", (random.randrange(3),))])
    if choice < 0.4:
        counts = [random.choice([0, 5, 64, 700, 3000]) for _ in range(random.randrange(6))]
        return Step("send_batch", ([encode_in_band(random.randbytes(count), count) for count in counts],))
    if choice < 0.8:
        return Step("receive_batch", (random.randrange(8), random.choice([1, 3000, 1 << 20])))
    return Step(*random.choice([("block", (random.randrange(5000),)), ("unblock", ()), ("go_idle", ()), ("mask", ())]))


@pytest.mark.parametrize("pfns", LAYOUTS)
def test_the_builds_do_the_same_in_a_long_honest_run_with_the_ends_given_to_either(pfns: tuple[int, ...]) -> None:
    random = Random(1)
    worlds = all_worlds(pfns)
    seen = {run_alike(worlds, honest_step(random)) for _ in range(1500)}
    if len(set(pfns)) == len(pfns):  # packets in a page used twice overwrite each other
        assert not any("Corruption" in result for result in seen)
        assert {"Sent(written=0, signal=False)", "True", "False"} <= seen
        assert any("signal=True, empty" in result for result in seen)


@pytest.mark.parametrize("seed", range(6))
def test_the_builds_do_the_same_while_a_stranger_scribbles(seed: int) -> None:
    random = Random(seed)
    worlds = all_worlds(LAYOUTS[seed])
    corruptions = 0
    for _ in range(600):
        step = honest_step(random)
        if random.random() < 0.1:
            step.meanwhile = random.choice(WORDS), random.choice([0, 1, random.randrange(0, 12288, 8), 0xFFFFFFFF])
        corruptions += "Corruption" in run_alike(worlds, step)
        if random.random() < 0.05:
            run_alike(worlds, Step("scribble", (random.randrange(4096), random.randbytes(8))))
        if random.random() < 0.1:
            run_alike(worlds, Step("poke", (random.choice((IN, OUT)), random.randrange(0, 4096, 8))))
            run_alike(worlds, Step("open"))
    assert corruptions > 20
