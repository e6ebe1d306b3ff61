"""SQL text that means harm: it reads and writes nothing hidden, opens no file, ends no transaction.

The corpus is ``corpus/sql.txt``, a text a line. Hypothesis cuts it up and puts it together anew.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable_storage import SqlError
from durable_storage.database.connection import Database
from durable_storage.database.internal import own
from durable_storage.database.splitter import split_script
from durable_storage.errors import ArgumentTypeError, ArgumentValueError

CORPUS = [
    line
    for line in (pathlib.Path(__file__).parent / "corpus" / "sql.txt")
    .read_text(encoding="utf-8")
    .splitlines()
    if line
]
SECRET = "s3cr3t-6b1f0a77"
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
Refusals = (SqlError, ArgumentTypeError, ArgumentValueError)


HIDDEN = ("_cf_kv", "_cf_metadata", "sqlite_autoindex__cf_kv_1", "sqlite_autoindex__cf_metadata_1")
NEVER = {
    sqlite3.SQLITE_ATTACH: "attaches a file",
    sqlite3.SQLITE_DETACH: "detaches a file",
    sqlite3.SQLITE_TRANSACTION: "begins or ends a transaction",
    sqlite3.SQLITE_SAVEPOINT: "begins or ends a savepoint",
}


class Oracle:
    """A plain SQLite, which allows everything and tells what a text would touch."""

    def __init__(self, schema: str) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.executescript(schema)
        self.harm: list[str] = []
        self.connection.set_authorizer(self._note)

    def _note(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if action in (sqlite3.SQLITE_ANALYZE, sqlite3.SQLITE_REINDEX):
            # Asked about each table or index: the library has those that are its own left out.
            return sqlite3.SQLITE_IGNORE if (first or "").lower() in HIDDEN else sqlite3.SQLITE_OK
        if action in NEVER:
            self.harm.append(NEVER[action])
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() == "load_extension":
            self.harm.append("loads an extension")
        self.harm += [
            f"touches {name}" for name in (first, second) if name and name.lower() in HIDDEN
        ]
        return sqlite3.SQLITE_OK

    def judge(self, text: str) -> None:
        """Say what is wrong with a text that the library has run."""
        for piece in split_script(text.partition("\0")[0]):
            # Prepared, which asks the authorizer, and then run for those that come after it.
            for sql in ("EXPLAIN " + piece, piece):
                with contextlib.suppress(sqlite3.Error, sqlite3.Warning):
                    self.connection.execute(sql).close()
                assert not self.harm, f"{text!r} was run, and {self.harm}"

    def close(self) -> None:
        self.connection.close()


class Target:
    """A database with something to hide, in the middle of a transaction."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.database = Database(os.path.join(directory, "object.sqlite"))
        self.database.begin()
        self.database.kv_put("secret", SECRET)
        self.database.meta_put("alarm", 123)
        self.database.exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b)", (), None, lambda: None)
        self.database.exec("INSERT INTO t VALUES (1, 'one'), (2, 'two')", (), None, lambda: None)
        self.database.commit()
        self.oracle = Oracle(self.schema())
        self.before = self.hidden()
        self.files = set(os.listdir(directory))

    def schema(self) -> str:
        statements = self.database._sql.execute(
            own("SELECT sql FROM sqlite_master WHERE sql <> ''")
        )
        return ";".join(sql for (sql,) in statements.fetchall())

    def hidden(self) -> tuple[Any, ...]:
        listed = list(self.database.kv_list())
        return listed, self.database.meta_get("alarm"), self.database.meta_get("schema")

    def analysed(self) -> list[str]:
        sql = self.database._sql
        if sql.value(own("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'")) is None:
            return []
        found = sql.execute(own("SELECT tbl FROM sqlite_stat1")).fetchall()
        return [table for (table,) in found if table.lower() in HIDDEN]

    def attack(self, text: str, bindings: tuple[object, ...] = ()) -> bool:
        """Run a text, which must do no harm; false if the object were reset for it."""
        database = self.database
        database.begin()
        database.exec("INSERT INTO t VALUES (NULL, 'pending')", (), None, lambda: None)
        said = ""
        try:
            cursor = database.exec(text, bindings, None, lambda: None)
            said = repr(cursor.column_names) + repr(list(cursor.raw()))
            self.oracle.judge(text)
        except Refusals as error:
            said = str(error)
        assert SECRET not in said, f"{text!r} gave {said!r}"
        assert self.hidden() == self.before, f"{text!r} changed what is hidden"
        assert set(os.listdir(self.directory)) == self.files, f"{text!r} made a file"
        attached = database._sql.execute(own("PRAGMA database_list")).fetchall()
        assert [row[1] for row in attached if row[1] != "temp"] == ["main"], attached
        assert not self.analysed(), f"{text!r} made statistics of what is hidden"
        assert database._sql.value(own("PRAGMA journal_mode")) == "wal"
        assert database._sql.value(own("PRAGMA locking_mode")) == "exclusive"
        if database.transaction_lost:
            assert "ROLLBACK" in text.upper(), f"{text!r} ended the transaction"
            return False
        assert database.in_transaction, f"{text!r} ended the transaction, and nobody noticed"
        database.rollback()
        assert self.hidden() == self.before
        return True

    def close(self) -> None:
        self.oracle.close()
        self.database.close()


