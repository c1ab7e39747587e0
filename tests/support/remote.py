"""A daemon for clients over UDP, with keys of its own, and what a test needs to reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients import connect
from emulator.remote.keyring import Keyring
from tests.support.processes import Daemon, start_daemon

EVERYTHING = dict.fromkeys(("vm1", "vm2", "m0", "m1"), ("guest", "host", "datagram"))


@dataclass
class RemoteDaemon:
    """A running daemon, its keys directory, and where it listens."""

    daemon: Daemon
    keyring: Keyring
    where: str
    credentials: Path

    @property
    def address(self) -> tuple[str, int]:
        """The same, for a socket."""
        host, _, port = self.where.removeprefix("quic://").rpartition(":")
        return host, int(port)

    def tell_programs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Programs of ``tests.endtoend.programs`` that are started from now on attach here."""
        monkeypatch.setenv("VMBUS_PLACE", self.where)
        monkeypatch.setenv("VMBUS_CREDENTIALS", str(self.credentials))

    def add(self, name: str, grants: dict[str, tuple[str, ...]] | None = None, days: float = 30) -> Path:
        """Credentials for one more client. The daemon knows of them once it reads its keys anew."""
        return self.keyring.add(name, EVERYTHING if grants is None else grants, days)


def quic_section(keys: Path, settings: str = "", port: int = 0) -> str:
    """The section of a configuration that lets clients over UDP in."""
    return f'[listen.quic]\nport = {port}\nkeys = "{keys}"\n{settings}\n'


@asynccontextmanager
async def start_remote(
    tmp_path: Path, settings: str = "", *, config: str = "", name: str = "vmbusd", expect_exit: int | None = 0
) -> AsyncIterator[RemoteDaemon]:
    """A daemon that lets in one client over UDP, ``everything``, which may be everything on vm1 and vm2."""
    keyring = Keyring.init(tmp_path / f"{name}-keys")
    credentials = keyring.add("everything", EVERYTHING)
    document = quic_section(keyring.directory, settings) + config
    async with start_daemon(tmp_path, document, name=name, expect_exit=expect_exit) as daemon:
        async with connect(daemon.socket_path) as local:
            (described,) = await local.inspect("daemon")
        yield RemoteDaemon(daemon, keyring, f"quic://{described['quic']}", credentials)
