"""A guest in JavaScript that knows the wire document and nothing else of this project: the wire needs no Python.

``examples/node`` runs as a process of its own, against the daemon with a Python host, and against a daemon that is
played here, message by message, for what the real one does not do on demand.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from clients import connect
from emulator.memory import GpaRange
from emulator.vmbus.packets import encode_gpa_direct, encode_in_band
from tests.endtoend.node_host import NODE
from tests.support.processes import ROOT, ProcessFailed, Running, start_client, start_daemon, start_process
from tests.support.tools import in_ci, require_tool

EXAMPLE = ROOT / "examples" / "node"
LIBRARY = Path("node_modules", "@msgpack", "msgpack", "package.json")
HOST = "tests.endtoend.node_host"
INSTALL_TIMEOUT_SECONDS = 60
SMALL_WINDOW = "[limits]\nwindow_packets = 8\n"
IN_FLIGHT = 2000


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the guest, its dependency installed: in its own directory if there, else in another."""
    node = require_tool("node", "nodejs")
    if installed_as_locked(EXAMPLE):
        return [node, str(EXAMPLE / "guest.mjs")]
    npm = require_tool("npm", "npm")
    place = tmp_path_factory.mktemp("node") / "guest"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("node_modules"))
    try:
        subprocess.run(
            [npm, "ci", "--prefer-offline", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"],
            cwd=place,
            check=True,
            capture_output=True,
            timeout=INSTALL_TIMEOUT_SECONDS,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
        said = (failure.stderr or b"").decode(errors="replace")
        message = f"npm could not install the guest's dependency ({failure}): {said}"
        if in_ci():
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return [node, str(place / "guest.mjs")]


def installed_as_locked(place: Path) -> bool:
    """Whether the library stands in ``place``, in the version that the lock file names."""
    if not (place / LIBRARY).is_file():
        return False
    locked = json.loads((place / "package-lock.json").read_text())["packages"][LIBRARY.parent.as_posix()]["version"]
    there = json.loads((place / LIBRARY).read_text())["version"]
    return bool(locked == there)


@asynccontextmanager
async def start_guest(
    tmp_path: Path, command: list[str], socket_path: Path, *args: str, name: str = "guest"
) -> AsyncIterator[Running]:
    whole = [*command, "--socket", str(socket_path), "--interface", NODE, *args]
    async with start_process(tmp_path, name, whole) as running:
        yield running


async def exit_code(running: Running) -> int:
    with trio.move_on_after(30):
        return await running.process.wait()
    raise ProcessFailed(f"it did not end\n{running.report()}")


async def expect_failure(running: Running, message: str) -> None:
    """It ends with 1 and one sentence."""
    assert await exit_code(running) == 1, running.report()
    assert re.fullmatch(f"guest: {message}\n", running.stderr), running.stderr


# ---- with the daemon


async def test_a_guest_in_javascript_and_a_host_in_python_exchange_packets_and_external_data(
    tmp_path: Path, guest: list[str]
) -> None:
    async with (
        start_daemon(tmp_path, SMALL_WINDOW) as daemon,
        start_client(tmp_path, "host", HOST, "--hold", str(IN_FLIGHT), daemon=daemon) as host,
        start_guest(tmp_path, guest, daemon.socket_path, "--packets", str(IN_FLIGHT), "--ring-pages", "1") as running,
    ):
        await running.wait_for_line("opened packet channel, window 8 packets, 4096 bytes")
        await running.wait_for_line("external data 100000")
        await host.wait_for_line(f"held {IN_FLIGHT}")
        await running.wait_for_line(f"completed {IN_FLIGHT}")
        await running.wait_for_line("received 100, completed 50")
        await host.wait_for_line("sent 100")
        await running.wait_for_line("closed")
        assert await exit_code(running) == 0
        assert running.stderr == ""


async def test_a_named_pipe_channel_brings_exact_lengths(tmp_path: Path, guest: list[str]) -> None:
    async with (
        start_daemon(tmp_path) as daemon,
        start_client(tmp_path, "host", HOST, "--pipe", daemon=daemon) as host,
        start_guest(tmp_path, guest, daemon.socket_path, "--packets", "20") as running,
    ):
        await running.wait_for_line("opened named-pipe channel")
        await host.wait_for_line("sent 100")
        assert await exit_code(running) == 0, running.report()
        assert "external data" not in running.stdout


async def test_a_host_that_dies_ends_the_guest_with_the_reason(tmp_path: Path, guest: list[str]) -> None:
    async with start_daemon(tmp_path, SMALL_WINDOW) as daemon:
        async with (
            start_client(tmp_path, "host", HOST, "--hold", "50", daemon=daemon) as host,
            start_guest(tmp_path, guest, daemon.socket_path, "--packets", "49") as running,
        ):
            await running.wait_for_line("external data")
            host.kill()
            await expect_failure(running, r"(the channel was closed|packet\.send): .*(went away|rescinded).*")


async def test_a_daemon_that_stops_says_so_to_a_guest_that_waits(tmp_path: Path, guest: list[str]) -> None:
    async with start_daemon(tmp_path, expect_exit=None) as daemon:
        async with start_guest(tmp_path, guest, daemon.socket_path) as running:
            async with connect(daemon.socket_path) as watcher:
                while (await watcher.inspect("machines", "vm1"))[0]["waiting_guests"] != 1:
                    await trio.lowlevel.checkpoint()
            daemon.process.terminate()
            await expect_failure(running, ".*the daemon is stopping.*")
        assert await exit_code(daemon) == 0


async def test_a_request_the_daemon_refuses_is_told_with_its_method_and_status(
    tmp_path: Path, guest: list[str]
) -> None:
    async with start_daemon(tmp_path) as daemon:
        async with start_guest(tmp_path, guest, daemon.socket_path, "--machine", "nowhere") as running:
            await expect_failure(running, r"machine\.attach: .*nowhere.* \(status 0xC0[0-9A-F]{6}\)")


async def test_a_guest_without_a_daemon_says_where_it_looked(tmp_path: Path, guest: list[str]) -> None:
    async with start_guest(tmp_path, guest, tmp_path / "nobody.sock") as running:
        await expect_failure(running, r"no daemon at .*/nobody\.sock: .*ENOENT.*")


# ---- with a daemon that is played here


class Peer:
    """The daemon's side of one connection, a message at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unpacker = msgpack.Unpacker()

    async def receive(self) -> list[Any]:
        """The next message."""
        with trio.fail_after(30):
            while True:
                for message in self._unpacker:
                    assert isinstance(message, list)
                    return message
                chunk = await self._stream.receive_some()
                assert chunk, "the guest left"
                self._unpacker.feed(chunk)

    async def expect_request(self, method: str) -> tuple[int, list[Any]]:
        """The next message has to be this request: its msgid and params."""
        kind, msgid, name, params = await self.receive()
        assert (kind, name) == (0, method)
        return msgid, params

    async def leave(self) -> None:
        await self._stream.aclose()

    async def send(self, *messages: list[Any]) -> None:
        """All in one piece."""
        await self._stream.send_all(b"".join(map(msgpack.packb, messages)))

    async def greet(self) -> tuple[int, list[Any]]:
        """Everything up to the guest's ``channel.open``."""
        hello, params = await self.expect_request("hello")
        assert params == [1, 1, "node guest"]
        await self.send([1, hello, None, [1, "0", 1, 1_200_000, 64, 16]])
        attach, params = await self.expect_request("machine.attach")
        assert params == ["vm1", False]
        await self.send([1, attach, None, [1, 1 << 20, 0]])
        return await self.expect_request("channel.open")


@asynccontextmanager
async def played(tmp_path: Path, command: list[str], *args: str) -> AsyncIterator[tuple[Peer, Running]]:
    """A guest that is connected to the test."""
    path = tmp_path / "played.sock"
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as listener:
        await listener.bind(str(path))
        listener.listen(1)
        async with start_guest(tmp_path, command, path, *args) as running:
            with trio.fail_after(30):
                connection, _ = await listener.accept()
            async with trio.SocketStream(connection) as stream:
                yield Peer(stream), running


async def test_the_guest_answers_a_ping_and_refuses_what_it_does_not_know(tmp_path: Path, guest: list[str]) -> None:
    async with played(tmp_path, guest) as (peer, running):
        await peer.greet()
        await peer.send([0, 7, "ping", []], [0, 8, "dance", []], [2, "cancel", [7]])
        assert await peer.receive() == [1, 7, None, []]
        kind, msgid, (status, _), result = await peer.receive()
        assert (kind, msgid, status, result) == (1, 8, 0xC0000002, None)
        await peer.send([2, "goodbye", [0xC00002B6, "enough"]])
        await peer.leave()
        await expect_failure(running, "the daemon ended the session: enough")


async def test_packets_right_behind_the_response_that_opens_their_channel_are_handled(
    tmp_path: Path, guest: list[str]
) -> None:
    packets = [encode_in_band(number.to_bytes(8, "little"), 40 + number, bool(number % 2)) for number in range(4)]
    async with played(tmp_path, guest, "--receive", "4") as (peer, _):
        opening, params = await peer.greet()
        assert params == [1, bytes.fromhex("6c2b1d5f107f6e4b9c530e6d0c5a0002"), None, True, 0, 0, 8, 4096]
        await peer.send(
            [1, opening, None, [1, bytes(16), False, 1, 64]],
            [2, "channel.packets", [1, 5, b"".join(packets), ""]],
            [2, "channel.packets", [9, 1, packets[0], ""]],  # late, for a channel that has gone
            [2, "channel.closed", [9, 0, "long ago"]],
        )
        seen = [await peer.receive() for _ in range(4)]
        assert [message for message in seen if message[1] == "packet.complete"] == [
            [2, "packet.complete", [1, 6, (1).to_bytes(8, "big")]],
            [2, "packet.complete", [1, 8, (3).to_bytes(8, "big")]],
        ]
        # Half of the eight packets it granted are due: now, and not before.
        assert [message for message in seen if message[1] == "channel.window"] == [[2, "channel.window", [1, 4, 96]]]
        [(_, _, method, params)] = [message for message in seen if message[0] == 0]
        assert (method, params) == ("packet.send", [1, 1, b"echo hello from node", b""])


@pytest.mark.parametrize("window", [(3, 1 << 20), (100, 170)], ids=["packets", "bytes"])
async def test_the_guest_sends_no_more_than_its_window_and_the_unanswered_requests_allow(
    tmp_path: Path, guest: list[str], window: tuple[int, int]
) -> None:
    async with played(tmp_path, guest, "--packets", "12", "--bytes", "1", "--receive", "0") as (peer, _):
        opening, _ = await peer.greet()
        await peer.send([1, opening, None, [1, bytes(16), True, *window]])  # a named pipe: no external data
        greeting, _ = await peer.expect_request("packet.send")
        await peer.send([1, greeting, None, [0, b"echo hello from node\0\0\0\0"]])
        requests = [await peer.expect_request("packet.send") for _ in range(2)]
        # The greeting cost 84 bytes, each of these 80, and the last one began with 6 left.
        # One more would come before the answer to this.
        await peer.send([0, 1, "ping", []])
        assert await peer.receive() == [1, 1, None, []]
        await peer.send([2, "channel.window", [1, 100, 1 << 20]])
        requests += [await peer.expect_request("packet.send") for _ in range(6)]
        # `hello` allowed 16 unanswered requests, and the guest keeps eight of them for closes and the like.
        await peer.send([0, 2, "ping", []])
        assert await peer.receive() == [1, 2, None, []]
        await peer.send(*([1, msgid, None, [0, params[2]]] for msgid, params in reversed(requests)))
        requests += [await peer.expect_request("packet.send") for _ in range(4)]
        assert [int.from_bytes(params[2][8:12], "little") for _, params in requests] == list(range(12))


async def test_bytes_that_are_no_message_end_the_guest(tmp_path: Path, guest: list[str]) -> None:
    async with played(tmp_path, guest) as (peer, running):
        await peer.greet()
        await peer.send([5, 1])
        await expect_failure(running, "the daemon sent a message of kind 5")


async def test_a_damaged_run_ends_the_guest(tmp_path: Path, guest: list[str]) -> None:
    async with played(tmp_path, guest) as (peer, running):
        opening, _ = await peer.greet()
        damaged = encode_in_band(b"12345678")[:-8]
        await peer.send([1, opening, None, [1, bytes(16), False, 1, 64]], [2, "channel.packets", [1, 1, damaged, ""]])
        await expect_failure(running, "the packet at byte 0 of a run is damaged")


# ---- the layouts


def test_the_guest_reads_and_writes_the_runs_of_the_wire_document(guest: list[str]) -> None:
    document = (ROOT / "docs" / "wire-protocol.md").read_text(encoding="utf-8")
    chain, run = (
        bytes.fromhex("".join(line.split("  ")[0] for line in block.splitlines()))
        for block in re.findall(r"```hexdump\n(.*?)```", document, re.DOTALL)
    )
    external = GpaRange(5000, 16, (0x101, 0x200))
    assert run == encode_in_band(b"ping", 7) + encode_gpa_direct([external], b"data", 8)
    script = f"""
        import {{ encodeMdl, parsePackets }} from {json.dumps(str(Path(guest[1]).with_name("wire.mjs")))};
        const plain = (_, value) => (typeof value === 'bigint' ? Number(value) : value);
        const packets = [...parsePackets(Buffer.from('{run.hex()}', 'hex'), 3, false)];
        for (const packet of packets) packet.payload = Buffer.from(packet.payload).toString();
        const mdl = Buffer.from(encodeMdl([0x101, 0x200], 5000, 16)).toString('hex');
        console.log(JSON.stringify({{ mdl, packets }}, plain));
    """
    done = subprocess.run(
        [guest[0], "--input-type=module", "--eval", script], capture_output=True, check=True, timeout=30
    )
    said = json.loads(done.stdout)
    assert said["mdl"] == chain.hex()
    first, second = said["packets"]
    assert (first["handle"], first["type"], first["wantsCompletion"], first["ranges"]) == (3, 6, False, [])
    assert (second["handle"], second["type"], second["wantsCompletion"], second["bytes"]) == (4, 9, True, 56)
    assert second["ranges"] == [{"byteCount": 5000, "byteOffset": 16, "pages": [0x101, 0x200]}]
    assert [packet["payload"] for packet in (first, second)] == ["ping\0\0\0\0", "data\0\0\0\0"]
    assert [packet["transactionId"] for packet in (first, second)] == [7, 8]


def test_no_lock_file_says_where_its_packages_came_from() -> None:
    text = (EXAMPLE / "package-lock.json").read_text()
    assert "sha512-" in text
    assert "://" not in text
