"""Filters and requests as bytes as the daemon serves them: clients that answer wrongly, and bytes that mean nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from emulator.config import Config, LimitsConfig
from emulator.daemon.server import Server
from emulator.memory import PAGE_SIZE, Mdl
from emulator.status import NtStatus
from emulator.tdi import builders
from emulator.tdi.constants import ShareAccess
from emulator.tdi.layout import Arch
from emulator.tdi.nt_layouts import IRP
from emulator.tdi.structures import SocketAddress, pack_transport_address
from emulator.wire.runs import pack_mdl_chain, split_datagrams_untrusted, unpack_pfns
from emulator.wire.schema import FILTER_REQUEST
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, served

SUCCESS = int(NtStatus.SUCCESS)
PASS, END, CHANGE = 0, 1, 2
HERE = "10.0.0.1"


class Setting:
    """A client with one address on a segment, and a filter above it."""

    def __init__(self, client: RawClient, above: RawClient, server: Server, port: int, path: Path) -> None:
        self.client = client
        self.above = above
        self.server = server
        self.port = port
        self.path = path

    async def start_send(self, data: bytes = b"data") -> int:
        return await self.client.start("address.send_datagram", 1, HERE, self.port, data)

    async def asked(self) -> tuple[int, dict[str, Any]]:
        """What the filter is asked next."""
        msgid, args = await self.above.question("filter.request")
        return msgid, dict(zip([field.name for field in FILTER_REQUEST.params], args, strict=True))

    async def verdict(
        self,
        msgid: int,
        action: int = PASS,
        status: int = SUCCESS,
        information: int = 0,
        remote: bytes | None = None,
        data: bytes | None = None,
        watch: bool = False,
    ) -> None:
        await self.above.respond(msgid, action, status, information, remote, data, watch)

    async def received(self, count: int) -> list[bytes]:
        """So many datagrams of the client's."""
        found: list[bytes] = []
        while len(found) < count:
            _, run, _ = await self.client.notice("address.datagrams")
            found += [data for _, _, data in split_datagrams_untrusted(run)]
        return found


@asynccontextmanager
async def filtered(tmp_path: Path, *, events: bool = False, **limits: Any) -> AsyncIterator[Setting]:
    config = Config(limits=LimitsConfig(**limits))
    async with served(tmp_path, config) as (server, path), raw_client(path) as client, raw_client(path) as above:
        await client.attach("vm1")
        _, _, port, *_ = await client.call("address.open", 1, "lan", HERE, 0, False, *GRANT)
        await above.attach("vm1")
        assert await above.call("filter.attach", 1, "lan", events) == [1]
        yield Setting(client, above, server, port, path)


@asynccontextmanager
async def raw_sender(it: Setting) -> AsyncIterator[RawClient]:
    """A client of another machine, which has no filter."""
    async with raw_client(it.path) as sender:
        await sender.attach("vm2")
        await sender.call("address.open", 1, "lan", "10.0.0.2", 0, False, *GRANT)
        yield sender


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ((9, SUCCESS, 0, None, None, False), "a filter's action is 0, 1 or 2, not 9"),
        ((), "the result of filter.request has 0 values where it takes 6"),
        ((PASS, -1, 0, None, None, False), "'status' must be an unsigned 32-bit integer"),
        ((CHANGE, SUCCESS, 0, bytes(5000), None, False), "'remote' must be at most 4096 bytes"),
        ((PASS, SUCCESS, 0, None, None, 1), "'watch' must be true or false"),
    ],
)
async def test_an_answer_that_is_none_ends_the_filter_and_the_request_passes_on(
    tmp_path: Path, result: tuple[object, ...], sentence: str
) -> None:
    async with filtered(tmp_path) as it:
        sending = await it.start_send()
        msgid, request = await it.asked()
        assert request["data"] == b"data"
        await it.above.respond(msgid, *result)
        assert sentence in (await it.above.goodbye())[1]
        assert (await it.client.answer(sending))[:2] == [SUCCESS, 4]
        assert await it.received(1) == [b"data"]


async def test_a_filter_that_answers_with_an_error_is_removed(tmp_path: Path) -> None:
    async with filtered(tmp_path) as it:
        sending = await it.start_send()
        msgid, _ = await it.asked()
        await it.above.say(b"\x94\x01" + bytes([msgid]) + b"\x92\xce\xc0\x00\x00\x01\xa4oops\xc0")
        assert await it.above.notice("filter.detached") == [1, "it answered with an error"]
        assert (await it.client.answer(sending))[:2] == [SUCCESS, 4]
        with pytest.raises(Answered, match="not attached any more"):
            await it.above.call("filter.query", 1, 1, 3, 100)


