"""A few of the kills; 200 of them: ``python -m tests.crash.alarms --rounds 200``."""

from __future__ import annotations

import pathlib

import pytest

from .alarms import Bookkeeping, flood, note, rounds


@pytest.mark.parametrize("seed", [3])
def test_acknowledged_alarms_run_after_a_kill(seed: int) -> None:
    operations, _ = rounds(4, seed)
    assert operations > 4


@pytest.mark.anyio
async def test_alarms_that_are_due_together_all_run_once_with_few_objects_open(
    tmp_path: pathlib.Path,
) -> None:
    figures = await flood(120, 10, str(tmp_path / "data"))
    assert figures["open at most"] <= 10


def test_the_bookkeeping_knows_what_was_acknowledged() -> None:
    books: dict[str, Bookkeeping] = {}
    for line in ("set a 1", "done a 1", "delete a 2"):
        note(line, books)
    assert books["a"] == Bookkeeping(1, "set", 2, "delete")
