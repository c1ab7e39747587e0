"""The service manager around the daemon, where there is one: what it is told, and the sockets it has opened for us.

The two protocols of systemd that need no library of its own: a datagram of ``NAME=value`` lines to the socket in
``$NOTIFY_SOCKET`` (sd_notify), and listening sockets passed from descriptor 3 on (sd_listen_fds). Without the variables
every call here does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

FIRST_PASSED_DESCRIPTOR = 3
# What a socket unit calls the sockets it opens for us (FileDescriptorName=).
ATTACH_SOCKET, METRICS_SOCKET = "vmbus", "metrics"
KNOWN_SOCKETS = (ATTACH_SOCKET, METRICS_SOCKET)


class ActivationError(Exception):
    """The sockets that were passed cannot be used; the text says why and what to change."""


class ServiceManager:
    """What this process was started with. The variables are taken out of the environment: children get none of it."""

    def __init__(self, environment: MutableMapping[str, str], process: int) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        self.watchdog_seconds = _watchdog_seconds(environment, process)
        self._passed = _passed_sockets(environment, process)

    @property
    def is_listening(self) -> bool:
        """Whether somebody wants to be notified."""
        return bool(self._address)

    def take_socket(self, name: str) -> socket.socket | None:
        """The listening stream socket passed under that name; the caller's from now on."""
        return self._passed.pop(name, None)

    # ---- what it is told

    def ready(self, status: str) -> None:
        """Every socket listens, or a new configuration is in force."""
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A new configuration is being read. The time tells the manager which of its requests this answers."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        """The daemon has begun to stop."""
        self._notify("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._notify(f"STATUS={text}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._notify("WATCHDOG=1")

    def _notify(self, *lines: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # A manager that is gone, or does not read, must not stop the daemon it manages.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.sendto("\n".join(lines).encode(), address)


def _watchdog_seconds(environment: MutableMapping[str, str], process: int) -> float | None:
    """How often, at the latest, the watchdog has to be fed; None without one, or when it is another process's."""
    microseconds = environment.pop("WATCHDOG_USEC", "")
    wanted = environment.pop("WATCHDOG_PID", str(process))
    if not microseconds.isdecimal() or int(microseconds) == 0 or wanted != str(process):
        return None
    return int(microseconds) / 1e6


def _passed_sockets(environment: MutableMapping[str, str], process: int) -> dict[str, socket.socket]:
    count = environment.pop("LISTEN_FDS", "0")
    wanted = environment.pop("LISTEN_PID", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if wanted != str(process) or not count.isdecimal():
        return {}
    found: dict[str, socket.socket] = {}
    for index in range(int(count)):
        descriptor = FIRST_PASSED_DESCRIPTOR + index
        name = names[index] if index < len(names) else ""
        if name not in KNOWN_SOCKETS or name in found:
            known = " and ".join(KNOWN_SOCKETS)
            raise ActivationError(
                f"descriptor {descriptor} was passed under the name {name!r}; vmbusd takes one socket each under the "
                f"names {known}: set FileDescriptorName= in the socket unit, or --fdname of systemd-socket-activate"
            )
        found[name] = _adopt(descriptor, name)
    return found


def _adopt(descriptor: int, name: str) -> socket.socket:
    os.set_inheritable(descriptor, False)
    try:
        sock = socket.socket(fileno=descriptor)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ActivationError(f"descriptor {descriptor} ({name}) is not a socket: {error.strerror}") from None
    unix_only = name == ATTACH_SOCKET
    if not listens or sock.type != socket.SOCK_STREAM or (unix_only and sock.family != socket.AF_UNIX):
        kind = "Unix stream socket" if unix_only else "stream socket"
        raise ActivationError(f"descriptor {descriptor} ({name}) is not a listening {kind}; use ListenStream=")
    sock.setblocking(False)
    return sock
