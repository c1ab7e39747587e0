"""The client's end of the daemon's Unix socket: connecting, and taking bytes with the descriptors that come along."""

from __future__ import annotations

import array
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clients.memory import MachineMemory
from clients.protocol import ClientProtocol, ConnectionLost
from emulator.place import default_socket_path

RECEIVE_BYTES = 64 * 1024
# The daemon passes one descriptor at a time; room for a few that came together.
ANCILLARY_BYTES = socket.CMSG_SPACE(8 * 4)


class Attached(NamedTuple):
    """A machine as the daemon gave it."""

    number: int
    memory: MachineMemory


def open_socket(path: str | os.PathLike[str] | None) -> socket.socket:
    """A connected socket; ConnectionLost says what to do when no daemon answers."""
    where = Path(path) if path is not None else default_socket_path()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(str(where))
    except PermissionError:
        sock.close()
        raise ConnectionLost(
            f"this user may not attach to {where}; ask for a place in the group that may: ls -ld {where.parent} {where}"
        ) from None
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise ConnectionLost(
            f"no daemon answers at {where} ({reason}); start one with: vmbusd --socket {where}"
        ) from None
    return sock


def client_name(name: str | None) -> str:
    """The name a client goes by in listings: its own choice, or its program's."""
    return name or Path(sys.argv[0]).name or "python"


def receive_into(protocol: ClientProtocol, sock: socket.socket) -> list[object]:
    """Take what has arrived; what changed by it. Raises BlockingIOError, ConnectionLost, or WireError."""
    try:
        data, ancillary, _, _ = sock.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    except (BlockingIOError, TimeoutError):
        raise
    except OSError as error:
        raise ConnectionLost(f"the connection to the daemon broke: {error.strerror}") from None
    if not data:
        raise ConnectionLost("the daemon closed the connection")
    try:
        return protocol.receive(data, _descriptors_in(ancillary) if ancillary else ())
    finally:
        for descriptor in protocol.take_unclaimed_descriptors():
            os.close(descriptor)


def _descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return list(descriptors)


def lost_by(error: Exception) -> ConnectionLost:
    """The loss of the connection that an error while receiving means."""
    return error if isinstance(error, ConnectionLost) else ConnectionLost(f"the daemon broke the protocol: {error}")
