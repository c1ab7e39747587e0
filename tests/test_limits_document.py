"""docs/limits.md names every limit and every quota, with the default it has, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from emulator.limits_config import LimitsConfig, QuotaConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "limits.md"


def documented(heading: str) -> dict[str, str]:
    """The names below a heading, with their defaults."""
    section = PAGE.read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    assert all(row[3].strip() for row in rows), "each says what happens"
    return {row[1].strip(" `"): row[2].strip().replace(",", "") for row in rows}


@pytest.mark.parametrize(("heading", "model"), [("`[limits]`", LimitsConfig), ("`[machines.NAME.quota]`", QuotaConfig)])
def test_every_bound_stands_there_with_its_default(heading: str, model: type[BaseModel]) -> None:
    defaults = {name: field.default for name, field in model.model_fields.items()}
    shown = {name: "none" if value is None else f"{value:g}" for name, value in defaults.items()}
    assert {name: text if text == "none" else f"{float(text):g}" for name, text in documented(heading).items()} == shown
