"""A hostile TDI client: requests of every TDI row, half of them sensible, in an order that chance decides.

It keeps to the wire, so that its session lives and the cores get everything, except where it is told not to.
"""

from __future__ import annotations

import json
import random
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from emulator.tdi import builders
from emulator.tdi.constants import EventType, FileKind, QueryType, ShareAccess
from emulator.tdi.layout import Arch
from emulator.tdi.nt_layouts import IRP
from emulator.tdi.structures import SocketAddress, pack_transport_address
from emulator.wire.method import IO_STATUS
from emulator.wire.schema import METHODS
from tests.daemon.raw import Answered, RawClient, notification, request, response

HOSTS = ("10.0.0.1", "10.0.0.2", "10.0.0.255", "0.0.0.0", "127.0.0.1", "224.1.1.1", "::1", "", "10.0.0.77", "nobody")
PORTS = (0, 7000, 7001, 65535)
NETWORKS = ("lan", "stream", "udp", "tcp")
FLAGS = (0, 1, 2, 0x20, 0x40, 0x80, 0x400, 0x800, 0xFFFFFFFF)
STATUSES = (0, 0x103, 0xC0000016, 0xC000021B, 0xC0000236, 0x80000005, 0xFFFFFFFF)
NUMBERS = (0, 1, 2, 7, 60, 4096, (1 << 32) - 1)
LARGE = (*NUMBERS, (1 << 63), (1 << 64) - 1)
TIMES = (None, 0, 1, 10_000, (1 << 64) - 10_000, (1 << 64) - 1)
SETTINGS = (
    "loss",
    "duplication",
    "reordering",
    "latency_seconds",
    "jitter_seconds",
    "maximum_datagram_bytes",
    "partition",
    "seed",
)
PAGES = 4
_IO_STATUS = {method.name: method.result[:3] == IO_STATUS for method in METHODS}
ROOM = PAGES * 4096


