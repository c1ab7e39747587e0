"""The send rules K1 to K32, each by its number, and the worked cases of offset, length and FORCE."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import GpaRange, Mdl, MdlFlags, pages_spanned
from emulator.status import NtStatus, Refused
from emulator.vmbus.profile import EndpointLimits, KmclProfile, Side
from emulator.vmbus.send_rules import SendFlags, SendRules

WAIT, FORCE, PAGED = SendFlags.WAIT_FOR_COMPLETION, SendFlags.FORCE_MDL_LENGTH, SendFlags.PAGED_BUFFER
P3, P4, P5, P6, P7 = (NtStatus[f"INVALID_PARAMETER_{number}"] for number in (3, 4, 5, 6, 7))

B = Mdl(0, 0x800, (20,))
A = Mdl(0xF80, 0x100, (10, 11), next=B)


def rules(
    profile: KmclProfile | None = None,
    limits: EndpointLimits | None = None,
    *,
    side: Side = Side.GUEST,
    is_pipe: bool = False,
    largest_cost: int = 1 << 20,
) -> SendRules:
    return SendRules(
        side,
        profile or KmclProfile(),
        limits or EndpointLimits(),
        is_pipe=is_pipe,
        page_count=1 << 20,
        largest_cost=largest_cost,
    )


def refused(status: NtStatus, rule: str, call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert (caught.value.status, caught.value.rule) == (status, rule)
    return caught.value.message


@pytest.mark.parametrize(
    ("offset", "length", "force", "expected"),
    [
        (0, 0, False, [(0x100, 0xF80, (10, 11)), (0x800, 0, (20,))]),
        (0x80, 0, False, [(0x80, 0, (11,)), (0x800, 0, (20,))]),
        (0x7F, 1, False, [(1, 0xFFF, (10,))]),
        (0x80, 0x80, False, [(0x80, 0, (11,))]),
        (0x80, 0x81, False, [(0x80, 0, (11,)), (1, 0, (20,))]),
        (0x100, 0x10, False, [(0x10, 0, (20,))]),
        (0x8FF, 0, False, [(1, 0x7FF, (20,))]),
        (0x900, 0, False, (P5, "K14")),
        (0x900, 1, False, (P5, "K14")),
        (0x901, 0, False, (P5, "K14")),
        (0x100, 0x801, False, (P6, "K16")),
        (0, 0x100, True, [(0x100, 0xF80, (10, 11))]),
        (0, 0x1080, True, [(0x1080, 0xF80, (10, 11))]),
        (0, 0x1081, True, (P6, "K19")),
        (0x80, 0x1000, True, [(0x1000, 0, (11,))]),
        (0x80, 0x1001, True, (P6, "K19")),
        (0, 0, True, (P6, "K22")),
        (0x100, 0x10, True, (P5, "K23")),
    ],
)
def test_worked_cases(
    offset: int,
    length: int,
    force: bool,
    expected: list[tuple[int, int, tuple[int, ...]]] | tuple[NtStatus, str],
) -> None:
    flags = WAIT | FORCE if force else WAIT
    if isinstance(expected, tuple):
        refused(*expected, rules().external_mdl, 0, A, offset, length, flags)
        refused(P7, "K10", rules().external_mdl, 0, A, offset, length, flags & ~WAIT)
    else:
        approved = rules().external_mdl(0, A, offset, length, flags)
        assert list(approved.ranges) == expected
        assert approved.completion_requested


@pytest.mark.parametrize("flags", [0x8, 0x9, 0x80000001, -1])
def test_k1_unknown_flags(flags: int) -> None:
    refused(P5, "K1", rules().packet, 0, None, flags)
    refused(P7, "K1", rules().external_mdl, 0, A, 0, 0, flags)
    assert "outside 0x7" in refused(P6, "K1", rules().external_pfns, 0, [1], flags)


def test_k2_completion_is_requested_iff_asked_for() -> None:
    assert rules().packet(8, None, WAIT).completion_requested
    assert not rules().packet(8, None, PAGED).completion_requested


def test_k3_buffer_above_the_maximum_packet_size() -> None:
    small = rules(limits=EndpointLimits(max_packet_bytes=100))
    assert small.packet(100, None, 0).cost == 16 + 104 + 8
    assert small.packet(0, None, 0).cost == 24
    assert "at most 100 bytes, not 101" in refused(P3, "K3", small.packet, 101, None, 0)
    refused(P3, "K3", small.external_mdl, 101, A, 0, 0, WAIT)
    refused(P3, "K3", small.external_pfns, 101, [1], WAIT)
    refused(P3, "K3", small.packet, 101, A, WAIT)


def test_k5_pipe_channels_carry_no_external_data() -> None:
    pipe = rules(is_pipe=True)
    refused(NtStatus.NOT_SUPPORTED, "K5", pipe.packet, 0, A, WAIT)
    refused(NtStatus.NOT_SUPPORTED, "K5", pipe.external_mdl, 0, A, 0, 0, WAIT)
    refused(NtStatus.NOT_SUPPORTED, "K5", pipe.external_pfns, 0, [1], WAIT)
    assert pipe.packet(5, None, 0).cost == 16 + 16 + 8
    other = rules(KmclProfile(pipe_external_status=NtStatus.INVALID_DEVICE_REQUEST), is_pipe=True)
    refused(NtStatus.INVALID_DEVICE_REQUEST, "K5", other.packet, 0, A, WAIT)


def test_k6_hosts_send_no_external_data() -> None:
    host = rules(side=Side.HOST)
    refused(NtStatus.NOT_SUPPORTED, "K6", host.packet, 0, A, WAIT)
    refused(NtStatus.NOT_SUPPORTED, "K6", host.external_mdl, 0, A, 0, 0, WAIT)
    refused(NtStatus.NOT_SUPPORTED, "K6", host.external_pfns, 0, [1], WAIT)
    assert host.packet(5, None, WAIT).ranges == ()


def test_k7_send_with_an_mdl_needs_wait() -> None:
    refused(P5, "K7", rules().packet, 0, A, 0)
    assert rules(KmclProfile(reject_mdl_without_wait=False)).packet(0, A, 0).completion_requested


def test_k8_larger_than_the_ring_can_ever_hold() -> None:
    tight = rules(largest_cost=128)
    assert tight.packet(104, None, 0).cost == 128
    assert "more than 128" in refused(NtStatus.INVALID_PARAMETER, "K8", tight.packet, 105, None, 0)
    refused(NtStatus.INVALID_PARAMETER, "K8", tight.external_pfns, 0, range(20), WAIT)


def test_k9_plain_send_takes_every_mdl_whole() -> None:
    assert list(rules().packet(0, A, WAIT).ranges) == [(0x100, 0xF80, (10, 11)), (0x800, 0, (20,))]
    refused(P5, "K9", rules().packet, 0, A, WAIT | FORCE)
    refused(P5, "K9", rules().packet, 0, None, FORCE)
    lenient = rules(KmclProfile(reject_force_in_send=False))
    assert lenient.packet(0, A, WAIT | FORCE).ranges == rules().packet(0, A, WAIT).ranges
    refused(P4, "K9", rules().packet, 0, Mdl(0, 0, ()), WAIT)


def test_k10_external_mdl_needs_wait_before_the_mdl_is_looked_at() -> None:
    message = refused(P7, "K10", rules().external_mdl, 0, None, 0, 0, FORCE)
    assert "WAIT_FOR_COMPLETION (0x1) must be set" in message
    assert "0x2" in message


def test_k11_external_mdl_needs_an_mdl() -> None:
    refused(P4, "K11", rules().external_mdl, 0, None, 0, 0, WAIT)


def test_k12_offset_counts_from_the_buffer_not_from_the_page() -> None:
    assert rules().external_mdl(0, Mdl(0x10, 0x100, (7,)), 0x20, 1, WAIT).ranges == (GpaRange(1, 0x30, (7,)),)


def test_k13_an_offset_of_a_whole_mdl_starts_at_the_next() -> None:
    assert rules().external_mdl(0, A, 0x100, 1, WAIT).ranges == (GpaRange(1, 0, (20,)),)


def test_k14_offset_outside_the_chain() -> None:
    assert "the last byte is 2303" in refused(P5, "K14", rules().external_mdl, 0, A, 0x900, 0, WAIT)
    refused(P5, "K14", rules().external_mdl, 0, Mdl(0, 0, ()), 0, 0, WAIT)


def test_k15_length_zero_is_all_up_to_the_end_of_the_chain() -> None:
    assert rules().external_mdl(0, A, 1, 0, WAIT) == rules().external_mdl(0, A, 1, 0x8FF, WAIT)


def test_k16_no_clamping() -> None:
    assert "describes 2304; pass 0" in refused(P6, "K16", rules().external_mdl, 0, A, 0, 0x901, WAIT)


def test_k17_empty_mdls_contribute_nothing_and_skipped_pages_are_not_sent() -> None:
    chain = Mdl(5, 0, (1,), next=Mdl(0x800, 0x2000, (4, 9, 2), next=Mdl(0, 0, ())))
    assert rules().external_mdl(0, chain, 0, 0, WAIT).ranges == (GpaRange(0x2000, 0x800, (4, 9, 2)),)
    assert rules().external_mdl(0, chain, 0x1800, 0, WAIT).ranges == (GpaRange(0x800, 0, (2,)),)


def test_k18_force_uses_the_first_mdl_only() -> None:
    refused(P6, "K19", rules().external_mdl, 0, Mdl(0, 0x1000, (1,), next=B), 0, 0x1800, WAIT | FORCE)
    unlocked_next = replace(A, next=replace(B, flags=MdlFlags(0)))
    assert len(rules().external_mdl(0, unlocked_next, 0, 0x100, WAIT | FORCE).ranges) == 1


def test_k19_force_may_pass_the_buffers_end_but_not_its_last_page() -> None:
    message = refused(P6, "K19", rules().external_mdl, 0, A, 0x80, 0x1001, WAIT | FORCE)
    assert "from there it holds 4096" in message


mdls = st.builds(
    lambda offset, count, pfns: Mdl(offset, count, tuple(pfns[: pages_spanned(offset, count)])),
    st.integers(0, 4095),
    st.integers(1, 0x3000),
    st.lists(st.integers(0, 1000), min_size=4, max_size=4),
)


@given(mdl=mdls, data=st.data())
def test_k20_force_never_adds_a_page(mdl: Mdl, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, mdl.byte_count - 1))
    plain = rules().external_mdl(0, mdl, offset, 0, WAIT).ranges[0]
    room_behind = len(mdl.pfns) * 4096 - mdl.byte_offset - mdl.byte_count
    length = plain.byte_count + data.draw(st.integers(0, room_behind))
    forced = rules().external_mdl(0, mdl, offset, length, WAIT | FORCE).ranges
    assert forced == (GpaRange(length, plain.byte_offset, plain.pfns),)
    refused(P6, "K19", rules().external_mdl, 0, mdl, offset, plain.byte_count + room_behind + 1, WAIT | FORCE)


@given(mdl=mdls, data=st.data())
def test_k21_force_inside_the_buffer_changes_nothing(mdl: Mdl, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, mdl.byte_count - 1))
    length = data.draw(st.integers(1, mdl.byte_count - offset))
    forced = rules().external_mdl(0, mdl, offset, length, WAIT | FORCE)
    assert forced == rules().external_mdl(0, mdl, offset, length, WAIT)


def test_k22_force_with_length_zero_by_profile() -> None:
    lenient = rules(KmclProfile(reject_force_zero_length=False))
    assert lenient.external_mdl(0, A, 0x10, 0, WAIT | FORCE).ranges == (GpaRange(0xF0, 0xF90, (10, 11)),)


def test_k23_force_with_an_offset_past_the_buffer_by_profile() -> None:
    lenient = rules(KmclProfile(reject_force_offset_past_buffer=False))
    assert lenient.external_mdl(0, A, 0x100, 0x10, WAIT | FORCE).ranges == (GpaRange(0x10, 0x80, (11,)),)
    refused(P5, "K23", lenient.external_mdl, 0, A, 0x1080, 1, WAIT | FORCE)
    both = rules(KmclProfile(reject_force_offset_past_buffer=False, reject_force_zero_length=False))
    refused(P6, "K22", both.external_mdl, 0, A, 0x200, 0, WAIT | FORCE)


def test_k24_limits_of_bytes_and_of_the_chain() -> None:
    limits = EndpointLimits(max_external_bytes=0x900, max_external_chain=2)
    assert rules(limits=limits).external_mdl(0, A, 0, 0, WAIT)
    few_bytes = replace(limits, max_external_bytes=0x8FF)
    refused(P6, "K24", rules(limits=few_bytes).external_mdl, 0, A, 0, 0, WAIT)
    refused(P4, "K24", rules(limits=few_bytes).packet, 0, A, WAIT)
    refused(P5, "K24", rules(limits=few_bytes).external_pfns, 0, [1], WAIT)
    short_chain = replace(limits, max_external_chain=1)
    refused(P4, "K24", rules(limits=short_chain).external_mdl, 0, A, 0, 0, WAIT)
    assert rules(limits=short_chain).external_mdl(0, A, 0x100, 0, WAIT)
    assert rules(KmclProfile(check_limits_when_sending=False), few_bytes).external_mdl(0, A, 0, 0, WAIT)


def test_k25_pages_must_be_locked_and_exist() -> None:
    unlocked = replace(A, next=replace(B, flags=MdlFlags.MAPPED_TO_SYSTEM_VA))
    assert "MDL 1" in refused(P4, "K25", rules().external_mdl, 0, unlocked, 0, 0, WAIT)
    refused(P4, "K25", rules().packet, 0, unlocked, WAIT)
    nonpaged = replace(B, flags=MdlFlags.SOURCE_IS_NONPAGED_POOL)
    assert rules().external_mdl(0, nonpaged, 0, 0, WAIT)
    assert rules(KmclProfile(check_locked=False)).external_mdl(0, unlocked, 0, 0, WAIT)
    assert "page 0x100000" in refused(P4, "K25", rules().external_pfns, 0, [1 << 20], WAIT)
    refused(P4, "K25", rules().external_pfns, 0, [-1], WAIT)
    refused(P4, "K25", rules().external_mdl, 0, Mdl(0, 1, (1 << 63,)), 0, 0, WAIT)


@pytest.mark.parametrize("value", [-1, 1 << 32, 1 << 64])
def test_k26_offset_and_length_are_unsigned_32_bits(value: int) -> None:
    for flags in (WAIT, WAIT | FORCE):
        refused(P5, "K26", rules().external_mdl, 0, A, value, 1, flags)
        refused(P6, "K26", rules().external_mdl, 0, A, 0, value, flags)


def test_k27_the_length_field_bounds_the_pages() -> None:
    wide = rules(limits=EndpointLimits(max_external_bytes=1 << 31))
    assert wide.external_pfns(0, range(65_531), WAIT).cost == 0xFFFF * 8 + 8
    refused(NtStatus.INVALID_PARAMETER, "K27", wide.external_pfns, 0, range(65_532), WAIT)
    refused(NtStatus.INVALID_PARAMETER, "K27", wide.external_pfns, 8, range(65_531), WAIT)


def test_k29_order_of_the_checks() -> None:
    unlocked = Mdl(0, 0x10, (1,), MdlFlags(0))
    tiny = rules(limits=EndpointLimits(max_packet_bytes=8, max_external_bytes=8))
    mdl = Mdl(0, 0x10, (1,))
    wrong = [
        (P7, "K1", (9, None, 99, 99, 0x8)),
        (P7, "K10", (9, None, 99, 99, 0)),
        (P4, "K11", (9, None, 99, 99, WAIT)),
        (P4, "K25", (9, unlocked, 99, 99, WAIT)),
        (P3, "K3", (9, mdl, 99, 99, WAIT)),
        (P5, "K14", (8, mdl, 99, 99, WAIT)),
        (P6, "K16", (8, mdl, 0, 99, WAIT)),
        (P6, "K24", (8, mdl, 0, 9, WAIT)),
    ]
    for status, rule, arguments in wrong:
        refused(status, rule, tiny.external_mdl, *arguments)
    assert tiny.external_mdl(8, mdl, 0, 8, WAIT)


def test_k30_external_pfns_needs_wait_and_knows_no_force() -> None:
    refused(P6, "K30", rules().external_pfns, 0, [1], 0)
    refused(P6, "K30", rules().external_pfns, 0, [1], WAIT | FORCE)
    assert rules(KmclProfile(reject_force_in_pfns=False)).external_pfns(0, [1], WAIT | FORCE)


def test_k31_all_pages_named_as_one_range() -> None:
    assert rules().external_pfns(0, [5, 3, 5], WAIT).ranges == (GpaRange(3 * 4096, 0, (5, 3, 5)),)


def test_k32_page_numbers_are_required() -> None:
    refused(P4, "K32", rules().external_pfns, 0, None, WAIT)
    refused(P5, "K32", rules().external_pfns, 0, [], WAIT)
    refused(P5, "K32", rules().external_pfns, 0, range(0x100000), WAIT)


def test_plain_status_by_profile() -> None:
    plain = rules(KmclProfile(positional_statuses=False))
    refused(NtStatus.INVALID_PARAMETER, "K10", plain.external_mdl, 0, A, 0, 0, 0)


def test_k6_k8_the_statuses_are_choices() -> None:
    chosen = KmclProfile(
        host_external_status=NtStatus.ACCESS_DENIED, too_large_for_ring_status=NtStatus.INSUFFICIENT_RESOURCES
    )
    refused(NtStatus.ACCESS_DENIED, "K6", rules(chosen, side=Side.HOST).packet, 0, A, WAIT)
    refused(NtStatus.INSUFFICIENT_RESOURCES, "K8", rules(chosen, largest_cost=128).packet, 105, None, 0)
