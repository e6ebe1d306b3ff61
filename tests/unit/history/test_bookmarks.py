from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_storage.errors import ArgumentTypeError, BookmarkError
from durable_storage.history.bookmarks import Position, format_bookmark, parse_bookmark

from .rig import ManualTime, Session

OBJECT = bytes(range(16))
words = st.integers(0, 0xFFFFFFFF)
positions = st.builds(Position, words, words, words)


@given(positions, positions)
def test_bookmarks_compare_as_strings_in_the_order_of_positions(
    first: Position, second: Position
) -> None:
    one, other = format_bookmark(OBJECT, first), format_bookmark(OBJECT, second)
    assert (one < other) == (first < second)
    assert parse_bookmark(OBJECT, one) == first
    assert [len(group) for group in one.split("-")] == [8, 8, 8, 32]


@pytest.mark.parametrize(
    "change",
    [
        lambda mark: mark[:-1],
        lambda mark: mark.upper(),
        lambda mark: mark + "0",
        lambda mark: mark + "\n",
        lambda mark: mark.replace("-", ""),
        lambda mark: "g" + mark[1:],
        lambda mark: "",
        lambda mark: "٠" + mark[1:],
    ],
)
def test_what_is_not_a_bookmark_is_refused(change: object) -> None:
    bookmark = format_bookmark(OBJECT, Position(1, 2, 0xABC))
    with pytest.raises(BookmarkError, match="not a bookmark"):
        parse_bookmark(OBJECT, change(bookmark))  # type: ignore[operator]


def test_a_bookmark_that_was_changed_or_is_of_another_object_is_refused() -> None:
    bookmark = format_bookmark(OBJECT, Position(1, 2, 3))
    with pytest.raises(BookmarkError, match="another object"):
        parse_bookmark(bytes(16), bookmark)
    with pytest.raises(BookmarkError, match="another object"):
        parse_bookmark(OBJECT, bookmark.replace("00000003-", "00000004-"))


def test_a_bookmark_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(ArgumentTypeError, match="got NoneType"):
        parse_bookmark(OBJECT, None)  # type: ignore[arg-type]


def test_a_position_that_is_still_to_come_is_refused(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)")
    reader = session.log._reader
    for position in (Position(1, 1, 99), Position(1, 7, 1), Position(2, 2, 1)):
        with pytest.raises(BookmarkError, match="of the future"):
            session.log.request_restore(reader.bookmark(position))
    session.fold()
    with pytest.raises(BookmarkError, match="names no commit"):
        session.log.request_restore(reader.bookmark(Position(1, 1, 1)))
    session.close()


def test_a_frame_in_the_middle_of_a_commit_is_refused(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)", "CREATE TABLE u(a)")
    inside = session.log._reader.bookmark(Position(1, 1, 2))
    with pytest.raises(BookmarkError):
        session.log.request_restore(inside)
    with pytest.raises(BookmarkError):
        session.log.export(tmp_path / "exported", inside)
    assert not (tmp_path / "exported").exists()
    session.close()


def test_a_time_before_history_or_in_the_future_is_refused(tmp_path: Path) -> None:
    clock = ManualTime(5000)
    session = Session(tmp_path / "object.sqlite", clock)
    with pytest.raises(BookmarkError, match="before this object's history begins"):
        session.log.bookmark_for_time(4000)
    session.run("CREATE TABLE t(a)")
    session.confirm()
    for archived in (False, True):
        if archived:
            session.fold()
        with pytest.raises(BookmarkError, match="which is at 1970-01-01T00:00:05"):
            session.log.bookmark_for_time(4999)
        with pytest.raises(BookmarkError, match="future: it is 1970-01-01T00:00:05"):
            session.log.bookmark_for_time(5001)
        with pytest.raises(BookmarkError, match=f"the time {10**18} .milliseconds since the epoch"):
            session.log.bookmark_for_time(10**18)
        assert session.exported(session.log.bookmark_for_time(5000)) == session.content()
    with pytest.raises(ArgumentTypeError):
        session.log.bookmark_for_time(5000.0)  # type: ignore[arg-type]
    session.close()


class _NoRoomForBase:
    """Refuses to name a new WAL durably."""

    def __init__(self) -> None:
        self.full = False

    def before(self, operation: str, path: str) -> None:
        if self.full and os.path.basename(path).startswith("base"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def test_a_bookmark_right_after_a_fold_outlives_the_process(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)")
    # The threads of the background have other things to do.
    session.log._start = lambda work: None
    assert session.fold()
    session.run("INSERT INTO t VALUES(1)")
    bookmark, state = session.log.current_bookmark(), session.content()
    session.crash()
    session = Session(session.path)
    assert session.exported(bookmark) == state
    assert session.log.verify().sound
    session.close()


def test_no_bookmark_is_given_of_a_wal_that_the_disk_refuses_to_name(tmp_path: Path) -> None:
    disk = _NoRoomForBase()
    session = Session(tmp_path / "object.sqlite", faults=disk)
    session.run("CREATE TABLE t(a)")
    first = session.log.current_bookmark()
    disk.full = True
    assert session.fold()
    session.run("INSERT INTO t VALUES(1)")
    with pytest.raises(BookmarkError, match="no bookmarks"):
        session.log.current_bookmark()
    with pytest.raises(BookmarkError, match="no bookmarks"):
        session.log.bookmark_for_time(session.clock())
    with pytest.raises(BookmarkError, match="no bookmarks"):
        session.log.request_restore(first)
    disk.full = False
    bookmark, state = session.log.current_bookmark(), session.content()
    session.crash()
    session = Session(session.path)
    assert session.exported(bookmark) == state
    session.close()
