from __future__ import annotations

from pathlib import Path

import pytest

from .rig import Session


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
