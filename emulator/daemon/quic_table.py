"""Whose packet is it? The connections over UDP by their ids, and what a stranger has to show before one is made.

A stranger's first packet gets a Retry and leaves nothing behind: the token in it proves, when it comes back, that the
source address is his. Only then is there a connection, as far as these bounds allow: so many handshakes under way, so
many new connections of one address in a second, each token once. Whatever else nobody knows is dropped without a word.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicPacketType, encode_quic_retry, encode_quic_version_negotiation, pull_quic_header
from aioquic.quic.retry import QuicRetryTokenHandler

from emulator.config import QuicConfig
from emulator.daemon.quic_stream import RemoteClient
from emulator.remote.engine import Engine

if TYPE_CHECKING:
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.packet import QuicHeader

    from emulator.remote.packet_socket import Packet

IDENTIFIER_BYTES = 8
# A client's first packet is padded to this, so that no answer is longer than what it answers.
FIRST_PACKET_BYTES = 1200
# Answers to strangers in a second: making one costs some 30 µs.
ANSWERS_PER_SECOND = 3000
# A Retry is answered at once, or never; as long as aioquic takes its token.
TOKEN_SECONDS = 30.0
# Tokens and source addresses remembered; the oldest go first.
REMEMBERED = 4096
_LONG_HEADER = 0x80


class Rate:
    """So many in a second, and twice as many at once."""

    __slots__ = ("_at", "_left", "_per_second")

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._left = max(1.0, 2 * per_second)
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more is within it."""
        most = max(1.0, 2 * self._per_second)
        self._left = min(most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class ConnectionTable:
    """Every connection, and the door to it."""

    def __init__(self, settings: QuicConfig, configuration: QuicConfiguration, now: float) -> None:
        self._settings = settings
        self._configuration = configuration
        self._by_identifier: dict[bytes, RemoteClient] = {}
        self._clients: dict[RemoteClient, None] = {}
        self._handshakes: dict[RemoteClient, None] = {}
        self._tokens = QuicRetryTokenHandler()
        self._used_tokens: dict[bytes, float] = {}
        self._sources: dict[str, Rate] = {}
        self._answers = Rate(ANSWERS_PER_SECOND, now)
        self.is_accepting = True
        self.answers: list[Packet] = []
        self.counts = dict.fromkeys(("dropped", "retries", "refused", "accepted"), 0)

    def clients(self) -> list[RemoteClient]:
        """Every connection, authenticated or not."""
        return list(self._clients)

    @property
    def handshakes(self) -> int:
        """Connections whose client has not shown yet who it is."""
        return len(self._handshakes)

    # ---- packets

    def route(self, data: bytes, source: Any, now: float) -> RemoteClient | None:
        """Whose packet it is; a new connection if it begins one. What a stranger gets is added to ``answers``."""
        if data and not data[0] & _LONG_HEADER:
            client = self._by_identifier.get(data[1 : 1 + IDENTIFIER_BYTES])
            if client is None:
                self.counts["dropped"] += 1
            return client
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=IDENTIFIER_BYTES)
        except ValueError:
            self.counts["dropped"] += 1
            return None
        return self._by_identifier.get(header.destination_cid) or self._stranger(header, data, source, now)

    def _stranger(self, header: QuicHeader, data: bytes, source: Any, now: float) -> RemoteClient | None:
        if len(data) >= FIRST_PACKET_BYTES and self.is_accepting and header.version:
            if header.version not in self._configuration.supported_versions:
                self._answer_version(header, source, now)
                return None
            if header.packet_type is QuicPacketType.INITIAL:
                if not header.token:
                    self._answer_retry(header, source, now)
                    return None
                return self._begin(header, source, now)
        self.counts["dropped"] += 1
        return None

    def _answer_version(self, header: QuicHeader, source: Any, now: float) -> None:
        if self._answers.take(now):
            answer = encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=self._configuration.supported_versions,
            )
            self.answers.append((answer, source))

    def _answer_retry(self, header: QuicHeader, source: Any, now: float) -> None:
        if not self._answers.take(now):
            self.counts["dropped"] += 1
            return
        self.counts["retries"] += 1
        assert header.version is not None
        own = os.urandom(IDENTIFIER_BYTES)
        token = self._tokens.create_token(
            address=source,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=own,
            now=now,
        )
        answer = encode_quic_retry(
            version=header.version,
            source_cid=own,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self.answers.append((answer, source))

    def _begin(self, header: QuicHeader, source: Any, now: float) -> RemoteClient | None:
        own = header.destination_cid
        try:
            original = self._tokens.validate_token(address=source, destination_cid=own, token=header.token, now=now)
        except ValueError:
            self.counts["refused"] += 1
            return None
        if own in self._used_tokens or self.handshakes >= self._settings.handshakes:
            self.counts["refused"] += 1
            return None
        if not self._rate_of(source[0], now).take(now):
            self.counts["refused"] += 1
            return None
        self._remember_token(own, now)
        self.counts["accepted"] += 1
        engine = Engine(
            self._configuration, original_destination_connection_id=original, retry_source_connection_id=own
        )
        client = RemoteClient(engine, str(source[0]), now)
        self._clients[client] = self._handshakes[client] = None
        for identifier in (own, engine.host_cid):
            self.issued(client, identifier)
        return client

    def _rate_of(self, host: str, now: float) -> Rate:
        rate = self._sources.pop(host, None)
        if rate is None:
            rate = Rate(self._settings.connections_per_second, now)
            if len(self._sources) >= REMEMBERED:
                del self._sources[next(iter(self._sources))]
        self._sources[host] = rate  # the one seen last stands last
        return rate

    def _remember_token(self, own: bytes, now: float) -> None:
        while self._used_tokens:
            oldest, until = next(iter(self._used_tokens.items()))
            if until > now and len(self._used_tokens) < REMEMBERED:
                break
            del self._used_tokens[oldest]
        self._used_tokens[own] = now + TOKEN_SECONDS

    # ---- connections

    def issued(self, client: RemoteClient, identifier: bytes) -> None:
        """A connection can be meant by this id."""
        self._by_identifier[identifier] = client
        client.identifiers.add(identifier)

    def retired(self, client: RemoteClient, identifier: bytes) -> None:
        """It cannot any more."""
        if identifier in client.identifiers:
            client.identifiers.discard(identifier)
            self._by_identifier.pop(identifier, None)

    def authenticated(self, client: RemoteClient) -> None:
        """Its client is known: its handshake counts no more."""
        self._handshakes.pop(client, None)

    def forget(self, client: RemoteClient) -> None:
        """A connection is over."""
        self._handshakes.pop(client, None)
        self._clients.pop(client, None)
        for identifier in client.identifiers:
            self._by_identifier.pop(identifier, None)
        client.identifiers.clear()

    def late_handshakes(self, now: float) -> list[RemoteClient]:
        """Those that have had their time."""
        before = now - self._settings.handshake_seconds
        late: list[RemoteClient] = []
        for client in self._handshakes:
            if client.began > before:
                break
            late.append(client)
        return late

    def next_late(self) -> float | None:
        """When the oldest handshake has had its time."""
        first = next(iter(self._handshakes), None)
        return None if first is None else first.began + self._settings.handshake_seconds
