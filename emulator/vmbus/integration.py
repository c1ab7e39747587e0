"""Integration components: the messages of heartbeat, shutdown, time and the rest, and how versions are agreed on.

They run on message-mode pipe channels. A packet is the pipe header, a 20-byte component header and a body. The host
asks, the guest answers with the same message, changed. Before anything else the host offers versions of the framework
and of the component's own messages, and the guest picks one of each or says that none suits it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum, IntFlag
from typing import NamedTuple

from emulator.status import Misuse, PeerViolation

PIPE_DATA = 1
MAX_MESSAGE_BYTES = 13312
MAX_OFFERED_VERSIONS = 100  # [L] of a kind, as much as a guest reads

_pipe_header = struct.Struct("<II")
_header = struct.Struct("<HHHHHHIBB2x")
_negotiate = struct.Struct("<HH4x")
_version = struct.Struct("<HH")


class IntegrationError(PeerViolation):
    """The other side sent something that is no integration component message, or answered against the rules."""


class IcType(IntEnum):
    """Message types. Windows: ICMSGTYPE."""

    NEGOTIATE = 0
    HEARTBEAT = 1
    KEY_VALUE = 2
    SHUTDOWN = 3
    TIME_SYNC = 4
    BACKUP = 5
    REMOTE_DESKTOP = 6
    FILE_COPY = 7
    VM_SESSION = 8


class IcStatus(IntEnum):
    """Statuses in the component header."""

    OK = 0
    FAIL = 0x80004005
    NOT_SUPPORTED = 0x80070032
    NO_MORE_ITEMS = 0x80070103
    NOT_FOUND = 0x80041002
    MACHINE_LOCKED = 0x800704F7
    NOT_CONNECTED = 0x8007048F
    INVALID_ARGUMENT = 0x80070057
    EXISTS = 0x80070050
    DISK_FULL = 0x80070070


class IcFlags(IntFlag):
    """Which way a message goes. A request is TRANSACTION | REQUEST, an answer TRANSACTION | RESPONSE."""

    TRANSACTION = 1
    REQUEST = 2
    RESPONSE = 4


REQUEST_FLAGS = IcFlags.TRANSACTION | IcFlags.REQUEST
RESPONSE_FLAGS = IcFlags.TRANSACTION | IcFlags.RESPONSE


class IcVersion(NamedTuple):
    """A version of the framework or of a component's messages."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


NO_VERSION = IcVersion(0, 0)
FRAMEWORK_VERSIONS = (IcVersion(1, 0), IcVersion(3, 0))


@dataclass(frozen=True, slots=True)
class IcMessage:
    """One message. ``status``, ``flags`` and ``message_type`` are raw numbers: what is legal depends on the moment."""

    message_type: int
    body: bytes
    framework_version: IcVersion = NO_VERSION
    message_version: IcVersion = NO_VERSION
    status: int = IcStatus.OK
    transaction_id: int = 0
    flags: int = REQUEST_FLAGS

    def answer(self, body: bytes | None = None, status: int = IcStatus.OK) -> IcMessage:
        """The guest's answer: the same message, as a response, with another body if given."""
        return replace(self, body=self.body if body is None else body, status=status, flags=int(RESPONSE_FLAGS))


def pack_ic_message(message: IcMessage) -> bytes:
    """The payload of the ring packet, pipe header included. Raises Misuse above 13,312 bytes."""
    size = _header.size + len(message.body)
    if size > MAX_MESSAGE_BYTES:
        raise Misuse(f"an integration component message has at most {MAX_MESSAGE_BYTES} bytes, not {size}")
    header = _header.pack(
        *message.framework_version,
        message.message_type,
        *message.message_version,
        len(message.body),
        message.status,
        message.transaction_id,
        message.flags,
    )
    return _pipe_header.pack(PIPE_DATA, size) + header + message.body


def parse_ic_message_untrusted(payload: bytes, trust_size: bool = True) -> IcMessage:
    """The message in a ring packet's payload. Raises IntegrationError.

    The body ends where the header says, or with ``trust_size`` False at the end of the pipe message: some guests give a
    size too small in their answer to a negotiation.
    """
    if len(payload) < _pipe_header.size + _header.size:
        raise IntegrationError(f"an integration component packet has at least 28 bytes, not {len(payload)}")
    kind, size = _pipe_header.unpack_from(payload)
    if kind != PIPE_DATA or not _header.size <= size <= min(len(payload) - _pipe_header.size, MAX_MESSAGE_BYTES):
        raise IntegrationError(f"a pipe header of type {kind} with {size} bytes in a packet of {len(payload)}")
    major, minor, message_type, msg_major, msg_minor, body_bytes, status, transaction_id, flags = _header.unpack_from(
        payload, _pipe_header.size
    )
    start = _pipe_header.size + _header.size
    end = _pipe_header.size + size
    if trust_size:
        if start + body_bytes > end:
            raise IntegrationError(f"a body of {body_bytes} bytes in a message of {size}")
        end = start + body_bytes
    return IcMessage(
        message_type=message_type,
        body=payload[start:end],
        framework_version=IcVersion(major, minor),
        message_version=IcVersion(msg_major, msg_minor),
        status=status,
        transaction_id=transaction_id,
        flags=flags,
    )


