"""Documented usage, as the type checkers must see it. Never run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypedDict, assert_type

from durable_storage import (
    DurableObject,
    DurableObjectState,
    DurableObjectTransaction,
    Runtime,
    SqlStorageCursor,
)


@dataclass
class User:
    id: int
    name: str


class Point(NamedTuple):
    x: int
    y: int


class Row(TypedDict):
    id: int
    name: str


class Counter(DurableObject):
    async def increment(self, by: int = 1) -> int:
        value = await self.ctx.storage.get("value", 0)
        assert_type(value, int)
        self.ctx.storage.put("value", value + by)
        return value + by

    async def name(self) -> str | None:
        return None


async def objects(runtime: Runtime) -> None:
    counters = runtime.namespace(Counter)
    counter = counters.get_by_name("a")
    assert_type(counter, Counter)
    assert_type(await counter.increment(), int)
    assert_type(await counters.get(counters.new_unique_id()).name(), str | None)
    async for object_id in counters.list_ids():
        assert_type(object_id.name, str | None)
    assert_type(counters.jurisdiction("eu").get_by_name("b"), Counter)


async def storage(ctx: DurableObjectState) -> None:
    store = ctx.storage
    assert_type(await store.get("k", "default"), str)
    assert_type(await store.get(["a", "b"]), dict[str, Any])
    assert_type(await store.delete("a"), bool)
    assert_type(await store.delete(["a"]), int)
    assert_type(await store.list(prefix="a"), dict[str, Any])
    assert_type(store.kv.get("k", 1.5), float)
    assert_type(store.kv.list(), Iterator[tuple[str, Any]])
    assert_type(await store.get_alarm(), datetime | None)
    assert_type(await store.get_current_bookmark(), str)
    assert_type(store.transaction_sync(lambda: 5), int)

    async def body(txn: DurableObjectTransaction) -> int:
        await txn.put("k", 1)
        return 1

    assert_type(await store.transaction(body), int)
    async with store.transaction() as txn:
        assert_type(txn, DurableObjectTransaction)
    with store.transaction_sync():
        store.put({"a": 1, "b": 2})
    assert_type(await ctx.run_event(body_without_argument), str)
    assert_type(await ctx.block_concurrency_while(body_without_argument), str)


async def body_without_argument() -> str:
    return ""


def sql(ctx: DurableObjectState) -> None:
    execute = ctx.storage.sql.exec
    assert_type(execute("SELECT 1 AS a"), SqlStorageCursor[dict[str, Any]])
    assert_type(execute("SELECT id, name FROM t", row_type=User).one(), User)
    assert_type(execute("SELECT x, y FROM t", row_type=Point).to_array(), list[Point])
    assert_type(execute("SELECT id, name FROM t", row_type=Row).one(), Row)
    for user in execute("SELECT id, name FROM t WHERE id = ?", 5, row_type=User):
        assert_type(user, User)
    assert_type(execute("SELECT 1").column_names, list[str])
    assert_type(execute("SELECT 1").rows_read, int)
