"""Builds the compiled ring where that is possible; everything else about the package stands in pyproject.toml.

The extension is optional: without Cython, a C compiler or Python's headers the installation succeeds, says so, and the
ring runs in plain Python. ``vmbusctl version`` names the build in use.
"""

import hashlib
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# A test compares this digest with the one in the module, so that nobody tests a build of older sources.
SOURCES = (
    "emulator/vmbus/compiled_ring.pyx",
    "emulator/vmbus/compiled_ring_results.pxi",
    "emulator/vmbus/compiled_ring_memory.pxi",
    "emulator/vmbus/compiled_ring_end.pxi",
    "emulator/vmbus/compiled_ring_sender.pxi",
    "emulator/vmbus/compiled_ring_receiver.pxi",
    "emulator/vmbus/compiled_bits.pxi",
    "emulator/vmbus/ring_atomics.h",
)


def source_digest() -> str:
    """What stands in the sources of the compiled ring, in short."""
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in SOURCES))
    return "s" + digest.hexdigest()[:16]


def leave_out(reason: object) -> None:
    """Say that there will be no compiled ring."""
    sys.stderr.write(f"note: the compiled ring is left out, the ring runs in plain Python: {reason}\n")


class BuildWhatCanBeBuilt(build_ext):
    """``optional`` alone does not forgive a missing compiler, and an editable installation wants the file it made."""

    def build_extensions(self) -> None:
        """Build each, or leave it out for good. An older build must not pass for this one, so it goes first."""
        for ext in list(self.extensions):
            (ROOT / self.get_ext_filename(self.get_ext_fullname(ext.name))).unlink(missing_ok=True)
            try:
                self.build_extension(ext)
            except Exception as problem:  # noqa: BLE001  # whatever goes wrong here, the package works without
                leave_out(problem)
                self.extensions.remove(ext)


def extensions() -> list[Extension]:
    """The compiled ring, or nothing and a note."""
    try:
        from Cython.Build import cythonize
    except ImportError as problem:
        leave_out(problem)
        return []
    ring = Extension(
        "emulator.vmbus.compiled_ring",
        [SOURCES[0]],
        include_dirs=["emulator/vmbus"],
        depends=list(SOURCES[1:]),
        define_macros=[("VMBUS_RING_SOURCE", source_digest())],
        extra_compile_args=["-O2"],
        optional=True,
    )
    # The C source stays below build/: the litmus test and the fuzz compile variants of it.
    return list(cythonize([ring], build_dir="build/cython"))


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildWhatCanBeBuilt})
