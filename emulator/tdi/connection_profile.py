"""Every choice the TDI documents leave to a provider of connections, as named settings with the rule each belongs to.

``TCP_CONNECTIONS`` is for real TCP sockets, ``SEGMENT_CONNECTIONS`` for a virtual segment; both are the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from emulator.choice import choice
from emulator.status import Misuse, NtStatus
from emulator.tdi.constants import ServiceFlags


class ConnectionMode(Enum):
    """Whether a connection keeps the borders between sends (C22, C27)."""

    STREAM = "stream"
    MESSAGE = "message"


class ReceiveStyle(Enum):
    """When a receive on a stream completes (C27)."""

    AVAILABLE = "available"
    """As soon as there is one byte, as TCP does it."""
    FILL = "fill"
    """When its buffer is full, or the peer has finished."""


@dataclass(frozen=True, slots=True)
class ConnectionProfile:
    """How the connection endpoints of one kind of device behave. Lengths in bytes, times in seconds."""

    mode: ConnectionMode = choice(ConnectionMode.STREAM, "C22, C27", "whether a connection keeps the borders of sends")
    receive_style: ReceiveStyle = choice(ReceiveStyle.AVAILABLE, "C27", "when a receive on a stream completes")
    max_send_bytes: int = choice(262_144, "C25", "bytes of the longest send")
    max_user_data_bytes: int = choice(0, "C10", "bytes of user data with connect, accept and disconnect")
    refuses_zero_length: bool = choice(True, "C25", "an empty send is refused", "it makes an empty record")
    supports_expedited: bool = choice(False, "C21", "an expedited send is refused", "it overtakes normal ones")
    supports_query_accept: bool = choice(
        True, "C14", "a listen may ask to accept later", "a listen with TDI_QUERY_ACCEPT fails"
    )
    supports_send_and_disconnect: bool = choice(
        False, "C24", "SEND_AND_DISCONNECT is refused", "it releases the connection behind the data"
    )
    connect_timeout_seconds: float = choice(20.0, "C7", "seconds a connect without a time-out of its own may take")
    accept_timeout_seconds: float = choice(1.0, "C14", "seconds an offer waits for the client's ACCEPT")
    release_timeout_seconds: float = choice(
        120.0, "C35", "seconds a release without a time-out of its own waits for the peer's"
    )
    stall_timeout_seconds: float = choice(
        20.0, "C9", "seconds data may wait for a segment that is cut before the connection is aborted"
    )
    send_buffer_bytes: int = choice(65_536, "C23", "bytes a non-blocking send may have waiting")
    receive_buffer_bytes: int = choice(65_536, "C29", "bytes kept for a client that does not receive")
    expedited_buffer_bytes: int = choice(4_096, "C21", "bytes of expedited data kept for it")
    max_queued_requests: int = choice(256, "C21", "sends, and receives, that may wait on one connection")
    max_offers: int = choice(64, "C16", "offers that wait while a connect handler has another one")
    lookahead_bytes: int | None = choice(
        None, "C30", "bytes a receive handler is shown at most: all there is", "a number of bytes"
    )
    reindicate_rest: bool = choice(
        True,
        "C30",
        "what a receive handler leaves of a stream is indicated again, if it took anything",
        "it waits for a RECEIVE",
    )
    not_listening_status: NtStatus = choice(
        NtStatus.REMOTE_NOT_LISTENING, "C9", "a connect to where nobody listens; real TCP says CONNECTION_REFUSED"
    )
    unknown_host_status: NtStatus = choice(
        NtStatus.HOST_UNREACHABLE, "C9", "a connect to an address no machine has", "`BAD_NETWORK_PATH`"
    )
    connect_expired_status: NtStatus = choice(NtStatus.IO_TIMEOUT, "C9", "a connect that took too long")
    release_expired_status: NtStatus = choice(NtStatus.IO_TIMEOUT, "C35", "a release that took too long")
    aborted_here_status: NtStatus = choice(
        NtStatus.LOCAL_DISCONNECT, "C32", "requests of a connection its client aborts", "`CONNECTION_ABORTED`"
    )
    aborted_there_status: NtStatus = choice(
        NtStatus.CONNECTION_RESET, "C32", "requests of a connection the peer aborts"
    )
    after_release_status: NtStatus = choice(NtStatus.LOCAL_DISCONNECT, "C33", "a send after the client's own release")
    peer_released_status: NtStatus = choice(
        NtStatus.REMOTE_DISCONNECT, "C38", "a receive when the peer has released and all data were taken"
    )
    stalled_status: NtStatus = choice(NtStatus.CONNECTION_ABORTED, "C9", "requests of a connection that stalled")
    already_associated_status: NtStatus = choice(
        NtStatus.ADDRESS_ALREADY_ASSOCIATED, "C2", "a second ASSOCIATE", "`INVALID_PARAMETER` is seen too"
    )
    no_query_accept_status: NtStatus = choice(
        NtStatus.INVALID_PARAMETER, "C14", "TDI_QUERY_ACCEPT where accepting later is not offered"
    )
    bad_send_status: NtStatus = choice(NtStatus.INVALID_PARAMETER, "C25", "a send too long, empty, or with a bad flag")

    def __post_init__(self) -> None:
        counts = (
            self.max_send_bytes,
            self.send_buffer_bytes,
            self.receive_buffer_bytes,
            self.expedited_buffer_bytes,
            self.max_queued_requests,
            self.max_offers,
        )
        if min(counts) < 1 or self.max_user_data_bytes < 0:
            raise Misuse("the limits of a connection are above 0; only user data may have none")

    @property
    def service_flags(self) -> ServiceFlags:
        """What TDI_PROVIDER_INFO advertises of it."""
        flags = (
            ServiceFlags.CONNECTION_MODE
            | ServiceFlags.ORDERLY_RELEASE
            | ServiceFlags.ERROR_FREE
            | ServiceFlags.INTERNAL_BUFFERING
        )
        for offered, flag in (
            (self.mode is ConnectionMode.MESSAGE, ServiceFlags.MESSAGE_MODE),
            (self.supports_query_accept, ServiceFlags.DELAYED_ACCEPTANCE),
            (self.supports_expedited, ServiceFlags.EXPEDITED_DATA),
            (self.supports_send_and_disconnect, ServiceFlags.SEND_AND_DISCONNECT),
            (self.refuses_zero_length, ServiceFlags.NO_ZERO_LENGTH),
        ):
            if offered:
                flags |= flag
        return flags


TCP_CONNECTIONS = ConnectionProfile()
SEGMENT_CONNECTIONS = ConnectionProfile(
    mode=ConnectionMode.MESSAGE,
    max_send_bytes=65_536,
    max_user_data_bytes=256,
    refuses_zero_length=False,
    supports_expedited=True,
    supports_send_and_disconnect=True,
    connect_timeout_seconds=1.0,
)
"""The documents' connect time-out of a second, records, user data and expedited data: what real TCP cannot show."""
