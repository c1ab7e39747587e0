"""Looking closely: ``inspect`` for the inside of channels, ``why`` one does not move, ``top`` for rates."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click
import trio
from rich.console import Group
from rich.live import Live
from rich.text import Text

from clients.commands.calling import CommandFailed, attached, run, socket_path
from clients.commands.look import Entries, inspect_daemon, json_option
from clients.commands.output import as_json, as_json_line, byte_size, console, drawn, say, table
from clients.diagnosis import Diagnosis, diagnose_absence, diagnose_offer


@click.command("inspect")
@click.argument("machine")
@json_option
def inspect_machine(machine: str, wants_json: bool) -> None:
    """Show the channels of MACHINE from inside: rings, windows, queues and outstanding packets.

    A ring's W and R are its write and read index. MASK is 1 while its reader asks not to be rung. PENDING is the room
    its writer waits for. Of an end, QUEUED packets wait for room in its ring, OUTSTANDING ones for their completion,
    and UNCOMPLETED ones were delivered to it, as many as QUOTA at most; WINDOW IN is what its client may still send,
    WINDOW OUT what may still be delivered to it. A direct end keeps its packets to itself.

    \b
    Example:
        vmbusctl inspect vm1
        vmbusctl inspect vm1 --json
    """
    entries = inspect_daemon("details", machine)
    if wants_json:
        as_json(entries)
        return
    if not entries:
        say(f"No channel is offered on {machine}; offer one with: vmbusctl serve-echo {machine}")
    for entry in entries:
        number = f" {entry['channel']}" if "channel" in entry else ""
        say(f"channel{number} {entry['interface']} (instance {entry['instance']}): {entry['state']}")
        if "rings" in entry:
            _show_rings(entry["rings"])
            _show_ends(entry["ends"])
            for owed in entry.get("uncompleted", ()):
                say(owed["text"])


def _show_rings(rings: dict[str, dict[str, Any]]) -> None:
    table(
        ("RING", "SIZE", "W", "R", "USED", "FREE", "MASK", "PENDING"),
        [
            (
                name.replace("_", " "),
                ring["data_bytes"],
                ring["write_index"],
                ring["read_index"],
                "damaged" if ring["used_bytes"] is None else ring["used_bytes"],
                "damaged" if ring["free_bytes"] is None else ring["free_bytes"],
                ring["interrupt_mask"],
                ring["pending_send_bytes"],
            )
            for name, ring in rings.items()
        ],
    )


def _show_ends(ends: dict[str, dict[str, Any]]) -> None:
    def window(of: dict[str, int] | None) -> str:
        return f"{of['packets']} / {byte_size(of['bytes'])}" if of is not None else "-"

    table(
        ("END", "MODE", "QUEUED", "OUTSTANDING", "UNCOMPLETED", "QUOTA", "WINDOW IN", "WINDOW OUT", "CLIENT"),
        [
            (
                name,
                end["mode"],
                end.get("queued_packets", "-"),
                end.get("outstanding", "-"),
                end.get("uncompleted", "-"),
                end.get("quota", "-"),
                window(end.get("window_in")),
                window(end.get("window_out")),
                end["session"],
            )
            for name, end in ends.items()
        ],
    )


@click.command()
@click.argument("channel", metavar="MACHINE[/CHANNEL]")
@json_option
def why(channel: str, wants_json: bool) -> None:
    """Say in one sentence why a channel is not moving, and what to do next.

    A channel is named by its machine and its number, its interface or its instance; without one, every channel of the
    machine is looked at.

    \b
    Example:
        vmbusctl why vm1
        vmbusctl why vm1/3
        vmbusctl why vm1/5c0e3ab1-6f2d-4c8e-9a57-e0c00c0ffee1 --json
    """
    machine, _, wanted = channel.partition("/")
    found = [
        (_name_of(entry), diagnose_offer(entry)) for entry in inspect_daemon("details", machine) if _is(entry, wanted)
    ]
    if not found:
        found = [(channel, _absence(machine, wanted))]
    if wants_json:
        as_json([{"channel": name, **diagnosis._asdict()} for name, diagnosis in found])
        return
    for name, diagnosis in found:
        say(f"{name}: {diagnosis.sentence}")
        say(f"    {diagnosis.next_step}")


def _absence(machine: str, wanted: str) -> Diagnosis:
    (described,) = inspect_daemon("machines", machine)
    waiting = inspect_daemon("waiting", machine)
    return diagnose_absence(described, [each for each in waiting if _is(each, wanted)])


def _is(entry: dict[str, Any], wanted: str) -> bool:
    """Whether an entry is of the channel that is wanted: by number, by interface or by instance."""
    if not wanted:
        return True
    if wanted.isdecimal():
        return entry.get("channel") == int(wanted)
    try:
        identity = str(UUID(wanted))
    except ValueError:
        raise CommandFailed(
            f"{wanted!r} is neither the number of a channel nor a GUID; see: vmbusctl channels"
        ) from None
    return identity in (entry["interface"], entry["instance"])


def _name_of(entry: dict[str, Any]) -> str:
    return f"{entry['machine']}/{entry.get('channel') or entry['interface']}"


@click.command()
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--count", type=click.IntRange(min=1), help="End after so many looks. [default: go on until Ctrl-C]")
@json_option
def top(interval: float, count: int | None, wants_json: bool) -> None:
    """Show what every machine is doing, again and again: packets and bytes a second, channels, memory.

    Busy machines come first. Rates are of packets that hosted ends took out of rings; those between two direct ends
    pass the daemon by. With --json every look is a line of its own.

    \b
    Example:
        vmbusctl top
        vmbusctl top --interval 0.5 --count 10 --json
    """
    path = socket_path()

    async def look() -> None:
        out = console()
        live = Live(console=out, auto_refresh=False, transient=False) if out.is_terminal and not wants_json else None
        async with attached(path) as daemon:
            before: Entries = []
            looks = 0
            began = trio.current_time()
            if live is not None:
                live.start()
            try:
                while count is None or looks < count:
                    entries = await daemon.inspect("machines")
                    now = trio.current_time()
                    rates = _rates(before, entries, now - began)
                    before, began = entries, now
                    looks += 1
                    _show(rates, live, wants_json=wants_json)
                    if count is None or looks < count:
                        await trio.sleep(interval)
            finally:
                if live is not None:
                    live.stop()

    run(look)


COUNTED = ("packets_to_host", "packets_to_guest", "bytes_to_host", "bytes_to_guest")


def _rates(before: Entries, now: Entries, seconds: float) -> Entries:
    """Each machine with its rates; the first look has none. The busiest comes first."""
    old = {entry["machine"]: entry for entry in before}
    rated: Entries = []
    for entry in now:
        past = old.get(entry["machine"])
        rates = {
            f"{name}_per_second": round((entry[name] - past[name]) / seconds, 1) if past and seconds > 0 else 0.0
            for name in COUNTED
        }
        rated.append({**entry, **rates})
    return sorted(rated, key=lambda each: -(each["packets_to_host_per_second"] + each["packets_to_guest_per_second"]))


def _show(rates: Entries, live: Live | None, *, wants_json: bool) -> None:
    if wants_json:
        as_json_line(rates)
        return
    shown = drawn(
        ("MACHINE", "STATE", "OPEN", "WAITING", "TO HOST/S", "TO GUEST/S", "BYTES/S", "FREE"),
        [
            (
                each["machine"],
                each["state"],
                each["open_channels"],
                each["waiting_guests"],
                each["packets_to_host_per_second"],
                each["packets_to_guest_per_second"],
                byte_size(each["bytes_to_host_per_second"] + each["bytes_to_guest_per_second"]),
                byte_size(each["free_bytes"]),
            )
            for each in rates
        ],
    )
    if live is None:
        console().print(shown)
    else:
        live.update(Group(Text("vmbusd, Ctrl-C ends", style="dim"), shown), refresh=True)
