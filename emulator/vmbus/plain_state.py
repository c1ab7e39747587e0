"""State of the buses as plain data and back: dataclasses to dicts, lists, numbers, strings and bytes.

Saved state comes back from files, so restoring checks every value against the declared type and raises ``Refused``
naming the place that does not fit.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from emulator.status import Misuse, NtStatus, Refused

Plain = Any  # None, bool, int, str, bytes, list[Plain] or dict[str, Plain]; the type checker cannot say it shorter
T = TypeVar("T")


def to_plain(value: object) -> Plain:
    """Anything the bus states are made of, as plain data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID):
        return value.bytes_le
    if isinstance(value, Mapping):
        return [[to_plain(k), to_plain(v)] for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    raise Misuse(f"{type(value).__name__} cannot be saved as plain data")


def from_plain(kind: type[T], data: Plain) -> T:
    """The value of a declared type that ``to_plain`` made this data of. Raises Refused where the data does not fit."""
    value = _read(kind, data, kind.__name__)
    assert isinstance(value, kind)
    return value


def _refuse(path: str, wanted: str) -> Refused:
    return Refused(NtStatus.INVALID_PARAMETER, f"saved state: {path} is not {wanted}")


def _read(kind: Any, data: Plain, path: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        return None if data is None else _read(options[0], data, path)
    if origin is not None:
        return _read_container(origin, get_args(kind), data, path)
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, [f.name for f in dataclasses.fields(kind)], data, path)
    if issubclass(kind, tuple):
        return _read_tuple(kind, data, path)
    if issubclass(kind, Enum):
        try:
            # An enumeration of numbers would take true for 1.
            return kind(None if isinstance(data, bool) else data)
        except (ValueError, TypeError):
            raise _refuse(path, f"a {kind.__name__}") from None
    if kind is UUID:
        if isinstance(data, bytes) and len(data) == 16:
            return UUID(bytes_le=data)
        raise _refuse(path, "a GUID of 16 bytes")
    if type(data) is not kind:
        raise _refuse(path, f"of type {kind.__name__}")
    return data


def _read_container(origin: Any, arguments: tuple[Any, ...], data: Plain, path: str) -> Any:
    if not isinstance(data, list):
        raise _refuse(path, "a list")
    if origin is dict:
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in data):
            raise _refuse(path, "a list of pairs")
        key, item = arguments
        return {_read(key, k, f"{path} key"): _read(item, v, f"{path}[{k}]") for k, v in data}
    if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return origin(_read(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(data))
    if len(data) != len(arguments):
        raise _refuse(path, f"a list of {len(arguments)}")
    return tuple(_read(a, item, f"{path}[{i}]") for i, (a, item) in enumerate(zip(arguments, data, strict=True)))


def _read_record(kind: Any, names: list[str], data: Plain, path: str) -> Any:
    if not isinstance(data, dict) or set(data) != set(names):
        raise _refuse(path, f"a record of {', '.join(names)}")
    hints = get_type_hints(kind)
    values = {name: _read(hints[name], data[name], f"{path}.{name}") for name in names}
    try:
        return kind(**values)
    except Misuse as error:
        raise _refuse(path, f"legal: {error}") from None


def _read_tuple(kind: Any, data: Plain, path: str) -> Any:
    hints = get_type_hints(kind)
    if not isinstance(data, list) or len(data) != len(hints):
        raise _refuse(path, f"a list of {', '.join(hints)}")
    return kind(*(_read(hints[n], item, f"{path}.{n}") for n, item in zip(hints, data, strict=True)))
