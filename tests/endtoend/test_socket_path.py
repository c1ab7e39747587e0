"""The path a daemon listens on: another live one keeps it, a dead one's is taken over, anything else is left alone."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import trio

from clients import connect
from tests.support.processes import start_daemon, start_process


async def refusal(tmp_path: Path, name: str, path: Path) -> str:
    """What a daemon says that cannot have this path."""
    command: list[str | Path] = [sys.executable, "-m", "emulator", "--socket", path]
    async with start_process(tmp_path, name, command) as refused:
        with trio.fail_after(30):
            assert await refused.process.wait() == 2
    assert refused.stdout == ""
    return refused.stderr.splitlines()[-1]


async def test_a_path_with_a_live_daemon_behind_it_is_refused(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        path = daemon.socket_path
        assert await refusal(tmp_path, "second", path) == (
            f"vmbusd: another vmbusd already listens on {path}; stop it, or choose another path with --socket"
        )
        async with connect(path) as attached:
            await attached.ping()
    assert not path.exists()


async def test_a_path_that_a_killed_daemon_left_is_taken_over(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, expect_exit=None) as first:
        first.kill()
        await first.process.wait()
        assert first.socket_path.is_socket()
        async with start_daemon(tmp_path, name="second", socket_path=first.socket_path) as second:
            async with connect(second.socket_path) as attached:
                await attached.ping()


async def test_a_path_where_another_program_listens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()
        assert await refusal(tmp_path, "refused", path) == (
            f"vmbusd: another program already listens on {path}; choose another path with --socket"
        )
    assert path.is_socket()


async def test_a_path_that_is_a_regular_file_is_refused_and_the_file_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    assert await refusal(tmp_path, "refused", path) == (
        f"vmbusd: {path} exists and is not a socket; remove it, or choose another path with --socket"
    )
    assert path.read_text() == "data"


async def test_a_path_that_is_too_long_or_nowhere_is_refused(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    assert "the path is too long for a Unix socket" in await refusal(tmp_path, "long", long)
    nowhere = tmp_path / "missing" / "vmbusd.sock"
    assert await refusal(tmp_path, "nowhere", nowhere) == (
        f"vmbusd: cannot create {nowhere}.lock: No such file or directory; choose another path with --socket"
    )
