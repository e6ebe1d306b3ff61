"""What the log takes for durable is durable, and a file's log is written by one session only."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durable_storage.clock import SystemClock
from durable_storage.history import archive, commit_log, recovery
from durable_storage.history.layout import Layout
from durable_storage.limits import Limits
from durable_storage.storage.object_file import ObjectFile

from ...crash.history.disk import Disk
from ...crash.history.workload import Trusted
from .rig import SMALL, ManualTime, Session


class Machine:
    """Opens one object on a disk that can lose power, and that can refuse to write the log.

    Attributes:
        segment_writes: so many more writes of a segment succeed, and no cut of one, if it is set.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._clock = ManualTime()
        root = place / "live"
        root.mkdir()
        self.path = str(root / "object.sqlite")
        self.segment_writes: int | None = None
        self.disk = Disk(str(root), self._at_point)

    def _at_point(self, number: int, operation: str, path: str) -> None:
        if self.segment_writes is None or not path.endswith(".segment"):
            return
        self.segment_writes -= operation == "write"
        if operation == "truncate" or self.segment_writes < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def open(self) -> Session:
        session = Session(self.path, self._clock, SMALL, self.disk)
        session.log.attach(Trusted(session, self.disk))
        return session

    def fold(self, session: Session) -> None:
        """Fold the WAL as `ObjectFile.fold` does, and note what SQLite syncs."""
        assert session.log.archive()
        assert session.database.checkpoint(restart=False)
        self.note_synced()
        session.database.restart_wal()
        session.database.confirm()
        self.note_synced()
        session.log.checkpointed()

    def note_synced(self) -> None:
        for path in (self.path, self.path + "-wal"):
            if os.path.exists(path):
                self.disk.synced(path)

    def lose_power(self) -> str:
        """Return a copy of the object's file, with its history, as the disk holds it now."""
        lost = self._place / "lost"
        self.disk.lose_power(str(lost), None)
        return str(lost / "object.sqlite")

    def after_power_loss(self) -> Session:
        return Session(self.lose_power(), self._clock, SMALL)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    # Archived as soon as it is confirmed, a commit to a block.
    monkeypatch.setattr(commit_log, "ARCHIVE_AHEAD_FRAMES", 1)
    monkeypatch.setattr(archive, "SLICE_SIZE", 4120)
    machine = Machine(tmp_path)
    genuine = recovery._checkpoint

    def checkpoint(connection: sqlite3.Connection) -> tuple[int, int]:
        result = genuine(connection)
        machine.note_synced()
        return result

    monkeypatch.setattr(recovery, "_checkpoint", checkpoint)
    yield machine
    machine.disk.close()


def insert(session: Session, known: dict[str, str], number: int) -> None:
    """Commit, confirm and remember something."""
    session.run(("INSERT INTO t VALUES(?)", str(number)))
    for _ in range(2):
        session.confirm()
    known[session.log.current_bookmark()] = session.content()


def expect_nothing_lost(session: Session, known: dict[str, str]) -> None:
    assert session.content() == list(known.values())[-1]
    for bookmark, state in known.items():
        assert session.exported(bookmark) == state
    assert session.log.verify().sound
    session.close()


def test_a_log_that_is_found_after_a_kill_is_durable_before_its_wal_is_gone(
    machine: Machine,
) -> None:
    known: dict[str, str] = {}
    session = machine.open()
    session.run("CREATE TABLE t(a)")
    session.close()
    session = machine.open()
    for number in range(3):
        insert(session, known, number)
    assert session.log._archived > 0
    assert session.log._log.durable < session.log._log.position
    session.crash()
    session = machine.open()
    insert(session, known, 3)
    expect_nothing_lost(machine.after_power_loss(), known)
    session.crash()


def test_blocks_before_one_that_can_neither_be_added_nor_cut_off_are_synced_before_they_count(
    machine: Machine,
) -> None:
    known: dict[str, str] = {}
    session = machine.open()
    session.run("CREATE TABLE t(a)")
    for number in range(3):
        insert(session, known, number)
    assert session.log._log.durable < session.log._log.position
    session.run("INSERT INTO t VALUES(3)")
    machine.segment_writes = 1
    insert(session, known, 4)
    assert machine.segment_writes < 0
    machine.segment_writes = None
    insert(session, known, 5)
    machine.fold(session)
    expect_nothing_lost(machine.after_power_loss(), known)
    session.crash()


def test_a_wal_is_named_durably_although_the_log_has_gone_on_into_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, str] = {}
    session = machine.open()
    session.run("CREATE TABLE t(a)")
    session.confirm()
    # The threads of the background have other things to do.
    held: list[Callable[[], None]] = []
    session.log._start = held.append
    machine.fold(session)
    genuine = session.log._record_restart

    def record() -> None:
        # As a thread does that catches up.
        session.log._archive_settled()
        genuine()

    monkeypatch.setattr(session.log, "_record_restart", record)
    insert(session, known, 1)
    assert session.log._archived > 0
    assert session.log._log.durable < session.log._log.position
    expect_nothing_lost(machine.after_power_loss(), known)
    session.crash()


def test_a_wal_that_may_be_folded_before_it_is_archived_keeps_its_second_name_over_a_power_loss(
    machine: Machine,
) -> None:
    session = machine.open()
    session.run("CREATE TABLE t(a)")
    session.close()
    session = machine.open()
    insert(session, {}, 1)
    session.log.catch_up(lambda: None)
    assert session.log.may_lag()
    assert Layout(machine.lose_power()).holds_wal()
    session.crash()


def test_a_confirmation_after_the_file_was_closed_touches_nothing_of_the_next_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_log, "ARCHIVE_AHEAD_FRAMES", 1)
    path = str(tmp_path / "object.sqlite")

    def opened() -> ObjectFile:
        file = ObjectFile(path, limits=Limits(), clock=SystemClock(), history=SMALL)
        assert file.log is not None
        file.log._start = lambda work: work()
        return file

    def put(file: ObjectFile, number: int) -> None:
        file.database.begin()
        file.database.kv_put("key", number.to_bytes(4) * 5000)
        file.database.commit()

    earlier = opened()
    put(earlier, 1)
    earlier.close()
    later = opened()
    assert later.log is not None
    for number in range(2, 5):
        put(later, number)
        later.confirm()
    assert later.fold()
    for number in range(5, 8):
        put(later, number)
    before = _contents(tmp_path)
    earlier.confirm()
    assert _contents(tmp_path) == before
    later.confirm()
    assert later.fold()
    assert later.log.verify().sound
    later.close()


def _contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
