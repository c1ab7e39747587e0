"""Who gets in over UDP: nobody without a good key, with it what was granted, and no longer than it holds."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import clients.sync
from clients import Connection, ConnectionLost, RequestFailed, connect
from emulator.remote.certificates import issue_client
from emulator.remote.credentials import write_credentials
from emulator.remote.keyring import Keyring
from emulator.status import NtStatus
from emulator.wire.schema import KEYS_RELOAD, MACHINE_ATTACH
from tests.endtoend.programs import ECHO
from tests.support.processes import ProcessFailed, start_daemon
from tests.support.remote import RemoteDaemon, quic_section, start_remote

PATIENCE_SECONDS = 20.0


async def reload_keys(remote: RemoteDaemon) -> tuple[int, int]:
    async with connect(remote.daemon.socket_path) as local:
        let_in, ended = await local.request(KEYS_RELOAD)
        return let_in, ended


def of_another_authority(remote: RemoteDaemon, tmp_path: Path) -> Path:
    """A good key of somebody else's, for whoever trusts this daemon."""
    other = Keyring.init(tmp_path / "other").add("everything", {})
    shutil.copy(remote.credentials / "ca.pem", other / "ca.pem")
    return other


def expired(remote: RemoteDaemon, tmp_path: Path) -> Path:
    return remote.add("late", days=-1)


def revoked(remote: RemoteDaemon, tmp_path: Path) -> Path:
    where = remote.add("former")
    remote.keyring.revoke("former")
    return where


def unregistered(remote: RemoteDaemon, tmp_path: Path) -> Path:
    """The authority signed it, and the register does not know it: as if somebody had got at the authority's key."""
    authority = remote.keyring._key("ca.key")
    from emulator.remote.certificates import Certified

    ca = Certified(remote.keyring.authority_certificate(), authority)
    write_credentials(tmp_path / "unregistered", ca.certificate_pem(), issue_client(ca, "everything"))
    return tmp_path / "unregistered"


def daemons_own(remote: RemoteDaemon, tmp_path: Path) -> Path:
    """The daemon's own certificate is signed by the authority, and is none for a client."""
    write_credentials(tmp_path / "own", (remote.credentials / "ca.pem").read_bytes(), remote.keyring.daemon())
    return tmp_path / "own"


REFUSED: tuple[tuple[Callable[[RemoteDaemon, Path], Path], str], ...] = (
    (of_another_authority, "the certificate is not of this daemon's authority"),
    (expired, "the certificate has expired"),
    (revoked, "the key 'former' was revoked"),
    (unregistered, "this certificate is not in the daemon's register"),
    (daemons_own, "the certificate is not one for a client"),
)


