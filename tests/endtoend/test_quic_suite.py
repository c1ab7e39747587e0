"""The client API's tests of the first day, as they stand, with QUIC in the place of the Unix socket.

Every test of the modules in ``TAKEN`` is taken into this one, and what it connects to is changed underneath it
(``tests.support.over_udp``). What is left out stands in ``LEFT_OUT`` and ``MODULES_LEFT_OUT``, each with its reason; a
test that is neither run nor left out fails ``test_nothing_is_forgotten``.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest

import clients.sync
from tests.clients import test_trio_face
from tests.endtoend import (
    test_bus,
    test_connections,
    test_datagrams,
    test_dns_peer,
    test_full_rings,
    test_killed,
    test_packets,
)
from tests.support.over_udp import OverUdp, put_over_udp

TAKEN: tuple[ModuleType, ...] = (
    test_bus,
    test_connections,
    test_datagrams,
    test_dns_peer,
    test_full_rings,
    test_killed,
    test_packets,
    test_trio_face,
)

MAPPED = "it reads or writes mapped memory, and over UDP none is mapped"
DESCRIPTORS = "it counts the descriptors a Unix socket costs or passes"
UNIX_SOCKET = "it is about the Unix socket itself, or a listener of the test's own stands behind it"
PROCESS = "it reads which process of this host a client was, and how a killed one is noticed: test_quic_path has that"
AT_ONCE = "it expects a killed client to be noticed at once, and over UDP that takes the idle time: test_quic_path"
LONG = "a hundred thousand packets; test_quic_namespaces has ten thousand over a bad path"
SYNC = "it is about clients.sync, which says why not: test_the_face_without_an_event_loop_says_why_not"

LEFT_OUT = {
    "connections__without_an_event_loop": SYNC,
    "killed__a_datagram_program_killed_frees_its_addresses": DESCRIPTORS,
    "killed__a_guest_killed_with_packets_in_flight": PROCESS,
    "killed__a_host_killed_with_packets_in_flight": PROCESS,
    "packets__a_client_that_cannot_map_memory_reads_and_writes_it_by_message": MAPPED,
    "packets__a_guest_may_wait_before_the_host_offers_and_again_when_the_host_has_died": AT_ONCE,
    "packets__a_hundred_thousand_packets_with_external_data_and_a_daemon_that_does_not_grow": LONG,
    "trio_face__a_daemon_that_ends_the_conversation_is_told_as_a_lost_connection": UNIX_SOCKET,
    "trio_face__attaching_cancelled_at_any_moment_keeps_no_descriptor": DESCRIPTORS,
    "trio_face__no_daemon_is_said_with_what_to_do": UNIX_SOCKET,
    "trio_face__two_tasks_may_use_one_connection_and_one_machine_at_once": MAPPED,
}
# Whoever looks at the daemon's process needs one.
OWN_PROCESS = {
    "killed__a_busy_daemon_stops_cleanly_and_tells_everybody",
    "killed__a_storm_of_connections_while_the_daemon_stops_is_no_crash",
}

# The other modules of the first day.
MODULES_LEFT_OUT = {
    "clients.test_cli": "no daemon is in it",
    "clients.test_demo": "no daemon is in it",
    "clients.test_faces": SYNC,
    "clients.test_protocol": "no daemon is in it",
    "endtoend.test_cli": "it is about vmbusctl, whose commands over UDP test_remote_attach runs",
    "endtoend.test_damaged_rings": MAPPED,
    "endtoend.test_demo": "it is about vmbusctl demo, which starts a daemon of its own",
    "endtoend.test_hostile_clients": UNIX_SOCKET,
    "endtoend.test_socket_path": UNIX_SOCKET,
}


def own_tests(module: ModuleType) -> dict[str, object]:
    """The tests a module has of its own, by the names they get here."""
    short = module.__name__.rpartition(".")[2].removeprefix("test_")
    return {
        f"{short}__{name.removeprefix('test_')}": value
        for name, value in vars(module).items()
        if name.startswith("test_") and getattr(value, "__module__", None) == module.__name__
    }


FOUND = {name: test for module in TAKEN for name, test in own_tests(module).items()}
# pytest finds them here as if they had been written here.
globals().update({f"test_{name}": test for name, test in FOUND.items() if name not in LEFT_OUT})


@pytest.fixture(autouse=True)
def over_udp(request: pytest.FixtureRequest) -> Iterator[OverUdp | None]:
    """Everything a taken test attaches to is attached to over UDP."""
    name = getattr(request.node, "originalname", "").removeprefix("test_")
    if name not in FOUND:
        yield None
        return
    own_process = name in OWN_PROCESS
    with put_over_udp(TAKEN, own_process=own_process) as made:
        yield made
    assert own_process or made.attached, "nothing went over UDP"


def test_nothing_is_forgotten() -> None:
    taken = {name for name in FOUND if f"test_{name}" in globals()}
    assert taken | LEFT_OUT.keys() == FOUND.keys(), "each is run, or stands in LEFT_OUT, which names no other"
    assert not taken & LEFT_OUT.keys()
    assert taken >= OWN_PROCESS
    assert len(taken) >= 50
    for name in MODULES_LEFT_OUT:
        module = import_module(f"tests.{name}")
        assert module not in TAKEN
        assert own_tests(module), "a module without tests is not left out"


def test_the_face_without_an_event_loop_says_why_not() -> None:
    """Whoever listens there, or nobody: it is not even tried."""
    why = (
        r"clients\.sync cannot attach to quic://192\.0\.2\.7:4433: between its calls nothing runs that would "
        r"acknowledge packets or .*; use clients\.connect"
    )
    with pytest.raises(ValueError, match=why), clients.sync.connect("quic://192.0.2.7:4433"):
        pass
