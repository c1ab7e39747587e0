"""The daemon's pages: ``/metrics``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from emulator.config import MetricsConfig
from emulator.daemon.http import HttpListener, Reply, open_http_socket
from emulator.daemon.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from emulator.daemon.server import Server

# A daemon that takes longer to answer itself is not healthy.
HEALTH_SECONDS = 2.0


def open_pages(server: Server, settings: MetricsConfig, passed: socket.socket | None) -> HttpListener | None:
    """Listen where the configuration says, or on what the service manager passed; None when neither does.

    Raises PathUnusable.
    """
    if passed is None and settings.address is None:
        return None
    if passed is None and settings.address is not None:
        passed = open_http_socket(settings.address)
    assert passed is not None
    metrics = Metrics(server, settings.machines)

    async def figures() -> Reply:
        return Reply(metrics.text(), content_type=CONTENT_TYPE)

    async def healthy() -> Reply:
        if await server.heartbeat.beat(HEALTH_SECONDS):
            return Reply(b"ok\n")
        return Reply(f"no answer from the dispatcher within {HEALTH_SECONDS:g} s\n".encode(), 503)

    async def is_ready() -> Reply:
        if server.is_stopping:
            return Reply(b"stopping\n", 503)
        return Reply(f"{server.summary()}\n".encode())

    return HttpListener(passed, {"/metrics": figures, "/healthz": healthy, "/readyz": is_ready})
