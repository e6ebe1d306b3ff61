from __future__ import annotations

from pathlib import Path

import pytest

from durable_storage.database import MISSING
from durable_storage.errors import SqlError
from durable_storage.limits import Limits

from .rig import Rig


@pytest.fixture
def table(rig: Rig) -> Rig:
    rig.exec("CREATE TABLE t(a)")
    rig.commit()
    return rig


def test_a_read_asks_for_no_transaction_and_a_write_does(table: Rig) -> None:
    before = table.before_writes
    table.exec("SELECT a FROM t")
    table.exec("WITH x AS (SELECT 1) SELECT * FROM x")
    table.exec("VALUES (1)")
    table.exec("EXPLAIN INSERT INTO t VALUES(1)")
    table.exec("PRAGMA foreign_keys")
    assert table.before_writes == before
    table.exec("/* c */ -- d\n INSERT INTO t VALUES(1)")
    table.exec("WITH x AS (SELECT ')(') INSERT INTO t SELECT * FROM x")
    assert table.before_writes == before + 1


def test_the_first_write_of_every_transaction_asks_for_it(table: Rig) -> None:
    for end in (table.commit, table.database.rollback, table.commit):
        before = table.before_writes
        table.exec("SELECT a FROM t")
        for _ in range(3):
            table.exec("INSERT INTO t VALUES(1)")
            table.exec("INSERT INTO t VALUES(1); INSERT INTO t VALUES(2)")
        assert table.before_writes == before + 1
        end()
    assert table.rows("SELECT count(*) FROM t") == [(18,)]


def test_a_write_asks_in_a_transaction_that_others_opened(table: Rig) -> None:
    for _ in range(2):
        table.database.begin()
        table.database.kv_put("k", 1)
        before = table.before_writes
        table.exec("INSERT INTO t VALUES(1)")
        table.exec("INSERT INTO t VALUES(1)")
        assert table.before_writes == before + 1
        table.commit()


def test_a_script_asks_once_before_its_first_write(table: Rig) -> None:
    before = table.before_writes
    table.exec("SELECT 1; INSERT INTO t VALUES(1); DELETE FROM t; SELECT 2")
    assert table.before_writes == before + 1


def test_commits_are_counted(table: Rig) -> None:
    before = table.database.commits
    table.exec("INSERT INTO t VALUES(1)")
    table.exec("INSERT INTO t VALUES(2)")
    assert table.database.commits == before
    table.commit()
    assert table.database.commits == before + 1


def test_rolling_back_undoes_rows_schema_and_keys(table: Rig) -> None:
    table.begin()
    table.exec("INSERT INTO t VALUES(1)")
    table.exec("CREATE TABLE u(a)")
    table.database.kv_put("k", 1)
    table.database.rollback()
    assert table.rows("SELECT a FROM t") == []
    assert table.database.kv_get("k") is MISSING
    with pytest.raises(SqlError, match=r"^no such table: u: SQLITE_ERROR$"):
        table.exec("SELECT * FROM u")
    table.begin()
    table.database.kv_put("k", 2)
    table.commit()
    assert table.database.kv_get("k") == 2


def test_rolling_back_without_a_transaction_does_nothing(table: Rig) -> None:
    table.database.rollback()
    assert not table.database.in_transaction


def test_savepoints_nest(table: Rig) -> None:
    database = table.database
    table.begin()
    table.exec("INSERT INTO t VALUES(1)")
    database.savepoint(0)
    table.exec("INSERT INTO t VALUES(2)")
    database.savepoint(1)
    table.exec("INSERT INTO t VALUES(3)")
    database.rollback_to(1)
    table.exec("INSERT INTO t VALUES(4)")
    database.release(0)
    table.commit()
    assert table.rows("SELECT a FROM t") == [(1,), (2,), (4,)]


def test_the_columns_of_a_table_are_not_remembered_across_a_rollback(table: Rig) -> None:
    table.exec("INSERT INTO t VALUES(1)")
    table.commit()
    assert table.exec("SELECT * FROM t").one() == {"a": 1}
    table.begin()
    table.exec("ALTER TABLE t ADD COLUMN b")
    assert table.exec("SELECT * FROM t").one() == {"a": 1, "b": None}
    table.database.rollback()
    assert table.exec("SELECT * FROM t").one() == {"a": 1}


