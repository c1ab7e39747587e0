"""C structures laid out as a Windows compiler does it, for both architectures: offsets, sizes, packing and parsing.

A structure is declared once, as its C declaration reads; where each member lies follows from the architecture: pointers
have 8 bytes or 4, every member stands on a multiple of its own alignment (or of the declared packing, if smaller), and
the whole is padded to its strictest member. Members of nested structures go by C's own designators, such as
``Parameters.Create.EaLength`` or ``Address[0].AddressType``.

The declared size of a structure that ends in a placeholder array is not the length of the data: what packs and parses
such lists (``structures``, ``create``) does so by the counts in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from emulator.status import Misuse, NtStatus, Refused

Bytes: TypeAlias = bytes | bytearray | memoryview
Value: TypeAlias = int | bytes


class Arch(Enum):
    """The machine a client was compiled for; the value is the size of a pointer in bytes."""

    X64 = 8
    X86 = 4

    @property
    def pointer_bytes(self) -> int:
        """8 or 4."""
        return self.value


class Placed(NamedTuple):
    """One member where it lies: offset and size in bytes, and how to read it if it is a leaf."""

    name: str
    offset: int
    size: int
    leaf: Leaf | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A member without members. ``x64`` and ``x86`` are its size in bytes on each; opaque ones are bytes, not numbers.

    ``align`` 0 means that it is aligned to its size; ``pointer_aligned`` moves it to a pointer's boundary at least
    (Windows: POINTER_ALIGNMENT).
    """

    x64: int
    x86: int
    signed: bool = False
    network_order: bool = False
    opaque: bool = False
    align: int = 0
    pointer_aligned: bool = False

    def size(self, arch: Arch) -> int:
        """Its size in bytes."""
        return self.x64 if arch is Arch.X64 else self.x86

    def alignment(self, arch: Arch) -> int:
        """What its offset is a multiple of."""
        natural = self.align or self.size(arch)
        return max(natural, arch.pointer_bytes) if self.pointer_aligned else natural

    def read(self, data: bytes) -> Value:
        """Its value, from exactly its bytes."""
        if self.opaque:
            return data
        return int.from_bytes(data, "big" if self.network_order else "little", signed=self.signed)

    def write(self, value: Value, arch: Arch, where: str) -> bytes:
        """Its bytes; Misuse for a value that does not fit."""
        size = self.size(arch)
        if isinstance(value, bytes):
            if len(value) > size:
                raise Misuse(f"{where} has {size} bytes, not {len(value)}")
            return value.ljust(size, b"\0")
        try:
            return value.to_bytes(size, "big" if self.network_order else "little", signed=self.signed or value < 0)
        except OverflowError:
            raise Misuse(f"{where} has {size} bytes, and {value} does not fit") from None


U8, U16, U32, U64 = Leaf(1, 1), Leaf(2, 2), Leaf(4, 4), Leaf(8, 8)
I32, I64 = Leaf(4, 4, signed=True), Leaf(8, 8, signed=True)
PTR = Leaf(8, 4)
BE16, BE32 = Leaf(2, 2, network_order=True), Leaf(4, 4, network_order=True)
U16_AT_POINTER, U32_AT_POINTER = Leaf(2, 2, pointer_aligned=True), Leaf(4, 4, pointer_aligned=True)
"""A member that C moves to the next pointer-sized slot."""


def blob(x64: int, x86: int | None = None, *, align: int = 1) -> Leaf:
    """So many bytes that are nobody's number: a name, a hardware address, something that is not looked into."""
    return Leaf(x64, x64 if x86 is None else x86, opaque=True, align=align)


@dataclass(frozen=True, slots=True)
class First:
    """An array of which C declares one element, and the data may hold more."""

    element: Structure


