"""A COMMIT that the disk refuses half-way leaves the head of a frame, which is no commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from durable_storage.history.wal import HEADER_SIZE, WalHeader, parse_header

from .rig import Session


def leave_the_head_of_a_frame(session: Session) -> None:
    """As SQLite does when the page behind the head of a commit's last frame cannot be written."""
    descriptor = os.open(session.path + "-wal", os.O_RDWR)
    try:
        header = parse_header(os.pread(descriptor, HEADER_SIZE, 0))
        assert isinstance(header, WalHeader)
        last = header.last_commit(descriptor, 0)
        head = (2).to_bytes(4, "big") + (3).to_bytes(4, "big") + header.salts + b"\x12\x34" * 4
        os.pwrite(descriptor, head, header.offset(last + 1))
        assert header.last_commit(descriptor, 0) == last + 1
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("folded", [False, True])
def test_what_a_refused_commit_leaves_in_the_wal_is_not_archived(
    tmp_path: Path, folded: bool
) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a, b)")
    for number in range(12):
        session.run(("INSERT INTO t VALUES (?, ?)", str(number), "x" * 900))
    session.confirm()
    if folded:
        # Behind the frames of the new WAL there are now those of the old one.
        assert session.fold()
        session.run("INSERT INTO t VALUES ('last', '')")
        session.confirm()
    content, bookmark = session.content(), session.log.current_bookmark()
    leave_the_head_of_a_frame(session)
    session.close()
    session = Session(tmp_path / "object.sqlite")
    assert session.log.verify().sound
    assert session.content() == content
    for each in (bookmark, session.log.current_bookmark()):
        assert session.exported(each) == content
    session.close()


def test_a_fold_that_fails_makes_no_bookmark_of_what_it_leaves(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)")
    session.confirm()
    assert session.log.archive()
    bookmark = session.log.current_bookmark()
    leave_the_head_of_a_frame(session)
    assert session.log.current_bookmark() == bookmark
    session.run("INSERT INTO t VALUES (1)")
    session.confirm()
    assert session.log.current_bookmark() > bookmark
    assert session.exported(session.log.current_bookmark()) == session.content()
    session.close()
