"""A bus guest in C, compiled with warnings as errors, with ring code of its own: the whole guest side of a machine.

``examples/c`` runs as a process against the daemon, with a host that is hosted and with one that is direct. The header
it uses and the bytes that ``docs/direct-attach.md`` shows are held against the project's own layouts.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import random
import re
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest
import trio

import clients
import clients.bus
from clients import Connection, OfferedChannel
from emulator.memory import PAGE_SIZE, GuestMemory
from emulator.vmbus import message_types as m
from emulator.vmbus.messages import MESSAGES, pack_message
from emulator.vmbus.packets import encode_in_band
from emulator.vmbus.ring import RingMemory, RingReceiver, RingSender, initialise_as_guest
from emulator.vmbus.ring_contract import FEATURES, IN, MASK, OUT, PENDING
from emulator.vmbus.send_rules import SendFlags
from tests.support.processes import ROOT, Daemon, ProcessFailed, Running, start_daemon, start_process
from tests.support.tools import in_ci, require_tool

EXAMPLE = ROOT / "examples" / "c"
HEADER = ROOT / "include"
INTERFACE = "c0ffee00-7f10-4b6e-9c53-0e6d0c5a0003"
INSTANCE = "00000000-0000-0000-0000-0000000000c1"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
HOST_MODES = ["hosted", "direct"]


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest, built by its own Makefile."""
    compiler, make = require_tool("gcc", "gcc"), require_tool("make", "make")
    if subprocess.run(
        [compiler, "-E", "-include", "msgpack.h", "-x", "c", "/dev/null"], capture_output=True, check=False
    ).returncode:
        message = "msgpack.h is not installed (on Debian: apt install libmsgpack-dev)"
        if in_ci():
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    place = tmp_path_factory.mktemp("c")
    run(make, "-C", EXAMPLE, f"CC={compiler}", f"BUILD={place}")
    return place / "bus_guest"


@asynccontextmanager
async def start_guest(tmp_path: Path, guest: Path, daemon: Daemon, *args: str) -> AsyncIterator[Running]:
    command: list[str | Path] = [guest, "--socket", daemon.socket_path, "--interface", INTERFACE, *args]
    async with start_process(tmp_path, "guest", command) as running:
        yield running


async def exit_code(running: Running) -> int:
    with trio.move_on_after(30):
        return await running.process.wait()
    raise ProcessFailed(f"it did not end\n{running.report()}")


async def expect_failure(running: Running, message: str) -> None:
    """It ends with 1 and one sentence."""
    assert await exit_code(running) == 1, running.report()
    assert re.fullmatch(f"bus_guest: {message}\n", running.stderr), running.stderr


async def send_to_guest(offered: OfferedChannel, count: int, words: int) -> None:
    """Numbered packets; every other one asks for a completion, and that has to be its payload."""
    for number in range(count):
        payload = number.to_bytes(8, "little") * words
        if number % 2:
            assert await offered.send(payload) == payload
        else:
            await offered.send(payload, flags=SendFlags(0))


async def serve(offered: OfferedChannel, sums: list[int], words: int = 40) -> None:
    """What the guest's packets ask for, until one asks for a rescind."""
    async with trio.open_nursery() as nursery:
        async for packet in offered:
            verb, number = packet.payload[:4], int.from_bytes(packet.payload[4:8], "little")
            if packet.has_external_data:
                sums.append(sum(packet.external_data()))
                await packet.complete(sums[-1].to_bytes(8, "little"))
                continue
            await packet.complete(packet.payload)
            if verb == b"send":
                nursery.start_soon(send_to_guest, offered, number, words)
            elif verb == b"gone":
                await offered.rescind()
                return


@asynccontextmanager
async def host_of(
    tmp_path: Path, mode: str, config: str | None = None
) -> AsyncIterator[tuple[Daemon, Connection, Any]]:
    """A daemon with a host that offers a channel to the guest."""
    async with start_daemon(tmp_path, config) as daemon, clients.connect(daemon.socket_path, name="host") as host:
        with trio.fail_after(60):
            machine = await host.machine("vm1")
            yield daemon, host, await machine.offer_channel(INTERFACE, INSTANCE, mode=mode)