@pytest.mark.parametrize(
    ("status", "information", "expected"),
    [
        (int(NtStatus.PENDING), 4, [NtStatus.UNSUCCESSFUL, 0]),
        (0xC0FFEE00, 4, [NtStatus.UNSUCCESSFUL, 0]),
        (int(NtStatus.ACCESS_DENIED), 4, [NtStatus.ACCESS_DENIED, 0]),
        (int(NtStatus.BUFFER_OVERFLOW), 2, [NtStatus.BUFFER_OVERFLOW, 2]),
        (SUCCESS, 2**64 - 1, [SUCCESS, 2**64 - 1]),
    ],
)
async def test_whatever_status_a_filter_ends_with_a_client_gets_one_it_can(
    tmp_path: Path, status: int, information: int, expected: list[int]
) -> None:
    async with filtered(tmp_path) as it:
        sending = await it.start_send()
        msgid, _ = await it.asked()
        await it.verdict(msgid, END, status, information, watch=True)
        assert (await it.client.answer(sending))[:2] == expected
        assert (await it.above.notice("filter.completed"))[2:4] == expected


async def test_information_too_large_for_an_x86_client_is_cut_in_its_irp(tmp_path: Path) -> None:
    arch = Arch.X86
    async with filtered(tmp_path) as it:
        (pfns,) = await it.client.call("memory.allocate", 1, 1)
        page = unpack_pfns(pfns)[0] * PAGE_SIZE
        irp = IRP.pack(arch, {"Tail.Overlay.CurrentStackLocation": page + 512})
        await it.client.call("memory.write", 1, page, irp)
        await it.client.call("memory.write", 1, page + 512, builders.disassociate_address(arch).image)
        asking = await it.client.start("irp.submit_at", 1, arch.pointer_bytes, page)
        msgid, _ = await it.asked()
        await it.verdict(msgid, END, SUCCESS, 2**64 - 1)
        assert (await it.client.answer(asking))[0] == SUCCESS
        (block,) = await it.client.call("memory.read", 1, page + IRP.offset("IoStatus", arch), 8)
        assert block == SUCCESS.to_bytes(4, "little") + b"\xff" * 4


async def test_two_filters_that_are_late_at_once_both_go(tmp_path: Path, mock_clock: MockClock) -> None:
    async with filtered(tmp_path) as it, raw_client(it.path) as top:
        await top.attach("vm1")
        assert await top.call("filter.attach", 1, "lan", False) == [1]
        first = await it.start_send(b"first")
        msgid, _ = await top.question("filter.request")
        await top.respond(msgid, PASS, SUCCESS, 0, None, None, False)
        await it.asked()  # below holds the first now
        second = await it.start_send(b"second")
        await top.question("filter.request")  # and the one on top the second
        mock_clock.jump(6)
        for sending, count in ((first, 5), (second, 6)):
            assert (await it.client.answer(sending))[:2] == [SUCCESS, count]
        assert "did not answer" in (await top.notice("filter.detached"))[1]
        assert "did not answer" in (await it.above.notice("filter.detached"))[1]
        assert await it.received(2) == [b"first", b"second"]


@pytest.mark.parametrize(
    ("remote", "data", "status"),
    [
        (None, bytes(1473), NtStatus.INVALID_PARAMETER),
        (b"nonsense", None, NtStatus.INVALID_ADDRESS),
        (pack_transport_address(SocketAddress("8.8.8.8", 53)), None, NtStatus.NETWORK_UNREACHABLE),
        (b"", None, NtStatus.INVALID_ADDRESS),
    ],
)
async def test_what_a_filter_makes_of_a_request_is_checked_like_any_other(
    tmp_path: Path, remote: bytes | None, data: bytes | None, status: NtStatus
) -> None:
    async with filtered(tmp_path) as it:
        sending = await it.start_send()
        msgid, _ = await it.asked()
        await it.verdict(msgid, CHANGE, remote=remote, data=data)
        assert (await it.client.answer(sending))[:2] == [status, 0]


async def test_events_beyond_the_bound_are_dropped_and_the_others_come_in_order(tmp_path: Path) -> None:
    async with filtered(tmp_path, events=True, filter_questions=20, filter_backlog=3) as it, raw_sender(it) as sender:
        held = []
        for number in range(30):
            await sender.call("address.send_datagram", 1, HERE, it.port, b"%d" % number)
        for _ in range(20):
            msgid, request = await it.asked()
            assert request["event"] == 4
            held.append(msgid)
        for msgid in held:
            await it.verdict(msgid)
        for _ in range(3):
            msgid, _ = await it.asked()
            await it.verdict(msgid)
        assert await it.received(23) == [b"%d" % number for number in range(23)]


