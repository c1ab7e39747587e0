"""The table of roles, and the lists of who may have them."""

from __future__ import annotations

import grp
import os
import pwd
import socket

import pytest

from emulator.config import AccessConfig, Config, DaemonAccessConfig, MachineConfig
from emulator.daemon.roles import (
    MACHINE_ROLES,
    REQUIRED,
    Access,
    Identity,
    Role,
    UnknownName,
    identity_of_peer,
    is_decided,
)
from emulator.wire.schema import BY_NAME, METHODS, Direction

# What a client names here it was given before, by a method that did ask for a role.
OWN = {"driver", "offer", "channel", "address", "file", "connection", "filter", "msgid", "request"}
FREE = {"hello", "ping", "daemon.inspect"}

NOBODY = Identity(user=70001)
ALICE = Identity(user=70002, groups=frozenset({70010}))
KEY = Identity(key="laptop")


def access(**lists: tuple[str | int, ...]) -> Access:
    return Access(Config(machines={"m": MachineConfig(access=AccessConfig(**lists))}, segments={}))


def test_every_method_that_reaches_for_something_new_is_decided() -> None:
    for method in METHODS:
        if method.direction is Direction.TO_CLIENT or method.name in FREE:
            continue
        first = method.params[0].name if method.params else ""
        if first not in OWN:
            assert is_decided(method), f"{method.name}: add it to the table in emulator/daemon/roles.py"
        if REQUIRED.get(method) in MACHINE_ROLES:
            assert first == "machine", f"{method.name} asks for a role of a machine, and names none"


@pytest.mark.parametrize(
    ("method", "role"),
    [
        ("channel.offer", Role.HOST),
        ("channel.offer_direct", Role.HOST),
        ("channel.open_direct", Role.GUEST),
        ("bus.attach", Role.GUEST),
        ("address.open", Role.DATAGRAM),
        ("daemon.log_level", Role.ADMIN),
        ("memory.read", None),
    ],
)
def test_methods_ask_for_their_roles(method: str, role: Role | None) -> None:
    assert REQUIRED.get(BY_NAME[method]) is role


def test_without_lists_every_user_may_act_and_none_may_administer() -> None:
    lists = access()
    assert all(lists.allows(NOBODY, role, "m") for role in MACHINE_ROLES)
    assert not lists.allows(NOBODY, Role.ADMIN)
    assert not lists.allows(NOBODY, Role.GUEST, "absent")


def test_lists_name_users_groups_and_keys() -> None:
    lists = access(guest=(70002,), host=("@70010",), datagram=("key:laptop",))
    assert [lists.allows(ALICE, role, "m") for role in MACHINE_ROLES] == [True, True, False]
    assert [lists.allows(NOBODY, role, "m") for role in MACHINE_ROLES] == [False, False, False]
    assert [lists.allows(KEY, role, "m") for role in MACHINE_ROLES] == [False, False, True]
    assert lists.shows(KEY, "m")
    assert not lists.shows(NOBODY, "m")


def test_everybody_means_users_of_this_host_and_no_key() -> None:
    assert not any(access().allows(KEY, role, "m") for role in MACHINE_ROLES)
    granted = Identity(key="laptop", grants={"m": frozenset({Role.GUEST})})
    assert [access().allows(granted, role, "m") for role in MACHINE_ROLES] == [True, False, False]


def test_root_and_the_daemons_user_may_do_everything() -> None:
    lists = access(guest=(), host=(), datagram=())
    for user in (0, os.geteuid()):
        assert lists.allows(Identity(user=user), Role.ADMIN)
        assert lists.allows(Identity(user=user), Role.HOST, "m")


def test_names_are_looked_up_when_the_configuration_is_read() -> None:
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    assert access(guest=(user, f"@{group}")).allows(Identity(user=os.geteuid()), Role.GUEST, "m")
    with pytest.raises(UnknownName, match=r"machines.m.access.host: this host has no user 'nobody-at-all'"):
        access(host=("nobody-at-all",))
    with pytest.raises(UnknownName, match=r"access.admin: this host has no group 'no-such-group'"):
        Access(Config(access=DaemonAccessConfig(admin=("@no-such-group",))))


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        identity, process = identity_of_peer(ours)
    assert (identity.user, process) == (os.getuid(), os.getpid())
    assert identity.groups == {os.getgid(), *os.getgroups()}
