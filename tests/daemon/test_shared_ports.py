"""One port at several of a machine's addresses: wildcards and single addresses side by side, in any order (CR8, R1)."""

from __future__ import annotations

import socket
from itertools import permutations
from pathlib import Path

import pytest
import trio

from clients import Address, Machine, RequestFailed, connect
from emulator.config import Config, UdpConfig
from emulator.status import NtStatus
from tests.daemon.raw import served

ONE, TWO, ANY = "127.0.0.1", "127.0.0.2", "0.0.0.0"
CONFIG = Config(udp=UdpConfig(bind=(ONE, TWO)))
PATIENCE_SECONDS = 20.0


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((ANY, 0))
        return int(probe.getsockname()[1])


def is_taken(host: str, port: int) -> bool:
    """Whether somebody has a port of an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


async def opened(machine: Machine, host: str, port: int) -> Address:
    return await machine.open_address((host, port), network="udp", share=True)


async def hears(address: Address, data: bytes) -> bool:
    """Whether this is what comes next."""
    return (await anext(aiter(address))).data == data


@pytest.mark.parametrize("order", list(permutations([ANY, TWO, ONE])))
async def test_cr8_r1_each_hears_what_is_its_own_whoever_came_first_and_whoever_is_left(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with served(tmp_path, CONFIG) as (_, path), connect(path) as attached:
            machine = await attached.machine("vm1")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind((ONE, 0))
                other.settimeout(PATIENCE_SECONDS)
                for number, leaving in enumerate(permutations(order)):
                    port = free_port()
                    standing = {host: await opened(machine, host, port) for host in order}
                    for turn, host in enumerate(leaving):
                        for to in (ONE, TWO):
                            text = f"{number} {turn} {to}".encode()
                            if to in standing or ANY in standing:
                                other.sendto(text, (to, port))
                            for name, address in standing.items():
                                if name in (to, ANY):
                                    assert await hears(address, text), (leaving, turn, name, to)
                        for name, address in standing.items():
                            await address.send_datagram(b"out", other.getsockname())
                            assert other.recvfrom(10) == (b"out", (ONE if name == ANY else name, port))
                        await standing.pop(host).close()
                        wanted = {ONE, TWO} if ANY in standing else set(standing)
                        assert {to for to in (ONE, TWO) if is_taken(to, port)} == wanted


async def test_cr8_exclusive_opens_beside_each_other_and_beside_a_wildcard(tmp_path: Path) -> None:
    async with served(tmp_path, CONFIG) as (_, path), connect(path) as attached:
        machine, port = await attached.machine("vm1"), free_port()
        one = await machine.open_address((ONE, port), network="udp")
        await machine.open_address((TWO, port), network="udp")
        for host, share, status in (
            (ANY, True, NtStatus.ADDRESS_ALREADY_EXISTS),
            (ANY, False, NtStatus.ADDRESS_ALREADY_EXISTS),
            (ONE, True, NtStatus.SHARING_VIOLATION),
        ):
            with pytest.raises(RequestFailed) as refused:
                await machine.open_address((host, port), network="udp", share=share)
            assert refused.value.status is status
        await one.close()
        again = await opened(machine, ONE, port)
        with pytest.raises(RequestFailed) as refused:
            await opened(machine, ANY, port)
        assert refused.value.status is NtStatus.ADDRESS_ALREADY_EXISTS, "the one on the other address is exclusive"
        await again.close()


async def test_another_machine_gets_an_address_as_soon_as_nobody_is_open_on_it(tmp_path: Path) -> None:
    async with served(tmp_path, CONFIG) as (_, path), connect(path) as attached:
        machine, other = await attached.machine("vm1"), await attached.machine("vm2")
        port = free_port()
        wild, single = await opened(machine, ANY, port), await opened(machine, TWO, port)
        with pytest.raises(RequestFailed) as taken:
            await opened(other, ONE, port)
        assert taken.value.status is NtStatus.ADDRESS_ALREADY_EXISTS
        await wild.close()
        there = await opened(other, ONE, port)
        await single.send_datagram(b"to the other machine", there.local)
        assert await hears(there, b"to the other machine")


@pytest.mark.parametrize("order", [(ANY, ONE), (ONE, ANY)])
async def test_cr8_the_hosts_own_wildcard_and_a_single_address_share_a_port(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    config = Config(udp=UdpConfig(bind=(ANY, ONE)))
    with trio.fail_after(PATIENCE_SECONDS):
        async with served(tmp_path, config) as (_, path), connect(path) as attached:
            machine, port = await attached.machine("vm1"), free_port()
            standing = {host: await opened(machine, host, port) for host in order}
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
            ):
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    stranger.bind((ONE, port))
                other.sendto(b"for both", (ONE, port))
                assert [await hears(address, b"for both") for address in standing.values()] == [True, True]
                other.sendto(b"for one", (TWO, port))
                await standing[ONE].close()
                other.sendto(b"for the one left", (ONE, port))
                assert await hears(standing[ANY], b"for one")
                assert await hears(standing[ANY], b"for the one left")


@pytest.mark.parametrize("order", [(ANY, ONE, ANY), (ONE, ANY, ANY), (ONE, TWO, ANY)])
async def test_r3_a_wildcard_hears_broadcasts_once_whoever_came_first(tmp_path: Path, order: tuple[str, ...]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with served(tmp_path, CONFIG) as (_, path), connect(path) as attached:
            machine, port = await attached.machine("vm1"), free_port()
            standing = [await opened(machine, host, port) for host in order]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                for text, to in ((b"to all", "127.255.255.255"), (b"then", ONE), (b"and", TWO)):
                    other.sendto(text, (to, port))
            for host, address in zip(order, standing, strict=True):
                if host == ANY:
                    heard = sorted([(await anext(aiter(address))).data for _ in range(3)])
                    assert heard == [b"and", b"then", b"to all"]