def test_a_violated_deferred_constraint_fails_the_commit_and_leaves_it_to_be_rolled_back(
    rig: Rig,
) -> None:
    rig.exec("CREATE TABLE p(id INTEGER PRIMARY KEY)")
    rig.exec("CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
    rig.commit()
    rig.exec("INSERT INTO c VALUES(1)")
    commits = rig.database.commits
    with pytest.raises(SqlError) as caught:
        rig.database.commit()
    assert caught.value.sqlite_errorname == "SQLITE_CONSTRAINT_FOREIGNKEY"
    assert rig.database.in_transaction
    assert rig.database.commits == commits
    assert not rig.database.transaction_lost
    rig.database.rollback()
    assert rig.rows("SELECT * FROM c") == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR ROLLBACK INTO u VALUES(1)",
        "INSERT INTO r VALUES(1)",
    ],
)
def test_a_statement_that_ends_the_transaction_is_noticed(rig: Rig, statement: str) -> None:
    rig.exec("CREATE TABLE u(a PRIMARY KEY); CREATE TABLE r(a)")
    rig.exec("CREATE TRIGGER tr BEFORE INSERT ON r BEGIN SELECT RAISE(ROLLBACK, 'no'); END")
    rig.exec("INSERT INTO u VALUES(1)")
    rig.commit()
    rig.begin()
    rig.database.kv_put("k", 1)
    with pytest.raises(SqlError, match="SQLITE_CONSTRAINT"):
        rig.exec(statement)
    assert rig.database.transaction_lost
    assert not rig.database.in_transaction
    assert rig.database.kv_get("k") is MISSING


def test_an_error_that_leaves_the_transaction_open_is_not_mistaken_for_its_loss(
    rig: Rig,
) -> None:
    rig.exec("CREATE TABLE u(a PRIMARY KEY)")
    rig.exec("INSERT INTO u VALUES(1)")
    with pytest.raises(SqlError):
        rig.exec("INSERT INTO u VALUES(1)")
    assert rig.database.in_transaction
    assert not rig.database.transaction_lost


def test_a_full_database_refuses_the_write_and_keeps_the_rest(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "object.sqlite", Limits(database_size_max_bytes=20 * 4096))
    rig.exec("CREATE TABLE t(a)")
    rig.exec("INSERT INTO t VALUES(1)")
    rig.commit()
    with pytest.raises(SqlError, match=r"^database or disk is full: SQLITE_FULL$"):
        rig.exec("INSERT INTO t VALUES(zeroblob(200000))")
    rig.database.rollback()
    assert rig.rows("SELECT a FROM t") == [(1,)]
    rig.exec("INSERT INTO t VALUES(2)")
    rig.reopen()
    assert rig.rows("SELECT a FROM t") == [(1,), (2,)]
    rig.database.close()


def test_scans_go_on_across_a_rollback_of_rows(table: Rig) -> None:
    table.exec("INSERT INTO t VALUES(1),(2),(3),(4)")
    table.commit()
    cursor = table.exec("SELECT a FROM t")
    assert next(cursor) == {"a": 1}
    table.begin()
    table.exec("INSERT INTO t VALUES(5)")
    table.database.rollback()
    assert [row["a"] for row in cursor] == [2, 3, 4]


def test_scans_are_ended_by_a_rollback_of_the_schema(table: Rig) -> None:
    table.exec("INSERT INTO t VALUES(1),(2),(3),(4)")
    table.commit()
    table.begin()
    table.database.savepoint(0)
    cursor = table.exec("SELECT a FROM t")
    sorted_cursor = table.exec("SELECT a FROM t ORDER BY a DESC")
    assert next(cursor) == {"a": 1}
    table.exec("CREATE TABLE u(a)")
    table.database.rollback_to(0)
    with pytest.raises(SqlError) as caught:
        list(cursor)
    assert str(caught.value) == (
        "abort due to ROLLBACK: SQLITE_ABORT (extended: SQLITE_ABORT_ROLLBACK)"
    )
    assert [row["a"] for row in sorted_cursor] == [4, 3, 2, 1]


def test_use_after_closing_is_a_clear_error(table: Rig) -> None:
    table.exec("INSERT INTO t VALUES(1)")
    table.commit()
    cursor = table.exec("SELECT a FROM t")
    table.database.close()
    with pytest.raises(SqlError, match="closed"):
        table.exec("SELECT 1")
    with pytest.raises(SqlError, match="closed"):
        cursor.to_array()
    with pytest.raises(SqlError, match="closed"):
        table.database.kv_get("k")
    assert not table.database.in_transaction


def test_a_full_text_table_that_is_rolled_back_does_not_fail_the_commit(table: Rig) -> None:
    table.begin()
    table.database.savepoint(0)
    table.exec("CREATE VIRTUAL TABLE f USING fts5(a)")
    table.exec("INSERT INTO f VALUES ('one')")
    assert table.rows("SELECT a FROM f WHERE f MATCH 'one'") == [("one",)]
    table.database.rollback_to(0)
    table.exec("CREATE TABLE kept(a)")
    table.commit()
    names = "SELECT name FROM sqlite_master WHERE name IN ('f', 'f_data', 'kept')"
    assert table.rows(names) == [("kept",)]
