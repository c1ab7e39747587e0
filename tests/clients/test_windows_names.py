"""Every documented name of KMCL has its function or prototype, its docstring, its Python counterpart and its tests."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import clients.kmcl
from clients import kmcl_interface
from tests.support.documented_names import (
    CALLBACKS,
    CLIENT_ORDER,
    FUNCTIONS,
    SERVER_ONLY_ORDER,
    Documented,
    kmcl_name,
)
from tests.support.windows_names import COMMAND, ROOT, marked_tests, render, resolve, told_of

ALL = FUNCTIONS + CALLBACKS
TESTS = marked_tests()
NOT_SAVED = {name for name in (entry.name for entry in ALL) if "Save" in name or "Restore" in name}


def what_calls(entry: Documented) -> Callable[..., Any]:
    """What has the arguments: a function itself, a callback's prototype by its call."""
    owner = getattr(clients.kmcl, kmcl_name(entry.name))
    call: Callable[..., Any] = owner.__call__ if entry in CALLBACKS else owner
    return call


def by_name(entry: Documented) -> str:
    return entry.name


@pytest.mark.parametrize("entry", ALL, ids=by_name)
def test_a_documented_name_has_its_documented_arguments(entry: Documented) -> None:
    assert kmcl_name(entry.name) in clients.kmcl.__all__
    arguments = [name for name in inspect.signature(what_calls(entry)).parameters if name != "self"]
    assert tuple(arguments) == entry.arguments


@pytest.mark.parametrize("entry", ALL, ids=by_name)
def test_a_documented_name_has_a_docstring_with_arguments_statuses_counterpart_and_rules(entry: Documented) -> None:
    told = told_of(entry)
    assert told is not None, "its docstring ends in: Python: `…`. Rules: …."
    for argument in entry.arguments:
        assert f"``{argument}``" in told.text, f"{argument} is not explained"
    assert re.search(r"\bReturns\b", told.text), "what it returns is not said"
    assert re.fullmatch(r"([A-Z]\d+(-[A-Z]\d+)?|\d\.\d)(, ([A-Z]\d+(-[A-Z]\d+)?|\d\.\d))*", told.rules)


@pytest.mark.parametrize("entry", ALL, ids=by_name)
def test_a_documented_name_has_a_counterpart_that_exists(entry: Documented) -> None:
    told = told_of(entry)
    assert told is not None
    if entry.name in NOT_SAVED and not told.counterparts:
        return  # answered with NOT_SUPPORTED, which is all there is to it
    assert told.counterparts
    for path in told.counterparts:
        resolve(path)


@pytest.mark.parametrize("entry", ALL, ids=by_name)
def test_a_documented_name_has_a_test(entry: Documented) -> None:
    assert TESTS.get(entry.name), f"no test is marked @pytest.mark.windows({entry.name!r})"


def test_no_test_is_marked_with_a_name_nobody_documented() -> None:
    assert set(TESTS) <= {entry.name for entry in ALL}


def test_a_counterpart_that_does_not_exist_is_found() -> None:
    with pytest.raises(AttributeError):
        resolve("clients.vmbus.Machine.nothing_of_the_kind")
    with pytest.raises(AttributeError):
        resolve("nowhere.at.all")


def test_the_tables_have_the_documented_functions_in_the_documented_order() -> None:
    client = [function.__name__ for function in kmcl_interface.CLIENT_FUNCTIONS]
    server_only = [function.__name__ for function in kmcl_interface.SERVER_ONLY_FUNCTIONS]
    assert client == [f"Vmb{name}" for name in CLIENT_ORDER]
    assert server_only == [f"Vmb{name}" for name in SERVER_ONLY_ORDER]
    assert (len(client), len(client + server_only)) == (41, 55)
    # The list of all documented functions, which was taken down apart from the tables, has no other.
    assert set(client + server_only) == {entry.name for entry in FUNCTIONS} - {
        "VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT"
    }


def test_the_document_in_docs_is_up_to_date() -> None:
    stands = Path(ROOT / "docs" / "windows-names.md").read_text(encoding="utf-8")
    assert stands == render(), f"docs/windows-names.md is out of date; make it again with: {COMMAND}"


def test_the_module_prints_the_document() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "tests.support.windows_names"],
        cwd=ROOT,
        env={"LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    assert made.stdout.decode("utf-8") == render()
