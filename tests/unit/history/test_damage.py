"""Bytes that change on the disk, and what can still be had."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from durable_storage.errors import BookmarkError
from durable_storage.history import retention

from .rig import Session

States = dict[str, str]


def build(path: Path, folds: int = 8) -> tuple[Session, States]:
    """Return an object whose every fold is a block, with a few commits each."""
    session = Session(path)
    states: States = {}
    for number in range(folds):
        for part in range(3):
            session.run(
                f"CREATE TABLE t{number}_{part}(a)", f"INSERT INTO t{number}_{part} VALUES(1)"
            )
            states[session.log.current_bookmark()] = session.content()
        session.fold()
    return session, states


def flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x55]))


@pytest.mark.parametrize("where", ["payload", "header"])
def test_a_damaged_block_costs_only_the_bookmarks_that_need_it(tmp_path: Path, where: str) -> None:
    session, states = build(tmp_path / "object.sqlite")
    log = session.log._log
    retention.make_snapshot(session.log._reader, log.entries()[4], session.log._files)
    victim = log.entries()[2]
    flip(victim.segment, victim.offset + (20 if where == "header" else victim.block.size - 5))
    session.close()
    session = Session(session.path)

    needs_it = [bookmark for index, bookmark in enumerate(states) if 2 * 3 <= index < 5 * 3 - 1]
    for bookmark, state in states.items():
        if bookmark in needs_it:
            with pytest.raises(BookmarkError, match="block 3 is") as caught:
                session.exported(bookmark)
            named = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){2}-[0-9a-f]{32}", str(caught.value))
            for other in named[1:]:
                if other in states:
                    assert session.exported(other) == states[other]
        else:
            assert session.exported(bookmark) == state
    verification = session.log.verify()
    assert not verification.sound
    assert len(verification.restorable) == 2
    (_, first_end), (second_start, _) = verification.restorable
    assert first_end == list(states)[2 * 3 - 1]
    assert second_start == list(states)[5 * 3 - 1]
    session.close()


def test_a_damaged_snapshot_is_done_without(tmp_path: Path) -> None:
    session, states = build(tmp_path / "object.sqlite")
    reader = session.log._reader
    retention.make_snapshot(reader, reader.log.entries()[4], session.log._files)
    (snapshot,) = reader.snapshots.all()
    flip(snapshot.path, snapshot.size // 2)
    for bookmark, state in states.items():
        assert session.exported(bookmark) == state
    verification = session.log.verify()
    assert verification.damages == (f"{snapshot.path} is damaged",)
    assert len(verification.restorable) == 1
    session.close()


def test_history_goes_on_after_its_newest_block_was_damaged(tmp_path: Path) -> None:
    session, states = build(tmp_path / "object.sqlite", folds=4)
    session.close()
    for victim in session.log._log.entries()[-2:]:
        flip(victim.segment, victim.offset + 20)
    session = Session(session.path)
    content = session.content()
    assert content == list(states.values())[-1]
    session.run("CREATE TABLE afterwards(a)")
    after, state = session.log.current_bookmark(), session.content()
    session.fold()
    assert session.exported(after) == state
    for bookmark in list(states)[: 3 * 3]:
        assert session.exported(bookmark) == states[bookmark]
    session.close()
    session = Session(session.path)
    assert session.content() == state
    session.close()


def test_an_object_whose_history_cannot_be_read_still_opens(tmp_path: Path) -> None:
    session, states = build(tmp_path / "object.sqlite", folds=3)
    session.close()
    directory = session.path + "-history/log"
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        with open(path, "r+b") as file:
            file.write(b"\0" * os.path.getsize(path))
    os.utime(session.path)  # so that the file has to be looked at
    session = Session(session.path)
    assert session.content() == list(states.values())[-1]
    bookmark, content = session.log.current_bookmark(), session.content()
    session.run("CREATE TABLE more(a)")
    assert session.exported(bookmark) == content
    session.close()


@pytest.mark.parametrize("name", ["base", "identity"])
def test_small_files_that_are_lost_or_unreadable_cost_nothing(tmp_path: Path, name: str) -> None:
    for content in (None, b"", b"{}", b"\xff\xfe"):
        path = tmp_path / f"object{content!r}.sqlite"
        session, states = build(path, folds=3)
        session.close()
        record = f"{path}-history/{name}"
        if content is None:
            os.unlink(record)
        else:
            Path(record).write_bytes(content)
        session = Session(path)
        for bookmark, state in states.items():
            assert session.exported(bookmark) == state
        session.close()
