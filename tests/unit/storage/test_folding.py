"""Events go on while the log is archived for a fold, and its outcome depends on none of them."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
from collections.abc import AsyncIterator, Callable

import anyio.lowlevel
import pytest

from durable_storage import DurableObjectState, History, ObjectResetError, SqlError
from durable_storage.history import commit_log
from durable_storage.storage import host
from durable_storage.storage.host import Host

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

    async def put(self) -> None:
        self.number += 1
        value = self.number.to_bytes(4, "big") + VALUE
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


async def test_history_that_is_refused_behind_the_checkpoint_resets_the_object_and_loses_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "object.sqlite") as log:
        bookmarks: dict[str, int] = {}
        while not log.own._fold_wanted:
            await log.put()
            bookmark = await log.ctx.run_event(log.ctx.storage.get_current_bookmark)
            bookmarks[bookmark] = log.number
        while log.own._caught_up is None:
            await anyio.lowlevel.checkpoint()
        file = log.own.file
        assert file.log is not None
        # As if no more were known to be durable.
        file.log._settled = int(list(bookmarks)[2].split("-")[2], 16)
        log.archive()
        assert file.log.may_lag()
        assert file.log._committed > file.log._archived
        with monkeypatch.context() as patch:
            patch.setattr(commit_log, "archive_frames", _refuse)
            await log.folded()
        assert log.own.life is None
        with pytest.raises(SqlError, match="closed"):
            file.database.begin()
        assert await log.ctx.run_event(log.ctx.storage.kv.get, "key")
        assert log.own.file is not file
        for bookmark, number in bookmarks.items():
            assert await _number_at(bookmark, log.own, tmp_path) == number
        assert log.own.file.log is not None
        assert log.own.file.log.verify().sound


def _refuse(*args: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
