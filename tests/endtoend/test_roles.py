"""Three users of this host against the lists of a configuration. As one user, or as root alone, this proves nothing."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.processes import Daemon, run_client, start_daemon

HYPERVISOR, TENANT, STRANGER, CROWD = 70001, 70002, 70003, 70010

CONFIG = f"""
[listen]
socket_mode = "0666"
[machines.vm1.access]
guest = [{TENANT}]
host = [{HYPERVISOR}]
datagram = ["@{CROWD}"]
[machines.vm2.access]
guest = []
host = []
datagram = []
[segments]
[access]
admin = [{HYPERVISOR}]
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become three other users")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can reach; tmp_path is below one that nobody else can."""
    directory = Path(tempfile.mkdtemp(prefix="vmbus-roles-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@asynccontextmanager
async def daemon_for_all(directory: Path, config: str = CONFIG) -> AsyncIterator[Daemon]:
    async with start_daemon(directory, config) as daemon:
        yield daemon


async def tries(daemon: Daemon, user: int, *what: str, groups: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """What a user got for each try."""
    arguments = [str(daemon.socket_path), str(user), json.dumps(groups), *what]
    finished = await run_client("tests.endtoend.as_user", *arguments)
    return [json.loads(line) for line in finished.stdout.splitlines()]


async def test_each_user_may_be_what_the_lists_say_and_nothing_else(open_directory: Path) -> None:
    async with daemon_for_all(open_directory) as daemon:
        everything = ["offer:vm1", "guest:vm1", "datagram:vm1", "log_level:"]
        host = await tries(daemon, HYPERVISOR, *everything)
        assert [each.get("status", "done") for each in host] == ["done", "ACCESS_DENIED", "ACCESS_DENIED", "done"]
        assert host[1]["message"] == (
            f"user {HYPERVISOR} may not be a guest of machine vm1; "
            "[machines.vm1.access] guest in the configuration names who may"
        )
        guest = await tries(daemon, TENANT, *everything)
        # Nobody offers the channel any more: that the guest hears of it shows that it may ask.
        assert [each.get("status", "done") for each in guest] == [
            "ACCESS_DENIED",
            "NO_SUCH_DEVICE",
            "ACCESS_DENIED",
            "ACCESS_DENIED",
        ]
        member = await tries(daemon, STRANGER, *everything, groups=(CROWD,))
        assert [each.get("status", "done") for each in member] == [
            "ACCESS_DENIED",
            "ACCESS_DENIED",
            "done",
            "ACCESS_DENIED",
        ]


async def test_a_driver_channel_is_of_the_side_it_says(open_directory: Path) -> None:
    async with daemon_for_all(open_directory) as daemon:
        (allowed,) = await tries(daemon, HYPERVISOR, "host_driver:vm1")
        assert allowed["done"] == "enabled"
        (refused,) = await tries(daemon, TENANT, "host_driver:vm1")
        assert refused["status"] == "ACCESS_DENIED"


async def test_a_machine_one_has_no_role_on_is_as_absent_as_one_that_is_not(open_directory: Path) -> None:
    async with daemon_for_all(open_directory) as daemon:
        for user in (TENANT, STRANGER):
            found = await tries(
                daemon, user, "inspect:vm2", "inspect:vm9", "offer:vm2", "offer:vm9", "datagram:vm2", "inspect:"
            )
            hidden, absent, offer_hidden, offer_absent, datagram_hidden, listed = found
            assert hidden["status"] == "OBJECT_NAME_NOT_FOUND"
            assert hidden["message"].replace("vm2", "vm9") == absent["message"]
            assert offer_hidden["message"].replace("vm2", "vm9") == offer_absent["message"]
            assert datagram_hidden["status"] == "OBJECT_NAME_NOT_FOUND"
            assert listed["done"] == (["vm1"] if user == TENANT else [])
        (listed,) = await tries(daemon, HYPERVISOR, "inspect:")
        assert listed["done"] == ["vm1", "vm2"]  # who looks after the daemon sees all of it
        (listed,) = await tries(daemon, 0, "inspect:")
        assert listed["done"] == ["vm1", "vm2"]


async def test_the_socket_lets_in_whom_its_mode_and_group_say(open_directory: Path) -> None:
    config = f'[listen]\nsocket_mode = "0660"\nsocket_group = {CROWD}\n'
    async with daemon_for_all(open_directory, config) as daemon:
        described = await trio.Path(daemon.socket_path).stat()
        assert (stat.S_IMODE(described.st_mode), described.st_gid) == (0o660, CROWD)
        (listed,) = await tries(daemon, STRANGER, "inspect:", groups=(CROWD,))
        assert listed["done"] == ["vm1", "vm2"]
        arguments = [str(daemon.socket_path), str(STRANGER), "[]", "inspect:"]
        refused = await run_client("tests.endtoend.as_user", *arguments, expect_exit=1)
        assert "this user may not attach to" in refused.stderr


async def test_a_group_that_is_not_there_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[listen]\nsocket_group = "no-such-group"\n')
    arguments = ["--config", str(config), "--socket", str(tmp_path / "s")]
    refused = await run_client("emulator", *arguments, expect_exit=2)
    assert "this host has no such group; set listen.socket_group" in refused.stderr
    config.write_text('[machines.vm1.access]\nguest = ["no-such-user"]\n[segments]\n')
    refused = await run_client("emulator", *arguments, expect_exit=2)
    assert refused.stderr == "vmbusd: machines.vm1.access.guest: this host has no user 'no-such-user'\n"
