"""Every numbered rule of TDI has a test named by it, or a line in docs/not-supported.md with the reason.

A family is *finished* when that is so; until then its test is skipped and says what is missing, so that nothing is
pending in silence. Whoever gives a family its last test marks it finished here; from then on a missing rule fails.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "not-supported.md"

FAMILIES = {
    "CR": "1-13",
    "CL": "1-8",
    "P": "1-10",
    "S": "1-12 12a 12b 12c 13-20 20a 21 21a 22-25 25a 25b 26-45",
    "R": "1-50",
    "Q": "1-9",
    "C": "1-30 30a 31-38",
    "O": "1-16",
    "T": "1-33",
}
"""The rules: create, cleanup and close, completion, sends, receives and handlers, queries, connections, options and
controls, traps."""

FINISHED = set(FAMILIES)

# VMBus has rules of its own by some of these letters: only these places are about TDI.
PLACES = (
    "tdi/test_*.py",
    "daemon/test_receive_requests.py",
    "daemon/test_udp*.py",
    "daemon/test_tcp*.py",
    "clients/test_handlers.py",
    "endtoend/test_datagrams.py",
    "endtoend/test_filters.py",
    "endtoend/test_raw_requests.py",
    "endtoend/test_connections*.py",
)
_RULE = re.compile(r"(cr|cl|[psrqcot])(\d+)([a-z]?)")


def rules_of(family: str) -> list[str]:
    """The names of a family's rules, in order."""
    names = []
    for part in FAMILIES[family].split():
        first, _, last = part.partition("-")
        names += [f"{family}{n}" for n in range(int(first), int(last) + 1)] if last else [family + first]
    return names


def rules_in(name: str) -> Iterator[str]:
    """The rules a test is named by: those right behind ``test_``."""
    for word in name.removeprefix("test_").split("_"):
        found = _RULE.fullmatch(word)
        if found is None:
            return
        yield found[1].upper() + found[2] + found[3]


def rules_with_tests() -> set[str]:
    """Every rule that a test is named by."""
    found: set[str] = set()
    for place in PLACES:
        for path in TESTS.glob(place):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    found.update(rules_in(node.name))
    return found


def not_supported() -> dict[str, str]:
    """The rules on the page, each with its reason."""
    rows = re.findall(r"^\| *([A-Z]+\d+[a-z]?) *\| *(.*?) *\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rule_has_a_test_or_a_reason(family: str) -> None:
    have = rules_with_tests() | not_supported().keys()
    missing = [rule for rule in rules_of(family) if rule not in have]
    if family in FINISHED:
        assert missing == [], "a finished family has a test or a line in docs/not-supported.md for each rule"
    elif missing:
        pytest.skip(f"not finished, missing: {' '.join(missing)}")


def test_the_page_names_rules_there_are_once_and_with_a_reason() -> None:
    known = {rule for family in FAMILIES for rule in rules_of(family)}
    rows = re.findall(r"^\| *([A-Z]+\d+[a-z]?) *\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) <= known
    assert rules_with_tests() <= known, "a test is named by a rule that does not exist"
    assert all(len(reason) > 20 for reason in not_supported().values())


def test_a_name_says_which_rules_it_tests() -> None:
    assert list(rules_in("test_r18_r19_the_returned_address")) == ["R18", "R19"]
    assert list(rules_in("test_s12a_borders_r3")) == ["S12a"]
    assert list(rules_in("test_the_r5_rule")) == []
    assert rules_of("C")[29:32] == ["C30", "C30a", "C31"]
