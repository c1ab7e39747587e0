"""``compare-wsk``: one scenario as a TDI client and as a WSK client, and where the two differ."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clients.commands.calling import attached, run, socket_path, within
from clients.commands.look import json_option
from clients.commands.output import as_json, say, table

if TYPE_CHECKING:
    from clients.wsk_comparison import Comparison, Outcome

SCENARIO_SECONDS = 60.0


@click.command("compare-wsk")
@click.argument("machine")
@click.option(
    "--network",
    default="udp",
    show_default=True,
    metavar="udp|SEGMENT",
    help="Real UDP and TCP sockets, or a virtual segment of the daemon's by its name (such as lan).",
)
@click.option("--all", "wants_all", is_flag=True, help="Show the steps that agree too.")
@json_option
def compare_wsk(machine: str, network: str, wants_all: bool, wants_json: bool) -> None:
    """Run one scenario on MACHINE as a TDI client and as a Winsock Kernel client, and show where they differ.

    For drivers that move from TDI to WSK: each row is a step with the status either of them gets.

    \b
    Example:
        vmbusctl compare-wsk vm1 --network lan
    """
    run(partial(_compare, socket_path(), machine, network, wants_all, wants_json))


async def _compare(path: Path | str, machine: str, network: str, wants_all: bool, wants_json: bool) -> None:
    # Only here: it brings modules that take as long to load as all of vmbusctl.
    from clients.wsk_comparison import compare

    async with (
        attached(path) as daemon,
        within(SCENARIO_SECONDS, f"the scenario did not come to its end in {SCENARIO_SECONDS:g} s"),
    ):
        found = await compare(await daemon.machine(machine), network)
    if wants_json:
        as_json(_document(found))
        return
    rows = [
        (step.step, _shown(step.tdi), _shown(step.wsk), "differs" if step.differs else "")
        for step in found.steps
        if wants_all or step.differs
    ]
    table(("step", "TDI", "WSK", ""), rows)
    say(f"{sum(step.differs for step in found.steps)} of {len(found.steps)} steps differ")
    if found.order_differs:
        say("the order of completions differs: " + ", ".join(found.wsk_order) + " with WSK")


def _shown(outcome: Outcome | None) -> str:
    if outcome is None:
        return "no such step"
    return f"{outcome.status}, {outcome.byte_count} bytes" if outcome.byte_count else outcome.status


def _document(found: Comparison) -> dict[str, object]:
    steps = [
        {
            "step": step.step,
            "tdi": None if step.tdi is None else step.tdi._asdict(),
            "wsk": None if step.wsk is None else step.wsk._asdict(),
            "differs": step.differs,
        }
        for step in found.steps
    ]
    return {
        "steps": steps,
        "order_differs": found.order_differs,
        "tdi_order": found.tdi_order,
        "wsk_order": found.wsk_order,
    }
