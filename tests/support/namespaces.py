"""Network namespaces for tests: networks of their own, on this machine, that nobody else is on. For root only."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.tools import TOOLS, require_tool

_numbers = itertools.count()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def within(namespace: str) -> list[str]:
    """The words before a command that is to run there."""
    return ["ip", "netns", "exec", namespace]


@contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """New network namespaces with their loopback up; without the right to make them the calling test is skipped."""
    program = require_tool("ip", TOOLS["ip"])
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    names: list[str] = []
    try:
        for _ in range(count):
            name = f"vmbus-{os.getpid()}-{next(_numbers)}"
            made = subprocess.run([program, "netns", "add", name], check=False, capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
            names.append(name)
            _run(program, "-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run([program, "netns", "delete", name], check=False, capture_output=True)


@contextmanager
def joined_namespaces(*hosts: str) -> Iterator[list[str]]:
    """Two namespaces on one Ethernet, with these addresses in a network of 24 bits, or of 64 for IPv6."""
    with namespaces(len(hosts)) as names:
        one, two = names
        _run("ip", "-n", one, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", two)
        for name, host in zip(names, hosts, strict=True):
            network = [f"{host}/64", "nodad"] if ":" in host else [f"{host}/24", "broadcast", "+"]
            _run("ip", "-n", name, "address", "add", *network, "dev", "cable")
            _run("ip", "-n", name, "link", "set", "cable", "up")
        yield names
