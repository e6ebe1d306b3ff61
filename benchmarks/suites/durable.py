"""Durable writes: every increment is on stable storage before its caller sees the answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from durable_storage import DurableObject, History, Runtime

from ..harness import Bench, Run
from ..peers import OURS, connect, module

RAW_FULL = "sqlite3 FULL"
WITH_HISTORY = "durable_storage history"


class Counter(DurableObject):
    async def increment(self) -> int:
        value = await self.ctx.storage.get("value", 0)
        self.ctx.storage.put("value", value + 1)
        return int(value) + 1


def our_counters(
    call: Callable[[Any, int, int], Any], *, history: bool = False, **options: Any
) -> Any:
    """``call(namespace, count, salt)`` is what a round does."""

    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        options.setdefault("history", History(enabled=history))
        async with Runtime(folder / "runtime", **options) as runtime:
            namespace = runtime.namespace(Counter)
            yield lambda count, salt: call(namespace, count, salt)

    return contender


async def _one_by_one(namespace: Any, count: int, salt: int) -> None:
    stub = namespace.get_by_name("counter")
    for _ in range(count):
        await stub.increment()


async def _together(namespace: Any, count: int, salt: int) -> None:
    stub = namespace.get_by_name("counter")
    await asyncio.gather(*[stub.increment() for _ in range(count)])


async def _spread(namespace: Any, count: int, salt: int) -> None:
    stubs = [namespace.get_by_name(f"counter-{number}") for number in range(count // 10)]

    async def ten(stub: Any) -> None:
        for _ in range(10):
            await stub.increment()

    await asyncio.gather(*map(ten, stubs))


INCREMENT = "UPDATE kv SET value=? WHERE key='value'"


@asynccontextmanager
async def raw_counter(folder: Path) -> AsyncIterator[Run]:
    with closing(connect(folder / "raw.db", full=True)) as connection:
        execute = connection.execute
        execute("INSERT INTO kv VALUES('value', 0)")

        def run(count: int, salt: int) -> None:
            for _ in range(count):
                execute("BEGIN IMMEDIATE")
                (value,) = execute("SELECT value FROM kv WHERE key='value'").fetchone()
                execute(INCREMENT, (value + 1,))
                execute("COMMIT")

        yield run


@asynccontextmanager
async def raw_counters(folder: Path) -> AsyncIterator[Run]:
    """As many databases as objects, ten increments of each."""
    connections: list[Any] = []

    def run(count: int, salt: int) -> None:
        while len(connections) < count // 10:
            connection = connect(folder / f"raw-{len(connections)}.db", full=True)
            connection.execute("INSERT INTO kv VALUES('value', 0)")
            connections.append(connection)
        for _ in range(10):
            for connection in connections[: count // 10]:
                execute = connection.execute
                execute("BEGIN IMMEDIATE")
                (value,) = execute("SELECT value FROM kv WHERE key='value'").fetchone()
                execute(INCREMENT, (value + 1,))
                execute("COMMIT")

    yield run
    for connection in connections:
        connection.close()


@asynccontextmanager
async def aiosqlite_counter(folder: Path) -> AsyncIterator[Run]:
    async with module("aiosqlite").connect(folder / "aio.db", isolation_level=None) as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")
        await connection.execute("CREATE TABLE kv(key TEXT PRIMARY KEY, value) WITHOUT ROWID")
        await connection.execute("INSERT INTO kv VALUES('value', 0)")

        async def run(count: int, salt: int) -> None:
            for _ in range(count):
                await connection.execute("BEGIN IMMEDIATE")
                async with connection.execute("SELECT value FROM kv WHERE key='value'") as cursor:
                    (value,) = await cursor.fetchone()
                await connection.execute(INCREMENT, (value + 1,))
                await connection.execute("COMMIT")

        yield run


async def durable(bench: Bench) -> None:
    """Increments, each answered once it is durable."""
    await bench.compare(
        "increments one after the other",
        {
            OURS: our_counters(_one_by_one),
            WITH_HISTORY: our_counters(_one_by_one, history=True),
            RAW_FULL: raw_counter,
            "aiosqlite FULL": aiosqlite_counter,
        },
        base=RAW_FULL,
        clock="wall",
        goals={OURS: 1.25} if bench.on_disk else {},
    )
    for together, goal in ((100, 0.10), (1000, 0.07)):
        await bench.compare(
            f"{together} increments together",
            {
                OURS: our_counters(_together),
                WITH_HISTORY: our_counters(_together, history=True),
                RAW_FULL: raw_counter,
            },
            base=RAW_FULL,
            clock="wall",
            count=together,
            goals={OURS: goal} if bench.on_disk else {},
            rounds=None if together == 100 or bench.long else 7,
        )
    await bench.compare(
        "100 objects, 10 increments each",
        {OURS: our_counters(_spread), RAW_FULL: raw_counters},
        base=RAW_FULL,
        clock="wall",
        count=1000,
        rounds=None if bench.long else 7,
    )


# -- new objects --------------------------------------------------------------------------


def _new(together: int) -> Callable[[Any, int, int], Any]:
    async def call(namespace: Any, count: int, salt: int) -> None:
        names = (f"new-{salt}-{number}" for number in range(count))
        while batch := list(itertools.islice(names, together)):
            await asyncio.gather(*[namespace.get_by_name(name).increment() for name in batch])

    return call


@asynccontextmanager
async def raw_new(folder: Path) -> AsyncIterator[Run]:
    def run(count: int, salt: int) -> None:
        for number in range(count):
            connection = connect(folder / f"{salt}-{number}.db", full=True)
            connection.execute("INSERT INTO kv VALUES('value', 1)")
            connection.close()

    yield run


async def new_objects(bench: Bench) -> None:
    """A new object and its first durable increment; opening one that is closed."""
    for together in (1, 50):
        await bench.compare(
            f"new object, {together} at a time",
            {
                OURS: our_counters(_new(together), max_open_objects=200),
                WITH_HISTORY: our_counters(_new(together), max_open_objects=200, history=True),
                RAW_FULL: raw_new,
            },
            base=RAW_FULL,
            clock="wall",
            count=50,
            rounds=None if bench.long else 7,
        )
    await bench.compare(
        "cold open and one read",
        {
            OURS: cold_open(history=False),
            WITH_HISTORY: cold_open(history=True),
            RAW_FULL: raw_cold_open,
        },
        base=RAW_FULL,
        clock="wall",
    )


def cold_open(*, history: bool) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        async with Runtime(folder / "runtime", history=History(enabled=history)) as runtime:
            stub = runtime.namespace(Reader).get_by_name("cold")
            await stub.increment()

            async def run(count: int, salt: int) -> None:
                for _ in range(count):
                    await runtime.evict_all()
                    await stub.read()

            yield run

    return contender


class Reader(Counter):
    async def read(self) -> object:
        return await self.ctx.storage.get("value")


@asynccontextmanager
async def raw_cold_open(folder: Path) -> AsyncIterator[Run]:
    connection = connect(folder / "raw.db", full=True)
    connection.execute("INSERT INTO kv VALUES('value', 1)")
    connection.close()

    def run(count: int, salt: int) -> None:
        for _ in range(count):
            connection = connect(folder / "raw.db", full=True)
            connection.execute("SELECT value FROM kv WHERE key='value'").fetchone()
            connection.close()

    yield run
