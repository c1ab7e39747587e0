"""A configuration file: read, checked, and every mistake in it told at once, each as ``file:line:column: text``."""

from __future__ import annotations

import copy
import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from emulator.config import Config
from emulator.toml_positions import find_positions

Place = tuple[str | int, ...]
# The sections by themselves, then what they say of each other; a third look finds nothing new.
MOST_ROUNDS = 3
# Others may refer to what is in these by its name.
NAMED_SECTIONS = ("machines", "segments", "profiles")


class ConfigError(Exception):
    """The configuration cannot be used; the text lists every mistake, a line for each."""


def load(path: Path) -> Config:
    """Read a TOML file. Raises ConfigError with every mistake in it."""
    try:
        source = path.read_bytes()
        document = tomllib.loads(source.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = source[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}:1: is not UTF-8, which TOML has to be; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}:{_toml_mistake(str(error), source)}") from None
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        positions = find_positions(source)
        found = {(_nearest(place, positions), text) for place, text in _all_mistakes(document, error, positions)}
        raise ConfigError(
            "\n".join(f"{path}:{line}:{column}: {text}" for (line, column), text in sorted(found))
        ) from None


def _all_mistakes(
    document: dict[str, Any], error: ValidationError, positions: dict[Place, tuple[int, int]]
) -> Iterator[tuple[Place, str]]:
    """Every mistake. What the sections say of each other is looked at once each is right by itself, so those that are
    not are mended here in a copy of the document, and the rest is looked at again.
    """
    remaining = copy.deepcopy(document)
    for _ in range(MOST_ROUNDS):
        yield from _mistakes(error, positions)
        for problem in error.errors():
            _mend(remaining, problem["loc"])
        try:
            Config.model_validate(remaining)
        except ValidationError as another:
            if another.errors() == error.errors():
                return
            error = another
        else:
            return


def _mend(document: dict[str, Any], place: Place) -> None:
    """Take a value that is wrong out of the document, so that its default stands there; a named section stays."""
    around: Any = document
    for part in place[:-1]:
        try:
            around = around[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(around, dict) and place and place[-1] in around:
        if len(place) == 2 and place[0] in NAMED_SECTIONS:
            around[place[-1]] = {}
        else:
            del around[place[-1]]


def sentences(error: ValidationError, place: Place = ()) -> list[str]:
    """Every mistake of a configuration that stands in no file, each as a sentence; or of the section at a place."""
    return [text for _, text in _mistakes(error, {}, place)]


def _toml_mistake(text: str, source: bytes) -> str:
    """What tomllib says, with its place in front."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", text)
    if found:
        what, line, column = found[1], int(found[2]), int(found[3])
    else:
        what, last = text.removesuffix(" (at end of document)"), source.decode().split("\n")[-1]
        line, column = source.count(b"\n") + 1, len(last) + 1
    return f"{line}:{column}: is not TOML: {what[:1].lower()}{what[1:]}"


def _nearest(place: Place, positions: dict[Place, tuple[int, int]]) -> tuple[int, int]:
    """Where a place stands in the file, or the nearest thing around it that does."""
    while place and place not in positions:
        place = place[:-1]
    return positions.get(place, (1, 1))


def _mistakes(
    error: ValidationError, positions: dict[Place, tuple[int, int]], around: Place = ()
) -> Iterator[tuple[Place, str]]:
    """Each mistake as its place and a sentence."""
    by_name = {".".join(map(str, place)): place for place in positions}
    for problem in error.errors():
        place: Place = (*around, *problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield place, _unknown_key(place)
        elif problem["type"] == "value_error":
            for text in problem["msg"].removeprefix("Value error, ").splitlines():
                yield _named_place(text, place, by_name)
        elif place and place[-1] == "[key]":
            name = place[-2]
            yield place[:-1], f"{_name(place[:-1])}: {name!r} is no name; letters, digits, '.', '_' and '-' make one"
        else:
            yield place, f"{_name(place)}: {_sentence(problem['msg'], problem['input'])}"


def _named_place(text: str, place: Place, by_name: dict[str, Place]) -> tuple[Place, str]:
    """A check of the whole says in front which key it means; one of a section says it within the section."""
    name, colon, _ = text.partition(": ")
    prefix = _name(place)
    for candidate in (name, f"{prefix}.{name}"):
        if colon and candidate in by_name:
            return by_name[candidate], text if candidate == name else f"{prefix}.{text}"
    return place, f"{prefix}: {text}" if place else text


def _sentence(message: str, given: object) -> str:
    text = re.sub(r"^Input should be ", "must be ", message)
    text = text.replace("must be a valid", "must be a")
    if isinstance(given, bool):
        return f"{text}, not {str(given).lower()}"
    return f"{text}, not {given!r}" if isinstance(given, int | float | str) else text


def _unknown_key(place: Place) -> str:
    known = _known_keys(place[:-1])
    near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.55)
    where = f"in {_name(place[:-1])}" if len(place) > 1 else "at the top"
    hint = f"did you mean {near[0]!r}?" if near else f"known keys are: {', '.join(sorted(known))}"
    return f"{_name(place)}: unknown key {str(place[-1])!r} {where}; {hint}"


def _known_keys(place: Place) -> list[str]:
    """The keys of the section at a place: walks the models along it."""
    model: type[BaseModel] = Config
    parts = iter(place)
    for part in parts:
        field = model.model_fields.get(str(part))
        if field is None:
            return []
        models = [each for each in (field.annotation, *get_args(field.annotation)) if _is_model(each)]
        if not models:
            return []
        if models[0] is not field.annotation:
            next(parts, None)  # a table of names: what comes next is one of them
        model = models[0]
    return list(model.model_fields)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel)


def _name(place: Place) -> str:
    return ".".join(map(str, place))
