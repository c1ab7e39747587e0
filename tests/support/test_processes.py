"""The helpers that start processes leave none behind and hide no failure."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import (
    ProcessFailed,
    Running,
    descriptor_count,
    free_udp_port,
    process_memory,
    run_client,
    start_client,
    start_process,
)

WAITS = "import signal\nprint('here I am')\nsignal.pause()\n"


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "child.py"
    path.write_text(text)
    return path


async def test_a_process_ends_with_its_block(tmp_path: Path) -> None:
    async with start_client(tmp_path, "child", script(tmp_path, WAITS)) as child:
        assert await child.wait_for_line("here") == "here I am"
        assert child.process.poll() is None
    assert child.process.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


async def test_a_process_ends_with_a_block_that_raises_and_the_exception_stays_itself(tmp_path: Path) -> None:
    children: list[Running] = []

    async def fail_beside_a_child() -> None:
        async with start_client(tmp_path, "child", script(tmp_path, WAITS)) as child:
            children.append(child)
            await child.wait_for_line("here")
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await fail_beside_a_child()
    assert [child.process.returncode for child in children] == [-signal.SIGTERM]


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.processes.STOP_TIMEOUT_SECONDS", 0.05)
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAITS
    async with start_client(tmp_path, "child", script(tmp_path, deaf)) as child:
        await child.wait_for_line("here")
    assert child.process.returncode == -signal.SIGKILL


async def test_a_process_that_ends_before_its_line_is_reported_with_its_output(tmp_path: Path) -> None:
    failing = "import sys\nsys.exit('the config is bad')"
    async with start_client(tmp_path, "child", script(tmp_path, failing)) as child:
        with pytest.raises(ProcessFailed, match=r"(?s)ended before .*exit code: 1.*the config is bad"):
            await child.wait_for_line("ready")


async def test_a_line_that_does_not_come_is_reported(tmp_path: Path) -> None:
    async with start_client(tmp_path, "child", script(tmp_path, WAITS)) as child:
        await child.wait_for_line("here")
        with pytest.raises(ProcessFailed, match="did not say 'ready'"):
            await child.wait_for_line("ready", timeout_seconds=0.05)


async def test_a_client_runs_to_its_end(tmp_path: Path) -> None:
    echo = script(tmp_path, "import sys\nprint(sys.argv[1], sys.stdin.read())\nprint('aside', file=sys.stderr)")
    assert await run_client(echo, "one", stdin=b"two") == (0, "one two\n", "aside\n")


async def test_a_client_can_be_a_module_of_the_project() -> None:
    finished = await run_client("emulator.status")
    assert finished == (0, "", "")


async def test_a_client_that_fails_is_reported_with_its_output(tmp_path: Path) -> None:
    failing = script(tmp_path, "import sys\nsys.exit('no daemon')")
    with pytest.raises(ProcessFailed, match=r"(?s)exit code: 1, not 0.*no daemon"):
        await run_client(failing)
    assert (await run_client(failing, expect_exit=1)).stderr == "no daemon\n"


async def test_a_client_that_does_not_end_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="did not end"):
        await run_client(script(tmp_path, WAITS), timeout_seconds=0.2)


async def test_lines_come_in_order_and_once(tmp_path: Path) -> None:
    async with start_client(tmp_path, "child", script(tmp_path, "print('a 1\\nb\\na 2\\nb 2')")) as child:
        assert [await child.wait_for_line("a"), await child.wait_for_line("a")] == ["a 1", "a 2"]
        with pytest.raises(ProcessFailed):
            await child.wait_for_line("a")
    assert child.stdout == "a 1\nb\na 2\nb 2\n"


async def test_what_a_process_logs_can_be_part_of_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('to the log', file=sys.stderr)"]
    async with start_process(tmp_path, "child", command, merge_output=True) as child:
        assert await child.wait_for_line("log") == "to the log"
    assert child.stderr == ""


async def test_output_of_two_processes_is_never_mixed(tmp_path: Path) -> None:
    async with start_process(tmp_path, "same", [sys.executable, "-c", "pass"]):
        with pytest.raises(FileExistsError):
            async with start_process(tmp_path, "same", [sys.executable, "-c", "pass"]):
                pass


def test_a_free_port_can_be_bound() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", free_udp_port()))


def test_memory_and_descriptors_of_a_process_are_read() -> None:
    before = descriptor_count(os.getpid())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
        assert descriptor_count(os.getpid()) == before + 1
    resident, anonymous = process_memory(os.getpid())
    held = bytearray(32 << 20)
    grown = process_memory(os.getpid())
    assert grown.anonymous_bytes >= anonymous + (len(held) // 2)
    assert grown.resident_bytes > resident


def test_a_dead_process_has_no_memory_to_read() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
        pid = child.pid
    with pytest.raises(FileNotFoundError):
        process_memory(pid)
