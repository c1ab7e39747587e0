"""A missing program skips a test on a developer's machine and fails it in an automatic run."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from tests.support.processes import ROOT
from tests.support.tools import TOOLS, require_tool


def test_a_tool_that_is_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.tools.SEARCH_PATH", sys.exec_prefix + "/bin")
    assert require_tool("python3", "python3").endswith("/bin/python3")


def test_a_missing_tool_skips_and_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install some-package"):
        require_tool("no-such-tool", "some-package")


def test_a_missing_tool_fails_in_an_automatic_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt install some-package"):
        require_tool("no-such-tool", "some-package")


def called_with(function: str) -> list[tuple[str, list[ast.expr]]]:
    """Where tests call a function, and with what."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == function:
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.args))
    return found


def installed_by_ci() -> dict[str, set[str]]:
    """For each condition of .ci/run: the packages that it installs where that does not hold."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("\\\n", " ")
    return {
        condition: set(packages.split())
        for condition, packages in re.findall(r"^(.+?)\s*\|\| packages\+=\((.+?)\)", script, re.MULTILINE)
    }


def test_every_program_that_a_test_needs_is_in_the_table_with_its_package() -> None:
    here = "tests/support/test_tools.py"
    named = [
        (place, args[0].value, ast.literal_eval(args[1]))
        for place, args in called_with("require_tool")
        if isinstance(args[0], ast.Constant) and isinstance(args[1], ast.Constant) and not place.startswith(here)
    ]
    assert len(named) > 10, "the calls were not found"
    assert [each for each in named if each[2] not in TOOLS.get(str(each[1]), "").split()] == []


def test_an_automatic_run_installs_every_program_of_the_table() -> None:
    conditions = installed_by_ci()
    for program, packages in TOOLS.items():
        assert conditions.get(f"command -v {program} >/dev/null") == set(packages.split()), program


def test_an_automatic_run_installs_every_package_that_a_test_names() -> None:
    installed = set().union(*installed_by_ci().values())
    assert {"mingw-w64-common", "librte-bus-vmbus23", "libmsgpack-dev", *" ".join(TOOLS.values()).split()} <= installed
