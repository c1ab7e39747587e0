"""Each of [limits] that bounds what a session or a machine may have is met by a refusal; the session goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emulator.config import Config, LimitsConfig
from emulator.status import NtStatus
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, served
from tests.daemon.test_driver_requests import allocated

ADDRESS = ("address.open", 1, "lan", "10.0.0.1", 0, False, *GRANT)


async def offer(client: RawClient, number: int) -> object:
    return await client.call("channel.offer", 1, bytes([number]) * 16, None, False, *GRANT)


async def channel(client: RawClient, number: int) -> object:
    return await client.call("channel.open", 1, bytes([number]) * 16, None, False, 0, 0, *GRANT)


async def driver(client: RawClient, _number: int) -> object:
    return await allocated(client, True)


async def address(client: RawClient, _number: int) -> object:
    return await client.call(*ADDRESS)


async def connection(client: RawClient, _number: int) -> object:
    return await client.call("connection.open", 1, "lan", 0)


@pytest.mark.parametrize(
    ("ask", "limits", "status", "sentence"),
    [
        (offer, {"channels_per_session": 3}, NtStatus.INSUFFICIENT_RESOURCES, "this session already has 3 offers"),
        (channel, {"channels_per_session": 3}, NtStatus.INSUFFICIENT_RESOURCES, "already has 3 channels open"),
        (driver, {"channels_per_session": 3}, NtStatus.INSUFFICIENT_RESOURCES, "already has 3 driver channels"),
        (offer, {"offers_per_machine": 3}, NtStatus.INSUFFICIENT_RESOURCES, "machine vm1 already has 3 offers"),
        (address, {"addresses_per_session": 3}, NtStatus.TOO_MANY_ADDRESSES, "already has 3 addresses open"),
        (connection, {"connections_per_session": 3}, NtStatus.INSUFFICIENT_RESOURCES, "already has 3 connections"),
    ],
)
async def test_one_too_many_is_refused(
    tmp_path: Path, ask: Any, limits: dict[str, int], status: NtStatus, sentence: str
) -> None:
    config = Config(limits=LimitsConfig.model_validate(limits))
    async with served(tmp_path, config) as (_, path), raw_client(path) as client, raw_client(path) as other:
        await client.attach()
        if ask is channel:
            await other.attach()
            for number in range(3):
                await offer(other, number)
            await offer(client, 3)
        for number in range(3):
            await ask(client, number)
        with pytest.raises(Answered, match=sentence) as caught:
            await ask(client, 3)
        assert caught.value.status is status
        await client.call("ping")


async def test_only_so_many_guests_wait_for_offers_of_a_machine(tmp_path: Path) -> None:
    config = Config(limits=LimitsConfig(waiting_opens_per_machine=2))
    async with served(tmp_path, config) as (_, path), raw_client(path) as first, raw_client(path) as second:
        opening = ("channel.open", 1, bytes(16), None, True, 0, 0, *GRANT)
        for client in (first, second):
            await client.attach()
            waiting = await client.start(*opening)
            await client.call("ping")
        with pytest.raises(Answered, match="2 guests already wait for offers on vm1") as caught:
            await first.call(*opening)
        assert caught.value.status is NtStatus.INSUFFICIENT_RESOURCES
        await second.notify("cancel", waiting)
        with pytest.raises(Answered):
            await second.answer(waiting)
        await first.start(*opening)
        await first.call("ping")


async def test_datagrams_nobody_takes_are_dropped_beyond_the_backlog_and_counted(tmp_path: Path) -> None:
    backlog, payload, count = 65_536, bytes(1_400), 60
    config = Config(limits=LimitsConfig(datagram_backlog_bytes=backlog))
    async with served(tmp_path, config) as (_, path), raw_client(path) as client:
        await client.attach()
        receiver, _, port, *_ = await client.call("address.open", 1, "lan", "10.0.0.1", 0, False, 1, 1 << 20)
        sender = (await client.call(*ADDRESS))[0]
        for _ in range(count):
            await client.call("address.send_datagram", sender, "10.0.0.1", port, payload)
        await client.notify("address.window", receiver, 1000, 1 << 24)
        dropped, came = 0, 0
        while not dropped:
            _, run, dropped = await client.notice("address.datagrams")
            came += run.count(payload)
        assert came + dropped == count
        assert backlog // (2 * len(payload)) <= came <= 1 + backlog // len(payload)


async def test_rings_have_the_size_of_the_configuration_where_the_guest_names_none(tmp_path: Path) -> None:
    config = Config(limits=LimitsConfig(default_ring_pages=3))
    async with served(tmp_path, config) as (server, path), raw_client(path) as client:
        await client.attach()
        await offer(client, 1)
        await channel(client, 1)
        (opened,) = server.machines["vm1"].channels.values()
        assert [ring.data_bytes for ring in opened.ring_memories()] == [3 * 4096] * 2
