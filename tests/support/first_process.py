"""The first process in a kernel of a test's own: makes it usable, runs one command, and switches it off.

Run as ``python -m tests.support.first_process MODULE... -- COMMAND``; ``private_kernel`` does so.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

STARTED = "first process: started"
ENDED = "first process: the command ended with"
MOUNTS = {"/proc": "proc", "/sys": "sysfs", "/dev/shm": "tmpfs", "/run": "tmpfs"}
POWER_OFF = 0x4321FEDC
FINIT_MODULE = 313  # x86-64


def load(libc: ctypes.CDLL, module: str) -> None:
    """Load a kernel module that needs no other."""
    with Path(module).open("rb") as file:
        if libc.syscall(FINIT_MODULE, file.fileno(), b"", 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), module)


def main() -> None:
    """As said above. Whatever happens, the kernel is switched off at the end, since nobody else could."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        split = sys.argv.index("--")
        for path, kind in MOUNTS.items():
            Path(path).mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", kind, kind, path], check=True)
        Path("/run/netns").mkdir()
        for module in sys.argv[1:split]:
            load(libc, module)
        print(STARTED, flush=True)
        code = subprocess.run(sys.argv[split + 1 :], check=False, stderr=subprocess.STDOUT).returncode
        print(ENDED, code, flush=True)
    finally:
        libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