async def test_a_certificate_that_is_not_good_is_refused_and_the_client_told(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote:
        made = [(make(remote, tmp_path), reason) for make, reason in REFUSED]
        await reload_keys(remote)
        for where, reason in made:
            with pytest.raises(ConnectionLost, match=reason):
                async with connect(remote.where, credentials=where):
                    raise AssertionError("it was let in")
        async with connect(remote.where, credentials=remote.credentials) as good:
            (described,) = await good.inspect("daemon")
        assert described["quic_refused"] == len(made)
        assert described["sessions"] == 1, "nothing of the others reached a session"


async def test_a_client_does_not_talk_to_a_daemon_of_another_authority_or_to_another_client(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote:
        stranger = Keyring.init(tmp_path / "other").add("everything", {})
        with pytest.raises(ConnectionLost, match="could not be authenticated with these credentials"):
            async with connect(remote.where, credentials=stranger):
                raise AssertionError("it trusted a stranger")


async def test_credentials_that_cannot_be_used_say_what_to_do(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote:
        with pytest.raises(ConnectionLost, match="needs credentials=DIRECTORY"):
            async with connect(remote.where):
                pass
        with pytest.raises(ConnectionLost, match=r"cannot be read: No such file"):
            async with connect(remote.where, credentials=tmp_path / "none"):
                pass
        (remote.credentials / "client.key").chmod(0o644)
        with pytest.raises(ConnectionLost, match="is open to others"):
            async with connect(remote.where, credentials=remote.credentials):
                pass
        with pytest.raises(ValueError, match="no place of a daemon"):
            async with connect("quic://somewhere", credentials=remote.credentials):
                pass
        with pytest.raises(ValueError, match="packet_bytes must be 1200 to 65000, not 100; every path carries 1200"):
            async with connect(remote.where, credentials=remote.credentials, packet_bytes=100):
                pass
        with pytest.raises(ValueError, match="between its calls nothing runs"):
            with clients.sync.connect(remote.where):
                pass


async def test_a_key_may_do_what_it_was_granted_and_knows_of_nothing_else(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote:
        where = remote.add("guest", {"vm1": ("guest",)})
        await reload_keys(remote)
        async with connect(remote.where, credentials=where) as attached:
            machine = await attached.machine("vm1")
            with pytest.raises(RequestFailed, match="key 'guest' may not be a host of machine vm1") as refused:
                await machine.offer_channel(ECHO)
            assert refused.value.status is NtStatus.ACCESS_DENIED
            with pytest.raises(RequestFailed, match="there is no machine 'vm2'"):
                await attached.machine("vm2")
            assert [each["machine"] for each in await attached.inspect("machines")] == ["vm1"]
            with pytest.raises(RequestFailed, match=r"may not use keys\.reload"):
                await attached.request(KEYS_RELOAD)


async def test_what_needs_a_descriptor_is_refused_over_udp(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote, connect(remote.where, credentials=remote.credentials) as attached:
        with pytest.raises(RequestFailed, match="descriptors do not cross a network") as refused:
            await attached.request(MACHINE_ATTACH, "vm1", True)
        assert refused.value.status is NtStatus.NOT_SUPPORTED
        assert not (await attached.machine("vm1")).memory.is_mapped


@pytest.mark.parametrize("how", ["request", "signal"])
async def test_a_revoked_key_loses_its_live_sessions_and_nobody_else_does(tmp_path: Path, how: str) -> None:
    async with start_remote(tmp_path) as remote:
        where = remote.add("former")
        await reload_keys(remote)

        async def be_revoked() -> None:
            async with connect(remote.where, credentials=where) as attached:
                machine = await attached.machine("vm1")
                await machine.offer_channel(ECHO)
                remote.keyring.revoke("former")
                if how == "request":
                    assert await reload_keys(remote) == (1, 1)
                else:
                    os.kill(remote.daemon.pid, signal.SIGHUP)
                await until_lost(attached)

        async with connect(remote.where, credentials=remote.credentials) as other:
            with pytest.raises(ConnectionLost, match="the key 'former' was revoked"):
                await be_revoked()
            await other.ping()
            assert await other.inspect("channels", "vm1") == [], "what it had offered is gone"


async def test_a_session_ends_with_its_certificate(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote:
        where = remote.add("brief", days=8 / 86_400)
        await reload_keys(remote)

        async def outlive_it() -> None:
            async with connect(remote.where, credentials=where) as attached:
                offered = await (await attached.machine("vm1")).offer_channel(ECHO)
                with (
                    trio.fail_after(PATIENCE_SECONDS),
                    pytest.raises(RequestFailed, match="the certificate has expired"),
                ):
                    await offered.opened()
                await attached.ping()

        with pytest.raises(ConnectionLost, match="the certificate has expired"):
            await outlive_it()


async def until_lost(attached: Connection) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            await attached.ping()


async def test_a_key_that_loses_a_role_has_to_come_again_and_one_that_gets_more_just_has_it(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote:
        where = remote.add("changing", {"vm1": ("guest",)})
        await reload_keys(remote)

        async def be_changed() -> None:
            async with connect(remote.where, credentials=where) as attached:
                machine = await attached.machine("vm1")
                remote.keyring.grant("changing", "vm1", ("guest", "host"))
                assert await reload_keys(remote) == (2, 0)
                await machine.offer_channel(ECHO)
                remote.keyring.grant("changing", "vm1", ("guest",))
                assert await reload_keys(remote) == (2, 1)
                await until_lost(attached)

        with pytest.raises(ConnectionLost, match="may do less from now on"):
            await be_changed()


async def test_a_damaged_register_changes_nothing(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote, connect(remote.where, credentials=remote.credentials) as attached:
        (remote.keyring.directory / "clients.json").write_text("{")
        with pytest.raises(RequestFailed, match="is damaged"):
            await reload_keys(remote)
        await attached.ping()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (shutil.rmtree, "has no keys; make them with: vmbusctl keys"),
        (lambda keys: (keys / "daemon.key").chmod(0o640), "is open to others"),
        (lambda keys: (keys / "daemon.pem").write_text("x"), r"\[listen.quic\] keys"),
    ],
)
async def test_a_daemon_whose_keys_cannot_be_used_does_not_start(
    tmp_path: Path, spoil: Callable[[Path], object], complaint: str
) -> None:
    keys = tmp_path / "keys"
    Keyring.init(keys)
    spoil(keys)
    with pytest.raises(ProcessFailed, match=complaint):
        async with start_daemon(tmp_path, quic_section(keys)):
            pass


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote:
        port = int(remote.where.rpartition(":")[2])
        with pytest.raises(ProcessFailed, match="Address already in use; choose another port"):
            async with start_daemon(tmp_path, quic_section(remote.keyring.directory, port=port), name="second"):
                pass
