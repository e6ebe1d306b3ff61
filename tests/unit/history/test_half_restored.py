"""SQLite puts what a restore changes into the file: what if that is not done to its end."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest

from durable_storage.errors import BookmarkError, DatabaseFileError
from durable_storage.history import recovery

from .rig import Session, content, file_content


class Died(BaseException):
    pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "object.sqlite"


def build(path: Path) -> tuple[Session, str, str]:
    """Return an object of several segments, a bookmark in their middle, and its state."""
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    for number in range(12):
        session.run(("INSERT INTO t VALUES(?)", str(number) * 5000))
        if number % 3 == 2:
            session.fold()
    bookmark, state = session.log.current_bookmark(), session.content()
    for number in range(12):
        session.run(("UPDATE t SET a = ? WHERE rowid % 2", "x" * 5000))
        session.run("DELETE FROM t WHERE rowid = (SELECT max(rowid) FROM t)")
        session.fold()
        if number == 4:
            break
    return session, bookmark, state


def restore_and_die(session: Session, bookmark: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Restore, and end the process when half of the pages are written; return how to undo it."""
    undo = session.log.request_restore(bookmark)
    session.close()
    genuine = recovery._connect

    def half(path: str) -> sqlite3.Connection:
        if not os.path.exists(path + "-journal"):
            return genuine(path)
        with open(path, "r+b") as file, open(path + "-journal", "rb") as journal:
            count, pages, page_size = struct.unpack(">8xI4xI4xI", journal.read(28))
            assert count > 3
            file.truncate(pages * page_size)
            journal.seek(512)
            for _ in range(count // 2):
                file.seek((int.from_bytes(journal.read(4), "big") - 1) * page_size)
                file.write(journal.read(page_size))
                journal.read(4)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "_connect", half)
        with pytest.raises(Died):
            Session(session.path)
    return undo


class Death:
    """Ends the process before an operation on a file."""

    def __init__(self, operation: str, suffix: str) -> None:
        self.operation = operation
        self.suffix = suffix

    def before(self, operation: str, path: str) -> None:
        if operation == self.operation and path.endswith(self.suffix):
            raise Died


LOGGED = ("rename", "-journal")
CHANGED = ("unlink", "-history/times")
RECORDED = ("unlink", "-history/restore")


def restore_and_die_at(session: Session, bookmark: str, point: tuple[str, str]) -> str:
    """Restore, and end the process at some point; return how to undo it."""
    undo = session.log.request_restore(bookmark)
    session.close()
    with pytest.raises(Died):
        Session(session.path, faults=Death(*point))
    return undo


def flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def damage(session: Session, *numbers: int) -> None:
    entries = session.log._log.entries()
    for number in numbers:
        flip(entries[number].segment, entries[number].stop - 5)


def test_the_next_open_finishes_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, bookmark, state = build(path)
    live = session.content()
    undo = restore_and_die(session, bookmark, monkeypatch)
    session = Session(path)
    assert session.content() == state
    assert session.log.verify().sound
    session.log.request_restore(undo)
    session.close()
    assert Session(path).content() == live


