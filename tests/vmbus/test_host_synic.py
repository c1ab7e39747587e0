"""Message slots, event flags and connection ids (rule 1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.status import Misuse
from emulator.vmbus.synic import (
    Port,
    channel_connection_id,
    deliver_message,
    message_port,
    redirected_connection_id,
    set_event_flag,
    take_event_flags,
    take_message,
)


def page() -> memoryview:
    return memoryview(bytearray(4096))


def test_rule_1_a_message_lies_in_its_slot_as_documented() -> None:
    memory = page()
    assert deliver_message(memory, 2, b"hello", sender=0x1122)
    slot = bytes(memory[512:768])
    assert slot[:16] == bytes.fromhex("01000000 05 00 0000 2211000000000000")
    assert slot[16:21] == b"hello"
    assert not any(memory[:512])
    assert not any(memory[768:])


def test_rule_1_a_taken_slot_keeps_its_message_and_marks_one_pending() -> None:
    memory = page()
    assert deliver_message(memory, 2, b"first")
    assert not deliver_message(memory, 2, b"second")
    assert deliver_message(memory, 3, b"elsewhere")
    assert take_message(memory, 2) == (b"first", True)
    assert take_message(memory, 2) is None
    assert deliver_message(memory, 2, b"second")
    assert take_message(memory, 2) == (b"second", False)


def test_rule_1_the_guest_is_interrupted_only_when_a_flag_was_clear() -> None:
    memory = page()
    assert set_event_flag(memory, 2, 2047)
    assert not set_event_flag(memory, 2, 2047)
    assert set_event_flag(memory, 3, 2047)
    assert memory[2 * 256 + 255] == 0x80
    assert take_event_flags(memory, 2) == [2047]
    assert set_event_flag(memory, 2, 2047)


@given(st.sets(st.integers(0, 2047)))
def test_every_flag_set_is_taken_once_in_order(flags: set[int]) -> None:
    memory = page()
    assert all(set_event_flag(memory, 5, flag) for flag in flags)
    assert take_event_flags(memory, 5) == sorted(flags)
    assert take_event_flags(memory, 5) == []


@pytest.mark.parametrize("sint", [-1, 16])
def test_there_are_sixteen_sources(sint: int) -> None:
    with pytest.raises(Misuse):
        deliver_message(page(), sint, b"")
    with pytest.raises(Misuse):
        set_event_flag(page(), sint, 0)


def test_messages_and_flags_have_their_limits() -> None:
    assert deliver_message(page(), 2, bytes(240))
    with pytest.raises(Misuse):
        deliver_message(page(), 2, bytes(241))
    with pytest.raises(Misuse):
        set_event_flag(page(), 2, 2048)


def test_rule_1_connection_ids_are_as_documented() -> None:
    assert channel_connection_id(1) == 0x2001
    assert redirected_connection_id(vtl=2, sint=7, vp=0) == 0x800074
    assert message_port(1, 0, has_multiclient=True) is Port.ORDINARY
    assert message_port(4, 0, has_multiclient=True) is Port.MULTICLIENT
    assert message_port(4, 0, has_multiclient=False) is None
    assert message_port(0x800074, 2, has_multiclient=True) is Port.MULTICLIENT
    assert message_port(0x800074, 0, has_multiclient=True) is None
