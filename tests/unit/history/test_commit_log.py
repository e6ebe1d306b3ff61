from __future__ import annotations

from pathlib import Path

import pytest

from durable_storage.errors import BookmarkError
from durable_storage.history import retention

from .rig import SMALL, ManualTime, Session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "object.sqlite"


def test_every_commit_can_be_gone_back_to_at_once_and_after_folding(path: Path) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    states = {session.log.current_bookmark(): session.content()}
    for number in range(40):
        session.run(("INSERT INTO t VALUES(?)", number))
        session.confirm()
        states[session.log.current_bookmark()] = session.content()
        if number % 7 == 6:
            assert session.fold()
    assert list(states) == sorted(states)
    assert len(states) == 41
    for bookmark, state in states.items():
        assert session.exported(bookmark) == state
    assert session.exported() == session.content()
    session.close()


def test_a_restore_is_applied_by_the_next_open_and_can_be_undone_and_redone(path: Path) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
    early, early_state = session.log.current_bookmark(), session.content()
    session.run("INSERT INTO t VALUES(2)", "CREATE INDEX i ON t(a)")
    undo = session.log.request_restore(early)
    session.run("INSERT INTO t VALUES(3)")
    late_state = session.content()
    session.close()

    session = Session(path)
    assert session.content() == early_state
    undo_the_undo = session.log.request_restore(undo)
    assert early < undo < session.log.current_bookmark() < undo_the_undo
    session.close()

    session = Session(path)
    assert session.content() == late_state
    session.log.request_restore(undo_the_undo)
    session.close()

    session = Session(path)
    assert session.content() == early_state
    session.close()


def test_a_new_object_can_go_back_to_its_beginning(path: Path) -> None:
    session = Session(path)
    beginning = session.log.current_bookmark()
    session.run("CREATE TABLE t(a)")
    session.confirm()
    session.log.request_restore(beginning)
    session.close()
    session = Session(path)
    assert (
        session.database.exec("SELECT name FROM sqlite_master", (), None, lambda: None).to_array()
        == []
    )
    session.run("CREATE TABLE u(a)")
    session.close()
    session = Session(path)
    assert session.log.verify().sound
    session.close()


def test_what_was_committed_before_a_crash_is_in_the_history(path: Path) -> None:
    session = Session(path)
    states = {}
    for number in range(20):
        session.run(f"CREATE TABLE t{number}(a)")
        session.confirm()
        states[session.log.current_bookmark()] = session.content()
        if number % 5 == 4:
            session.fold()
        if number % 7 == 6:
            session.crash()
            session = Session(path)
            assert session.content() == list(states.values())[-1]
    for bookmark, state in states.items():
        assert session.exported(bookmark) == state
    session.close()


def test_sessions_that_write_too_little_to_fold_keep_no_more_than_the_retention(
    path: Path,
) -> None:
    clock = ManualTime()
    session = Session(path, clock)
    session.run("CREATE TABLE t(a)")
    oldest = session.log.current_bookmark()
    session.close()
    states: dict[str, str] = {}
    uses: list[int] = []
    for _ in range(4):
        for _ in range(10):
            clock.now_ms += SMALL.retention_ms // 10
            session = Session(path, clock)
            session.run("DELETE FROM t", "INSERT INTO t VALUES (hex(randomblob(2000)))")
            states[session.log.current_bookmark()] = session.content()
            session.close()
        session = Session(path, clock)
        uses.append(sum(session.log.disk_use()))
        for bookmark in list(states)[-10:]:
            assert session.exported(bookmark) == states[bookmark]
        session.close()
    assert uses[-1] < 1.5 * uses[1]
    session = Session(path, clock)
    with pytest.raises(BookmarkError, match=r"was pruned: .* begins at .* \(1970-01-01T00:"):
        session.log.request_restore(oldest)
    session.close()


def test_sessions_that_write_too_little_to_fold_make_snapshots(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SNAPSHOT_AFTER_MIN_BYTES", 64 * 1024)
    for _ in range(60):
        session = Session(path)
        session.run("CREATE TABLE IF NOT EXISTS t(a)", "DELETE FROM t")
        session.run("INSERT INTO t VALUES (randomblob(6000))")
        state = session.content()
        session.close()
    session = Session(path)
    assert 1 < len(session.log._reader.snapshots.all()) < 30
    assert session.exported() == state
    session.close()
