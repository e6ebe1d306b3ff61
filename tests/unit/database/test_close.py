"""Closing gives the file free, whoever still holds a result and whatever failed before."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_storage.database import Database
from durable_storage.errors import SqlError
from durable_storage.limits import Limits

from .rig import Rig


def is_free(path: Path) -> bool:
    connection = sqlite3.connect(path, timeout=0)
    try:
        connection.execute("PRAGMA user_version").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        return True
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


def untouched(rig: Rig) -> object:
    return rig.exec("SELECT a FROM t")


def half_read(rig: Rig) -> object:
    cursor = rig.exec("SELECT a FROM t")
    next(cursor)
    return cursor


def raw(rig: Rig) -> object:
    rows = rig.exec("SELECT a FROM t").raw()
    next(rows)
    return rows


def not_the_newest(rig: Rig) -> object:
    cursor = rig.exec("SELECT a FROM t")
    return cursor, rig.exec("SELECT a FROM t")


def listing(rig: Rig) -> object:
    pairs = rig.database.kv_list()
    next(pairs)
    return pairs


@pytest.mark.parametrize("hold", [untouched, half_read, raw, not_the_newest, listing])
def test_a_result_that_is_held_does_not_hold_the_file(
    rig: Rig, hold: Callable[[Rig], object]
) -> None:
    rig.exec("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3)")
    rig.database.kv_put("a", 1)
    rig.database.kv_put("b", 1)
    rig.commit()
    held = hold(rig)
    rig.database.close()
    assert is_free(rig.path)
    for result in held if isinstance(held, tuple) else (held,):
        with pytest.raises(SqlError, match="closed"):
            next(result)  # type: ignore[call-overload] - refusing it is the point


def test_a_write_that_found_the_disk_full_does_not_hold_the_file(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "object.sqlite", Limits(database_size_max_bytes=100_000))
    rig.exec("CREATE TABLE t(a)")
    rig.commit()

    def fill() -> None:
        for _ in range(100):
            rig.exec("INSERT INTO t VALUES (?)", b"x" * 10_000)

    with pytest.raises(SqlError, match="full"):
        fill()
    rig.database.rollback()
    rig.database.close()
    assert is_free(rig.path)
    Database(rig.path).close()


@pytest.mark.parametrize(
    "statement", ["INSERT INTO t VALUES (1)", "SELECT abs(-9223372036854775808)"]
)
def test_a_statement_that_failed_does_not_hold_the_file(rig: Rig, statement: str) -> None:
    rig.exec("CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1)")
    rig.commit()
    with pytest.raises(SqlError):
        rig.exec(statement).one()
    rig.commit()
    rig.database.close()
    assert is_free(rig.path)
