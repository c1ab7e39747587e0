"""What strangers get of the daemon's UDP socket: an answer no longer than their question, and no memory of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from emulator.config import QuicConfig
from emulator.daemon.quic_stream import QuicStream, RemoteClient
from emulator.daemon.quic_table import ANSWERS_PER_SECOND, FIRST_PACKET_BYTES, REMEMBERED, ConnectionTable, Rate
from emulator.daemon.roles import Identity
from emulator.remote.certificates import Certified, issue_client, issue_daemon, make_authority
from emulator.remote.engine import CONVERSATION, WINDOW_BYTES, Engine, client_configuration, daemon_configuration

HERE, THERE = ("192.0.2.1", 40_000), ("192.0.2.66", 40_000)
DAEMON = ("127.0.0.1", 4433)

AUTHORITY = make_authority()
OWN = issue_daemon(AUTHORITY)
CLIENT = issue_client(AUTHORITY, "someone")


def table(**settings: object) -> ConnectionTable:
    chosen = QuicConfig.model_validate({"port": 0, "keys": Path("keys"), **settings})
    configuration = daemon_configuration(OWN.certificate, OWN.key, idle_seconds=20.0, packet_bytes=1200)
    return ConnectionTable(chosen, configuration, 0.0)


def new_client(own: Certified | None = CLIENT, now: float = 0.0) -> Engine:
    shown = own or CLIENT
    pem = AUTHORITY.certificate_pem()
    configuration = client_configuration(pem, shown.certificate, shown.key, idle_seconds=20.0, packet_bytes=1200)
    if own is None:
        configuration.certificate = configuration.private_key = None
    client = Engine(configuration)
    client.connect(DAEMON, now)
    return client


def first_packet(client: Engine, now: float = 0.0) -> bytes:
    ((data, _),) = client.packets_to_send(now)
    return data


def answered(met: ConnectionTable, data: bytes, source: object = HERE, now: float = 0.0) -> list[bytes]:
    """What a packet of a stranger's brings back; it must leave no connection."""
    assert met.route(data, source, now) is None
    answers = [answer for answer, to in met.answers]
    assert all(to == source for _, to in met.answers)
    met.answers.clear()
    return answers


def with_token(met: ConnectionTable, client: Engine, source: object = HERE, now: float = 0.0) -> bytes:
    """The second first packet of a client, which brings the token of the Retry back."""
    (retry,) = answered(met, first_packet(client, now), source, now)
    client.receive_datagram(retry, DAEMON, now)
    return first_packet(client, now)


def admitted(met: ConnectionTable, client: Engine, source: object = HERE, now: float = 0.0) -> RemoteClient:
    data = with_token(met, client, source, now)
    known = met.route(data, source, now)
    assert known is not None
    known.engine.receive_datagram(data, source, now)
    return known


def talk(client: Engine, known: RemoteClient, now: float, rounds: int = 10) -> None:
    for _ in range(rounds):
        now += 0.01
        for data, _ in known.engine.packets_to_send(now):
            client.receive_datagram(data, DAEMON, now)
        for data, _ in client.packets_to_send(now):
            known.engine.receive_datagram(data, HERE, now)


def test_a_first_packet_gets_a_retry_and_leaves_nothing() -> None:
    met = table()
    packet = first_packet(new_client())
    (retry,) = answered(met, packet)
    assert len(retry) < len(packet)
    assert (met.clients(), met.handshakes, met.counts["retries"]) == ([], 0, 1)


def test_only_the_address_the_token_was_made_for_can_use_it() -> None:
    met = table()
    packet = with_token(met, new_client())
    assert answered(met, packet, THERE) == []
    assert met.counts["refused"] == 1
    assert met.route(packet, HERE, 0.0) is not None


def test_a_recorded_handshake_begins_no_second_connection() -> None:
    met = table()
    client = new_client()
    packet = with_token(met, client)
    known = met.route(packet, HERE, 0.0)
    assert known is not None
    assert met.route(packet, HERE, 0.0) is known, "a repeated packet is the same connection's"
    met.forget(known)
    assert answered(met, packet) == []
    assert (met.clients(), met.counts["refused"]) == ([], 1)


