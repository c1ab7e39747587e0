"""Become another user, then try what a client may do, one line of JSON for each try. Everything is imported before."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

import clients.sync
from clients import RequestFailed
from emulator.vmbus.profile import Side
from tests.endtoend.programs import ECHO


def main() -> None:
    path, user, groups = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    with clients.sync.connect(path, name=f"user {user}", map_memory=False) as daemon:

        def offer(machine: str) -> object:
            return str(daemon.machine(machine).offer_channel(ECHO).instance)

        def host_driver(machine: str) -> object:
            channel = daemon.machine(machine).allocate_channel(Side.HOST)
            channel.setup.set_target_interface(UUID(ECHO))
            channel.enable()
            return "enabled"

        def guest(machine: str) -> object:
            return str(daemon.machine(machine).open_channel(ECHO, wait=False).instance)

        def datagram(machine: str) -> object:
            return daemon.machine(machine).open_address(("127.0.0.1", 0)).local[0]

        def inspect(machine: str) -> object:
            return sorted(entry["machine"] for entry in daemon.inspect("machines", machine or None))

        def log_level(_machine: str) -> object:
            return daemon.set_log_level("info")

        tries: dict[str, Callable[[str], Any]] = {
            each.__name__: each for each in (offer, host_driver, guest, datagram, inspect, log_level)
        }
        for argument in sys.argv[4:]:
            what, _, machine = argument.partition(":")
            try:
                done = tries[what](machine)
            except RequestFailed as error:
                print(json.dumps({"try": argument, "status": error.status.name, "message": error.message}))
            else:
                print(json.dumps({"try": argument, "done": done}))


if __name__ == "__main__":
    main()
