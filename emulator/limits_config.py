"""The part of the configuration that bounds things: what clients can make grow, and what each machine lets them have.

``docs/limits.md`` says what happens at each bound.
"""

from __future__ import annotations

from pydantic import Field

from emulator.config_section import Section


class QuotaConfig(Section):
    """What clients together may have of one machine; what is not named only [limits] bound. A reload applies it."""

    # Sessions attached to it.
    sessions: int | None = Field(default=None, ge=1)
    # Of its memory, what one session may hold: pages it allocated, and the rings of channels it opened.
    session_memory_bytes: int | None = Field(default=None, ge=4096)
    # Channels offered on it.
    offers: int | None = Field(default=None, ge=0)
    # Channels open.
    channels: int | None = Field(default=None, ge=0)
    # GPADLs its guests have described; the rings of an open channel are one.
    gpadls: int | None = Field(default=None, ge=0)
    # Transport addresses open on its networks.
    addresses: int | None = Field(default=None, ge=0)
    # Connection endpoints.
    connections: int | None = Field(default=None, ge=0)


class LimitsConfig(Section):
    """Bounds on everything a client can make grow."""

    # Machines made while the daemon runs count, too. Each takes a descriptor, and address space for its memory.
    machines: int = Field(default=4096, ge=1)
    # One process each; a thousand simulated machines with a few programs each stay below it.
    sessions: int = Field(default=4096, ge=1)
    # A request waits for its answer here; far above what the windows of a busy client allow.
    outstanding_requests: int = Field(default=8192, ge=16)
    # A client that reads its socket holds a few KiB here; this much means it has stopped reading.
    outbox_bytes: int = Field(default=16 * 1024 * 1024, ge=2 * 1024 * 1024)
    channels_per_session: int = Field(default=1024, ge=1)
    offers_per_machine: int = Field(default=2047, ge=1, le=2047)
    waiting_opens_per_machine: int = Field(default=1024, ge=1)
    addresses_per_session: int = Field(default=1024, ge=1)
    connections_per_session: int = Field(default=1024, ge=1)
    # Sends on their way on one connection, and bytes of them: a few of the longest.
    connection_window_sends: int = Field(default=64, ge=1)
    connection_window_bytes: int = Field(default=1024 * 1024, ge=1)
    # Answers to receives on connections that a client has not read. One that reads has none here, however many
    # connections bring it data at once.
    held_receive_bytes: int = Field(default=64 * 1024 * 1024, ge=1024 * 1024)
    # Delivered and not yet completed packets of one channel end; bounds the table of transactions.
    outstanding_packets: int = Field(default=4096, ge=1)
    # Packets a client may have on their way into one channel; bytes follow from the size of its ring.
    window_packets: int = Field(default=256, ge=1)
    # Data pages of a ring where the guest names none: 64 KiB each way.
    default_ring_pages: int = Field(default=16, ge=1)
    # One GPADL range holds 8,190 pages for both rings together, control pages included.
    largest_ring_pages: int = Field(default=4094, ge=1, le=4094)
    # Datagrams of one address that wait because its client has granted no window.
    datagram_backlog_bytes: int = Field(default=256 * 1024, ge=65536)
    datagram_window_packets: int = Field(default=64, ge=1)
    # A client's event handler that has not answered by then has not accepted.
    handler_seconds: float = Field(default=5.0, gt=0)
    # Calls of one client's handlers that wait for their answer; each address object and connection has one at most.
    outstanding_handler_calls: int = Field(default=1024, ge=1)
    # A filter that has not answered by then is removed, and what it holds passes on.
    filter_seconds: float = Field(default=5.0, gt=0)
    # Requests one filter is asked about at once: with 64 KiB of data each they stay below the outbox.
    filter_questions: int = Field(default=128, ge=1)
    # Datagrams and events that wait because filters are slow; the newest is dropped beyond that.
    filter_backlog: int = Field(default=256, ge=1)
    # Each request passes them all; deep stacks of filters were never good for anything.
    filters_per_network: int = Field(default=8, ge=1)
    # A client that has not said hello, or stopped in the middle of a frame, is gone or hostile by then.
    hello_seconds: float = Field(default=10.0, gt=0)
    frame_seconds: float = Field(default=10.0, gt=0)
    # A state callback of a driver channel that has not returned by then is taken to have (Opened: to have failed).
    callback_seconds: float = Field(default=5.0, gt=0)
    # What one client may say in a second; by default as much as it likes. Over it nothing is refused and nobody ended:
    # the client's socket is read later, and the client's own writes wait.
    frames_per_second: float | None = Field(default=None, ge=1_000, allow_inf_nan=False)
    bytes_per_second: float | None = Field(default=None, ge=65_536, allow_inf_nan=False)
    # After SIGTERM, what is on its way gets this long to arrive before the clients are told goodbye.
    drain_seconds: float = Field(default=5.0, ge=0)
