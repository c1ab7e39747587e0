"""Offers, openings and packets between sessions: what a client may not do, and what is left when it has gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from emulator.config import ChannelConfig, Config, LimitsConfig, MachineConfig
from emulator.daemon.channel_side import ChannelSide
from emulator.daemon.server import Server
from emulator.memory import Mdl
from emulator.status import NtStatus
from emulator.vmbus.packets import encode_in_band, parse_packet_untrusted
from emulator.wire.runs import pack_mdl_chain, split_packets_untrusted
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, served

ECHO = bytes(range(16))
OTHER = bytes(range(16, 32))
WAIT = 0x1


async def opened(guest: RawClient, host: RawClient) -> tuple[int, int]:
    """Both attached, one channel open between them; its numbers at the guest and at the host."""
    await host.attach()
    await guest.attach()
    await host.offer(ECHO)
    number = await guest.open(ECHO)
    return number, (await host.notice("channel.opened"))[1]


async def listing(client: RawClient) -> list[dict[str, Any]]:
    document: str = (await client.call("daemon.inspect", "channels", None, 0))[0]
    entries: list[dict[str, Any]] = json.loads(document)
    return entries


async def echo(guest: RawClient, host: RawClient, channel: int, host_channel: int, payload: bytes) -> None:
    """One packet there and back, between these two."""
    msgid = await guest.start("packet.send", channel, WAIT, payload, b"")
    _, handle, run, _ = await host.notice("channel.packets")
    (image,) = split_packets_untrusted(run)
    await host.notify("packet.complete", host_channel, handle, parse_packet_untrusted(image).payload)
    assert await guest.answer(msgid) == [NtStatus.SUCCESS, payload]


# ---- opening


async def test_a_channel_is_opened_once_and_the_refusal_says_who_has_it(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        channel, host_channel = await opened(guest, host)
        async with raw_client(path) as second:
            await second.attach()
            with pytest.raises(Answered) as caught:
                await second.open(ECHO)
            assert caught.value.status is NtStatus.INVALID_DEVICE_STATE
            assert "is already open: session 1 (client 'raw', process" in caught.value.message
            assert "close it there, or offer another instance" in caught.value.message
        await echo(guest, host, channel, host_channel, b"still me")


async def test_without_waiting_an_offer_that_is_not_there_is_a_refusal(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest:
        await guest.attach()
        with pytest.raises(
            Answered, match="nobody offers 03020100-0504-0706-0809-0a0b0c0d0e0f on machine vm1"
        ) as caught:
            await guest.call("channel.open", 1, ECHO, None, False, 0, 0, *GRANT)
        assert caught.value.status is NtStatus.NO_SUCH_DEVICE


async def test_a_ring_may_not_be_larger_than_configured_nor_than_memory(tmp_path: Path) -> None:
    config = Config(
        machines={"vm1": MachineConfig(memory_bytes=64 * 4096)}, limits=LimitsConfig(largest_ring_pages=100)
    )
    async with served(tmp_path, config) as (server, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.offer(ECHO)
        with pytest.raises(Answered, match="a ring has at most 100 data pages, not 101"):
            await guest.call("channel.open", 1, ECHO, None, True, 1, 101, *GRANT)
        with pytest.raises(Answered, match="82 pages were asked for, but only 63 of this machine's memory are free"):
            await guest.call("channel.open", 1, ECHO, None, True, 40, 40, *GRANT)
        assert server.machines["vm1"].pages.free_pages == 63
        assert await guest.open(ECHO) == 1


async def test_the_same_interface_and_instance_are_offered_once(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as host, raw_client(path) as rival:
        await host.attach()
        await rival.attach()
        await host.call("channel.offer", 1, ECHO, OTHER, False, *GRANT)
        with pytest.raises(Answered, match="is already offered by session 1") as caught:
            await rival.call("channel.offer", 1, ECHO, OTHER, False, *GRANT)
        assert caught.value.status is NtStatus.OBJECT_NAME_COLLISION
        await host.call("offer.rescind", 1)
        await rival.call("channel.offer", 1, ECHO, OTHER, False, *GRANT)


async def test_whoever_waits_longest_gets_the_offer_and_the_next_gets_it_when_it_is_free(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as (_, path),
        raw_client(path) as host,
        raw_client(path) as first,
        raw_client(path) as second,
    ):
        for client in (host, first, second):
            await client.attach()
        waits = []
        for each in (first, second):
            waits.append(await each.start("channel.open", 1, ECHO, None, True, 0, 0, *GRANT))
            await each.call("ping")
        await host.offer(ECHO)
        assert (await first.answer(waits[0]))[0] == 1
        await second.call("ping")
        assert waits[1] not in second.answers
        await first.call("channel.close", 1)
        assert (await second.answer(waits[1]))[0] == 1
        assert [(await host.notice("channel.opened"))[1] for _ in range(2)] == [1, 2]


async def test_a_waiting_guest_that_cannot_be_served_does_not_stand_in_the_way_of_the_next(tmp_path: Path) -> None:
    config = Config(machines={"vm1": MachineConfig(memory_bytes=64 * 4096)})
    async with (
        served(tmp_path, config) as (_, path),
        raw_client(path) as host,
        raw_client(path) as greedy,
        raw_client(path) as modest,
    ):
        for client in (host, greedy, modest):
            await client.attach()
        too_large = await greedy.start("channel.open", 1, ECHO, None, True, 100, 100, *GRANT)
        await greedy.call("ping")
        wanted = await modest.start("channel.open", 1, ECHO, None, True, 1, 1, *GRANT)
        await modest.call("ping")
        await host.offer(ECHO)
        with pytest.raises(Answered, match="202 pages were asked for"):
            await greedy.answer(too_large)
        assert (await modest.answer(wanted))[0] == 1


async def test_a_session_that_ends_while_it_waits_twice_leaves_no_channel_open(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as host, raw_client(path) as other:
        await host.attach()
        await other.attach()
        free = server.machines["vm1"].pages.free_pages
        async with raw_client(path) as guest:
            await guest.attach()
            for _ in range(3):
                await guest.start("channel.open", 1, ECHO, None, True, 0, 0, *GRANT)
            await guest.call("ping")
            await host.offer(ECHO)
            await host.notice("channel.opened")
        assert (await host.notice("channel.closed"))[1] == NtStatus.CANCELLED
        (entry,) = await listing(other)
        assert entry["state"] == "offered"
        assert server.machines["vm1"].describe()["waiting_guests"] == 0
        assert server.machines["vm1"].pages.free_pages == free
        assert await other.open(ECHO) == 1


# ---- windows


async def test_a_packet_without_a_window_ends_the_session(tmp_path: Path) -> None:
    config = Config(limits=LimitsConfig(window_packets=4))
    async with served(tmp_path, config) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.offer(ECHO, grant=(0, 0))
        channel = await guest.open(ECHO)
        for _ in range(5):
            await guest.start("packet.send", channel, WAIT, b"x", b"")
        assert await guest.goodbye() == (
            NtStatus.INVALID_PARAMETER,
            "channel 1: a packet was sent although the window was used up",
        )
        _, status, reason = await host.notice("channel.closed")
        assert status == NtStatus.CANCELLED
        assert reason.endswith("ended: channel 1: a packet was sent although the window was used up")
        await host.call("ping")


async def test_a_datagram_without_a_window_ends_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(limits=LimitsConfig(datagram_window_packets=2))
    async with served(tmp_path, config) as (server, path), raw_client(path) as client:
        await client.attach()
        await client.call("address.open", 1, "lan", "10.0.0.1", 7, False, *GRANT)
        # The medium takes nothing, so no send is answered.
        lan: Any = server.machines["vm1"].datagrams._transport._devices["lan"]
        lan.segment.stall()
        for _ in range(3):
            await client.start("address.send_datagram", 1, "10.0.0.2", 7, b"x")
        assert (await client.goodbye())[1] == "address 1: a datagram was sent although the window was used up"


async def test_nothing_is_delivered_beyond_what_a_client_granted(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.offer(ECHO, grant=(2, 1 << 20))
        channel = await guest.open(ECHO)
        for number in range(5):
            await guest.start("packet.send", channel, WAIT, bytes([number]) * 8, b"")
        await guest.call("ping")
        await host.call("ping")
        runs = [args for name, args in host.notices if name == "channel.packets"]
        assert sum(len(list(split_packets_untrusted(run))) for _, _, run, _ in runs) == 2
        host.notices.clear()
        await host.notify("channel.window", 1, 3, 0)
        _, first, run, _ = await host.notice("channel.packets")
        assert (first, len(list(split_packets_untrusted(run)))) == (3, 3)


async def test_what_a_refused_packet_cost_comes_back(tmp_path: Path) -> None:
    config = Config(limits=LimitsConfig(window_packets=8))
    async with served(tmp_path, config) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        channel, _ = await opened(guest, host)
        outside = pack_mdl_chain(Mdl(0, 4096, (0x7FFFFFFF,)))
        returned = 0
        for _ in range(40):
            with pytest.raises(Answered, match="page 0x7FFFFFFF is outside this machine's memory") as caught:
                await guest.call("packet.send_external_mdl", channel, WAIT, b"", outside, 0, 0)
            assert caught.value.status is NtStatus.INVALID_PARAMETER_4
            await guest.call("ping")
            returned += sum(args[1] for name, args in guest.notices if name == "channel.window")
            guest.notices.clear()
        assert returned == 40


@pytest.mark.parametrize(
    "bad", [encode_in_band(bytes(5000)), encode_in_band(b"wants it", 1, True)], ids=["too long", "with completion"]
)
async def test_all_that_a_refused_run_cost_comes_back(tmp_path: Path, bad: bytes) -> None:
    config = Config(limits=LimitsConfig(window_packets=8), channels=ChannelConfig(packet_bytes=4096))
    async with served(tmp_path, config) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        channel, host_channel = await opened(guest, host)
        run = encode_in_band(b"good one") + bad + encode_in_band(b"unlucky!")
        room = 8
        for _ in range(20):
            while room < 3:
                room += (await guest.notice("channel.window"))[1]
            room -= 3
            with pytest.raises(Answered):
                await guest.call("packet.send_run", channel, run)
        while room < 1:
            room += (await guest.notice("channel.window"))[1]
        await host.call("ping")
        host.notices.clear()
        await echo(guest, host, channel, host_channel, b"and on..")


async def test_a_run_on_a_pipe_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    config = Config(limits=LimitsConfig(window_packets=2))
    async with served(tmp_path, config) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.call("channel.offer", 1, ECHO, None, True, *GRANT)
        channel = await guest.open(ECHO)
        for _ in range(5):
            with pytest.raises(Answered, match="a run cannot be sent on a pipe channel; send its packets one by one"):
                await guest.call("packet.send_run", channel, encode_in_band(bytes(8)) * 2)
            assert (await guest.notice("channel.window"))[1] == 2


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (b"\x06\0\x02\0\xff\0\0\0" + bytes(8), "a packet in a run claims 2040 bytes where 16 are left"),
        (bytes(10), "a run of packets ends inside a descriptor, 10 bytes before its end"),
        (b"\x63\0\x02\0\x02\0\0\0" + bytes(8), "packet type 99 is not one of"),
    ],
    ids=["length", "half a descriptor", "type"],
)
async def test_a_run_of_no_packets_is_its_senders_mistake_and_no_damage_to_the_ring(
    tmp_path: Path, run: bytes, sentence: str
) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        channel, host_channel = await opened(guest, host)
        await guest.start("packet.send_run", channel, run)
        status, said = await guest.goodbye()
        assert status is NtStatus.INVALID_PARAMETER
        assert sentence in said
        assert (await host.notice("channel.closed"))[:2] == [host_channel, NtStatus.CANCELLED]


# ---- completing


@pytest.mark.parametrize(
    ("handles", "wrong"),
    [((1, 1), 1), ((2,), 2), ((0,), 0), ((2**64 - 1,), 2**64 - 1)],
    ids=["twice", "not yet", "zero", "huge"],
)
@pytest.mark.parametrize("method", ["packet.complete", "packet.fail"])
async def test_a_handle_that_does_not_wait_ends_the_session(
    tmp_path: Path, handles: tuple[int, ...], wrong: int, method: str
) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        channel, host_channel = await opened(guest, host)
        msgid = await guest.start("packet.send", channel, WAIT, b"12345678", b"")
        await host.notice("channel.packets")
        for handle in handles:
            await host.notify("packet.complete", host_channel, handle, b"") if method == "packet.complete" else (
                await host.notify("packet.fail", host_channel, handle)
            )
        status, sentence = await host.goodbye()
        assert status is NtStatus.INVALID_PARAMETER
        assert sentence == f"channel 1: packet {wrong} is not waiting to be completed, or was already"
        if handles[0] == 1 and method == "packet.complete":
            assert (await guest.answer(msgid))[0] == NtStatus.SUCCESS
        else:
            with pytest.raises(Answered) as caught:
                await guest.answer(msgid)
            assert caught.value.status is NtStatus.DEVICE_REMOVED


async def test_words_about_a_channel_that_has_just_gone_are_late_and_no_mistake(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        channel, host_channel = await opened(guest, host)
        await guest.call("channel.close", channel)
        await host.notify("packet.complete", host_channel, 1, b"")
        await host.notify("packet.fail", host_channel, 2)
        await host.notify("channel.window", host_channel, 1, 1)
        assert await host.call("channel.close", host_channel) == []
        for method in ("packet.send", "packet.send_run"):
            args = (WAIT, b"", b"") if method == "packet.send" else (b"",)
            with pytest.raises(Answered, match="channel 1 has been closed: the guest closed the channel") as caught:
                await host.call(method, host_channel, *args)
            assert caught.value.status is NtStatus.CANCELLED
        assert await guest.call("channel.close", channel) == []


async def test_a_packet_sent_before_its_sender_heard_that_the_offer_went_ends_like_those_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emulator.daemon.channel_requests.ENDS_REMEMBERED", 1)
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        channel, _ = await opened(guest, host)
        await host.call("offer.rescind", 1)
        with pytest.raises(Answered, match=r"channel 1 has been closed: .* rescinded") as caught:
            await guest.call("packet.send", channel, WAIT, b"", b"")
        assert caught.value.status is NtStatus.DEVICE_REMOVED
        await host.offer(ECHO)
        await guest.call("channel.close", await guest.open(ECHO))
        with pytest.raises(Answered, match="channel 1 has been closed: long ago") as caught:
            await guest.call("packet.send", channel, WAIT, b"", b"")
        assert caught.value.status is NtStatus.CANCELLED


async def test_cancelling_a_packet_answers_it_and_swallows_its_late_completion(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        channel, host_channel = await opened(guest, host)
        msgid = await guest.start("packet.send", channel, WAIT, b"12345678", b"")
        await host.notice("channel.packets")
        await guest.notify("cancel", msgid)
        with pytest.raises(Answered) as caught:
            await guest.answer(msgid)
        assert caught.value.status is NtStatus.CANCELLED
        await host.notify("packet.complete", host_channel, 1, b"")
        await echo(guest, host, channel, host_channel, b"the next")


# ---- the end of one side


async def test_when_the_guest_goes_the_host_keeps_its_offer_and_learns_why(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as host, raw_client(path) as guest:
        channel, host_channel = await opened(guest, host)
        await guest.start("packet.send", channel, WAIT, b"unfinish", b"")
        own = await host.start("packet.send", host_channel, WAIT, b"to guest", b"")
        await host.notice("channel.packets")
        guest.close()
        with pytest.raises(Answered) as caught:
            await host.answer(own)
        assert caught.value.status is NtStatus.CANCELLED
        assert caught.value.message.endswith("ended: the client went away")
        number, status, reason = await host.notice("channel.closed")
        assert (number, status) == (host_channel, NtStatus.CANCELLED)
        assert reason == caught.value.message
        (entry,) = await listing(host)
        assert entry["state"] == "offered"
        assert server.machines["vm1"].pages.free_pages == server.machines["vm1"].memory.page_count - 1


async def test_when_the_host_goes_the_guests_packets_end_as_device_removed(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as host, raw_client(path) as guest:
        channel, _ = await opened(guest, host)
        msgids = [await guest.start("packet.send", channel, WAIT, bytes(8), b"") for _ in range(3)]
        await host.notice("channel.packets")
        host.close()
        for msgid in msgids:
            with pytest.raises(Answered) as caught:
                await guest.answer(msgid)
            assert caught.value.status is NtStatus.DEVICE_REMOVED
        _, status, reason = await guest.notice("channel.closed")
        assert status == NtStatus.DEVICE_REMOVED
        assert "(client 'raw', process" in reason
        assert await listing(guest) == []
        assert server.machines["vm1"].pages.free_pages == server.machines["vm1"].memory.page_count - 1


# ---- faults in a core


def break_channel(server: Server, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on one call of the vm1's first channel's host end raises what no core should raise."""

    def fault(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a fault in the core")

    host = server.machines["vm1"].channels[1].host
    assert isinstance(host, ChannelSide)
    monkeypatch.setattr(host.endpoint, what, fault)


@pytest.mark.parametrize("what", ["complete", "receive", "fail", "close"])
async def test_a_fault_in_a_core_ends_its_machine_and_no_other(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        served(tmp_path) as (server, path),
        raw_client(path) as guest,
        raw_client(path) as host,
        raw_client(path) as waiting,
        raw_client(path) as elsewhere,
    ):
        channel, host_channel = await opened(guest, host)
        await waiting.attach()
        wait = await waiting.start("channel.open", 1, OTHER, None, True, 0, 0, *GRANT)
        await elsewhere.attach("vm2")
        await elsewhere.offer(ECHO)
        msgid = await guest.start("packet.send", channel, WAIT, b"12345678", b"")
        await host.notice("channel.packets")
        break_channel(server, what, monkeypatch)
        await host.notify("packet.complete", host_channel, 1, b"") if what == "complete" else None
        await host.notify("packet.fail", host_channel, 1) if what == "fail" else None
        await host.notify("channel.window", host_channel, 1, 1) if what == "receive" else None
        await host.start("channel.close", host_channel) if what == "close" else None
        with pytest.raises(Answered) as caught:
            await waiting.answer(wait)
        assert caught.value.status is NtStatus.DEVICE_NOT_READY
        assert caught.value.message == "machine vm1 failed (ZeroDivisionError: a fault in the core)"
        if what != "close":  # then the machine's own end cannot be told apart from the fault any more
            for client, number in ((guest, channel), (host, host_channel)):
                assert await client.notice("channel.closed") == [
                    number,
                    NtStatus.DEVICE_REMOVED,
                    "machine vm1 failed (ZeroDivisionError: a fault in the core)",
                ]
            with pytest.raises(Answered):
                await guest.answer(msgid)
        for client in (guest, host, waiting):
            with pytest.raises(Answered, match=r"machine vm1 failed .*restart the daemon to have it again"):
                await client.call("memory.allocate", 1, 1)
        assert await elsewhere.open(ECHO) == 1
        async with raw_client(path) as another:
            await another.attach("vm2")


async def test_a_fault_in_the_transport_ends_its_machine_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*args: object) -> None:
        raise ZeroDivisionError("a fault in the core")

    async with served(tmp_path) as (server, path), raw_client(path) as client, raw_client(path) as elsewhere:
        await client.attach()
        await elsewhere.attach("vm2")
        _, host, port, *_ = await client.call("address.open", 1, "udp", "127.0.0.1", 0, False, *GRANT)
        await elsewhere.call("address.open", 1, "udp", "127.0.0.1", 0, False, *GRANT)
        monkeypatch.setattr(server.machines["vm1"].datagrams._transport, "datagram_arrived", fault)
        await elsewhere.call("address.send_datagram", 1, host, port, b"boom")
        while server.machines["vm1"].failure is None:
            await trio.lowlevel.checkpoint()
        with pytest.raises(Answered, match=r"machine vm1 failed \(ZeroDivisionError: a fault in the core\)"):
            await client.call("address.send_datagram", 1, "127.0.0.1", 9, b"")
        assert (await elsewhere.call("address.send_datagram", 1, host, port, b"again"))[0] == NtStatus.SUCCESS
