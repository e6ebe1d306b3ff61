"""What we are compared with. Each peer does the work as its own documentation would."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from durable_storage import DurableObjectState, History
from durable_storage.storage import host

from .harness import Missing

OURS = "durable_storage"
RAW = "sqlite3 tuned"
UNTUNED = "sqlite3 untuned"

UPSERT = "INSERT INTO kv VALUES(?,?) ON CONFLICT DO UPDATE SET value=excluded.value"
SELECT = "SELECT value FROM kv WHERE key=?"


def module(name: str) -> ModuleType:
    """An optional peer."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Missing(name.partition(".")[0]) from None


def connect(path: Path, *, tuned: bool = True, full: bool = False) -> sqlite3.Connection:
    """Raw ``sqlite3``: as it comes, or set up as well as it can be.

    Args:
        path: the database file.
        tuned: WAL, exclusive locking, no sync by SQLite itself at a commit.
        full: every commit is durable.
    """
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    if tuned:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
        connection.execute("PRAGMA cache_size=-16000")
        connection.execute("PRAGMA wal_autocheckpoint=1000")
    connection.execute("CREATE TABLE IF NOT EXISTS kv(key TEXT PRIMARY KEY, value) WITHOUT ROWID")
    return connection


@asynccontextmanager
async def ours(folder: Path, **options: Any) -> AsyncIterator[DurableObjectState]:
    """One object without a runtime; durability of the operating system unless said otherwise."""
    options.setdefault("durability", "os")
    options.setdefault("history", History(enabled=False))
    async with DurableObjectState.open(folder / "object.sqlite", **options) as ctx:
        yield ctx


@asynccontextmanager
async def filled(
    folder: Path, fill: Callable[[DurableObjectState], Awaitable[object]]
) -> AsyncIterator[DurableObjectState]:
    """As `ours`, filled and opened again, so that what was written has left the log.

    The raw peer's autocheckpoint has moved it too. Ours folds the log in a turn of the event loop
    that filling does not leave it.
    """
    async with ours(folder) as ctx:
        await fill(ctx)
    async with ours(folder) as ctx:
        # While its log is empty, SQLite asks for the size of the file before every statement.
        await ctx.run_event(ctx.storage.put, "", 0)
        await ctx.run_event(ctx.storage.delete, "")
        yield ctx


def host_of(stub: Any) -> host.Host:
    """What an object of ours is behind its stub."""
    namespace, object_id, _ = stub.__dict__["_stub"]
    found: host.Host = namespace._residents[str(object_id)].host
    return found


def zodb(folder: Path) -> Any:
    """An open ZODB database, its connection, its root mapping and its ``transaction`` module."""
    module("ZODB")
    database = module("ZODB.DB").DB(module("ZODB.FileStorage").FileStorage(str(folder / "zodb.fs")))
    tree = module("BTrees.OOBTree").OOBTree
    connection = database.open()
    connection.root.tree = tree()
    module("transaction").commit()
    return database, connection, connection.root.tree, module("transaction")
