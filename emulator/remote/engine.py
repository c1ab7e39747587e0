"""One QUIC connection without I/O: aioquic's, made fit for clients nobody knows yet.

What is added to it, each where aioquic has no public way:

* **The daemon asks for the client's certificate.** aioquic's TLS can, and checks that the client has the private key
  (its CertificateVerify), but only when told so, and it goes on without one. So the daemon asks here and looks at
  ``peer_certificate`` before anything else; without one it is None. Whether it is a good one is ``certificates``'
  question. There are no session tickets, so no handshake leaves the certificates out, and there is no 0-RTT.
* **Windows follow what was taken.** aioquic doubles them for ever; here the peer may be so far ahead of the first byte
  that is missing, and no further.
* **One stream**, the client's first; no other can be opened.
* **Lost datagrams are told**, as far as the peer's acknowledgements show them.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from typing import Any

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import MAX_STREAM_DATA_FRAME_CAPACITY, NetworkAddress, QuicConnection
from aioquic.quic.packet import QuicFrameType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography import x509

from emulator.remote.sending import (
    ACKNOWLEDGE_PACKETS,
    ACKNOWLEDGE_SECONDS,
    CONGESTION_CONTROL,
    Pacer,
    forget_path,
)

ALPN = "vmbus/1"
# The name in the daemon's certificate: a client trusts one authority, and this name in it, whatever the address.
DAEMON_NAME = "vmbusd"
# The stream that carries the conversation.
CONVERSATION = 0
# So far ahead of the first missing byte the peer may be; what is kept of one connection at most.
WINDOW_BYTES = 1024 * 1024
# The whole connection is bounded by its one stream.
UNBOUNDED = 1 << 60
# Around a DATAGRAM frame's data: header with the longest connection id, packet number, tag, type and length.
DATAGRAM_OVERHEAD_BYTES = 64
# What aioquic is told of DATAGRAM frames that may come: what a packet can carry.
DATAGRAM_FRAME_BYTES = 65_536


class LossyDatagram(bytes):
    """The data of a DATAGRAM frame whose loss somebody wants to know of."""

    token: object = None


def daemon_configuration(
    certificate: x509.Certificate, key: Any, *, idle_seconds: float, packet_bytes: int
) -> QuicConfiguration:
    """What every connection of the daemon's is made with."""
    return _configuration(False, certificate, key, idle_seconds, packet_bytes)


def client_configuration(
    authority_pem: bytes, certificate: x509.Certificate, key: Any, *, idle_seconds: float, packet_bytes: int
) -> QuicConfiguration:
    """What a client's connection is made with: it trusts this authority alone, and for the daemon's name alone."""
    configuration = _configuration(True, certificate, key, idle_seconds, packet_bytes)
    configuration.server_name = DAEMON_NAME
    configuration.cadata = authority_pem
    configuration.verify_mode = ssl.CERT_REQUIRED
    return configuration


def _configuration(
    is_client: bool, certificate: x509.Certificate, key: Any, idle_seconds: float, packet_bytes: int
) -> QuicConfiguration:
    """What both sides have in common."""
    configuration = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        idle_timeout=idle_seconds,
        max_data=UNBOUNDED,
        max_stream_data=WINDOW_BYTES,
        max_datagram_size=packet_bytes,
        congestion_control_algorithm=CONGESTION_CONTROL,
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES,
        supported_versions=[QuicProtocolVersion.VERSION_1],
    )
    configuration.certificate = certificate
    configuration.private_key = key
    return configuration


