"""Bytes that change on the disk, and what can still be had."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from durable_storage.cli.copies import open_reader
from durable_storage.errors import BookmarkError
from durable_storage.history import retention
from durable_storage.history.block import BLOCK_HEADER_SIZE
from durable_storage.history.layout import Layout
from durable_storage.history.verify import verify

from .rig import ManualTime, Session

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


@pytest.mark.parametrize("victim", [0, 1, 2, 3, 4, "snapshot"])
def test_a_restore_can_be_undone_although_the_log_is_damaged(
    tmp_path: Path, victim: int | str
) -> None:
    (tmp_path / "built").mkdir()
    session, states = build(tmp_path / "built" / "object.sqlite", folds=5)
    if victim == "snapshot":
        clock = session.clock
        assert isinstance(clock, ManualTime)
        states = {}
        for number in range(6):
            clock.now_ms += 200_000 if number < 3 else 1
            for part in range(3):
                session.run(f"UPDATE t4_2 SET a = {number * 3 + part}")
                states[session.log.current_bookmark()] = session.content()
            # Not folded, which would write the first page once more.
            session.close()
            session = Session(session.path, clock)
        for _ in range(2 * 3):
            del states[next(iter(states))]  # pruned, or what the snapshot alone has
        (snapshot,) = session.log._reader.snapshots.all()
        flip(snapshot.path, snapshot.size * 3 // 4)
    else:
        block = session.log._log.entries()[int(victim)]
        flip(block.segment, block.stop - 5)
    live = session.content()
    session.close()
    restored = 0
    for number, (bookmark, state) in enumerate(states.items()):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "built", directory)
        path = directory / "object.sqlite"
        session = Session(path, session.clock)
        undo = session.log.request_restore(bookmark)
        session.close()
        try:
            session = Session(path, session.clock)
        except BookmarkError:
            session = Session(path, session.clock)
        else:
            restored += 1
            assert session.content() == state
            redo = session.log.request_restore(undo)
            session.close()
            session = Session(path, session.clock)
            assert session.content() == live
            session.log.request_restore(redo)
            session.close()
            session = Session(path, session.clock)
            assert session.content() == state
            session.log.request_restore(undo)
            session.close()
            session = Session(path, session.clock)
        assert session.content() == live
        session.close()
    assert restored >= 2


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


def test_a_log_whose_beginning_is_lost_is_damaged_and_holds_what_was_written_later(
    tmp_path: Path,
) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)", "INSERT INTO t VALUES(zeroblob(3000))")
    early = session.log.current_bookmark()
    session.fold()
    for _ in range(3):
        session.run("UPDATE t SET a = randomblob(3000)")
        session.fold()
    session.vacuum()  # writes every page
    session.fold()
    late, state = session.log.current_bookmark(), session.content()
    session.close()
    victim = session.log._log.entries()[0]
    flip(victim.segment, victim.offset + 20)
    session = Session(session.path)
    verification = session.log.verify()
    assert not verification.sound
    assert "the first block of" in verification.damages[0]
    assert session.exported(late) == session.content() == state
    with pytest.raises(BookmarkError):
        session.exported(early)
    session.close()


@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
def test_a_damaged_header_at_an_end_of_the_log_is_reported_wherever_the_damage_is(
    tmp_path: Path, which: int
) -> None:
    session, states = build(tmp_path / "object.sqlite")
    # Behind it the log could go on without what was before.
    retention.make_snapshot(session.log._reader, session.log._log.entries()[0], session.log._files)
    session.close()
    victim = session.log._log.entries()[which]
    kept = tmp_path / "kept"
    shutil.copytree(session.path + "-history", kept)
    status = os.stat(session.path)
    for offset in range(BLOCK_HEADER_SIZE):
        flip(victim.segment, victim.offset + offset)
        reader = open_reader(Layout(session.path))
        assert reader is not None
        assert not verify(reader).sound, f"byte {offset}, unopened"
        again = Session(session.path)
        verification = again.log.verify()
        assert not verification.sound, f"byte {offset}"
        assert again.content() == list(states.values())[-1]
        for bookmark, state in list(states.items())[:: len(states) - 1]:
            try:
                assert again.exported(bookmark) == state
            except BookmarkError:
                continue
        now = again.log.current_bookmark()
        assert again.exported(now) == again.content()
        again.close()
        shutil.rmtree(session.path + "-history")
        shutil.copytree(kept, session.path + "-history")
        os.utime(session.path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_lost_end_is_still_reported_when_the_log_has_gone_on_for_long(tmp_path: Path) -> None:
    session, _ = build(tmp_path / "object.sqlite")
    session.close()
    victim = session.log._log.entries()[-1]
    flip(victim.segment, victim.offset + 20)
    for number in range(3):
        session = Session(session.path)
        session.run(f"CREATE TABLE later{number}(a)")
        (damage,) = session.log.verify().damages
        assert f"between block {victim.block.number - 1} and block" in damage
        session.fold()
        session.crash()
    session = Session(session.path)
    assert session.exported(session.log.current_bookmark()) == session.content()
    session.close()


@pytest.mark.parametrize("snapshot", ["in a segment", "at the end of a segment"])
def test_a_first_segment_that_is_lost_is_told_from_one_that_was_pruned(
    tmp_path: Path, snapshot: str
) -> None:
    session, _ = build(tmp_path / "object.sqlite", folds=40)
    entries = session.log._log.entries()
    segments = session.log._log.segments()
    assert len(segments) > 2
    (*_, before_last, last) = [entry for entry in entries if entry.segment == segments[1]]
    kept = before_last if snapshot == "in a segment" else last
    retention.make_snapshot(session.log._reader, kept, session.log._files)
    session.close()
    os.unlink(segments[0])
    reader = open_reader(Layout(session.path))
    assert reader is not None
    # Pruning drops one segment after the other, up to the one that ends with its snapshot.
    assert verify(reader).sound == (snapshot == "at the end of a segment")
    os.unlink(segments[1])
    reader = open_reader(Layout(session.path))
    assert reader is not None
    assert verify(reader).sound == (snapshot == "at the end of a segment")


def test_blocks_that_are_lost_from_the_end_are_damage(tmp_path: Path) -> None:
    session, _ = build(tmp_path / "object.sqlite", folds=4)
    session.close()
    victim = session.log._log.entries()[-1]
    os.truncate(victim.segment, victim.offset)
    reader = open_reader(Layout(session.path))
    assert reader is not None
    verification = verify(reader)
    assert not verification.sound
    number = victim.block.number
    assert f"ends with block {number - 1}, but there was a block {number}" in str(
        verification.damages
    )


def test_no_bookmark_of_a_lost_log_names_a_commit_of_the_next(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)")
    first = session.log.current_bookmark()
    session.run("INSERT INTO t VALUES(1)")
    session.close()
    shutil.rmtree(f"{session.path}-history/log")
    session = Session(session.path)
    session.run("INSERT INTO t VALUES(2)")
    state = session.content()
    with pytest.raises(BookmarkError, match="another object"):
        session.log.request_restore(first)
    session.close()
    session = Session(session.path)
    assert session.content() == state
    assert session.log.verify().sound
    session.close()


def test_a_restore_whose_log_is_lost_is_given_up(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)")
    first = session.log.current_bookmark()
    session.run("INSERT INTO t VALUES(1)")
    state = session.content()
    session.log.request_restore(first)
    session.close()
    shutil.rmtree(f"{session.path}-history/log")
    with pytest.raises(BookmarkError, match=f"{first} cannot be restored"):
        Session(session.path)
    session = Session(session.path)
    assert session.content() == state
    session.close()


def test_a_file_of_another_name_among_the_segments_is_left_alone(tmp_path: Path) -> None:
    session, states = build(tmp_path / "object.sqlite", folds=3)
    session.close()
    for name in ("notes.segment", "README"):
        Path(f"{session.path}-history/log/{name}").write_text("of somebody else")
    session = Session(session.path)
    for bookmark, state in states.items():
        assert session.exported(bookmark) == state
    session.close()


@pytest.mark.parametrize("name", ["log", "snapshots"])
def test_a_directory_of_the_log_that_is_gone_is_made_again(tmp_path: Path, name: str) -> None:
    session, states = build(tmp_path / "object.sqlite", folds=3)
    session.close()
    shutil.rmtree(f"{session.path}-history/{name}")
    session = Session(session.path)
    assert session.content() == list(states.values())[-1]
    for bookmark, state in states.items():
        if name == "log":
            with pytest.raises(BookmarkError):
                session.log.request_restore(bookmark)
        else:
            assert session.exported(bookmark) == state
    session.run("CREATE TABLE more(a)")
    assert session.exported(session.log.current_bookmark()) == session.content()
    session.close()


@pytest.mark.parametrize("distance", [1, 100])
def test_a_segment_that_was_copied_to_another_name_costs_nothing(
    tmp_path: Path, distance: int
) -> None:
    session, states = build(tmp_path / "object.sqlite")
    session.close()
    segments = session.log._log.segments()
    assert len(segments) == 2
    for copied in (segments[0], segments[-1]):
        last = session.log._log.number
        stray = os.path.join(os.path.dirname(copied), f"{last + distance:016x}.segment")
        shutil.copyfile(copied, stray)
        reader = open_reader(Layout(session.path))
        assert reader is not None
        found = verify(reader)
        assert [stray in each for each in found.damages] == [True]
        assert found.blocks == last
        session = Session(session.path)
        session.run(f"CREATE TABLE after_{last}(a)")
        states[session.log.current_bookmark()] = session.content()
        session.fold()
        assert {bookmark: session.exported(bookmark) for bookmark in states} == states
        session.close()
        if os.path.exists(stray):
            os.unlink(stray)
        assert session.log.verify().sound
