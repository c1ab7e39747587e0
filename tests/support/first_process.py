"""The first process in a kernel of a test's own: makes it usable, runs one command, and switches it off.

Run as ``python -m tests.support.first_process MODULE... -- COMMAND``; ``private_kernel`` does so.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

STARTED = "first process: started"
ENDED = "first process: the command ended with"
MOUNTS = {"/proc": "proc", "/sys": "sysfs", "/dev/shm": "tmpfs", "/run": "tmpfs"}
POWER_OFF = 0x4321FEDC
FINIT_MODULE = 313  # x86-64
libc = ctypes.CDLL(None, use_errno=True)


def load(modules: Iterable[str]) -> None:
    """Load kernel modules that need no others."""
    for module in modules:
        with Path(module).open("rb") as file:
            if libc.syscall(FINIT_MODULE, file.fileno(), b"", 0):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), module)


def mount(path: str | Path, kind: str, *options: str) -> None:
    """Mount a file system that has no device."""
    Path(path).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, *options, kind, str(path)], check=True)


def main() -> None:
    """As said above. Whatever happens, the kernel is switched off at the end, since nobody else could."""
    try:
        split = sys.argv.index("--")
        for path, kind in MOUNTS.items():
            mount(path, kind)
        Path("/run/netns").mkdir()
        load(sys.argv[1:split])
        print(STARTED, flush=True)
        code = subprocess.run(sys.argv[split + 1 :], check=False, stderr=subprocess.STDOUT).returncode
        print(ENDED, code, flush=True)
    finally:
        libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
