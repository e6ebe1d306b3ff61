"""Commits on one thread, confirms on another, archiving on the log's own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_storage.history import History, commit_log, retention, segment
from durable_storage.history.background import start_in_background
from durable_storage.history.files import Files
from durable_storage.history.segment import Entry

from .rig import ManualTime, Session


def test_archiving_ahead_and_confirming_do_not_disturb_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_log, "ARCHIVE_AHEAD_FRAMES", 4)
    monkeypatch.setattr(retention, "SNAPSHOT_AFTER_MIN_BYTES", 200 * 4096)
    clock = ManualTime()
    session = Session(tmp_path / "object.sqlite", clock, History(segment_size_bytes=65536))
    session.log._start = start_in_background
    wanted = threading.Semaphore(0)
    # As the owner does: never a confirm and a fold at once.
    files = threading.Lock()
    stop = False
    failures: list[BaseException] = []

    def confirm() -> None:
        try:
            while True:
                wanted.acquire()
                if stop:
                    return
                with files:
                    session.confirm()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=confirm)
    thread.start()
    states: dict[str, str] = {}
    session.run("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    for number in range(1500):
        clock.now_ms += 1
        session.run(("INSERT OR REPLACE INTO t VALUES(?, ?)", number % 50, str(number) * 300))
        wanted.release()
        if number % 40 == 0:
            states[session.log.current_bookmark()] = session.content()
        if number % 250 == 249:
            with files:
                assert session.fold()
    stop = True
    wanted.release()
    thread.join()
    assert not failures
    ahead = session.log._log.entries()
    assert len(ahead) > 7, "there is one a fold, and some between"
    session.close()
    session = Session(session.path, clock)
    assert session.log.verify().sound
    for bookmark, state in states.items():
        assert session.exported(bookmark) == state
    times = [entry.time_ms for entry in session.log.timeline()]
    assert times == sorted(times)
    session.close()


def test_closing_does_not_wait_for_a_snapshot_to_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SNAPSHOT_AFTER_MIN_BYTES", 1)
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)")
    session.fold()
    for number in range(30):
        session.run(f"INSERT INTO t VALUES({number})")
    session.log.archive()
    started, closing = threading.Event(), threading.Event()
    genuine = retention.Image

    def slow(path: str, files: Files) -> retention.Image:
        image = genuine(path, files)
        started.set()
        assert closing.wait(10)
        return image

    monkeypatch.setattr(retention, "Image", slow)
    thread = threading.Thread(target=session.log._maintain)
    thread.start()
    assert started.wait(10)
    closer = threading.Thread(target=session.close)
    closer.start()
    while not session.log.closing:
        pass
    closing.set()
    closer.join()
    thread.join()
    reader = session.log._reader
    assert all(snapshot.number < reader.log.number for snapshot in reader.snapshots.all())
    assert not (tmp_path / "object.sqlite-history" / "snapshot.new").exists()


class _Beside:
    """Does something beside the first operation on a file whose path ends so."""

    def __init__(self, operation: str, ending: str) -> None:
        self.operation = operation
        self.ending = ending
        self.work: Callable[[str], object] | None = None

    def before(self, operation: str, path: str) -> None:
        if operation == self.operation and path.endswith(self.ending) and self.work is not None:
            work, self.work = self.work, None
            work(path)


def test_two_threads_may_make_a_directory_of_the_log_at_once(tmp_path: Path) -> None:
    beside = _Beside("open", "-history")
    session = Session(tmp_path / "object.sqlite", faults=beside)
    session.run("CREATE TABLE t(a)")
    beside.work = os.mkdir
    session.log.current_bookmark()
    assert beside.work is None
    session.close()


def test_two_threads_may_need_the_log_for_the_first_time_at_once(tmp_path: Path) -> None:
    beside = _Beside("rename", "identity")
    session = Session(tmp_path / "object.sqlite", faults=beside)
    session.run("CREATE TABLE t(a)")
    given: list[str] = []
    other = threading.Thread(target=lambda: given.append(session.log.current_bookmark()))

    def start(_: str) -> None:
        other.start()
        # It cannot end before this thread has done what both need.
        other.join(0.2)

    beside.work = start
    given.append(session.log.current_bookmark())
    other.join()
    assert len(given) == 2
    assert given[0] == given[1]
    session.close()


def test_what_is_committed_while_the_disk_is_asked_waits_for_the_next_time(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    log, database = session.log, session.database
    session.run("CREATE TABLE t(a)")
    session.confirm()
    first = log._settled
    assert 0 < first == log._seen

    log.confirming()
    session.run("INSERT INTO t VALUES(1)")
    database.confirm()
    log.confirmed(session.clock())
    assert log._settled == first

    # A transaction that is open might be committing just now.
    database.begin()
    session.confirm()
    assert log._settled == first
    database.commit()
    session.confirm()
    assert log._settled == log._seen > first
    session.close()


def test_what_is_appended_while_the_blocks_are_listed_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(tmp_path / "object.sqlite")
    log = session.log._log
    session.run("CREATE TABLE t(a)")
    assert session.log.archive()
    session.run("INSERT INTO t VALUES(1)")
    bookmark, state = session.log.current_bookmark(), session.content()
    log._entries = None
    other = threading.Thread(target=session.log.archive)
    genuine = segment._scan

    def scan(path: str, object_id: bytes) -> list[Entry]:
        found = genuine(path, object_id)
        if other.ident is None:
            other.start()
            # It may have to wait until this thread is done.
            other.join(0.2)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(segment, "_scan", scan)
        log.entries()
        other.join()
    assert [entry.block.number for entry in log.entries()] == list(range(1, log.number + 1))
    assert log.number > 1
    assert session.exported(bookmark) == state
    assert session.log.verify().sound
    session.close()
