from __future__ import annotations

import pytest

from durable_storage.database import MISSING
from durable_storage.errors import SqlError

from .rig import Rig


def _delete(rig: Rig, *keep: str) -> None:
    if rig.database.in_transaction:
        rig.database.rollback()
    rig.database.begin()
    rig.database.delete_all(keep=keep)
    rig.database.commit()


SCHEMAS = {
    "tables, indexes, views and triggers": (
        "CREATE TABLE t(a); CREATE INDEX i ON t(a); CREATE VIEW v AS SELECT a FROM t;"
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END;"
        "CREATE TRIGGER h INSTEAD OF INSERT ON v BEGIN SELECT 1; END; INSERT INTO t VALUES(1)"
    ),
    "odd names": 'CREATE TABLE "a""b c"(x); CREATE TABLE "select"(x); CREATE TABLE [ä](x)',
    "autoincrement": "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO t VALUES(7)",
    "statistics": "CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES(1); ANALYZE",
    "full text": (
        "CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES('x');"
        "CREATE VIRTUAL TABLE w USING fts5vocab(f, row)"
    ),
    "r-tree": "CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r VALUES(1, 0, 1)",
    "foreign keys": (
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p ON DELETE RESTRICT);"
        "CREATE TABLE d(p NOT NULL REFERENCES p ON DELETE SET NULL);"
        "INSERT INTO p VALUES(1); INSERT INTO c VALUES(1); INSERT INTO d VALUES(1)"
    ),
    "a cycle of foreign keys": (
        "CREATE TABLE a(id INTEGER PRIMARY KEY, b REFERENCES b DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE b(id INTEGER PRIMARY KEY, a REFERENCES a);"
        "INSERT INTO a VALUES(1, 1); INSERT INTO b VALUES(1, 1)"
    ),
    "broken views": "CREATE VIEW v AS SELECT * FROM missing; CREATE VIEW w AS SELECT * FROM v",
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_everything_goes_and_the_file_is_as_new(rig: Rig, schema: str) -> None:
    rig.exec(schema)
    rig.database.kv_put("k", 1)
    rig.database.meta_put("alarm", 2)
    rig.commit()
    _delete(rig)
    assert rig.rows("SELECT * FROM sqlite_master") == []
    assert rig.database.size_bytes == 4096
    assert rig.database.kv_get("k") is MISSING
    assert rig.database.meta_get("alarm") is MISSING
    assert rig.rows("SELECT last_insert_rowid(), changes()") == [(0, 0)]
    assert rig.rows("PRAGMA quick_check") == [("ok",)]
    rig.exec(schema)
    rig.reopen()
    assert rig.rows("PRAGMA quick_check") == [("ok",)]


def test_the_named_metadata_stays_and_the_format_is_recorded_with_it(rig: Rig) -> None:
    rig.begin()
    for key in ("alarm", "serializer", "other"):
        rig.database.meta_put(key, key)
    rig.commit()
    _delete(rig, "alarm", "serializer", "absent")
    assert rig.database.meta_get("alarm") == "alarm"
    assert rig.database.meta_get("serializer") == "serializer"
    assert rig.database.meta_get("other") is MISSING
    assert rig.database.meta_get("absent") is MISSING
    assert rig.database.meta_get("schema") == 1


def test_it_is_undone_with_its_transaction(rig: Rig) -> None:
    rig.exec(SCHEMAS["autoincrement"])
    rig.database.kv_put("k", 1)
    rig.commit()
    rig.database.begin()
    rig.database.delete_all()
    rig.database.rollback()
    assert rig.rows("SELECT id FROM t") == [(7,)]
    assert rig.database.kv_get("k") == 1
    rig.exec("INSERT INTO t DEFAULT VALUES")
    assert rig.rows("SELECT max(id) FROM t") == [(8,)]


def test_open_cursors_are_ended_and_finished_ones_keep_what_they_know(rig: Rig) -> None:
    rig.exec("CREATE TABLE t(a); INSERT INTO t VALUES(1), (2), (3)")
    rig.commit()
    finished = rig.exec("SELECT a FROM t")
    finished.to_array()
    opened = rig.exec("SELECT a FROM t")
    rows = rig.exec("SELECT a FROM t").raw()
    next(rows)
    _delete(rig)
    message = r"^SQLite query was canceled because the database was deleted\.$"
    for use in (opened.to_array, opened.one, lambda: opened.rows_read, lambda: next(rows)):
        with pytest.raises(SqlError, match=message):
            use()
    assert opened.column_names == ["a"]
    assert finished.to_array() == []
    assert finished.column_names == ["a"]


def test_pragmas_have_their_first_values_again(rig: Rig) -> None:
    rig.exec("PRAGMA foreign_keys = OFF")
    rig.exec("PRAGMA recursive_triggers = ON")
    rig.exec("PRAGMA case_sensitive_like = ON")
    _delete(rig)
    assert rig.rows("PRAGMA foreign_keys") == [(1,)]
    assert rig.rows("PRAGMA recursive_triggers") == [(0,)]
    assert rig.rows("SELECT 'a' LIKE 'A'") == [(1,)]


def test_statements_that_were_known_work_on_the_new_tables(rig: Rig) -> None:
    rig.exec("CREATE TABLE t(a)")
    rig.exec("INSERT INTO t VALUES(?)", 1)
    assert rig.exec("SELECT * FROM t").one() == {"a": 1}
    rig.commit()
    _delete(rig)
    with pytest.raises(SqlError, match="no such table: t"):
        rig.exec("SELECT * FROM t")
    rig.exec("CREATE TABLE t(b, c)")
    rig.exec("INSERT INTO t VALUES(?, 2)", 1)
    assert rig.exec("SELECT * FROM t").one() == {"b": 1, "c": 2}


def test_an_empty_database_can_be_emptied(rig: Rig) -> None:
    _delete(rig)
    assert rig.database.size_bytes == 4096