def test_whoever_opens_the_file_before_sees_the_restored_object(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, bookmark, state = build(path)
    restore_and_die(session, bookmark, monkeypatch)
    other = path.with_name("copy.sqlite")
    for suffix in ("", "-journal"):
        shutil.copyfile(f"{path}{suffix}", f"{other}{suffix}")
    connection = sqlite3.connect(other)
    assert content(connection) == state
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_it_is_finished_although_its_journal_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, bookmark, state = build(path)
    restore_and_die(session, bookmark, monkeypatch)
    Path(f"{path}-journal").unlink()
    assert Session(path).content() == state


def test_a_restore_to_another_page_size(path: Path) -> None:
    session, bookmark, state = build(path)
    live = session.content()
    session.close()
    outside = sqlite3.connect(path)
    for statement in ("PRAGMA journal_mode=DELETE", "PRAGMA page_size=16384", "VACUUM"):
        outside.execute(statement)
    outside.close()
    session = Session(path)
    assert session.content() == live
    undo = session.log.request_restore(bookmark)
    session.close()
    session = Session(path)
    assert session.content() == state
    session.log.request_restore(undo)
    session.close()
    assert Session(path).content() == live


def test_that_takes_no_more_of_the_log_than_the_restore_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, bookmark, state = build(path)
    restore_and_die(session, bookmark, monkeypatch)
    damage(session, 0, 1, 2)
    assert Session(path).content() == state


def test_if_that_is_damaged_it_is_done_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, bookmark, state = build(path)
    live = session.content()
    undo = restore_and_die(session, bookmark, monkeypatch)
    newest = max(Path(session.log._log.segments()[-1]).parent.iterdir())
    flip(str(newest), newest.stat().st_size - 5)
    session = Session(path)
    assert session.content() == state
    session.log.request_restore(undo)
    session.close()
    assert Session(path).content() == live


def test_a_file_that_another_process_reads_is_not_changed_under_it(path: Path) -> None:
    session, bookmark, state = build(path)
    live = session.content()
    session.log.request_restore(bookmark)
    session.close()
    before = path.read_bytes()
    other = sqlite3.connect(path)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM t").fetchone()
    with pytest.raises(DatabaseFileError, match="open already"):
        Session(path)
    assert path.read_bytes() == before
    other.close()
    session = Session(path)
    assert session.content() == state != live


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot tell")
def test_without_room_for_a_larger_file_the_object_stays_as_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, bookmark, state = build(path)
    session.run("DELETE FROM t")
    session.vacuum()
    live = session.content()
    session.log.request_restore(bookmark)
    session.close()
    asked: list[int] = []

    def full(descriptor: int, offset: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="no room to restore"):
            Session(path)
    assert asked[0] > 10 * 4096
    session = Session(path)
    assert session.content() == live
    session.log.request_restore(bookmark)
    session.close()
    assert Session(path).content() == state


@pytest.mark.parametrize("point", [LOGGED, CHANGED, RECORDED])
def test_a_restore_that_was_cut_short_takes_back_what_others_wrote_since(
    path: Path, point: tuple[str, str]
) -> None:
    session, bookmark, state = build(path)
    live = session.content()
    undo = restore_and_die_at(session, bookmark, point)
    outside = sqlite3.connect(path, isolation_level=None)
    for statement in ("CREATE TABLE others(a)", "DELETE FROM t WHERE rowid % 3", "VACUUM"):
        outside.execute(statement)
    outside.close()
    session = Session(path)
    assert session.content() == state
    assert file_content(session.path) == state
    session.log.request_restore(undo)
    session.close()
    assert Session(path).content() == live


@pytest.mark.parametrize("loss", ["missing", "empty", "cut", "older"])
def test_a_restore_that_was_cut_short_does_not_need_the_file(path: Path, loss: str) -> None:
    session, bookmark, state = build(path)
    older = path.read_bytes()
    session.run("CREATE TABLE more AS SELECT a FROM t")
    restore_and_die_at(session, bookmark, LOGGED)
    if loss == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": path.read_bytes()[: 3 * 4096], "older": older}[loss])
    session = Session(path)
    assert session.content() == state
    session.close()
    assert file_content(session.path) == state


@pytest.mark.parametrize("point", [CHANGED, RECORDED])
def test_without_the_log_of_it_a_restore_is_given_up_and_the_object_can_be_opened(
    path: Path, point: tuple[str, str]
) -> None:
    session, bookmark, state = build(path)
    restore_and_die_at(session, bookmark, point)
    newest = max(Path(session.log._log.segments()[-1]).parent.iterdir())
    flip(str(newest), newest.stat().st_size - 5)
    try:
        session = Session(path)
    except BookmarkError:
        session = Session(path)
    assert session.content() == state


def test_a_new_object_whose_file_is_lost_can_be_restored_to_its_beginning(path: Path) -> None:
    session = Session(path)
    beginning, state = session.log.current_bookmark(), session.content()
    session.log.request_restore(beginning)
    session.close()
    path.unlink()
    session = Session(path)
    assert session.content() == state
    session.run("CREATE TABLE t(a)")
    session.close()


def test_a_restore_that_was_cut_short_waits_for_others_that_have_the_file_open(path: Path) -> None:
    session, bookmark, state = build(path)
    restore_and_die_at(session, bookmark, CHANGED)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("INSERT INTO t VALUES('theirs')")
    with pytest.raises(DatabaseFileError, match="open already"):
        Session(path)
    assert Path(f"{path}-wal").exists()
    other.close()
    assert Session(path).content() == state


def test_a_file_that_is_written_to_while_a_restore_is_logged_is_not_mixed_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, bookmark, state = build(path)
    session.log.request_restore(bookmark)
    session.close()
    genuine = recovery.Recovery._log_change

    def written(*arguments: Any) -> None:
        genuine(*arguments)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("DELETE FROM t WHERE rowid % 2")
        other.execute("VACUUM")
        other.close()

    with monkeypatch.context() as patch:
        patch.setattr(recovery.Recovery, "_log_change", written)
        with pytest.raises(DatabaseFileError, match="open already"):
            Session(path)
    session = Session(path)
    assert session.content() == state
    session.close()
    assert file_content(session.path) == state


@pytest.mark.parametrize("name", ["image.new", "journal.new", "snapshot.new"])
def test_what_a_dead_process_needed_for_a_while_is_removed(path: Path, name: str) -> None:
    session, bookmark, _ = build(path)
    restore_and_die_at(session, bookmark, CHANGED)
    left = Path(f"{path}-history") / name
    left.write_bytes(b"left")
    Session(path).close()
    assert not left.exists()
