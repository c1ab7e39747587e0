"""A client that says whatever a test wants, byte by byte if need be, and a daemon inside the test's own process."""

from __future__ import annotations

import array
import gc
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgpack
import trio

from emulator.config import Config
from emulator.daemon.listeners import UnixListener
from emulator.daemon.server import Server
from emulator.status import NtStatus

GRANT = 256, 1 << 20
PATIENCE_SECONDS = 20.0


class Answered(Exception):
    """A request was answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{NtStatus(status)!s}: {message}")
        self.status = NtStatus(status)
        self.message = message


class RawClient:
    """One connection to a daemon, with nothing between a test and the bytes. What comes unasked is kept in order."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.notices: list[tuple[str, list[Any]]] = []
        self.questions: list[tuple[int, str, list[Any]]] = []
        self.answers: dict[int, tuple[list[Any] | None, list[Any]]] = {}
        self.descriptors: list[int] = []
        self._unpacker = msgpack.Unpacker(max_buffer_size=1 << 26)
        self._last_msgid = 0

    # ---- saying

    async def say(self, data: bytes) -> None:
        """These bytes, all of them."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    def say_until_full(self, data: bytes) -> int:
        """These bytes over and over until the socket takes no more; how many bytes it took."""
        taken = 0
        with suppress(BlockingIOError):
            while True:
                taken += self.sock.send(data)
        return taken

    def pass_descriptors(self, data: bytes, descriptors: Iterable[int]) -> None:
        """Bytes with descriptors attached."""
        self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])

    async def start(self, method: str, *args: object) -> int:
        """Send a request; its msgid."""
        self._last_msgid += 1
        await self.say(request(self._last_msgid, method, *args))
        return self._last_msgid

    async def notify(self, method: str, *args: object) -> None:
        """Send a notification."""
        await self.say(notification(method, *args))

    async def call(self, method: str, *args: object) -> list[Any]:
        """A request and its result; raises Answered for an error."""
        return await self.answer(await self.start(method, *args))

    async def hello(self, name: str = "raw") -> list[Any]:
        return await self.call("hello", 1, 1, name)

    # ---- hearing

    async def answer(self, msgid: int) -> list[Any]:
        """The result of a request; raises Answered for an error."""
        while msgid not in self.answers:
            assert await self.hear(), f"the connection ended before request {msgid} was answered"
        error, result = self.answers.pop(msgid)
        if error is not None:
            raise Answered(*error)
        return result

    async def notice(self, method: str) -> list[Any]:
        """The arguments of the next notification of this method; others stay for later."""
        while True:
            for index, (name, args) in enumerate(self.notices):
                if name == method:
                    del self.notices[index]
                    return args
            assert await self.hear(), f"the connection ended before a {method}"

    async def question(self, method: str) -> tuple[int, list[Any]]:
        """The msgid and arguments of the next request of the daemon's, which must be of this method."""
        while not self.questions:
            assert await self.hear(), f"the connection ended before a {method}"
        msgid, name, args = self.questions.pop(0)
        assert name == method
        return msgid, args

    async def respond(self, msgid: int, *result: object) -> None:
        """Answer a request of the daemon's."""
        await self.say(response(msgid, *result))

    async def goodbye(self) -> tuple[NtStatus, str]:
        """Why the daemon ended the session; whatever else comes before the end of the stream is kept."""
        while await self.hear():
            pass
        said = [args for name, args in self.notices if name == "goodbye"]
        assert len(said) == 1, f"the daemon closed the connection and said {len(said)} goodbyes"
        return NtStatus(said[0][0]), said[0][1]

    async def hear(self) -> bool:
        """Take in what has come, waiting for something; False at the end of the stream."""
        with trio.fail_after(PATIENCE_SECONDS):
            await trio.lowlevel.wait_readable(self.sock)
        try:
            data, ancillary, _, _ = self.sock.recvmsg(1 << 16, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False  # it closed with bytes of ours unread
        for _, _, content in ancillary:
            self.descriptors += array.array("i", content)
        self._unpacker.feed(data)
        for message in self._unpacker:
            if message[0] == 1:
                self.answers[message[1]] = message[2], message[3]
            elif message[0] == 0:
                self.questions.append((message[1], message[2], message[3]))
            elif message[0] == 2:
                self.notices.append((message[1], message[2]))
        return bool(data)

    # ---- usual beginnings

    async def attach(self, machine: str = "vm1") -> int:
        """Hello, and a machine without its memory mapped; its number."""
        await self.hello()
        number: int = (await self.call("machine.attach", machine, False))[0]
        return number

    async def offer(self, interface: bytes, machine: int = 1, grant: tuple[int, int] = GRANT) -> int:
        number: int = (await self.call("channel.offer", machine, interface, None, False, *grant))[0]
        return number

    async def open(self, interface: bytes, machine: int = 1, grant: tuple[int, int] = GRANT) -> int:
        number: int = (await self.call("channel.open", machine, interface, None, True, 0, 0, *grant))[0]
        return number

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        if self.sock.fileno() != -1:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()


def request(msgid: int, method: str, *args: object) -> bytes:
    """A request as bytes, right or wrong."""
    packed: bytes = msgpack.packb([0, msgid, method, args])
    return packed


def response(msgid: int, *result: object, error: object = None) -> bytes:
    """A response as bytes, right or wrong."""
    packed: bytes = msgpack.packb([1, msgid, error, None if error else result])
    return packed


def notification(method: str, *args: object) -> bytes:
    """A notification as bytes, right or wrong."""
    packed: bytes = msgpack.packb([2, method, args])
    return packed


def open_sockets() -> int:
    """How many sockets this process has open."""
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.readlink(name).startswith("socket:") for name in names if os.path.islink(name))


def open_descriptors() -> int:
    """How many descriptors of any kind. A mapping keeps one for as long as it lives, so garbage is collected first."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def raw_client(path: Path) -> AsyncIterator[RawClient]:
    """A connection that has said nothing yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    client = RawClient(sock)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def served(tmp_path: Path, config: Config | None = None) -> AsyncIterator[tuple[Server, Path]]:
    """A daemon in this process, and the path it listens on, for the length of the block."""
    path = tmp_path / "vmbusd.sock"
    with UnixListener(path) as listener:
        server = Server(config or Config())
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(server.run, listener, ready.set)
            await ready.wait()
            yield server, path
            nursery.cancel_scope.cancel()
