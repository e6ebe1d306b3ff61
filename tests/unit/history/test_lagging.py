"""When the WAL may be folded before all of it is in the log."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_storage.history import commit_log

from .rig import Session


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An object of an earlier session, of which a part of the WAL is in the log durably."""
    monkeypatch.setattr(commit_log, "ARCHIVE_AHEAD_FRAMES", 1)
    path = tmp_path / "object.sqlite"
    earlier = Session(path)
    earlier.run("CREATE TABLE t(a)")
    earlier.close()
    session = Session(path)
    session.run("INSERT INTO t VALUES(1)")
    for _ in range(2):
        session.confirm()
    session.run("INSERT INTO t VALUES(2)")
    return session


def test_it_may_once_the_log_durably_names_the_wal(session: Session) -> None:
    assert session.log._archived > 0
    assert not session.log.may_lag()
    session.log.catch_up(lambda: None)
    assert session.log.may_lag()


def test_it_may_not_before_anything_is_in_the_log(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)")
    session.log.catch_up(lambda: None)
    assert not session.log.may_lag()


def _remove_second_name(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    os.unlink(session.log._layout.held_wal)


def _fill_disk(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, (1 << 40) - 4096, 4096))


def _leave_gap(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.log._gap = True


@pytest.mark.parametrize("lose", [_remove_second_name, _fill_disk, _leave_gap])
def test_it_may_not_when_a_failure_would_cost_something(
    session: Session,
    lose: Callable[[Session, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session.log.catch_up(lambda: None)
    lose(session, monkeypatch)
    assert not session.log.may_lag()


def test_a_crash_between_the_checkpoint_and_the_log_costs_no_bookmark(session: Session) -> None:
    session.log.catch_up(lambda: None)
    session.run("INSERT INTO t VALUES(3)")
    first, state = session.log.current_bookmark(), session.content()
    session.run("INSERT INTO t VALUES(4)")
    assert session.log.may_lag()
    assert session.database.checkpoint(restart=False)
    session.crash()
    again = Session(session.path)
    assert again.log.current_bookmark() > first
    assert again.exported(first) == state
    assert again.log.verify().sound
    again.close()
