"""What happens in the demonstration, in order. Every exchange is checked; anything wrong is a DemoFailed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from clients.demo.archive import archive_bytes, sha256_of, standard_library, write_archive
from clients.demo.children import Child, ChildFailed, Children
from clients.demo.datagrams import exchange_datagrams
from clients.demo.failure import DemoFailed, first_of
from clients.demo.progress import Display, Step
from clients.demo.report import Report, Result
from clients.demo.telling import WrongAnswer

MACHINES = ("vm1", "vm2")
GUESTS_PER_MACHINE = 2
# A Unix socket's path has at most 107 bytes; this is what the folder's own may have of them.
LONGEST_FOLDER_BYTES = 80

CONFIGURATION = """\
[segments.lan]
subnet = "10.0.0.0/24"

[machines.vm1]
memory_bytes = 67108864
segments = { lan = "10.0.0.1" }

[machines.vm2]
memory_bytes = 67108864
segments = { lan = "10.0.0.2" }
"""


@dataclass(frozen=True)
class Options:
    """How much the demonstration does. ``buffer_bytes`` is the size of the guest's buffers."""

    file: Path | None = None
    packets: int = 20_000
    datagrams: int = 2_000
    buffer_bytes: int = 512 * 1024


async def tell_story(options: Options, display: Display) -> Report:
    """Run all of it in a folder of its own, of which nothing stays."""
    parent = tempfile.gettempdir()
    if len(parent) > LONGEST_FOLDER_BYTES:
        parent = "/tmp"
    with tempfile.TemporaryDirectory(prefix="vmbus-demo-", dir=parent) as name:
        folder = Path(name)
        report = Report()
        file = await _prepare_file(options, folder, display, report)
        async with Children(folder) as children:
            try:
                await _with_daemon(options, folder, file, children, display, report)
            except ExceptionGroup as group:
                error = first_of(group)
                if isinstance(error, ChildFailed):
                    raise await children.reason(error) from None
                raise (DemoFailed(str(error)) if isinstance(error, WrongAnswer) else error) from None
        return report


async def _with_daemon(
    options: Options, folder: Path, file: Path, children: Children, display: Display, report: Report
) -> None:
    """Start the daemon and do everything that needs it. Exceptions come in groups."""
    configuration = folder / "vmbusd.toml"
    configuration.write_text(CONFIGURATION)
    socket = folder / "vmbusd.sock"
    async with trio.open_nursery() as watchers:
        daemon = await children.start("daemon", "emulator", "--socket", socket, "--config", configuration, lasts=True)
        await daemon.wait_for_line("vmbusd: ready")
        watchers.start_soon(daemon.watch)
        stage = Stage(socket, children, watchers, display)
        await stage.send_file(file, options.buffer_bytes, report)
        await stage.send_small_packets(options.packets, report)
        report.results += await exchange_datagrams(stage, options.datagrams)
        await daemon.end()
        if daemon.process.returncode != 0:
            raise ChildFailed(daemon, await daemon.fate())


async def _prepare_file(options: Options, folder: Path, display: Display, report: Report) -> Path:
    """The file to send, and in the report its name, size and SHA-256."""
    file = options.file
    if file is None:
        file = folder / "standard-library.tar"
        source = standard_library()
        step = display.step("archive of the standard library", await trio.to_thread.run_sync(archive_bytes, source))
        await _in_thread(step, partial(write_archive, file, source))
    report.file_name, report.file_bytes = file.name, file.stat().st_size
    step = display.step("its SHA-256", report.file_bytes)
    report.sha256 = await _in_thread(step, partial(sha256_of, file))
    return file.resolve()


async def _in_thread(step: Step, work: Any) -> Any:
    """Run work that takes a progress function; a cancelled demonstration stops it at its next piece."""

    def advance(amount: int) -> None:
        trio.from_thread.check_cancelled()
        trio.from_thread.run_sync(step.advance, amount)

    return await trio.to_thread.run_sync(work, advance)


class Stage:
    """A running daemon, and what it takes to let processes act on its machines."""

    def __init__(self, socket: Path, children: Children, watchers: trio.Nursery, display: Display) -> None:
        self.display = display
        self._socket = socket
        self._children = children
        self._watchers = watchers

    async def start(self, name: str, program: str, *arguments: str | Path | int, lasts: bool = False) -> Child:
        """Start a program of the demonstration; one that lasts is watched until it is ended."""
        module = f"clients.demo.{program}"
        child = await self._children.start(name, module, self._socket, *arguments, lasts=lasts)
        if lasts:
            await child.expect("ready")
            self._watchers.start_soon(child.watch)
        return child

    @staticmethod
    async def follow(child: Child, step: Step | None) -> dict[str, Any]:
        """Show what a child tells until it is done; the last of it."""
        done: dict[str, Any] | None = None
        async for message in child.messages():
            if message["event"] == "done":
                done = message
            elif step is not None:
                step.advance(message["amount"])
        fate = await child.fate()
        if done is None or child.process.returncode != 0:
            raise ChildFailed(child, fate)
        return done

    async def send_file(self, file: Path, buffer_bytes: int, report: Report) -> None:
        """The file through external data, on every machine at the same time."""
        async with trio.open_nursery() as nursery:
            for machine in MACHINES:
                nursery.start_soon(self._send_file_on, machine, file, buffer_bytes, report)
        report.results.sort(key=lambda result: result.name)
        report.hosts.sort()

    async def _send_file_on(self, machine: str, file: Path, buffer_bytes: int, report: Report) -> None:
        host = await self.start(f"file host of {machine}", "file_host", machine, lasts=True)
        step = self.display.step(f"file to the host of {machine}", report.file_bytes)
        guest = await self.start(f"file guest of {machine}", "file_guest", machine, file, buffer_bytes)
        done = await self.follow(guest, step)
        if done["sha256"] != report.sha256:
            raise DemoFailed(f"the host of {machine} got other bytes: their SHA-256 is {done['sha256']}")
        report.results.append(Result.of(f"file on {machine}", [done]))
        report.hosts.append(machine)
        await host.end()

    async def send_small_packets(self, packets: int, report: Report) -> None:
        """Small packets of several guests on every machine."""
        hosts = [
            await self.start(f"echo host of {machine}", "echo_host", machine, GUESTS_PER_MACHINE, lasts=True)
            for machine in MACHINES
        ]
        ends: list[dict[str, Any]] = []
        guests = len(MACHINES) * GUESTS_PER_MACHINE
        step = self.display.step(f"small packets of {guests} guests", packets)

        async def run_guest(machine: str, guest: int, share: int) -> None:
            child = await self.start(f"echo guest {guest + 1} of {machine}", "echo_guest", machine, guest, share)
            ends.append(await self.follow(child, step))

        async with trio.open_nursery() as nursery:
            for index in range(guests):
                share = (packets + index) // guests
                nursery.start_soon(run_guest, MACHINES[index % len(MACHINES)], index // len(MACHINES), share)
        report.results.append(Result.of("small packets", ends))
        for host in hosts:
            await host.end()
