"""The Unix socket the daemon listens on: claiming its path, accepting clients."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType

import trio

from emulator.daemon.log import logger

BACKLOG = 512


class PathUnusable(Exception):
    """The socket path cannot be had; the text says why and what to do."""


class UnixListener:
    """A listening Unix socket. A path left by a dead daemon is replaced, one with a live daemon behind it is refused.

    A lock file beside the socket, held while the daemon lives, tells the two apart without a race.
    """

    def __init__(
        self, path: Path, inherited: socket.socket | None = None, *, mode: int = 0o600, group: str | int | None = None
    ) -> None:
        """``inherited`` listens already, opened by the service manager, and stays the manager's: so does its path.

        Otherwise the socket gets ``mode`` and, unless None, ``group`` before anybody can connect.
        """
        self._mode = mode
        self._group = group
        self.path = path
        self._identity: tuple[int, int] | None = None
        self._lock: int | None = None
        if inherited is not None:
            self.path = Path(str(inherited.getsockname()))
            self._sock = inherited
            return
        self._lock = self._claim()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._bind()
        except BaseException:
            self._sock.close()
            self._release()
            raise
        self._identity = (path.stat().st_dev, path.stat().st_ino)

    def __enter__(self) -> UnixListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self) -> int:
        lock_path = f"{self.path}.lock"
        try:
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise PathUnusable(
                f"cannot create {lock_path}: {error.strerror}; choose another path with --socket"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise PathUnusable(
                f"another vmbusd already listens on {self.path}; stop it, or choose another path with --socket"
            ) from None
        return descriptor

    def _bind(self) -> None:
        if self.path.is_socket():
            if _answers(self.path):
                raise PathUnusable(f"another program already listens on {self.path}; choose another path with --socket")
            self.path.unlink()
        elif self.path.exists():
            raise PathUnusable(
                f"{self.path} exists and is not a socket; remove it, or choose another path with --socket"
            )
        try:
            self._sock.bind(str(self.path))
        except OSError as error:
            reason = "the path is too long for a Unix socket" if error.errno is None else error.strerror
            raise PathUnusable(f"cannot listen on {self.path}: {reason}; choose another path with --socket") from None
        self._set_owner()
        self._sock.listen(BACKLOG)

    def _set_owner(self) -> None:
        try:
            if self._group is not None:
                text = str(self._group)
                os.chown(self.path, -1, int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid)
            os.chmod(self.path, self._mode)
        except (KeyError, OSError) as error:
            reason = "this host has no such group" if isinstance(error, KeyError) else error.strerror
            self.path.unlink(missing_ok=True)
            text = f"cannot give {self.path} to group {self._group}: {reason}; set listen.socket_group"
            raise PathUnusable(text) from None

    async def run(self, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
        """Accept clients, each served in a task of its own, until closed."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    await trio.lowlevel.wait_readable(self._sock)
                except trio.ClosedResourceError:
                    return
                if self._sock.fileno() == -1:
                    return  # closed in the moment a client came
                await self._accept(nursery, serve)

    async def _accept(self, nursery: trio.Nursery, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            client, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            # The client stays in the backlog; without a pause this loop would spin until a descriptor is free.
            logger().warning("listener.no_descriptors", error=error.strerror)
            await trio.sleep(0.1)
            return
        client.setblocking(False)
        nursery.start_soon(serve, client)

    def close(self) -> None:
        """Stop listening and remove the path, if it is still ours."""
        if self._sock.fileno() == -1:
            return
        trio_is_running = trio.lowlevel.in_trio_run()
        if trio_is_running:
            trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        with contextlib.suppress(OSError):
            found = self.path.stat()
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its backlog is full: alive, if busy
        except OSError:
            return False
        return True
