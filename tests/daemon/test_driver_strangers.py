"""Random messages about driver channels, legal in form and mostly nonsense, of a guest's and a host's client."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from emulator.memory import MdlFlags
from emulator.status import NtStatus
from emulator.wire.fields import Binary, Field, FieldType, Flag, Maybe, Text, Unsigned
from emulator.wire.schema import METHODS, Direction, Kind
from tests.daemon.raw import GRANT, RawClient, notification, open_descriptors, raw_client, request, response, served

DISK = bytes(range(16))
SESSIONS = 15
CALLS = 120
DRIVER_ROWS = [row for row in METHODS if 60 <= row.number <= 79 and row.direction is not Direction.TO_CLIENT]
SETUPS = [
    json.dumps({"interface": str(UUID(bytes_le=DISK))}),
    json.dumps({"interface": str(UUID(bytes_le=DISK)), "server_flags": 2, "mmio_megabytes": 3}),
    json.dumps({"interface": str(UUID(bytes_le=DISK)), "incoming_pages": 1, "outgoing_pages": 4094}),
    json.dumps({"interface": str(UUID(bytes_le=DISK)), "packet_bytes": 1 << 40, "external_mdls": -1}),
    '{"interface": []}',
    "[" * 2000,
    "null",
    "\x00",
]
RIGHT = 0.8  # how often an argument is one that may be right


def chain(chance: random.Random) -> bytes:
    """An MDL chain as a run, or nearly."""
    count, offset = chance.choice([0, 1, 100, 4096, 0xFFFFFFFF]), chance.choice([0, 1, 4095, 4096, 0xFFFFFFFF])
    words = b"".join(each.to_bytes(4, "little") for each in (count, offset, int(MdlFlags.PAGES_LOCKED), 1))
    return words + chance.choice([3, 5, 1 << 20, 1 << 52, (1 << 64) - 1]).to_bytes(8, "little")


def value(field: Field, kind: FieldType, chance: random.Random, known: dict[str, list[int]]) -> Any:
    """An argument of that type: a number its session knows, or else mostly one that could be meant."""
    may_be_right = chance.random() < RIGHT
    if field.name in known:
        return chance.choice(known[field.name])
    match kind:
        case Unsigned(bits):
            return (
                chance.randint(1, 3) if may_be_right else chance.choice([0, (1 << bits) - 1, chance.getrandbits(bits)])
            )
        case Flag():
            return chance.random() < 0.2
        case Text():
            return chance.choice(SETUPS[:2] if may_be_right else SETUPS)
        case Binary(most, exactly=True):
            return chance.randbytes(most)
        case Binary(_, unit=unit):
            if field.name == "mdl":
                return chain(chance)
            return chance.choice([b"", (7).to_bytes(8, "little") * 2, chance.randbytes(unit * chance.randint(1, 40))])
        case Maybe(inner):
            return None if not may_be_right else value(field, inner, chance, known)
    raise AssertionError(f"no values known for {kind}")


class Stranger:
    """A client that speaks of driver channels at random, and answers callbacks at random or not at all."""

    def __init__(self, client: RawClient, chance: random.Random, handles: list[int], *, is_host: bool) -> None:
        self._client = client
        self._chance = chance
        self._is_host = is_host
        self.channels: list[int] = []
        self.answered: list[bool] = []
        self._known = {"machine": [1], "driver": [1, 2], "gpadl": handles}

    async def begin(self) -> None:
        await self._client.attach()
        await self._client.call("memory.allocate", 1, 8)
        for setup in SETUPS[:2]:
            number = (await self._client.call("driver.allocate", 1, self._is_host, False, setup, *GRANT))[0]
            with suppress(Exception):
                await self._client.call("driver.enable", number)
                if self._is_host:
                    await self._client.call("driver.start", number, False)

    async def babble(self) -> None:
        """Until it has said everything, or the daemon wants no more of it."""
        chance, client = self._chance, self._client
        for number in range(CALLS):
            with suppress(BrokenPipeError, ConnectionResetError):
                await client.say(self._message(1000 + number))
                while client.questions and chance.random() < 0.8:
                    msgid = client.questions.pop(0)[0]
                    status = int(chance.choice([NtStatus.SUCCESS, NtStatus.SUCCESS, NtStatus.UNSUCCESSFUL]))
                    await client.say(response(msgid, status))
            with trio.move_on_after(0.001):
                if not await client.hear():
                    return
            self._learn()

    def _message(self, msgid: int) -> bytes:
        row = self._chance.choice(DRIVER_ROWS)
        while any(field.name == "channel" for field in row.params) and not self.channels:
            row = self._chance.choice(DRIVER_ROWS)
        known = {**self._known, "channel": self.channels}
        args = [value(field, field.type, self._chance, known) for field in row.params]
        return request(msgid, row.name, *args) if row.kind is Kind.REQUEST else notification(row.name, *args)

    def _learn(self) -> None:
        """Channels that were opened, page lists that were made, how many were refused."""
        self.channels += [args[1] for name, args in self._client.notices if name == "driver.opened"]
        self._client.notices = [each for each in self._client.notices if each[0] == "goodbye"]
        answers = list(self._client.answers.values())
        made = [result[0] for _, result in answers if result and len(result) == 1]
        self._known["gpadl"] += [each for each in made if isinstance(each, int) and each > 0xFFFF]
        self.answered += [error is None for error, _ in answers]
        self._client.answers.clear()


@pytest.mark.parametrize("seed", range(3))
async def test_nonsense_about_driver_channels_is_refused_and_leaves_nothing_behind(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    ends: set[str] = set()
    answers: list[bool] = []
    async with served(tmp_path) as (server, path):
        machine = server.machines["vm1"]
        before: list[Any] = []
        for number in range(SESSIONS):
            async with raw_client(path) as near, raw_client(path) as far, trio.open_nursery() as nursery:
                handles = [0]
                guest = Stranger(near, chance, handles, is_host=False)
                host = Stranger(far, chance, handles, is_host=True)
                await host.begin()
                await guest.begin()
                nursery.start_soon(guest.babble)
                nursery.start_soon(host.babble)
            answers += guest.answered + host.answered
            ends |= {args[1] for client in (near, far) for name, args in client.notices if name == "goodbye"}
            with trio.fail_after(10):
                while server.session_count:
                    await trio.lowlevel.checkpoint()
            assert machine.failure is None, "a client's words never end a machine"
            held = [len(machine.channels), len(machine.offers), len(machine.waiting), machine.bus.gpadls.count]
            held += [machine.pages.free_pages, open_descriptors()]
            if number == 1:
                before = held
            if number > 1:
                assert held == before, f"pair {number} of seed {seed} left something behind"
        assert not ends, "nothing of this breaks the protocol"
        assert answers.count(True) > 10 * SESSIONS, "they got somewhere"
        assert answers.count(False) > 10 * SESSIONS
        assert machine.counters.channels_opened > SESSIONS // 2
