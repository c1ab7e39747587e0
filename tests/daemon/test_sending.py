"""How a connection over UDP sends: at once nearby, spread over the round trip far away, and never all of it."""

from __future__ import annotations

import heapq
import math
from itertools import chain

import pytest
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.tls import Epoch

from emulator.remote.certificates import issue_client, issue_daemon, make_authority
from emulator.remote.engine import CONVERSATION, Engine, client_configuration, daemon_configuration
from emulator.remote.sending import TIMER_SECONDS, Pacer, WindowInUse

PACKET = 1200
FIRST_WINDOW = 10 * PACKET
HERE, THERE = ("192.0.2.1", 1), ("192.0.2.2", 2)


# ---- bursts


def pacer(window_packets: int, round_trip: float) -> Pacer:
    made = Pacer(max_datagram_size=PACKET)
    made.update_rate(window_packets * PACKET, round_trip)
    return made


def burst(met: Pacer, now: float) -> int:
    """How many packets may leave at once."""
    count = 0
    while True:
        met.begin_train()
        while met.next_send_time(now) is None:
            met.update_after_send(now)
            count += 1
            assert count < 100_000
        if not met.is_train_full:
            return count


def test_a_connection_that_knows_nothing_of_its_path_is_bounded_by_its_window_alone() -> None:
    assert Pacer(max_datagram_size=PACKET).next_send_time(1.0) is None


@pytest.mark.parametrize("window", [10, 100, 6000])
def test_nearby_the_whole_window_may_leave_at_once(window: int) -> None:
    """With timers of a millisecond there is nothing to spread it over."""
    assert burst(pacer(window, 0.000_2), 1.0) >= window


@pytest.mark.parametrize(("window", "most"), [(10, 10), (100, 10), (1000, 25), (4000, 100)])
def test_far_away_a_burst_is_the_first_window_or_a_millisecond_of_the_rate(window: int, most: int) -> None:
    met = pacer(window, 0.05)
    assert burst(met, 1.0) in (most, most + 1)
    assert burst(met, 1.0) == 0


@pytest.mark.parametrize("window", [20, 100, 1000, 4000])
@pytest.mark.parametrize("lateness", [0.0, 0.000_1])
def test_a_round_trip_carries_the_window_although_timers_ring_in_whole_milliseconds(
    window: int, lateness: float
) -> None:
    met = pacer(window, 0.05)
    burst(met, 1.0)
    now, sent, looks = 1.0, 0, 0
    while now < 1.05:
        deadline = met.next_send_time(now)
        assert deadline is not None
        now += math.ceil((deadline - now) / TIMER_SECONDS - 1e-6) * TIMER_SECONDS + lateness
        sent += burst(met, now)
        looks += 1
    assert window <= sent + 1
    assert sent <= 1.4 * window
    assert looks <= 51, "no timer is asked for that could only ring early"


def test_what_may_leave_at_once_is_made_in_trains() -> None:
    met = pacer(100, 0.000_2)
    for _ in range(2):
        met.begin_train()
        sent = 0
        while met.next_send_time(1.0) is None:
            met.update_after_send(1.0)
            sent += 1
        assert (sent, met.is_train_full, met.next_send_time(1.0)) == (32, True, 1.0)


# ---- windows


def packet(number: int, now: float, size: int = PACKET) -> QuicSentPacket:
    made = QuicSentPacket(
        epoch=Epoch.ONE_RTT,
        in_flight=True,
        is_ack_eliciting=True,
        is_crypto_packet=False,
        packet_number=number,
        packet_type=QuicPacketType.ONE_RTT,
    )
    made.sent_bytes, made.sent_time = size, now
    return made


def trip(met: WindowInUse, packets: int, now: float) -> None:
    """So many packets there and all of them acknowledged."""
    sent = [packet(number, now) for number in range(packets)]
    for each in sent:
        met.on_packet_sent(packet=each)
    for each in sent:
        met.on_packet_acked(now=now + 0.05, packet=each)
    assert met.bytes_in_flight == 0


