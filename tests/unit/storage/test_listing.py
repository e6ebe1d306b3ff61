"""What an open listing, or the result of a query, sees of what happens meanwhile."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from durable_storage import (
    ConcurrencyError,
    DataCloneError,
    DurableObjectState,
    DurableStorageError,
    History,
    SqlError,
)

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


MANY = [f"many-{number:03}" for number in range(300)]


def _fill(ctx: DurableObjectState, values: dict[str, object]) -> None:
    for key, value in values.items():
        ctx.storage.kv.put(key, value)


def _value(chance: random.Random) -> object:
    return chance.choice([[1], {"a": chance.random()}, (1, 2), {3}, 4, "five", None, b"six"])


@pytest.mark.parametrize("seed", range(12))
async def test_a_long_listing_is_at_every_pair_as_if_nothing_were_read_ahead(
    ctx: DurableObjectState, seed: int
) -> None:
    chance = random.Random(seed)
    reverse = chance.random() < 0.5
    limit = chance.choice([None, 150])
    model = {key: chance.choice([[1], _value(chance)]) for key in MANY}

    def change() -> None:
        key = chance.choice(MANY) + chance.choice(["", "+"])
        if chance.random() < 0.5:
            model[key] = _value(chance)
            ctx.storage.kv.put(key, model[key])
        else:
            assert ctx.storage.kv.delete(key) == (model.pop(key, MANY) is not MANY)

    def undone() -> None:
        before = model.copy()
        for _ in range(3):
            change()
        model.clear()
        model.update(before)
        raise KeyError

    def event() -> None:
        kv = ctx.storage.kv
        _fill(ctx, model)
        pairs = kv.list(prefix="many-", reverse=reverse, limit=limit)
        given = 0
        last: str | None = None
        while True:
            rest = [key for key in model if last is None or (key < last if reverse else key > last)]
            if not rest or given == limit:
                break
            last = max(rest) if reverse else min(rest)
            assert next(pairs) == (last, model[last])
            given += 1
            if chance.random() < 0.05:
                change()
            if chance.random() < 0.05:
                with pytest.raises(KeyError):
                    ctx.storage.transaction_sync(undone)
            if chance.random() < 0.02:
                ctx.storage._session.database.end_readings()
        assert list(pairs) == []
        assert given > 100

    await ctx.run_event(event)


async def test_the_pairs_of_a_listing_share_nothing(ctx: DurableObjectState) -> None:
    def event() -> None:
        _fill(ctx, {key: [[1]] for key in MANY})
        for _, value in ctx.storage.kv.list(prefix="many-"):
            assert value == [[1]]
            value[0].append(2)
        assert ctx.storage.kv.get(MANY[-1]) == [[1]]

    await ctx.run_event(event)


@pytest.mark.parametrize("position", [0, 1, 5, 100, 299])
async def test_a_damaged_value_fails_where_it_stands(tmp_path: Path, position: int) -> None:
    path = tmp_path / "damaged.sqlite"
    async with DurableObjectState.open(path, history=History(enabled=False)) as ctx:
        await ctx.run_event(_fill, ctx, {key: [[1]] for key in MANY})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE _cf_KV SET value = x'0102' WHERE key = ?", [MANY[position]])
    async with DurableObjectState.open(path, history=History(enabled=False)) as ctx:

        async def event() -> None:
            with pytest.raises(DataCloneError) as alone:
                ctx.storage.kv.get(MANY[position])
            pairs = ctx.storage.kv.list()
            assert [next(pairs)[0] for _ in range(position)] == MANY[:position]
            with pytest.raises(DataCloneError) as listed:
                next(pairs)
            assert str(listed.value) == str(alone.value)
            with pytest.raises(DataCloneError):
                await ctx.storage.list()
            assert len(await ctx.storage.list(start_after=MANY[position])) == 299 - position

        await ctx.run_event(event)


@pytest.mark.parametrize("drained", [False, True])
async def test_text_that_is_not_unicode_is_listed_in_its_place(
    tmp_path: Path, drained: bool
) -> None:
    path = tmp_path / "damaged.sqlite"
    async with DurableObjectState.open(path, history=History(enabled=False)) as ctx:
        await ctx.run_event(_fill, ctx, {key: [[1]] for key in MANY})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE _cf_KV SET value = CAST(x'61ff' AS TEXT) WHERE key = ?", [MANY[40]]
        )
    async with DurableObjectState.open(path, history=History(enabled=False)) as ctx:

        def event() -> None:
            pairs = ctx.storage.kv.list()
            found = dict([next(pairs), next(pairs)])
            if drained:
                ctx.storage._session.database.end_readings()
            found.update(pairs)
            assert list(found) == MANY
            assert found == {key: [[1]] for key in MANY} | {MANY[40]: "a\ufffd"}

        await ctx.run_event(event)


@pytest.mark.parametrize("block", ["transaction", "transaction_sync"])
async def test_a_listing_does_not_show_what_was_rolled_back(
    ctx: DurableObjectState, block: str
) -> None:
    async def event() -> None:
        listings = []

        def work() -> None:
            ctx.storage.kv.put("key-1+", "rolled back")
            listings.append(ctx.storage.kv.list())
            assert [next(listings[0])[0], next(listings[0])[0]] == KEYS[:2]
            raise KeyError

        async def body() -> None:
            work()

        async def undone() -> None:
            if block == "transaction":
                await ctx.storage.transaction(body)
            else:
                ctx.storage.transaction_sync(work)

        with pytest.raises(KeyError):
            await undone()
        assert [key for key, _ in listings[0]] == KEYS[2:]

    await ctx.run_event(event)


async def test_a_listing_ends_where_everything_was_deleted(ctx: DurableObjectState) -> None:
    async def event() -> None:
        _fill(ctx, {key: [[1]] for key in MANY})
        pairs = ctx.storage.kv.list(prefix="many-")
        assert [next(pairs)[0] for _ in range(9)] == MANY[:9]
        await ctx.storage.delete_all()
        with pytest.raises(SqlError, match="canceled because the database was deleted"):
            next(pairs)

    await ctx.run_event(event)


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
