"""What a session reads and writes: one interface, and the Unix socket behind it (``quic_stream.py`` has the other).

A stream belongs to one session: one task of it waits for bytes, one for room, and both end when it is closed.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any, Protocol

import trio

from emulator.daemon.outlet import Outlet, close_descriptors
from emulator.daemon.roles import Identity, identity_of_peer
from emulator.status import NtStatus, Refused
from emulator.wire.codec import WireError
from emulator.wire.schema import Method

RECEIVE_BYTES = 64 * 1024
# Room to learn of one descriptor nobody asked for; the kernel closes the others.
ANCILLARY_BYTES = socket.CMSG_SPACE(4)
# Plain numbers: an operation on the socket module's flags costs more than the rest of a check.
CLOSE_ON_EXEC, TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)

# What arrives for any session is received here, and copied out before anything else runs.
_arrived = memoryview(bytearray(RECEIVE_BYTES))
_buffers = [_arrived]


class Stream(Protocol):
    """The bytes of one client, both ways."""

    identity: Identity

    @property
    def peer(self) -> str:
        """Who is at the other end, for listings: ``process 4711``."""

    @property
    def process(self) -> int:
        """Its process number; 0 where it has none here."""

    @property
    def passes_descriptors(self) -> bool:
        """Whether descriptors can go along: whether the client is on this host."""

    @property
    def lossy_bytes(self) -> int:
        """The longest frame that can travel by itself, and be lost; 0 where everything is one stream."""

    def take_lossy(self) -> list[bytes]:
        """What has come by itself since the last time."""

    def put_lossy(self, frame: bytes, lost: Callable[[], None]) -> bool:
        """Send a frame by itself; ``lost`` is called if it gets lost. False when it had better go with the others."""

    @property
    def queued_bytes(self) -> int:
        """What waits for the client to take it."""

    @property
    def overflowed(self) -> bool:
        """Whether more was put than may wait; the session has to end."""

    @property
    def failure(self) -> str:
        """Why nothing can be sent any more, if that is no fault of the client's; else empty."""

    async def readable(self) -> None:
        """Return when there is something to take, or the end."""

    async def ended(self) -> None:
        """Return when the client has gone, or says no more, whatever of it is still to be taken."""

    def take(self) -> bytes | None:
        """What has arrived: None when nothing has, empty at the end. Raises WireError for what nobody may send."""

    def put(self, frame: bytes) -> None:
        """Queue a frame."""

    def put_with_descriptor(self, frame: bytes, descriptor: int, *, then_close: bool) -> None:
        """Queue a frame that carries a copy of a descriptor."""

    def flush(self) -> None:
        """Write what can leave now."""

    async def writable(self) -> None:
        """Return when there is room for what had to wait; for the one task that then flushes again."""

    def close(self, reason: str) -> None:
        """The session is over: let go of what is queued, and of the client."""


class UnixStream(Outlet):
    """The daemon's end of a Unix socket."""

    passes_descriptors = True
    lossy_bytes = 0

    def __init__(self, sock: socket.socket, limit_bytes: int) -> None:
        super().__init__(sock, limit_bytes)
        self.identity, self.process = identity_of_peer(sock)
        self.peer = f"process {self.process}"

    async def readable(self) -> None:
        """Return when there is something to take, or the end."""
        await trio.lowlevel.wait_readable(self._sock)

    async def ended(self) -> None:
        """Return when the client has gone, or says no more, whatever of it is still to be taken."""
        try:
            hang_up = select.epoll(1)
        except OSError:
            # No descriptor is left for that: the end is found behind what is to be taken.
            await trio.sleep_forever()
        with hang_up:
            # The socket itself is readable all the time, while there is something to take.
            hang_up.register(self._sock.fileno(), select.EPOLLRDHUP)
            await trio.lowlevel.wait_readable(hang_up.fileno())

    def take(self) -> bytes | None:
        """What has arrived: None when nothing has, empty at the end. Raises WireError when descriptors came along."""
        try:
            size, ancillary, flags, _address = self._sock.recvmsg_into(_buffers, ANCILLARY_BYTES, CLOSE_ON_EXEC)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if ancillary or flags & TRUNCATED:
            close_descriptors(ancillary)
            raise WireError("descriptors were passed that nobody asked for; this protocol takes none")
        return bytes(_arrived[:size])

    def take_lossy(self) -> list[bytes]:
        """Nothing comes by itself here."""
        return []

    def put_lossy(self, frame: bytes, lost: Callable[[], None]) -> bool:
        """Nothing leaves by itself here."""
        return False

    def close(self, reason: str = "") -> None:
        """The session is over: forget what is queued, and close the socket."""
        self.forget()
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()


# What would pass a descriptor, by the method's arguments.
_PASS_DESCRIPTORS: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "machine.attach": lambda args: bool(args[1]),
    "channel.offer_direct": lambda args: True,
    "channel.open_direct": lambda args: True,
    "driver.allocate": lambda args: bool(args[2]),
    "bus.doorbell": lambda args: True,
}


def refuse_descriptors(method: Method, args: tuple[Any, ...]) -> None:
    """Refuse what only a client on this host can have: its side would need a descriptor of the daemon's."""
    passes = _PASS_DESCRIPTORS.get(method.name)
    if passes is not None and passes(args):
        text = (
            f"{method.name}: descriptors do not cross a network, so a client over UDP has its channels hosted and "
            "reads memory by message; leave out mode='direct', and connect with map_memory=False"
        )
        raise Refused(NtStatus.NOT_SUPPORTED, text)
