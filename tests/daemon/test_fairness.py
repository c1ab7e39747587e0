"""One client's flood is another's short wait: how much work is done for one before the others get their turn."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from emulator.config import Config, LimitsConfig, MachineConfig
from emulator.daemon.obligations import Drainable
from emulator.daemon.ready_sources import OUTBOX_HIGH_BYTES, SOURCES_PER_TURN, ReadySources
from emulator.daemon.session import FRAMES_PER_TURN
from emulator.daemon.streams import Stream
from tests.daemon.raw import GRANT, notification, raw_client, request, served


async def test_a_flood_of_small_frames_gives_others_their_turn(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as flooder, raw_client(path) as victim:
        await flooder.hello("flooder")
        await victim.hello("victim")
        (flood,) = [session for session in server.sessions() if session.client == "flooder"]
        before = flood.messages
        # Both have said it before the daemon runs again.
        frame = request(1, "daemon.inspect", "nothing", None, 0)
        taken = flooder.say_until_full(frame * 1000) // len(frame)
        asked = await victim.start("ping")
        assert await victim.answer(asked) == []
        assert taken > 4 * FRAMES_PER_TURN, "this flood would fit into one turn"
        assert flood.messages - before <= 2 * FRAMES_PER_TURN


async def test_a_client_that_reads_nothing_stops_nobody(tmp_path: Path) -> None:
    """Its ring fills, then its guest's window; another machine's packets pass, however many came before."""
    config = Config(machines={name: MachineConfig(memory_bytes=1 << 22) for name in ("vm1", "vm2")}, segments={})
    async with served(tmp_path, config) as (_, path):
        async with raw_client(path) as silent, raw_client(path) as sender, raw_client(path) as other:
            await silent.attach("vm1")
            await silent.offer(bytes(16), grant=(1 << 20, 1 << 30))
            await sender.attach("vm1")
            channel = await sender.open(bytes(16))
            for _ in range(256):
                await sender.start("packet.send", channel, 0, bytes(200), b"")
            await other.attach("vm2")
            await other.offer(bytes(16))
            opened = await other.open(bytes(16))
            await other.call("packet.send", opened, 0, b"through", b"")
            assert b"through" in (await other.notice("channel.packets"))[2]


class _Stream:
    """The two things a line of ready sources looks at; the client takes nothing."""

    queued_bytes = 0

    def flush(self) -> None:
        """Nothing leaves."""


class _Source:
    """Something with more to say than there is room for."""

    is_open = True

    def __init__(self, stream: _Stream, byte_count: int) -> None:
        self._stream = stream
        self._byte_count = byte_count
        self.turns = 0

    def drain(self) -> bool:
        """One turn of it."""
        self.turns += 1
        self._stream.queued_bytes += self._byte_count
        return True


def line_of(count: int, byte_count: int) -> tuple[ReadySources, list[_Source], _Stream]:
    stream = _Stream()
    sources = [_Source(stream, byte_count) for _ in range(count)]
    line = ReadySources(cast(Stream, stream))
    for source in sources:
        line.add(cast(Drainable, source))
    return line, sources, stream


def test_many_ready_channels_take_turns() -> None:
    line, sources, _ = line_of(3 * SOURCES_PER_TURN, 1)
    for turn in range(1, 7):
        assert line.drain(), "there is more"
        assert sum(source.turns for source in sources) == turn * SOURCES_PER_TURN
    assert {source.turns for source in sources} == {2}, "one had its turn before another had its own"


def test_many_ready_channels_leave_the_rest_in_their_rings_when_the_outbox_is_high() -> None:
    portion = 256 * 1024
    line, sources, stream = line_of(40, portion)
    assert not line.drain(), "nothing more is due while there is no room"
    assert stream.queued_bytes <= OUTBOX_HIGH_BYTES + portion
    stream.queued_bytes = 0
    while sum(source.turns for source in sources) < 40:
        line.drain()
        stream.queued_bytes = 0
    assert {source.turns for source in sources} == {1}


async def test_many_full_channels_of_one_host_do_not_end_it(tmp_path: Path) -> None:
    """Together their rings hold more than its outbox may."""
    config = Config(
        machines={"vm1": MachineConfig(memory_bytes=64 << 20)},
        segments={},
        limits=LimitsConfig(outbox_bytes=2 << 20, default_ring_pages=16),
    )
    channels, packets, payload = 60, 14, bytes(4000)
    async with served(tmp_path, config) as (server, path), raw_client(path) as host, raw_client(path) as guest:
        await host.attach()
        await guest.attach()
        opened = []
        for number in range(channels):
            await host.offer(number.to_bytes(16, "big"), grant=(1, 1))
            opened.append(await guest.open(number.to_bytes(16, "big")))
        for channel in opened:
            for _ in range(packets):
                await guest.call("packet.send", channel, 0, payload, b"")
        numbers = [(await host.notice("channel.opened"))[1] for _ in range(channels)]
        grants = b"".join(notification("channel.window", number, *GRANT) for number in numbers)
        await host.say(grants)
        came = 0
        while came < channels * packets * len(payload):
            came += len((await host.notice("channel.packets"))[2])
        assert server.session_count == 2
