"""When the timers of connections over UDP ring. One that is over leaves a number here, and nothing else of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from emulator.daemon.quic_stream import RemoteClient


class Timers:
    """One timer for each connection that has one set. Times are seconds of one clock."""

    def __init__(self) -> None:
        # Numbers of timers that have been set anew, or given up, stay until they come up. Their clients do not: a
        # stranger's connection would be kept for the idle time after the bound on handshakes has let go of it.
        self._times: list[tuple[float, int]] = []
        self._clients: dict[int, RemoteClient] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._clients)

    def arm(self, client: RemoteClient, deadline: float) -> bool:
        """Have it ring no later than this; whether that changed anything."""
        if client.deadline is not None and deadline >= client.deadline:
            return False
        self.forget(client)
        self._last += 1
        client.deadline, client.timer = deadline, self._last
        self._clients[self._last] = client
        heapq.heappush(self._times, (deadline, self._last))
        return True

    def due(self, now: float) -> Iterator[RemoteClient]:
        """Those whose time has come; theirs are not set any more."""
        while self._times and self._times[0][0] <= now:
            client = self._clients.get(heapq.heappop(self._times)[1])
            if client is not None:
                self.forget(client)
                yield client

    def next(self) -> float:
        """When the first one rings; infinity when none does."""
        while self._times and self._times[0][1] not in self._clients:
            heapq.heappop(self._times)
        return self._times[0][0] if self._times else float("inf")

    def forget(self, client: RemoteClient) -> None:
        """It rings no more."""
        self._clients.pop(client.timer, None)
        client.deadline, client.timer = None, 0
