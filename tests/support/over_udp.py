"""Tests written for the Unix socket, run over UDP: what they connect to is changed underneath them.

Each daemon they start listens on a UDP port too, and ``connect`` with its socket path attaches there. Programs that are
processes of their own find it in VMBUS_PLACE and VMBUS_CREDENTIALS (``tests.endtoend.programs``). The daemon runs in
the test's process, which saves a second for each, unless a test looks at its process.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import trio

import clients
from clients import Connection, connect
from emulator.config import Config, DaemonAccessConfig, ListenConfig, QuicConfig
from emulator.daemon.listeners import UnixListener
from emulator.daemon.quic import QuicListener
from emulator.daemon.server import Server
from emulator.remote.keyring import Keyring
from tests.daemon.raw import served
from tests.support.processes import Daemon, start_daemon
from tests.support.remote import quic_section

# Clients that were killed are noticed in 3 seconds; tests connect as fast as they can.
SETTINGS = {"idle_seconds": 3, "keep_alive_seconds": 0.5, "connections_per_second": 1000}
ADMIN = '\n[access]\nadmin = ["key:everything"]\n'
ROLES = ("guest", "host", "datagram")


class OverUdp:
    """The daemons of one test, by their socket paths, and how they are reached over UDP."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, own_process: bool) -> None:
        self._monkeypatch = monkeypatch
        self._own_process = own_process
        self._places: dict[str, tuple[str, Path]] = {}
        self.attached = 0
        """Connections over UDP that daemons in this process have seen."""

    def connect(
        self, path: str | os.PathLike[str] | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Connection]:
        """In the place of ``clients.connect``."""
        if str(path) not in self._places:
            return connect(path, **options)
        where, credentials = self._places[str(path)]
        return connect(where, **options, credentials=credentials)

    def keys(self, tmp_path: Path, name: str, machines: Iterable[str]) -> tuple[Path, Path]:
        """A keys directory, and in it a client that may be everything on every machine."""
        keyring = Keyring.init(tmp_path / f"{name}-keys")
        return keyring.directory, keyring.add("everything", dict.fromkeys(("vm1", "vm2", *machines), ROLES))

    def found(self, path: Path, where: str, credentials: Path) -> None:
        """A daemon is there."""
        self._places[str(path)] = where, credentials
        self._monkeypatch.setenv("VMBUS_PLACE", where)
        self._monkeypatch.setenv("VMBUS_CREDENTIALS", str(credentials))

    @asynccontextmanager
    async def start_daemon(
        self, tmp_path: Path, config: str | None = None, *args: str, name: str = "vmbusd", **options: Any
    ) -> AsyncIterator[Daemon | SimpleNamespace]:
        """In the place of ``tests.support.processes.start_daemon``."""
        settings = tomllib.loads(config or "")
        if not self._own_process:
            assert not args
            assert not options
            async with self.served(tmp_path, Config.model_validate(settings)) as (_, path):
                yield SimpleNamespace(socket_path=path)
            return
        keys, credentials = self.keys(tmp_path, name, settings.get("machines", {}))
        section = quic_section(keys, "".join(f"{setting} = {value}\n" for setting, value in SETTINGS.items()))
        async with start_daemon(tmp_path, f"{config or ''}\n{section}{ADMIN}", *args, name=name, **options) as daemon:
            async with connect(daemon.socket_path) as local:
                (described,) = await local.inspect("daemon")
            self.found(daemon.socket_path, f"quic://{described['quic']}", credentials)
            yield daemon

    @asynccontextmanager
    async def served(self, tmp_path: Path, config: Config | None = None) -> AsyncIterator[tuple[Server, Path]]:
        """In the place of ``tests.daemon.raw.served``: a daemon in this process."""
        chosen, path = config or Config(), tmp_path / "vmbusd.sock"
        keys, credentials = self.keys(tmp_path, "vmbusd", chosen.machines)
        quic = QuicConfig.model_validate({"port": 0, "keys": keys, **SETTINGS})
        with UnixListener(path) as listener:
            access = DaemonAccessConfig(admin=("key:everything",))
            server = Server(chosen.model_copy(update={"listen": ListenConfig(quic=quic), "access": access}))
            server.quic = QuicListener(quic, chosen.limits.outbox_bytes)
            self.found(path, f"quic://{server.quic.place}", credentials)
            async with trio.open_nursery() as nursery:
                ready = trio.Event()
                nursery.start_soon(server.run, listener, ready.set)
                await ready.wait()
                yield server, path
                self.attached += server.quic.table.counts["accepted"]
                nursery.cancel_scope.cancel()


@contextmanager
def put_over_udp(modules: Iterable[ModuleType], *, own_process: bool = False) -> Iterator[OverUdp]:
    """Whatever in these modules attaches to a daemon by the trio face does so over UDP, for the length of the block."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        over_udp = OverUdp(monkeypatch, own_process=own_process)
        instead: dict[Callable[..., Any], Callable[..., Any]] = {
            connect: over_udp.connect,
            start_daemon: over_udp.start_daemon,
            served: over_udp.served,
        }
        for module in (*modules, clients):
            for name, value in list(vars(module).items()):
                if callable(value) and (replacement := _found_in(instead, value)) is not None:
                    monkeypatch.setattr(module, name, replacement)
        yield over_udp


def _found_in(instead: dict[Callable[..., Any], Callable[..., Any]], value: object) -> Callable[..., Any] | None:
    return next((replacement for known, replacement in instead.items() if known is value), None)
