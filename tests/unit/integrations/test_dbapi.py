from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from durable_storage import (
    ConcurrencyError,
    DurableObject,
    DurableObjectState,
    History,
    Runtime,
    SqlError,
    TransactionError,
)
from durable_storage.integrations import dbapi

pytestmark = pytest.mark.anyio

NO_HISTORY = History(enabled=False)


async def in_object(tmp_path: Path, callback: Callable[[DurableObjectState], Any]) -> Any:
    """Run a callback as one event of an object whose file stays for the next."""
    async with DurableObjectState.open(tmp_path / "a.sqlite", history=NO_HISTORY) as ctx:
        return await ctx.run_event(callback, ctx)


def table(ctx: DurableObjectState) -> dbapi.Connection:
    connection = dbapi.connect(ctx.storage)
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)")
    connection.commit()
    return connection


def values(ctx: DurableObjectState) -> list[Any]:
    return [row[0] for row in ctx.storage.sql.exec("SELECT a FROM t ORDER BY a").raw()]


# -- PEP 249 ------------------------------------------------------------------------------------


def test_the_module_says_what_pep_249_asks() -> None:
    assert (dbapi.apilevel, dbapi.threadsafety, dbapi.paramstyle) == ("2.0", 1, "qmark")
    assert issubclass(dbapi.IntegrityError, dbapi.DatabaseError)
    assert dbapi.Connection.IntegrityError is dbapi.IntegrityError


