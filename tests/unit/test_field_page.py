"""docs/field.md: every test that it names exists, and every row names where users met it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "field.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line and "| kind |" not in line]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) >= len(ROWS) > 30
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_row_names_a_repository_and_a_number() -> None:
    for row in ROWS:
        _, _, met, here, held, _ = row.split("|")
        assert all(re.fullmatch(r" ?[\w.-]+/[\w.-]+#\d+ ?", one) for one in met.split(",")), row
        assert here.strip(), row
        assert "`tests/" in held, row
