"""How a command runs: attach to the daemon, do its work, end quietly on a signal, fail with one sentence."""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import click
import trio

from clients.connection import Connection, connect
from emulator.place import default_socket_path

# A daemon answers hello at once; one that does not in this time is stopped or stuck.
HELLO_SECONDS = 10.0

Work = Callable[[], Awaitable[None]]


class CommandFailed(Exception):
    """A command cannot do what was asked; the text says why and what to do next."""


class Interrupted(Exception):
    """A signal ended the command, and everything it held is closed."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def socket_path() -> Path | str:
    """Where the daemon of this command line is: ``--connect``, ``--socket``, or the default socket."""
    given = click.get_current_context().find_root().params
    remote, chosen = given.get("remote"), given.get("socket_path")
    if remote is not None:
        if chosen is not None:
            raise click.UsageError("--connect and --socket name two daemons; give one of them")
        return str(remote)
    return Path(chosen) if chosen is not None else default_socket_path()


def run(work: Work) -> None:
    """Run ``work`` under trio. Raises what it raises, or Interrupted when SIGINT, SIGTERM or SIGHUP came first."""
    trio.run(_until_signal, work)


async def _until_signal(work: Work) -> None:
    failure: Exception | None = None
    received: list[int] = []
    # A program started with nohup stays deaf to the end of its terminal.
    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    with trio.open_signal_receiver(*wanted) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for number in signals:
                    received.append(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                await work()
            except Exception as error:  # noqa: BLE001 -- raised again below, out of the nursery
                failure = error
            nursery.cancel_scope.cancel()
    if received:
        raise Interrupted(received[0])
    if failure is not None:
        raise failure


@asynccontextmanager
async def attached(path: Path | str, *, map_memory: bool = True) -> AsyncIterator[Connection]:
    """A connection to the daemon at ``path``; fails when something is there and does not answer."""
    credentials = click.get_current_context().find_root().params.get("credentials")
    with trio.CancelScope(deadline=trio.current_time() + HELLO_SECONDS) as scope:
        async with connect(path, name="vmbusctl", map_memory=map_memory, credentials=credentials) as daemon:
            scope.deadline = math.inf
            yield daemon
    if scope.cancelled_caught:
        raise CommandFailed(
            f"something listens at {path} but did not answer in {HELLO_SECONDS:g} s; "
            "look at the daemon's log, or start it again"
        )


@asynccontextmanager
async def within(seconds: float, complaint: str) -> AsyncIterator[None]:
    """CommandFailed with ``complaint`` when the block takes longer than ``seconds``."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise CommandFailed(complaint)
