"""Where the daemon listens and clients look for it, unless told otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def default_socket_path() -> Path:
    """$VMBUS_SOCKET, else vmbusd.sock in $XDG_RUNTIME_DIR, else in /run for root, else in /tmp by user number."""
    if chosen := os.environ.get("VMBUS_SOCKET"):
        return Path(chosen)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "vmbusd.sock"
    if os.geteuid() == 0:
        return Path("/run/vmbusd.sock")
    return Path(f"/tmp/vmbusd-{os.getuid()}.sock")
