"""The two ends of what direct channels are compared with: a ``multiprocessing.Pipe``, and pyzmq's PUSH and PULL.

``python -m benchmarks.plain_ends near|far FACE CARRIER DIRECTORY ECHO_PORT``, as ``blocking_ends``. Round trips go
through the Pipe. Rates go through pyzmq: 64 packets in a MessagePack list for each message, unpacked at the receiver.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import msgpack

from benchmarks import timing
from benchmarks.blocking_ends import measure
from benchmarks.raw import Batch
from benchmarks.rows import COALESCED_PACKETS, Carrier
from benchmarks.timing import Setting

INSTALL_PYZMQ = "pyzmq is not installed; pip install --editable '.[bench]'"


class PipeLink:
    """One end of a Pipe between two processes that have nothing else in common."""

    def __init__(self, setting: Setting) -> None:
        self._address = _address(setting, "pipe")
        self._connection: Connection | None = None

    def exchange(self, batch: Batch) -> Callable[[], None]:
        payload = bytes(batch.message_bytes)
        if self._connection is None:  # by now the far end listens
            self._connection = Client(self._address, "AF_UNIX")
        send, receive = self._connection.send_bytes, self._connection.recv_bytes

        def trip() -> None:
            send(payload)
            receive()

        return trip

    def pour(self, batch: Batch) -> int:
        raise NotImplementedError("rates are not measured over a Pipe")


def echo_pipe(setting: Setting) -> None:
    """The far end of a Pipe."""
    with Listener(_address(setting, "pipe"), "AF_UNIX") as listener:
        timing.say("ready")
        connection = listener.accept()
        while True:
            connection.send_bytes(connection.recv_bytes())


class PyzmqLink:
    """PUSH to the far end, PULL for its answer."""

    def __init__(self, setting: Setting) -> None:
        zmq = _zmq()
        context = zmq.Context()
        self._push, self._pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        self._push.bind(f"ipc://{_address(setting, 'zmq-there')}")
        self._pull.bind(f"ipc://{_address(setting, 'zmq-back')}")

    def exchange(self, batch: Batch) -> Callable[[], None]:
        raise NotImplementedError("round trips are not measured over pyzmq")

    def pour(self, batch: Batch) -> int:
        """A list for each message, made anew each time; a number at the end asks how many packets came."""
        send, pack = self._push.send, msgpack.packb
        packets = [bytes(batch.message_bytes)] * COALESCED_PACKETS
        messages, left = divmod(batch.messages, COALESCED_PACKETS)
        for _ in range(messages):
            send(pack(packets))
        send(pack(packets[:left]))
        send(pack(0))
        count: int = msgpack.unpackb(self._pull.recv())
        return count


def count_packets(setting: Setting) -> None:
    """The far end of pyzmq."""
    zmq = _zmq()
    context = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.connect(f"ipc://{_address(setting, 'zmq-there')}")
    push.connect(f"ipc://{_address(setting, 'zmq-back')}")
    timing.say("ready")
    receive, unpack = pull.recv, msgpack.unpackb
    came = 0
    while True:
        packets = unpack(receive())
        if isinstance(packets, list):
            came += len(packets)
        else:
            push.send(msgpack.packb(came))
            came = 0


def _address(setting: Setting, name: str) -> str:
    return str(Path(setting.directory) / f"{name}.sock")


def _zmq() -> Any:
    try:
        import zmq
    except ModuleNotFoundError:
        sys.exit(INSTALL_PYZMQ)
    return zmq


def near(setting: Setting) -> None:
    """Take measurements as they are asked for."""
    link = PipeLink(setting) if setting.carrier is Carrier.PIPE else PyzmqLink(setting)
    timing.say("ready")
    for command in timing.commands():
        timing.say(measure(link, command))


def far(setting: Setting) -> None:
    """Serve the near end until it goes."""
    if setting.carrier is Carrier.PIPE:
        echo_pipe(setting)
    else:
        count_packets(setting)


if __name__ == "__main__":
    chosen = timing.setting_from(sys.argv[1:])
    (near if chosen.end == "near" else far)(chosen)