class Attacker:
    """One session that says what its generator tells it to; ``run`` is the whole of its life."""

    def __init__(self, client: RawClient, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self._msgid = 10
        self._asked: dict[int, str] = {}
        self._addresses: list[int] = []
        self._connections: list[int] = []
        self._files: list[int] = []
        self._filters: list[int] = []
        self._loans: list[int] = []
        self._memory = 0
        self._host = ""
        self._opening: dict[int, str] = {}
        self._networks: dict[int, str] = {}
        self.ends: Counter[tuple[str, bool]] = Counter()
        """How many requests of each method ended, with success or without."""

    async def run(self, steps: int, ask: int = 12) -> None:
        """Attach, say ``ask`` things at a time, hear what comes and answer it, until it has done so ``steps`` times."""
        client = self._client
        number = self._chance.choice((1, 2))
        self._host = f"10.0.0.{number}"
        await client.attach(f"vm{number}")
        (pfns,) = await client.call("memory.allocate", 1, PAGES)
        self._memory = int.from_bytes(pfns[:8], "little") << 12
        self._msgid = 100
        await self._set_the_stage()
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(steps):
                said = b"".join(self._something() for _ in range(self._chance.randrange(1, ask)))
                await client.say(said + self._request("ping"))
                ping = self._msgid
                while ping in self._asked:
                    if not await client.hear():
                        return  # ended, by the daemon
                    await client.say(b"".join(self._heard()))

    async def _set_the_stage(self) -> None:
        """Some addresses, handlers and connections to the other machine that work, or may."""
        client, one = self._client, self._one_of
        for network in NETWORKS[:2]:
            with suppress(Answered):
                await self._call("address.open", 1, network, self._host, 7000, True, 64, 1 << 20)
                address = self._addresses[-1]
                for event in EventType:
                    if self._chance.random() < 0.3:
                        await client.call("address.set_event_handler", address, event, 7, 7)
                for _ in range(3):
                    await self._call("connection.open", 1, network, one(LARGE))
                    await client.call("connection.associate", self._connections[-1], address)
        for connection in self._connections:
            if one((False, True)):
                await client.say(self._request("connection.listen", connection, one((0, 0, 2)), "", 0, b"hello"))
            else:
                await client.say(self._request("connection.connect", connection, one(HOSTS[:2]), 7000, None, b"me"))

    async def _call(self, method: str, *args: object) -> None:
        self._msgid += 1
        self._opening[self._msgid] = str(args[1])
        self._keep(self._msgid, method, await self._client.call(method, *args))

    # ---- what it hears

    def _heard(self) -> list[bytes]:
        client, answers = self._client, []
        for msgid, (error, result) in client.answers.items():
            method = self._asked.pop(msgid)
            self.ends[method, error is None and not (_IO_STATUS.get(method) and result[0])] += 1
            if error is None:
                self._keep(msgid, method, result)
        client.answers.clear()
        for msgid, method, args in client.questions:
            if method == "address.event" and args[8]:
                self._loans.append(args[8])
            if self._chance.random() < 0.8:  # the others wait till their time is over
                answers.append(self._answer(msgid, method, args))
        client.questions.clear()
        client.notices.clear()
        return answers

    def _keep(self, msgid: int, method: str, result: list[Any]) -> None:
        if method == "address.open":
            self._addresses.append(result[0])
            self._files.append(result[0])
            self._networks[result[0]] = self._opening[msgid]
        elif method == "connection.open":
            self._connections.append(result[0])
            self._files.append(result[0])
            self._networks[result[0]] = self._opening[msgid]
        elif method == "filter.attach":
            self._filters.append(result[0])
        elif method == "file.create" and result[3]:
            self._files.append(result[3])
            if result[4] == FileKind.ADDRESS:
                self._addresses.append(result[3])

    def _answer(self, msgid: int, method: str, args: list[Any]) -> bytes:
        one = self._one_of
        if self._chance.random() < 0.1:
            return response(msgid, error=[one(STATUSES), "no"])
        if method == "address.event":
            endpoint = one(self._connections) if self._connections else 0
            taken = one((0, 1, len(args[11]), *LARGE))
            return response(
                msgid,
                self._mostly(0, STATUSES),
                taken,
                one((0, 1, 2)),
                one((0, 10, 65536)),
                one((0, endpoint, endpoint, 99)),
                one((None, None, 1)),
                bytes(one((0, 3, 4096))),
            )
        if method == "filter.request":
            remote = one((None, b"", pack_transport_address(self._peer()), b"\xff" * 22))
            return response(
                msgid,
                one((0, 0, 1, 2)),
                one(STATUSES),
                one(LARGE),
                remote,
                one((None, b"", b"changed")),
                one((True, False)),
            )
        return response(msgid)

    # ---- what it says

    def _one_of(self, values: Any) -> Any:
        return self._chance.choice(values)

    def _mostly(self, sensible: Any, values: Any) -> Any:
        """Three times of four what makes sense."""
        return sensible if self._chance.random() < 0.75 else self._chance.choice(values)

    def _data(self) -> bytes:
        return bytes(self._one_of((0, 1, 5, 100, 1400, 3000, 30_000)))

    def _peer(self) -> SocketAddress:
        return SocketAddress(self._one_of(HOSTS[:5]), self._one_of(PORTS[1:3]))

    def _where(self) -> tuple[str, int]:
        return self._mostly(self._one_of(HOSTS[:2]), HOSTS), self._mostly(7000, PORTS)

    def _request(self, method: str, *args: object) -> bytes:
        self._msgid += 1
        self._asked[self._msgid] = method
        if method in ("address.open", "connection.open"):
            self._opening[self._msgid] = str(args[1])
        return request(self._msgid, method, *args)

    def _something(self) -> bytes:
        kinds: list[Callable[[], bytes]] = [self._open, self._cancel]
        kinds += [self._open] * 3 if len(self._files) < 12 else []
        kinds += [self._of_segments] if self._chance.random() < 0.2 else []
        kinds += [self._of_addresses] * 6 if self._addresses else []
        kinds += [self._of_connections] * 10 if self._connections else []
        kinds += [self._of_files] * 4 if self._files else []
        kinds += [self._of_filters] if self._filters else []
        kinds += [self._of_loans] if self._loans else []
        said: bytes = self._one_of(kinds)()
        return said

    def _open(self) -> bytes:
        one, network = self._one_of, self._mostly(self._one_of(NETWORKS[:2]), NETWORKS)
        match self._chance.randrange(8):
            case 0 | 1 | 2:
                host, port = self._where()
                return self._request(
                    "address.open", 1, network, host, port, one((True, False)), one(NUMBERS), one(LARGE)
                )
            case 3 | 4:
                return self._request("connection.open", 1, network, one(LARGE))
            case 5 | 6:
                return self._create(network)
        if self._chance.random() < 0.15:
            return self._request("filter.attach", 1, network, one((True, False)))
        return self._create(network)

    def _create(self, network: str) -> bytes:
        one, arch = self._one_of, self._one_of(tuple(Arch))
        attributes = one(
            (
                b"",
                builders.address_attribute(pack_transport_address(self._peer())),
                builders.connection_attribute(arch, one((1, 99))),
            )
        )
        location = builders.create(arch, one((len(attributes), *NUMBERS)), ShareAccess(one((0, 1, 3))))
        return self._request(
            "file.create", 1, network, one((4, 8)), self._spoilt(location.image), self._spoilt(attributes), 16, 1 << 20
        )

    def _spoilt(self, data: bytes) -> bytes:
        """Half of the time as it is, else with a few bytes changed or some missing."""
        if not data or self._chance.random() < 0.5:
            return data
        spoilt = bytearray(data)
        for _ in range(self._chance.randrange(1, 4)):
            spoilt[self._chance.randrange(len(spoilt))] = self._one_of((0, 1, 2, 0x7F, 0x80, 0xFF))
        return bytes(spoilt[: self._one_of((len(spoilt), len(spoilt), self._chance.randrange(len(spoilt))))])

    def _cancel(self) -> bytes:
        return notification("cancel", self._one_of((*self._asked, 3)))

    def _of_addresses(self) -> bytes:
        one = self._one_of
        address, (host, port) = one(self._addresses), self._where()
        match self._chance.randrange(13):
            case 0 | 1 | 2:
                return self._request("address.send_datagram", address, host, port, self._data())
            case 3 | 4:
                return self._request(
                    "address.receive_datagram",
                    address,
                    one(NUMBERS),
                    self._mostly("", (host,)),
                    self._mostly(0, PORTS),
                    one(FLAGS[:5]),
                )
            case 5 | 6:
                event = self._mostly(one(tuple(EventType)), (11, (1 << 32) - 1))
                return self._request("address.set_event_handler", address, event, self._mostly(7, LARGE), one(LARGE))
            case 7:
                lengths = [one((0, 1, 100)) for _ in range(one((0, 1, 5)))]
                data = bytes(sum(lengths) + one((0, 0, 0, 0, 0, 0, 1)))
                packed = b"".join(length.to_bytes(4, "little") for length in lengths)
                return self._request("address.send_burst", address, host, port, packed, data)
            case 8:
                group = one(("224.1.1.1", "239.1.2.3", "ff02::1", *HOSTS))
                return self._request(one(("address.join", "address.leave")), address, group, one(HOSTS))
            case 9:
                name = one(("ttl", "multicast_ttl", "multicast_interface", "multicast_loop", "broadcast", "nothing"))
                value = one((0, 1, 255, 256, -1, True, None, "10.0.0.1", [], 1.5, 1 << 70))
                return self._request("address.options", address, json.dumps({name: value}))
            case 10:
                return self._request("address.query", address, one((*QueryType, 77)), one((0, 1, 30, 4096)))
        if self._chance.random() < 0.2:
            return self._request("address.close", address)
        return self._request("address.send_datagram", address, host, port, b"once more")

    def _of_connections(self) -> bytes:
        one = self._one_of
        connection, (host, port) = one(self._connections), self._where()
        flags, data = self._mostly(0, FLAGS), bytes(self._mostly(0, (0, 3, 4096)))
        match self._chance.randrange(24):
            case 0 | 1 | 2 if self._addresses:
                network = self._networks.get(connection)
                fitting = [each for each in self._addresses if self._networks.get(each) == network]
                return self._request("connection.associate", connection, one(fitting or self._addresses))
            case 3 if self._chance.random() < 0.3:
                return self._request("connection.disassociate", connection)
            case 4 | 5 | 6 | 7:
                return self._request("connection.connect", connection, host, port, self._mostly(None, TIMES), data)
            case 8 | 9 | 10 | 11:
                return self._request("connection.listen", connection, flags, "", 0, data)
            case 12:
                return self._request("connection.accept", connection, data)
            case 13 if self._chance.random() < 0.5:
                return self._request("connection.disconnect", connection, one(FLAGS), one(TIMES), data)
            case 14 | 15 | 16 | 17:
                return self._request("connection.send", connection, flags, self._data())
            case 18 | 19 | 20 | 21:
                return self._request("connection.receive", connection, flags, one((0, 1, 100, 262_144)))
            case 22 if self._chance.random() < 0.2:
                return self._request("connection.close", connection)
        return self._request("connection.query", connection, one((*QueryType, 77)), one((0, 1, 30, 4096)))

    def _location(self, arch: Arch) -> builders.Location:
        """Any request; its pointers lead into the attacker's pages, or nowhere."""
        one = self._one_of
        here, there, returned = (
            one((0, self._memory, self._memory + one((4, 200, ROOM - 8)), (1 << 31))) for _ in range(3)
        )
        built: builders.Location = one(
            (
                builders.send_datagram(arch, one(NUMBERS), here),
                builders.receive_datagram(arch, one(NUMBERS), here, returned, one(FLAGS)),
                builders.set_event_handler(arch, one((*EventType, 99)), there, 1),
                builders.query_information(arch, one((*QueryType, 99))),
                builders.set_information(arch, one((*QueryType, 99))),
                builders.action(arch),
                builders.associate_address(arch, one((*self._files, 0, 99))),
                builders.disassociate_address(arch),
                builders.connect(arch, here, returned, there),
                builders.listen(arch, one(FLAGS), here, returned),
                builders.accept(arch, here, returned),
                builders.disconnect(arch, one(FLAGS), there, here, returned),
                builders.send(arch, one(NUMBERS), one(FLAGS)),
                builders.receive(arch, one(NUMBERS), one(FLAGS)),
                builders.cleanup(arch),
                builders.close(arch),
                builders.device_control(arch, one((0x210021, 0x210047, 0x120003, 0x128014, 1)), one((0, 4, 64)), 64),
            )
        )
        return built

    def _mdl(self) -> bytes:
        """An MDL chain of one, mostly of the attacker's own pages; or none."""
        one = self._one_of
        if one((False, True)):
            return b""
        pages = [self._memory // 4096 + one((0, 1, 2, 3)) for _ in range(one((1, 1, 3)))]
        described = struct.pack("<IIII", one((0, 1, 100, 4096, 9000)), one((0, 7, 4095)), one((0, 0, 1)), len(pages))
        return described + struct.pack(f"<{len(pages)}Q", *pages)

    def _of_files(self) -> bytes:
        one, arch = self._one_of, self._one_of(tuple(Arch))
        file = one(self._files)
        information = builders.connection_information(
            arch, self._memory + one((0, 4)), pack_transport_address(self._peer()), bytes(one((0, 3)))
        )
        match self._chance.randrange(6):
            case 0:
                return self._request("memory.write", 1, self._memory, self._spoilt(information))
            case 1 | 2:
                at = one((self._memory + 1024, self._memory + ROOM - 16))
                values = {
                    "MdlAddress": one((0, self._memory + 2048, self._memory)),
                    "Tail.Overlay.CurrentStackLocation": self._memory + 512,
                }
                return (
                    self._request("memory.write", 1, self._memory + 512, self._spoilt(self._location(arch).image))
                    + self._request("memory.write", 1, self._memory + 1024, self._spoilt(IRP.pack(arch, values)))
                    + self._request("irp.submit_at", file, arch.pointer_bytes, at)
                )
        image = self._spoilt(self._location(arch).image)
        inside = one((b"", bytes(64), self._spoilt(information), self._chance.randbytes(64)))
        return self._request("irp.submit", file, arch.pointer_bytes, image, inside, one(LARGE), self._mdl())

    def _of_filters(self) -> bytes:
        if self._chance.random() < 0.3:
            return self._request("filter.detach", self._one_of(self._filters))
        file, query = self._one_of((*NUMBERS,)), self._one_of((*QueryType, 77))
        return self._request("filter.query", self._one_of(self._filters), file, query, self._one_of((0, 30, 4096)))

    def _of_loans(self) -> bytes:
        loans = [self._one_of((*self._loans, 5)) for _ in range(self._one_of((0, 1, 3)))]
        return self._request("machine.return_chained", 1, b"".join(loan.to_bytes(8, "little") for loan in loans))

    def _of_segments(self) -> bytes:
        name = self._one_of(SETTINGS)
        value = self._one_of(
            (0, 0, 0, 0, 0, 0.1, 0.001, -1, 1400, 1e300, "x", None, [], [["vm1"], ["vm2"]], [[]], True, 1 << 70)
        )
        return self._request("segment.change", self._one_of(("lan", "stream", "none")), json.dumps({name: value}))
