"""``docs/guarantees.md`` names tests: they have to exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(tests/\S+\.py)` \| (.*) \|$", re.MULTILINE)
# A test, or a step of a state machine. Other words in backticks name no code of the file.
NAME = re.compile(r"`(\w+)`")


def test_every_test_that_a_guarantee_names_exists() -> None:
    rows = ROW.findall((ROOT / "docs" / "guarantees.md").read_text())
    assert len(rows) > 10
    for file, shown in rows:
        source = (ROOT / file).read_text()
        names = NAME.findall(shown)
        assert names, file
        for name in names:
            is_test = name.startswith("test_")
            assert not is_test or f"def {name}(" in source, f"{file} has no {name}"
        assert any(f"def {name}(" in source for name in names), f"{file} has none of {names}"
