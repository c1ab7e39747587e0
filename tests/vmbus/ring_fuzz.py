"""Any control page and any descriptor, a million times, against a compiled ring with AddressSanitizer in it.

``python -m tests.vmbus.ring_fuzz --cases 1000000``

Compiles the ring once more with the sanitizer and starts this module again below it. Every page of guest memory that
is not the ring's own is poisoned, and every object of Python's has red zones around it, so that a single byte read or
written outside ends the run with a report. Any exception but ``RingCorruption`` ends it too.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from random import Random

from emulator.memory import PAGE_SIZE, GuestMemory
from emulator.vmbus.packets import RingCorruption, encode_completion, encode_in_band, parse_packet_untrusted
from emulator.vmbus.ring import RingBuild, RingMemory
from tests.vmbus.ring_variants import ROOT, CannotBuild, compile_ring, load_ring

IN, OUT, MASK, PENDING, FEATURES = 0, 1, 2, 3, 16
PAGES = 12
# One page; side by side; in any order; one page twice; the ends of guest memory.
LAYOUTS = ((5, 6), (3, 4, 5), (8, 2, 6, 4), (9, 7, 7), (0, 11, 1, 10))
_lengths = struct.Struct("<HHHH")
_ranges = struct.Struct("<II")


def sanitizer_library() -> str:
    """Where the compiler keeps its AddressSanitizer."""
    compiler = os.environ.get("CC", "cc")
    try:
        done = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotBuild(f"there is no C compiler {compiler}") from None
    path = done.stdout.strip()
    if not os.path.isabs(path):
        raise CannotBuild(f"{compiler} has no AddressSanitizer")
    return path


def start_again(arguments: list[str]) -> int:
    """Run this module below the sanitizer; its exit code."""
    library = sanitizer_library()
    with tempfile.TemporaryDirectory() as directory:
        module = compile_ring(Path(directory), "-fsanitize=address", "-fno-omit-frame-pointer", "-g")
        environment = {
            **os.environ,
            "LD_PRELOAD": library,
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=66",
            "PYTHONMALLOC": "malloc",
        }
        command = [sys.executable, "-m", "tests.vmbus.ring_fuzz", "--module", str(module), *arguments]
        return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


class Place:
    """Guest memory with one ring in it, everything else poisoned."""

    def __init__(self, build: RingBuild, pfns: tuple[int, ...]) -> None:
        self.build = build
        self.mapping = mmap.mmap(-1, PAGES * PAGE_SIZE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
        self.memory = GuestMemory(memoryview(self.mapping))
        poison = ctypes.CDLL(None)["__asan_poison_memory_region"]
        for page in set(range(PAGES)) - set(pfns):
            poison(ctypes.c_void_p(self.address + page * PAGE_SIZE), ctypes.c_size_t(PAGE_SIZE))
        self.ring: RingMemory = build.memory.over(self.memory, pfns)

    def outside(self) -> int:
        """A poisoned address, to show that the sanitizer is awake."""
        return self.address + 2 * PAGE_SIZE


class Fuzzer:
    """Cases for one place; each says what became of it."""

    def __init__(self, place: Place, random: Random) -> None:
        self.place = place
        self.ring = place.ring
        self.random = random
        self.came = 0

    def index(self) -> int:
        """A number for an index: mostly legal."""
        random = self.random
        if random.random() < 0.85:
            return random.randrange(0, self.ring.data_bytes, 8)
        return random.choice([self.ring.data_bytes, 4, 0xFFFFFFF8, 0xFFFFFFFF, random.getrandbits(32)])

    def scribble_control(self) -> None:
        control = self.ring.control
        random = self.random
        word = random.choice((IN, OUT, IN, OUT, MASK, PENDING, FEATURES))
        control[word] = random.choice((0, 1, random.getrandbits(32), self.index()))

    def scribble_descriptors(self) -> None:
        """A few packets where the receiver will look, good ones as far as they fit, and then mostly one thing wrong."""
        random = self.random
        control = self.ring.control
        begin = at = random.randrange(0, self.ring.data_bytes, 8)
        heads = []
        for _ in range(random.randrange(1, 6)):
            length8 = random.choice((2, 3, 4, 5, 60, 200))
            if (at - begin) + 8 * length8 + 8 >= self.ring.data_bytes:
                break
            self.write_head(at, random.choice((6, 6, 11, 9, 7)), random.choice((2, min(3, length8))), length8)
            heads.append(at)
            at += 8 * length8 + 8
        control[OUT], control[IN] = begin, at % self.ring.data_bytes
        if heads and random.random() < 0.8:
            length8 = random.choice((0, 1, 511, 512, 513, 0xFFFF, random.getrandbits(16)))
            offset8 = random.choice((0, 1, 2, 4, length8, random.getrandbits(16)))
            self.write_head(random.choice(heads), random.choice((6, 11, random.getrandbits(16))), offset8, length8)

    def write_head(self, at: int, kind: int, offset8: int, length8: int) -> None:
        random = self.random
        flags = random.choice((0, 1, 0, 1, random.getrandbits(16)))
        ranges = random.getrandbits(64).to_bytes(8, "little") + _ranges.pack(0, random.choice((0, 1, 2, 1 << 31)))
        self.ring.write(at % self.ring.data_bytes, _lengths.pack(kind, offset8, length8, flags) + ranges)

    def images(self) -> list[bytes]:
        random = self.random
        make = encode_in_band if random.random() < 0.8 else encode_completion
        return [make(bytes(random.choice((0, 8, 100, 2000, 4056, 4064, 9000))), 1) for _ in range(random.randrange(4))]

    def case(self) -> None:
        """Scribble, and use both ends, which may also find their memory scribbled on in the middle of a call."""
        random = self.random
        ring, build = self.ring, self.place.build
        ring.control[MASK] = random.choice((0, 1, 0xFFFFFFFF))
        self.scribble_descriptors()
        if random.random() < 0.2:
            ring.control[random.choice((IN, OUT))] = self.index()
        fence = (self.scribble_control,) if random.random() < 0.3 else ()
        receiver = build.receiver(ring, *fence)
        received = receiver.receive_batch(random.choice((-1, 0, 1, 5, 1 << 40)), random.choice((0, 1000, 1 << 40)))
        for image in received.images:
            self.came += 1
            if _lengths.unpack_from(image)[2] * 8 != len(image):
                raise AssertionError("a packet is not as long as it says")
            with suppress(RingCorruption):
                parse_packet_untrusted(image)
        if random.random() < 0.5:
            self.scribble_control()
        sender = build.sender(ring, *fence)
        sender.send_batch(self.images())
        sender.block(random.choice((-1, 0, 5000, 1 << 62)))
        receiver.go_idle()
        self.scribble_control()
        sender.send_batch(self.images())
        receiver.receive_batch(5, 5000)


def fuzz(module: Path, cases: int, seed: int) -> int:
    build = load_ring(module, "sanitized")
    places = [Place(build, pfns) for pfns in LAYOUTS]
    random = Random(seed)
    fuzzers = [Fuzzer(place, random) for place in places]
    corruptions = 0
    for number in range(cases):
        try:
            fuzzers[number % len(fuzzers)].case()
        except RingCorruption:
            corruptions += 1
    came = sum(fuzzer.came for fuzzer in fuzzers)
    sys.stdout.write(f"{cases} cases, {corruptions} of them seen as corruption, {came} packets came out; clean\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--module", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prove", action="store_true", help="read one byte outside: this has to fail")
    options = parser.parse_args()
    if options.module is None:
        try:
            return start_again(sys.argv[1:])
        except CannotBuild as problem:
            sys.stderr.write(f"{problem}\n")
            return 3
    if options.prove:
        build = load_ring(options.module, "sanitized")
        place = Place(build, LAYOUTS[1])
        # A ring over poisoned pages stands for one that strays into them.
        build.memory.over(place.memory, (2, 1)).read(0, 8)
        return 0
    return fuzz(options.module, options.cases, options.seed)


if __name__ == "__main__":
    sys.exit(main())
