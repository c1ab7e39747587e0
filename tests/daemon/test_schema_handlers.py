"""Every method a client may call has its function in the daemon, with the arguments the table gives it, in order."""

from __future__ import annotations

import inspect
import socket

import pytest

from emulator.config import Config
from emulator.daemon.address_requests import AddressRequests
from emulator.daemon.channel_requests import ChannelRequests
from emulator.daemon.machine_requests import MachineRequests
from emulator.daemon.request_owners import find_handler
from emulator.daemon.server import Server
from emulator.daemon.session import Session
from emulator.daemon.streams import UnixStream
from emulator.wire.schema import METHODS, Direction, Kind, Method

TO_DAEMON = [method for method in METHODS if method.direction is not Direction.TO_CLIENT]


@pytest.mark.parametrize("method", TO_DAEMON, ids=lambda method: method.name)
async def test_a_method_has_a_handler_with_its_arguments(method: Method) -> None:
    server = Server(Config())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = find_handler(Session(server, UnixStream(ours, server.config.limits.outbox_bytes), 1), method)
    for machine in server.machines.values():
        machine.close()
    taken = list(inspect.signature(handler).parameters)
    wanted = [field.name for field in method.params]
    if method.kind is Kind.REQUEST:
        wanted.insert(0, "msgid")
    same = {"type": "query_type", "window_packets": "packets", "window_bytes": "byte_count", "bytes": "byte_count"}
    assert taken == [same.get(name, name) for name in wanted]


@pytest.mark.parametrize("owner", [MachineRequests, ChannelRequests, AddressRequests])
def test_no_handler_of_requests_is_without_a_method(owner: type) -> None:
    names = {method.name.replace(".", "_") for method in TO_DAEMON}
    handlers = {
        name
        for name, function in inspect.getmembers(owner, inspect.isfunction)
        if not name.startswith("_") and list(inspect.signature(function).parameters)[1:2] == ["msgid"]
    }
    assert handlers
    assert handlers <= names
