"""Where the documents are silent: choices as fields of profiles, each with the rule it decides and its alternatives.

A profile is a frozen dataclass whose fields are made with ``choice``. So the default, the rule and the other answers
stand in one place, from which come the type checker's view, ``docs/choices.md`` and the configuration's ``[profiles]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, field, fields
from enum import Enum
from math import isfinite
from typing import Any, NamedTuple, TypeVar

from emulator.status import EmulatorError, NtStatus

T = TypeVar("T")
P = TypeVar("P")

_KEY = "choice"


class Choice(NamedTuple):
    """What a field says of itself."""

    rule: str
    decides: str
    otherwise: str


class ChoiceError(EmulatorError):
    """A table of settings does not fit its profile; ``problems`` are (setting, what is wrong), all of them."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in problems))
        self.problems = problems


def choice(default: T, rule: str, decides: str, otherwise: str = "") -> T:
    """A field of a profile: its default, the rule or section, what the value decides, and what other values do.

    ``otherwise`` may be left out for a status, a number or an enumeration, whose other values explain themselves.
    """
    made: T = field(default=default, metadata={_KEY: Choice(rule, decides, otherwise)})
    return made


def choices_of(profile: type) -> Iterator[tuple[Field[Any], Choice]]:
    """The fields of a profile that are choices, in order."""
    for each in fields(profile):
        if _KEY in each.metadata:
            yield each, each.metadata[_KEY]


def shown(value: object) -> str:
    """A value as a configuration file and the documentation write it."""
    if isinstance(value, NtStatus):
        return f'"{value.name}"'
    if isinstance(value, Enum):
        return f'"{value.value}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def plain(profile: Any) -> dict[str, Any]:
    """A profile's choices as values that JSON and TOML have; ``chosen`` is the way back."""
    return {each.name: _plain(getattr(profile, each.name)) for each, _ in choices_of(type(profile))}


def _plain(value: Any) -> Any:
    if isinstance(value, NtStatus):
        return value.name
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def chosen(profile: type[P], settings: Mapping[str, Any]) -> P:
    """The profile with these settings, plain values as TOML and JSON have them; what is not named has its default.

    Raises ChoiceError, with everything that is wrong, for a name that is no choice or a value of another kind.
    """
    known = {each.name: each.default for each, _ in choices_of(profile)}
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for name, value in settings.items():
        if name not in known:
            problems.append((name, f"there is no such choice; {profile.__name__} has: {', '.join(known)}"))
            continue
        try:
            values[name] = _converted(known[name], value)
        except ValueError as error:
            problems.append((name, str(error)))
    if problems:
        raise ChoiceError(problems)
    return profile(**values)


def _converted(default: Any, value: Any) -> Any:
    """A plain value as the kind its default is of."""
    if isinstance(default, NtStatus):
        return _status(value)
    if isinstance(default, Enum):
        return _member(type(default), value)
    if isinstance(default, tuple):
        if not isinstance(value, list) or len(value) != len(default):
            raise ValueError(f"a list of {len(default)} is wanted, such as {shown(default)}, not {value!r}")
        return tuple(_converted(each, given) for each, given in zip(default, value, strict=True))
    if default is None:
        default = 0  # "no limit", or a number
        if value is None:
            return None
    if isinstance(default, float) and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"a number like {shown(default)} is wanted, not one so large") from None
    if type(value) is not type(default):
        raise ValueError(f"a value like {shown(default)} is wanted, not {value!r}")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"a number is wanted, such as {shown(default)}, not {value!r}")
    return value


def _status(value: Any) -> NtStatus:
    name = str(value).removeprefix("STATUS_")
    if name not in NtStatus.__members__:
        raise ValueError(f'the name of a status is wanted, such as "CANCELLED", not {value!r}')
    return NtStatus[name]


def _member(kind: type[Enum], value: Any) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"one of {', '.join(shown(each) for each in kind)} is wanted, not {value!r}") from None


def alternatives(each: Field[Any], said: Choice) -> str:
    """What other values do: as the field says, or what its kind makes plain."""
    default = each.default
    if said.otherwise or default is MISSING:
        return said.otherwise
    if isinstance(default, NtStatus):
        return "any other status"
    if isinstance(default, Enum):
        return ", ".join(f"`{shown(other)}`" for other in type(default) if other is not default)
    return "another number" if isinstance(default, (int, float)) and not isinstance(default, bool) else ""
