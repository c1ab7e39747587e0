"""Statuses have the values and severities Windows gives them, and errors say what they carry."""

from __future__ import annotations

import pytest

from emulator.status import EmulatorError, Misuse, NtStatus, PeerViolation, Refused, describe_status

# Written by hand, not taken from the enumeration.
VALUES = {
    "SUCCESS": 0x00000000,
    "TIMEOUT": 0x00000102,
    "PENDING": 0x00000103,
    "EVENT_DONE": 0x40000012,
    "BUFFER_OVERFLOW": 0x80000005,
    "UNSUCCESSFUL": 0xC0000001,
    "NOT_IMPLEMENTED": 0xC0000002,
    "INVALID_HANDLE": 0xC0000008,
    "INVALID_PARAMETER": 0xC000000D,
    "INVALID_DEVICE_REQUEST": 0xC0000010,
    "MORE_PROCESSING_REQUIRED": 0xC0000016,
    "ACCESS_DENIED": 0xC0000022,
    "BUFFER_TOO_SMALL": 0xC0000023,
    "OBJECT_NAME_NOT_FOUND": 0xC0000034,
    "SHARING_VIOLATION": 0xC0000043,
    "INSUFFICIENT_RESOURCES": 0xC000009A,
    "DEVICE_NOT_READY": 0xC00000A3,
    "IO_TIMEOUT": 0xC00000B5,
    "NOT_SUPPORTED": 0xC00000BB,
    "CANCELLED": 0xC0000120,
    "FILE_CLOSED": 0xC0000128,
    "INVALID_ADDRESS": 0xC0000141,
    "INVALID_DEVICE_STATE": 0xC0000184,
    "INVALID_BUFFER_SIZE": 0xC0000206,
    "ADDRESS_ALREADY_EXISTS": 0xC000020A,
    "ADDRESS_CLOSED": 0xC000020B,
    "HOST_UNREACHABLE": 0xC000023D,
    "PORT_UNREACHABLE": 0xC000023F,
    "DEVICE_REMOVED": 0xC00002B6,
}


@pytest.mark.parametrize(("name", "value"), VALUES.items())
def test_a_status_has_the_value_windows_gives_it(name: str, value: int) -> None:
    assert int(NtStatus[name]) == value
    assert NtStatus(value).name == name


def test_every_status_is_an_unsigned_32_bit_number_of_its_own() -> None:
    assert all(0 <= status <= 0xFFFFFFFF for status in NtStatus)
    assert len(NtStatus.__members__) == len(list(NtStatus)), "two names for one value"


@pytest.mark.parametrize(
    ("status", "severity", "is_success", "is_error"),
    [
        (NtStatus.SUCCESS, 0, True, False),
        (NtStatus.TIMEOUT, 0, True, False),
        (NtStatus.PENDING, 0, True, False),
        (NtStatus.RECEIVE_PARTIAL, 1, True, False),
        (NtStatus.EVENT_PENDING, 1, True, False),
        (NtStatus.BUFFER_OVERFLOW, 2, False, False),
        (NtStatus.EA_LIST_INCONSISTENT, 2, False, False),
        (NtStatus.UNSUCCESSFUL, 3, False, True),
        (NtStatus.BUFFER_TOO_SMALL, 3, False, True),
        (NtStatus.CANCELLED, 3, False, True),
    ],
)
def test_the_top_two_bits_are_the_severity(status: NtStatus, severity: int, is_success: bool, is_error: bool) -> None:
    assert (status.severity, status.is_success, status.is_error) == (severity, is_success, is_error)


def test_buffer_overflow_is_a_warning_and_pending_a_success() -> None:
    assert not NtStatus.BUFFER_OVERFLOW.is_success
    assert not NtStatus.BUFFER_OVERFLOW.is_error, "data was delivered"
    assert NtStatus.PENDING.is_success


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "STATUS_SUCCESS (0x00000000)"),
        (0x103, "STATUS_PENDING (0x00000103)"),
        (0xC000000D, "STATUS_INVALID_PARAMETER (0xC000000D)"),
        (0xC0FFEE00, "0xC0FFEE00"),
        (0x7, "0x00000007"),
        (-1, "0xFFFFFFFF"),
    ],
)
def test_a_status_is_described_by_name_where_it_has_one(value: int, text: str) -> None:
    assert describe_status(value) == text


def test_a_status_prints_as_it_is_described() -> None:
    assert str(NtStatus.CANCELLED) == f"{NtStatus.CANCELLED}" == "STATUS_CANCELLED (0xC0000120)"


def test_a_refusal_carries_status_sentence_and_rule() -> None:
    plain = Refused(NtStatus.ACCESS_DENIED, "not for you")
    ruled = Refused(NtStatus.INVALID_PARAMETER, "too long", rule="K10")
    assert (plain.status, plain.message, plain.rule) == (NtStatus.ACCESS_DENIED, "not for you", None)
    assert str(plain) == "STATUS_ACCESS_DENIED (0xC0000022): not for you"
    assert (ruled.message, ruled.rule) == ("too long", "K10")
    assert str(ruled) == "STATUS_INVALID_PARAMETER (0xC000000D): too long [K10]"


def test_the_families_share_a_root_and_nothing_else() -> None:
    families = (Misuse, PeerViolation, Refused)
    assert all(issubclass(family, EmulatorError) for family in families)
    assert [(one, other) for one in families for other in families if one is not other and issubclass(one, other)] == []
