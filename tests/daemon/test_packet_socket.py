"""Packets in trains and one by one are the same packets; and what is said where QUIC is not installed."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest

from clients import ConnectionLost, connect
from emulator.config import QuicConfig
from emulator.daemon.quic import QuicListener, QuicUnusable
from emulator.remote.packet_socket import TRAIN_PACKETS, PacketSocket


def bound(trains: bool) -> tuple[PacketSocket, Any]:
    made = PacketSocket(socket.AF_INET, 1 << 20, trains=trains)
    made.socket.bind(("127.0.0.1", 0))
    return made, made.socket.getsockname()


@pytest.mark.parametrize("receiving", [True, False])
@pytest.mark.parametrize("sending", [True, False])
def test_trains_carry_what_single_packets_do(sending: bool, receiving: bool) -> None:
    sizes = [1200] * (TRAIN_PACKETS + 5) + [300, 1200, 1200, 1, 1200, 40, 50, 60]
    packets = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    one, _ = bound(sending)
    two, there = bound(receiving)
    three, elsewhere = bound(receiving)
    try:
        # Two destinations in turns at the end: no train may hold both.
        order = [(data, there) for data in packets] + [
            (b"x" * 50, elsewhere if turn % 2 else there) for turn in range(6)
        ]
        assert one.send(order) is None
        came, error = two.receive()
        while more := two.receive()[0]:
            came += more
        assert error is None
        assert [data for data, _ in came] == packets + [b"x" * 50] * 3
        assert {source for _, source in came} == {one.socket.getsockname()}
        assert [data for data, _ in three.receive()[0]] == [b"x" * 50] * 3
        assert one.dropped == 0
    finally:
        for each in (one, two, three):
            each.close()


@pytest.fixture
def without_quic(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "aioquic" else found(name))


INSTALL = r"aioquic cannot be imported here; run: pip install 'vmbus-emulator\[quic\]'"


@pytest.mark.usefixtures("without_quic")
async def test_where_quic_is_missing_both_sides_say_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(QuicUnusable, match=r"\[listen\.quic\]: .*" + INSTALL):
        QuicListener(QuicConfig(port=0, keys=tmp_path), 1 << 20)
    with pytest.raises(ConnectionLost, match=INSTALL):
        async with connect("quic://127.0.0.1:4433", credentials=tmp_path):
            pass
