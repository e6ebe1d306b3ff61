"""What an open listing, or the result of a query, sees of what happens meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from durable_storage import ConcurrencyError, DurableObjectState, DurableStorageError, History

pytestmark = pytest.mark.anyio

KEYS = [f"key-{number}" for number in range(6)]


@pytest.fixture
async def ctx(tmp_path: Path) -> AsyncIterator[DurableObjectState]:
    opened = DurableObjectState.open(tmp_path / "object.sqlite", history=History(enabled=False))
    async with opened as ctx:

        def fill() -> None:
            for number, key in enumerate(KEYS):
                ctx.storage.kv.put(key, [number])

        await ctx.run_event(fill)
        yield ctx


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 3, 100])
async def test_a_listing_sees_what_is_written_behind_its_position(
    ctx: DurableObjectState, reverse: bool, limit: int | None
) -> None:
    order = KEYS[::-1] if reverse else KEYS

    def event() -> list[str]:
        kv = ctx.storage.kv
        seen: list[str] = []
        for key, value in kv.list(reverse=reverse, limit=limit):
            assert value == [KEYS.index(key)]
            seen.append(key)
            kv.put(key, "seen already")
            if len(seen) == 1:
                kv.delete(order[2])
        return seen

    expected = [key for key in order if key != order[2]]
    assert await ctx.run_event(event) == expected[:limit]


async def test_a_listing_goes_on_after_its_savepoint_was_rolled_back(
    ctx: DurableObjectState,
) -> None:
    def event() -> list[str]:
        pairs = ctx.storage.kv.list()
        seen = [next(pairs)[0]]

        def callback() -> None:
            for key in KEYS:
                ctx.storage.kv.delete(key)
            raise KeyError

        with pytest.raises(KeyError):
            ctx.storage.transaction_sync(callback)
        seen += [key for key, _ in pairs]
        return seen

    assert await ctx.run_event(event) == KEYS


@pytest.mark.parametrize("started", [False, True])
async def test_a_new_listing_ends_the_one_before(ctx: DurableObjectState, started: bool) -> None:
    async def event() -> None:
        kv = ctx.storage.kv
        older = kv.list()
        if started:
            next(older)
        newer = kv.list()
        with pytest.raises(DurableStorageError, match="invalidated"):
            next(older)
        assert [key for key, _ in newer] == KEYS
        newer = kv.list()
        next(newer)
        assert list(await ctx.storage.list()) == KEYS
        with pytest.raises(DurableStorageError, match="invalidated"):
            next(newer)

    await ctx.run_event(event)


async def test_a_listing_that_has_given_all_its_pairs_ends_after_a_new_one(
    ctx: DurableObjectState,
) -> None:
    def event() -> None:
        older = ctx.storage.kv.list(limit=2)
        assert [next(older)[0], next(older)[0]] == KEYS[:2]
        ctx.storage.kv.list()
        assert list(older) == []

    await ctx.run_event(event)


async def test_a_listing_goes_on_after_its_rows_were_drained(ctx: DurableObjectState) -> None:
    def event() -> list[str]:
        pairs = ctx.storage.kv.list()
        seen = [next(pairs)[0]]
        ctx.storage._session.database.end_readings()
        seen += [key for key, _ in pairs]
        return seen

    assert await ctx.run_event(event) == KEYS


async def test_a_listing_that_nobody_holds_locks_no_table(ctx: DurableObjectState) -> None:
    def event() -> None:
        ctx.storage.sql.exec("CREATE TABLE t(a)")
        next(ctx.storage.kv.list())
        ctx.storage.sql.exec("DROP TABLE t")

    await ctx.run_event(event)


_READ: dict[str, Callable[[Any], object]] = {
    "one": lambda cursor: cursor.one(),
    "to_array": lambda cursor: cursor.to_array(),
    "raw": lambda cursor: cursor.raw(),
    "iter": iter,
    "next": next,
    "rows_read": lambda cursor: cursor.rows_read,
    "rows_written": lambda cursor: cursor.rows_written,
}


@pytest.mark.parametrize("read", _READ.values(), ids=_READ)
async def test_a_result_is_read_by_the_thread_of_its_object(
    ctx: DurableObjectState, read: Callable[[Any], object]
) -> None:
    async def event() -> None:
        cursor = ctx.storage.sql.exec("SELECT 1 AS one")
        with pytest.raises(ConcurrencyError, match="another thread"):
            await anyio.to_thread.run_sync(read, cursor)
        assert cursor.one() == {"one": 1}

    await ctx.run_event(event)
