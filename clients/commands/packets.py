"""Packets on channels: ``send`` as a guest, ``serve-echo`` as a host."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import click
import trio

from clients.commands.calling import CommandFailed, attached, run, socket_path, within
from clients.commands.content import contents, contents_options, guid, printable, read_file, shown
from clients.commands.interfaces import ECHO_INTERFACE
from clients.commands.look import json_option
from clients.commands.output import as_json, byte_size, say
from clients.memory import Buffer
from clients.packet import Packet
from clients.protocol import RequestFailed
from clients.requests import Completion
from clients.vmbus import Channel, Machine

# What one message to the daemon can carry in front of external data.
MOST_BUFFER_BYTES = 65535 * 8
# Packets of `send --count` on their way at the same time.
IN_FLIGHT = 32

interface_option = click.option(
    "--interface",
    metavar="GUID",
    default=str(ECHO_INTERFACE),
    callback=guid,
    help="Interface of the channel. [default: the one that serve-echo offers]",
)


@dataclass(frozen=True)
class Order:
    """What ``send`` was asked to send: the bytes in the packet, and a part of a file as external data."""

    buffer: bytes
    external: Path | None
    offset: int
    length: int
    count: int
    timeout_seconds: float


@click.command()
@click.argument("machine")
@interface_option
@contents_options
@click.option(
    "--external",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Put this file into guest memory and send it as external data, with an MDL.",
)
@click.option("--offset", type=click.IntRange(0), default=0, help="Send the external data from this byte on.")
@click.option("--length", type=click.IntRange(0), default=0, help="Send so many bytes of it. [default: all]")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="Send it so many times.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a host to offer the channel.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for completions.",
)
@json_option
def send(
    machine: str,
    interface: UUID,
    text: str | None,
    file: Path | None,
    hex_digits: str | None,
    external: Path | None,
    offset: int,
    length: int,
    count: int,
    wait_seconds: float,
    timeout_seconds: float,
    wants_json: bool,
) -> None:
    """Send packets to the host of a channel, as a guest of MACHINE, and show how they were completed.

    The packet's own bytes come from --text, --file or --hex; --external adds the bytes of a file as external data:
    guest memory that the host reads for itself. Every packet waits for its completion.

    \b
    Example, with the host in one terminal and the guest in another:
        vmbusctl serve-echo vm1
        vmbusctl send vm1 --text hello

    \b
    A file as external data, completed with its SHA-256:
        vmbusctl serve-echo vm1 --checksum
        vmbusctl send vm1 --external README.md
    """
    if (offset or length) and external is None:
        raise click.UsageError("--offset and --length choose a part of the external data; add --external FILE")
    buffer = contents(text, file, hex_digits, MOST_BUFFER_BYTES)
    order = Order(buffer, external, offset, length, count, timeout_seconds)
    run(partial(_send, socket_path(), machine, interface, order, wait_seconds, wants_json))


async def _send(
    path: Path | str, name: str, interface: UUID, order: Order, wait_seconds: float, wants_json: bool
) -> None:
    async with attached(path) as daemon:
        machine = await daemon.machine(name)
        buffer = await _load(machine, order.external) if order.external is not None else None
        no_offer = (
            f"no host offered {interface} on {name} within {wait_seconds:g} s; offer it with: "
            f"vmbusctl serve-echo {name}" + ("" if interface == ECHO_INTERFACE else f" --interface {interface}")
        )
        async with within(wait_seconds, no_offer):
            channel = await machine.open_channel(interface)
        began = trio.current_time()
        late = f"not every packet was completed within {order.timeout_seconds:g} s; is its host still at work?"
        async with within(order.timeout_seconds, late):
            completion = await _send_all(channel, order, buffer)
        seconds = trio.current_time() - began
        await channel.close()
    _report(order, completion, seconds, wants_json)


async def _load(machine: Machine, path: Path) -> Buffer:
    """The bytes of a file in guest memory."""
    data = read_file(path, machine.memory.byte_count)
    buffer = await machine.allocate(len(data))
    await machine.write_memory(buffer.range, data)
    return buffer


async def _send_all(channel: Channel, order: Order, external: Buffer | None) -> Completion:
    """Send the packet ``count`` times, several at once; the completion that came last."""
    last = Completion()
    failures: list[Exception] = []
    left = order.count

    async def send_some() -> None:
        nonlocal last, left
        while left and not failures:
            left -= 1
            try:
                last = await _send_one(channel, order, external)
            except Exception as error:  # noqa: BLE001 -- raised again below, out of the nursery
                failures.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(min(IN_FLIGHT, order.count)):
            nursery.start_soon(send_some)
    if failures:
        raise failures[0]
    return last


async def _send_one(channel: Channel, order: Order, external: Buffer | None) -> Completion:
    if external is None:
        return await channel.send(order.buffer)
    return await channel.send_with_external_mdl(order.buffer, external.mdl, order.offset, order.length)


def _report(order: Order, completion: Completion, seconds: float, wants_json: bool) -> None:
    status = completion.status
    if wants_json:
        as_json(
            {
                "packets": order.count,
                "seconds": round(seconds, 6),
                "status": f"STATUS_{status.name}",
                "status_code": int(status),
                "completion_hex": completion.hex(),
                "completion_text": printable(completion.rstrip(b"\0")),
            }
        )
        return
    if order.count > 1:
        rate = order.count / seconds if seconds else 0
        say(f"{order.count:,} packets sent and completed in {seconds:.3f} s ({rate:,.0f}/s); the last of them:")
    say(f"status:     {status}")
    say(f"completion: {byte_size(len(completion))}: {shown(completion)}")


@click.command()
@click.argument("machine")
@interface_option
@click.option("--checksum", is_flag=True, help="Complete with the SHA-256 of the packet's external data.")
def serve_echo(machine: str, interface: UUID, checksum: bool) -> None:
    """Be a host on MACHINE that completes each packet with the packet's own bytes, until Ctrl-C.

    With --checksum it reads the external data of a packet, where there is some, and completes with its SHA-256. One
    line on standard output says when guests can come; they do so one after another.

    \b
    Example:
        vmbusctl serve-echo vm1
        vmbusctl send vm1 --text hello          (in another terminal)
    """
    run(partial(_serve_echo, socket_path(), machine, interface, checksum))


async def _serve_echo(path: Path | str, name: str, interface: UUID, checksum: bool) -> None:
    async with attached(path) as daemon:
        machine = await daemon.machine(name)
        async with await machine.offer_channel(interface) as offered:
            say(f"serving echo on {name}, interface {interface}; Ctrl-C ends it")
            async for packet in offered:
                await packet.complete(await _answer(packet, checksum))
    raise CommandFailed(f"the daemon took the offer on {name} back; look at its log, then offer again")


async def _answer(packet: Packet, checksum: bool) -> bytes:
    """What a packet is completed with. A guest that names memory which is not there gets an empty answer."""
    if not (checksum and packet.has_external_data):
        return packet.payload
    try:
        return hashlib.sha256(await packet.read_external_data()).digest()
    except RequestFailed as error:
        click.echo(f"vmbusctl: a packet's external data cannot be read: {error}", err=True)
        return b""
