"""A disk that has no room for the log when an object is opened."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from durable_storage import DurableObject, ObjectResetError, Runtime, SystemClock
from durable_storage.testing import FaultInjector, ManualClock

from .rig import Session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "object.sqlite"


class Full:
    """Refuses what needs room in the history, from the ``start``-th time on."""

    def __init__(self, start: int = 0) -> None:
        self.left = start
        self.full = True

    def before(self, operation: str, path: str) -> None:
        if self.full and "-history" in path and operation in ("open", "write", "rename"):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


@pytest.mark.parametrize("start", range(12))
@pytest.mark.parametrize("end", ["crash", "close", "full"])
@pytest.mark.parametrize("folded", [False, True])
def test_an_object_can_be_used_although_its_log_has_no_room(
    path: Path, start: int, end: str, folded: bool
) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    session.confirm()
    if folded:
        assert session.fold()
    states: dict[str, str] = {}
    for number in range(3):
        session.run(("INSERT INTO t VALUES(?)", str(number)))
        states[session.log.current_bookmark()] = session.content()
        session.confirm()
    session.crash()

    disk = Full(start)
    session = Session(path, faults=disk)
    assert session.content() == list(states.values())[-1]
    session.run("INSERT INTO t VALUES('more')")
    session.confirm()
    last = session.content()
    was_gap = session.log.gap
    disk.full = end == "full"
    if not disk.full:
        assert session.fold()
    if end == "crash":
        session.crash()
    else:
        with contextlib.suppress(OSError):
            session.close()

    session = Session(path)
    assert session.content() == last
    assert session.log.verify().sound
    assert not was_gap
    for bookmark, state in states.items():
        assert session.exported(bookmark) == state
    session.run("INSERT INTO t VALUES('most')")
    session.close()


def test_a_new_object_can_be_used_although_its_history_cannot_be_begun(path: Path) -> None:
    disk = Full()
    session = Session(path, faults=disk)
    session.run("CREATE TABLE t(a)")
    session.confirm()
    session.crash()
    session = Session(path, faults=disk)
    session.run("INSERT INTO t VALUES(1)")
    session.confirm()
    assert not session.fold()
    disk.full = False
    bookmark, state = session.log.current_bookmark(), session.content()
    session.run("DROP TABLE t")
    assert session.fold()
    session.close()
    session = Session(path)
    assert session.exported(bookmark) == state
    session.close()


@pytest.mark.parametrize("end", ["crash", "close"])
def test_a_restore_that_has_no_room_is_done_or_given_up_and_loses_nothing(
    path: Path, end: str
) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    states: dict[str, str] = {}
    for number in range(12):
        session.run(("INSERT INTO t VALUES(?)", str(number) * 3000))
        states[session.log.current_bookmark()] = session.content()
        if number % 4 == 0:
            session.confirm()
            assert session.fold()
    session.confirm()
    wanted, restored = list(states.items())[5]
    outcomes = set()
    for start in range(20):
        before = session.content()
        states[session.log.current_bookmark()] = before
        undo = session.log.request_restore(wanted)
        if end == "crash":
            session.crash()
        else:
            session.close()
        disk = Full(start)
        refused: OSError | None = None
        try:
            session = Session(path, faults=disk)
        except OSError as error:
            refused = error
        if refused is not None:
            assert refused.errno == errno.ENOSPC
            assert wanted in str(refused)
            session = Session(path, faults=disk)
            assert session.content() == before
        else:
            assert session.content() == restored
            states[undo] = before
        outcomes.add(refused is None)
        session.run(f"INSERT INTO t VALUES('after {start}')")
        session.confirm()
        written = session.content()
        session.crash()
        session = Session(path)
        assert session.content() == written
        assert session.log.verify().sound
        for bookmark, state in list(states.items())[start % 5 :: 5]:
            assert session.exported(bookmark) == state
    assert outcomes == {True, False}
    session.close()


class Page(DurableObject):
    async def write(self, text: str) -> str:
        self.ctx.storage.put("text", text)
        await self.ctx.storage.sync()
        return await self.ctx.storage.get_current_bookmark()

    async def read(self) -> str:
        return str(await self.ctx.storage.get("text"))

    async def restore(self, bookmark: str) -> None:
        await self.ctx.storage.on_next_session_restore_bookmark(bookmark)
        self.ctx.abort("to restore")


@contextlib.asynccontextmanager
async def restoring_without_room(
    path: Path, clock: ManualClock | None = None
) -> AsyncIterator[tuple[Any, str, FaultInjector]]:
    """An object that was "first" and is "second", a bookmark of the first, and the faulty disk."""
    faults = FaultInjector()
    async with Runtime(path, faults=faults, clock=clock or SystemClock()) as runtime:
        page = runtime.namespace(Page).get_by_name("home")
        bookmark = await page.write("first")
        await page.write("second")
        faults.fail("write", times=math.inf, error=errno.ENOSPC, path="*-history/image.new")
        with pytest.raises(ObjectResetError):
            await page.restore(bookmark)
        yield page, bookmark, faults


@pytest.mark.anyio
async def test_an_object_whose_restore_has_no_room_says_so_once_and_goes_on(
    tmp_path: Path,
) -> None:
    async with restoring_without_room(tmp_path) as (page, bookmark, faults):
        with pytest.raises(ObjectResetError, match="no room to restore"):
            await page.read()
        assert await page.read() == "second"
        await page.write("third")
        faults.clear()
        with pytest.raises(ObjectResetError):
            await page.restore(bookmark)
        assert await page.read() == "first"


@pytest.mark.anyio
async def test_whoever_calls_next_is_told_of_a_restore_that_was_given_up_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with restoring_without_room(tmp_path, clock) as (page, _, _):
        # Nobody calls, and the object is started to see whether an alarm is due.
        await clock.advance(seconds=1.5)
        assert "could not be run" in caplog.text
        with pytest.raises(ObjectResetError, match="no room to restore"):
            await page.read()
        assert await page.read() == "second"


class Unsynced:
    """Refuses to sync the log's segments while it is ``on``."""

    on = False

    def before(self, operation: str, path: str) -> None:
        if self.on and operation in ("fsync", "fdatasync") and path.endswith(".segment"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def test_what_a_refused_sync_took_from_the_log_is_archived_again(path: Path) -> None:
    faults = Unsynced()
    session = Session(path, faults=faults)
    session.run("CREATE TABLE t(a)")
    states: dict[str, str] = {}
    done: list[bool] = []
    for number in range(6):
        session.run(("INSERT INTO t VALUES(?)", str(number)))
        session.confirm()
        states[session.log.current_bookmark()] = session.content()
        # Before anything is in the log, and behind something that is.
        faults.on = number != 3
        session.log.catch_up(lambda: done.append(True))
        faults.on = False
        assert session.log._archived == session.log._archived_frame()
        if number == 2:
            assert session.fold()
    assert len(done) == 6
    session.close()
    again = Session(path)
    for bookmark, state in states.items():
        assert again.exported(bookmark) == state
    assert again.log.verify().sound
    again.close()
