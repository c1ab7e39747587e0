"""Pages that are out, as clients are told of them: the latest only, and never more than an outbox has room for."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.config import Config, LimitsConfig, MachineConfig
from emulator.wire.runs import pack_pfns, unpack_pfns
from tests.daemon.raw import Answered, RawClient, raw_client, served

PAGES = 40_000


def out(client: RawClient) -> set[int]:
    """The pages that are out, by all that a client was told until now."""
    found: set[int] = set()
    for name, args in client.notices:
        if name == "memory.paged":
            pages = unpack_pfns(args[1])
            found = found | set(pages) if args[2] else found - set(pages)
    return found


async def told(client: RawClient, *pages: int) -> bool:
    """Wait until a client knows that these are out, and no others."""
    await client.call("ping")
    while out(client) != set(pages):
        assert await client.hear()
    return True


async def test_a_client_that_does_not_read_is_not_drowned_in_pages(tmp_path: Path) -> None:
    config = Config(machines={"vm1": MachineConfig()}, limits=LimitsConfig(outbox_bytes=2 * 1024 * 1024))
    async with served(tmp_path, config) as (_, path), raw_client(path) as busy, raw_client(path) as other:
        await busy.attach()
        await other.attach()
        for turn in range(15):
            await other.call("memory.page", 1, pack_pfns(range(1, PAGES)), turn % 2 == 0)
            other.notices.clear()
        await other.call("memory.page", 1, pack_pfns((7, 8)), False)
        assert await told(busy, *range(1, 7), *range(9, PAGES))


async def test_who_attaches_later_is_told_what_is_out(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as first, raw_client(path) as second:
        await first.attach()
        await first.call("memory.page", 1, pack_pfns((5, 6, 7)), True)
        await first.call("memory.page", 1, pack_pfns((6,)), False)
        await second.attach()
        assert await told(second, 5, 7)
        assert await told(first, 5, 7)
        await second.call("memory.page", 1, pack_pfns((5, 7)), False)
        assert await told(first)


async def test_pages_that_are_not_there_cannot_be_out(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        await client.attach()
        with pytest.raises(Answered, match="outside this machine's memory"):
            await client.call("memory.page", 1, pack_pfns((1, 1 << 40)), True)
        assert await told(client)
