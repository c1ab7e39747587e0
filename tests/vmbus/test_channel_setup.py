"""The Init* rows of 4.2: what a setup takes, what it refuses and with which status, and what of it travels."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import Mdl, MdlFlags
from emulator.status import NtStatus, Refused
from emulator.vmbus.channel_setup import ChannelSetup, SetupValues, parse_setup_untrusted
from emulator.vmbus.gpadl_arguments import gpadl_ranges
from emulator.vmbus.profile import Side

P1, P2, P3 = NtStatus.INVALID_PARAMETER_1, NtStatus.INVALID_PARAMETER_2, NtStatus.INVALID_PARAMETER_3
P4, P5 = NtStatus.INVALID_PARAMETER_4, NtStatus.INVALID_PARAMETER_5
DISK = UUID("0e2f8f35-64b1-4f4c-9d2c-5a1e000000d1")
Call = Callable[[ChannelSetup], None]

BOTH: list[tuple[str, Call]] = [
    ("VmbChannelInitSetMaximumPacketSize", lambda setup: setup.set_maximum_packet_size(8192)),
    ("VmbChannelInitSetMaximumExternalData", lambda setup: setup.set_maximum_external_data(65536, 4)),
    ("VmbChannelInitSetClientContextSize", lambda setup: setup.set_client_context_size(64)),
    ("VmbChannelInitSetProcessPacketCallbacks", lambda setup: setup.check_initialising()),
    ("VmbChannelInitSetStateChangeCallbacks", lambda setup: setup.set_state_change_callbacks(1, 48)),
    ("VmbChannelInitSetFriendlyName", lambda setup: setup.set_friendly_name("disk")),
    ("VmbChannelInitSetFlags", lambda setup: setup.set_flags(1)),
]
OF_HOSTS: list[tuple[str, Call]] = [
    ("VmbServerChannelInitSetFlags", lambda setup: setup.set_server_flags(0x1F)),
    ("VmbServerChannelInitSetMmioMegabytes", lambda setup: setup.set_mmio_megabytes(0, 1)),
    ("VmbServerChannelInitSetTargetInterfaceId", lambda setup: setup.set_target_interface(DISK, DISK)),
    ("VmbServerChannelInitSetTargetVtl", lambda setup: setup.set_target_vtl(0)),
]
OF_GUESTS: list[tuple[str, Call]] = [
    ("VmbClientChannelInitSetRingBufferPageCount", lambda setup: setup.set_ring_pages(4, 8)),
    ("VmbClientChannelInitSetTargetPnp", lambda setup: setup.set_target(DISK)),
]


def sealed(side: Side) -> ChannelSetup:
    setup = ChannelSetup(side)
    if side is Side.HOST:
        setup.set_target_interface(DISK)
    else:
        setup.set_target(DISK)
    setup.seal()
    return setup


@pytest.mark.parametrize("call", [call for _, call in BOTH], ids=[name for name, _ in BOTH])
@pytest.mark.parametrize("side", list(Side))
def test_4_2_init_calls_work_before_enable_and_are_p1_after(call: Call, side: Side) -> None:
    call(ChannelSetup(side))
    with pytest.raises(Refused, match="has been enabled") as refused:
        call(sealed(side))
    assert refused.value.status is P1


@pytest.mark.parametrize(
    ("side", "call"),
    [*((Side.HOST, call) for _, call in OF_HOSTS), *((Side.GUEST, call) for _, call in OF_GUESTS)],
    ids=[name for name, _ in OF_HOSTS + OF_GUESTS],
)
def test_4_2_calls_of_one_side_are_p1_on_the_other_and_after_enable(side: Side, call: Call) -> None:
    call(ChannelSetup(side))
    other = Side.GUEST if side is Side.HOST else Side.HOST
    for setup in (ChannelSetup(other), sealed(side)):
        with pytest.raises(Refused) as refused:
            call(setup)
        assert refused.value.status is P1


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda setup: setup.set_maximum_packet_size(0), P2),
        (lambda setup: setup.set_maximum_external_data(0, 1), P2),
        (lambda setup: setup.set_maximum_external_data(1, 0), P3),
        (lambda setup: setup.set_state_change_callbacks(2, 48), P2),
        (lambda setup: setup.set_state_change_callbacks(1, 40), P2),
        (lambda setup: setup.set_flags(0x3), P2),
        (lambda setup: setup.set_server_flags(0x20), P2),
        (lambda setup: setup.set_target_vtl(3), P2),
        (lambda setup: setup.set_mmio_megabytes(0, 0), NtStatus.INVALID_PARAMETER),
        (lambda setup: setup.set_mmio_megabytes(0x10000, 0), P2),
        (lambda setup: setup.set_friendly_name("n" * 257), P2),
    ],
)
def test_4_2_wrong_arguments_name_their_number(call: Call, status: NtStatus) -> None:
    setup = ChannelSetup(Side.HOST)
    with pytest.raises(Refused) as refused:
        call(setup)
    assert refused.value.status is status
    assert setup.values == SetupValues(), "and nothing is changed"


def test_4_2_enable_needs_a_target() -> None:
    with pytest.raises(Refused, match="say which interface first"):
        ChannelSetup(Side.GUEST).seal()


def test_what_a_setup_says_arrives() -> None:
    setup = ChannelSetup(Side.HOST)
    for _, call in BOTH + OF_HOSTS:
        call(setup)
    assert parse_setup_untrusted(setup.seal()) == setup.values
    assert (setup.values.packet_bytes, setup.values.external_mdls, setup.values.is_pipe) == (8192, 4, True)


GOOD = {"interface": str(DISK)}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("[]", "not an object"),
        ("{}", "interface is no GUID"),
        (json.dumps(GOOD | {"instance": "x"}), "instance is no GUID"),
        (json.dumps(GOOD | {"packet_bytes": "1"}), "packet_bytes must be int"),
        (json.dumps(GOOD | {"packet_bytes": True}), "packet_bytes must be int"),
        (json.dumps(GOOD | {"packet_bytes": -1}), "packet_bytes is 0 to"),
        (json.dumps(GOOD | {"incoming_pages": 1 << 40}), "incoming_pages is 0 to 4094"),
        (json.dumps(GOOD | {"friendly_name": "n" * 300}), "longer than 256"),
        (json.dumps(GOOD | {"surprise": 1}), "nobody knows 'surprise'"),
    ],
)
def test_a_setup_nobody_can_use_is_refused_with_a_sentence(document: str, said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        parse_setup_untrusted(document)
    assert refused.value.status is NtStatus.INVALID_PARAMETER


PLAIN = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(PLAIN, lambda inner: st.dictionaries(st.text(), inner)))
def test_any_json_is_a_setup_or_refused(value: Any) -> None:
    try:
        parse_setup_untrusted(json.dumps(value))
    except Refused:
        return
    raise AssertionError("nothing of this has a GUID")


# ---- the memory of a page list

TAIL = Mdl(0, 0x800, (20,))
MDL = Mdl(0xF80, 0x100, (10, 11), next=TAIL)


@pytest.mark.parametrize(
    ("offset", "length", "ranges"),
    [
        (0, 0, [(0x100, 0xF80, (10, 11)), (0x800, 0, (20,))]),
        (0x80, 0, [(0x80, 0, (11,)), (0x800, 0, (20,))]),
        (0x80, 0x81, [(0x80, 0, (11,)), (1, 0, (20,))]),
        (0x8FF, 1, [(1, 0x7FF, (20,))]),
    ],
)
def test_4_2_a_page_list_has_a_range_for_each_mdl_and_length_0_is_to_the_end(
    offset: int, length: int, ranges: list[tuple[int, int, tuple[int, ...]]]
) -> None:
    assert [tuple(each) for each in gpadl_ranges(MDL, offset, length, 64)] == ranges


@pytest.mark.parametrize(
    ("mdl", "offset", "length", "status"),
    [
        (None, 0, 0, P3),
        (Mdl(0, 8, (1,), MdlFlags(0)), 0, 0, P3),
        (Mdl(0, 8, (64,)), 0, 0, P3),
        (MDL, 0x900, 0, P4),
        (MDL, -1, 0, P4),
        (MDL, 0x100, 0x801, P5),
        (MDL, 0, -1, P5),
        (Mdl(0, 9000 * 4096, tuple([5] * 9000)), 0, 0, P5),
    ],
)
def test_4_2_a_page_list_that_cannot_be_names_the_argument(
    mdl: Mdl | None, offset: int, length: int, status: NtStatus
) -> None:
    with pytest.raises(Refused) as refused:
        gpadl_ranges(mdl, offset, length, 64)
    assert refused.value.status is status