@pytest.fixture
def target() -> Iterator[Target]:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-fuzz-") as directory:
        target = Target(directory)
        yield target
        target.close()


@pytest.mark.parametrize("text", CORPUS)
def test_no_text_of_the_corpus_does_harm(target: Target, text: str) -> None:
    assert target.attack(text)
    # What was refused once, or prepared once, is judged the same the second time.
    assert target.attack(text)
    assert not os.path.exists("/tmp/stolen.sqlite")


PIECES = sorted({word for text in CORPUS for word in text.split(" ")})
fragments = st.one_of(
    st.sampled_from(CORPUS),
    st.sampled_from(PIECES),
    st.sampled_from(
        [";", " ", "\n", "--", "/*", "*/", "'", '"', "(", ")", ",", "\0", "END", "BEGIN"]
    ),
    st.text(max_size=4),
)
texts = st.lists(fragments, max_size=8).flatmap(
    lambda parts: st.sampled_from(["", " ", ";", "; ", "\n"]).map(lambda glue: glue.join(parts))
)
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.just(object()),
    st.just([1]),
    st.just("\ud800"),
    st.just(memoryview(b"x")),
)


@given(many=st.lists(st.tuples(texts, st.lists(anything, max_size=3)), max_size=8))
@example(
    many=[("SELECT ?", ["_cf_KV"]), ("SELECT * FROM t WHERE b = ?", ["' OR 1=1; DROP TABLE t --"])]
)
def test_no_text_put_together_at_random_does_harm(many: list[tuple[str, list[object]]]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-fuzz-") as directory:
        target = Target(directory)
        try:
            for text, bindings in many:
                if not target.attack(text, tuple(bindings)):
                    break
        finally:
            target.close()


@pytest.mark.parametrize(
    "text",
    [
        "INSERT OR ROLLBACK INTO t VALUES (1, 'again')",
        "UPDATE OR ROLLBACK t SET a = 1",
        "CREATE TRIGGER g BEFORE INSERT ON t BEGIN SELECT RAISE(ROLLBACK, 'no'); END;"
        " INSERT INTO t VALUES (9, 9)",
    ],
)
def test_a_conflict_that_rolls_everything_back_is_noticed(target: Target, text: str) -> None:
    target.database.begin()
    with pytest.raises(SqlError):
        target.database.exec(text, (), None, lambda: None)
    assert target.database.transaction_lost
    assert target.hidden() == target.before


@pytest.mark.parametrize(
    "text",
    [
        "SELECT key FROM _cf_KV",
        "SELECT 1; DELETE FROM _CF_kv",
        "CREATE VIEW v AS SELECT * FROM _cf_METADATA; SELECT * FROM v",
        "SELECT load_extension('x')",
        "ATTACH 'x' AS y",
        "COMMIT",
        "RELEASE s",
    ],
)
def test_the_oracle_knows_harm(target: Target, text: str) -> None:
    with pytest.raises(AssertionError, match="was run, and"):
        target.oracle.judge(text)


# -- the splitter


def _refusal(connection: sqlite3.Connection, text: str) -> str:
    try:
        connection.execute(text)
    except (sqlite3.Error, sqlite3.Warning) as error:
        return str(error)
    return ""


scripts = st.lists(
    st.sampled_from(
        [
            "SELECT 1", "SELECT ';'", 'SELECT ";"', "SELECT [;]", "-- ;\n", "/* ; */", ";", "; ;",
            " ", "\n", "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; SELECT ';'; END",
            "CREATE TEMP TRIGGER h AFTER INSERT ON t BEGIN SELECT CASE WHEN 1 THEN 2 END; END",
            "EXPLAIN CREATE TRIGGER k AFTER DELETE ON t BEGIN DELETE FROM t; END", "END",
            "SELECT CASE 1 WHEN 1 THEN 2 END", "'", '"', "`", "/*", "--", "é", "\f", "\x0b",
            "CREATE TABLE trigger_end(a)", "SELECT end FROM (SELECT 1 AS 'end')",
        ]
    ),
    max_size=10,
)  # fmt: skip


@given(parts=scripts, glue=st.sampled_from(["", ";", "; ", " ", "\n"]))
def test_a_script_is_cut_where_sqlite_itself_would_cut_it(parts: list[str], glue: str) -> None:
    script = glue.join(parts)
    pieces = split_script(script)
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE t(a)")
        rest = script
        for number, piece in enumerate(pieces):
            assert piece in rest
            rest = rest[rest.index(piece) + len(piece) :]
            if number < len(pieces) - 1:
                assert sqlite3.complete_statement(piece + ("" if piece.endswith(";") else ";"))
            # SQLite refuses a text behind whose first statement its tail pointer finds another.
            assert "one statement at a time" not in _refusal(connection, piece), (script, piece)
    finally:
        connection.close()
