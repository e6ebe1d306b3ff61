from __future__ import annotations

import pytest

from durable_storage.database import MISSING
from durable_storage.errors import SqlError

from .rig import Rig, built_with

NOT_AUTHORIZED = r"^not authorized: SQLITE_AUTH$"


@pytest.fixture
def keys(rig: Rig) -> Rig:
    rig.begin()
    rig.database.kv_put("k", 1)
    rig.database.meta_put("alarm", 5)
    rig.exec("CREATE TABLE t(a)")
    rig.commit()
    return rig


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN",
        "begin immediate",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT x",
        "RELEASE s0",
        "ROLLBACK TO s0",
        "EXPLAIN BEGIN",
        "SELECT 1; COMMIT",
        "/* c */ BEGIN",
    ],
)
def test_transaction_statements_name_the_right_api(keys: Rig, statement: str) -> None:
    keys.begin()
    keys.database.savepoint(0)
    with pytest.raises(
        SqlError, match=r"use storage\.transaction\(\) or storage\.transaction_sync\(\)"
    ):
        keys.exec(statement)
    assert keys.database.in_transaction
    assert not keys.database.transaction_lost
    with pytest.raises(SqlError, match=NOT_AUTHORIZED):
        keys.exec("PRAGMA user_version")


def test_the_package_s_own_transactions_do_not_let_a_user_begin_one(keys: Rig) -> None:
    keys.begin()
    keys.database.savepoint(0)
    keys.database.release(0)
    keys.commit()
    for statement in ("BEGIN", "SAVEPOINT s0", "COMMIT"):
        with pytest.raises(SqlError, match="To execute a transaction"):
            keys.exec(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH ':memory:' AS x",
        "DETACH main",
        "CREATE TEMP TABLE x(a)",
        "CREATE TABLE temp.x(a)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE TEMP TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE x USING fts4(a)",
        "CREATE VIRTUAL TABLE x USING dbstat",
        "PRAGMA user_version",
        "PRAGMA journal_mode=DELETE",
        "PRAGMA synchronous=OFF",
        "PRAGMA writable_schema=ON",
        "PRAGMA wal_checkpoint",
        "PRAGMA locking_mode=NORMAL",
        "PRAGMA max_page_count=1",
        "PRAGMA nosuchpragma",
        "PRAGMA table_info",
        "PRAGMA data_version=3",
        "PRAGMA foreign_keys=2",
        "PRAGMA foreign_keys=maybe",
        "PRAGMA optimize('x')",
        "SELECT * FROM pragma_user_version",
        "SELECT * FROM pragma_database_list",
        "CREATE TABLE _cf_x(a)",
        'CREATE TABLE "_CF_x"(a)',
        "CREATE INDEX _cf_i ON t(a)",
        "CREATE VIEW _Cf_v AS SELECT 1",
        "CREATE TRIGGER _cf_g AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TRIGGER g AFTER INSERT ON _cf_KV BEGIN SELECT 1; END",
        "CREATE INDEX i ON _cf_KV(value)",
        "CREATE VIRTUAL TABLE _cf_f USING fts5(a)",
        "ALTER TABLE t RENAME TO _cf_t",
        "ALTER TABLE t RENAME TO [_CF_t]",
        '/* c */ ALTER /* d */ TABLE main.t RENAME -- e\n TO "_cf_KV"',
        "ALTER TABLE _cf_KV RENAME TO x",
        "ALTER TABLE _cf_KV ADD COLUMN x",
        "DROP TABLE _cf_KV",
        "DROP TABLE IF EXISTS _CF_METADATA",
        "INSERT INTO _cf_KV VALUES('x', 1)",
        "UPDATE _cf_KV SET value = 2",
        "DELETE FROM _cf_KV",
        "REPLACE INTO _cf_kv VALUES('k', 2)",
        "SELECT count(*) FROM _cf_KV",
        "SELECT 1 FROM _cf_KV",
        "PRAGMA table_info(_cf_KV)",
        "PRAGMA table_xinfo('_CF_KV')",
        "PRAGMA index_list(_cf_KV)",
        "PRAGMA index_info = _cf_x",
        "PRAGMA index_xinfo(_cf_x)",
        "PRAGMA foreign_key_list(_cf_KV)",
        "PRAGMA foreign_key_check(_cf_KV)",
        "PRAGMA quick_check(_cf_METADATA)",
        "SELECT name FROM pragma_table_info('_cf_KV')",
    ],
)
def test_what_is_not_allowed_is_refused_and_changes_nothing(keys: Rig, statement: str) -> None:
    with pytest.raises(SqlError, match=NOT_AUTHORIZED):
        keys.exec(statement).to_array()
    keys.commit()
    assert keys.database.kv_get("k") == 1
    assert keys.database.meta_get("alarm") == 5
    names = keys.rows("SELECT name FROM sqlite_master ORDER BY name")
    assert names == [("_cf_KV",), ("_cf_METADATA",), ("t",)]


@pytest.mark.parametrize("name", ["_cf_KV", "_CF_kv", 'main."_cf_KV"', "[_cf_KV]"])
def test_reading_a_reserved_table_is_refused(keys: Rig, name: str) -> None:
    message = r"^access to _cf_KV\.key is prohibited: SQLITE_AUTH$"
    for query in (f"SELECT * FROM {name}", f"SELECT key FROM {name}"):
        with pytest.raises(SqlError, match=message):
            keys.exec(query)


