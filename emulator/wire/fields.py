"""The types a method's arguments and results may have: each checks a decoded value once and says what was wrong.

Only scalars and flat arrays exist. Whatever could be long (pages, packets, datagrams, inspection answers) travels as
one binary or one text, so a frame never holds many MessagePack elements and can be refused early when it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class FieldError(Exception):
    """A value does not have the type its field asks for; the message says what was expected and what came."""


def _shown(value: object) -> str:
    """A short, safe picture of a hostile value."""
    if isinstance(value, (list, dict)):
        # Its picture could be many times as long as the frame it came in.
        return f"{'an array' if isinstance(value, list) else 'a map'} of {len(value)}"
    return repr(value[:24]) + "…" if isinstance(value, (bytes, str)) and len(value) > 24 else repr(value)


class FieldType(Protocol):
    """What every field type offers."""

    def check(self, value: Any) -> Any:
        """Return the value, or raise FieldError."""

    def describe(self) -> str:
        """The type as the wire document names it."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """An unsigned integer of so many bits."""

    bits: int

    def check(self, value: Any) -> Any:
        if type(value) is not int or value < 0 or value >> self.bits:
            raise FieldError(f"must be an unsigned {self.bits}-bit integer, not {_shown(value)}")
        return value

    def describe(self) -> str:
        return f"u{self.bits}"


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""

    def check(self, value: Any) -> Any:
        if value is not True and value is not False:
            raise FieldError(f"must be true or false, not {_shown(value)}")
        return value

    def describe(self) -> str:
        return "bool"


@dataclass(frozen=True, slots=True)
class Text:
    """UTF-8 text of at most so many characters."""

    most: int

    def check(self, value: Any) -> Any:
        if type(value) is not str:
            raise FieldError(f"must be text, not {_shown(value)}")
        if len(value) > self.most:
            raise FieldError(f"must be at most {self.most} characters, not {len(value)}")
        return value

    def describe(self) -> str:
        return f"str ≤ {self.most}"


@dataclass(frozen=True, slots=True)
class Binary:
    """Bytes: at most ``most`` of them, or exactly that many, and a whole number of units."""

    most: int
    exactly: bool = False
    unit: int = 1

    def check(self, value: Any) -> Any:
        if type(value) is not bytes:
            raise FieldError(f"must be binary, not {_shown(value)}")
        size = len(value)
        if self.exactly and size != self.most:
            raise FieldError(f"must be exactly {self.most} bytes, not {size}")
        if size > self.most:
            raise FieldError(f"must be at most {self.most} bytes, not {size}")
        if size % self.unit:
            raise FieldError(f"must be a multiple of {self.unit} bytes, not {size}")
        return value

    def describe(self) -> str:
        size = f"bin = {self.most}" if self.exactly else f"bin ≤ {self.most}"
        return size if self.unit == 1 else f"{size}, multiple of {self.unit}"


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value of another type, or nil."""

    inner: FieldType

    def check(self, value: Any) -> Any:
        return None if value is None else self.inner.check(value)

    def describe(self) -> str:
        return f"{self.inner.describe()} or nil"


@dataclass(frozen=True, slots=True)
class Field:
    """One positional argument or result of a method."""

    name: str
    type: FieldType
    meaning: str


def check_fields(fields: tuple[Field, ...], values: object, what: str) -> tuple[Any, ...]:
    """Check a decoded array against its fields; raise FieldError naming the field that is wrong."""
    if type(values) is not list:
        raise FieldError(f"{what} must be an array, not {_shown(values)}")
    if len(values) != len(fields):
        names = ", ".join(field.name for field in fields) or "nothing"
        raise FieldError(f"{what} has {len(values)} values where it takes {len(fields)} ({names})")
    for field, value in zip(fields, values, strict=True):
        try:
            field.type.check(value)
        except FieldError as error:
            raise FieldError(f"{what}: {field.name!r} {error}") from None
    return tuple(values)
