"""Datagrams through the TDI transport of a machine: ``datagram send`` and ``datagram listen``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from clients.commands.calling import CommandFailed, attached, run, socket_path, within
from clients.commands.content import contents, contents_options, host_and_port, ip_address, printable, shown
from clients.commands.look import json_option
from clients.commands.output import as_json, as_json_line, say
from clients.inbox import Datagram
from clients.requests import IoStatus
from clients.tdi import Address

MOST_DATAGRAM_BYTES = 65535

network_option = click.option(
    "--network",
    default="udp",
    show_default=True,
    metavar="udp|SEGMENT",
    help="Real UDP sockets, or a virtual segment of the daemon's by its name (such as lan).",
)


@click.group(invoke_without_command=True)
@click.pass_context
def datagram(ctx: click.Context) -> None:
    """Send and receive datagrams as a machine.

    \b
    Example, with a listener in one terminal and a sender in another:
        vmbusctl datagram listen vm2 --network lan --bind 10.0.0.2:9000
        vmbusctl datagram send vm1 10.0.0.2 9000 --network lan --text hello
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@datagram.command("send")
@click.argument("machine")
@click.argument("host", callback=ip_address)
@click.argument("port", type=click.IntRange(1, 65535))
@network_option
@click.option(
    "--from",
    "source",
    metavar="HOST:PORT",
    callback=host_and_port,
    help="Local address to send from. [default: any address, a free port]",
)
@contents_options
@click.option(
    "--wait", "wait_seconds", type=click.FloatRange(0), metavar="SECONDS", help="Wait so long for a reply and show it."
)
@json_option
def send_datagram(
    machine: str,
    host: str,
    port: int,
    network: str,
    source: tuple[str, int] | None,
    text: str | None,
    file: Path | None,
    hex_digits: str | None,
    wait_seconds: float | None,
    wants_json: bool,
) -> None:
    """Send one datagram from MACHINE to HOST PORT (an IP address and a port number).

    Without --text, --file or --hex the datagram is empty, which is legal.

    \b
    Example, to a UDP program on this computer, and to another machine on the segment lan:
        vmbusctl datagram send vm1 127.0.0.1 5353 --text hello --wait 2
        vmbusctl datagram send vm1 10.0.0.2 9000 --network lan --text hello
    """
    data = contents(text, file, hex_digits, MOST_DATAGRAM_BYTES)
    local = source or ("::" if ":" in host else "0.0.0.0", 0)
    work = partial(_send, socket_path(), machine, network, local, (host, port), data, wait_seconds, wants_json)
    run(work)


async def _send(
    path: Path | str,
    name: str,
    network: str,
    local: tuple[str, int],
    destination: tuple[str, int],
    data: bytes,
    wait_seconds: float | None,
    wants_json: bool,
) -> None:
    reply: Datagram | None = None
    async with attached(path, map_memory=False) as daemon:
        machine = await daemon.machine(name)
        async with await machine.open_address(local, network=network) as address:
            outcome = await address.send_datagram(data, destination)
            if not wants_json:
                say(_sent(address.local, destination, outcome))
            if wait_seconds is not None:
                reply = await _reply(address, wait_seconds)
            bound = address.local
    if wants_json:
        document: dict[str, object] = {
            "status": f"STATUS_{outcome.status.name}",
            "status_code": int(outcome.status),
            "information": outcome.information,
            "source": list(bound),
            "destination": list(destination),
        }
        if wait_seconds is not None:
            document["reply"] = _document(reply) if reply is not None else None
        as_json(document)
    elif reply is not None:
        say(_received(reply))
    if wait_seconds is not None and reply is None:
        where = endpoint(destination)
        raise CommandFailed(f"no reply came within {wait_seconds:g} s; check that a program at {where} answers")


async def _reply(address: Address, wait_seconds: float) -> Datagram | None:
    """The first datagram that arrives in time."""
    try:
        async with within(wait_seconds, ""):
            return await anext(aiter(address))
    except (CommandFailed, StopAsyncIteration):
        pass
    return None


@datagram.command("listen")
@click.argument("machine")
@network_option
@click.option(
    "--bind",
    metavar="HOST:PORT",
    default="0.0.0.0:0",
    callback=host_and_port,
    help="Local address to listen on. [default: any address, a free port]",
)
@click.option("--count", type=click.IntRange(1), help="End after so many datagrams. [default: go on until Ctrl-C]")
@json_option
def listen(machine: str, network: str, bind: tuple[str, int], count: int | None, wants_json: bool) -> None:
    """Show the datagrams that arrive at an address of MACHINE.

    The first line says where it listens. With --json every line is a JSON object: first {"listening": ...}, then one
    for each datagram.

    \b
    Example:
        vmbusctl datagram listen vm1 --bind 127.0.0.1:9000
        vmbusctl datagram listen vm2 --network lan --bind 10.0.0.2:9000 --count 1 --json
    """
    run(partial(_listen, socket_path(), machine, network, bind, count, wants_json))


async def _listen(
    path: Path | str, name: str, network: str, local: tuple[str, int], count: int | None, wants_json: bool
) -> None:
    seen = 0
    async with attached(path, map_memory=False) as daemon:
        machine = await daemon.machine(name)
        async with await machine.open_address(local, network=network) as address:
            if wants_json:
                as_json_line({"listening": list(address.local), "machine": name, "network": network})
            else:
                say(f"listening on {endpoint(address.local)} of {name} ({network}); Ctrl-C ends it")
            async for each in address:
                if wants_json:
                    as_json_line(_document(each))
                else:
                    say(_received(each))
                seen += 1
                if seen == count:
                    return
    raise CommandFailed(f"the daemon closed the address of {name}; look at its log, then listen again")


def endpoint(address: tuple[str, int]) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _sent(source: tuple[str, int], destination: tuple[str, int], outcome: IoStatus) -> str:
    return f"sent {outcome.information:,} bytes from {endpoint(source)} to {endpoint(destination)}: {outcome.status}"


def _received(each: Datagram) -> str:
    return f"{len(each.data):,} bytes from {endpoint(each.source)}: {shown(each.data)}"


def _document(each: Datagram) -> dict[str, object]:
    return {"source": list(each.source), "bytes": len(each.data), "hex": each.data.hex(), "text": printable(each.data)}