def test_a_token_is_good_for_half_a_minute() -> None:
    met = table()
    packet = with_token(met, new_client())
    assert answered(met, packet, now=31.0) == []
    assert met.counts["refused"] == 1


def test_so_many_handshakes_and_no_more_until_one_is_over() -> None:
    met = table(handshakes=3, handshake_seconds=5.0)
    first = [admitted(met, new_client(now=float(number)), now=float(number)) for number in range(3)]
    late = with_token(met, new_client(now=3.0), now=3.0)
    assert answered(met, late, now=3.0) == []
    assert met.late_handshakes(4.9) == []
    assert met.late_handshakes(5.1) == first[:1]
    met.forget(first[0])
    assert met.route(late, HERE, 5.1) is not None
    met.authenticated(first[1])
    assert met.handshakes == 2


def test_one_source_may_not_begin_connections_without_end() -> None:
    met = table(connections_per_second=2.0, handshakes=100)
    let_in = sum(met.route(with_token(met, new_client()), HERE, 0.0) is not None for _ in range(10))
    assert let_in == 4
    assert met.route(with_token(met, new_client(), THERE), THERE, 0.0) is not None, "others are not held to it"
    assert met.route(with_token(met, new_client(now=1.0), now=1.0), HERE, 1.0) is not None, "and it comes back"


def test_answers_to_strangers_have_a_rate_of_their_own() -> None:
    met = table()
    packet = first_packet(new_client())
    assert len([1 for _ in range(3 * ANSWERS_PER_SECOND_INT) if answered(met, packet)]) == 2 * ANSWERS_PER_SECOND_INT


ANSWERS_PER_SECOND_INT = int(ANSWERS_PER_SECOND)


def test_what_is_remembered_of_sources_is_bounded() -> None:
    met = table()
    for number in range(REMEMBERED + 100):
        met._rate_of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
        met._remember_token(number.to_bytes(8, "big"), 0.0)
    assert (len(met._sources), len(met._used_tokens)) == (REMEMBERED, REMEMBERED)


@pytest.mark.parametrize("size", [0, 1, 20, 100, 1199, 1200, 1472, 9000])
def test_garbage_gets_no_answer_longer_than_itself_and_no_connection(size: int) -> None:
    met = table()
    draw = random.Random(size)
    for first in range(256):
        data = bytes([first]) + draw.randbytes(size - 1) if size else b""
        for answer in answered(met, data):
            assert len(answer) <= len(data)
            assert size >= FIRST_PACKET_BYTES
    assert met.clients() == []


def test_an_unknown_version_is_told_which_are_known_and_a_telling_is_not_answered() -> None:
    met = table()
    packet = bytearray(first_packet(new_client()))
    packet[1:5] = (0x1A2A3A4A).to_bytes(4, "big")
    (told,) = answered(met, bytes(packet))
    assert len(told) < len(packet)
    assert answered(met, told.ljust(FIRST_PACKET_BYTES, b"\0")) == [], "two daemons must not answer each other for ever"


def test_nobody_gets_three_times_what_he_sent_before_he_has_answered() -> None:
    """With loss of every answer too: what is repeated counts."""
    met = table()
    client = new_client()
    known = admitted(met, client)
    received, sent = FIRST_PACKET_BYTES, 0
    now = 0.0
    for _ in range(50):
        sent += sum(len(data) for data, _ in known.engine.packets_to_send(now))
        if known.engine.timer is None:
            break
        now = max(now + 0.05, known.engine.timer or 0.0)
        known.engine.handle_timer(now)
    assert 0 < sent <= 3 * received


def test_the_handshake_shows_the_daemon_who_it_is() -> None:
    known = admitted(table(), client := new_client())
    talk(client, known, 0.0, rounds=0)
    assert not known.engine._handshake_complete
    talk(client, known, 0.0)
    assert known.engine.peer_certificate == CLIENT.certificate
    assert client.peer_certificate == OWN.certificate


