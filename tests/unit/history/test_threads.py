"""Commits on one thread, confirms on another, archiving on the log's own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from durable_storage.history import History, commit_log, retention
from durable_storage.history.background import start_in_background
from durable_storage.history.files import Files

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
    for number in range(9):
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