async def test_a_cursor_runs_statements_and_gives_rows(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        cursor = table(ctx).cursor()
        assert cursor.execute("INSERT INTO t(a) VALUES (?)", (5,)).lastrowid == 1
        assert (cursor.rowcount, cursor.description) == (1, None)
        assert cursor.executemany("INSERT INTO t(a) VALUES (?)", [(6,), (7,), (8,)]).rowcount == 3
        cursor.execute("SELECT id, a AS x FROM t WHERE a > :least ORDER BY a", {"least": 5})
        assert [column[0] for column in cursor.description or ()] == ["id", "x"]
        assert cursor.rowcount == -1
        assert cursor.fetchone() == (2, 6)
        assert cursor.fetchmany() == [(3, 7)]
        assert list(cursor) == [(4, 8)]
        assert cursor.fetchone() is None
        assert cursor.fetchall() == []
        assert cursor.execute("UPDATE t SET a = a + 10 WHERE a >= 7").rowcount == 2
        assert cursor.execute("DELETE FROM t WHERE a = 99").rowcount == 0
        assert cursor.execute("INSERT INTO t(a) VALUES (1) RETURNING id").fetchall() == [(5,)]
        assert cursor.execute("SELECT a FROM t WHERE 0").description is not None
        assert cursor.fetchall() == []
        cursor.close()
        with pytest.raises(dbapi.ProgrammingError, match="closed cursor"):
            cursor.fetchone()

    await in_object(tmp_path, event)


async def test_a_transaction_begins_with_the_first_write(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = table(ctx)
        connection.execute("SELECT * FROM t").fetchall()
        assert not connection.in_transaction
        connection.execute("INSERT INTO t(a) VALUES (1)")
        assert connection.in_transaction
        connection.rollback()
        assert not connection.in_transaction
        connection.execute("INSERT INTO t(a) VALUES (2)")
        connection.commit()
        connection.rollback()
        assert values(ctx) == [2]

    await in_object(tmp_path, event)
    assert await in_object(tmp_path, values) == [2]


async def test_a_table_is_created_in_the_transaction_too(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = dbapi.connect(ctx.storage)
        connection.execute("CREATE TABLE gone(a)")
        connection.rollback()
        with pytest.raises(dbapi.OperationalError, match="no such table"):
            connection.execute("SELECT * FROM gone")

    await in_object(tmp_path, event)


async def test_with_commits_or_rolls_back(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        with table(ctx) as connection:
            connection.execute("INSERT INTO t(a) VALUES (1)")
        with pytest.raises(LookupError), connection:  # noqa: PT012
            connection.execute("INSERT INTO t(a) VALUES (2)")
            raise LookupError
        assert values(ctx) == [1]

    await in_object(tmp_path, event)


async def test_what_is_not_committed_when_the_connection_is_closed_is_undone(
    tmp_path: Path,
) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = table(ctx)
        connection.execute("INSERT INTO t(a) VALUES (1)")
        connection.close()
        connection.close()
        assert values(ctx) == []
        with pytest.raises(dbapi.ProgrammingError, match="closed database"):
            connection.execute("SELECT 1")

    await in_object(tmp_path, event)


async def test_without_an_isolation_level_each_statement_stands(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = table(ctx)
        connection.execute("INSERT INTO t(a) VALUES (1)")
        connection.isolation_level = None  # commits, as that of sqlite3 does
        connection.execute("INSERT INTO t(a) VALUES (2)")
        connection.rollback()
        assert values(ctx) == [1, 2]

    await in_object(tmp_path, event)


async def test_a_commit_is_undone_with_the_transaction_around_it(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = table(ctx)
        with pytest.raises(LookupError), ctx.storage.transaction_sync():  # noqa: PT012
            connection.execute("INSERT INTO t(a) VALUES (1)")
            connection.commit()
            raise LookupError
        assert values(ctx) == []

    await in_object(tmp_path, event)


async def test_transactions_end_innermost_first(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        first, second = table(ctx), dbapi.connect(ctx.storage)
        first.execute("INSERT INTO t(a) VALUES (1)")
        second.execute("INSERT INTO t(a) VALUES (2)")
        with pytest.raises(dbapi.OperationalError, match="begun later"):
            first.commit()
        second.rollback()
        first.commit()
        assert values(ctx) == [1]

    await in_object(tmp_path, event)


async def test_a_transaction_left_open_across_an_await_is_gone(tmp_path: Path) -> None:
    async def event(ctx: DurableObjectState) -> None:
        connection = table(ctx)
        connection.execute("INSERT INTO t(a) VALUES (1)")
        await anyio.lowlevel.checkpoint()
        with ctx.storage.transaction_sync():
            ctx.storage.sql.exec("INSERT INTO t(a) VALUES (2)")
            with pytest.raises(dbapi.OperationalError, match="before any await"):
                connection.execute("INSERT INTO t(a) VALUES (3)")
        assert values(ctx) == [2]
        connection.execute("INSERT INTO t(a) VALUES (4)")
        await anyio.lowlevel.checkpoint()
        with pytest.raises(dbapi.OperationalError, match="before any await"):
            connection.commit()
        connection.execute("INSERT INTO t(a) VALUES (5)")
        await anyio.lowlevel.checkpoint()
        with ctx.storage.transaction_sync():
            ctx.storage.sql.exec("INSERT INTO t(a) VALUES (6)")
            connection.rollback()
        assert values(ctx) == [2, 6]

    await in_object(tmp_path, event)


async def test_errors_are_those_of_pep_249_and_have_the_librarys_as_their_cause(
    tmp_path: Path,
) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = table(ctx)
        connection.execute("INSERT INTO t(a) VALUES (1)")
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE") as caught:
            connection.execute("INSERT INTO t(a) VALUES (1)")
        assert caught.value.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE"
        assert isinstance(caught.value.__cause__, SqlError)
        with pytest.raises(dbapi.OperationalError, match="syntax"):
            connection.execute("SELEKT 1")
        with pytest.raises(dbapi.ProgrammingError):
            connection.execute("SELECT ?", ())
        with pytest.raises(dbapi.ProgrammingError, match=":name"):
            connection.execute("SELECT :name", {})
        with pytest.raises(dbapi.DatabaseError, match="AUTH"):
            connection.execute("ATTACH 'x' AS y")
        with pytest.raises(dbapi.DataError, match="TOOBIG"):
            connection.execute("SELECT ?", ("x" * 3_000_000,))
        with pytest.raises(dbapi.ProgrammingError, match="one statement"):
            connection.execute("SELECT 1; SELECT 2")
        with pytest.raises(dbapi.ProgrammingError, match="DML"):
            connection.executemany("SELECT ?", [(1,)])
        with pytest.raises(dbapi.ProgrammingError, match="sequence or a mapping"):
            connection.execute("SELECT ?", "text")
        with pytest.raises((dbapi.ProgrammingError, dbapi.InterfaceError)):
            connection.execute("SELECT ?", (object(),))
        with pytest.raises(dbapi.OperationalError, match="too many SQL variables") as too_many:
            connection.execute("SELECT " + ",".join("?" * 101), [1] * 101)
        assert "Limits(parameters=" in too_many.value.__notes__[0]
        connection.commit()
        assert values(ctx) == [1]

    await in_object(tmp_path, event)


async def test_a_value_that_sqlite3_has_an_adapter_for_is_adapted(tmp_path: Path) -> None:
    class Point:
        def __conform__(self, protocol: object) -> str:
            return "1;2"

    def event(ctx: DurableObjectState) -> None:
        assert dbapi.connect(ctx.storage).execute("SELECT ?", (Point(),)).fetchone() == ("1;2",)

    await in_object(tmp_path, event)


async def test_savepoints_are_the_storages_own(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = table(ctx)
        connection.execute("INSERT INTO t(a) VALUES (1)")
        connection.execute("SAVEPOINT one")
        connection.execute("INSERT INTO t(a) VALUES (2)")
        connection.execute('SAVEPOINT "two"')
        connection.execute("INSERT INTO t(a) VALUES (3)")
        connection.execute("ROLLBACK TO SAVEPOINT two")
        connection.execute("INSERT INTO t(a) VALUES (4)")
        connection.execute("RELEASE SAVEPOINT one")
        with pytest.raises(dbapi.OperationalError, match="no such savepoint"):
            connection.execute("RELEASE two")
        connection.commit()
        assert values(ctx) == [1, 2, 4]

    await in_object(tmp_path, event)


@pytest.mark.parametrize(
    ("sql", "instead"),
    [
        ("BEGIN", "first write"),
        ("BEGIN IMMEDIATE", "first write"),
        ("COMMIT", "commit()"),
        ("END TRANSACTION", "commit()"),
        ("ROLLBACK", "rollback()"),
    ],
)
async def test_transaction_statements_are_refused_and_say_what_to_call(
    tmp_path: Path, sql: str, instead: str
) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = table(ctx)
        connection.execute("INSERT INTO t(a) VALUES (1)")
        with pytest.raises(dbapi.NotSupportedError) as caught:
            connection.execute(sql)
        assert instead in str(caught.value)
        connection.commit()
        assert values(ctx) == [1]

    await in_object(tmp_path, event)


async def test_a_script_is_run_unless_it_has_transaction_statements(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = dbapi.connect(ctx.storage)
        connection.executescript(
            "CREATE TABLE t(a); -- a comment; with a semicolon\n"
            "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t WHERE a = 0; END;"
            "INSERT INTO t VALUES (0); INSERT INTO t VALUES (1);"
        )
        assert connection.in_transaction
        connection.commit()
        with pytest.raises(dbapi.NotSupportedError, match="executescript"):
            connection.executescript("INSERT INTO t VALUES (2); COMMIT; INSERT INTO t VALUES (3)")
        assert values(ctx) == [1]

    await in_object(tmp_path, event)


async def test_what_an_objects_database_cannot_do_is_refused(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = dbapi.connect(ctx.storage)
        connection.create_function("regexp", 2, lambda a, b: True, deterministic=True)
        with pytest.raises(dbapi.NotSupportedError, match="create_function"):
            connection.create_function("double", 1, lambda x: 2 * x)
        for refused in ("create_aggregate", "create_window_function", "create_collation", "backup"):
            with pytest.raises(dbapi.NotSupportedError, match=refused):
                getattr(connection, refused)("x", None)
        with pytest.raises(dbapi.NotSupportedError, match="read_uncommitted"):
            connection.execute("PRAGMA read_uncommitted = 1")
        with pytest.raises(AttributeError, match="view of the object's storage"):
            _ = connection.iterdump
        with pytest.raises(AttributeError, match="no attribute"):
            _ = connection.nothing
        with pytest.raises(TypeError, match="storage"):
            dbapi.connect(ctx)  # type: ignore[arg-type]

    await in_object(tmp_path, event)


async def test_another_thread_is_refused(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "a.sqlite", history=NO_HISTORY) as ctx:
        connection = table(ctx)
        with pytest.raises(dbapi.ProgrammingError, match="thread") as caught:
            await anyio.to_thread.run_sync(lambda: connection.execute("SELECT 1"))
        assert isinstance(caught.value.__cause__, ConcurrencyError)


async def test_a_connection_of_an_object_that_was_reset_rolls_nothing_back(tmp_path: Path) -> None:
    kept: list[dbapi.Connection] = []

    class Keeper(DurableObject):
        async def start(self) -> None:
            kept.append(table(self.ctx))

        async def fail(self) -> None:
            kept[0].execute("INSERT INTO t(a) VALUES (1)")
            self.ctx.abort("reset")

        async def look(self) -> list[Any]:
            with self.ctx.storage.transaction_sync():
                self.ctx.storage.sql.exec("INSERT INTO t(a) VALUES (2)")
                kept[0].rollback()
            return values(self.ctx)

    async with Runtime(tmp_path) as runtime:
        keeper = runtime.namespace(Keeper).get_by_name("a")
        await keeper.start()
        with pytest.raises(Exception, match="reset"):
            await keeper.fail()
        assert await keeper.look() == [2]


async def test_a_block_around_an_open_transaction_is_refused(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = table(ctx)
        with pytest.raises(TransactionError), ctx.storage.transaction_sync():
            connection.execute("INSERT INTO t(a) VALUES (1)")

    await in_object(tmp_path, event)
    assert await in_object(tmp_path, values) == []


async def test_rows_are_made_by_a_row_factory(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        connection = dbapi.connect(ctx.storage)
        connection.row_factory = lambda cursor, row: {
            column[0]: value for column, value in zip(cursor.description, row, strict=True)
        }
        assert connection.execute("SELECT 1 AS a").fetchone() == {"a": 1}
        assert connection.total_changes >= 0

    await in_object(tmp_path, event)
