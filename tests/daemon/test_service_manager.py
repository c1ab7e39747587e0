"""What the daemon makes of a service manager's variables and sockets, and what it tells it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.daemon.service_manager import ServiceManager

PROCESS = 4711


@pytest.fixture(params=["path", "abstract"])
def manager_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A notify socket of the test's own, and its name as a manager writes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if request.param == "path":
            name = str(tmp_path / "notify")
            sock.bind(name)
        else:
            sock.bind("")  # the kernel chooses an abstract name
            name = "@" + sock.getsockname()[1:].decode()
        sock.settimeout(5)
        yield sock, name


def test_what_the_daemon_says_arrives_line_by_line(manager_socket: tuple[socket.socket, str]) -> None:
    sock, name = manager_socket
    environment = {"NOTIFY_SOCKET": name, "HOME": "/"}
    manager = ServiceManager(environment, PROCESS)
    assert environment == {"HOME": "/"}  # children get none of it
    manager.ready("2 machines")
    manager.status("3 machines")
    manager.alive()
    manager.stopping()
    said = [sock.recv(4096).decode().split("\n") for _ in range(4)]
    assert said == [
        ["READY=1", "STATUS=2 machines"],
        ["STATUS=3 machines"],
        ["WATCHDOG=1"],
        ["STOPPING=1", "STATUS=stopping"],
    ]


def test_a_reload_is_announced_with_its_time(manager_socket: tuple[socket.socket, str]) -> None:
    sock, name = manager_socket
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    ServiceManager({"NOTIFY_SOCKET": name}, PROCESS).reloading()
    word, stamp = sock.recv(4096).decode().split("\n")
    assert word == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, PROCESS).ready("fine")
    ServiceManager({}, PROCESS).ready("nobody asked")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(PROCESS)}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_only_when_it_names_us(environment: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager(environment, PROCESS).watchdog_seconds == seconds
    assert environment == {}


def test_descriptors_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "vmbus"}
    assert ServiceManager(environment, PROCESS).take_socket("vmbus") is None


ADOPT = """
import os, sys
from emulator.daemon.service_manager import ActivationError, ServiceManager
os.environ["LISTEN_PID"] = str(os.getpid())
try:
    manager = ServiceManager(os.environ, os.getpid())
except ActivationError as error:
    print(error)
else:
    print({name: sock and sock.getsockname() for name in ("vmbus", "metrics") for sock in [manager.take_socket(name)]})
"""


def _pass(names: str, *socks: socket.socket) -> str:
    """Start a process that gets these sockets from descriptor 3 on; what it says of them."""
    count = len(socks)
    high = [sock.fileno() for sock in socks]
    # The shell of the standard library: descriptors are put in place between fork and exec.
    moves = "; ".join(f"os.dup2({number}, {3 + index})" for index, number in enumerate(high))
    code = f"import os; {moves}; os.execv({sys.executable!r}, [{sys.executable!r}, '-c', os.environ['ADOPT']])"
    environment = {**os.environ, "ADOPT": ADOPT, "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}
    moved = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        pass_fds=high,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return moved.stdout.strip()


def test_passed_sockets_are_taken_by_name(tmp_path: Path) -> None:
    path = str(tmp_path / "passed.sock")
    with socket.socket(socket.AF_UNIX) as attach, socket.socket() as metrics:
        attach.bind(path)
        attach.listen()
        metrics.bind(("127.0.0.1", 0))
        metrics.listen()
        said = _pass("metrics:vmbus", metrics, attach)
        assert said == str({"vmbus": path, "metrics": metrics.getsockname()})


@pytest.mark.parametrize(
    ("name", "family", "kind", "listens", "complaint"),
    [
        ("attach", socket.AF_UNIX, socket.SOCK_STREAM, True, "was passed under the name 'attach'"),
        ("vmbus", socket.AF_INET, socket.SOCK_STREAM, True, "is not a listening Unix stream socket"),
        ("vmbus", socket.AF_UNIX, socket.SOCK_STREAM, False, "is not a listening Unix stream socket"),
        ("metrics", socket.AF_INET, socket.SOCK_DGRAM, False, "is not a listening stream socket"),
    ],
)
def test_a_socket_of_the_wrong_name_or_kind_is_refused_in_words(
    tmp_path: Path, name: str, family: int, kind: int, listens: bool, complaint: str
) -> None:
    with socket.socket(family, kind) as sock:
        sock.bind(str(tmp_path / "odd.sock") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        if listens:
            sock.listen()
        assert complaint in _pass(name, sock)
