"""Looking into a running daemon: ``machines``, ``channels``, ``version``."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import click

from clients.commands.calling import attached, run, socket_path
from clients.commands.output import as_json, byte_size, say, table

Entries = list[dict[str, Any]]

# A packet that has waited that long for its completion is not just on its way.
WORTH_SAYING_SECONDS = 1.0

json_option = click.option("--json", "wants_json", is_flag=True, help="Print JSON, for programs.")


def client_version() -> str:
    """The version of the installed distribution."""
    try:
        return importlib.metadata.version("vmbus-emulator")
    except importlib.metadata.PackageNotFoundError:
        return "uninstalled"


def inspect_daemon(what: str, machine: str | None = None) -> Entries:
    """What the daemon of this command line holds."""
    path = socket_path()
    found: Entries = []

    async def ask() -> None:
        async with attached(path) as daemon:
            found.extend(await daemon.inspect(what, machine))

    run(ask)
    return found


@click.command()
@json_option
def machines(wants_json: bool) -> None:
    """List the simulated machines of the daemon.

    For each: its memory and how much of it is free, the channels its hosts offer, how many of them are open, and the
    guests that wait for an offer.

    \b
    Example:
        vmbusctl machines
        vmbusctl machines --json
    """
    entries = inspect_daemon("machines")
    if wants_json:
        as_json(entries)
    elif not entries:
        say("The daemon has no machines; add [machines.NAME] to its configuration file.")
    else:
        table(
            ("MACHINE", "STATE", "MEMORY", "FREE", "OFFERS", "OPEN", "WAITING GUESTS"),
            [
                (
                    each["machine"],
                    each["state"],
                    byte_size(each["memory_bytes"]),
                    byte_size(each["free_bytes"]),
                    each["offers"],
                    each["open_channels"],
                    each["waiting_guests"],
                )
                for each in entries
            ],
        )


@click.command()
@click.option("--machine", metavar="MACHINE", help="Only the channels of this machine.")
@json_option
def channels(machine: str | None, wants_json: bool) -> None:
    """List the channels that hosts offer, and who has them open.

    TO HOST and TO GUEST count the packets delivered since the channel was opened; OUTSTANDING are packets of the guest
    that wait for their completion. Below that stands what guests did wrong, and who owes completions for more than a
    second. --json adds more.

    \b
    Example:
        vmbusctl channels
        vmbusctl channels --machine vm1 --json
    """
    entries = inspect_daemon("channels", machine)
    if wants_json:
        as_json(entries)
    elif not entries:
        say(f"No channel is offered; offer one with: vmbusctl serve-echo {machine or 'vm1'}")
    else:
        table(
            ("MACHINE", "INTERFACE", "INSTANCE", "STATE", "OUTSTANDING", "TO HOST", "TO GUEST"),
            [
                (
                    each["machine"],
                    each["interface"],
                    each["instance"],
                    each["state"],
                    each.get("guest_outstanding", 0),
                    each.get("packets_to_host", 0),
                    each.get("packets_to_guest", 0),
                )
                for each in entries
            ],
        )
    if not wants_json:
        _say_mistakes(entries, machine)


@click.command("log-level")
@click.argument("level", type=click.Choice(["debug", "info", "warning", "error"]))
def log_level(level: str) -> None:
    """Change how much the daemon logs, until it is changed again or the daemon starts anew.

    \b
    Example:
        vmbusctl log-level debug
    """
    path = socket_path()
    before: list[str] = []

    async def change() -> None:
        async with attached(path) as daemon:
            before.append(await daemon.set_log_level(level))

    run(change)
    say(f"vmbusd at {path} logs from {level} upwards; until now from {before[0]}.")


def _say_mistakes(entries: Entries, machine: str | None) -> None:
    """In words, below the table: whatever has gone wrong with these channels, and on their machines."""
    said: set[str] = set()
    for each in entries:
        lines = [_counted(violation, said) for violation in each["violations"]]
        lines += [
            owed["text"] for owed in each.get("uncompleted", ()) if owed["oldest_seconds"] >= WORTH_SAYING_SECONDS
        ]
        if each.get("stopped"):
            lines.append(each["stopped"])
        _say_lines(f"channel {each['interface']} (instance {each['instance']}) of {each['machine']}:", lines)
    for each in inspect_daemon("machines", machine):
        latest = [violation for violation in each["vmbus_latest_violations"] if violation["last"] not in said]
        _say_lines(f"machine {each['machine']}:", [_counted(violation, said) for violation in latest])


def _counted(violation: dict[str, Any], said: set[str]) -> str:
    said.add(violation["last"])
    return f"{violation['count']} x {violation['fault']}: {violation['last']}"


def _say_lines(heading: str, lines: list[str]) -> None:
    if lines:
        say(heading)
    for line in lines:
        say(f"  {line}")


@click.command()
@json_option
def version(wants_json: bool) -> None:
    """Show the versions of this program and of the daemon it reaches, and which build of the ring that runs.

    \b
    Example:
        vmbusctl version
        vmbusctl version --json
    """
    path = socket_path()
    document: dict[str, object] = {"client": client_version()}
    if not wants_json:
        say(f"vmbusctl {client_version()}")

    async def ask() -> None:
        async with attached(path) as daemon:
            document["daemon"] = daemon.daemon_version
            document["protocol"] = daemon.protocol_version
            (described,) = await daemon.inspect("daemon")
            document["ring"] = described["ring"]
            document["socket"] = str(path)

    run(ask)
    if wants_json:
        as_json(document)
    else:
        say(f"vmbusd   {document['daemon']} (protocol {document['protocol']}, {document['ring']} ring) at {path}")