def test_reading_a_reserved_table_stays_refused_after_the_package_has_read_it(keys: Rig) -> None:
    assert keys.database.kv_get("k") == 1
    assert list(keys.database.kv_list()) == [("k", 1)]
    for query in (
        "SELECT value FROM _cf_KV WHERE key=?",
        "SELECT key, value FROM _cf_KV ORDER BY key",
    ):
        with pytest.raises(SqlError, match="prohibited"):
            keys.exec(query, *["k"] * query.count("?"))


def test_keys_can_be_read_and_written_after_the_schema_has_changed(keys: Rig) -> None:
    keys.database.kv_get("k")
    keys.begin()
    keys.exec("CREATE TABLE u(a)")
    assert keys.database.kv_get("k") == 1
    keys.database.kv_put("k", 2)
    keys.exec("DROP TABLE u")
    assert keys.database.kv_delete("k")
    assert keys.database.kv_get("k") is MISSING
    keys.exec("CREATE TABLE u(a)")
    keys.commit()
    with pytest.raises(SqlError, match="prohibited"):
        keys.exec("SELECT * FROM _cf_KV")


def test_the_statements_of_the_package_cannot_be_looked_up(keys: Rig) -> None:
    keys.database.kv_get("k")
    for query in ("SELECT * FROM sqlite_stmt", "SELECT count(*) FROM dbstat"):
        with pytest.raises(SqlError, match=r"SQLITE_AUTH|no such table"):
            keys.exec(query)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE __cf_x(a)",
        "CREATE TABLE _cf(a)",
        "CREATE TABLE x(_cf_a)",
        "ALTER TABLE t RENAME COLUMN a TO _cf_a",
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE t DROP COLUMN b",
        "ALTER TABLE t ADD COLUMN c DEFAULT '_cf_'",
        "CREATE VIEW v AS SELECT 1 AS _cf_a",
        "CREATE TABLE x(a REFERENCES _cf_KV(key))",
        "CREATE VIRTUAL TABLE f USING fts5(a)",
        "CREATE VIRTUAL TABLE r USING rtree_i32(id, a, b)",
        "WITH _cf_c AS (SELECT 1) SELECT * FROM _cf_c",
        "SELECT _cf_x.a FROM t AS _cf_x",
        "REINDEX",
        "ANALYZE",
        "PRAGMA foreign_keys",
        "PRAGMA defer_foreign_keys = ON",
        "PRAGMA table_info(t)",
        "PRAGMA table_list",
        "PRAGMA page_size",
        "PRAGMA quick_check",
        "PRAGMA optimize(0x10002)",
        "SELECT name FROM pragma_table_info('t')",
        "SELECT name FROM temp.sqlite_master",
        "DELETE FROM t WHERE a = 1"
        + " ORDER BY a LIMIT 1" * built_with("ENABLE_UPDATE_DELETE_LIMIT"),
    ],
)
def test_what_is_allowed_works(keys: Rig, statement: str) -> None:
    keys.exec("ALTER TABLE t ADD COLUMN b")
    keys.exec(statement).to_array()


@pytest.mark.parametrize(
    "function",
    ["sqlite_version()", "ceiling(1.5)", "power(2, 2)", "log10(10)", "sqlite_source_id()"],
)
def test_functions_outside_the_list_are_refused(rig: Rig, function: str) -> None:
    name = function.partition("(")[0]
    message = rf"^not authorized to use function: {name}: SQLITE_ERROR$"
    with pytest.raises(SqlError, match=message):
        rig.exec(f"SELECT {function}")
    rig.exec(f"CREATE VIEW v AS SELECT {function}")
    with pytest.raises(SqlError, match=message):
        rig.exec("SELECT * FROM v")


def test_a_file_cannot_be_made_the_object_of_vacuum(rig: Rig) -> None:
    for statement in ("VACUUM", "VACUUM INTO 'x.db'"):
        with pytest.raises(SqlError, match=r"^cannot VACUUM from within a transaction"):
            rig.exec(statement)


def test_extensions_cannot_be_loaded(rig: Rig) -> None:
    with pytest.raises(SqlError, match=r"^not authorized: SQLITE_ERROR$"):
        rig.exec("SELECT load_extension('x')").to_array()


@pytest.mark.parametrize("statement", ["ANALYZE", "ANALYZE _cf_KV", "PRAGMA optimize(0x10002)"])
def test_no_statistics_are_made_of_what_is_hidden(keys: Rig, statement: str) -> None:
    keys.exec("CREATE TABLE u(a UNIQUE)")
    keys.exec("INSERT INTO u VALUES (1)")
    keys.exec("ANALYZE u")
    keys.exec(statement)
    assert keys.rows("SELECT tbl FROM sqlite_stat1") == [("u",)]


def test_only_indexes_of_the_application_are_made_anew(keys: Rig) -> None:
    keys.exec("CREATE TABLE u(a UNIQUE)")

    def program(statement: str) -> set[str]:
        return {row["opcode"] for row in keys.exec(f"EXPLAIN {statement}")}

    assert "OpenWrite" in program("REINDEX u")
    assert "OpenWrite" not in program("REINDEX _cf_KV")
