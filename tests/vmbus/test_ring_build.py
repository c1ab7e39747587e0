"""The compiled ring is there where it has to be, was made from the sources that stand here, and has the same calls."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from emulator.vmbus import ring
from emulator.vmbus.ring import RingBuild
from tests.vmbus.conftest import NAMES, build_named

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE = "emulator/vmbus/compiled_ring.pyx"
HEADER = "emulator/vmbus/ring_atomics.h"


@pytest.fixture
def compiled() -> RingBuild:
    return build_named("compiled")


def public_names(kind: type[object]) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_the_compiled_ring_is_used_where_it_is(compiled: RingBuild) -> None:
    assert compiled.name == ring.RING_BUILD
    assert (ring.RingMemory, ring.RingSender, ring.RingReceiver) == compiled[1:4]
    assert not ring.RING_NEEDS_FENCE
    assert ring.RING_BUILD_PROBLEM == ""


def test_the_pure_ring_is_always_there() -> None:
    assert set(ring.RING_BUILDS) <= set(NAMES)
    assert ring.RING_BUILDS["pure"].needs_fence
    assert ring.RING_BUILDS["pure"].memory.__module__ == "emulator.vmbus.pure_ring_memory"


def test_the_compiled_ring_was_made_from_these_sources(compiled: RingBuild) -> None:
    from emulator.vmbus import compiled_ring

    parts = re.findall(r'^include "(\w+\.pxi)"$', (ROOT / SOURCE).read_text(), re.MULTILINE)
    sources = [SOURCE, *(f"emulator/vmbus/{part}" for part in parts), HEADER]
    assert sorted(parts) == sorted(path.name for path in (ROOT / SOURCE).parent.glob("*.pxi"))
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in sources)).hexdigest()
    assert "s" + digest[:16] == compiled_ring.SOURCE, "the compiled ring is older than its sources: build it again"


def test_both_builds_have_the_same_calls(compiled: RingBuild) -> None:
    pure = ring.RING_BUILDS["pure"]
    instance_only = {"control", "data_bytes"}  # plain attributes of the pure memory, not seen on its class
    assert public_names(compiled.memory) == public_names(pure.memory) | instance_only
    assert public_names(compiled.sender) == public_names(pure.sender)
    assert public_names(compiled.receiver) == public_names(pure.receiver)
