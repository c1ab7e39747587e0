"""How fast a connection over UDP sends: what aioquic's own rules need to be both quick nearby and fair far away.

**Bursts.** A sender spreads its window over a round trip (RFC 9002, section 7.7). aioquic's pacer makes its bursts the
shorter the higher the rate, down to three packets, and then asks for a timer of microseconds. The timers of an event
loop come in milliseconds, so nearby, where a round trip is no longer than that, three packets a millisecond were all
that left, whatever the window. Here a burst is the initial window, which the RFC takes for harmless, or what the rate
gives in one such millisecond where that is more. Over a long path this is the same spreading; nearby it is the window.

**Growth.** aioquic's window grows with everything that is acknowledged, also of a conversation that never fills it, and
after an hour of that it says nothing about the path any more. Here, as section 7.8 has it, only what was sent while
the window was in use makes it grow: so a burst is never more than the path has shown to carry.
"""

from __future__ import annotations

import math

from aioquic.quic.congestion.base import K_INITIAL_WINDOW, QuicRttMonitor, register_congestion_control
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketRecovery

CONGESTION_CONTROL = "reno-in-use"
# What an event loop's timers are good for: epoll waits whole milliseconds.
TIMER_SECONDS = 0.001
# Above the window in a round trip, so that a late timer does not leave some of it unused (RFC 9002, section 7.7).
GAIN = 1.25
# No round trip is taken for shorter; aioquic measures none that is.
LEAST_ROUND_TRIP_SECONDS = 0.001
# What the sums of a burst may differ by.
ROUNDING_SECONDS = 1e-9
# So long an acknowledgement waits for something to go along with, unless so many packets wait for it.
ACKNOWLEDGE_SECONDS, ACKNOWLEDGE_PACKETS = 0.005, 4
# Made at once, and then on their way while the next are made: half of what the kernel takes in one call.
TRAIN_PACKETS = 32
# In slow start half of it, otherwise all but this much, is a window in use.
UNUSED_PACKETS = 3


class Pacer(QuicPacketPacer):
    """Says when the next packet may leave, from an allowance kept as time at the rate; in seconds of one clock."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._burst_bytes = K_INITIAL_WINDOW * max_datagram_size
        self._train_left = TRAIN_PACKETS

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override]  # aioquic's returns None as well
        """None when a packet may leave now; else when to ask again, by which a good deal may leave at once."""
        if self._train_left <= 0:
            return now
        if self.packet_time is None:
            return None
        self.update_bucket(now)
        missing = self.packet_time - self.bucket_time
        return None if missing <= ROUNDING_SECONDS else now + max(missing, TIMER_SECONDS)

    def update_after_send(self, now: float) -> None:
        """A packet was made."""
        self._train_left -= 1
        super().update_after_send(now)

    def begin_train(self) -> None:
        """Packets are asked for, and so many may be made, however many the burst allows."""
        self._train_left = TRAIN_PACKETS

    @property
    def is_train_full(self) -> bool:
        """Whether that, and nothing else, may have held one back."""
        return self._train_left <= 0

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """The window or the round trip has changed."""
        rate = GAIN * congestion_window / max(smoothed_rtt, LEAST_ROUND_TRIP_SECONDS)
        self.packet_time = self._max_datagram_size / rate
        self.bucket_max = max(self._burst_bytes / rate, TIMER_SECONDS)
        self.bucket_time = min(self.bucket_time, self.bucket_max)


class WindowInUse(RenoCongestionControl):
    """NewReno, whose window grows while it is in use."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        # When it was last in use; a packet that left no later had a part in that.
        self._in_use_at = -1.0

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        """A packet has left."""
        super().on_packet_sent(packet=packet)
        is_slow_start = self.ssthresh is None or self.congestion_window < self.ssthresh
        most_unused = self.congestion_window // 2 if is_slow_start else UNUSED_PACKETS * self._max_datagram_size
        if self.congestion_window - self.bytes_in_flight <= most_unused:
            assert packet.sent_time is not None
            self._in_use_at = packet.sent_time

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """A packet has arrived."""
        assert packet.sent_time is not None
        if packet.sent_time <= self._in_use_at:
            super().on_packet_acked(now=now, packet=packet)
        else:
            self.bytes_in_flight -= packet.sent_bytes

    def begin_anew(self, now: float) -> None:
        """Know nothing of the path. What is on its way by another says nothing of this one, lost or not."""
        self.congestion_window = K_INITIAL_WINDOW * self._max_datagram_size
        self.ssthresh = None
        self._congestion_recovery_start_time = now
        self._congestion_stash = 0
        self._rtt_monitor = QuicRttMonitor()
        self._in_use_at = -1.0


def forget_path(recovery: QuicPacketRecovery, now: float) -> None:
    """Packets go another way from now on: its window, its rate and its round trip have to be found out."""
    control = recovery._cc
    assert isinstance(control, WindowInUse)
    control.begin_anew(now)
    recovery._pacer.packet_time = None
    recovery._rtt_initialized = False
    recovery._rtt_min = math.inf


register_congestion_control(CONGESTION_CONTROL, WindowInUse)
