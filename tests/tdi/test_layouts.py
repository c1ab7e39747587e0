"""Every structure: against figures a Windows compiler gave, against the headers themselves, and as bytes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi import address_layouts, nt_layouts, query_layouts, request_layouts
from emulator.tdi.address_layouts import TA_IP6_ADDRESS, TA_IP_ADDRESS
from emulator.tdi.layout import Arch, Leaf, Structure
from emulator.tdi.nt_layouts import FILE_FULL_EA_INFORMATION, IO_STACK_LOCATION
from emulator.tdi.request_layouts import TDI_CONNECTION_INFORMATION, TDI_REQUEST_KERNEL_SENDDG
from tests.support.tools import find_tool
from tests.tdi.windows_headers import HEADERS, PROLOGUE, compiler_for

FIGURES = Path(__file__).with_name("layout_figures.txt")
MODULES = (request_layouts, address_layouts, query_layouts, nt_layouts)
STRUCTURES: dict[str, Structure] = {each.name: each for module in MODULES for each in module.STRUCTURES if each.name}
both = pytest.mark.parametrize("arch", Arch, ids=lambda arch: arch.name.lower())


class Figures(NamedTuple):
    """What the compiler said of one structure on one architecture."""

    size: int
    align: int
    members: dict[str, tuple[int, int]]


def figures(arch: Arch) -> dict[str, Figures]:
    at = 0 if arch is Arch.X64 else 2
    found: dict[str, Figures] = {}
    name = ""
    for line in FIGURES.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        what, *numbers = line.split()
        one, two = (int(number) for number in numbers[at : at + 2])
        if line.startswith(" "):
            found[name].members[what] = one, two
        else:
            name = what
            found[name] = Figures(one, two, {})
    return found


def test_every_structure_with_figures_is_declared_and_the_other_way_round() -> None:
    assert set(STRUCTURES) == set(figures(Arch.X64))
    assert len(STRUCTURES) == 63


@both
@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_sizes_alignments_and_offsets_are_the_compilers(name: str, arch: Arch) -> None:
    structure, expected = STRUCTURES[name], figures(arch)[name]
    placed = {each.name: (each.offset, each.size) for each in structure.placed(arch)}
    assert (structure.size(arch), structure.alignment(arch)) == (expected.size, expected.align)
    assert {member: placed.get(member) for member in expected.members} == expected.members


# The headers themselves.

CHECK = (
    PROLOGUE
    + """
