"""Every status that the documents leave to a provider of TDI can be chosen: each is seen as it is, and as another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from emulator.status import NtStatus
from emulator.tdi.connection_profile import ConnectionProfile
from emulator.tdi.connection_requests import Associate
from emulator.tdi.constants import MajorFunction, QueryType, SendFlags, ShareAccess
from emulator.tdi.irp import ConnectionInformation, Irp, SendDatagram
from emulator.tdi.layout import Arch
from emulator.tdi.parameters import DeviceControl
from emulator.tdi.profile import ProviderProfile
from emulator.tdi.structures import SocketAddress
from tests.tdi import bench as datagram_bench
from tests.tdi import connection_bench
from tests.tdi.connection_bench import ABORT
from tests.tdi.test_create import attribute

OTHER = NtStatus.UNSUCCESSFUL
BROADCAST = "255.255.255.255"
Datagrams = datagram_bench.Bench
Connections = connection_bench.Bench


def sent(bench: Datagrams, to: SocketAddress | None = None, data: bytes = b"x") -> NtStatus:
    """How a send ends."""
    return bench.outcome(bench.send(bench.open(), data, to))[0]


def asked(bench: Datagrams, parameters: SendDatagram) -> NtStatus:
    return bench.outcome(bench.submit(Irp(bench.open(), parameters)))[0]


def control(bench: Datagrams) -> NtStatus:
    asks = DeviceControl(0, b"", 0, 0, None, Arch.X64)
    irp = Irp(bench.control(), asks, major=MajorFunction.DEVICE_CONTROL, minor=0)
    bench.perform(bench.transport.submit(irp, bench.now))
    return bench.outcome(irp)[0]


def created(bench: Datagrams) -> NtStatus:
    return bench.transport.create("lan", attribute(b"Weather", b"rain"), ShareAccess.EXCLUSIVE, "client").status


def after_cleanup(bench: Datagrams) -> NtStatus:
    handle = bench.open()
    bench.perform(bench.transport.cleanup(handle, bench.now))
    return bench.outcome(bench.send(handle))[0]


def too_many(bench: Datagrams) -> NtStatus:
    handle = bench.open()
    bench.stall()
    return [bench.send(handle) for _ in range(2)][1].status


def expired(bench: Datagrams) -> NtStatus:
    handle = bench.open()
    bench.stall()
    irp = bench.send(handle)
    bench.perform(bench.transport.expire(bench.now + 1_000))
    return bench.outcome(irp)[0]


def filtered(bench: Datagrams) -> NtStatus:
    return bench.outcome(bench.post(bench.open(), source=ConnectionInformation(b"\1\0")))[0]


# For each choice, what else its device has to be like, and what then ends with it.
DATAGRAMS: dict[str, tuple[dict[str, Any], Callable[[Datagrams], NtStatus]]] = {
    "too_long_status": ({"max_datagram_bytes": 10}, lambda bench: sent(bench, data=bytes(11))),
    "zero_length_status": ({"refuses_zero_length": True}, lambda bench: sent(bench, data=b"")),
    "wrong_file_status": ({}, lambda bench: bench.outcome(bench.send(bench.control()))[0]),
    "null_information_status": ({}, lambda bench: asked(bench, SendDatagram(None, b"x", 1))),
    "short_buffer_status": ({}, lambda bench: asked(bench, SendDatagram(ConnectionInformation(bench.peer), b"x", 5))),
    "bad_destination_status": ({}, lambda bench: sent(bench, SocketAddress(bench.peer.host, 0))),
    "wrong_family_status": ({}, lambda bench: sent(bench, SocketAddress("::1", 5))),
    "unsupported_cast_status": ({"supports_broadcast": False}, lambda bench: sent(bench, SocketAddress(BROADCAST, 9))),
    "broadcast_source_status": ({}, lambda bench: bench.outcome(bench.send(bench.open(host=BROADCAST)))[0]),
    "unreachable_status": ({}, lambda bench: sent(bench, SocketAddress("192.0.2.1", 9))),
    "queue_full_status": ({"max_queued_datagrams": 1}, too_many),
    "expired_status": ({}, expired),
    "after_cleanup_status": ({}, after_cleanup),
    "exclusive_broadcast_status": (
        {},
        lambda bench: bench.try_open(host=BROADCAST, share=ShareAccess.EXCLUSIVE).status,
    ),
    "bad_filter_status": ({}, filtered),
    "unknown_attribute_status": (
        {},
        lambda bench: (
            bench.transport.create("lan", attribute(b"Weather", b"rain"), ShareAccess.EXCLUSIVE, "client").status
        ),
    ),
    "unknown_control_status": ({}, control),
    "null_query_buffer_status": (
        {},
        lambda bench: bench.transport.query(bench.control(), QueryType.PROVIDER_INFO, None).status,
    ),
    "wrong_query_file_status": (
        {},
        lambda bench: bench.transport.query(bench.open(), QueryType.PROVIDER_INFO, 100).status,
    ),
}


def no_answer(bench: Connections) -> NtStatus:
    bench.segment.stall()
    connect = bench.near.connect(bench.near.associated(), bench.there, timeout=1)
    bench.pass_time(1)
    return bench.ended(connect)[0]


def no_release(bench: Connections) -> NtStatus:
    here, _ = bench.connected()
    release = bench.near.disconnect(here, timeout=1)
    bench.pass_time(1)
    return bench.ended(release)[0]


def aborted(bench: Connections, *, here: bool) -> NtStatus:
    near, far = bench.connected()
    receive = bench.near.receive(near) if here else bench.far.receive(far)
    bench.near.disconnect(near, ABORT)
    return bench.ended(receive)[0]


def sent_after_release(bench: Connections) -> NtStatus:
    here, _ = bench.connected()
    bench.near.disconnect(here)
    return bench.ended(bench.near.send(here, b"late"))[0]


def released_there(bench: Connections) -> NtStatus:
    here, there = bench.connected()
    before = bench.far.receive(there)
    bench.near.disconnect(here)
    after = bench.far.receive(there)
    assert bench.ended(before)[0] is bench.ended(after)[0]
    return bench.ended(after)[0]


def stalled(bench: Connections) -> NtStatus:
    here, _ = bench.connected()
    bench.impair(partition=(frozenset({"vm1"}),))
    send = bench.near.send(here, b"held")
    bench.pass_time(20)
    return bench.ended(send)[0]


CONNECTIONS: dict[str, tuple[dict[str, Any], Callable[[Connections], NtStatus]]] = {
    "not_listening_status": (
        {},
        lambda bench: bench.ended(bench.near.connect(bench.near.associated(), bench.there))[0],
    ),
    "unknown_host_status": (
        {},
        lambda bench: bench.ended(bench.near.connect(bench.near.associated(), SocketAddress("10.77.9.9", 5)))[0],
    ),
    "connect_expired_status": ({}, no_answer),
    "release_expired_status": ({}, no_release),
    "aborted_here_status": ({}, lambda bench: aborted(bench, here=True)),
    "aborted_there_status": ({}, lambda bench: aborted(bench, here=False)),
    "after_release_status": ({}, sent_after_release),
    "peer_released_status": ({}, released_there),
    "stalled_status": ({}, stalled),
    "already_associated_status": (
        {},
        lambda bench: bench.near.status(bench.near.associated(), Associate(bench.near.address())),
    ),
    "no_query_accept_status": (
        {"supports_query_accept": False},
        lambda bench: bench.ended(bench.near.listen(bench.near.associated(), query=True))[0],
    ),
    "bad_send_status": (
        {"supports_expedited": False},
        lambda bench: bench.ended(bench.near.send(bench.connected()[0], b"x", SendFlags.EXPEDITED))[0],
    ),
}


def statuses_of(profile: type) -> dict[str, NtStatus]:
    return {each.name: each.default for each in fields(profile) if isinstance(each.default, NtStatus)}


@pytest.mark.parametrize(("name", "default"), statuses_of(ProviderProfile).items())
def test_a_status_of_datagrams_is_what_was_chosen(name: str, default: NtStatus) -> None:
    settings, happens = DATAGRAMS[name]
    assert happens(Datagrams("lan", **settings)) is default
    chosen: dict[str, Any] = settings | {name: OTHER}
    assert happens(Datagrams("lan", **chosen)) is OTHER


@pytest.mark.parametrize(("name", "default"), statuses_of(ConnectionProfile).items())
def test_a_status_of_connections_is_what_was_chosen(name: str, default: NtStatus) -> None:
    settings, happens = CONNECTIONS[name]
    assert happens(Connections(**settings)) is default
    chosen: dict[str, Any] = settings | {name: OTHER}
    assert happens(Connections(**chosen)) is OTHER