def test_a_conversation_that_never_fills_the_window_does_not_widen_it() -> None:
    met = WindowInUse(max_datagram_size=PACKET)
    for number in range(1000):
        trip(met, 4, float(number))
    assert met.congestion_window == FIRST_WINDOW


def test_a_window_in_use_doubles_until_something_is_lost_and_then_grows_by_a_packet() -> None:
    met = WindowInUse(max_datagram_size=PACKET)
    trip(met, 10, 1.0)
    assert met.congestion_window == 2 * FIRST_WINDOW
    trip(met, 20, 2.0)
    assert met.congestion_window == 4 * FIRST_WINDOW
    lost = packet(1, 3.0)
    met.on_packet_sent(packet=lost)
    met.on_packets_lost(now=3.1, packets=[lost])
    assert met.congestion_window == 2 * FIRST_WINDOW
    trip(met, 10, 4.0)
    assert met.congestion_window == 2 * FIRST_WINDOW, "half of it is no window in use after a loss"
    trip(met, 20, 5.0)
    assert met.congestion_window == 2 * FIRST_WINDOW + PACKET


def test_what_left_before_the_window_was_in_use_counts_and_what_left_long_after_does_not() -> None:
    met = WindowInUse(max_datagram_size=PACKET)
    early = packet(0, 1.0)
    met.on_packet_sent(packet=early)
    flight = [packet(number, 1.01) for number in range(1, 6)]
    for each in flight:
        met.on_packet_sent(packet=each)
    late = packet(9, 1.02)
    met.on_packet_acked(now=1.05, packet=early)
    assert met.congestion_window == FIRST_WINDOW + PACKET
    for each in flight:
        met.on_packet_acked(now=1.06, packet=each)
    widened = met.congestion_window
    met.on_packet_sent(packet=late)
    met.on_packet_acked(now=1.07, packet=late)
    assert met.congestion_window == widened


# ---- acknowledgements


def connected() -> tuple[Engine, Engine]:
    """A client and the daemon's end, with nothing left to say to each other."""
    flow = Flow()
    for turn in range(200):
        now = turn * 0.005
        for engine, other, source in ((flow.client, flow.daemon, HERE), (flow.daemon, flow.client, THERE)):
            for data, _ in chain.from_iterable(engine.trains_to_send(now)):
                other.receive_datagram(data, source, now)
            if engine.timer is not None and engine.timer <= now:
                engine.handle_timer(now)
    return flow.client, flow.daemon


def say(client: Engine, now: float) -> list[bytes]:
    client.send_stream_data(CONVERSATION, b"a request")
    return [data for data, _ in client.packets_to_send(now)]


def test_an_acknowledgement_waits_for_the_answer_it_can_go_along_with() -> None:
    client, daemon = connected()
    for data in say(client, 2.0):
        daemon.receive_datagram(data, HERE, 2.0)
    assert daemon.packets_to_send(2.004) == []
    daemon.send_stream_data(CONVERSATION, b"the answer")
    ((answer, _),) = daemon.packets_to_send(2.004)
    client.receive_datagram(answer, THERE, 2.004)
    assert client.unacknowledged_bytes == 0


def test_request_and_answer_over_and_over_cost_one_packet_each() -> None:
    client, daemon = connected()
    for number in range(50):
        now = 2 + number * 0.004
        (request,) = say(client, now)
        daemon.receive_datagram(request, HERE, now)
        assert daemon.packets_to_send(now) == []
        daemon.send_stream_data(CONVERSATION, b"the answer")
        ((answer, _),) = daemon.packets_to_send(now + 0.003)
        client.receive_datagram(answer, THERE, now + 0.003)
        assert client.packets_to_send(now + 0.003) == []


def test_it_waits_five_milliseconds_and_no_longer() -> None:
    client, daemon = connected()
    for data in say(client, 2.0):
        daemon.receive_datagram(data, HERE, 2.0)
    assert daemon.timer == pytest.approx(2.005)
    assert len(daemon.packets_to_send(2.0051)) == 1


