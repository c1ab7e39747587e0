"""A missing program skips a test on a developer's machine and fails it in an automatic run."""

from __future__ import annotations

import sys

import pytest

from tests.support.tools import require_tool


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
