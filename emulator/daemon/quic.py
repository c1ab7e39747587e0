"""The UDP socket that remote clients attach to: one task, one timer, and every connection driven by them.

A turn takes what the socket holds, gives each packet to its connection, does what the connections report, and sends
what they have to send. A session that puts something sends it at once; the task only has the timer set anew.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import trio

from emulator.config import QuicConfig
from emulator.daemon.log import logger
from emulator.daemon.quic_keys import EXPIRED, Admission, KeysUnreadable, NotAdmitted
from emulator.daemon.quic_stream import CONVERSATION, LINGER_SECONDS, QuicStream, RemoteClient
from emulator.daemon.quic_timers import Timers
from emulator.daemon.streams import Stream
from emulator.remote import RemoteUnavailable, require_quic
from emulator.status import NtStatus

if TYPE_CHECKING:
    from emulator.daemon.roles import Identity
    from emulator.daemon.session import Session

# A burst of many clients; the kernel keeps it until the task reads it.
SOCKET_BYTES = 4 * 1024 * 1024
# The alert of TLS stands in the low byte of the error code.
CRYPTO_ERROR, PROTOCOL_VIOLATION = 0x100, 0x0A
# So often it is looked for sessions whose certificates have come to their end.
EXPIRY_SECONDS = 5.0


class QuicUnusable(Exception):
    """Clients over UDP cannot be served; the text says why and what to do."""


class QuicListener:
    """The daemon's side of every connection over UDP."""

    def __init__(self, settings: QuicConfig, outbox_bytes: int) -> None:
        """Raises QuicUnusable."""
        assert settings.port is not None
        assert settings.keys is not None, "the configuration has been checked"
        try:
            require_quic()
        except RemoteUnavailable as error:
            raise QuicUnusable(f"[listen.quic]: {error}") from None
        from emulator.daemon.quic_table import ConnectionTable
        from emulator.remote.engine import daemon_configuration
        from emulator.remote.keyring import Keyring, KeysUnusable
        from emulator.remote.packet_socket import PacketSocket

        self._settings = settings
        self._outbox_bytes = outbox_bytes
        self._log = logger()
        try:
            keyring = Keyring(settings.keys)
            own = keyring.daemon()
            self.admission = Admission(keyring)
        except (KeysUnreadable, KeysUnusable, ValueError) as error:
            raise QuicUnusable(f"[listen.quic] keys: {error}") from None
        configuration = daemon_configuration(
            own.certificate, own.key, idle_seconds=settings.idle_seconds, packet_bytes=settings.packet_bytes
        )
        self._packets = PacketSocket(_family(settings.host), SOCKET_BYTES)
        try:
            self._packets.socket.bind((settings.host, settings.port))
        except OSError as error:
            self._packets.close()
            text = f"[listen.quic]: cannot use UDP port {settings.port} of {settings.host}: {error.strerror}"
            raise QuicUnusable(f"{text}; choose another port") from None
        self.table = ConnectionTable(settings, configuration, 0.0)
        self._serve: Callable[[Stream], Awaitable[None]] | None = None
        self._nursery: trio.Nursery | None = None
        self._alarm = trio.CancelScope()
        self._timers = Timers()

    @property
    def place(self) -> str:
        """Where clients find it."""
        host, port, *_ = self._packets.socket.getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl machines`` and the daemon's description show of it."""
        clients = self.table.clients()
        return {"quic": self.place, "quic_clients": len(clients), "quic_handshakes": self.table.handshakes} | {
            f"quic_{name}": count for name, count in self.table.counts.items()
        }

    # ---- life

    async def run(self, serve: Callable[[Stream], Awaitable[None]]) -> None:
        """Serve clients, each session in a task of its own, until cancelled."""
        self._serve = serve
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._end_expired)
                while True:
                    with trio.CancelScope() as self._alarm:
                        self._alarm.deadline = self._next_deadline()
                        await trio.lowlevel.wait_readable(self._packets.socket)
                    self._turn()
                    # A socket that is always readable must not keep the sessions from their turn.
                    await trio.lowlevel.checkpoint()
        finally:
            self._nursery = None
            self.close()

    async def _end_expired(self) -> None:
        """A certificate lets its client in for as long as it is good, and not for longer."""
        from emulator.remote.certificates import utc_now

        while True:
            await trio.sleep(EXPIRY_SECONDS)
            for client in self.table.clients():
                if client.expires is not None and client.expires <= utc_now() and not client.engine.is_over:
                    text = "the certificate has expired; have a new one made with: vmbusctl keys add"
                    client.engine.close(error_code=CRYPTO_ERROR + EXPIRED, reason_phrase=text)
                    self._log.info("quic.expired", source=client.source)
                    self._end_stream(client)
                    self._transmit(client)

    def stop_accepting(self) -> None:
        """No new clients; those that are there are served until their sessions end."""
        self.table.is_accepting = False

    def close(self) -> None:
        """Say goodbye to whoever is still there, and close the socket."""
        if self._packets.socket.fileno() == -1:
            return
        for client in self.table.clients():
            client.engine.close(reason_phrase=client.stream.farewell if client.stream else "the daemon is stopping")
            self._transmit(client)
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._packets.socket)
        self._packets.close()

    def reload_keys(self, sessions: Iterable[Session]) -> tuple[int, int]:
        """Read the register anew, and end the sessions of whoever may not do what he could any more.

        How many keys are let in, and how many sessions this ended. Raises KeysUnreadable; then all stays as it was.
        """
        self.admission.reload()
        ended = sum(self._judge(session) for session in list(sessions))
        self._log.info("quic.keys_reloaded", keys=self.admission.admitted, ended=ended)
        return self.admission.admitted, ended

    def _judge(self, session: Session) -> bool:
        """Whether a session had to be ended; it knows its roles anew."""
        stream = session.stream
        if not isinstance(stream, QuicStream):
            return False
        try:
            identity = self.admission.identity(stream.fingerprint)
        except NotAdmitted as refusal:
            session.end(NtStatus.ACCESS_DENIED, str(refusal))
            return True
        before, stream.identity = stream.identity, identity
        session.identity = identity
        if not _has_lost(before, identity):
            return False
        session.end(NtStatus.ACCESS_DENIED, f"{identity} may do less from now on; connect again for what is left")
        return True

    # ---- turns

    def _turn(self) -> None:
        now = trio.current_time()
        packets, _error = self._packets.receive()
        touched: dict[RemoteClient, None] = {}
        for data, source in packets:
            client = self.table.route(data, source, now)
            if client is not None and self._receive(client, data, source, now):
                touched[client] = None
        if self.table.answers:
            self._packets.send(self.table.answers)
            self.table.answers.clear()
        for client in self._timers.due(now):
            if client.engine.timer is not None:
                client.engine.handle_timer(now)
            touched[client] = None
        for client in self.table.late_handshakes(now):
            self._forget(client)
            touched.pop(client, None)
            self._log.info("quic.handshake_abandoned", source=client.source)
        for client in touched:
            self._look_at(client, now)

    def _receive(self, client: RemoteClient, data: bytes, source: Any, now: float) -> bool:
        try:
            client.engine.receive_datagram(data, source, now)
        except Exception as error:  # noqa: BLE001 -- whatever one client's packet does, the others are served
            self._log.error("quic.connection_failed", source=client.source, exc_info=error)
            self._over(client)
            return False
        client.heard = now
        return True

    def _next_deadline(self) -> float:
        late = self.table.next_late()
        first = self._timers.next()
        return first if late is None else min(first, late)

    def _look_at(self, client: RemoteClient, now: float) -> None:
        """Do what a connection reports, then send what it has to send."""
        if not client.identifiers:
            return
        engine = client.engine
        while (event := engine.next_event()) is not None:
            self._happened(client, event)
            if not client.identifiers:
                return
        stream = client.stream
        if stream is not None:
            if engine.is_over:
                stream.end()
            stream.acknowledged()
            stream.tell_lost()
            stream.close_if_delivered(now)
        keep_alive = self._settings.keep_alive_seconds
        if client.is_authenticated and keep_alive and now >= client.heard + keep_alive and not engine.is_over:
            engine.send_ping(0)
        self._transmit(client)

    def _transmit(self, client: RemoteClient) -> None:
        now = trio.current_time()
        for packets in client.engine.trains_to_send(now):
            self._packets.send(packets)
        self._arm(client, now)

    def _arm(self, client: RemoteClient, now: float) -> None:
        """Have the timer ring no later than this connection needs it; ringing too early costs a look at it."""
        deadline = client.engine.timer
        if deadline is None or not client.identifiers:
            return  # it has not begun, and the bound of its handshake ends it; or it is forgotten
        if not client.engine.is_over:
            if client.stream is not None and client.stream.closing_since is not None:
                deadline = min(deadline, client.stream.closing_since + LINGER_SECONDS)
            if client.is_authenticated and self._settings.keep_alive_seconds:
                deadline = min(deadline, now + self._settings.keep_alive_seconds)
        if self._timers.arm(client, deadline):
            self._alarm.deadline = min(self._alarm.deadline, deadline)

    # ---- what connections report

    def _happened(self, client: RemoteClient, event: Any) -> None:
        from aioquic.quic import events

        match event:
            case events.StreamDataReceived(data=data, end_stream=at_end, stream_id=number):
                self._arrived(client, number, data, at_end)
            case events.DatagramFrameReceived(data=data):
                if client.stream is not None:
                    client.stream.feed_lossy(data)
            case events.HandshakeCompleted():
                self._authenticate(client)
            case events.ConnectionIdIssued(connection_id=identifier):
                self.table.issued(client, identifier)
            case events.ConnectionIdRetired(connection_id=identifier):
                self.table.retired(client, identifier)
            case events.StreamReset() | events.StopSendingReceived():
                client.engine.close(error_code=PROTOCOL_VIOLATION, reason_phrase="the conversation was broken off")
                self._end_stream(client)
            case events.ConnectionTerminated():
                self._over(client)

    def _authenticate(self, client: RemoteClient) -> None:
        try:
            _, client.fingerprint, client.expires = self.admission.admit(client.engine.peer_certificate)
        except NotAdmitted as refusal:
            self._log.warning("quic.refused", source=client.source, reason=str(refusal))
            self.table.counts["refused"] += 1
            client.engine.close(error_code=CRYPTO_ERROR + refusal.alert, reason_phrase=str(refusal))
            return
        client.is_authenticated = True

    def _arrived(self, client: RemoteClient, number: int, data: bytes, at_end: bool) -> None:
        if not client.is_authenticated or client.engine.is_over:
            return
        if number != CONVERSATION:
            client.engine.close(error_code=PROTOCOL_VIOLATION, reason_phrase="there is one stream, the first")
            self._end_stream(client)
            return
        if client.stream is None:
            self._begin_session(client)
        if client.stream is not None:
            client.stream.feed(data, at_end=at_end)

    def _begin_session(self, client: RemoteClient) -> None:
        try:
            # The register may have been read anew since the handshake.
            identity = self.admission.identity(client.fingerprint)
        except NotAdmitted as refusal:
            client.engine.close(error_code=CRYPTO_ERROR + refusal.alert, reason_phrase=str(refusal))
            return
        self.table.authenticated(client)
        client.stream = QuicStream(
            client.engine, lambda: self._transmit(client), self._outbox_bytes, identity, client.fingerprint
        )
        assert self._nursery is not None
        assert self._serve is not None, "packets are only read by the task"
        self._nursery.start_soon(self._serve, client.stream)

    @staticmethod
    def _end_stream(client: RemoteClient) -> None:
        if client.stream is not None:
            client.stream.end()

    def _over(self, client: RemoteClient) -> None:
        self._end_stream(client)
        self._forget(client)

    def _forget(self, client: RemoteClient) -> None:
        self.table.forget(client)
        self._timers.forget(client)
        if client.stream is None:
            client.engine.release()


def _has_lost(before: Identity, now: Identity) -> bool:
    """Whether a role is gone: what was opened with it must not outlive it."""
    return any(not roles <= now.grants.get(machine, frozenset()) for machine, roles in before.grants.items())


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