def test_a_client_without_a_certificate_shows_nothing() -> None:
    """aioquic goes on without one, so this is what the daemon has to look at."""
    known = admitted(table(), client := new_client(None))
    talk(client, known, 0.0)
    assert known.engine._handshake_complete
    assert known.engine.peer_certificate is None


def test_a_certificate_without_its_key_does_not_come_through_the_handshake() -> None:
    stolen = Certified(CLIENT.certificate, issue_client(AUTHORITY, "thief").key)
    known = admitted(table(), client := new_client(stolen))
    talk(client, known, 0.0)
    assert not known.engine._handshake_complete
    assert known.engine.peer_certificate is None
    assert known.engine.is_over


def test_no_handshake_leaves_the_certificates_out() -> None:
    """Session tickets would let a client come again without showing its key; early data would come before it."""
    known = admitted(table(), client := new_client())
    talk(client, known, 0.0)
    assert client.tls.session_ticket is None
    assert not known.engine.tls.session_resumed
    assert not known.engine.tls.early_data_accepted
    assert known.engine.tls.new_session_ticket_cb is None


def test_what_a_peer_may_send_ahead_of_a_gap_is_one_window() -> None:
    known = admitted(table(), client := new_client())
    talk(client, known, 0.0)
    client.send_stream_data(CONVERSATION, bytes(8 * WINDOW_BYTES))
    taken, now = 0, 1.0
    for _ in range(200_000):
        now += 0.001
        for data, _ in client.packets_to_send(now):
            known.engine.receive_datagram(data, HERE, now)
        for data, _ in known.engine.packets_to_send(now):
            client.receive_datagram(data, DAEMON, now)
        stream = known.engine._streams[CONVERSATION]
        assert stream.max_stream_data_local - stream.receiver.starting_offset() <= WINDOW_BYTES
        while (event := known.engine.next_event()) is not None:
            taken += len(getattr(event, "data", b""))
        if taken == 8 * WINDOW_BYTES:
            break
    assert taken == 8 * WINDOW_BYTES, "and all of it comes, one window after another"


def test_who_comes_from_another_host_has_to_show_anew_what_the_path_carries() -> None:
    """Another port alone is a router that has forgotten it, on the same path."""
    known = admitted(table(), client := new_client())
    talk(client, known, 0.0)
    engine, first = known.engine, known.engine._loss.congestion_window
    for source, window in (((HERE[0], 40_001), 500_000), (THERE, first)):
        engine._loss._cc.congestion_window = 500_000
        client.send_ping(1)
        for data, _ in client.packets_to_send(5.0):
            engine.receive_datagram(data, source, 5.0)
        assert engine.packets_to_send(5.0)
        assert engine.get_peer_address() == source
        assert engine._loss.congestion_window == window
    assert not engine._loss._rtt_initialized
    assert engine._loss._pacer.next_send_time(5.0) is None


def test_a_second_stream_is_an_error_of_the_clients() -> None:
    known = admitted(table(), client := new_client())
    talk(client, known, 0.0)
    client._streams_blocked_bidi.clear()
    client._remote_max_streams_bidi = 10
    client.send_stream_data(4, b"another")
    talk(client, known, 1.0)
    assert known.engine.is_over


def test_a_rate_is_never_less_than_one_at_once() -> None:
    rate = Rate(0.1, 0.0)
    assert (rate.take(0.0), rate.take(1.0), rate.take(11.0)) == (True, False, True)


async def test_the_end_of_a_client_is_known_before_what_it_said_last_is_taken(autojump_clock: MockClock) -> None:
    stream = QuicStream(new_client(), lambda: None, 1_000, Identity(key="someone"), "")
    stream.feed(b"first", at_end=False)
    with trio.move_on_after(1) as waiting:
        await stream.ended()
    assert waiting.cancelled_caught
    stream.feed(b" and last", at_end=True)
    await stream.ended()
    assert [stream.take(), stream.take()] == [b"first and last", b""]
