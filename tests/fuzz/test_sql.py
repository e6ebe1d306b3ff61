"""SQL text that means harm: it reads and writes nothing hidden, opens no file, ends no transaction.

The corpus is ``corpus/sql.txt``, a text a line. Hypothesis cuts it up and puts it together anew.
"""

from __future__ import annotations

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
        self.before = self.hidden()
        self.files = set(os.listdir(directory))

    def hidden(self) -> tuple[Any, ...]:
        listed = list(self.database.kv_list())
        return listed, self.database.meta_get("alarm"), self.database.meta_get("schema")

    def attack(self, text: str, bindings: tuple[object, ...] = ()) -> None:
        database = self.database
        database.begin()
        database.exec("INSERT INTO t VALUES (NULL, 'pending')", (), None, lambda: None)
        said = ""
        try:
            cursor = database.exec(text, bindings, None, lambda: None)
            said = repr(cursor.column_names) + repr(list(cursor.raw()))
        except Refusals as error:
            said = str(error)
        assert SECRET not in said, f"{text!r} gave {said!r}"
        assert database.in_transaction, f"{text!r} ended the transaction"
        assert not database.transaction_lost
        assert self.hidden() == self.before, f"{text!r} changed what is hidden"
        assert set(os.listdir(self.directory)) == self.files, f"{text!r} made a file"
        attached = database._sql.execute(own("PRAGMA database_list")).fetchall()
        assert [row[1] for row in attached if row[1] != "temp"] == ["main"], attached
        assert database._sql.value(own("PRAGMA journal_mode")) == "wal"
        assert database._sql.value(own("PRAGMA locking_mode")) == "exclusive"
        database.rollback()
        assert self.hidden() == self.before

    def close(self) -> None:
        self.database.close()


@pytest.fixture
def target() -> Iterator[Target]:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-fuzz-") as directory:
        target = Target(directory)
        yield target
        target.close()


@pytest.mark.parametrize("text", CORPUS)
def test_no_text_of_the_corpus_does_harm(target: Target, text: str) -> None:
    target.attack(text)
    # What was refused once, or prepared once, is judged the same the second time.
    target.attack(text)
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
                if "OR ROLLBACK" in text.upper() or "RAISE(ROLLBACK" in text.upper():
                    continue  # allowed: it resets the object
                target.attack(text, tuple(bindings))
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
