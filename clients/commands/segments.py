"""Virtual networks of a running daemon: ``segments`` shows them, ``segment NAME set`` changes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from clients.commands.calling import attached, run, socket_path
from clients.commands.look import json_option
from clients.commands.output import as_json, say, table

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}
_MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_NUMBER = re.compile(r"([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)([A-Za-z%]*)")


def _number(text: str, units: dict[str, float], meaning: str) -> float:
    found = _NUMBER.fullmatch(text)
    if found is None or found[2] not in units:
        raise ValueError(f"{meaning}, not {text!r}")
    return float(found[1]) * units[found[2]]


def _probability(text: str) -> float:
    return _number(text, {"": 1.0, "%": 0.01}, "a probability such as 0.05 or 5%")


def _seconds(text: str) -> float:
    return _number(text, _UNITS, "a time such as 0.02, 20ms or 500us")


def _rate(text: str) -> float:
    return _number(text, dict(_MULTIPLES), "bytes per second such as 125000, 125k or 2M; 0 for no limit")


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"a whole number, not {text!r}")
    return int(text)


def _switch(text: str) -> bool:
    if text not in ("yes", "no", "true", "false"):
        raise ValueError(f"yes or no, not {text!r}")
    return text in ("yes", "true")


def _sides(text: str) -> list[list[str]]:
    """``vm1,vm2/vm3`` are two sides; nothing is none."""
    return [side.split(",") for side in text.split("/") if side]


# Each with the setting of the daemon's it stands for.
SETTINGS: dict[str, tuple[str, Callable[[str], object]]] = {
    "latency": ("latency_seconds", _seconds),
    "jitter": ("jitter_seconds", _seconds),
    "loss": ("loss", _probability),
    "duplication": ("duplication", _probability),
    "reordering": ("reordering", _probability),
    "reordering-time": ("reordering_seconds", _seconds),
    "rate": ("rate_bytes_per_second", _rate),
    "backlog": ("rate_backlog_seconds", _seconds),
    "longest": ("maximum_datagram_bytes", _whole),
    "partition": ("partition", _sides),
    "stalled": ("stalled", _switch),
    "seed": ("seed", _whole),
}


@click.command()
@json_option
def segments(wants_json: bool) -> None:
    """List the virtual networks of the daemon, what they do to datagrams, and what has become of those.

    SENT counts datagrams; LOST, CUT and DROPPED count receivers that did not get one: by chance, because of a
    partition, for want of room. --json adds more.

    \b
    Example:
        vmbusctl segments
        vmbusctl segments --json
    """
    path = socket_path()
    found: list[dict[str, Any]] = []

    async def ask() -> None:
        async with attached(path, map_memory=False) as daemon:
            found.extend(await daemon.inspect("segments"))

    run(ask)
    if wants_json:
        as_json(found)
    elif not found:
        say("The daemon has no segments; add [segments.NAME] to its configuration file.")
    else:
        _show(found)


@click.command()
@click.argument("name")
@click.argument("action", type=click.Choice(["set"]))
@click.argument("settings", nargs=-1, required=True, metavar="SETTING=VALUE...")
@json_option
def segment(name: str, action: str, settings: tuple[str, ...], wants_json: bool) -> None:
    """Change what the segment NAME does to datagrams and connections, while the daemon runs.

    \b
    latency, jitter, reordering-time, backlog   a time: 0.02, 20ms, 500us
    loss, duplication, reordering               a probability: 0.05, 5%
    rate                                        bytes per second: 125k, 2M; 0 for no limit
    longest                                     bytes of the longest datagram
    partition                                   sides: vm1,vm2/vm3; nothing heals it
    stalled                                     yes or no: sends wait
    seed                                        a number: chance begins anew

    \b
    Example:
        vmbusctl segment lan set latency=20ms jitter=5ms loss=1%
        vmbusctl segment lan set partition=vm1/vm2,vm3
        vmbusctl segment lan set partition= loss=0 latency=0
    """
    run(partial(_change, socket_path(), name, _changes(settings), wants_json))


def _changes(settings: tuple[str, ...]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign or key not in SETTINGS:
            known = ", ".join(SETTINGS)
            raise click.BadParameter(f"{text!r} is not SETTING=VALUE; the settings are {known}", param_hint="SETTING")
        setting, read = SETTINGS[key]
        try:
            changes[setting] = read(value)
        except ValueError as error:
            raise click.BadParameter(f"{key} is {error}", param_hint="SETTING") from None
    return changes


async def _change(path: Path | str, name: str, changes: dict[str, Any], wants_json: bool) -> None:
    async with attached(path, map_memory=False) as daemon:
        shown = await daemon.change_segment(name, **changes)
    if wants_json:
        as_json(shown)
    else:
        _show([shown])


def _show(found: list[dict[str, Any]]) -> None:
    table(
        ("SEGMENT", "SUBNET", "MACHINES", "IMPAIRMENTS", "SENT", "LOST", "CUT", "DROPPED", "IN FLIGHT"),
        [
            (
                each["segment"],
                each["subnet"],
                len(each["machines"]),
                _impairments(each),
                each["sent"],
                each["lost"],
                each["cut"],
                each["overflowed"],
                each["in_flight"],
            )
            for each in found
        ],
    )


def _impairments(each: dict[str, Any]) -> str:
    """Those that are on, as ``segment set`` takes them."""
    shown = []
    for key in ("latency", "jitter"):
        if each[f"{key}_seconds"]:
            shown.append(f"{key}={each[f'{key}_seconds'] * 1000:g}ms")
    shown += [f"{key}={each[key] * 100:g}%" for key in ("loss", "duplication", "reordering") if each[key]]
    if each["rate_bytes_per_second"]:
        shown.append(f"rate={each['rate_bytes_per_second']:g}")
    if each["partition"]:
        shown.append("partition=" + "/".join(",".join(side) for side in each["partition"]))
    if each["stalled"]:
        shown.append("stalled=yes")
    return " ".join(shown) or "none"