async def machine_entry(host: Connection) -> dict[str, Any]:
    (entry,) = await host.inspect("machines", "vm1")
    return entry


# ---- with the daemon


@pytest.mark.parametrize("mode", HOST_MODES)
@pytest.mark.parametrize("ring_pages", ["1", "16", "100"])
async def test_the_whole_life_of_a_channel(tmp_path: Path, guest: Path, mode: str, ring_pages: str) -> None:
    """One data page: both rings run full; a hundred: the page list takes eight messages."""
    sums: list[int] = []
    async with host_of(tmp_path, mode) as (daemon, host, offered), trio.open_nursery() as nursery:
        nursery.start_soon(serve, offered, sums)
        async with start_guest(tmp_path, guest, daemon, "--ring-pages", ring_pages) as running:
            assert await exit_code(running) == 0, running.report()
        assert running.stderr == ""
        assert running.stdout.splitlines() == [
            "connected, version 6.0",
            "opened channel 1",
            "echoed 2000 packets",
            f"external data 100000 bytes, sum {sums[0]}",
            "received 100 packets",
            "rescinded",
            "unloaded",
        ]
        assert sums == [sum((i * 7 + i // 251) & 0xFF for i in range(100_000))]
        entry = await machine_entry(host)
        assert (entry["vmbus_violations"], entry["bus_guest"]) == ({}, None)


@pytest.mark.parametrize("mode", HOST_MODES)
async def test_it_closes_by_itself_and_can_come_back(tmp_path: Path, guest: Path, mode: str) -> None:
    async with host_of(tmp_path, mode) as (daemon, host, offered), trio.open_nursery() as nursery:
        nursery.start_soon(serve, offered, [])
        for attempt in range(2):
            place = tmp_path / str(attempt)
            place.mkdir()
            async with start_guest(place, guest, daemon, "--close") as running:
                assert await exit_code(running) == 0, running.report()
        assert (await machine_entry(host))["vmbus_violations"] == {}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", ["5.3", "5.0", "4.1", "2.4"])
async def test_it_steps_down_to_what_the_host_has(tmp_path: Path, guest: Path, version: str) -> None:
    config = f'[machines.vm1]\nvmbus_version = "{version}"\n'
    async with host_of(tmp_path, "hosted", config) as (daemon, _, offered), trio.open_nursery() as nursery:
        nursery.start_soon(serve, offered, [])
        async with start_guest(tmp_path, guest, daemon) as running:
            await running.wait_for_line(f"connected, version {version}")
            assert await exit_code(running) == 0, running.report()


async def test_a_host_that_lets_go_ends_it_with_a_sentence(tmp_path: Path, guest: Path) -> None:
    async with host_of(tmp_path, "hosted") as (daemon, _, offered):
        async with start_guest(tmp_path, guest, daemon, "--packets", "4") as running:
            await running.wait_for_line("opened")
            await anext(aiter(offered))
            await offered.rescind()
            await expect_failure(running, "the host let go of the channel while packets were on their way")


async def test_a_refusal_of_the_daemon_is_told_with_its_status(tmp_path: Path, guest: Path) -> None:
    async with host_of(tmp_path, "hosted") as (daemon, host, _):
        async with await clients.bus.attach_bus(host, await host.machine("vm1")):
            async with start_guest(tmp_path, guest, daemon) as running:
                await expect_failure(running, r"the daemon refused: .* has a bus guest already: .*0xC0[0-9A-F]{6}\)")


async def test_a_named_pipe_is_refused_in_words(tmp_path: Path, guest: Path) -> None:
    async with start_daemon(tmp_path) as daemon, clients.connect(daemon.socket_path) as host:
        await (await host.machine("vm1")).offer_channel(INTERFACE, pipe=True)
        async with start_guest(tmp_path, guest, daemon) as running:
            await expect_failure(running, "channel 1 is a named pipe, which this guest does not speak")


async def test_without_a_daemon_it_says_where_it_looked(tmp_path: Path, guest: Path) -> None:
    command: list[str | Path] = [guest, "--socket", tmp_path / "nobody.sock", "--interface", INTERFACE]
    async with start_process(tmp_path, "guest", command) as running:
        await expect_failure(running, r"no daemon at .*/nobody\.sock: No such file or directory")


async def test_a_daemon_that_stops_says_so_to_a_guest_that_waits(tmp_path: Path, guest: Path) -> None:
    async with start_daemon(tmp_path, expect_exit=None) as daemon, start_guest(tmp_path, guest, daemon) as running:
        await running.wait_for_line("connected")
        daemon.process.terminate()
        await expect_failure(running, "the daemon ended the session: the daemon is stopping.*")
        assert await exit_code(daemon) == 0


@pytest.mark.parametrize("words", [["--packets", "x"], ["--interface", "no-guid"], ["more"], ["--ring-pages", "0"]])
async def test_a_wrong_option_is_told(tmp_path: Path, guest: Path, words: list[str]) -> None:
    async with host_of(tmp_path, "hosted") as (daemon, _, _offered):
        async with start_guest(tmp_path, guest, daemon, *words) as running:
            await expect_failure(running, "(x is not a number|no-guid is not a GUID|usage: |a ring has 1 to 4094).*")


# ---- the header


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def in_c(struct: str, field: str) -> str:
    """Where a field stands in the header's structures, of which longer ones begin with the shorter one."""
    longer = {
        "open_channel2": ("open", {"connection_id", "event_flag", "flags"}),
        "initiate_contact2": ("contact", {"client_id"}),
        "version_response2": ("response", {"supported_features"}),
    }
    first, own = longer.get(struct, ("", set()))
    return field if not first or field in own else f"{first}.{field}"


def distinct(message: type[m.Message]) -> m.Message:
    """A message with another value in every field."""
    values: dict[str, Any] = {}
    for number, field in enumerate(dataclasses.fields(message), start=1):
        match field.type:
            case "UUID":
                values[field.name] = UUID(bytes_le=bytes([number]) * 16)
            case "bytes":
                values[field.name] = b"" if field.name == "ranges" else bytes([number]) * m.USER_DATA_BYTES
            case _:
                values[field.name] = number
    return message(**values)


def test_the_headers_messages_are_byte_for_byte_those_of_the_project(tmp_path: Path) -> None:
    text = (HEADER / "vmbus_user.h").read_text()
    rows = [
        row
        for row in MESSAGES
        if f"struct vmbus_{snake(row.message.__name__)} {{" in text or row.number in (3, 4, 16, 17)
    ]
    assert {row.number for row in rows} == {*range(1, 18), 22, 24}
    lines, expected = [], []
    for row in rows:
        message = distinct(row.message)
        name = snake(row.message.__name__)
        fields = [field for field in dataclasses.fields(row.message) if field.name != "ranges"]
        struct = f"vmbus_{name}" if fields else "vmbus_header"
        lines.append(f"{{ struct {struct} x; memset(&x, 0, sizeof x); uint32_t number = VMBUS_{type_name(row.number)};")
        lines.append("memcpy(&x, &number, 4);")
        for field in fields:
            target = f"x.{in_c(name, field.name)}"
            value = getattr(message, field.name)
            if isinstance(value, int):
                lines.append(f"{target} = {value};")
            else:
                first = value.bytes[0] if isinstance(value, UUID) else value[0]
                lines.append(f"memset(&{target}, {first}, sizeof {target});")
        lines.append("show(&x, sizeof x); }")
        expected.append(pack_message(message).hex())
    assert compiled(tmp_path, lines) == expected


def type_name(number: int) -> str:
    """The constant's name: that of the shortest layout."""
    return snake(next(row.message.__name__ for row in reversed(MESSAGES) if row.number == number)).upper()


def compiled(tmp_path: Path, lines: list[str]) -> list[str]:
    """What a program prints that uses the header; ``show`` prints bytes in hex."""
    compiler = require_tool("gcc", "gcc")
    source = tmp_path / "layout.c"
    source.write_text(
        '#include <stdio.h>\n#include <string.h>\n#include "vmbus_user.h"\n'
        "void show(const void *at, size_t size);\n"
        "void show(const void *at, size_t size) { const unsigned char *p = at;\n"
        '  for (size_t i = 0; i < size; i++) printf("%02x", p[i]);\n  putchar(10); }\n'
        "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    )
    run(compiler, *STRICT, f"-I{HEADER}", "-o", tmp_path / "layout", source)
    return run(tmp_path / "layout").splitlines()


def test_the_headers_control_page_and_numbers_are_the_projects(tmp_path: Path) -> None:
    words = {"in": IN, "out": OUT, "interrupt_mask": MASK, "pending_send_size": PENDING, "feature_bits": FEATURES}
    wanted: dict[str, int] = {f"offsetof(struct vmbus_ring_control, {name})": 4 * word for name, word in words.items()}
    wanted |= {f"VMBUS_FEATURE_{feature.name}": feature.value for feature in m.FeatureFlags}
    wanted |= {f"VMBUS_VERSION_{each >> 16}_{each & 0xFFFF}": int(each) for each in m.Version if each >= m.Version.V2_4}
    wanted |= {"VMBUS_MESSAGE_BYTES": m.MAX_PAYLOAD_BYTES, "VMBUS_TARGET_VP_NONE": m.DISABLE_INTERRUPTS_VP}
    lines = [f'printf("%llu\\n", (unsigned long long)({name}));' for name in wanted]
    assert compiled(tmp_path, lines) == [str(value) for value in wanted.values()]


def test_a_program_that_misuses_the_header_does_not_compile(tmp_path: Path) -> None:
    """The check above can fail: a structure that has not the size it should have stops the compiler."""
    with pytest.raises(AssertionError, match="wrong on purpose"):
        compiled(tmp_path, ['_Static_assert(sizeof(struct vmbus_offer_channel) == 195, "wrong on purpose");'])


# ---- the document


def shown(kinds: str) -> list[str]:
    """The bytes of these dumps in the document, in its order, as hex."""
    text = (ROOT / "docs" / "direct-attach.md").read_text(encoding="utf-8")
    return [
        "".join(hex_of(line) for line in block.splitlines())
        for block in re.findall(rf"```hexdump (?:{kinds})\n(.*?)```", text, re.DOTALL)
    ]


def hex_of(line: str) -> str:
    """What stands in front of a line's explanation; ``00 x N`` are N zero bytes."""
    digits = line.split("  ")[0]
    zeros = re.fullmatch(r"00 x (\d+)", digits)
    return "00" * int(zeros[1]) if zeros else digits.replace(" ", "")


@pytest.mark.parametrize("mode", HOST_MODES)
async def test_the_documents_bytes_are_those_of_a_run(tmp_path: Path, guest: Path, mode: str) -> None:
    options = ["--packets", "1", "--bytes", "5000", "--receive", "2", "--ring-pages", "16", "--trace"]
    async with host_of(tmp_path, mode) as (daemon, _, offered), trio.open_nursery() as nursery:
        nursery.start_soon(serve, offered, [], 1)
        async with start_guest(tmp_path, guest, daemon, *options) as running:
            assert await exit_code(running) == 0, running.report()
    traced = [line.split() for line in running.stdout.splitlines() if line[0] in "<>"]
    messages = [text for sign, text in traced if sign in ("<", ">")]
    packets = [text for sign, text in traced if sign in ("<<", ">>")]
    assert shown("posted|received") == messages
    assert shown("posted") == [text for sign, text in traced if sign == ">"]
    assert shown("sent|taken") == [packets[number] for number in (0, 1, 2, 7, 8)]
    assert shown("sent") == [packets[number] for number in (0, 2, 8)]
    assert shown("ring") == [ring_with(packets[0], packets[2])]


def ring_with(*packets: str) -> str:
    """What the project's own sender makes of these packets in an empty ring, as hex."""
    memory = GuestMemory(memoryview(bytearray(2 * PAGE_SIZE)))
    ring = RingMemory.over(memory, (0, 1))
    initialise_as_guest(ring)
    sender = RingSender(ring)
    assert sender.send_batch([bytes.fromhex(packet) for packet in packets]).written == len(packets)
    return bytes(memory.view(PAGE_SIZE, ring.control[IN])).hex()


def test_the_documents_frames_are_messagepack() -> None:
    text = (ROOT / "docs" / "direct-attach.md").read_text(encoding="utf-8")
    frames = re.findall(r"```frame\n(.*?)\n(.*?)```", text, re.DOTALL)
    assert len(frames) == 6

    def value(each: Any) -> Any:
        if isinstance(each, list):
            return [value(inner) for inner in each]
        return bytes.fromhex(each[4:]) if isinstance(each, str) and each.startswith("bin:") else each

    for meaning, dump in frames:
        assert msgpack.packb(value(json.loads(meaning))) == bytes.fromhex(dump), meaning


def test_the_document_and_the_header_name_the_same_methods_as_the_wire() -> None:
    known = set(re.findall(r"### \d+ `([a-z._]+)`", (ROOT / "docs" / "wire-protocol.md").read_text(encoding="utf-8")))
    text = (ROOT / "docs" / "direct-attach.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([a-z._]+)` \|", text.split("## 2.")[0], re.MULTILINE))
    defined = set(re.findall(r'#define VMBUS_METHOD_\w+ "([a-z._]+)"', (HEADER / "vmbus_user.h").read_text()))
    assert listed == defined
    assert listed < known


# ---- the ring in C, beside the project's own


class CRing(ctypes.Structure):
    """``struct ring`` of ring.h, over a ring of three scattered data pages."""

    _fields_ = [
        ("control", ctypes.c_void_p),
        ("memory", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
        ("bytes", ctypes.c_uint32),
        ("mine", ctypes.c_uint32),
    ]


PAGES = (5, 3, 1, 4)
DONE, FULL, EMPTY, DAMAGED = range(4)


class Twins:
    """One ring with an end in C and an end of the project's, and the same again with both ends of the project's."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.buffer = bytearray(8 * PAGE_SIZE)
        self._held = (ctypes.c_char * len(self.buffer)).from_buffer(self.buffer)
        self._pages = (ctypes.c_uint64 * len(PAGES))(*PAGES)
        self.c = CRing()
        library.ring_start(ctypes.byref(self.c), ctypes.byref(self._held), self._pages, len(PAGES))
        self.mixed = RingMemory.over(GuestMemory(memoryview(self.buffer)), PAGES)
        self.plain = RingMemory.over(GuestMemory(memoryview(bytearray(8 * PAGE_SIZE))), PAGES)
        initialise_as_guest(self.plain)
        self._bell = ctypes.c_bool()

    def send(self, packet: bytes) -> tuple[int, bool]:
        self._bell.value = False
        result = self.library.ring_send(ctypes.byref(self.c), packet, len(packet), ctypes.byref(self._bell))
        return result, self._bell.value

    def receive(self) -> tuple[int, bytes, bool]:
        self._bell.value = False
        packet, size = ctypes.create_string_buffer(4096), ctypes.c_uint32()
        arguments = ctypes.byref(self.c), packet, 4096, ctypes.byref(size), ctypes.byref(self._bell)
        result = self.library.ring_receive(*arguments)
        return result, packet.raw[: size.value], self._bell.value

    def same(self) -> bool:
        """Whether both rings hold the same in every word that means something."""
        return all(self.mixed.control[word] == self.plain.control[word] for word in (IN, OUT, MASK, FEATURES))


@pytest.fixture(scope="module")
def ring_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("ring") / "ring.so"
    run(require_tool("gcc", "gcc"), *STRICT, "-O2", "-shared", "-fPIC", f"-I{HEADER}", EXAMPLE / "ring.c", "-o", target)
    library = ctypes.CDLL(str(target))
    library.ring_go_idle.restype = library.ring_ask_for_room.restype = ctypes.c_bool
    return library


def packets_of(seed: int) -> list[bytes]:
    rng = random.Random(seed)
    return [encode_in_band(rng.randbytes(rng.randrange(0, 1200)), number) for number in range(400)]


def often(number: int, emptying: float, filling: float) -> float:
    """How probable it is to take packets: a ring that is now full and now empty."""
    return emptying if number // 40 % 2 else filling


@pytest.mark.parametrize("seed", range(4))
def test_the_sender_in_c_writes_and_rings_as_the_projects_does(ring_library: ctypes.CDLL, seed: int) -> None:
    twins, rng = Twins(ring_library), random.Random(seed)
    sender, receivers = RingSender(twins.plain), [RingReceiver(twins.plain), RingReceiver(twins.mixed)]
    outcomes = set()
    for number, packet in enumerate(packets_of(seed)):
        result, bell = twins.send(packet)
        written, signal = sender.send_batch([packet])
        assert (result, bell) == (DONE if written else FULL, signal)
        outcomes.add((result, bell))
        if not written:
            wanted = len(packet)
            assert ring_library.ring_ask_for_room(ctypes.byref(twins.c), wanted) is sender.block(wanted + 8)
        else:
            sender.unblock()
        assert twins.mixed.control[PENDING] == twins.plain.control[PENDING]
        if rng.random() < often(number, 0.9, 0.1):
            count = rng.randrange(1, 4)
            first, second = (receiver.receive_batch(count, 1 << 20) for receiver in receivers)
            assert first == second
        if rng.random() < 0.2:
            assert receivers[0].go_idle() is receivers[1].go_idle()
        assert twins.same()
    assert outcomes == {(DONE, True), (DONE, False), (FULL, False)}


@pytest.mark.parametrize("seed", range(4))
def test_the_receiver_in_c_takes_and_rings_as_the_projects_does(ring_library: ctypes.CDLL, seed: int) -> None:
    twins, rng = Twins(ring_library), random.Random(seed)
    senders, receiver = [RingSender(twins.plain), RingSender(twins.mixed)], RingReceiver(twins.plain)
    bells, blocked = set(), False
    for number, packet in enumerate(packets_of(seed)):
        if not blocked:
            first, second = (sender.send_batch([packet]) for sender in senders)
            assert first == second
            for sender in senders:
                if first.written:
                    sender.unblock()
                else:
                    blocked = not sender.block(len(packet) + 8)
        for _ in range(rng.randrange(4) if rng.random() < often(number, 0.9, 0.1) else 0):
            result, image, bell = twins.receive()
            images, _, signal, _ = receiver.receive_batch(1, 1 << 20)
            assert (result, [image] if image else []) == (DONE if images else EMPTY, images)
            assert bell is signal
            bells.add(bell)
            blocked = blocked and not bell
        if rng.random() < 0.2:
            assert ring_library.ring_go_idle(ctypes.byref(twins.c)) is receiver.go_idle()
        assert twins.same()
    assert bells == {True, False}


def damage(ring: RingMemory, word: int, value: int) -> None:
    ring.control[word] = value


@pytest.mark.parametrize("index", [4, 0x1001, 3 * PAGE_SIZE, 0xFFFFFFF8])
def test_an_illegal_index_is_damage_to_the_ring_in_c(ring_library: ctypes.CDLL, index: int) -> None:
    twins = Twins(ring_library)
    damage(twins.mixed, OUT, index)
    assert twins.send(encode_in_band(b"12345678"))[0] == DAMAGED
    damage(twins.mixed, OUT, 0)
    damage(twins.mixed, IN, index)
    assert twins.receive()[0] == DAMAGED


@pytest.mark.parametrize(("offset8", "length8"), [(0, 3), (1, 3), (4, 3), (2, 4), (2, 0xFFFF), (2, 0)])
def test_a_descriptor_that_makes_no_sense_is_damage_to_the_ring_in_c(
    ring_library: ctypes.CDLL, offset8: int, length8: int
) -> None:
    twins = Twins(ring_library)
    twins.mixed.write(0, struct.pack("<HHHHQ", 6, offset8, length8, 0, 1) + bytes(16))
    damage(twins.mixed, IN, 32)
    assert twins.receive()[0] == DAMAGED
    assert twins.mixed.control[OUT] == 0
