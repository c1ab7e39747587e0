"""Receives and event handlers as the daemon serves them: a client that answers late, wrongly, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio

from emulator.config import Config, LimitsConfig
from emulator.daemon.server import Server
from emulator.status import NtStatus
from emulator.tdi.constants import EventType, ReceiveFlags
from emulator.tdi.structures import SocketAddress, pack_transport_address, parse_transport_address_untrusted
from emulator.wire.schema import ADDRESS_EVENT, ADDRESS_TOLD
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, response, served

NORMAL, CHAINED = int(EventType.RECEIVE_DATAGRAM), int(EventType.CHAINED_RECEIVE_DATAGRAM)
SUCCESS, PENDING = int(NtStatus.SUCCESS), int(NtStatus.PENDING)
MORE, NOT_ACCEPTED = int(NtStatus.MORE_PROCESSING_REQUIRED), int(NtStatus.DATA_NOT_ACCEPTED)
PAIRS = [("udp", "127.0.0.1", "127.0.0.1"), ("lan", "10.0.0.1", "10.0.0.2")]
both = pytest.mark.parametrize(("network", "here", "there"), PAIRS, ids=["udp", "segment"])


class Open:
    """A client with one address open, and another that sends to it."""

    def __init__(self, client: RawClient, port: int, host: str, sender: RawClient, server: Server) -> None:
        self.client = client
        self.server = server
        self._to = host, port
        self.sender = sender

    async def send(self, *datagrams: bytes) -> None:
        for data in datagrams:
            await self.sender.call("address.send_datagram", 1, *self._to, data)

    async def set_handler(self, event: int = NORMAL, handler: int = 7, context: int = 9) -> None:
        assert (await self.client.call("address.set_event_handler", 1, event, handler, context))[0] == SUCCESS

    async def called(self) -> tuple[int, dict[str, Any]]:
        """The next call of a handler."""
        msgid, args = await self.client.question("address.event")
        return msgid, dict(zip([field.name for field in ADDRESS_EVENT.params], args, strict=True))

    async def everything_is_read(self) -> None:
        """The daemon has seen all this client said."""
        await self.client.call("ping")


@asynccontextmanager
async def opened(
    tmp_path: Path, network: str = "lan", here: str = "10.0.0.1", there: str = "10.0.0.2", **limits: Any
) -> AsyncIterator[Open]:
    config = Config(limits=LimitsConfig(**limits))
    async with (
        served(tmp_path, config) as (server, path),
        raw_client(path) as client,
        raw_client(path) as sender,
    ):
        await client.attach("vm1")
        await sender.attach("vm2")
        _, _, port, *_ = await client.call("address.open", 1, network, here, 0, False, *GRANT)
        await sender.call("address.open", 1, network, there, 0, False, *GRANT)
        yield Open(client, port, here, sender, server)


@both
async def test_a_posted_receive_is_answered_by_a_datagram(tmp_path: Path, network: str, here: str, there: str) -> None:
    async with opened(tmp_path, network, here, there) as it:
        whole = await it.client.start("address.receive_datagram", 1, 100, "", 0, 0)
        cut = await it.client.start("address.receive_datagram", 1, 3, there, 0, 0)
        await it.everything_is_read()
        await it.send(b"first", b"second", b"third")
        status, information, message, remote, flags, data = await it.client.answer(whole)
        assert (status, information, message, data) == (SUCCESS, 5, "", b"first")
        assert parse_transport_address_untrusted(remote).host == there
        status, information, _, _, _, data = await it.client.answer(cut)
        assert (status, information, data) == (NtStatus.BUFFER_OVERFLOW, 3, b"sec")
        _, run, _ = await it.client.notice("address.datagrams")
        assert b"third" in run
        assert b"second" not in run
        assert flags == 0


async def test_a_receive_is_cancelled_refused_and_ended_by_a_close(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        cancelled = await it.client.start("address.receive_datagram", 1, 10, "", 0, 0)
        closed = await it.client.start("address.receive_datagram", 1, 10, "10.0.0.2", 5, 0)
        await it.client.notify("cancel", cancelled)
        assert (await it.client.answer(cancelled))[:2] == [NtStatus.CANCELLED, 0]
        refused = await it.client.call("address.receive_datagram", 1, 10, "nowhere", 5, 0)
        assert refused[:2] == [NtStatus.INVALID_ADDRESS, 0]
        assert refused[2].endswith("[R14]")
        await it.client.call("address.close", 1)
        assert (await it.client.answer(closed))[:2] == [NtStatus.CANCELLED, 0]
        with pytest.raises(Answered, match="has been closed"):
            await it.client.call("address.receive_datagram", 1, 10, "", 0, 0)


@both
async def test_r25_a_handler_is_called_with_all_of_its_arguments(
    tmp_path: Path, network: str, here: str, there: str
) -> None:
    async with opened(tmp_path, network, here, there) as it:
        await it.set_handler()
        await it.send(b"hello")
        msgid, event = await it.called()
        remote = event.pop("remote")
        assert event == {
            "address": 1,
            "event": NORMAL,
            "handler": 7,
            "context": 9,
            "connection": 0,
            "status": 0,
            "flags": ReceiveFlags.ENTIRE_MESSAGE | ReceiveFlags.COPY_LOOKAHEAD,
            "available": 5,
            "descriptor": 0,
            "options": b"",
            "data": b"hello",
        }
        assert (len(remote), parse_transport_address_untrusted(remote).host) == (22, there)
        await it.client.respond(msgid, SUCCESS, 5, 0, 0, 0, None, b"")
        await it.send(b"again")
        assert (await it.called())[1]["data"] == b"again"


async def test_r10_a_request_in_an_answer_ends_with_the_rest_of_the_datagram(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler()
        await it.send(b"0123456789")
        msgid, event = await it.called()
        await it.client.respond(msgid, MORE, 4, 77, 100, 0, None, b"")
        assert await it.client.notice("address.request_completed") == [
            1, 77, SUCCESS, 6, "", event["remote"], 0, b"456789",
        ]  # fmt: skip


async def test_r34_a_handler_that_does_not_answer_holds_up_its_address_until_its_time_is_over(tmp_path: Path) -> None:
    async with opened(tmp_path, handler_seconds=0.2) as it:
        await it.set_handler()
        await it.send(b"one", b"two")
        first, _ = await it.called()
        second, event = await it.called()
        assert event["data"] == b"two"
        await it.client.respond(first, MORE, 0, 5, 10, 0, None, b"")
        [completed] = [await it.client.notice("address.request_completed")]
        assert completed[1:4] == [5, NtStatus.CANCELLED, 0]
        await it.client.respond(second, SUCCESS, 0, 0, 0, 0, None, b"")
        [machine, _] = it.server.machines.values()
        assert machine.describe()["tdi_violations"] == 1


async def test_a_handler_that_is_busy_holds_up_no_other_address(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler()
        await it.send(b"stuck")
        await it.called()
        _, _, port, *_ = await it.client.call("address.open", 1, "lan", "10.0.0.1", 0, False, *GRANT)
        await it.sender.call("address.send_datagram", 1, "10.0.0.1", port, b"other")
        assert (await it.client.notice("address.datagrams"))[0] == 2


async def test_an_error_for_an_answer_counts_as_not_accepted(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler()
        await it.send(b"one", b"two")
        msgid, _ = await it.called()
        await it.client.say(response(msgid, error=[int(NtStatus.UNSUCCESSFUL), "it raised"]))
        msgid, event = await it.called()
        assert event["data"] == b"two"
        await it.client.respond(msgid, NOT_ACCEPTED, 0, 0, 0, 0, None, b"")
        await it.everything_is_read()


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ((), "the result of address.event has 0 values where it takes 7"),
        ((SUCCESS, -1, 0, 0, 0, None, b""), "'taken' must be an unsigned 64-bit integer"),
        (("0", 1, 0, 0, 0, None, b""), "'status' must be an unsigned 32-bit integer"),
    ],
)
async def test_an_answer_that_is_none_ends_the_session(
    tmp_path: Path, result: tuple[object, ...], sentence: str
) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler()
        await it.send(b"one")
        msgid, _ = await it.called()
        await it.client.respond(msgid, *result)
        assert sentence in (await it.client.goodbye())[1]


async def test_a_second_answer_to_the_same_call_ends_the_session(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler()
        await it.send(b"one")
        msgid, _ = await it.called()
        await it.client.respond(msgid, SUCCESS, 0, 0, 0, 0, None, b"")
        await it.client.respond(msgid, SUCCESS, 0, 0, 0, 0, None, b"")
        assert "a request that was never sent, or is answered already" in (await it.client.goodbye())[1]


async def test_r33_numbers_of_a_hostile_answer_are_counted_and_change_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler()
        await it.send(b"one", b"two", b"three")
        msgid, _ = await it.called()
        await it.client.respond(msgid, MORE, (1 << 64) - 1, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, None, b"")
        assert (await it.client.notice("address.request_completed"))[1:4] == [0xFFFFFFFF, SUCCESS, 0]
        msgid, _ = await it.called()
        await it.client.respond(msgid, 0xFFFFFFFF, 5, 0, 0, 0, None, b"")
        await it.called()
        [machine, _] = it.server.machines.values()
        assert machine.describe()["tdi_violations"] == 3


async def test_what_a_handler_does_wrong_is_told_in_the_log_a_few_times_and_then_counted(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        async with opened(tmp_path) as it:
            await it.set_handler()
            await it.send(*(bytes([number]) for number in range(13)))
            for _ in range(12):
                msgid, _ = await it.called()
                await it.client.respond(msgid, 0xFFFFFFFF, 5, 0, 0, 0, None, b"")
            await it.called()
            [machine, _] = it.server.machines.values()
            seen = machine.describe()["tdi_violations"]
    told = [line for line in lines if line["event"] == "tdi.violation"]
    assert seen >= 12
    for rule in {line["rule"] for line in told}:
        assert [line["count"] for line in told if line["rule"] == rule] == [1, 2, 3, 4, 5, 10]


async def test_a_client_with_too_many_unanswered_calls_is_not_called_again(tmp_path: Path) -> None:
    async with opened(tmp_path, outstanding_handler_calls=1, handler_seconds=0.1) as it:
        await it.set_handler()
        await it.send(b"never answered")
        msgid, _ = await it.called()
        with trio.fail_after(20):
            while it.server.machines["vm1"].datagrams.violations == 0:
                await it.sender.call("ping")
        await it.send(*[b"%d" % number for number in range(50)])
        await it.everything_is_read()
        assert it.client.questions == []
        await it.client.respond(msgid, SUCCESS, 0, 0, 0, 0, None, b"")
        await it.everything_is_read()
        await it.send(b"called again")
        assert (await it.called())[1]["data"] == b"called again"


async def test_r37_r39_chained_data_is_kept_returned_once_and_by_its_own_client(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler(CHAINED)
        descriptors = []
        for data in (b"one", b"two"):
            await it.send(data)
            msgid, event = await it.called()
            assert (event["data"], event["event"]) == (data, CHAINED)
            descriptors.append(event["descriptor"])
            await it.client.respond(msgid, PENDING, 0, 0, 0, 0, None, b"")
        run = b"".join(descriptor.to_bytes(8, "little") for descriptor in descriptors)
        await it.sender.call("machine.attach", "vm1", False)
        with pytest.raises(Answered, match="is another client's"):
            await it.sender.call("machine.return_chained", 2, run)
        assert await it.client.call("machine.return_chained", 1, run) == []
        with pytest.raises(Answered, match="R39"):
            await it.client.call("machine.return_chained", 1, run)
        assert len(it.server.machines["vm1"].datagrams._transport.loans) == 0


async def test_r38_what_a_client_kept_and_its_open_call_end_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler(CHAINED)
        await it.send(b"kept", b"in call")
        msgid, _ = await it.called()
        await it.client.respond(msgid, PENDING, 0, 0, 0, 0, None, b"")
        await it.called()
        transport = it.server.machines["vm1"].datagrams._transport
        assert len(transport.loans) == 2
        it.client.close()
        with trio.fail_after(20):
            while len(transport.loans) or len(transport.calls):
                await it.sender.call("ping")
        assert it.server.machines["vm1"].datagrams.violations == 0, "nobody is left to be blamed for being late"


async def test_r48_an_error_event_reaches_the_client(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler(int(EventType.ERROR_EX), 3, 4)
        datagrams = it.server.machines["vm1"].datagrams
        [handle] = datagrams._transport._files
        gone = SocketAddress("10.0.0.9", 99)
        datagrams._perform(datagrams._transport.error_event(handle, NtStatus.PORT_UNREACHABLE, gone))
        await it.everything_is_read()
        told = await it.client.notice("address.told")
        event = dict(zip([field.name for field in ADDRESS_TOLD.params], told, strict=True))
        assert (event["event"], event["handler"], event["context"]) == (EventType.ERROR_EX, 3, 4)
        assert (event["status"], event["remote"]) == (NtStatus.PORT_UNREACHABLE, pack_transport_address(gone))


async def test_error_events_a_client_does_not_read_are_dropped_before_they_end_its_session(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler(int(EventType.ERROR))
        datagrams = it.server.machines["vm1"].datagrams
        [handle] = datagrams._transport._files
        for _ in range(200_000):
            datagrams._perform(datagrams._transport.error_event(handle, NtStatus.PORT_UNREACHABLE, None))
        await it.everything_is_read()
        await it.client.notice("address.told")
        assert len(it.client.notices) < 20_000


async def test_a_fault_in_the_core_while_a_client_answers_ends_its_machine_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as it:
        await it.set_handler()
        await it.send(b"one")
        msgid, _ = await it.called()

        def fault(*_: object) -> None:
            raise RuntimeError("a fault for the test")

        monkeypatch.setattr(it.server.machines["vm1"].datagrams._transport, "handler_answered", fault)
        await it.client.respond(msgid, SUCCESS, 0, 0, 0, 0, None, b"")
        await it.everything_is_read()
        assert it.server.machines["vm1"].failure == "RuntimeError: a fault for the test"
        assert it.server.machines["vm2"].failure is None
