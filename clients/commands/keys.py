"""Keys of clients over UDP: ``keys init``, ``add``, ``list``, ``show``, ``grant``, ``revoke``.

They work on the daemon's keys directory, as the user it belongs to. A daemon that runs is told, if it can be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clients.calls import ConnectionLost, RequestFailed
from clients.commands.calling import CommandFailed, attached, run, socket_path
from clients.commands.look import json_option
from clients.commands.output import as_json, say, table
from emulator.remote import RemoteUnavailable, require_quic
from emulator.wire.schema import KEYS_RELOAD

if TYPE_CHECKING:
    from emulator.remote.keyring import ClientKey, Keyring

T = TypeVar("T")
CLIENT_DAYS = 365


@click.group()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="VMBUS_KEYS",
    help="The daemon's keys directory, as [listen.quic] keys names it. [default: $VMBUS_KEYS]",
)
@click.pass_context
def keys(ctx: click.Context, directory: Path | None) -> None:
    """Say which clients over UDP the daemon lets in, and what they may do.

    Each has a certificate of the daemon's own small authority. There is no way in without one.

    \b
    Example:
        export VMBUS_KEYS=~/.config/vmbusd/keys
        vmbusctl keys init
        vmbusctl keys add laptop --grant vm1=guest,datagram
        vmbusctl keys revoke laptop
    """
    ctx.obj = directory


def _directory(ctx: click.Context) -> Path:
    """The keys directory of this command line. The help of a command needs none."""
    if ctx.obj is None:
        raise click.UsageError("say which keys directory: vmbusctl keys --directory DIRECTORY, or set VMBUS_KEYS")
    return Path(ctx.obj)


def _with_keyring(ctx: click.Context, work: Callable[[Keyring], T]) -> T:
    """Do something with the directory of this command line, and turn what is wrong with it into a sentence."""
    try:
        require_quic()
    except RemoteUnavailable as error:
        raise CommandFailed(str(error)) from None
    from emulator.remote.keyring import Keyring, KeysUnusable

    try:
        return work(Keyring(_directory(ctx)))
    except KeysUnusable as error:
        raise CommandFailed(str(error)) from None


@keys.command()
@click.pass_context
def init(ctx: click.Context) -> None:
    """Make a keys directory: an authority, and the daemon's own key.

    \b
    Example:
        export VMBUS_KEYS=~/.config/vmbusd/keys
        vmbusctl keys init
    """
    try:
        require_quic()
    except RemoteUnavailable as error:
        raise CommandFailed(str(error)) from None
    from emulator.remote.certificates import fingerprint
    from emulator.remote.keyring import Keyring, KeysUnusable

    try:
        keyring = Keyring.init(_directory(ctx))
    except KeysUnusable as error:
        raise CommandFailed(str(error)) from None
    say(f"keys are in {_directory(ctx)}; keep this directory to the daemon's user")
    say(f"authority: {fingerprint(keyring.authority_certificate())}")
    say(f"daemon:    {fingerprint(keyring.daemon().certificate)}")


@keys.command()
@click.argument("name")
@click.option("--grant", "grants", metavar="MACHINE=ROLES", multiple=True, help="Such as vm1=guest,host; repeatable.")
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    default=CLIENT_DAYS,
    show_default=True,
    help="How long it is good.",
)
@click.pass_context
def add(ctx: click.Context, name: str, grants: tuple[str, ...], days: float) -> None:
    """Make a key for a client, and a directory with what its program needs.

    Take that directory to where the client runs, over a way that nobody else can read, and remove it here. Roles are
    guest, host and datagram.

    \b
    Example:
        vmbusctl keys add laptop --grant vm1=guest,datagram --grant vm2=host
    """
    wanted = dict(_grant(each) for each in grants)
    where = _with_keyring(ctx, lambda keyring: keyring.add(name, wanted, days))
    shown = _with_keyring(ctx, lambda keyring: keyring.find(name))
    say(f"credentials of {name} are in {where}; take them to the client, and remove them here")
    say(f"fingerprint: {shown.fingerprint}")
    _tell_daemon()


def _grant(text: str) -> tuple[str, tuple[str, ...]]:
    machine, equals, roles = text.partition("=")
    if not (machine and equals and roles):
        raise click.UsageError(f"{text!r} is no grant; write it like vm1=guest,datagram")
    return machine, tuple(roles.split(","))


@keys.command()
@click.argument("name")
@click.argument("machine")
@click.argument("roles", nargs=-1)
@click.pass_context
def grant(ctx: click.Context, name: str, machine: str, roles: tuple[str, ...]) -> None:
    """Say which ROLES a key has on MACHINE from now on; none takes away what it had there.

    Whoever is attached and loses a role by this is told goodbye.

    \b
    Example:
        vmbusctl keys grant laptop vm1 guest datagram
        vmbusctl keys grant laptop vm2
    """
    changed = _with_keyring(ctx, lambda keyring: keyring.grant(name, machine, roles))
    say(f"{name} may be: {_roles(changed)}")
    _tell_daemon()


@keys.command()
@click.argument("name")
@click.pass_context
def revoke(ctx: click.Context, name: str) -> None:
    """Never let a key in again, and end its sessions.

    \b
    Example:
        vmbusctl keys revoke laptop
    """
    _with_keyring(ctx, lambda keyring: keyring.revoke(name))
    say(f"{name} is revoked")
    _tell_daemon()


@keys.command("list")
@json_option
@click.pass_context
def list_keys(ctx: click.Context, wants_json: bool) -> None:
    """List the keys and what each may do.

    \b
    Example:
        vmbusctl keys list
    """
    known = list(_with_keyring(ctx, lambda keyring: keyring.clients()).values())
    if wants_json:
        as_json([_entry(each) for each in known])
    elif not known:
        say("There are no keys; make one with: vmbusctl keys add NAME --grant vm1=guest")
    else:
        rows = [(each.name, _state(each), each.expires[:10], _roles(each), each.fingerprint[:16]) for each in known]
        table(("KEY", "STATE", "EXPIRES", "MAY BE", "FINGERPRINT"), rows)


@keys.command()
@click.argument("name", required=False)
@json_option
@click.pass_context
def show(ctx: click.Context, name: str | None, wants_json: bool) -> None:
    """Show one key in full, or the daemon's own.

    \b
    Example:
        vmbusctl keys show laptop
    """
    if name is None:
        _show_daemon(ctx, wants_json)
        return
    found = _with_keyring(ctx, lambda keyring: keyring.find(name))
    if wants_json:
        as_json(_entry(found))
        return
    say(f"key:         {found.name}")
    say(f"state:       {_state(found)}")
    say(f"fingerprint: {found.fingerprint}")
    say(f"made:        {found.created}")
    say(f"expires:     {found.expires}")
    say(f"may be:      {_roles(found)}")


def _show_daemon(ctx: click.Context, wants_json: bool) -> None:
    def look(keyring: Keyring) -> dict[str, str]:
        from emulator.remote.certificates import fingerprint

        own = keyring.daemon().certificate
        return {
            "authority": fingerprint(keyring.authority_certificate()),
            "daemon": fingerprint(own),
            "expires": own.not_valid_after_utc.isoformat(),
        }

    found = _with_keyring(ctx, look)
    if wants_json:
        as_json(found)
    else:
        for what, value in found.items():
            say(f"{what + ':':<10} {value}")


def _entry(key: ClientKey) -> dict[str, Any]:
    return asdict(key) | {"state": _state(key)}


def _state(key: ClientKey) -> str:
    from emulator.remote.certificates import utc_now

    if key.revoked is not None:
        return "revoked"
    return "expired" if key.expires <= utc_now().isoformat() else "good"


def _roles(key: ClientKey) -> str:
    held: Iterable[str] = (f"{machine}={','.join(roles)}" for machine, roles in sorted(key.grants.items()))
    return " ".join(held) or "nothing"


def _tell_daemon() -> None:
    """Have a running daemon read the register; where there is none to be reached, say what to do."""
    told: list[tuple[int, int]] = []

    async def tell() -> None:
        async with attached(path, map_memory=False) as daemon:
            let_in, ended = await daemon.request(KEYS_RELOAD)
            told.append((let_in, ended))

    path = socket_path()
    try:
        run(tell)
    except (CommandFailed, ConnectionLost, RequestFailed):
        say("no running daemon was told; one that serves these keys reads them again on SIGHUP, or when it starts")
    else:
        say(f"the daemon lets {told[0][0]} keys in; sessions ended: {told[0][1]}")
