"""What is another's stays unknown: machines one has no role on, and whatever belongs to another session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emulator.config import AccessConfig, Config, MachineConfig
from emulator.daemon.roles import Identity
from emulator.segment_config import SegmentConfig
from emulator.status import NtStatus
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, served

SOMEBODY = Identity(user=70001)
NOBODYS = AccessConfig(guest=(), host=(), datagram=())


async def inspected(client: RawClient, what: str) -> list[dict[str, Any]]:
    return json.loads((await client.call("daemon.inspect", what, None, 0))[0])  # type: ignore[no-any-return]


async def test_a_segment_is_shown_without_machines_one_may_not_know_of(tmp_path: Path) -> None:
    config = Config(
        machines={
            "mine": MachineConfig(segments={"shared": "10.0.0.1"}),
            "secret": MachineConfig(segments={"shared": "10.0.0.2", "hidden": "10.0.1.2"}, access=NOBODYS),
        },
        segments={
            "shared": SegmentConfig(partition=(("mine",), ("secret",))),
            "hidden": SegmentConfig(subnet="10.0.1.0/24"),
        },
    )
    async with served(tmp_path, config) as (server, path), raw_client(path) as client:
        await client.hello()
        assert [entry["segment"] for entry in await inspected(client, "segments")] == ["shared", "hidden"]
        (session,) = server.sessions()
        session.identity = SOMEBODY
        (shown,) = await inspected(client, "segments")
        assert (shown["segment"], shown["machines"], shown["partition"]) == ("shared", {"mine": "10.0.0.1"}, [["mine"]])
        for what in ("daemon", "machines", "channels", "details", "waiting", "segments"):
            assert "secret" not in json.dumps(await inspected(client, what))


NUMBERED: list[tuple[str, tuple[object, ...]]] = [
    ("offer.rescind", ()),
    ("channel.close", ()),
    ("packet.send", (0, b"stolen", b"")),
    ("address.close", ()),
    ("address.send_datagram", ("10.0.0.2", 9, b"stolen")),
    ("address.query", (1, 64)),
    ("connection.close", ()),
    ("irp.submit_at", (8, 0)),
    ("driver.enable", ()),
    ("gpadl.unmap", (1,)),
    ("filter.detach", ()),
]


@pytest.mark.parametrize(("method", "rest"), NUMBERED, ids=[method for method, _ in NUMBERED])
async def test_the_number_of_something_of_another_session_is_one_that_was_never_given(
    tmp_path: Path, method: str, rest: tuple[object, ...]
) -> None:
    said: list[str] = []
    async with served(tmp_path) as (_, path), raw_client(path) as owner:
        for owner_has_any in (False, True):
            if owner_has_any:
                await owner.attach()
                await owner.offer(bytes(16))
                await owner.open(bytes(16))
                await owner.call("address.open", 1, "lan", "10.0.0.1", 0, False, *GRANT)
                await owner.call("connection.open", 1, "lan", 0)
                await owner.call("filter.attach", 1, "lan", False)
            async with raw_client(path) as stranger:
                await stranger.attach()
                await stranger.start(method, 1, *rest)
                status, sentence = await stranger.goodbye()
                assert status is NtStatus.INVALID_PARAMETER
                said.append(sentence)
        await owner.call("ping")
    assert said[0] == said[1], "whether another session has something of that number shows"


async def test_a_machine_is_named_by_what_a_session_attached(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as owner, raw_client(path) as stranger:
        await owner.attach("vm2")
        await stranger.hello()
        for number in (0, 1, 2, 1 << 31):
            with pytest.raises(Answered, match=r"attach to one first|must be") as caught:
                await stranger.call("memory.read", number, 0, 16)
            assert caught.value.status in (NtStatus.INVALID_HANDLE, NtStatus.INVALID_PARAMETER)