def _pack_versions(frameworks: Sequence[IcVersion], messages: Sequence[IcVersion]) -> bytes:
    return _negotiate.pack(len(frameworks), len(messages)) + b"".join(
        _version.pack(*version) for version in (*frameworks, *messages)
    )


def _parse_versions(body: bytes) -> tuple[tuple[IcVersion, ...], tuple[IcVersion, ...]]:
    if len(body) < _negotiate.size:
        raise IntegrationError(f"a negotiation of {len(body)} bytes")
    frameworks, messages = _negotiate.unpack_from(body)
    if max(frameworks, messages) > MAX_OFFERED_VERSIONS:
        raise IntegrationError(f"a negotiation of {frameworks} and {messages} versions")
    end = _negotiate.size + (frameworks + messages) * _version.size
    if len(body) < end:
        raise IntegrationError(f"a negotiation of {frameworks} and {messages} versions in {len(body)} bytes")
    versions = [IcVersion(*pair) for pair in _version.iter_unpack(body[_negotiate.size : end])]
    return tuple(versions[:frameworks]), tuple(versions[frameworks:])


class Negotiated(NamedTuple):
    """What both sides speak from now on."""

    framework: IcVersion
    message: IcVersion


class NegotiationOutcome(Enum):
    """What an arriving message meant to a negotiation."""

    STALE = "stale"
    AGREED = "agreed"
    NO_MATCH = "no match"


class HostNegotiation:
    """The host's half of one negotiation. Send ``request``, feed every answer to ``answered``."""

    def __init__(
        self,
        messages: Sequence[IcVersion],
        frameworks: Sequence[IcVersion] = FRAMEWORK_VERSIONS,
        transaction_id: int = 0,
    ) -> None:
        if not 0 < len(messages) <= MAX_OFFERED_VERSIONS or not 0 < len(frameworks) <= MAX_OFFERED_VERSIONS:
            raise Misuse(f"offer 1 to {MAX_OFFERED_VERSIONS} versions of each kind")
        self._frameworks, self._messages = tuple(frameworks), tuple(messages)
        self._request = IcMessage(IcType.NEGOTIATE, _pack_versions(frameworks, messages), transaction_id=transaction_id)
        self.outcome: NegotiationOutcome | None = None
        self.negotiated: Negotiated | None = None

    def request(self) -> bytes:
        """The packet payload that begins the negotiation."""
        return pack_ic_message(self._request)

    def answered(self, payload: bytes) -> NegotiationOutcome:
        """What an answer means. Raises IntegrationError for one that breaks the rules.

        Answers of another type belong to an earlier conversation and are skipped. Counts are trusted, the size in the
        header is not.
        """
        if self.outcome is not None:
            raise Misuse("this negotiation is over")
        message = parse_ic_message_untrusted(payload, trust_size=False)
        if message.message_type != IcType.NEGOTIATE:
            return NegotiationOutcome.STALE
        check_response(message, self._request.transaction_id)
        frameworks, messages = _parse_versions(message.body)
        if not frameworks or not messages:
            self.outcome = NegotiationOutcome.NO_MATCH
            return self.outcome
        if (len(frameworks), len(messages)) != (1, 1):
            raise IntegrationError(f"a negotiation answered with {len(frameworks)} and {len(messages)} versions")
        if frameworks[0] not in self._frameworks or messages[0] not in self._messages:
            raise IntegrationError(f"framework {frameworks[0]} and messages {messages[0]} were not offered")
        self.negotiated = Negotiated(frameworks[0], messages[0])
        self.outcome = NegotiationOutcome.AGREED
        return self.outcome


def check_response(message: IcMessage, transaction_id: int) -> None:
    """Raise IntegrationError unless this is a response to the request with this id."""
    if message.flags & RESPONSE_FLAGS != RESPONSE_FLAGS:
        raise IntegrationError(f"an answer with flags 0x{message.flags:X}, without the transaction and response bits")
    if message.transaction_id != transaction_id:
        raise IntegrationError(f"an answer to transaction {message.transaction_id}, where {transaction_id} waits")


def answer_negotiation_untrusted(
    request: IcMessage, messages: Sequence[IcVersion], frameworks: Sequence[IcVersion] = FRAMEWORK_VERSIONS
) -> tuple[IcMessage, Negotiated | None]:
    """The guest's half: pick the highest version of each kind both sides know. Raises IntegrationError.

    Returns the answer and what was agreed on, None for no match. The answer is as long as the request.
    """
    if request.message_type != IcType.NEGOTIATE or request.flags & REQUEST_FLAGS != REQUEST_FLAGS:
        raise IntegrationError(f"type {request.message_type}, flags 0x{request.flags:X} is no request to negotiate")
    their_frameworks, their_messages = _parse_versions(request.body)
    framework = max(set(their_frameworks) & set(frameworks), default=None)
    message = max(set(their_messages) & set(messages), default=None)
    if framework is None or message is None:
        body = _pack_versions((), ())
        agreed = None
    else:
        body = _pack_versions((framework,), (message,))
        agreed = Negotiated(framework, message)
    return request.answer(body.ljust(len(request.body), b"\0")), agreed
