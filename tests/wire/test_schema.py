"""The table of methods holds together, its fields check their values, and every legal frame fits the limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.wire import schema
from emulator.wire.codec import (
    FrameLimits,
    Notification,
    Request,
    Response,
    check_result,
    encode_notification,
    encode_request,
    encode_response,
)
from emulator.wire.fields import Binary, Field, FieldError, FieldType, Flag, Maybe, Text, Unsigned, check_fields
from emulator.wire.schema import BY_NAME, METHODS, PACKET_SEND_EXTERNAL_MDL, Direction, Kind, Method
from tests.wire.frames import decode, values_of

# ---- the table


def test_the_numbers_are_unique_and_ascend() -> None:
    numbers = [row.number for row in METHODS]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1


def test_the_names_are_unique_and_find_their_rows() -> None:
    assert len(BY_NAME) == len(METHODS)
    assert all(BY_NAME[row.name] is row for row in METHODS)


def test_every_row_is_in_the_table_under_its_own_name() -> None:
    rows = {name: value for name, value in vars(schema).items() if isinstance(value, Method)}
    assert {row.name for row in rows.values()} == set(BY_NAME)
    assert {name: row.name.replace(".", "_").upper() for name, row in rows.items()} == {name: name for name in rows}


def test_the_daemon_asks_nothing_but_for_a_ping_and_what_a_handler_returns() -> None:
    requests = [row.name for row in METHODS if row.kind is Kind.REQUEST and row.direction is not Direction.TO_DAEMON]
    assert requests == ["ping", "driver.callback", "address.event", "filter.request"]


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_a_row_names_each_argument_and_result_once_and_says_what_it_means(row: Method) -> None:
    assert row.meaning.endswith(".")
    for fields in (row.params, row.result):
        names = [field.name for field in fields]
        assert len(set(names)) == len(names)
        assert all(field.meaning for field in fields)
    assert row.kind is Kind.REQUEST or not row.result


# ---- the largest legal frames


def largest(field: FieldType, character: str) -> Any:
    match field:
        case Unsigned(bits):
            return (1 << bits) - 1
        case Text(most):
            return character * most
        case Binary(most):
            return bytes(most)
        case Maybe(inner):
            return largest(inner, character)
    return True


@pytest.mark.parametrize(
    "row", [row for row in METHODS if row.direction is not Direction.TO_CLIENT], ids=lambda row: row.name
)
def test_the_largest_legal_frame_of_a_client_fits_the_limits(row: Method) -> None:
    args = tuple(largest(field.type, "\U0001f600") for field in row.params)
    if row.kind is Kind.REQUEST:
        frame = encode_request(0xFFFFFFFF, row, *args)
        assert decode(frame) == [Request(0xFFFFFFFF, row, args)]
    else:
        frame = encode_notification(row, *args)
        assert decode(frame) == [Notification(row, args)]
    assert len(frame) <= FrameLimits().frame_bytes


@pytest.mark.parametrize("row", [row for row in METHODS if row.kind is Kind.REQUEST], ids=lambda row: row.name)
def test_the_largest_legal_result_fits_the_limits(row: Method) -> None:
    result = tuple(largest(field.type, "a") for field in row.result)  # documents are JSON in ASCII
    [response] = decode(encode_response(0xFFFFFFFF, *result), Direction.TO_CLIENT)
    assert isinstance(response, Response)
    assert check_result(row, response) == result


def test_the_frame_limit_has_room_for_the_largest_ring_packet_and_its_page_list() -> None:
    ring_packet = bytes(65535 * 8)
    pages_of_one_packet = 65536
    chain = bytes(512 * 16 + pages_of_one_packet * 8)
    frame = encode_request(0xFFFFFFFF, PACKET_SEND_EXTERNAL_MDL, 1, 1, ring_packet, chain, 1 << 63, 1 << 63)
    [message] = decode(frame)
    assert isinstance(message, Request)
    assert message.args[2:4] == (ring_packet, chain)


def test_the_limit_of_elements_has_room_for_the_widest_row() -> None:
    widest = max(max(len(row.params), len(row.result)) for row in METHODS)
    assert widest == 12
    assert FrameLimits().elements >= widest + 5
    assert FrameLimits().depth >= 2


# ---- the fields

GOOD: list[tuple[FieldType, object]] = [
    *((Unsigned(bits), value) for bits in (8, 16, 32, 64) for value in (0, 1, (1 << bits) - 1)),
    (Flag(), True),
    (Flag(), False),
    (Text(3), ""),
    (Text(3), "\U0001f600" * 3),
    (Binary(3), b""),
    (Binary(3), b"abc"),
    (Binary(3, exactly=True), b"abc"),
    (Binary(16, unit=8), b""),
    (Binary(16, unit=8), bytes(8)),
    (Binary(16, unit=8), bytes(16)),
    (Maybe(Text(3)), None),
    (Maybe(Text(3)), "abc"),
    (Maybe(Binary(2, exactly=True)), b"ab"),
]

ODD: tuple[object, ...] = (None, 1.0, [], {})
BAD: list[tuple[FieldType, object, str]] = [
    *((Unsigned(bits), 1 << bits, f"must be an unsigned {bits}-bit integer") for bits in (8, 16, 32, 64)),
    *((Unsigned(32), value, "must be an unsigned") for value in (*ODD, -1, True, False, "1", b"1")),
    *((Flag(), value, "must be true or false, not ") for value in (*ODD, 0, 1, "true", b"")),
    *((Text(3), value, "must be text, not ") for value in (*ODD, b"abc", 1, True)),
    (Text(3), "abcd", "must be at most 3 characters, not 4"),
    *((Binary(3), value, "must be binary, not ") for value in (*ODD, "abc", 1, True, bytearray(b"abc"))),
    (Binary(3), b"abcd", "must be at most 3 bytes, not 4"),
    (Binary(3, exactly=True), b"ab", "must be exactly 3 bytes, not 2"),
    (Binary(3, exactly=True), b"abcd", "must be exactly 3 bytes, not 4"),
    (Binary(16, unit=8), bytes(9), "must be a multiple of 8 bytes, not 9"),
    (Binary(16, unit=8), bytes(24), "must be at most 16 bytes, not 24"),
    (Maybe(Text(3)), 1, "must be text, not 1"),
    (Maybe(Text(3)), "abcd", "must be at most 3 characters"),
]


@pytest.mark.parametrize(("field", "value"), GOOD, ids=repr)
def test_a_field_takes_every_value_up_to_its_limits(field: FieldType, value: object) -> None:
    assert field.check(value) is value


@pytest.mark.parametrize(("field", "value", "sentence"), BAD, ids=repr)
def test_a_field_says_what_it_wanted_and_what_came(field: FieldType, value: object, sentence: str) -> None:
    with pytest.raises(FieldError) as refused:
        field.check(value)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (["x" * 1_000_000], "an array of 1"),
        ({"a": {}, "b": {}}, "a map of 2"),
        ("x" * 1_000_000, "'" + "x" * 24 + "'…"),
        (b"\x00" * 1_000_000, "b'" + r"\x00" * 24 + "'…"),
        (-(1 << 63), "-9223372036854775808"),
    ],
)
def test_a_hostile_value_is_shown_short(value: object, shown: str) -> None:
    with pytest.raises(FieldError) as refused:
        Unsigned(8).check(value)
    assert str(refused.value) == f"must be an unsigned 8-bit integer, not {shown}"


@pytest.mark.parametrize(
    ("field", "described"),
    [
        (Unsigned(64), "u64"),
        (Flag(), "bool"),
        (Text(64), "str ≤ 64"),
        (Binary(100), "bin ≤ 100"),
        (Binary(16, exactly=True), "bin = 16"),
        (Binary(64, unit=8), "bin ≤ 64, multiple of 8"),
        (Maybe(Text(64)), "str ≤ 64 or nil"),
    ],
)
def test_a_field_is_described_as_the_document_has_it(field: FieldType, described: str) -> None:
    assert field.describe() == described


PAIR = (Field("one", Unsigned(8), "the first"), Field("two", Text(3), "the second"))


@given(values=st.tuples(values_of(Unsigned(8)), values_of(Text(3))))
def test_an_array_of_good_values_comes_back_as_a_tuple(values: tuple[Any, ...]) -> None:
    assert check_fields(PAIR, list(values), "a pair") == values


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([], "a pair has 0 values where it takes 2 (one, two)"),
        ([1], "a pair has 1 values where it takes 2 (one, two)"),
        ([1, "a", 1], "a pair has 3 values where it takes 2 (one, two)"),
        ((1, "a"), "a pair must be an array, not (1, 'a')"),
        (None, "a pair must be an array, not None"),
        ("ab", "a pair must be an array, not 'ab'"),
        ({1: 2}, "a pair must be an array, not a map of 1"),
        ([256, "a"], "a pair: 'one' must be an unsigned 8-bit integer, not 256"),
        ([1, 1], "a pair: 'two' must be text, not 1"),
    ],
)
def test_wrong_values_are_refused_by_name(values: object, sentence: str) -> None:
    with pytest.raises(FieldError) as refused:
        check_fields(PAIR, values, "a pair")
    assert str(refused.value) == sentence


def test_a_method_without_arguments_says_that_it_takes_nothing() -> None:
    assert check_fields((), [], "ping") == ()
    with pytest.raises(FieldError, match=r"ping has 1 values where it takes 0 \(nothing\)"):
        check_fields((), [1], "ping")
