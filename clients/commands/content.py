"""Bytes from options (``--text``, ``--file``, ``--hex``, HOST:PORT), and how bytes are shown to people."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click

from clients.commands.calling import CommandFailed

Command = TypeVar("Command", bound=Callable[..., Any])

SHOWN_BYTES = 256


def ip_address(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """The callback of a HOST parameter: an IP address in its usual spelling."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        text = f"{value!r} is not an IP address; names are not looked up, so give one such as 127.0.0.1"
        raise click.BadParameter(text, ctx, param) from None


def host_and_port(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """The callback of a HOST:PORT option; an IPv6 address may stand in brackets, and no address means 0.0.0.0."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        text = f"{value!r} does not end in a port from 0 to 65535, as in 127.0.0.1:5353"
        raise click.BadParameter(text, ctx, param)
    return ip_address(ctx, param, host.removeprefix("[").removesuffix("]") or "0.0.0.0"), int(port)


def guid(ctx: click.Context, param: click.Parameter, value: str) -> UUID:
    """The callback of a GUID option; braces and dashes may be left out."""
    try:
        return UUID(value)
    except ValueError:
        text = f"{value!r} is not a GUID, such as 5c0e3ab1-6f2d-4c8e-9a57-e0c00c0ffee1"
        raise click.BadParameter(text, ctx, param) from None


def contents_options(command: Command) -> Command:
    """Add ``--text``, ``--file`` and ``--hex`` to a command; ``contents`` makes bytes of them."""
    file_type = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
    for option in (
        click.option("--hex", "hex_digits", metavar="DIGITS", help="Send these bytes, such as 'de ad be ef'."),
        click.option("--file", type=file_type, help="Send the bytes of this file; - is standard input."),
        click.option("--text", help="Send this text, as UTF-8."),
    ):
        command = option(command)
    return command


def contents(text: str | None, file: Path | None, hex_digits: str | None, most_bytes: int) -> bytes:
    """The bytes that the options name; none of them means no bytes. Fails when they are more than ``most_bytes``."""
    if sum(option is not None for option in (text, file, hex_digits)) > 1:
        raise click.UsageError("--text, --file and --hex exclude each other; give one of them")
    if file is not None:
        return read_file(file, most_bytes)
    if hex_digits is not None:
        try:
            data = bytes.fromhex(hex_digits)
        except ValueError:
            raise click.UsageError(
                f"--hex takes pairs of hex digits, such as 'de ad be ef', not {hex_digits!r}"
            ) from None
    else:
        data = os.fsencode(text or "")
    return _checked(data, most_bytes, "they are")


def read_file(path: Path, most_bytes: int) -> bytes:
    """All of a file, or of standard input for ``-``; fails, having read no more than that, above ``most_bytes``."""
    if str(path) == "-":
        return _checked(sys.stdin.buffer.read(most_bytes + 1), most_bytes, "standard input is")
    try:
        with path.open("rb") as source:
            return _checked(source.read(most_bytes + 1), most_bytes, f"{path} is")
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}; give another file") from None


def _checked(data: bytes, most_bytes: int, what: str) -> bytes:
    if len(data) > most_bytes:
        raise CommandFailed(f"at most {most_bytes:,} bytes can be sent at once, and {what} longer; send less")
    return data


def shown(data: bytes) -> str:
    """Bytes for people: text in quotes where they are printable text, with padding zeros counted; hex otherwise."""
    if not data:
        return "empty"
    body = data.rstrip(b"\0") if data.count(0) < len(data) else data
    zeros = f" and {len(data) - len(body)} zero bytes of padding" if len(body) < len(data) else ""
    text = printable(body)
    if text is not None and len(data) - len(body) < 8:
        return f'"{text}"{zeros}'
    more = f" ... ({len(data):,} bytes)" if len(data) > SHOWN_BYTES else ""
    return f"hex {data[:SHOWN_BYTES].hex(' ')}{more}"


def printable(data: bytes) -> str | None:
    """The text that bytes are, if they are short and nothing in it could confuse a terminal."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() and len(text) <= SHOWN_BYTES else None
