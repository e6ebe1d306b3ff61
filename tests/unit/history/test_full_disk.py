"""A disk that has no room for the log when an object is opened."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from .rig import Session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "object.sqlite"


class Full:
    """Refuses what needs room in the history, from the ``start``-th time on."""

    def __init__(self, start: int = 0) -> None:
        self.left = start
        self.full = True

    def before(self, operation: str, path: str) -> None:
        if self.full and "-history" in path and operation in ("open", "write", "rename"):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


@pytest.mark.parametrize("start", range(12))
@pytest.mark.parametrize("end", ["crash", "close", "full"])
@pytest.mark.parametrize("folded", [False, True])
def test_an_object_can_be_used_although_its_log_has_no_room(
    path: Path, start: int, end: str, folded: bool
) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    session.confirm()
    if folded:
        assert session.fold()
    states: dict[str, str] = {}
    for number in range(3):
        session.run(("INSERT INTO t VALUES(?)", str(number)))
        states[session.log.current_bookmark()] = session.content()
        session.confirm()
    session.crash()

    disk = Full(start)
    session = Session(path, faults=disk)
    assert session.content() == list(states.values())[-1]
    session.run("INSERT INTO t VALUES('more')")
    session.confirm()
    last = session.content()
    was_gap = session.log.gap
    disk.full = end == "full"
    if not disk.full:
        assert session.fold()
    if end == "crash":
        session.crash()
    else:
        with contextlib.suppress(OSError):
            session.close()

    session = Session(path)
    assert session.content() == last
    assert session.log.verify().sound
    assert not was_gap
    for bookmark, state in states.items():
        assert session.exported(bookmark) == state
    session.run("INSERT INTO t VALUES('most')")
    session.close()


def test_a_new_object_can_be_used_although_its_history_cannot_be_begun(path: Path) -> None:
    disk = Full()
    session = Session(path, faults=disk)
    session.run("CREATE TABLE t(a)")
    session.confirm()
    session.crash()
    session = Session(path, faults=disk)
    session.run("INSERT INTO t VALUES(1)")
    session.confirm()
    assert not session.fold()
    disk.full = False
    bookmark, state = session.log.current_bookmark(), session.content()
    session.run("DROP TABLE t")
    assert session.fold()
    session.close()
    session = Session(path)
    assert session.exported(bookmark) == state
    session.close()