@dataclass(frozen=True, slots=True)
class Structure:
    """One declared structure, or with ``union`` one whose members all lie at its start.

    ``packing`` is the declared packing in bytes, 0 for none. Members whose name begins with an underscore are there for
    their size only; one without a name is anonymous, and its members are the structure's own.
    """

    name: str
    members: tuple[tuple[str, Leaf | Structure | First], ...]
    packing: int = 0
    union: bool = False
    _placed: dict[Arch, tuple[tuple[Placed, ...], int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def size(self, arch: Arch) -> int:
        """Windows: sizeof, tail padding included."""
        return self._layout(arch)[1]

    def alignment(self, arch: Arch) -> int:
        """What its offset inside another structure is a multiple of."""
        natural = max((_kind(member).alignment(arch) for _, member in self.members), default=1)
        return min(natural, self.packing) if self.packing else natural

    def placed(self, arch: Arch) -> Iterator[Placed]:
        """Every member that has a name, nested ones behind their parent."""
        return (each for each in self._layout(arch)[0] if not any(part[0] == "_" for part in each.name.split(".")))

    def offset(self, name: str, arch: Arch) -> int:
        """Windows: offsetof. ``name`` is a designator such as ``IoStatus.Information``."""
        return self._find(name, arch).offset

    def pack(self, arch: Arch, values: Mapping[str, Value]) -> bytes:
        """The structure's bytes with the named leaves set and everything else zero.

        Misuse for an unknown name, or a value too big.
        """
        image = bytearray(self.size(arch))
        for name, value in values.items():
            found = self._find(name, arch)
            if found.leaf is None:
                if not isinstance(value, bytes) or len(value) > found.size:
                    raise Misuse(f"{self.name}.{name} is a structure of {found.size} bytes: give its bytes")
                data = value
            else:
                data = found.leaf.write(value, arch, f"{self.name}.{name}")
            image[found.offset : found.offset + len(data)] = data
        return bytes(image)

    def parse_untrusted(self, data: Bytes, arch: Arch) -> Record:
        """The leaves of a structure that begins ``data``.

        INVALID_PARAMETER when that is shorter; more behind it is not looked at.
        """
        placed, size = self._layout(arch)
        if len(data) < size:
            text = f"{self.name} has {size} bytes on {arch.name.lower()}, and {len(data)} were given"
            raise Refused(NtStatus.INVALID_PARAMETER, text)
        copy = bytes(data[:size])
        values = {
            each.name: each.leaf.read(copy[each.offset : each.offset + each.size])
            for each in placed
            if each.leaf is not None
        }
        return Record(self.name, copy, values)

    def _find(self, name: str, arch: Arch) -> Placed:
        for each in self._layout(arch)[0]:
            if each.name == name:
                return each
        raise Misuse(f"{self.name} has no member {name}")

    def _layout(self, arch: Arch) -> tuple[tuple[Placed, ...], int]:
        known = self._placed.get(arch)
        if known is None:
            known = self._placed[arch] = self._place(arch)
        return known

    def _place(self, arch: Arch) -> tuple[tuple[Placed, ...], int]:
        placed: list[Placed] = []
        end = widest = 0
        for name, member in self.members:
            kind = _kind(member)
            step = min(kind.alignment(arch), self.packing) if self.packing else kind.alignment(arch)
            at = 0 if self.union else -(-end // step) * step
            if name:
                placed.append(Placed(name, at, kind.size(arch), kind if isinstance(kind, Leaf) else None))
            if isinstance(kind, Structure):
                inside = f"{name}[0]." if isinstance(member, First) else f"{name}." if name else ""
                placed += [
                    each._replace(name=inside + each.name, offset=at + each.offset) for each in kind._layout(arch)[0]
                ]
            end = at + kind.size(arch)
            widest = max(widest, end)
        step = self.alignment(arch)
        return tuple(placed), -(-widest // step) * step


def _kind(member: Leaf | Structure | First) -> Leaf | Structure:
    return member.element if isinstance(member, First) else member


class Record:
    """The leaves of a parsed structure, by designator, and the private copy they came from."""

    __slots__ = ("_values", "image", "name")

    def __init__(self, name: str, image: bytes, values: dict[str, Value]) -> None:
        self.name = name
        self.image = image
        self._values = values

    def number(self, name: str) -> int:
        """A member that is a number, a pointer or a handle."""
        value = self._values.get(name)
        if not isinstance(value, int):
            raise Misuse(f"{self.name} has no number {name}")
        return value

    def raw(self, name: str) -> bytes:
        """A member that is bytes."""
        value = self._values.get(name)
        if not isinstance(value, bytes):
            raise Misuse(f"{self.name} has no bytes {name}")
        return value
