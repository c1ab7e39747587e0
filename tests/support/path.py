"""A path between a client and a daemon, as networks are: it loses packets, delays them, and lets them overtake.

It is a UDP relay in the test's own process, seeded. What it does can be changed at any time: it can be cut, and it can
give the client another address, as a router does that has forgotten it.
"""

from __future__ import annotations

import heapq
import random
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

SOCKET_BYTES = 4 * 1024 * 1024


class NetworkPath:
    """Between one client and one daemon; ``where`` is what the client connects to."""

    def __init__(
        self,
        target: str,
        seed: int,
        *,
        loss: float,
        delay_seconds: float,
        overtaking: float,
        copies: int = 1,
        near: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        host, _, port = target.removeprefix("quic://").rpartition(":")
        self._target = (host, int(port))
        self._random = random.Random(seed)
        self.loss = loss
        self.delay_seconds = delay_seconds
        self.overtaking = overtaking
        self.copies = copies
        self.recording: deque[bytes] | None = None
        """What the client sent from now on, where somebody listens."""
        self.is_cut = False
        self.carried = 0
        self.lost = 0
        self._near = _socket()
        self._near.bind(near)
        self._far = _socket()
        self._client: Any = None
        self._queue: list[tuple[float, int, bool, bytes]] = []
        self._sent = trio.Event()

    @property
    def where(self) -> str:
        """Where the client finds the daemon."""
        host, port = self._near.getsockname()
        return f"quic://{host}:{port}"

    def move_client(self) -> None:
        """From now on the daemon sees the client at another port."""
        old, self._far = self._far, _socket()
        trio.lowlevel.notify_closing(old)
        old.close()

    async def run(self) -> None:
        """Carry packets until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry_out)
                nursery.start_soon(self._carry_back)
                nursery.start_soon(self._deliver)
        finally:
            self._near.close()
            self._far.close()

    async def _carry_out(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._near)
            while (packet := _take(self._near)) is not None:
                data, self._client = packet
                if self.recording is not None:
                    self.recording.append(data)
                for _ in range(self.copies):
                    self._put(True, data)

    async def _carry_back(self) -> None:
        while True:
            far = self._far
            try:
                await trio.lowlevel.wait_readable(far)
            except trio.ClosedResourceError:
                continue  # moved
            while far.fileno() != -1 and (packet := _take(far)) is not None:
                for _ in range(self.copies):
                    self._put(False, packet[0])

    def _put(self, outward: bool, data: bytes) -> None:
        if self.is_cut or self._random.random() < self.loss:
            self.lost += 1
            return
        self.carried += 1
        # One that overtakes leaves at once, before those that came earlier.
        delay = 0.0 if self._random.random() < self.overtaking else self.delay_seconds
        heapq.heappush(self._queue, (trio.current_time() + delay, self.carried, outward, data))
        self._sent.set()

    async def _deliver(self) -> None:
        while True:
            if not self._queue:
                self._sent = trio.Event()
                await self._sent.wait()
                continue
            await trio.sleep_until(self._queue[0][0])
            now = trio.current_time()
            while self._queue and self._queue[0][0] <= now:
                _, _, outward, data = heapq.heappop(self._queue)
                if not self.is_cut:
                    sock, destination = (self._far, self._target) if outward else (self._near, self._client)
                    try:
                        sock.sendto(data, destination)
                    except OSError:
                        self.lost += 1


@asynccontextmanager
async def network_path(
    target: str,
    *,
    seed: int = 1,
    loss: float = 0.0,
    delay_seconds: float = 0.0,
    overtaking: float = 0.0,
    copies: int = 1,
) -> AsyncIterator[NetworkPath]:
    """A path to a daemon for the length of the block."""
    path = NetworkPath(target, seed, loss=loss, delay_seconds=delay_seconds, overtaking=overtaking, copies=copies)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(path.run)
        failure: BaseException | None = None
        try:
            yield path
        except Exception as error:  # noqa: BLE001 -- raised again below, out of the nursery
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    for name in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        made.setsockopt(socket.SOL_SOCKET, name, SOCKET_BYTES)
    return made


def _take(sock: socket.socket) -> tuple[bytes, Any] | None:
    try:
        return sock.recvfrom(65_536)
    except (BlockingIOError, ConnectionRefusedError):
        return None


def main() -> None:
    """Be such a path in a process of its own: ``python -m tests.support.path TARGET HOST PORT``, a bad one."""
    target, host, port = sys.argv[1:]
    path = NetworkPath(target, 1, loss=0.05, delay_seconds=0.025, overtaking=0.05, near=(host, int(port)))
    print(f"carrying at {path.where}", flush=True)
    trio.run(path.run)


if __name__ == "__main__":
    main()
