"""Data of a request where it lies: MDL chains in guest memory, read and written (rules S12a, Q4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import PAGE_SIZE, AddressOutsideMemory, GuestMemory, Mdl
from emulator.status import Misuse
from emulator.tdi.irp import MdlBuffer


def chain(pieces: list[tuple[int, int]]) -> Mdl | None:
    """MDLs of (byte offset, byte count), each on pages of its own, in order from page 1."""
    mdls: list[Mdl] = []
    page = 1
    for offset, count in pieces:
        pages = (offset + count + PAGE_SIZE - 1) // PAGE_SIZE
        mdls.append(Mdl(offset, count, tuple(range(page, page + pages))))
        page += pages
    head: Mdl | None = None
    for mdl in reversed(mdls):
        head = Mdl(mdl.byte_offset, mdl.byte_count, mdl.pfns, next=head)
    return head


PIECES = st.lists(st.tuples(st.integers(0, PAGE_SIZE - 1), st.integers(0, 5000)), min_size=1, max_size=5)


@given(PIECES, st.data())
def test_q4_what_is_scattered_is_what_is_gathered_and_nothing_else_changes(
    pieces: list[tuple[int, int]], data: st.DataObject
) -> None:
    mdl = chain(pieces)
    assert mdl is not None
    store = bytearray(b"\xee" * (20 * PAGE_SIZE))
    buffer = MdlBuffer(GuestMemory(memoryview(store)), mdl)
    total = sum(count for _, count in pieces)
    assert buffer.byte_count == total
    skip = data.draw(st.integers(0, total))
    size = data.draw(st.integers(0, total - skip))
    buffer.scatter(bytes(index % 251 for index in range(size)), skip)
    whole = buffer.gather(total)
    assert whole is not None
    assert whole[skip : skip + size] == bytes(index % 251 for index in range(size))
    assert set(whole[:skip] + whole[skip + size :]) <= {0xEE}
    assert store.count(0xEE) >= len(store) - size
    with pytest.raises(Misuse, match="do not fit"):
        buffer.scatter(bytes(total + 1))


def test_nothing_is_written_when_one_page_does_not_exist() -> None:
    store = bytearray(3 * PAGE_SIZE)
    mdl = Mdl(0, 8, (1,), next=Mdl(0, 8, (3,)))
    with pytest.raises(AddressOutsideMemory):
        MdlBuffer(GuestMemory(memoryview(store)), mdl).scatter(b"\xff" * 16)
    assert not any(store)