async def test_a_machine_that_fails_ends_what_filters_hold(tmp_path: Path) -> None:
    async with filtered(tmp_path) as it:
        sending = await it.start_send()
        opening = await it.client.start("address.open", 1, "lan", HERE, 9, False, *GRANT)
        await it.asked()
        await it.asked()
        it.server.machines["vm1"].fail(RuntimeError("made by the test"))
        it.server.pump()
        assert (await it.client.answer(sending))[:2] == [NtStatus.CANCELLED, 0]
        with pytest.raises(Answered, match="made by the test") as refused:
            await it.client.answer(opening)
        assert refused.value.status is NtStatus.DEVICE_NOT_READY
        assert "has ended" in (await it.above.notice("filter.detached"))[1]


async def test_what_the_filter_has_judged_is_what_is_sent(tmp_path: Path) -> None:
    arch = Arch.X64
    async with filtered(tmp_path) as it:
        first, second = unpack_pfns((await it.client.call("memory.allocate", 1, 2))[0])
        at, data_at = first * PAGE_SIZE, second * PAGE_SIZE
        remote = pack_transport_address(SocketAddress(HERE, it.port))
        await it.client.call("memory.write", 1, at, builders.connection_information(arch, at, remote))
        await it.client.call("memory.write", 1, data_at, b"harmless")
        location = builders.send_datagram(arch, 8, at).image
        chain = pack_mdl_chain(Mdl(0, 8, (second,)))
        sending = await it.client.start("irp.submit", 1, 8, location, b"", 0, chain)
        msgid, request = await it.asked()
        assert (request["data"], request["remote"]) == (b"harmless", remote)
        await it.client.call("memory.write", 1, data_at, b"harmful!")
        await it.client.call("memory.write", 1, at, bytes(100))
        await it.verdict(msgid)
        assert (await it.client.answer(sending))[:2] == [SUCCESS, 8]
        assert await it.received(1) == [b"harmless"]


# Requests as bytes.


@asynccontextmanager
async def attached(tmp_path: Path) -> AsyncIterator[RawClient]:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        await client.attach("vm1")
        await client.call("address.open", 1, "lan", HERE, 0, False, *GRANT)
        yield client


async def test_bytes_that_are_no_request_are_refused_and_the_session_goes_on(tmp_path: Path) -> None:
    good = builders.cleanup(Arch.X64).image
    async with attached(tmp_path) as client:
        with pytest.raises(Answered, match="8 bytes \\(x64\\) or 4 \\(x86\\), not 5"):
            await client.call("irp.submit", 1, 5, good, b"", 0, b"")
        short = await client.call("irp.submit", 1, 8, good[:71], b"", 0, b"")
        assert short[:2] == [NtStatus.INVALID_PARAMETER, 0]
        chain = await client.call("irp.submit", 1, 8, good, b"", 0, bytes(8))
        assert chain[:2] == [NtStatus.INVALID_PARAMETER, 0]
        nowhere = await client.call("irp.submit_at", 1, 4, 2**64 - 8)
        assert nowhere[:2] == [NtStatus.ACCESS_VIOLATION, 0]
        longer = builders.device_control(Arch.X64, 0x128004, 33).image
        assert (await client.call("irp.submit", 1, 8, longer, bytes(32), 0, b""))[:2] == [
            NtStatus.INVALID_PARAMETER,
            0,
        ]
        create = builders.create(Arch.X64, 9, ShareAccess.READ).image
        refused = await client.call("file.create", 1, "lan", 8, create, bytes(8), *GRANT)
        assert (refused[0], refused[3]) == (NtStatus.INVALID_PARAMETER, 0)
        moon = await client.call(
            "file.create", 1, "moon", 8, builders.create(Arch.X64, 0, ShareAccess.READ).image, b"", *GRANT
        )
        assert (moon[0], moon[3]) == (NtStatus.OBJECT_NAME_NOT_FOUND, 0)
        assert await client.call("ping") == []


@pytest.mark.parametrize("method", ["irp.submit", "irp.submit_at"])
async def test_a_file_that_was_never_given_ends_the_session(tmp_path: Path, method: str) -> None:
    async with attached(tmp_path) as client:
        args = (builders.cleanup(Arch.X64).image, b"", 0, b"") if method == "irp.submit" else (0,)
        await client.start(method, 77, 8, *args)
        assert "there is no file 77" in (await client.goodbye())[1]


async def test_files_of_every_kind_are_closed_with_their_session(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path):
        async with raw_client(path) as client:
            await client.attach("vm1")
            for attributes in (
                b"",
                builders.address_attribute(pack_transport_address(SocketAddress(HERE, 77))),
                builders.connection_attribute(Arch.X64, 5),
            ):
                location = builders.create(Arch.X64, len(attributes), ShareAccess.EXCLUSIVE).image
                opened = await client.call("file.create", 1, "lan", 8, location, attributes, *GRANT)
                assert opened[0] == SUCCESS
        async with raw_client(path) as again:
            await again.attach("vm1")
            assert (await again.call("address.open", 1, "lan", HERE, 77, False, *GRANT))[2] == 77
