"""Integration components: the header, vector V18, and negotiation (checklist item 40)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.status import Misuse
from emulator.vmbus.integration import (
    HostNegotiation,
    IcMessage,
    IcStatus,
    IcType,
    IcVersion,
    IntegrationError,
    NegotiationOutcome,
    answer_negotiation_untrusted,
    pack_ic_message,
    parse_ic_message_untrusted,
)

V1, V3, V31 = IcVersion(1, 0), IcVersion(3, 0), IcVersion(3, 1)
V18 = "010000002c" + "00" * 13 + "18000000000000030000020002000000000001000000030000000100000003000000"


def reply(messages: tuple[IcVersion, ...] = (V1, V3)) -> bytes:
    """What a guest that knows these message versions answers to the standard request."""
    request = parse_ic_message_untrusted(HostNegotiation((V1, V3)).request())
    return pack_ic_message(answer_negotiation_untrusted(request, messages)[0])


def test_vector_v18_packs_to_its_bytes() -> None:
    assert HostNegotiation((V1, V3)).request().hex() == V18


def test_vector_v18_parses_to_its_message() -> None:
    message = parse_ic_message_untrusted(bytes.fromhex(V18))
    assert (message.message_type, message.flags, message.transaction_id, message.status) == (0, 3, 0, 0)
    assert message.body.hex() == "0200020000000000" + "01000000" + "03000000" + "01000000" + "03000000"


def test_item_40_the_guest_picks_the_highest_common_pair() -> None:
    negotiation = HostNegotiation((V1, V3, V31))
    request = parse_ic_message_untrusted(negotiation.request())
    answer, agreed = answer_negotiation_untrusted(request, (V1, V3, IcVersion(4, 0)))
    assert agreed == (V3, V3)
    assert answer.flags == 5
    assert answer.body == bytes.fromhex("0100010000000000" + "03000000" + "03000000" + "00" * 12)
    assert negotiation.answered(pack_ic_message(answer)) is NegotiationOutcome.AGREED
    assert negotiation.negotiated == (V3, V3)


def test_item_40_no_match_is_two_zero_counts() -> None:
    negotiation = HostNegotiation((V1, V3))
    assert negotiation.answered(reply((V31,))) is NegotiationOutcome.NO_MATCH
    assert negotiation.negotiated is None
    assert reply((V31,))[28:36] == bytes(8)


def test_item_40_stale_answers_are_skipped() -> None:
    negotiation = HostNegotiation((V1, V3))
    stale = pack_ic_message(IcMessage(IcType.HEARTBEAT, bytes(16), flags=5))
    assert negotiation.answered(stale) is NegotiationOutcome.STALE
    assert negotiation.answered(stale) is NegotiationOutcome.STALE
    assert negotiation.answered(reply()) is NegotiationOutcome.AGREED


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 4, 6])
def test_item_40_an_answer_without_transaction_and_response_bits_is_an_error(flags: int) -> None:
    image = bytearray(reply())
    image[8 + 17] = flags
    with pytest.raises(IntegrationError, match="flags"):
        HostNegotiation((V1, V3)).answered(bytes(image))


def test_an_answer_to_another_transaction_is_an_error() -> None:
    with pytest.raises(IntegrationError, match="transaction"):
        HostNegotiation((V1, V3), transaction_id=7).answered(reply())


def test_counts_are_trusted_and_the_size_in_the_header_is_not() -> None:
    image = bytearray(reply())
    image[8 + 10 : 8 + 12] = b"\x04\x00"
    assert HostNegotiation((V1, V3)).answered(bytes(image)) is NegotiationOutcome.AGREED


def answer_with(body: str) -> bytes:
    return pack_ic_message(IcMessage(IcType.NEGOTIATE, bytes.fromhex(body), flags=5))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "01000100",
        "0100010000000000",
        "010001000000000003000000",
        "0200010000000000" + "01000000" * 3,
        "0100010000000000" + "0900000001000000",
        "0100010000000000" + "0100000009000000",
        "6500010000000000" + "01000000" * 102,
    ],
)
def test_answers_that_choose_nothing_offered_are_errors(body: str) -> None:
    with pytest.raises(IntegrationError):
        HostNegotiation((V1, V3)).answered(answer_with(body))


def test_a_negotiation_is_answered_once() -> None:
    negotiation = HostNegotiation((V1, V3))
    negotiation.answered(reply())
    with pytest.raises(Misuse, match="over"):
        negotiation.answered(reply())


@pytest.mark.parametrize("versions", [(), (V1,) * 101])
def test_too_few_or_too_many_versions_are_misuse(versions: tuple[IcVersion, ...]) -> None:
    with pytest.raises(Misuse):
        HostNegotiation(versions)
    with pytest.raises(Misuse):
        HostNegotiation((V1,), versions)


@pytest.mark.parametrize("change", [{"message_type": 1}, {"flags": 1}, {"flags": 5}, {"body": b""}])
def test_the_guest_answers_only_requests_to_negotiate(change: dict[str, object]) -> None:
    request = parse_ic_message_untrusted(bytes.fromhex(V18))
    with pytest.raises(IntegrationError):
        answer_negotiation_untrusted(replace(request, **change), (V1,))  # type: ignore[arg-type]  # by name


def test_an_answer_is_the_message_as_a_response() -> None:
    request = IcMessage(IcType.HEARTBEAT, b"1234", V3, V1, transaction_id=9)
    assert request.answer() == IcMessage(IcType.HEARTBEAT, b"1234", V3, V1, 0, 9, 5)
    assert request.answer(b"56", IcStatus.FAIL) == IcMessage(IcType.HEARTBEAT, b"56", V3, V1, 0x80004005, 9, 5)


def test_the_largest_message_has_13312_bytes() -> None:
    largest = IcMessage(IcType.FILE_COPY, bytes(13312 - 20))
    assert parse_ic_message_untrusted(pack_ic_message(largest)) == largest
    with pytest.raises(Misuse, match="13312"):
        pack_ic_message(IcMessage(IcType.FILE_COPY, bytes(13312 - 19)))


BAD = {
    "short": bytes(27),
    "not data": bytes.fromhex(V18).replace(b"\x01", b"\x02", 1),
    "pipe size beyond the packet": bytes.fromhex(V18)[:-1],
    "pipe size below the header": b"\x01\0\0\0\x13\0\0\0" + bytes(44),
    "body beyond the message": b"\x01\0\0\0\x14\0\0\0" + bytes(10) + b"\x01" + bytes(33),
}


@pytest.mark.parametrize("name", BAD)
def test_packets_that_are_no_message_are_errors(name: str) -> None:
    with pytest.raises(IntegrationError):
        parse_ic_message_untrusted(BAD[name])


@given(
    st.integers(0, 0xFFFF),
    st.binary(max_size=300),
    st.tuples(*[st.integers(0, 0xFFFF)] * 4),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=16),
)
def test_every_message_survives_padding_to_ring_units(
    kind: int, body: bytes, versions: tuple[int, ...], status: int, transaction: int, flags: int, padding: bytes
) -> None:
    message = IcMessage(kind, body, IcVersion(*versions[:2]), IcVersion(*versions[2:]), status, transaction, flags)
    assert parse_ic_message_untrusted(pack_ic_message(message) + padding) == message


@given(st.binary(max_size=120))
def test_hostile_packets_parse_or_raise_the_typed_error(payload: bytes) -> None:
    for image in (payload, bytes.fromhex("01000000") + payload, pack_ic_message(IcMessage(0, payload, flags=5))):
        try:
            outcome = HostNegotiation((V1, V3)).answered(image)
        except IntegrationError:
            continue
        assert outcome in NegotiationOutcome
