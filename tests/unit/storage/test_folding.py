"""Events go on while the log is archived for a fold, and its outcome depends on none of them."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio.lowlevel
import pytest

from durable_storage import DurableObjectState, History, ObjectResetError, SqlError
from durable_storage.database.connection import Database
from durable_storage.history import commit_log
from durable_storage.history.archive import archive_frames
from durable_storage.storage import host
from durable_storage.storage.host import Host
from durable_storage.storage.object_file import ObjectFile

pytestmark = pytest.mark.anyio

FOLD_AT_BYTES = 64 * 1024
VALUE = b"x" * 20_000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "FOLD_AT_BYTES", FOLD_AT_BYTES)


class Log:
    """An object whose log is archived in the background when the test says so."""

    def __init__(self, ctx: DurableObjectState, own: Host) -> None:
        self.ctx = ctx
        self.own = own
        self.held: list[Callable[[], None]] = []
        assert own.file.log is not None
        own.file.log._start = self.held.append
        self.number = 0

    @property
    def size_bytes(self) -> int:
        return self.own.file.database.wal_size_bytes

    async def put(self, value: bytes = VALUE) -> None:
        self.number += 1
        value = self.number.to_bytes(4, "big") + value
        await self.ctx.run_event(self.ctx.storage.kv.put, "key", value)

    async def grow(self) -> None:
        """Write until a fold is wanted."""
        while not self.own._fold_wanted:
            await self.put()
        while self.own._caught_up is None:
            await anyio.lowlevel.checkpoint()

    def archive(self) -> None:
        held = self.held[:]
        self.held.clear()
        for work in held:
            work()

    async def folded(self) -> None:
        while self.own._fold_wanted:
            await anyio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def opened(path: pathlib.Path) -> AsyncIterator[Log]:
    opening = DurableObjectState.open(path)
    async with opening as ctx:
        yield Log(ctx, opening._host)


async def test_events_go_on_while_the_log_catches_up(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path / "object.sqlite") as log:
        await log.grow()
        before = log.size_bytes
        await log.put()
        await log.put()
        assert log.size_bytes > before
        assert log.own._fold_wanted
        log.archive()
        assert log.own.file.log is not None
        assert log.own.file.log._archived > 0
        await log.folded()
        assert log.size_bytes < before


async def test_what_was_archived_ahead_and_the_rest_are_one_log(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path / "object.sqlite") as log:
        await log.grow()
        log.archive()
        await log.folded()
        await log.ctx.run_event(log.ctx.storage.kv.put, "last", 1)
        assert log.own.file.log is not None
        log.own.file.log.archive()
        assert log.own.file.log.verify().sound


async def test_events_wait_once_the_log_is_long_whoever_archives_it(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path / "object.sqlite") as log:
        await log.grow()
        while log.size_bytes > FOLD_AT_BYTES:
            await log.put()
            assert log.size_bytes < (host.WAIT_AT_FOLDS + 2) * FOLD_AT_BYTES
        await log.folded()
        # Late, it finds nothing to do.
        log.archive()
        assert log.own.file.log is not None
        assert log.own.file.log.verify().sound


async def test_closing_does_not_wait_for_the_background(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "object.sqlite"
    async with opened(path) as log:
        await log.grow()
    await log.folded()
    log.archive()
    async with opened(path) as again:
        value = await again.ctx.run_event(again.ctx.storage.kv.get, "key")
        assert value[4:] == VALUE


async def test_an_object_that_is_reset_meanwhile_is_not_folded(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path / "object.sqlite") as log:
        await log.grow()
        with pytest.raises(ObjectResetError):
            await log.ctx.run_event(log.ctx.abort, "enough")
        before = log.size_bytes
        log.archive()
        await log.folded()
        assert log.own.file.database.wal_size_bytes == before


async def _number_at(bookmark: str, own: Host, place: pathlib.Path) -> int:
    copy = place / f"{bookmark}.sqlite"
    assert own.file.log is not None
    own.file.log.export(copy, bookmark)
    async with DurableObjectState.open(copy, history=History(enabled=False)) as ctx:
        value: bytes = await ctx.run_event(ctx.storage.kv.get, "key")
    return int.from_bytes(value[:4])


async def _lagging(log: Log) -> dict[str, int]:
    """Write until the WAL is to be folded before all of it is archived; return what was told."""
    bookmarks: dict[str, int] = {}
    while not log.own._fold_wanted:
        await log.put()
        bookmark = await log.ctx.run_event(log.ctx.storage.get_current_bookmark)
        bookmarks[bookmark] = log.number
    while log.own._caught_up is None:
        await anyio.lowlevel.checkpoint()
    history = log.own.file.log
    assert history is not None
    # As if no more were known to be durable.
    history._settled = int(list(bookmarks)[2].split("-")[2], 16)
    log.archive()
    assert history.may_lag()
    assert history._committed > history._archived
    return bookmarks


async def _expect_nothing_lost(log: Log, bookmarks: dict[str, int], place: pathlib.Path) -> None:
    for bookmark, number in bookmarks.items():
        assert await _number_at(bookmark, log.own, place) == number
    assert log.own.file.log is not None
    assert log.own.file.log.verify().sound


async def test_history_that_is_refused_behind_the_checkpoint_resets_the_object_and_loses_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "object.sqlite") as log:
        bookmarks = await _lagging(log)
        file = log.own.file
        with monkeypatch.context() as patch:
            patch.setattr(commit_log, "archive_frames", _refuse)
            await log.folded()
        assert log.own.life is None
        with pytest.raises(SqlError, match="closed"):
            file.database.begin()
        assert await log.ctx.run_event(log.ctx.storage.kv.get, "key")
        assert log.own.file is not file
        await _expect_nothing_lost(log, bookmarks, tmp_path)


def _refuse(*args: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Archiving:
    """Holds back the archiving beside a checkpoint, until it is let go or the file is closed."""

    def __init__(self, patch: pytest.MonkeyPatch, *, refused: bool) -> None:
        self._refused = refused
        self._genuine = archive_frames
        self._begun = threading.Event()
        self._checkpointed = threading.Event()
        self._go = threading.Event()
        checkpoint, close = Database.checkpoint, ObjectFile.close

        def note_checkpoint(database: Database, *, restart: bool = True) -> bool:
            folded = checkpoint(database, restart=restart)
            self._checkpointed.set()
            return folded

        def let_go_and_close(file: ObjectFile) -> None:
            self.let_go()
            close(file)

        patch.setattr(commit_log, "archive_frames", self._archive)
        patch.setattr(Database, "checkpoint", note_checkpoint)
        patch.setattr(ObjectFile, "close", let_go_and_close)

    def _archive(self, *args: Any, **options: Any) -> None:
        self._begun.set()
        assert self._go.wait(60)
        if self._refused:
            _refuse()
        self._genuine(*args, **options)

    def let_go(self) -> None:
        self._go.set()

    async def wait_until_behind(self) -> None:
        """Return once the WAL is folded, and archiving it has only begun."""
        while not (self._begun.is_set() and self._checkpointed.is_set()):
            await anyio.lowlevel.checkpoint()


async def _abort_behind(log: Log, archiving: Archiving) -> None:
    """Reset the object while its WAL is folded and not archived."""
    await archiving.wait_until_behind()
    with pytest.raises(ObjectResetError):
        log.ctx.abort("enough")


async def test_an_abort_while_history_is_refused_behind_the_checkpoint_loses_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "object.sqlite"
    async with opened(path) as log:
        bookmarks = await _lagging(log)
        with monkeypatch.context() as patch:
            archiving = Archiving(patch, refused=True)
            await _abort_behind(log, archiving)
            archiving.let_go()
            await log.folded()
        await log.put()
    async with opened(path) as log:
        await _expect_nothing_lost(log, bookmarks, tmp_path)


async def test_a_child_task_that_writes_while_history_is_refused_behind_the_checkpoint_loses_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "object.sqlite"
    write, wrote = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        async with opened(path) as log:

            async def child() -> None:
                await write.wait()
                # The write waits for the fold, and the event loop with it.
                archiving.let_go()
                log.ctx.storage.kv.put("other", 1)
                wrote.set()

            async def method() -> None:
                group.start_soon(child)

            await log.ctx.run_event(method)
            bookmarks = await _lagging(log)
            with monkeypatch.context() as patch:
                archiving = Archiving(patch, refused=True)
                await archiving.wait_until_behind()
                write.set()
                await wrote.wait()
                await log.folded()
        async with opened(path) as log:
            await _expect_nothing_lost(log, bookmarks, tmp_path)


async def test_an_event_after_an_abort_writes_over_nothing_that_is_being_archived(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "object.sqlite"
    async with opened(path) as log:
        bookmarks = await _lagging(log)
        with monkeypatch.context() as patch:
            archiving = Archiving(patch, refused=False)
            await _abort_behind(log, archiving)
            async with anyio.create_task_group() as group:
                # Of so many frames that a WAL begun anew would reach what is not archived.
                group.start_soon(log.put, VALUE * 10)
                while log.own.life is None or not log.own.life.gate.committed:
                    await anyio.lowlevel.checkpoint()
                archiving.let_go()
        bookmark = await log.ctx.run_event(log.ctx.storage.get_current_bookmark)
        bookmarks[bookmark] = log.number
    async with opened(path) as log:
        await _expect_nothing_lost(log, bookmarks, tmp_path)
