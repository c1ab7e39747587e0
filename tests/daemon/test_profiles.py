"""Profiles of the configuration reach every end of a machine's channels, hosted and direct, and its UDP device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from clients import RequestFailed, Side, connect
from clients.protocol import ClientProtocol
from emulator.config import ChannelConfig, Config, LimitsConfig, MachineConfig, ProfileConfig
from emulator.config_file import ConfigError, load
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.tdi.connection_profile import ConnectionProfile
from emulator.tdi.profile import ProviderProfile
from emulator.vmbus.profile import ChannelProfile, EndpointLimits, KmclProfile
from emulator.wire.codec import encode_notification
from emulator.wire.schema import MACHINE_PROFILE
from tests.daemon.raw import served

ECHO = "0e2f8f35-64b1-4f4c-9d2c-5a1e00000001"
WAIT, FORCE = 1, 2
LENIENT = Config(
    machines={"vm1": MachineConfig(profile="lenient"), "vm2": MachineConfig()},
    profiles={
        "lenient": ProfileConfig(
            kmcl={"reject_force_in_send": False, "pipe_external_status": "ACCESS_DENIED"},
            channel={"outgoing_ring_pages": 3, "max_packet_bytes": 64},
            tdi={"zero_length_status": "INVALID_BUFFER_SIZE", "refuses_zero_length": True},
            connections={"max_offers": 3},
        )
    },
)


async def answer(offered: Any) -> None:
    async for packet in offered:
        await packet.complete()


@pytest.mark.parametrize("mode", ["hosted", "direct"])
async def test_a_machine_behaves_as_its_profile_says(tmp_path: Path, mode: str) -> None:
    async with served(tmp_path, LENIENT) as (_, path), connect(path) as daemon, trio.open_nursery() as nursery:
        for name in ("vm1", "vm2"):
            machine = await daemon.machine(name)
            nursery.start_soon(answer, await machine.offer_channel(ECHO, mode=mode))
            channel = await machine.open_channel(ECHO, mode=mode)
            data = machine.memory.allocate(64)
            if name == "vm1":
                await channel.send(b"", data.mdl, flags=WAIT | FORCE)
                with pytest.raises(RequestFailed, match="K3"):
                    await channel.send(bytes(65))
            else:
                with pytest.raises(RequestFailed, match="K9"):
                    await channel.send(b"", data.mdl, flags=WAIT | FORCE)
                await channel.send(bytes(65))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", ["hosted", "direct"])
async def test_a_status_of_a_profile_reaches_the_program(tmp_path: Path, mode: str) -> None:
    async with served(tmp_path, LENIENT) as (_, path), connect(path) as daemon:
        machine = await daemon.machine("vm1")
        await machine.offer_channel(ECHO, pipe=True, mode=mode)
        channel = await machine.open_channel(ECHO, mode=mode)
        with pytest.raises(RequestFailed, match="K5") as refused:
            await channel.send(b"", machine.memory.allocate(8).mdl)
        assert refused.value.status is NtStatus.ACCESS_DENIED


async def test_the_rings_and_the_udp_device_follow_the_profile(tmp_path: Path) -> None:
    async with served(tmp_path, LENIENT) as (server, path), connect(path) as daemon:
        machine = await daemon.machine("vm1")
        await machine.offer_channel(ECHO)
        await machine.open_channel(ECHO)
        (channel,) = server.machines["vm1"].channels.values()
        assert channel._pages == (3, 16)
        assert server.machines["vm1"].datagrams._transport._profile.tcp.max_offers == 3
        address = await machine.open_address(("127.0.0.1", 0))
        with pytest.raises(RequestFailed) as refused:
            await address.send_datagram(b"", address.local)
        assert refused.value.status is NtStatus.INVALID_BUFFER_SIZE


async def test_limits_of_the_configuration_hold_before_a_channel_is_open(tmp_path: Path) -> None:
    """A driver's packets are checked when they are sent, which may be before anything was opened."""
    config = Config(channels=ChannelConfig(packet_bytes=8192))
    async with served(tmp_path, config) as (_, path), connect(path) as daemon:
        channel = (await daemon.machine("vm1")).allocate_channel(Side.GUEST)
        assert not channel.submit(bytes(8192)).done
        with pytest.raises(Refused, match="K3"):
            channel.submit(bytes(8193))


def test_what_a_profile_does_not_name_follows_the_other_sections() -> None:
    config = Config(
        machines={"a": MachineConfig(profile="p"), "b": MachineConfig()},
        profiles={
            "p": ProfileConfig(
                channel={"max_external_chain": 7}, tdi={"max_queued_datagrams": 5}, connections={"max_offers": 3}
            )
        },
        channels=ChannelConfig(packet_bytes=100, external_mdls=9),
        limits=LimitsConfig(outstanding_packets=11, datagram_window_packets=12),
    )
    limits = EndpointLimits(max_packet_bytes=100, max_external_chain=9, transaction_quota=11)
    one, other = config.machines["a"], config.machines["b"]
    assert config.channel_profile(other) == ChannelProfile(KmclProfile(), limits)
    assert config.channel_profile(one) == ChannelProfile(KmclProfile(), replace(limits, max_external_chain=7))
    assert config.udp_profile(other) == ProviderProfile(max_queued_datagrams=12)
    assert config.udp_profile(one) == ProviderProfile(max_queued_datagrams=5)
    assert config.tcp_profile(other) == ConnectionProfile()
    assert config.tcp_profile(one) == ConnectionProfile(max_offers=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[machines.a]\nprofile = "x"', "machines.a.profile: there is no profile 'x'; defined are: none"),
        ("[profiles.x.kmcl]\nnothing = 1", "profiles.x.kmcl.nothing: there is no such choice; KmclProfile has: "),
        ('[profiles.x.kmcl]\nbad_ranges_status = "NO"', "profiles.x.kmcl.bad_ranges_status: the name of a status is"),
        ("[profiles.x.channel]\nmax_packet_bytes = 0", "profiles.x.channel: max_packet_bytes must be above 0, not 0"),
        (
            "[profiles.x.sound]\nloud = true",
            "unknown key 'sound' in profiles.x; known keys are: channel, connections, kmcl, tdi",
        ),
    ],
)
def test_mistakes_in_profiles_are_named_with_their_place(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    "document", ["", "[]", "{}", '{"kmcl": {"x": 1}, "channel": {}}', '{"kmcl": 1, "channel": {}}']
)
def test_a_profile_that_is_none_ends_the_conversation(document: str) -> None:
    with pytest.raises(PeerViolation, match="the profile of machine 1 cannot be used"):
        ClientProtocol().receive(encode_notification(MACHINE_PROFILE, 1, document))
