"""The programs in the README run as they stand there, against a daemon with its default configuration."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import trio

from tests.support.processes import run_client, start_client, start_daemon

README = Path(__file__).parent.parent / "README.md"


def programs() -> list[str]:
    """The Python blocks of the README, in order: guest, host, datagram, event handler, connection."""
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


async def test_the_guest_and_the_host_of_the_readme_meet(tmp_path: Path) -> None:
    guest, host, *_ = programs()
    (tmp_path / "guest.py").write_text(guest)
    (tmp_path / "host.py").write_text(host)
    async with start_daemon(tmp_path) as daemon, start_client(tmp_path, "host", tmp_path / "host.py", daemon=daemon):
        finished = await run_client(tmp_path / "guest.py", daemon=daemon)
    digest = hashlib.sha256(b"payload".ljust(64 * 1024, b"\0")).hexdigest()
    assert finished.stdout == f"STATUS_SUCCESS (0x00000000) {digest}\n"


async def test_the_datagram_of_the_readme_comes_back(tmp_path: Path) -> None:
    (tmp_path / "datagram.py").write_text(programs()[2])
    async with start_daemon(tmp_path) as daemon:
        with trio.fail_after(30):
            finished = await run_client(tmp_path / "datagram.py", daemon=daemon)
    assert re.fullmatch(r"127\.0\.0\.1:\d+ b'hello'\n", finished.stdout)


async def test_the_event_handler_of_the_readme_is_called(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text(programs()[3])
    async with start_daemon(tmp_path) as daemon:
        with trio.fail_after(30):
            finished = await run_client(tmp_path / "handler.py", daemon=daemon)
    assert re.fullmatch(r"\('127\.0\.0\.1', \d+\) b'hello' 5\n", finished.stdout)


async def test_the_connection_of_the_readme_is_made_and_released(tmp_path: Path) -> None:
    (tmp_path / "connection.py").write_text(programs()[4])
    async with start_daemon(tmp_path) as daemon:
        with trio.fail_after(30):
            finished = await run_client(tmp_path / "connection.py", daemon=daemon)
    assert finished.stdout == "from 127.0.0.1\nb'HELLO'\n"
