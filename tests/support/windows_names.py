"""docs/windows-names.md, made from ``clients.kmcl`` and from the tests: ``python -m tests.support.windows_names``.

What stands for a name in Python, and its rules, is in the last lines of its docstring; the tests of a name are those
marked with it: ``@pytest.mark.windows("VmbPacketSend")``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import clients.kmcl
from tests.support.documented_names import CALLBACKS, FUNCTIONS, Documented, kmcl_name

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m tests.support.windows_names > docs/windows-names.md"
SIDES = {"B": "both", "C": "guest", "S": "host"}

_HEAD = f"""# Windows names

Every documented function and callback of KMCL, and what stands for it here. Made from `clients/kmcl.py` and the tests
by `{COMMAND}`; do not edit it by hand.

Code that is ported line by line uses the names themselves; the docstring of `clients/kmcl.py` says how C is written
there. Python code uses what the third column names, and need not know the first. A guest is KMCL's client, a host its
server. Rules are the numbers that errors show in brackets; a number with a dot is a section.
"""


class Told(NamedTuple):
    """What the docstring of a name says."""

    summary: str
    text: str
    counterparts: tuple[str, ...]
    rules: str


def told_of(entry: Documented) -> Told | None:
    """The docstring of what ``clients.kmcl`` has for it; None without one, or without its last lines."""
    owner = getattr(clients.kmcl, kmcl_name(entry.name), None)
    text = inspect.getdoc(owner) or ""
    ending = re.search(r"^Python: (.*?)\.\s+Rules: (.*)\.$", text, re.MULTILINE | re.DOTALL)
    if owner is None or ending is None:
        return None
    summary = re.sub(r"\s+", " ", text.split("\n\n")[0]).replace("``", "`")
    counterparts = tuple(re.findall(r"`([^`]+)`", ending[1]))
    return Told(summary, text, counterparts, ending[2])


def resolve(path: str) -> Any:
    """What a dotted path names. Raises AttributeError when there is nothing."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = None if isinstance(found, type) and _is_instance_attribute(found, part) else getattr(found, part)
        return found
    raise AttributeError(f"there is no module in {path}")


def _is_instance_attribute(owner: type, name: str) -> bool:
    """Whether objects of a class have an attribute that the class has not."""
    if hasattr(owner, name):
        return False
    sources = [inspect.getsource(each) for each in owner.__mro__ if each is not object]
    return any(re.search(rf"self\.{name}\b[^=\n]* = ", source) for source in sources)


def marked_tests(root: Path = ROOT) -> dict[str, list[str]]:
    """The tests of each name, as ``file::test``."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for name in _marks(node):
                    found.setdefault(name, []).append(f"{path.relative_to(root).as_posix()}::{node.name}")
    return found


def _marks(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.windows":
            yield from (str(ast.literal_eval(argument)) for argument in decorator.args)


def render() -> str:
    """The whole document as Markdown."""
    tests = marked_tests()
    lines = [_HEAD.rstrip("\n")]
    for title, entries in (("Functions", FUNCTIONS), ("Callbacks", CALLBACKS)):
        lines.append(f"\n## {title}\n")
        lines += ["| Windows | in `clients.kmcl` | Python | side | rules | tests |", "|---|---|---|---|---|---|"]
        lines += [_row(entry, tests) for entry in entries]
        lines.append("")
        lines += [f"- **{entry.name}**: {told.summary}" for entry in entries if (told := told_of(entry)) is not None]
    return "\n".join(lines) + "\n"


def _row(entry: Documented, tests: dict[str, list[str]]) -> str:
    told = told_of(entry)
    python = ", ".join(f"`{path}`" for path in told.counterparts) if told is not None else ""
    shown = ", ".join(f"`{each.split('::')[1]}`" for each in tests.get(entry.name, ()))
    rules = told.rules if told is not None else ""
    return (
        f"| {entry.name} | `{kmcl_name(entry.name)}` | {python or 'none'} | {SIDES[entry.side]} | {rules} | {shown} |"
    )


if __name__ == "__main__":
    # The descriptor itself, so that the file is UTF-8 whatever the terminal's encoding is.
    with open(1, "w", encoding="utf-8", closefd=False) as output:
        output.write(render())
