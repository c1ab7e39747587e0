"""Verifier mode through the Windows names: what is reported names the places in the driver, not in the library."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from clients.kmcl import (
    VMBCHANNEL,
    Misuse,
    Out,
    VmbChannelCleanup,
    VmbChannelCreateGpadlFromBuffer,
    VmbChannelDisable,
    VmbChannelEnable,
    VmbChannelPacketComplete,
    VmbChannelPacketFail,
    VmbChannelSendSynchronousRequest,
    VmbPacketSend,
)
from clients.verifier import VerifierReport
from emulator.config import Config, MachineConfig
from tests.clients.kmcl_drivers import WAIT, Pair, drivers, good

HERE = __file__
VERIFIED = Config(machines={"vm1": MachineConfig(verifier=True)})


def line(text: str) -> str:
    """``file:line`` of the one line of this file with that comment."""
    numbers = [
        number for number, each in enumerate(Path(HERE).read_text().splitlines(), 1) if each.endswith(f"# {text}")
    ]
    assert len(numbers) == 1
    return f"{HERE}:{numbers[0]}"


@pytest.mark.parametrize("config", [VERIFIED, None], ids=["verifier", "none"])
async def test_4_4_a_packet_ended_twice(tmp_path: Path, config: Config | None) -> None:
    async with drivers(tmp_path, config=config) as pair:
        pair.server.answer = None
        await pair.open()
        good(VmbPacketSend(pair.client.packet(), b"x", 1, None, WAIT))
        await pair.server.until(lambda: len(pair.server.packets) == 1)
        packet = pair.server.packets[0][0]
        VmbChannelPacketComplete(packet, None, 0)  # completed here
        with pytest.raises(Misuse, match="was completed and is now to be failed") as raised:
            VmbChannelPacketFail(packet)  # failed here
        assert isinstance(raised.value, VerifierReport) is (config is not None)
        if isinstance(raised.value, VerifierReport):
            assert (raised.value.first, raised.value.second) == (line("completed here"), line("failed here"))


async def test_4_3_a_channel_cleaned_up_while_enabled(tmp_path: Path) -> None:
    async with drivers(tmp_path, config=VERIFIED) as pair:
        pair.client.initialise()
        good(await VmbChannelEnable(pair.client.channel))  # enabled here
        with pytest.raises(VerifierReport, match=r"\[4.3\]") as report:
            await VmbChannelCleanup(pair.client.channel)  # cleaned up here
        assert (report.value.first, report.value.second) == (line("enabled here"), line("cleaned up here"))


async def test_y5_waiting_in_started(tmp_path: Path) -> None:
    reports: list[VerifierReport] = []

    async def started(channel: VMBCHANNEL) -> None:  # Started begins here
        with pytest.raises(VerifierReport, match=r"\[Y5\]") as report:
            await VmbChannelSendSynchronousRequest(channel, b"x", 1, None, WAIT, None, None, None)  # waited here
        reports.append(report.value)
        pair.client._called("started")

    async with drivers(tmp_path, config=VERIFIED) as pair:
        pair.client.callbacks.EvtChannelStarted = started
        await pair.open()
        (report,) = reports
        assert (report.first, report.second) == (line("Started begins here"), line("waited here"))


async def run_until_reported(tmp_path: Path, pairs: list[Pair], *, leaves: bool) -> None:
    """A client that leaves a GPADL at Closed, or else changes a buffer under way."""

    def closed(channel: VMBCHANNEL) -> None:  # Closed begins here
        pass

    async with drivers(tmp_path, config=VERIFIED) as pair:
        pairs.append(pair)
        pair.server.answer = None
        pair.client.callbacks.EvtChannelClosed = closed
        await pair.open()
        if leaves:
            data, handle = pair.client.device.machine.memory.allocate(8), Out[int]()
            good(await VmbChannelCreateGpadlFromBuffer(pair.client.channel, 0, data, 8, handle))  # described here
            await VmbChannelDisable(pair.client.channel)
        buffer = bytearray(b"12345678")
        good(VmbPacketSend(pair.client.packet(), buffer, 8, None, WAIT))  # sent here
        await pair.server.until(lambda: len(pair.server.packets) == 1)
        buffer[0] = 0
        VmbChannelPacketComplete(pair.server.packets[0][0], None, 0)
        await trio.sleep_forever()


@pytest.mark.parametrize("leaves", [True, False])
async def test_what_is_wrong_with_a_callback_or_seen_later_ends_the_connection(tmp_path: Path, leaves: bool) -> None:
    pairs: list[Pair] = []
    with pytest.raises(BaseExceptionGroup), trio.fail_after(20):
        await run_until_reported(tmp_path, pairs, leaves=leaves)
    (report,) = pairs[0].client.channel.driver.verifier.reports
    assert report.rule == ("4.2" if leaves else "K4")
    assert report.first == line("described here" if leaves else "sent here")
    if leaves:
        assert report.second == line("Closed begins here")
