"""The demonstration with its real processes: it succeeds or fails with a reason, and never leaves anything behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.processes import ROOT, Running, start_process

# A step long enough that whatever a test does while it runs happens in the middle of it.
ENDLESS = ("--packets", "10000000")


class Demo:
    """A running demonstration, everything it has started, and the folder where it keeps its things."""

    def __init__(self, running: Running, mark: str, folder: Path) -> None:
        self.running = running
        self.folder = folder
        self._mark = mark.encode()

    def processes(self) -> dict[int, str]:
        """Process id to command line of the demonstration's descendants, wherever they hang: all carry its mark."""
        found: dict[int, str] = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (path / "environ").read_bytes():
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue  # another user's, or gone meanwhile
        found.pop(self.running.pid, None)
        return found

    def process(self, words: str) -> int:
        """The one process with these words in its command line."""
        (pid,) = [pid for pid, command in self.processes().items() if words in command]
        return pid

    async def until_guests_are_at_work(self) -> None:
        """The small packets flow: every process of that step is there."""
        await self.running.wait_for_line("small packets of 4 guests: ...", timeout_seconds=60)
        with trio.fail_after(30):
            # They are children of a child, so nothing tells when the last of them has come but looking.
            while sum("echo_guest" in command for command in self.processes().values()) < 4:
                await trio.lowlevel.checkpoint()

    async def exit_code(self) -> int:
        with trio.fail_after(60):
            return await self.running.process.wait()

    def assert_nothing_is_left(self) -> None:
        assert self.processes() == {}
        assert list(self.folder.iterdir()) == []


@asynccontextmanager
async def start_demo(tmp_path: Path, *args: str) -> AsyncIterator[Demo]:
    folder = tmp_path / "tmp"
    folder.mkdir()
    mark = f"demo-{uuid.uuid4()}"
    command = [sys.executable, "-m", "clients.cli", "demo", *args]
    environment = {"TMPDIR": str(folder), "DEMO_TEST_MARK": mark}
    async with start_process(tmp_path, "demo", command, environment=environment) as running:
        yield Demo(running, mark, folder)


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    path = tmp_path / "small file"
    path.write_bytes(os.urandom(3_000_001))
    return path


async def test_a_file_small_packets_and_datagrams_go_through(tmp_path: Path, small_file: Path) -> None:
    sha256 = hashlib.sha256(await trio.Path(small_file).read_bytes()).hexdigest()
    options = ("--file", str(small_file), "--packets", "402", "--datagrams", "40", "--buffer-bytes", "5000")
    async with start_demo(tmp_path, *options) as demo:
        assert await demo.exit_code() == 0
        demo.assert_nothing_is_left()
        assert demo.running.stderr == ""
    lines = demo.running.stdout.splitlines()
    rows = {line[:18].strip(): line[18:].split() for line in lines if line.startswith(" ")}
    # 601 parts of 5,000 bytes, and the packet that ends the file.
    assert rows["file on vm1"][:4] == ["602", "602", "2.9", "MiB"]
    assert rows["file on vm2"][:4] == ["602", "602", "2.9", "MiB"]
    assert rows["small packets"][:4] == ["402", "402", "25.1", "KiB"]
    assert rows["lan, vm1 and vm2"][:2] == ["80", "80"]
    assert rows["udp, vm1 asks"][:2] == ["80", "40"]
    assert rows["udp, vm2 answers"][:2] == ["80", "40"]
    end = lines.index("SHA-256 of small file, 2.9 MiB:")
    assert lines[end + 1 : end + 3] == [f"    {sha256}", "    and the same at the hosts of vm1 and vm2: it matches"]
    assert "file to the host of vm1: 100 %" in lines
    assert "small packets of 4 guests: 50 %" in lines


