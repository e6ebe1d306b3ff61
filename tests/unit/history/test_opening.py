"""Files that come from elsewhere, or were changed behind the log's back."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from durable_storage import DurableObjectState
from durable_storage.errors import BookmarkError, DatabaseFileError
from durable_storage.history import CommitLog, History

from .rig import SMALL, ManualTime, Session, file_content
from .test_damage import flip

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "object.sqlite"


def edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_from_elsewhere_becomes_the_first_commit(
    path: Path, page_size: int, mode: str
) -> None:
    edit(
        path,
        f"PRAGMA page_size={page_size}",
        f"PRAGMA journal_mode={mode}",
        "CREATE TABLE t(a)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500)"
        " INSERT INTO t SELECT zeroblob(i) FROM n",
    )
    before = file_content(str(path))
    session = Session(path)
    imported = session.log.current_bookmark()
    session.run("DELETE FROM t")
    session.fold()
    session.run("CREATE TABLE u(a)")
    session.crash()
    session = Session(path)
    assert session.exported(imported) == before
    session.log.request_restore(imported)
    session.close()
    session = Session(path)
    assert session.content() == before
    session.close()


def test_a_change_from_outside_becomes_a_commit(path: Path) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    mine, my_state = session.log.current_bookmark(), session.content()
    session.close()
    edit(path, "INSERT INTO t VALUES(1)")
    session = Session(path)
    theirs, their_state = session.log.current_bookmark(), session.content()
    assert mine < theirs
    assert their_state != my_state
    session.run("DROP TABLE t")
    assert session.exported(mine) == my_state
    assert session.exported(theirs) == their_state
    session.close()


def test_a_change_from_outside_after_a_crash_loses_nothing(path: Path) -> None:
    session = Session(path)
    states = {}
    for number in range(5):
        session.run(f"CREATE TABLE t{number}(a)")
        session.confirm()
        states[session.log.current_bookmark()] = session.content()
        if number == 2:
            session.fold()
    session.crash()
    edit(path, "CREATE TABLE theirs(a)")  # which folds and removes the WAL
    session = Session(path)
    states[session.log.current_bookmark()] = session.content()
    assert "theirs" in str(
        session.database.exec("SELECT name FROM sqlite_master", (), None, print).to_array()
    )
    for bookmark, state in states.items():
        assert session.exported(bookmark) == state
    session.close()


def test_a_file_that_is_gone_is_an_empty_database_and_its_history_stays(path: Path) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    bookmark, state = session.log.current_bookmark(), session.content()
    session.close()
    os.unlink(path)
    session = Session(path)
    assert session.exported(bookmark) == state
    session.log.request_restore(bookmark)
    session.close()
    session = Session(path)
    assert session.content() == state
    session.close()


def test_history_that_was_off_for_a_while_goes_on_with_the_difference(path: Path) -> None:
    from durable_storage.database.connection import Database

    session = Session(path)
    session.run("CREATE TABLE t(a)")
    bookmark, state = session.log.current_bookmark(), session.content()
    session.close()
    database = Database(path)
    database.begin()
    database.exec("INSERT INTO t VALUES(1)", (), None, lambda: None)
    database.commit()
    database.close()
    session = Session(path)
    assert session.exported(bookmark) == state
    assert session.exported(session.log.current_bookmark()) == session.content() != state
    session.close()


@pytest.mark.anyio
async def test_a_restore_is_done_by_a_session_without_history_and_undoes_nothing_later(
    path: Path,
) -> None:
    async with DurableObjectState.open(path) as ctx:
        ctx.storage.put("kept", 1)
        bookmark = await ctx.storage.get_current_bookmark()
        ctx.storage.put("undone", 1)
        await ctx.storage.sync()
        undo = await ctx.storage.on_next_session_restore_bookmark(bookmark)
    async with DurableObjectState.open(path, history=History(enabled=False)) as ctx:
        assert await ctx.storage.list() == {"kept": 1}
        ctx.storage.put("later", 1)
    async with DurableObjectState.open(path) as ctx:
        assert await ctx.storage.list() == {"kept": 1, "later": 1}
        await ctx.storage.on_next_session_restore_bookmark(undo)
    async with DurableObjectState.open(path) as ctx:
        assert await ctx.storage.list() == {"kept": 1, "undone": 1}


def test_opening_for_reading_only_writes_nothing(path: Path) -> None:
    for _ in range(2):
        session = Session(path)
        session.content()
        session.confirm()
        session.close()
    assert not os.path.exists(f"{path}-history")
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    session.close()
    files = sorted((p, p.stat().st_mtime_ns) for p in path.parent.rglob("*") if p.is_file())
    session = Session(path)
    session.content()
    session.close()
    assert files == sorted((p, p.stat().st_mtime_ns) for p in path.parent.rglob("*") if p.is_file())


def test_only_the_owner_may_read_history(path: Path) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    session.confirm()
    session.log.request_restore(session.log.current_bookmark())
    session.fold()
    for directory, _, names in os.walk(f"{path}-history"):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        for name in names:
            assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600, name
    session.close()
    session = Session(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    session.close()


def test_what_is_not_a_database_is_left_alone(path: Path) -> None:
    path.write_bytes(b"certainly not a database " * 1000)
    log = CommitLog.open(path, settings=SMALL, clock_ms=ManualTime())
    log.close()
    assert not os.path.exists(f"{path}-history")
    path.write_bytes(b"SQLite format 3\0\x10\0" + b"garbage" * 2000)
    with pytest.raises(DatabaseFileError):
        CommitLog.open(path, settings=SMALL, clock_ms=ManualTime())


def test_a_file_that_another_process_has_open_is_refused(path: Path) -> None:
    edit(path, "CREATE TABLE t(a)")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO t VALUES(1)")
    with pytest.raises(DatabaseFileError, match="open already, in this process or another"):
        CommitLog.open(path, settings=SMALL, clock_ms=ManualTime())
    other.close()
    Session(path).close()


def test_a_restore_that_has_become_impossible_is_given_up_once(path: Path) -> None:
    session = Session(path)
    bookmarks = []
    for number in range(3):
        session.run(f"CREATE TABLE t{number}(a)")
        bookmarks.append(session.log.current_bookmark())
        session.fold()
    session.log.request_restore(bookmarks[0])
    state = session.content()
    session.close()
    entry = session.log._log.entries()[0]
    flip(entry.segment, entry.stop - 4)
    with pytest.raises(BookmarkError, match="cannot be restored"):
        Session(path)
    session = Session(path)
    assert session.content() == state
    session.close()


def test_the_exit_of_an_interpreter_that_closes_nothing_loses_no_bookmark(path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.unit.history.rig import Session
session = Session({str(path)!r})
for number in range(5):
    session.run(f"CREATE TABLE t{{number}}(a)")
    session.confirm()
    print(session.log.current_bookmark(), session.content())
    if number == 2 and {{fold}}:
        session.fold()
"""
    for fold in (True, False):
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script.replace("{fold}", str(fold))],
            capture_output=True,
            text=True,
            check=True,
        )
        assert not os.path.exists(f"{path}-wal")
        session = Session(path)
        lines = [line.split() for line in result.stdout.splitlines()]
        for bookmark, state in lines:
            assert session.exported(bookmark) == state
        assert session.content() == lines[-1][1]
        session.close()
        path = path.with_name("other.sqlite")
        script = script.replace("object.sqlite", "other.sqlite")


def test_settings_are_checked() -> None:
    from datetime import timedelta

    from durable_storage.errors import ArgumentTypeError, ArgumentValueError

    with pytest.raises(ArgumentValueError, match="retention"):
        History(retention=timedelta(0))
    with pytest.raises(ArgumentTypeError, match="retention"):
        History(retention=30)  # type: ignore[arg-type]
    with pytest.raises(ArgumentValueError, match="at least 4096"):
        History(segment_size_bytes=100)
    with pytest.raises(ArgumentTypeError, match="enabled"):
        History(enabled=1)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="segment_size"):
        History(segment_size_bytes=True)
