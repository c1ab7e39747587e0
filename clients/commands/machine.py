"""Machines that come and go while the daemon runs: ``machine create`` and ``machine remove``."""

from __future__ import annotations

import tomllib
from typing import Any

import click

from clients.commands.calling import CommandFailed, attached, run, socket_path
from clients.commands.output import say


@click.group()
def machine() -> None:
    """Create machines, and remove them.

    \b
    Example:
        vmbusctl machine create scratch
        vmbusctl machine remove scratch
    """


@machine.command("create")
@click.argument("name")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="A setting, as [machines.NAME] in the configuration has it; may be given more than once.",
)
def create(name: str, settings: tuple[str, ...]) -> None:
    """Make a machine, until it is removed or the daemon ends.

    \b
    Example:
        vmbusctl machine create scratch
        vmbusctl machine create small --set memory_bytes=4194304 --set segments.lan='"10.0.0.9"'
    """
    wanted = _document(settings)
    path = socket_path()

    async def make() -> None:
        async with attached(path) as daemon:
            await daemon.create_machine(name, wanted)

    run(make)
    say(f"{name} is there; it stays until it is removed or the daemon ends.")


def _document(settings: tuple[str, ...]) -> dict[str, Any]:
    """Settings as a document; each is a line of TOML, where a bare word stands for itself."""
    lines = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise CommandFailed(f"{setting!r} is no setting; write it as KEY=VALUE")
        lines.append(f"{key} = {value}")
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        text = f"a setting is not TOML: {error}; text wants quotes, as in --set 'profile=\"strict\"'"
        raise CommandFailed(text) from None


@machine.command("remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even while channels of it are open.")
def remove(name: str, force: bool) -> None:
    """Take a machine away: its channels and addresses close, its clients are told, its memory is gone.

    \b
    Example:
        vmbusctl machine remove scratch
        vmbusctl machine remove vm1 --force
    """
    path = socket_path()

    async def take_away() -> None:
        async with attached(path) as daemon:
            await daemon.remove_machine(name, force=force)

    run(take_away)
    say(f"{name} is gone.")