async def test_an_empty_file_arrives_too(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    async with start_demo(tmp_path, "--file", str(path), "--packets", "1", "--datagrams", "1") as demo:
        assert await demo.exit_code() == 0
        demo.assert_nothing_is_left()
    assert hashlib.sha256().hexdigest() in demo.running.stdout


async def test_without_a_file_it_sends_at_least_32_mib_of_the_standard_library(tmp_path: Path) -> None:
    async with start_demo(tmp_path, "--packets", "40", "--datagrams", "4") as demo:
        assert await demo.exit_code() == 0
        demo.assert_nothing_is_left()
    (line,) = [line for line in demo.running.stdout.splitlines() if line.startswith("SHA-256 of standard-library")]
    assert float(line.removesuffix(" MiB:").split()[-1]) >= 32


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_a_signal_in_the_middle_leaves_no_process_and_no_file(
    tmp_path: Path, small_file: Path, number: int, code: int
) -> None:
    async with start_demo(tmp_path, "--file", str(small_file), *ENDLESS) as demo:
        await demo.until_guests_are_at_work()
        assert len(demo.processes()) == 7, "the daemon, two hosts and four guests"
        assert list(demo.folder.glob("vmbus-demo-*/vmbusd.sock"))
        demo.running.process.send_signal(number)
        assert await demo.exit_code() == code
        demo.assert_nothing_is_left()
        assert demo.running.stderr == ""


async def test_a_reader_that_went_away_ends_it_quietly(tmp_path: Path, small_file: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    command = [sys.executable, "-m", "clients.cli", "demo", "--file", str(small_file)]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    read_end, write_end = os.pipe()
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stdout=write_end, stderr=subprocess.PIPE, check=False, env=environment)
        process: trio.Process = await nursery.start(run)
        os.close(write_end)
        # It has begun; what it says next finds nobody.
        async with trio.lowlevel.FdStream(read_end) as reader:
            assert await reader.receive_some(1) == b"i"
        assert process.stderr is not None
        assert [chunk async for chunk in process.stderr] == []
    assert process.returncode == 141
    assert list(folder.iterdir()) == []


async def test_ctrl_c_while_the_archive_is_made(tmp_path: Path) -> None:
    async with start_demo(tmp_path) as demo:
        await demo.running.wait_for_line("archive of the standard library: ...")
        assert len(list(demo.folder.iterdir())) == 1
        demo.running.process.send_signal(signal.SIGINT)
        assert await demo.exit_code() == 130
        demo.assert_nothing_is_left()
        assert demo.running.stderr == ""


@pytest.mark.parametrize(
    ("victim", "name"),
    [
        ("-m emulator", "daemon"),
        ("clients.demo.echo_host", "echo host of vm2"),
        ("clients.demo.echo_guest", "echo guest 2 of vm1"),
    ],
)
async def test_a_child_that_dies_is_named_and_everything_ends(
    tmp_path: Path, small_file: Path, victim: str, name: str
) -> None:
    async with start_demo(tmp_path, "--file", str(small_file), *ENDLESS) as demo:
        await demo.until_guests_are_at_work()
        words = {"daemon": victim, "echo host of vm2": "vm2 2", "echo guest 2 of vm1": "vm1 1 2500000"}[name]
        pid = next(pid for pid, line in demo.processes().items() if victim in line and words in line)
        os.kill(pid, signal.SIGKILL)
        assert await demo.exit_code() == 1
        demo.assert_nothing_is_left()
        complaint = demo.running.stderr.splitlines()[-1]
        assert complaint == f"vmbusctl: the demonstration failed: the {name} (process {pid}) was killed by SIGKILL"


async def test_a_daemon_that_dies_shows_the_end_of_its_log(tmp_path: Path, small_file: Path) -> None:
    async with start_demo(tmp_path, "--file", str(small_file), *ENDLESS) as demo:
        await demo.until_guests_are_at_work()
        os.kill(demo.process("-m emulator"), signal.SIGKILL)
        assert await demo.exit_code() == 1
        assert '"event": "session.began"' in demo.running.stderr
