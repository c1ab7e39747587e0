"""The parts of the demonstration by themselves: its archive, its datagrams, what it shows and whom it blames."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import pytest
import trio
from rich.console import Console

from clients.demo import children, talk
from clients.demo.archive import archive_bytes, sha256_of, standard_library, write_archive
from clients.demo.children import ChildFailed, Children
from clients.demo.failure import DemoFailed, first_of
from clients.demo.progress import BarDisplay, LineDisplay, display_on
from clients.demo.report import Report, Result
from clients.demo.talk import Peer, ask, echo
from clients.demo.telling import WrongAnswer

PEER = "192.0.2.1", 9


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "lib"
    for name, text in {
        "one.py": "1" * 1000,
        "package/two.py": "2" * 500,
        "package/__pycache__/two.pyc": "x",
        "site-packages/other.py": "x",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "link.py").symlink_to(root / "one.py")
    return root


def test_the_archive_holds_the_library_without_what_others_installed(tmp_path: Path, library: Path) -> None:
    added: list[int] = []
    write_archive(tmp_path / "a.tar", library, added.append, least_bytes=1)
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["copy-1/one.py", "copy-1/package/two.py"]
        member = archive.extractfile("copy-1/package/two.py")
        assert member is not None
        assert member.read() == b"2" * 500
    assert sum(added) == archive_bytes(library, 1) == 1500


def test_the_archive_repeats_a_small_library_until_it_is_large_enough(tmp_path: Path, library: Path) -> None:
    write_archive(tmp_path / "a.tar", library, lambda _: None, least_bytes=20_000)
    assert (tmp_path / "a.tar").stat().st_size >= 20_000
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
    assert len(set(names)) == len(names)
    assert {name.partition("/")[2] for name in names} == {"one.py", "package/two.py"}
    assert archive_bytes(library, 20_000) >= 20_000


def test_without_a_library_there_is_no_archive_and_a_way_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DemoFailed, match="name a file with --file"):
        write_archive(tmp_path / "a.tar", tmp_path / "empty", lambda _: None)
    assert archive_bytes(tmp_path / "empty") == 0


def test_the_interpreter_has_a_library() -> None:
    assert (standard_library() / "tarfile.py").is_file()


def test_the_checksum_is_that_of_the_whole_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data)
    seen: list[int] = []
    assert sha256_of(tmp_path / "file", seen.append) == hashlib.sha256(data).hexdigest()
    assert sum(seen) == len(data)
    assert len(seen) > 1


class Line:
    """One end of a connection of two that loses and changes what it is told to."""

    def __init__(self, out: trio.MemorySendChannel[bytes], into: trio.MemoryReceiveChannel[bytes]) -> None:
        self._out = out
        self._into = into
        self.losing: set[int] = set()
        self.changing: set[int] = set()
        self.sent = 0

    async def send(self, data: bytes, peer: Peer) -> None:
        number, self.sent = self.sent, self.sent + 1
        if number not in self.losing:
            await self._out.send(data[:-1] if number in self.changing else data)

    async def receive(self) -> tuple[bytes, Peer]:
        return await self._into.receive(), PEER


@pytest.fixture
def lines() -> tuple[Line, Line]:
    there, back = trio.open_memory_channel[bytes](100), trio.open_memory_channel[bytes](100)
    return Line(there[0], back[1]), Line(back[0], there[1])


async def converse(lines: tuple[Line, Line], count: int) -> int:
    """Ask over one line, echo on the other; the bytes asked, or what went wrong, out of its groups."""
    byte_count = 0

    async def asking(scope: trio.CancelScope) -> None:
        nonlocal byte_count
        byte_count = await ask(lines[0].send, lines[0].receive, PEER, count, lambda _: None)
        scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, lines[1].send, lines[1].receive, count)
            nursery.start_soon(asking, nursery.cancel_scope)
    except ExceptionGroup as group:
        raise first_of(group) from None
    return byte_count


async def test_every_datagram_comes_back(lines: tuple[Line, Line]) -> None:
    assert await converse(lines, 100) == 100 * 520
    assert (lines[0].sent, lines[1].sent) == (100, 100)


async def test_a_datagram_that_is_lost_is_named(lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "LOST_SECONDS", 0.05)
    lines[1].losing = {7}
    with pytest.raises(WrongAnswer, match=r"unanswered datagrams: 7$"):
        await converse(lines, 20)


async def test_a_datagram_that_is_changed_is_no_answer(lines: tuple[Line, Line]) -> None:
    lines[1].changing = {3}
    with pytest.raises(WrongAnswer, match="519 bytes came from"):
        await converse(lines, 20)


async def test_an_answer_from_a_stranger_is_none(lines: tuple[Line, Line]) -> None:
    async def receive() -> tuple[bytes, Peer]:
        return (await lines[0].receive())[0], ("198.51.100.1", 9)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo, lines[1].send, lines[1].receive, 1)
        with pytest.raises(ExceptionGroup) as caught:
            await ask(lines[0].send, receive, PEER, 1, lambda _: None)
    assert isinstance(first_of(caught.value), WrongAnswer)


def test_a_step_without_a_terminal_is_a_line_for_each_quarter() -> None:
    out = io.StringIO()
    display = display_on(Console(file=out, width=80))
    assert isinstance(display, LineDisplay)
    with display:
        step = display.step("work [1]", 10)
        for _ in range(10):
            step.advance(1)
        display.step("nothing", 0).advance(0)
    quarters = ["...", "25 %", "50 %", "75 %", "100 %"]
    assert out.getvalue().splitlines() == [
        *(f"work [1]: {text}" for text in quarters),
        "nothing: ...",
        "nothing: 100 %",
    ]


def test_a_step_on_a_terminal_is_a_bar() -> None:
    out = io.StringIO()
    display = display_on(Console(file=out, width=80, force_terminal=True))
    assert isinstance(display, BarDisplay)
    with display:
        display.step("work [1]", 2).advance(2)
    assert "work [1]" in out.getvalue()
    assert "100%" in out.getvalue()


def test_the_table_fits_a_narrow_terminal() -> None:
    out = io.StringIO()
    told = {"packets": 123_456, "completions": 123_456, "bytes": 900 << 20, "began": 1.0, "ended": 3.0}
    results = [Result.of("udp, vm2 answers", [told, {**told, "ended": 11.0}]), Result("nothing", 0, 0, 0, 0.0)]
    Report("file", 5, "ab" * 32, ["vm1", "vm2"], results).show(Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if "udp, vm2 answers" in line]
    assert row[3:] == ["246,912", "246,912", "1.8", "GiB", "10.00", "24,691", "180.0", "MiB"]


@pytest.fixture(autouse=True)
def scripts_are_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


async def test_a_child_that_falls_silent_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "SILENT_SECONDS", 0.1)
    async with Children(tmp_path) as family:
        child = await start(family, tmp_path, "import sys\nsys.stdin.read()\nimport signal\nsignal.pause()")
        with pytest.raises(ChildFailed, match=r"said nothing for 0\.1 s"):
            await child.expect("ready")
    assert child.process.returncode is not None


async def test_a_child_that_fails_is_blamed_with_its_last_words(tmp_path: Path) -> None:
    async with Children(tmp_path) as family:
        child = await start(family, tmp_path, "import sys\nprint('before', file=sys.stderr)\nsys.exit('no luck')")
        with pytest.raises(ChildFailed) as caught:
            await child.expect("ready")
        failure = await family.reason(caught.value)
    assert str(failure) == f"the subject (process {child.process.pid}) ended with exit code 1: no luck"
    assert failure.log == "--- log of the subject:\nbefore\nno luck"


async def test_a_child_that_tells_nonsense_has_failed(tmp_path: Path) -> None:
    async with Children(tmp_path) as family:
        child = await start(family, tmp_path, "print('hello')")
        with pytest.raises(ChildFailed, match="told something unreadable: 'hello'"):
            await child.expect("ready")


async def test_the_first_of_those_that_died_is_blamed(tmp_path: Path) -> None:
    async with Children(tmp_path) as family:
        first = await start(family, tmp_path, "import signal\nprint('up', flush=True)\nsignal.pause()", lasts=True)
        second = await start(family, tmp_path, "print('gone')")
        await first.wait_for_line("up")
        first.process.kill()
        with pytest.raises(ChildFailed) as caught:
            await second.expect("ready")
        failure = await family.reason(caught.value)
    assert str(failure) == f"the subject (process {first.process.pid}) was killed by SIGKILL"


async def test_a_child_that_is_deaf_to_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "END_SECONDS", 0.1)
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\nsignal.pause()"
    async with Children(tmp_path) as family:
        child = await start(family, tmp_path, deaf)
        await child.wait_for_line("up")
    assert child.process.returncode == -9


async def start(family: Children, folder: Path, text: str, *, lasts: bool = False) -> children.Child:
    """Start a script as a child."""
    module = f"child_{zlib.crc32(text.encode())}"
    await trio.Path(folder, f"{module}.py").write_text(text)
    return await family.start("subject", module, lasts=lasts)