#define MEMBER(type, member, offset, bytes) \\
    _Static_assert(offsetof(type, member) == (offset), #type "." #member " lies elsewhere"); \\
    _Static_assert(sizeof(((type *)0)->member) == (bytes), #type "." #member " has another size")
"""
)
# Declared in no header that mingw-w64 has.
NOT_IN_HEADERS = {"UDPMCastReq", "UDPMCastIFReq"}


def assertions(arch: Arch, wrong: int = 0) -> Iterator[str]:
    """A C program that compiles only with the compiler's own figures; ``wrong`` makes ours so much too big."""
    yield CHECK
    for name, structure in STRUCTURES.items():
        if name in NOT_IN_HEADERS:
            continue
        text = f'"{name} has another size or alignment"'
        size, align = structure.size(arch) + wrong, structure.alignment(arch)
        yield f"_Static_assert(sizeof({name}) == {size} && _Alignof({name}) == {align}, {text});"
        for each in structure.placed(arch):
            if each.name in figures(arch)[name].members:
                yield f"MEMBER({name}, {each.name}, {each.offset + wrong}, {each.size});"


def compile_assertions(command: list[str], program: str, tmp_path: Path) -> str:
    """What the compiler complains of."""
    source = tmp_path / "layouts.c"
    source.write_text(program)
    options = ["-std=gnu11", "-fsyntax-only", "-fmax-errors=0", f"-I{HEADERS / 'ddk'}", str(source)]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False).stderr


def check_against_headers(arch: Arch, command: list[str], tmp_path: Path) -> None:
    """Every figure compiles, and with each of them off by one, each of them is what the compiler complains of."""
    complaints = compile_assertions(command, "\n".join(assertions(arch)), tmp_path)
    assert complaints == "", complaints[:4000]
    checked = sum(text.startswith("MEMBER(") for text in assertions(arch))
    complaints = compile_assertions(command, "\n".join(assertions(arch, wrong=1)), tmp_path)
    assert complaints.count(" lies elsewhere") >= checked > 250


@both
def test_the_mingw_headers_agree(arch: Arch, tmp_path: Path) -> None:
    check_against_headers(arch, compiler_for(arch), tmp_path)


@both
def test_the_cross_compiler_agrees(arch: Arch, tmp_path: Path) -> None:
    """A hundred megabytes that no automatic run installs; the test above says the same by other means."""
    compiler = find_tool("x86_64-w64-mingw32-gcc" if arch is Arch.X64 else "i686-w64-mingw32-gcc")
    if compiler is None:
        pytest.skip("no cross compiler (on Debian: apt install gcc-mingw-w64)")
    check_against_headers(arch, [compiler], tmp_path)


# As bytes.


def test_section_2_1_byte_images() -> None:
    ipv4 = "01000000 0E00 0200 1388 C0000207 0000000000000000"
    values = {
        "TAAddressCount": 1,
        "Address[0].AddressLength": 14,
        "Address[0].AddressType": 2,
        "Address[0].Address[0].sin_port": 5000,
        "Address[0].Address[0].in_addr": 0xC0000207,
    }
    for arch in Arch:
        assert TA_IP_ADDRESS.pack(arch, values) == bytes.fromhex(ipv4)
    host = bytes.fromhex("20010DB8000000000000000000000001")
    ipv6 = "01000000 1A00 1700 1388 00000000" + host.hex() + "00000000"
    values = {
        "TAAddressCount": 1,
        "Address[0].AddressLength": 26,
        "Address[0].AddressType": 23,
        "Address[0].Address[0].sin6_port": 5000,
    }
    image = TA_IP6_ADDRESS.pack(Arch.X86, {**values, "Address[0].Address[0].sin6_addr": host})
    assert image == bytes.fromhex(ipv6)


def test_section_2_1_pointers_are_padded_on_x64_alone() -> None:
    values = {"SendLength": 0x01020304, "SendDatagramInformation": 0x11223344}
    assert TDI_REQUEST_KERNEL_SENDDG.pack(Arch.X64, values) == bytes.fromhex("04030201 00000000 44332211 00000000")
    assert TDI_REQUEST_KERNEL_SENDDG.pack(Arch.X86, values) == bytes.fromhex("04030201 44332211")


def test_section_2_2_where_the_datagram_parameters_lie() -> None:
    for arch, expected in ((Arch.X64, (8, 16, 24)), (Arch.X86, (4, 8, 12))):
        start = IO_STACK_LOCATION.offset("Parameters", arch)
        inner = [TDI_REQUEST_KERNEL_SENDDG.offset(name, arch) for name in ("SendLength", "SendDatagramInformation")]
        assert tuple(start + each for each in inner) == expected[:2]
        control = IO_STACK_LOCATION.offset("Parameters.DeviceIoControl.IoControlCode", arch)
        assert control == (24 if arch is Arch.X64 else 12)


def test_the_declared_size_of_an_attribute_is_not_its_length() -> None:
    assert FILE_FULL_EA_INFORMATION.size(Arch.X64) == 12
    assert FILE_FULL_EA_INFORMATION.offset("EaName", Arch.X64) + 16 + 1 == 25


@both
@given(data=st.data())
def test_what_was_packed_is_parsed(arch: Arch, data: st.DataObject) -> None:
    structure = data.draw(st.sampled_from([each for each in STRUCTURES.values() if not each.union]))
    leaves = {each.name: each.leaf for each in structure.placed(arch) if each.leaf is not None}
    name = data.draw(st.sampled_from(sorted(leaves)))
    leaf = leaves[name]
    value = data.draw(_values_of(leaf, arch))
    parsed = structure.parse_untrusted(structure.pack(arch, {name: value}) + b"behind", arch)
    assert (parsed.raw(name) if isinstance(value, bytes) else parsed.number(name)) == value
    assert len(parsed.image) == structure.size(arch)


def _values_of(leaf: Leaf, arch: Arch) -> st.SearchStrategy[int | bytes]:
    size = leaf.size(arch)
    if leaf.opaque:
        return st.binary(min_size=size, max_size=size)
    low, high = (-(1 << 8 * size - 1), 1 << 8 * size - 1) if leaf.signed else (0, 1 << 8 * size)
    return st.integers(low, high - 1)


@both
def test_too_few_bytes_are_refused_and_misuse_is_named(arch: Arch) -> None:
    size = TDI_CONNECTION_INFORMATION.size(arch)
    with pytest.raises(Refused, match=f"has {size} bytes on {arch.name.lower()}, and {size - 1} were given") as caught:
        TDI_CONNECTION_INFORMATION.parse_untrusted(bytes(size - 1), arch)
    assert caught.value.status is NtStatus.INVALID_PARAMETER
    with pytest.raises(Misuse, match="no member Weather"):
        TDI_CONNECTION_INFORMATION.pack(arch, {"Weather": 1})
    with pytest.raises(Misuse, match="does not fit"):
        TDI_CONNECTION_INFORMATION.pack(arch, {"Options": 1 << 64})
    with pytest.raises(Misuse, match="give its bytes"):
        IO_STACK_LOCATION.pack(arch, {"Parameters": 5})
    with pytest.raises(Misuse, match="has 8 bytes, not 9"):
        TA_IP_ADDRESS.pack(arch, {"Address[0].Address[0].sin_zero": bytes(9)})
    record = TA_IP_ADDRESS.parse_untrusted(bytes(22), arch)
    with pytest.raises(Misuse, match="no number"):
        record.number("Address[0].Address[0].sin_zero")
    with pytest.raises(Misuse, match="no bytes"):
        record.raw("TAAddressCount")
