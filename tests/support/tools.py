"""Programs from outside that some tests need: found, or the test says which package brings them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

TOOLS = {
    "bash": "bash",
    "cc": "gcc libc6-dev",
    "chronyd": "chrony",
    "dnsmasq": "dnsmasq-base",
    "gcc": "gcc libc6-dev",
    "groff": "groff-base",
    "ip": "iproute2",
    "iperf": "iperf",
    "linux.uml": "user-mode-linux",
    "make": "make",
    "node": "nodejs",
    "npm": "npm",
    "setpriv": "util-linux",
    "socat": "socat",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
    "systemd-sysusers": "systemd",
    "unshare": "util-linux",
}
"""Every program that some test needs, and the Debian package that brings it."""

# Servers are installed where an ordinary user's PATH does not look.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def in_ci() -> bool:
    """Whether this is an automatic run, where a test that cannot run is a failure."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def find_tool(name: str) -> str | None:
    """The absolute path of a program, or None."""
    return shutil.which(name, path=SEARCH_PATH)


def missing_tools() -> dict[str, str]:
    """Program to package, for those of TOOLS that are not installed."""
    return {name: package for name, package in TOOLS.items() if find_tool(name) is None}


def require_tool(name: str, package: str) -> str:
    """The path of a program; without it the calling test is skipped, and in an automatic run it fails."""
    path = find_tool(name)
    if path is None:
        _do_without(name, package)
    return path


def require_file(path: Path, package: str) -> Path:
    """A file that a package brings; without it the calling test is skipped, and in an automatic run it fails."""
    if not path.exists():
        _do_without(str(path), package)
    return path


def _do_without(what: str, package: str) -> NoReturn:
    message = f"{what} is not installed (on Debian: apt install {package})"
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
