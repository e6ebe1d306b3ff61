"""How much Python the log runs at a time: what it takes holds up the event loop.

Reading, hashing, compressing and writing let other threads run. So what counts is the number of
lines, and that no large piece of memory is copied, in the thread of the loop or in another.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from durable_storage.history import block
from durable_storage.history.archive import SLICE_SIZE
from durable_storage.history.settings import History

from .rig import Session

FRAMES = 1100


def lines(work: Callable[[], object]) -> int:
    """Return how many lines of Python some work takes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """An object with a commit of a thousand pages in its WAL."""
    session = Session(tmp_path / "object.sqlite", settings=History())
    session.run("CREATE TABLE t(a)")
    session.confirm()
    session.fold()
    rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {FRAMES})"
    session.run(f"{rows} INSERT INTO t SELECT hex(randomblob(2000)) FROM n")
    return session


def test_confirming_a_large_commit_takes_the_loop_no_longer_than_a_small_one(
    session: Session,
) -> None:
    # In the background archiving would begin; it is not the loop that does it.
    session.log._start = lambda work: None
    assert lines(session.confirm) < 200
    session.close()


def test_archiving_takes_few_lines_a_frame_and_copies_no_block(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[type] = set()
    genuine = block._hash

    def noted(*parts: bytes | memoryview) -> bytes:
        kinds.add(type(parts[-1]))
        return genuine(*parts)

    monkeypatch.setattr(block, "_hash", noted)
    monkeypatch.setattr(block, "_WORTHWHILE", 0)
    monkeypatch.setattr(block, "_WORTHWHILE_HURRIED", 0)
    before = session.log._log.number
    taken = lines(session.log.archive)
    added = [entry.block for entry in session.log._log.entries() if entry.block.number > before]
    frames = sum(each.frame_count for each in added)
    assert frames > FRAMES
    assert taken < 3 * frames
    assert memoryview in kinds
    session.close()


def test_a_slice_is_never_larger_than_a_few_mebibytes(session: Session) -> None:
    session.close()
    assert os.path.getsize(session.path) > SLICE_SIZE
    for entry in session.log._log.entries():
        assert entry.block.frame_count * (entry.block.page_size + 24) <= SLICE_SIZE
