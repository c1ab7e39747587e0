"""The programs in the README run as they stand there, against a daemon with its default configuration."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import trio

import emulator
from tests.support.processes import run_client, start_client, start_daemon

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_every_page_has_a_row_that_says_for_whom_it_is() -> None:
    listed = re.findall(r"^\| \[(\S+)\]\(\1\) \| \w.+ \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(listed)


def test_what_the_pages_link_to_is_there() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_every_decision_has_a_number_of_its_own() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))


def test_the_map_names_files_that_are_there() -> None:
    """A file of the map without a folder stands in the folder of the one named before it."""
    assert emulator.__doc__ is not None
    folder = ROOT / "emulator"
    for name in re.findall(r"``([\w/]+\.py)``", emulator.__doc__.partition("Layers")[0]):
        place = ROOT / "emulator" / name if "/" in name or not (folder / name).exists() else folder / name
        assert place.exists(), name
        folder = place.parent


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
