"""The configuration as documents: the default one with every comment, and the JSON Schema for editors.

The comments above the fields in ``config.py`` are the documentation of the keys; here they are read from that source,
so that there is one text and it cannot differ.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, get_args

from pydantic import BaseModel

from emulator.config import Config

TITLE = """\
# Configuration of vmbusd: every key with its default. A file needs only what differs; an empty one is this one.
# Check a file with: vmbusd --check-config FILE
"""


def comments_of(model: type[BaseModel]) -> dict[str, str]:
    """The comment above each field of a model, on one line."""
    found: dict[str, str] = {}
    lines: list[str] = []
    for line in inspect.getsource(model).splitlines():
        text = line.strip()
        name = text.partition(":")[0]
        if text.startswith("#"):
            lines.append(text.removeprefix("#").strip())
            continue
        if lines and name in model.model_fields:
            found[name] = " ".join(lines)
        lines = []
    return found


def default_document() -> str:
    """The default configuration as commented TOML; reading it gives the default."""
    config = Config()
    parts = [TITLE]
    for name in Config.model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            parts.append(_section((name,), value))
        elif not value:
            parts.append(_example(name))
        for key, each in value.items() if isinstance(value, dict) else ():
            parts.append(_section((name, key), each))
    return "\n".join(parts)


def _section(path: tuple[str, ...], section: BaseModel, *, commented_out: bool = False) -> str:
    model = type(section)
    comments = comments_of(model)
    summary = (inspect.getdoc(model) or "").splitlines()[0]
    lines = [f"# {summary}", f"[{'.'.join(path)}]"]
    tables: list[tuple[str, dict[str, Any]]] = []
    inner: list[str] = []
    for name in model.model_fields:
        value = getattr(section, name)
        if isinstance(value, dict):
            tables.append((name, value))
            continue
        if isinstance(value, BaseModel):
            inner.append(_section((*path, name), value))
            continue
        if name in comments:
            lines += [f"# {line}" for line in _wrapped(comments[name])]
        lines.append(f"#{name} =" if value is None else f"{name} = {_toml(value)}")
    for name, table in tables:
        if name in comments:
            lines += [f"# {line}" for line in _wrapped(comments[name])]
        entries = [f"{key} = {_toml(each)}" for key, each in table.items()]
        lines += [f"[{'.'.join((*path, name))}]", *entries]
    if commented_out:
        lines = [line if line.startswith("#") else f"#{line}" for line in lines]
    return "\n".join([*lines, *inner]).rstrip("\n") + "\n"


def _example(name: str) -> str:
    """A section of which the default has none: shown, and commented out."""
    (model,) = _models_in(Config.model_fields[name].annotation)
    return _section((name, "NAME"), model(), commented_out=True)


def _wrapped(text: str, width: int = 110) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _toml(value: object) -> str:
    """A scalar or a list of them; JSON's spelling is TOML's for what the configuration has."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def json_schema() -> str:
    """The JSON Schema of the configuration, for editors that check TOML by one."""
    schema = Config.model_json_schema()
    schema["title"] = "Configuration of vmbusd"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    models: dict[str, type[BaseModel]] = {"Config": Config, **models_below(Config)}
    for name, part in {"Config": schema, **schema.get("$defs", {})}.items():
        comments = comments_of(models[name])
        for key, described in part.get("properties", {}).items():
            if key in comments:
                described["description"] = comments[key]
    return json.dumps(schema, indent=2) + "\n"


def models_below(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Every section a model has, however deep, by its class name."""
    found: dict[str, type[BaseModel]] = {}
    for field in model.model_fields.values():
        for each in _models_in(field.annotation):
            if each.__name__ not in found:
                found |= {each.__name__: each, **models_below(each)}
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models an annotation names: itself, or the values of a table of names."""
    return [
        each
        for each in (annotation, *get_args(annotation))
        if isinstance(each, type) and not get_args(each) and issubclass(each, BaseModel)
    ]
