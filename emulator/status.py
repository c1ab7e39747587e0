"""NTSTATUS values, and the error families everything else raises.

Blame is typed. Whoever catches one of these knows at once whose fault it was and how much has to end:

=================  =============================================================  =======================
family             who is to blame                                                what ends
=================  =============================================================  =======================
``Misuse``         our own caller: a bug in this code base or in a test           the call
``PeerViolation``  the other side of a socket, ring or file broke its rules       the thing it speaks on
``Refused``        nobody: a legal request got a documented refusal (a status)    the request
=================  =============================================================  =======================

"Not now" is never an exception here: calls that can find no room return so.
"""

from __future__ import annotations

from enum import IntEnum


class NtStatus(IntEnum):
    """The NTSTATUS values VMBus, KMCL and TDI documents use. The top two bits are the severity."""

    SUCCESS = 0x00000000
    TIMEOUT = 0x00000102
    PENDING = 0x00000103
    RECEIVE_PARTIAL = 0x4000000F
    RECEIVE_EXPEDITED = 0x40000010
    RECEIVE_PARTIAL_EXPEDITED = 0x40000011
    EVENT_DONE = 0x40000012
    EVENT_PENDING = 0x40000013
    BUFFER_OVERFLOW = 0x80000005
    INVALID_EA_NAME = 0x80000013
    EA_LIST_INCONSISTENT = 0x80000014
    UNSUCCESSFUL = 0xC0000001
    NOT_IMPLEMENTED = 0xC0000002
    INFO_LENGTH_MISMATCH = 0xC0000004
    ACCESS_VIOLATION = 0xC0000005
    INVALID_HANDLE = 0xC0000008
    INVALID_PARAMETER = 0xC000000D
    NO_SUCH_DEVICE = 0xC000000E
    INVALID_DEVICE_REQUEST = 0xC0000010
    MORE_PROCESSING_REQUIRED = 0xC0000016
    NO_MEMORY = 0xC0000017
    ACCESS_DENIED = 0xC0000022
    BUFFER_TOO_SMALL = 0xC0000023
    OBJECT_NAME_NOT_FOUND = 0xC0000034
    OBJECT_NAME_COLLISION = 0xC0000035
    SHARING_VIOLATION = 0xC0000043
    EA_TOO_LARGE = 0xC0000050
    NONEXISTENT_EA_ENTRY = 0xC0000051
    NO_EAS_ON_FILE = 0xC0000052
    DELETE_PENDING = 0xC0000056
    INSUFFICIENT_RESOURCES = 0xC000009A
    DEVICE_NOT_READY = 0xC00000A3
    IO_TIMEOUT = 0xC00000B5
    NOT_SUPPORTED = 0xC00000BB
    REMOTE_NOT_LISTENING = 0xC00000BC
    DUPLICATE_NAME = 0xC00000BD
    BAD_NETWORK_PATH = 0xC00000BE
    DEVICE_DOES_NOT_EXIST = 0xC00000C0
    NETWORK_NAME_DELETED = 0xC00000C9
    INVALID_PARAMETER_1 = 0xC00000EF
    INVALID_PARAMETER_2 = 0xC00000F0
    INVALID_PARAMETER_3 = 0xC00000F1
    INVALID_PARAMETER_4 = 0xC00000F2
    INVALID_PARAMETER_5 = 0xC00000F3
    INVALID_PARAMETER_6 = 0xC00000F4
    INVALID_PARAMETER_7 = 0xC00000F5
    CANCELLED = 0xC0000120
    FILE_CLOSED = 0xC0000128
    LOCAL_DISCONNECT = 0xC000013B
    REMOTE_DISCONNECT = 0xC000013C
    INVALID_CONNECTION = 0xC0000140
    INVALID_ADDRESS = 0xC0000141
    INVALID_DEVICE_STATE = 0xC0000184
    INVALID_BUFFER_SIZE = 0xC0000206
    INVALID_ADDRESS_COMPONENT = 0xC0000207
    INVALID_ADDRESS_WILDCARD = 0xC0000208
    TOO_MANY_ADDRESSES = 0xC0000209
    ADDRESS_ALREADY_EXISTS = 0xC000020A
    ADDRESS_CLOSED = 0xC000020B
    CONNECTION_DISCONNECTED = 0xC000020C
    CONNECTION_RESET = 0xC000020D
    TRANSACTION_TIMED_OUT = 0xC0000210
    DATA_NOT_ACCEPTED = 0xC000021B
    CONNECTION_REFUSED = 0xC0000236
    GRACEFUL_DISCONNECT = 0xC0000237
    ADDRESS_ALREADY_ASSOCIATED = 0xC0000238
    ADDRESS_NOT_ASSOCIATED = 0xC0000239
    CONNECTION_INVALID = 0xC000023A
    CONNECTION_ACTIVE = 0xC000023B
    NETWORK_UNREACHABLE = 0xC000023C
    HOST_UNREACHABLE = 0xC000023D
    PROTOCOL_UNREACHABLE = 0xC000023E
    PORT_UNREACHABLE = 0xC000023F
    REQUEST_ABORTED = 0xC0000240
    CONNECTION_ABORTED = 0xC0000241
    DEVICE_REMOVED = 0xC00002B6

    @property
    def severity(self) -> int:
        """0 success, 1 information, 2 warning, 3 error."""
        return self.value >> 30

    @property
    def is_success(self) -> bool:
        """Windows: NT_SUCCESS. False for warnings, though BUFFER_OVERFLOW did deliver data."""
        return self.severity < 2

    @property
    def is_error(self) -> bool:
        """True for severity 3 only: nothing was delivered."""
        return self.severity == 3

    def __str__(self) -> str:
        return f"STATUS_{self.name} (0x{self.value:08X})"


def describe_status(value: int) -> str:
    """``STATUS_NAME (0x…)`` for a known value, the bare number for any other."""
    try:
        return str(NtStatus(value))
    except ValueError:
        return f"0x{value & 0xFFFFFFFF:08X}"


def known_status(value: int) -> NtStatus:
    """A status from elsewhere: UNSUCCESSFUL for an error nobody here knows, SUCCESS for anything else unknown."""
    try:
        return NtStatus(value)
    except ValueError:
        return NtStatus.UNSUCCESSFUL if value >> 31 else NtStatus.SUCCESS


class EmulatorError(Exception):
    """Root of every error this project raises on purpose."""


class Misuse(EmulatorError):
    """Our own caller broke the contract of a function: a bug on this side, never a peer's doing."""


class PeerViolation(EmulatorError):
    """The peer broke the rules of what it speaks; whatever it spoke on ends, and nothing else."""


class Refused(EmulatorError):
    """A legal request was answered with a status and a sentence that says why and what to do.

    ``rule`` names the numbered rule of the documentation that refused it, such as ``K10``, where there is one.
    """

    def __init__(self, status: NtStatus, message: str, *, rule: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.rule = rule

    @property
    def text(self) -> str:
        """The sentence and its rule, without the status."""
        return f"{self.message} [{self.rule}]" if self.rule else self.message

    def __str__(self) -> str:
        return f"{self.status}: {self.text}"
