"""``docs/guarantees.md`` names tests: they have to exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(tests/\S+\.py)` \| (.*) \|$", re.MULTILINE)
NAME = re.compile(r"`(test_\w+)`")


def test_every_test_that_a_guarantee_names_exists() -> None:
    rows = ROW.findall((ROOT / "docs" / "guarantees.md").read_text())
    assert len(rows) > 10
    for file, shown in rows:
        source = (ROOT / file).read_text()
        names = NAME.findall(shown)
        assert names, file
        for name in names:
            assert f"def {name}(" in source, f"{file} has no {name}"