@pytest.mark.parametrize("missing", [None, 1])
def test_it_does_not_wait_when_four_packets_have_come_or_one_is_missing(missing: int | None) -> None:
    client, daemon = connected()
    for number in range(4 if missing is None else 3):
        now = 2 + number * 1e-4
        assert daemon.packets_to_send(now) == []
        for data in say(client, now):
            if number != missing:
                daemon.receive_datagram(data, HERE, now)
    assert len(daemon.packets_to_send(2.0004)) == 1


# ---- both, through a narrow place

AUTHORITY = make_authority()
DAEMON, CLIENT = issue_daemon(AUTHORITY), issue_client(AUTHORITY, "someone")


class Narrow:
    """A link of so many bytes a second, with a queue before it that drops what it has no room for."""

    def __init__(self, bytes_per_second: float, delay: float, queue_bytes: int) -> None:
        self.rate, self.delay, self.queue_bytes = bytes_per_second, delay, queue_bytes
        self.free_at = 0.0
        self.carried = self.dropped = 0

    def put(self, size: int, now: float) -> float | None:
        """When it arrives at the other end."""
        begins = max(now, self.free_at)
        if (begins - now) * self.rate > self.queue_bytes:
            self.dropped += 1
            return None
        self.carried += size
        self.free_at = begins + size / self.rate
        return self.free_at + self.delay


class Flow:
    """A client that sends as much as it may, and the daemon's end of it."""

    def __init__(self) -> None:
        pem, own = AUTHORITY.certificate_pem(), CLIENT
        self.client = Engine(
            client_configuration(pem, own.certificate, own.key, idle_seconds=60.0, packet_bytes=PACKET)
        )
        self.client.connect(THERE, 0.0)
        first = self.client.original_destination_connection_id
        configuration = daemon_configuration(DAEMON.certificate, DAEMON.key, idle_seconds=60.0, packet_bytes=PACKET)
        self.daemon = Engine(configuration, original_destination_connection_id=first)
        self.came = 0


def carry(flows: list[Flow], link: Narrow, until: float) -> None:
    """Let every flow send through one link, with timers of whole milliseconds; the way back is free."""
    queue: list[tuple[float, int, Engine, tuple[str, int], bytes]] = []
    now, count = 0.0, 0
    while now < until:
        for flow in flows:
            if flow.client._handshake_complete and flow.client.unacknowledged_bytes < 500_000:
                flow.client.send_stream_data(CONVERSATION, bytes(100_000))
            for engine, other, source in ((flow.client, flow.daemon, HERE), (flow.daemon, flow.client, THERE)):
                for data, _ in chain.from_iterable(engine.trains_to_send(now)):
                    arrives = link.put(len(data), now) if engine is flow.client else now + link.delay
                    if arrives is not None:
                        count += 1
                        heapq.heappush(queue, (arrives, count, other, source, data))
        now += TIMER_SECONDS
        while queue and queue[0][0] <= now:
            arrived, _, engine, source, data = heapq.heappop(queue)
            engine.receive_datagram(data, source, arrived)
        for flow in flows:
            for engine in (flow.client, flow.daemon):
                if engine.timer is not None and engine.timer <= now:
                    engine.handle_timer(now)
            while (event := flow.daemon.next_event()) is not None:
                flow.came += len(getattr(event, "data", b""))
            while flow.client.next_event() is not None:
                pass


def test_a_narrow_link_is_used_and_not_flooded() -> None:
    flow, link = Flow(), Narrow(500_000.0, 0.02, 25_000)
    carry([flow], link, 4.0)
    assert flow.came > 0.7 * 500_000 * 4
    assert link.dropped * PACKET < 0.04 * link.carried


def test_two_clients_share_a_narrow_link() -> None:
    flows, link = [Flow(), Flow()], Narrow(500_000.0, 0.02, 25_000)
    carry(flows, link, 5.0)
    shares = [flow.came / sum(each.came for each in flows) for flow in flows]
    assert min(shares) > 0.25
    assert sum(flow.came for flow in flows) > 0.7 * 500_000 * 5
    assert link.dropped * PACKET < 0.05 * link.carried
