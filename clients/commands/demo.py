"""``demo``: everything at once, with a daemon of its own."""

from __future__ import annotations

from pathlib import Path

import click
import trio

from clients.commands.calling import CommandFailed, run
from clients.commands.output import byte_size, console
from clients.demo.failure import DemoFailed
from clients.demo.progress import display_on
from clients.demo.story import Options, tell_story


@click.command()
@click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
    help="The file to send. [default: an archive of Python's standard library, 32 MiB or more]",
)
@click.option(
    "--packets",
    type=click.IntRange(1, 10_000_000),
    default=Options.packets,
    show_default=True,
    help="Small packets to send, all guests together.",
)
@click.option(
    "--datagrams",
    type=click.IntRange(1, 1_000_000),
    default=Options.datagrams,
    show_default=True,
    help="Datagrams to send on each way; each is answered.",
)
@click.option(
    "--buffer-bytes",
    type=click.IntRange(1, 1024 * 1024),
    default=Options.buffer_bytes,
    show_default=True,
    help="Size of each of the guest's buffers for the file.",
)
def demo(file: Path | None, packets: int, datagrams: int, buffer_bytes: int) -> None:
    """Run a demonstration: it needs nothing, starts everything, checks all of it, and leaves nothing behind.

    It starts a daemon with two machines, and guests and hosts as processes of their own. They send a file through the
    memory of the machines and compare its SHA-256, then small packets, then datagrams between the machines and with
    an ordinary UDP socket. A table at the end says what went through. Ctrl-C ends it at any time.

    \b
    Example:
        vmbusctl demo
        vmbusctl demo --file /usr/bin/python3 --packets 100000
    """
    if file is not None and not file.is_file():
        raise click.BadParameter(f"{file} is not a regular file", param_hint="--file")
    options = Options(file, packets, datagrams, buffer_bytes)
    run(lambda: _demo(options))


async def _demo(options: Options) -> None:
    out = console()
    began = trio.current_time()
    try:
        with display_on(out) as display:
            report = await tell_story(options, display)
    except DemoFailed as failure:
        if failure.log:
            click.echo(f"{failure.log}\n", err=True)
        raise CommandFailed(f"the demonstration failed: {failure}") from None
    report.show(out)
    total = sum(result.byte_count for result in report.results)
    out.print(f"Done in {trio.current_time() - began:.1f} s, {byte_size(total)} in all; nothing is left behind.")
