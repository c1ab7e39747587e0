"""``vmbusctl``: the group of its commands, and how every end of one becomes an exit code and at most one sentence.

Exit codes: 0 done; 1 it failed, and standard error says why; 2 the command line is wrong; 128 + N ended by signal N,
such as 130 for Ctrl-C; 141 the reader of standard output went away.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from clients.commands.calling import CommandFailed, Interrupted
from clients.commands.compare import compare_wsk
from clients.commands.completion import VARIABLE, completion
from clients.commands.datagrams import datagram
from clients.commands.demo import demo
from clients.commands.inspect import inspect_machine, top, why
from clients.commands.keys import keys
from clients.commands.look import channels, client_version, log_level, machines, version
from clients.commands.machine import machine
from clients.commands.packets import send, serve_echo
from clients.commands.segments import segment, segments
from clients.protocol import ConnectionLost, RequestFailed
from emulator.status import EmulatorError

EXIT_FAILED, EXIT_USAGE, EXIT_CTRL_C, EXIT_NO_READER = 1, 2, 130, 141

# Set to see where an error that nobody foresaw came from.
TRACEBACK_VARIABLE = "VMBUSCTL_TRACEBACK"


@click.group(
    invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    help="Socket of the daemon. [default: $VMBUS_SOCKET, else vmbusd.sock in $XDG_RUNTIME_DIR or /run]",
)
@click.option("--connect", "remote", metavar="PLACE", help="A daemon over UDP instead, such as quic://192.0.2.7:4433.")
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="VMBUS_CREDENTIALS",
    help="What --connect shows: a directory that keys add made. [default: $VMBUS_CREDENTIALS]",
)
@click.version_option(client_version(), prog_name="vmbusctl")
@click.pass_context
def vmbusctl(ctx: click.Context, socket_path: Path | None, remote: str | None, credentials: Path | None) -> None:
    """Look into a running vmbusd, and exchange packets and datagrams with its machines.

    Start the daemon first (vmbusd); only demo brings its own.

    \b
    Example:
        vmbusd &
        vmbusctl machines
        vmbusctl serve-echo vm1 &
        vmbusctl send vm1 --text hello
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


COMMANDS = (
    machines,
    machine,
    channels,
    segments,
    segment,
    inspect_machine,
    why,
    top,
    version,
    log_level,
    send,
    serve_echo,
    datagram,
    compare_wsk,
    keys,
    demo,
    completion,
)
for command in COMMANDS:
    vmbusctl.add_command(command)


def main() -> None:
    """The entry point of the script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Text from elsewhere must not fail a command where the terminal's encoding lacks a letter of it.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(exit_code(sys.argv[1:]))


def exit_code(arguments: Sequence[str]) -> int:
    """Run a command line; its exit code. Whatever went wrong is one sentence on standard error, never a traceback."""
    try:
        try:
            code = vmbusctl.main(list(arguments), prog_name="vmbusctl", standalone_mode=False)
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as ended:
        if VARIABLE in os.environ and isinstance(ended, SystemExit):
            return 0  # click has answered a shell that asked for completions
        # click and rich make a SystemExit of a broken pipe, each on its own.
        _abandon_output()
        return EXIT_NO_READER
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except (KeyboardInterrupt, click.Abort):
        return EXIT_CTRL_C
    except click.UsageError as error:
        return _complain(_usage(error), EXIT_USAGE)
    except click.ClickException as error:
        return _complain(error.format_message(), EXIT_FAILED)
    except (CommandFailed, ConnectionLost, RequestFailed, EmulatorError) as error:
        return _complain(str(error), EXIT_FAILED)
    except OSError as error:
        _abandon_output()
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", EXIT_FAILED)
    except Exception as error:  # noqa: BLE001 -- the last resort: a newcomer gets a sentence, not a traceback
        return _unforeseen(error)
    return code if isinstance(code, int) else 0


def _abandon_output() -> None:
    """Drop what standard output does not take; else the interpreter would try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx is not None else "vmbusctl"
    return f"{error.format_message().rstrip('.')}; see: {command} --help"


def _unforeseen(error: Exception) -> int:
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    text = f"unexpected {type(error).__name__}: {error}; set {TRACEBACK_VARIABLE}=1 and try again to see where"
    return _complain(text, EXIT_FAILED)


def _complain(message: str, code: int) -> int:
    click.echo(f"vmbusctl: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