class Engine(QuicConnection):
    """One connection, of the daemon's or of a client's. Time is an argument."""

    def __init__(self, configuration: QuicConfiguration, **retry: bytes | None) -> None:
        super().__init__(configuration=configuration, **retry)  # type: ignore[arg-type]  # two named arguments of one type
        for limit, count in ((self._local_max_streams_bidi, 1), (self._local_max_streams_uni, 0)):
            limit.value = limit.sent = 0 if configuration.is_client else count
        self._loss._pacer = Pacer(max_datagram_size=configuration.max_datagram_size)
        self._ack_delay = ACKNOWLEDGE_SECONDS
        self._acknowledged_to = -1
        self._peer_host = ""
        self.lost: list[object] = []

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if not self._is_client:
            self.tls._request_client_certificate = True

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The certificate whose key the peer has shown to hold; None before the handshake's end, and without one."""
        context: tls.Context | None = getattr(self, "tls", None)
        if not self._handshake_complete or context is None or context.session_resumed:
            return None
        return context._peer_certificate

    @property
    def is_over(self) -> bool:
        """Whether it has been closed, here or there."""
        return self._close_event is not None

    @property
    def end(self) -> tuple[int, str] | None:
        """The error code and the reason it was closed with, here or there; the event says so only much later."""
        event = self._close_event
        return None if event is None else (event.error_code, event.reason_phrase)

    @property
    def timer(self) -> float | None:
        """When ``handle_timer`` is due; None as long as nothing that could be read has come."""
        return None if self._close_at is None else self.get_timer()

    def release(self) -> None:
        """Nobody will ask it anything again: what it holds is freed now.

        It refers to itself in many ways, so it would else stay until the collector of cycles comes by, and strangers
        can begin hundreds of handshakes until then.
        """
        vars(self).clear()

    # ---- the conversation

    @property
    def unacknowledged_bytes(self) -> int:
        """What was written and the peer has not acknowledged."""
        stream = self._streams.get(CONVERSATION)
        return 0 if stream is None else stream.sender._buffer_stop - stream.sender._buffer_start

    @property
    def is_delivered(self) -> bool:
        """Whether the peer has everything that was written, up to the end of the stream."""
        stream = self._streams.get(CONVERSATION)
        return stream is None or stream.sender.is_finished

    def trains_to_send(self, now: float) -> Iterator[list[tuple[bytes, NetworkAddress]]]:
        """What has to leave now, in portions: the peer is busy with one while the next is made."""
        pacer = self._loss._pacer
        assert isinstance(pacer, Pacer)
        while packets := self.packets_to_send(now):
            yield packets
            if not pacer.is_train_full:
                break

    def packets_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """The next of what has to leave now, a train at most; the timer rings at once if that was not all.

        An acknowledgement that is due soon goes along with what leaves anyway.
        """
        if not self._network_paths:
            return []
        host = self._network_paths[0].addr[0]
        if host != self._peer_host:
            if self._peer_host:
                self.moved(now)
            self._peer_host = host
        assert isinstance(self._loss._pacer, Pacer)
        self._loss._pacer.begin_train()
        if not self._handshake_complete:
            return self.datagrams_to_send(now)
        space = self._spaces[tls.Epoch.ONE_RTT]
        self._note_acknowledged(space)
        stream = self._streams.get(CONVERSATION)
        if space.ack_at is not None and (
            self._datagrams_pending
            or (stream is not None and not stream.sender.buffer_is_empty)
            or space.largest_received_packet - self._acknowledged_to >= ACKNOWLEDGE_PACKETS
            or len(space.ack_queue) > 1
        ):
            space.ack_at = min(space.ack_at, now)
        packets = self.datagrams_to_send(now)
        self._note_acknowledged(space)
        return packets

    def _note_acknowledged(self, space: QuicPacketSpace) -> None:
        if space.ack_at is None:
            self._acknowledged_to = space.largest_received_packet

    def moved(self, now: float) -> None:
        """This side, or the peer, is at another address now; another port alone is the same path."""
        forget_path(self._loss, now)

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        limit = stream.receiver.starting_offset() + WINDOW_BYTES
        if stream.max_stream_data_local and limit - stream.max_stream_data_local >= WINDOW_BYTES // 2:
            stream.max_stream_data_local = limit
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        assert stream.stream_id is not None
        buf.push_uint_var(stream.stream_id)
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    # ---- datagrams

    @property
    def datagram_bytes(self) -> int:
        """The most one DATAGRAM frame to this peer carries; 0 when it takes none."""
        theirs = self._remote_max_datagram_frame_size
        return 0 if theirs is None else max(0, min(theirs, self._max_datagram_size) - DATAGRAM_OVERHEAD_BYTES)

    @property
    def waiting_datagrams(self) -> int:
        """DATAGRAM frames that have not left yet."""
        return len(self._datagrams_pending)

    def send_lossy(self, data: bytes, token: object) -> None:
        """Send a DATAGRAM frame of at most ``datagram_bytes``. If it gets lost, ``token`` will stand in ``lost``."""
        datagram = LossyDatagram(data)
        datagram.token = token
        self.send_datagram_frame(datagram)

    def _write_datagram_frame(self, builder: QuicPacketBuilder, data: bytes, frame_type: QuicFrameType) -> bool:
        size = len(data)
        handler_args: Sequence[Any] = (getattr(data, "token", None),)
        buf = builder.start_frame(
            frame_type, capacity=1 + 8 + size, handler=self._on_datagram_delivery, handler_args=handler_args
        )
        buf.push_uint_var(size)
        buf.push_bytes(data)
        return True

    def _on_datagram_delivery(self, delivery: QuicDeliveryState, token: object) -> None:
        if delivery is not QuicDeliveryState.ACKED and token is not None:
            self.lost.append(token)

    def take_lost(self) -> list[object]:
        """The tokens of datagrams found lost since the last time."""
        lost, self.lost = self.lost, []
        return lost
