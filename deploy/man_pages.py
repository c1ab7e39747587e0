"""Write the manual pages of vmbusd and vmbusctl, made from their help: ``python deploy/man_pages.py DIRECTORY``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click_man.core import write_man_pages

from clients.cli import vmbusctl
from clients.commands.look import client_version
from emulator.__main__ import main as vmbusd

PROGRAMS: dict[str, click.Command] = {"vmbusd": vmbusd, "vmbusctl": vmbusctl}


def write_pages(directory: Path) -> list[Path]:
    """One page for vmbusd, and one for vmbusctl and each of its commands; the files, in order."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, command in PROGRAMS.items():
        write_man_pages(name, command, version=client_version(), target_dir=str(directory))
    for name, command in commands():
        page = directory / f"{name}.1"
        page.write_text(_finished(page.read_text(), name, command))
    return sorted(directory.glob("*.1"))


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with the name of its page."""
    waiting = list(PROGRAMS.items())
    while waiting:
        name, command = waiting.pop(0)
        yield name, command
        if isinstance(command, click.Group):
            waiting += [(f"{name}-{each}", below) for each, below in command.commands.items()]


def _finished(page: str, name: str, command: click.Command) -> str:
    """No date, so that a page changes only when the help does; a whole first sentence; examples line by line."""
    summary = re.split(r"(?<=\.)\s|\n\n", (command.help or "").strip())[0].replace("\n", " ").rstrip(".")
    page = re.sub(r'^(\.TH "[^"]*" "1") "[^"]*"', r'\1 ""', page, count=1)
    page = re.sub(r"(?<=\.SH NAME\n).*", lambda _: rf"{name} \- {summary}".replace("-", r"\-"), page, count=1)
    page = page.replace(r"\\-", r"\-").replace("\x08", "")
    return re.sub(r"((?:^ {4}.*\n?)+)", r".nf\n\1.fi\n", page, flags=re.MULTILINE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python deploy/man_pages.py DIRECTORY")
    for written in write_pages(Path(sys.argv[1])):
        print(written)  # noqa: T201 -- what was made is what this program says
