"""``vmbusd``: command line → Config → trio.run(serve, config)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from emulator.config import Config
from emulator.config_file import ConfigError, load
from emulator.config_text import default_document, json_schema
from emulator.daemon.descriptors import TooFewDescriptors, raise_limit, require
from emulator.daemon.gateway_sockets import GatewayUnusable
from emulator.daemon.listeners import PathUnusable
from emulator.daemon.log import configure
from emulator.daemon.quic import QuicUnusable
from emulator.daemon.roles import UnknownName
from emulator.daemon.server import daemon_version, serve
from emulator.daemon.service_manager import ActivationError, ServiceManager
from emulator.place import default_socket_path

F = TypeVar("F", bound=Callable[..., Any])


def _check(ctx: click.Context, _option: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        config = load(path)
    except ConfigError as error:
        click.echo(error, err=True)
        ctx.exit(2)
    click.echo(f"{path}: fine: {len(config.machines)} machines, {len(config.segments)} segments")
    ctx.exit()


def _printing(name: str, document: Callable[[], str], text: str) -> Callable[[F], F]:
    """An option that prints a document and ends."""

    def show(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
        if wanted:
            click.echo(document(), nl=False)
            ctx.exit()

    return click.option(name, is_flag=True, callback=show, expose_value=False, is_eager=True, help=text)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with machines, segments and limits. Without it: machines vm1 and vm2 on one segment, lan.",
)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    help="Unix socket to listen on. [default: $VMBUS_SOCKET, else vmbusd.sock in $XDG_RUNTIME_DIR or /run]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much to log, on standard error.",
)
@click.option(
    "--check-config",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_check,
    expose_value=False,
    is_eager=True,
    help="Say what is wrong with a configuration file, and end: 0 if nothing is, else 2.",
)
@_printing("--print-default-config", default_document, "Print every setting with its default and its reason, and end.")
@_printing("--print-config-schema", json_schema, "Print the JSON Schema of the configuration file, and end.")
@click.version_option(daemon_version(), prog_name="vmbusd")
def main(config_path: Path | None, socket_path: Path | None, log_level: str) -> None:
    """Host VMBus channels and a TDI transport for simulated machines.

    Runs in the foreground until SIGTERM or Ctrl-C; a second one ends it at once. Once it prints "ready", programs
    attach with the client library, and vmbusctl looks inside:

    \b
        vmbusd &
        vmbusctl machines
    """
    configure(log_level)
    path = socket_path or default_socket_path()
    try:
        manager = ServiceManager(os.environ, os.getpid())
        config = load(config_path) if config_path else Config()
        require(config, raise_limit())
        forced_by = trio.run(serve, config, path, _announce, manager, config_path)
    except ConfigError as error:
        click.echo(error, err=True)  # every line begins with its place
        sys.exit(2)
    except (ActivationError, GatewayUnusable, PathUnusable, QuicUnusable, TooFewDescriptors, UnknownName) as error:
        click.echo(f"vmbusd: {error}", err=True)
        sys.exit(2)
    if forced_by is not None:
        sys.exit(128 + forced_by)


def _announce(path: Path) -> None:
    print(f"vmbusd: ready on {path}", flush=True)  # noqa: T201 -- the one line a starter waits for


if __name__ == "__main__":
    main()
