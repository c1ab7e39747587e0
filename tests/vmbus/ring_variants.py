"""Builds of the compiled ring that are never installed: without its fence, or with a sanitizer in it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

from emulator.vmbus.ring import RingBuild

ROOT = Path(__file__).resolve().parent.parent.parent
C_SOURCE = ROOT / "build" / "cython" / "emulator" / "vmbus" / "compiled_ring.c"
HEADERS = ROOT / "emulator" / "vmbus"
MODULE = "emulator.vmbus.compiled_ring"


class CannotBuild(Exception):
    """There is no variant to be had here; the message says what is missing."""


def compile_ring(directory: Path, *flags: str) -> Path:
    """The ring compiled with these flags besides the usual ones, as a module file in ``directory``."""
    if not C_SOURCE.exists():
        raise CannotBuild(f"{C_SOURCE.relative_to(ROOT)} is missing: it stays behind when the compiled ring is built")
    target = directory / f"compiled_ring{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_paths()["include"]
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-shared", "-fPIC", "-O2", f"-I{include}", f"-I{HEADERS}", *flags, str(C_SOURCE)]
    try:
        done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotBuild(f"there is no C compiler {compiler}") from None
    if done.returncode:
        raise CannotBuild(f"{' '.join(command)}\n{done.stderr}")
    return target


def load_ring(path: Path, name: str) -> RingBuild:
    """The module at ``path`` as a build of the ring. Only one can be loaded in a process."""
    sys.modules.pop(MODULE, None)
    spec = importlib.util.spec_from_file_location(MODULE, path, loader=ExtensionFileLoader(MODULE, str(path)))
    if spec is None or spec.loader is None:
        raise CannotBuild(f"{path} is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return RingBuild(name, module.RingMemory, module.RingSender, module.RingReceiver, needs_fence=False)
