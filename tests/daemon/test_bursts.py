"""Bursts on the wire: what may be sent in one, how they are answered, and what overrunning the window costs."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from emulator.config import Config, LimitsConfig
from emulator.status import NtStatus
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, served

WINDOW = 4


def lengths(*each: int) -> bytes:
    return struct.pack(f"<{len(each)}I", *each)


async def opened(client: RawClient, network: str = "lan", host: str = "10.0.0.1") -> None:
    await client.attach()
    await client.call("address.open", 1, network, host, 7 if network == "lan" else 0, False, *GRANT)


def config() -> Config:
    return Config(limits=LimitsConfig(datagram_window_packets=WINDOW))


async def test_a_burst_is_answered_once_and_gives_its_room_back(tmp_path: Path) -> None:
    async with served(tmp_path, config()) as (_, path), raw_client(path) as client:
        await opened(client)
        for _ in range(5):
            result = await client.call("address.send_burst", 1, "10.0.0.2", 7, lengths(1, 2, 0, 1), b"abbd")
            assert result == [4, b"", ""]


async def test_each_datagram_that_fails_has_its_own_status(tmp_path: Path) -> None:
    async with served(tmp_path, config()) as (_, path), raw_client(path) as client:
        await opened(client)
        for _ in range(3):
            sent, statuses, message = await client.call(
                "address.send_burst", 1, "10.0.0.2", 7, lengths(1, 1_473, 1), bytes(1_475)
            )
            assert sent == 2
            assert struct.unpack("<3I", statuses) == (0, NtStatus.INVALID_PARAMETER, 0)
            assert "1473 bytes do not fit" in message


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            (lengths(1) * (WINDOW + 1), b"x" * (WINDOW + 1)),
            "address 1: a burst was sent although the window was used up",
        ),
        ((lengths(1, 2), b"xx"), "address 1: the lengths of a burst say 3 bytes, not 2"),
        ((lengths(0xFFFFFFFF, 1), b"x"), "address 1: the lengths of a burst say 4294967296 bytes, not 1"),
    ],
)
async def test_a_burst_that_breaks_the_rules_ends_the_session(
    tmp_path: Path, said: tuple[bytes, bytes], sentence: str
) -> None:
    async with served(tmp_path, config()) as (_, path), raw_client(path) as client:
        await opened(client)
        await client.start("address.send_burst", 1, "10.0.0.2", 7, *said)
        assert (await client.goodbye())[1] == sentence


async def test_a_second_burst_in_a_window_that_the_first_has_used_up_ends_the_session(tmp_path: Path) -> None:
    async with served(tmp_path, config()) as (server, path), raw_client(path) as client:
        await opened(client)
        server.segments.change("lan", {"stalled": True})
        await client.start("address.send_burst", 1, "10.0.0.2", 7, lengths(*[1] * WINDOW), b"x" * WINDOW)
        await client.start("address.send_burst", 1, "10.0.0.2", 7, lengths(1), b"x")
        assert (await client.goodbye())[1].endswith("although the window was used up")


async def test_a_burst_of_nothing_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path, config()) as (_, path), raw_client(path) as client:
        await opened(client)
        with pytest.raises(Answered) as refused:
            await client.call("address.send_burst", 1, "10.0.0.2", 7, b"", b"")
        assert refused.value.status == NtStatus.INVALID_PARAMETER


async def test_a_waiting_burst_can_be_cancelled_and_still_has_one_answer(tmp_path: Path) -> None:
    async with served(tmp_path, config()) as (server, path), raw_client(path) as client:
        await opened(client)
        server.segments.change("lan", {"stalled": True})
        msgid = await client.start("address.send_burst", 1, "10.0.0.2", 7, lengths(1, 1), b"xy")
        await client.notify("cancel", msgid)
        sent, statuses, _ = await client.answer(msgid)
        assert (sent, struct.unpack("<2I", statuses)) == (0, (NtStatus.CANCELLED, NtStatus.CANCELLED))
        server.segments.change("lan", {"stalled": False})
        whole = lengths(*[1] * WINDOW), b"x" * WINDOW
        assert (await client.call("address.send_burst", 1, "10.0.0.2", 7, *whole))[0] == WINDOW


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '"x"', "[" * 5_000])
async def test_changes_that_are_no_object_are_refused(tmp_path: Path, text: str) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        await opened(client)
        for method, args in (("segment.change", ("lan", text)), ("address.options", (1, text))):
            with pytest.raises(Answered) as refused:
                await client.call(method, *args)
            assert refused.value.status == NtStatus.INVALID_PARAMETER
        assert json.loads((await client.call("address.options", 1, "{}"))[0])["ttl"] is None
