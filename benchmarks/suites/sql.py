"""SQL on the object's own database, and transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from durable_storage import DurableObjectState

from ..harness import Bench, Run
from ..peers import OURS, RAW, UNTUNED, connect, filled, module, ours

# A row as applications have it: some short columns and a text of a hundred characters.
TABLE = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, email TEXT, score REAL, created INTEGER,"
    " body TEXT)"
)
INSERT = "INSERT INTO t(name, email, score, created, body) VALUES(?, ?, ?, ?, ?)"
POINT = "SELECT id, name, email, score, created, body FROM t WHERE id=?"
UPDATE = "UPDATE t SET score=?, body=? WHERE id=?"
SCAN = "SELECT id, name, email, score, created, body FROM t"
BODY = (
    "Some text of the length that a comment, an address or a description has in applications. " * 2
)
POINT_ROWS = 1000
SCAN_ROWS = 100_000
BATCH = 100

# Tuned sqlite3 with rows made into dicts, as ours are, by an expression written for their columns.
DICTS = "sqlite3 tuned, dicts"
# The same without the dicts.
TUPLES = "sqlite3 tuned, tuples"

Work = Callable[[int, int], Any]


def _row(number: int) -> tuple[str, str, float, int, str]:
    return (
        f"name {number}",
        f"someone.{number}@example.com",
        number * 0.5,
        1_700_000_000_000 + number,
        BODY[number % 50 : number % 50 + 100],
    )


def _fill(ctx: DurableObjectState, rows: int) -> None:
    ctx.storage.sql.exec(TABLE)
    for number in range(rows):
        ctx.storage.sql.exec(INSERT, *_row(number))


def our(make: Callable[[DurableObjectState], Work], rows: int) -> Any:
    """Our side: ``make(ctx)`` gives what one event does with (count, salt)."""

    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        async with filled(folder, lambda ctx: ctx.run_event(_fill, ctx, rows)) as ctx:
            work = make(ctx)
            yield lambda count, salt: ctx.run_event(work, count, salt)

    return contender


def our_writes(make: Callable[[DurableObjectState], Callable[[int, int, int], Any]]) -> Any:
    """As `our`, one event for each batch."""

    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        async with filled(folder, lambda ctx: ctx.run_event(_fill, ctx, POINT_ROWS)) as ctx:
            work = make(ctx)

            async def run(count: int, salt: int) -> None:
                for start in range(0, count, BATCH):
                    await ctx.run_event(work, start, min(start + BATCH, count), salt)

            yield run

    return contender


def raw(make: Callable[[Any], Work], rows: int, *, tuned: bool = True) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        with closing(connect(folder / "raw.db", tuned=tuned)) as connection:
            connection.execute(TABLE)
            connection.execute("BEGIN")
            connection.executemany(INSERT, map(_row, range(rows)))
            connection.execute("COMMIT")
            yield make(connection)

    return contender


def our_point(ctx: DurableObjectState) -> Work:
    def work(count: int, salt: int) -> None:
        execute = ctx.storage.sql.exec
        for number in range(count):
            execute(POINT, number % POINT_ROWS + 1).one()

    return work


def raw_point(connection: Any) -> Work:
    def work(count: int, salt: int) -> None:
        execute = connection.execute
        for number in range(count):
            execute(POINT, (number % POINT_ROWS + 1,)).fetchone()

    return work


def raw_point_dict(connection: Any) -> Work:
    def work(count: int, salt: int) -> None:
        execute = connection.execute
        for number in range(count):
            cursor = execute(POINT, (number % POINT_ROWS + 1,))
            id_, name, email, score, at, body = cursor.fetchone()
            _ = {
                "id": id_,
                "name": name,
                "email": email,
                "score": score,
                "created": at,
                "body": body,
            }

    return work


def our_insert(ctx: DurableObjectState) -> Callable[[int, int, int], None]:
    def work(start: int, stop: int, salt: int) -> None:
        execute = ctx.storage.sql.exec
        for number in range(start, stop):
            execute(INSERT, "name", "someone@example.com", salt + 0.5, number, BODY)

    return work


def raw_insert(connection: Any) -> Work:
    def work(count: int, salt: int) -> None:
        execute = connection.execute
        for start in range(0, count, BATCH):
            execute("BEGIN")
            for number in range(start, min(start + BATCH, count)):
                execute(INSERT, ("name", "someone@example.com", salt + 0.5, number, BODY))
            execute("COMMIT")

    return work


def our_update(ctx: DurableObjectState) -> Callable[[int, int, int], None]:
    def work(start: int, stop: int, salt: int) -> None:
        execute = ctx.storage.sql.exec
        for number in range(start, stop):
            execute(UPDATE, salt + 0.5, "other text", number % POINT_ROWS + 1)

    return work


def raw_update(connection: Any) -> Work:
    def work(count: int, salt: int) -> None:
        execute = connection.execute
        for start in range(0, count, BATCH):
            execute("BEGIN")
            for number in range(start, min(start + BATCH, count)):
                execute(UPDATE, (salt + 0.5, "other text", number % POINT_ROWS + 1))
            execute("COMMIT")

    return work


def our_scan(read: Callable[[Any], object]) -> Callable[[DurableObjectState], Work]:
    def make(ctx: DurableObjectState) -> Work:
        def work(count: int, salt: int) -> None:
            for _ in range(count):
                read(ctx.storage.sql.exec(SCAN))

        return work

    return make


def raw_scan(read: Callable[[Any], object]) -> Callable[[Any], Work]:
    def make(connection: Any) -> Work:
        def work(count: int, salt: int) -> None:
            for _ in range(count):
                read(connection.execute(SCAN))

        return work

    return make


def _exhaust(rows: Any) -> None:
    for _ in rows:
        pass


def _dicts(cursor: Any) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _by_hand(cursor: Any) -> Iterator[dict[str, Any]]:
    """The fastest that Python has for these columns."""
    return (
        {"id": id_, "name": name, "email": email, "score": score, "created": at, "body": body}
        for id_, name, email, score, at, body in cursor
    )


@asynccontextmanager
async def aiosqlite_point(folder: Path) -> AsyncIterator[Run]:
    async with module("aiosqlite").connect(folder / "aio.db") as connection:
        await connection.execute(TABLE)
        await connection.executemany(INSERT, [_row(number) for number in range(POINT_ROWS)])
        await connection.commit()

        async def run(count: int, salt: int) -> None:
            for number in range(count):
                async with connection.execute(POINT, (number % POINT_ROWS + 1,)) as cursor:
                    await cursor.fetchone()

        yield run


async def sql(bench: Bench) -> None:
    """``storage.sql.exec``. Where rows become dicts, they do so for the raw peer as well."""
    await bench.compare(
        "exec(...).one() by key",
        {
            OURS: our(our_point, POINT_ROWS),
            DICTS: raw(raw_point_dict, POINT_ROWS),
            TUPLES: raw(raw_point, POINT_ROWS),
            UNTUNED: raw(raw_point, POINT_ROWS, tuned=False),
            "aiosqlite": aiosqlite_point,
        },
        base=DICTS,
        goals={OURS: 1.4},
    )
    await bench.compare(
        f"insert, {BATCH} a transaction",
        {
            OURS: our_writes(our_insert),
            RAW: raw(raw_insert, POINT_ROWS),
            UNTUNED: raw(raw_insert, POINT_ROWS, tuned=False),
        },
        base=RAW,
        goals={OURS: 1.3},
    )
    await bench.compare(
        f"update, {BATCH} a transaction",
        {OURS: our_writes(our_update), RAW: raw(raw_update, POINT_ROWS)},
        base=RAW,
        goals={OURS: 1.4},
    )
    rows = SCAN_ROWS
    fewer = None if bench.long else 7
    await bench.compare(
        "scan 100 000 rows to dicts",
        {
            OURS: our(our_scan(lambda cursor: cursor.to_array()), rows),
            "sqlite3 dict(zip())": raw(raw_scan(_dicts), rows),
            DICTS: raw(raw_scan(lambda cursor: list(_by_hand(cursor))), rows),
            TUPLES: raw(raw_scan(lambda cursor: cursor.fetchall()), rows),
        },
        base=DICTS,
        goals={OURS: 1.3},
        count=1,
        rounds=fewer,
    )
    await bench.compare(
        "iterate 100 000 rows",
        {
            OURS: our(our_scan(_exhaust), rows),
            DICTS: raw(raw_scan(lambda cursor: _exhaust(_by_hand(cursor))), rows),
            TUPLES: raw(raw_scan(_exhaust), rows),
        },
        base=DICTS,
        goals={OURS: 1.25},
        count=1,
        rounds=fewer,
    )
    await bench.compare(
        "raw() 100 000 rows",
        {
            OURS: our(our_scan(lambda cursor: _exhaust(cursor.raw())), rows),
            RAW: raw(raw_scan(_exhaust), rows),
        },
        base=RAW,
        goals={OURS: 1.05},
        count=1,
        rounds=fewer,
    )


# -- transactions -------------------------------------------------------------------------


def our_transactions(kind: str) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        async with ours(folder) as ctx:
            storage = ctx.storage
            await ctx.run_event(storage.sql.exec, TABLE)
            await ctx.run_event(storage.sql.exec, INSERT, *_row(1))

            async def explicit(count: int, salt: int) -> None:
                numbers = iter(range(count))

                async def callback() -> None:
                    storage.sql.exec(UPDATE, salt + next(numbers), "text", 1)

                for _ in range(count):
                    await storage.transaction(callback)

            def nested(count: int, salt: int) -> None:
                numbers = iter(range(count))

                def callback() -> None:
                    storage.sql.exec(UPDATE, salt + next(numbers), "text", 1)

                for _ in range(count):
                    storage.transaction_sync(callback)

            async def events(count: int, salt: int) -> None:
                for number in range(count):
                    await ctx.run_event(storage.sql.exec, UPDATE, salt + number, "text", 1)

            if kind == "event":
                yield events
            else:
                work = explicit if kind == "transaction" else nested
                yield lambda count, salt: ctx.run_event(work, count, salt)

    return contender


def raw_transactions(begin: str, end: str) -> Callable[[Any], Work]:
    def make(connection: Any) -> Work:
        def work(count: int, salt: int) -> None:
            execute = connection.execute
            outer = begin != "BEGIN"
            if outer:
                execute("BEGIN")
            for number in range(count):
                execute(begin)
                execute(UPDATE, (salt + number, "text", 1))
                execute(end)
            if outer:
                execute("COMMIT")

        return work

    return make


async def transactions(bench: Bench) -> None:
    """One update in each: an event, ``transaction()``, ``transaction_sync()``."""
    commits = raw(raw_transactions("BEGIN", "COMMIT"), 1)
    for kind in ("event", "transaction"):
        await bench.compare(
            f"one update in each {kind}", {OURS: our_transactions(kind), RAW: commits}, base=RAW
        )
    await bench.compare(
        "one update in each transaction_sync",
        {OURS: our_transactions("sync"), RAW: raw(raw_transactions("SAVEPOINT s", "RELEASE s"), 1)},
        base=RAW,
    )
