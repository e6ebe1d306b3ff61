"""What is done to a runtime while its system calls are recorded: one script for each promise.

Run as ``python -m tests.crash.scripts NAME DIRECTORY BACKEND``. Every step changes one subject (an
object, or a slice of one) by one commit. Marks on the output say when a step began, when its answer
came, and what the subject was then; whoever reads the record knows at each moment what must be there
and what may be.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import random
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from durable_storage import DurableObject, History, Runtime
from durable_storage.history import archive, commit_log, image, retention
from durable_storage.runtime.migrations import Migration
from durable_storage.storage import host
from durable_storage.testing import (
    ManualClock,
    evict_all_durable_objects,
    evict_durable_object,
    run_in_durable_object,
)

HISTORY = History(segment_size_bytes=4096)
START = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
FOLD_AT_BYTES = 24 * 1024


def make_everything_happen_often() -> None:
    """Fold, archive and snapshot small files as if they were large."""
    host.FOLD_AT_BYTES = FOLD_AT_BYTES
    archive.SLICE_SIZE = 4 * 4120
    image.SLICE_SIZE = 4 * 4120
    retention.SNAPSHOT_AFTER_MIN_BYTES = 20 * 4096
    retention.LOG_PER_SNAPSHOT = 2
    commit_log.ARCHIVE_AHEAD_FRAMES = 5


class Thing(DurableObject):
    """An object that does as it is told."""

    async def alarm(self) -> None:
        storage = self.ctx.storage
        storage.kv.put("ran", storage.kv.get("ran", 0) + 1)
        moves = storage.kv.get("again", 0)
        if moves:
            storage.kv.put("again", moves - 1)
            storage.set_alarm(datetime.timedelta(seconds=7))
        if storage.kv.get("failing", 0):
            storage.kv.put("failing", storage.kv.get("failing") - 1)
            raise RuntimeError("a failing handler")

    async def put(self, **pairs: Any) -> None:
        for key, value in pairs.items():
            self.ctx.storage.put(key, value)

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self.ctx.storage.delete(key)

    async def sql(self, *statements: Any) -> None:
        for statement in statements:
            query, *bindings = (statement,) if isinstance(statement, str) else statement
            self.ctx.storage.sql.exec(query, *bindings)

    async def both(self, key: str, value: int, *, rolled_back: bool = False) -> None:
        """Write a key and a row in one transaction, with a nested one that is rolled back."""

        async def work(txn: Any) -> None:
            txn.put(key, value)
            self.ctx.storage.sql.exec("INSERT INTO t(b) VALUES (?)", f"{key}={value}" + "." * 900)
            with_failure = self.ctx.storage.transaction_sync
            try:
                with_failure(self._fail)
            except RuntimeError:
                pass
            txn.put("last", key)
            if rolled_back:
                txn.rollback()

        await self.ctx.storage.transaction(work)

    def _fail(self) -> None:
        self.ctx.storage.kv.put("never", 1)
        self.ctx.storage.sql.exec("DELETE FROM t")
        raise RuntimeError("rolled back")

    async def raising(self, key: str, value: int) -> None:
        async with self.ctx.storage.transaction():
            self.ctx.storage.put(key, value)
            self.ctx.storage.sql.exec("DELETE FROM t")
            raise RuntimeError("rolled back")

    async def set_alarm(self, milliseconds: int, **pairs: Any) -> None:
        self.ctx.storage.set_alarm(datetime.timedelta(milliseconds=milliseconds))
        await self.put(**pairs)

    async def delete_alarm(self, **pairs: Any) -> None:
        self.ctx.storage.delete_alarm()
        await self.put(**pairs)

    async def delete_all(self, *, delete_alarm: bool = False) -> None:
        self.ctx.storage.delete_all(delete_alarm=delete_alarm)

    async def count(self, slot: str) -> int:
        """Add one to a slice of the object, as a key and as a row that must agree."""
        value = await self.ctx.storage.get(slot, 0) + 1
        self.ctx.storage.put(slot, value)
        self.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS counts(slot PRIMARY KEY, n)")
        self.ctx.storage.sql.exec("INSERT OR REPLACE INTO counts VALUES (?, ?)", slot, value)
        return value

    async def bookmark(self) -> str:
        return await self.ctx.storage.get_current_bookmark()

    async def restore(self, bookmark: str) -> str:
        return await self.ctx.storage.on_next_session_restore_bookmark(bookmark)


# -- what a subject is


def state_of(ctx: Any) -> dict[str, Any]:
    """All that an object holds, as its own code sees it."""
    tables = [
        row["name"]
        for row in ctx.storage.sql.exec("SELECT name FROM sqlite_master WHERE type='table'")
        if not row["name"].startswith(("_cf_", "sqlite_"))
    ]
    return {
        "kv": dict(ctx.storage.kv.list()),
        "sql": {name: list(ctx.storage.sql.exec(f"SELECT * FROM {name}").raw()) for name in tables},
    }


def state_of_file(path: str) -> dict[str, Any]:
    """As `state_of`, and the alarm too, read from a closed file; it must be sound."""
    connection = sqlite3.connect(path)
    try:
        verdict = connection.execute("PRAGMA integrity_check").fetchall()
        assert verdict == [("ok",)], verdict
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        metadata = dict(_rows(connection, "_cf_METADATA", tables))
        return {
            "kv": dict(_rows(connection, "_cf_KV", tables)),
            "sql": {
                name: _rows(connection, name, tables)
                for name in tables
                if not name.startswith(("_cf_", "sqlite_"))
            },
            "alarm": metadata.get("alarm"),
        }
    finally:
        connection.close()


def _rows(connection: sqlite3.Connection, table: str, tables: list[str]) -> list[Any]:
    if table not in tables:
        return []
    return connection.execute(f"SELECT * FROM {table}").fetchall()


EMPTY = {"kv": {}, "sql": {}, "alarm": None}


def digest(state: dict[str, Any]) -> str:
    """A short name for a state that is still readable when two of them differ."""
    text = json.dumps(state, sort_keys=True, default=str)
    pairs = sorted(state["kv"].items())
    keys = {key: value if isinstance(value, int) else "…" for key, value in pairs}
    rows = {name: len(rows) for name, rows in sorted(state["sql"].items())}
    return f"{hashlib.sha256(text.encode()).hexdigest()[:12]} kv={keys} rows={rows} alarm={state.get('alarm')}"


async def whole_state(stub: Any) -> dict[str, Any]:
    """The state of an object, with its alarm."""

    def read(_: Any, ctx: Any) -> dict[str, Any]:
        state = state_of(ctx)
        state["alarm"] = ctx.storage._session.alarm.due_ms()
        return state

    return await run_in_durable_object(stub, read)


# -- running


def mark(**fields: Any) -> None:
    os.write(1, b"@" + json.dumps(fields).encode() + b"\n")


class World:
    """One session of a script."""

    def __init__(self, runtime: Runtime, clock: ManualClock, names: dict[str, Any]) -> None:
        self.runtime = runtime
        self.clock = clock
        self.names = names

    def stub(self, subject: str) -> Any:
        namespace, _, name = subject.partition("/")
        return self.names[namespace].get_by_name(name)

    async def step(self, subject: str, work: Awaitable[Any]) -> Any:
        """Do one thing, and mark it."""
        mark(begin=subject, now=self.clock.time_ms())
        try:
            result = await work
        except RuntimeError:
            result = None
        mark(end=subject, now=self.clock.time_ms())
        mark(state=subject, value=digest(await whole_state(self.stub(subject))))
        return result

    async def call(self, subject: str, method: str, *arguments: Any, **options: Any) -> Any:
        return await self.step(subject, getattr(self.stub(subject), method)(*arguments, **options))

    async def count(self, subject: str, slot: str) -> None:
        mark(begin=f"{subject}#{slot}", now=self.clock.time_ms())
        value = await self.stub(subject).count(slot)
        mark(end=f"{subject}#{slot}", now=self.clock.time_ms())
        mark(state=f"{subject}#{slot}", value=value)

    async def pass_time(self, subject: str, seconds: float) -> None:
        """Let an alarm run, which changes one subject."""
        await self.step(subject, self.clock.advance(seconds=seconds))

    async def bookmark(self, subject: str) -> str:
        bookmark = await self.stub(subject).bookmark()
        state = digest(await whole_state(self.stub(subject)))
        mark(bookmark=bookmark, subject=subject, value=state)
        return bookmark

    async def restore(self, subject: str, bookmark: str) -> str:
        stub = self.stub(subject)

        async def work() -> str:
            undo = await stub.restore(bookmark)
            await evict_durable_object(stub)
            await whole_state(stub)
            return undo

        return await self.step(subject, work())

    async def evict(self, subject: str) -> None:
        await evict_durable_object(self.stub(subject))

    async def evict_all(self) -> None:
        await evict_all_durable_objects(self.runtime)


@dataclass
class Session:
    """One life of the process in a script."""

    run: Callable[[World], Awaitable[None]]
    migrations: tuple[Migration, ...] = ()
    namespaces: Sequence[str] = ("Thing",)


def big(number: int, size: int = 3000) -> str:
    """Different texts that differ without a pattern.

    SQLite takes a torn commit for a whole one where what was there before differs by the same in
    three sectors on end: its checksum is a sum with weights that repeat.
    """
    return random.Random(number).randbytes(size // 2).hex()


async def kv(world: World) -> None:
    subject = "Thing/kv"
    await world.call(subject, "put", first=1)
    for number in range(6):
        await world.call(subject, "put", **{f"k{number % 3}": number, f"b{number}": big(number)})
    await world.call(subject, "put", b0=big(9, 20_000))
    await world.call(subject, "delete", "k0", "b1", "missing")
    await world.evict(subject)
    for number in range(4):
        await world.call(subject, "put", hot=number)
    await world.call(subject, "put", **{f"m{number}": big(number) for number in range(12)})


async def sql(world: World) -> None:
    subject = "Thing/sql"
    await world.call(subject, "sql", "CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    insert = "INSERT INTO t(b) VALUES (?)"
    for number in range(5):
        await world.call(
            subject, "sql", *[(insert, big(number * 10 + i)) for i in range(1 + number)]
        )
    await world.call(subject, "sql", "CREATE INDEX i ON t(b)", (insert, big(3)))
    await world.call(
        subject, "sql", "UPDATE t SET b = b || 'x' WHERE a % 2", "DELETE FROM t WHERE a < 4"
    )
    await world.call(subject, "sql", "DROP INDEX i", "CREATE TABLE u AS SELECT a FROM t")
    await world.evict(subject)
    await world.call(subject, "sql", "DELETE FROM t")
    await world.call(
        subject, "sql", "DROP TABLE t", "CREATE TABLE t(c)", "INSERT INTO t VALUES (1)"
    )


async def transactions(world: World) -> None:
    subject = "Thing/txn"
    await world.call(subject, "sql", "CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    for number in range(8):
        await world.call(subject, "both", f"k{number % 3}", number)
        if number % 3 == 1:
            await world.call(subject, "both", "undone", number, rolled_back=True)
            await world.call(subject, "raising", "undone", number)
        if number == 5:
            await world.evict(subject)


async def alarms(world: World) -> None:
    a, b, c = "Thing/a", "Thing/b", "Thing/c"
    await world.call(a, "set_alarm", 60_000)
    await world.call(b, "set_alarm", 50_000, x=1)
    await world.call(a, "set_alarm", 20_000)  # earlier
    await world.call(b, "set_alarm", 90_000)  # later
    await world.call(c, "set_alarm", 30_000, again=1)
    await world.call(b, "delete_alarm", x=2)
    await world.call(b, "set_alarm", 70_000)
    await world.pass_time(a, 20)  # a runs
    await world.evict(a)
    await world.pass_time(c, 10)  # c runs and sets another
    await world.call(a, "set_alarm", 5_000, failing=1)
    await world.pass_time(a, 5)  # a fails, and is retried
    await world.pass_time(a, 0.5)
    await world.evict_all()
    await world.pass_time(c, 1.5)  # c runs again
    await world.call(c, "set_alarm", 3_000)
    await world.call(c, "delete_alarm")
    await world.call(b, "set_alarm", 100_000, x=3)
    await world.call(b, "put", x=4)


async def archived(world: World) -> None:
    subject = "Thing/log"
    await world.call(subject, "sql", "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")
    for number in range(14):
        await world.call(subject, "sql", *[
            ("INSERT OR REPLACE INTO t VALUES (?, ?)", (number * 3 + i) % 17, big(number)) for i in range(4)
        ])  # fmt: skip
        if number % 3 == 0:
            await world.bookmark(subject)
        if number == 8:
            await world.evict(subject)
        await world.clock.advance(seconds=30)


async def restores(world: World) -> None:
    subject = "Thing/undo"
    await world.call(subject, "put", value=1)
    first = await world.bookmark(subject)
    await world.call(subject, "put", value=2, **{f"b{i}": big(i) for i in range(6)})
    second = await world.bookmark(subject)
    await world.call(subject, "sql", "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    undo = await world.restore(subject, first)
    await world.call(subject, "put", value=3)
    await world.restore(subject, undo)
    await world.restore(subject, second)
    await world.call(subject, "put", value=4)


async def deletions(world: World) -> None:
    subject = "Thing/gone"
    for number in range(3):
        await world.call(subject, "put", **{f"k{i}": big(i + number) for i in range(8)})
        await world.call(
            subject, "sql", "CREATE TABLE t(a, b)", ("INSERT INTO t VALUES (1, ?)", big(1))
        )
        await world.call(subject, "set_alarm", 60_000 * (number + 1))
        await world.call(subject, "delete_all", delete_alarm=number == 1)
        if number == 1:
            await world.evict(subject)
    await world.call(subject, "put", after=1)


async def creation(world: World) -> None:
    for number in range(3):
        await world.call(f"Thing/new{number}", "put", value=number)
    async with anyio.create_task_group() as group:
        for number in range(3, 6):
            group.start_soon(_create, world, number)
    await world.evict_all()
    await world.call("Thing/new0", "put", value=10)
    await world.call("Thing/new9", "put", value=9)


async def _create(world: World, number: int) -> None:
    await world.call(f"Thing/new{number}", "put", value=number)
    await world.call(f"Thing/new{number}", "put", value=number + 100)


async def shared(world: World) -> None:
    async with anyio.create_task_group() as group:
        for slot in range(5):
            group.start_soon(_share, world, "Thing/shared", f"s{slot}")
        group.start_soon(_share, world, "Thing/other", "s")


async def _share(world: World, subject: str, slot: str) -> None:
    for _ in range(5):
        await world.count(subject, slot)


async def fill(world: World) -> None:
    for subject in ("A/one", "A/two", "B/one"):
        await world.call(subject, "put", value=1)
    await world.call("A/one", "set_alarm", 60_000)


async def renamed(world: World) -> None:
    await world.call("C/one", "put", value=2)
    await world.call("C/three", "put", value=1)


CREATED = Migration("v1", new_sqlite_classes=["A", "B"])
CHANGED = Migration("v2", renamed_classes=[("A", "C")], deleted_classes=["B"])

SCRIPTS: dict[str, list[Session]] = {
    "kv": [Session(kv)],
    "sql": [Session(sql)],
    "transactions": [Session(transactions)],
    "alarms": [Session(alarms)],
    "archive": [Session(archived), Session(archived)],
    "restore": [Session(restores), Session(restores)],
    "delete_all": [Session(deletions)],
    "migration": [
        Session(fill, (CREATED,), ("A", "B")),
        Session(renamed, (CREATED, CHANGED), ("C",)),
        Session(renamed, (CREATED, CHANGED), ("C",)),
    ],
    "creation": [Session(creation)],
    "shared": [Session(shared)],
}


async def run(name: str, path: str) -> None:
    clock = ManualClock(START)
    for number, session in enumerate(SCRIPTS[name]):
        mark(session=number, now=clock.time_ms())
        async with Runtime(
            path, clock=clock, history=HISTORY, idle_timeout=3600, migrations=session.migrations
        ) as runtime:
            names = {each: runtime.namespace(Thing, name=each) for each in session.namespaces}
            mark(opened=number, now=clock.time_ms())
            await session.run(World(runtime, clock, names))
    mark(closed=True, now=clock.time_ms())


if __name__ == "__main__":
    make_everything_happen_often()
    anyio.run(run, sys.argv[1], sys.argv[2], backend=sys.argv[3])
