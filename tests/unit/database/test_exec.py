from __future__ import annotations

import dataclasses
import datetime
import enum
import math
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pytest

from durable_storage.database import statement as statement_module
from durable_storage.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    LimitExceededError,
    SqlError,
    SqlLimitError,
)
from durable_storage.limits import Limits

from .rig import Rig

NO_STATEMENT = r"^SQL code did not contain a statement\.$"


def wrong_bindings(needed: int, given: int) -> str:
    return (
        r"^Wrong number of parameter bindings for SQL query\."
        rf" It takes {needed} and was given {given}\.$"
    )


@pytest.fixture
def numbers(rig: Rig) -> Rig:
    rig.exec("CREATE TABLE t(a)")
    rig.exec("INSERT INTO t VALUES (1),(2),(3),(4),(5)")
    rig.commit()
    return rig


# ---- values


@pytest.mark.parametrize(
    ("value", "stored", "kind"),
    [
        (None, None, "null"),
        (True, 1, "integer"),
        (False, 0, "integer"),
        (7, 7, "integer"),
        (2**63 - 1, 2**63 - 1, "integer"),
        (-(2**63), -(2**63), "integer"),
        (1.0, 1.0, "real"),
        (math.inf, math.inf, "real"),
        (math.nan, None, "null"),
        ("", "", "text"),
        ("a\0b", "a\0b", "text"),
        ("\U0001f600", "\U0001f600", "text"),
        (b"", b"", "blob"),
        (b"\0\xff", b"\0\xff", "blob"),
        (bytearray(b"ab"), b"ab", "blob"),
        (bytearray(), b"", "blob"),
        (memoryview(b"abcdef")[1:3], b"bc", "blob"),
        (memoryview(b"abcdef")[::2], b"ace", "blob"),
    ],
)
def test_values_come_back_as_they_were_bound(
    rig: Rig, value: object, stored: object, kind: str
) -> None:
    (row,) = rig.rows("SELECT ? AS v, typeof(?) AS t", value, value)
    assert row == (stored, kind)
    assert type(row[0]) is type(stored)


def test_subclasses_are_bound_as_what_they_are(rig: Rig) -> None:
    class Number(enum.IntEnum):
        ONE = 1

    class Word(enum.StrEnum):
        HELLO = "hello"

    assert rig.rows("SELECT ?, ?", Number.ONE, Word.HELLO) == [(1, "hello")]


@pytest.mark.parametrize("value", [[], {}, object(), datetime.date(2020, 1, 1), 1j])
def test_other_types_are_refused_with_type_and_position(rig: Rig, value: object) -> None:
    name = type(value).__name__
    with pytest.raises(ArgumentTypeError, match=rf"binding 2 is of type {name}"):
        rig.exec("SELECT ?, ?", 1, value)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
def test_integers_beyond_64_bits_are_refused(rig: Rig, value: int) -> None:
    with pytest.raises(ArgumentValueError, match=rf"binding 1 is {value}; .*64 bits"):
        rig.exec("SELECT ?", value)


def test_lone_surrogates_are_refused(rig: Rig) -> None:
    with pytest.raises(ArgumentValueError, match="binding 1 has a lone surrogate at index 1"):
        rig.exec("SELECT ?", "a\ud800")
    with pytest.raises(ArgumentValueError, match="query has a lone surrogate"):
        rig.exec("SELECT '\udfff'")


@pytest.mark.parametrize("query", [None, 5, b"SELECT 1", ["SELECT 1"]])
def test_a_query_that_is_not_a_string_is_refused(rig: Rig, query: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="takes SQL as a str"):
        rig.exec(query)


def test_a_refused_binding_lets_no_statement_of_the_script_run(numbers: Rig) -> None:
    for value in (object(), 2**64, "\ud800"):
        with pytest.raises((ArgumentTypeError, ArgumentValueError)):
            numbers.exec("DELETE FROM t; SELECT ?", value)
    assert numbers.rows("SELECT count(*) FROM t") == [(5,)]


def test_text_that_is_not_utf_8_is_read_with_replacement_characters(rig: Rig) -> None:
    rig.exec("CREATE TABLE t(a)")
    rig.exec("INSERT INTO t VALUES ('good'), (CAST(x'61ff62' AS TEXT)), ('fine')")
    assert rig.rows("SELECT a FROM t") == [("good",), ("a\ufffdb",), ("fine",)]


def test_text_that_is_not_utf_8_is_found_by_every_way_to_read(tmp_path: Path) -> None:
    query = "SELECT 1 AS n, 'x' AS a UNION ALL SELECT 2, CAST(x'ff' AS TEXT) UNION ALL SELECT 3, ''"
    expected = [(1, "x"), (2, "\ufffd"), (3, "")]
    for number, read in enumerate(
        [
            lambda c: [tuple(row.values()) for row in c.to_array()],
            lambda c: [tuple(row.values()) for row in c],
            lambda c: list(c.raw()),
            lambda c: [tuple(next(c).values()) for _ in range(3)],
        ]
    ):
        rig = Rig(tmp_path / f"{number}.sqlite")
        assert read(rig.exec(query)) == expected
        rig.database.close()
    rig = Rig(tmp_path / "one.sqlite")
    assert rig.exec("SELECT CAST(x'ff' AS TEXT) AS a").one() == {"a": "\ufffd"}
    rig.exec("CREATE TABLE t(a)")
    returned = rig.exec("INSERT INTO t VALUES(CAST(x'ff' AS TEXT)) RETURNING a")
    assert returned.one() == {"a": "\ufffd"}
    rig.database.close()


# ---- parameters


@pytest.mark.parametrize("need_a_mapping", sorted({statement_module.NAMES_NEED_A_MAPPING, True}))
def test_parameters_may_be_named_and_numbered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, need_a_mapping: bool
) -> None:
    monkeypatch.setattr(statement_module, "NAMES_NEED_A_MAPPING", need_a_mapping)
    assert rig.rows("SELECT :a, @b, $c, :a, ':x'", 1, 2, 3) == [(1, 2, 3, 1, ":x")]
    assert rig.rows("SELECT ?2, ?1", 1, 2) == [(2, 1)]
    assert rig.rows("SELECT ?, :a, ?1, ?, @a, ?3", 1, 2, 3, 4) == [(1, 2, 1, 3, 4, 3)]
    assert rig.rows("SELECT ?3, ?1, '?2'", 1, 2, 3) == [(3, 1, "?2")]
    assert rig.rows("SELECT :1, ?2, $a, ?1, :1", 1, 2, 3) == [(1, 2, 3, 1, 1)]
    assert rig.exec("SELECT :a, ?2 AS b", 1, 2).column_names == [":a", "b"]
    assert rig.exec("SELECT ? , ?2+1, :a", 1, 2, 3).column_names == ["?", "?2+1", ":a"]
    for number in ("?0", "?101", "?32767", "?99999999999999999999"):
        with pytest.raises(SqlError, match=r"must be between|too many"):
            rig.exec(f"SELECT {number}", 1)
    assert rig.exec("SELECT :a AS v", 5).rows_read == 0
    rig.exec("CREATE TABLE t(a)")
    assert rig.exec("INSERT INTO t VALUES(:a)", 5).rows_written == 1
    for bindings in ((), (1,), (1, 2, 3)):
        with pytest.raises(SqlError, match=wrong_bindings(2, len(bindings))):
            rig.exec("SELECT :a, :b", *bindings)


@pytest.mark.parametrize(
    ("query", "bindings", "needed"),
    [
        ("SELECT ?", (), 1),
        ("SELECT ?", (1, 2), 1),
        ("SELECT 1", (1,), 0),
        ("CREATE TABLE x(a)", (1,), 0),
        ("INSERT INTO t VALUES(?)", (), 1),
        ("SELECT ?5", (1,), 5),
    ],
)
def test_too_few_or_too_many_bindings_are_refused(
    numbers: Rig, query: str, bindings: tuple[object, ...], needed: int
) -> None:
    with pytest.raises(SqlError, match=wrong_bindings(needed, len(bindings))):
        numbers.exec(query, *bindings)


def test_only_the_last_statement_of_a_script_has_parameters(numbers: Rig) -> None:
    with pytest.raises(SqlError, match=r"only the last statement can have parameters\.$"):
        numbers.exec("DELETE FROM t; SELECT ?; SELECT 1", 1)
    assert numbers.rows("SELECT count(*) FROM t") == [(0,)]


# ---- scripts


def test_the_statements_of_a_script_run_in_order_and_the_last_gives_the_rows(rig: Rig) -> None:
    cursor = rig.exec(
        "CREATE TABLE t(a); INSERT INTO t VALUES(';'); INSERT INTO t VALUES(2) -- ; c\n;"
        " SELECT 'no'; SELECT a FROM t WHERE a = ?",
        2,
    )
    assert cursor.to_array() == [{"a": 2}]


def test_triggers_are_one_statement(rig: Rig) -> None:
    rig.exec(
        "CREATE TABLE t(a); CREATE TABLE log(a);"
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN"
        " INSERT INTO log VALUES(new.a); INSERT INTO log VALUES(new.a + 1); END;"
        "INSERT INTO t VALUES(1)"
    )
    assert rig.rows("SELECT a FROM log") == [(1,), (2,)]


@pytest.mark.parametrize(
    "query", ["", " ", ";", ";;", "-- only a comment", "/* one */ /* two */", "SELECT 1;;", "\0"]
)
def test_a_script_without_a_statement_at_its_end_is_refused(rig: Rig, query: str) -> None:
    with pytest.raises(SqlError, match=NO_STATEMENT):
        rig.exec(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 AS a",
        ";SELECT 1 AS a",
        "SELECT 1 AS a;",
        "SELECT 1 AS a; \t\r\n\f",
        "SELECT 1 AS a; -- a comment",
        "SELECT 1 AS a; /* a comment */",
        "SELECT 1 AS a -- a comment",
        "SELECT 1 AS a\0 and what follows is not SQL",
    ],
)
def test_blanks_and_comments_around_a_statement_do_not_matter(rig: Rig, query: str) -> None:
    assert rig.exec(query).one() == {"a": 1}


def test_a_statement_without_an_end_is_given_to_sqlite_as_it_is(rig: Rig) -> None:
    with pytest.raises(SqlError, match=r"^incomplete input: SQLITE_ERROR$"):
        rig.exec("CREATE TABLE x(a); CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1;")


def test_an_error_does_not_undo_what_the_script_did_before(rig: Rig) -> None:
    with pytest.raises(SqlError, match="no such table: missing"):
        rig.exec("CREATE TABLE t(a); INSERT INTO t VALUES(1); SELECT * FROM missing; SELECT 1")
    assert rig.rows("SELECT a FROM t") == [(1,)]


def test_a_read_inside_a_script_leaves_nothing_locked(numbers: Rig) -> None:
    numbers.exec("SELECT a FROM t; DROP TABLE t")


# ---- cursors


def test_all_ways_to_read_share_one_position(numbers: Rig) -> None:
    cursor = numbers.exec("SELECT a FROM t")
    assert next(cursor) == {"a": 1}
    for row in cursor:
        assert row == {"a": 2}
        break
    assert next(cursor.raw()) == (3,)
    assert cursor.to_array() == [{"a": 4}, {"a": 5}]
    assert cursor.to_array() == []
    assert list(cursor) == []
    with pytest.raises(StopIteration):
        next(cursor)
    assert cursor.column_names == ["a"]


def test_one_returns_the_only_row(numbers: Rig) -> None:
    assert numbers.exec("SELECT a FROM t WHERE a = 3").one() == {"a": 3}
    cursor = numbers.exec("SELECT a FROM t WHERE a > 3")
    next(cursor)
    assert cursor.one() == {"a": 5}


def test_one_refuses_no_row_and_several(numbers: Rig) -> None:
    no_row = r"^Expected exactly one result from SQL query, but got no results\.$"
    several = r"^Expected exactly one result from SQL query, but got multiple results\.$"
    cursor = numbers.exec("SELECT a FROM t WHERE a > 10")
    with pytest.raises(SqlError, match=no_row):
        cursor.one()
    cursor = numbers.exec("SELECT a FROM t")
    with pytest.raises(SqlError, match=several):
        cursor.one()
    with pytest.raises(SqlError, match=no_row):
        cursor.one()
    assert cursor.to_array() == []
    assert cursor.column_names == ["a"]
    numbers.exec("DROP TABLE t")


def test_a_cursor_that_is_finished_never_sees_the_rows_of_the_next(numbers: Rig) -> None:
    one = numbers.exec("SELECT a FROM t WHERE a = 1")
    one.one()
    array = numbers.exec("SELECT a FROM t")
    array.to_array()
    empty = numbers.exec("SELECT a FROM t WHERE a = 9")
    with pytest.raises(SqlError):
        empty.one()
    several = numbers.exec("SELECT a FROM t")
    with pytest.raises(SqlError):
        several.one()
    newest = numbers.exec("SELECT a AS b FROM t")
    for finished in (one, array, empty, several):
        assert finished.to_array() == []
        assert finished.column_names == ["a"]
    assert len(newest.to_array()) == 5
    assert newest.column_names == ["b"]


def test_the_same_query_may_be_open_twice(numbers: Rig) -> None:
    first = numbers.exec("SELECT a FROM t")
    second = numbers.exec("SELECT a FROM t")
    assert next(first) == {"a": 1}
    assert next(first) == {"a": 2}
    assert next(second) == {"a": 1}
    assert [row["a"] for row in first] == [3, 4, 5]
    assert [row["a"] for row in second] == [2, 3, 4, 5]


def test_duplicate_column_names_keep_the_last_value_and_all_names(rig: Rig) -> None:
    cursor = rig.exec("SELECT 1 AS a, 2 AS b, 3 AS a")
    assert cursor.column_names == ["a", "b", "a"]
    assert cursor.one() == {"a": 3, "b": 2}
    assert rig.rows("SELECT 1 AS a, 2 AS b, 3 AS a") == [(1, 2, 3)]


@pytest.mark.parametrize("name", ["it''s", "a b", "x\\", "{}", "ä", "{display}", "\n"])
def test_any_column_name_is_a_key(rig: Rig, name: str) -> None:
    quoted = name.replace("''", "'")
    assert rig.exec(f'SELECT 1 AS "{quoted}"').to_array() == [{quoted: 1}]


def test_a_write_without_rows_has_an_empty_cursor(rig: Rig) -> None:
    cursor = rig.exec("CREATE TABLE t(a)")
    assert cursor.column_names == []
    assert cursor.to_array() == []
    assert list(cursor.raw()) == []


def test_returned_rows_need_not_be_read(numbers: Rig) -> None:
    for _ in range(2):  # the second time the statement is known
        cursor = numbers.exec("INSERT INTO t VALUES(6),(7) RETURNING a, a * 2 AS b")
        numbers.commit()
        assert cursor.to_array() == [{"a": 6, "b": 12}, {"a": 7, "b": 14}]
    numbers.exec("INSERT INTO t VALUES(8) RETURNING a; SELECT 1")
    numbers.commit()
    assert numbers.rows("SELECT count(*) FROM t") == [(10,)]


def test_a_table_cannot_be_dropped_while_a_cursor_is_open(numbers: Rig) -> None:
    cursor = numbers.exec("SELECT a FROM t")
    with pytest.raises(SqlError, match=r"^database table is locked: SQLITE_LOCKED$"):
        numbers.exec("DROP TABLE t")
    rows = iter(cursor)
    del cursor
    next(rows)
    with pytest.raises(SqlError, match="locked"):
        numbers.exec("DROP TABLE t")
    del rows
    numbers.exec("DROP TABLE t")


@pytest.mark.parametrize("number", range(3))
def test_a_cursor_that_was_dropped_or_read_locks_nothing(numbers: Rig, number: int) -> None:
    cursor = numbers.exec("SELECT a FROM t")
    if number == 0:
        next(cursor)
        del cursor
    elif number == 1:
        cursor.to_array()
    else:
        list(cursor.raw())
    numbers.exec("DROP TABLE t")


def test_an_open_cursor_keeps_its_columns_when_the_table_gets_more(numbers: Rig) -> None:
    cursor = numbers.exec("SELECT * FROM t")
    numbers.exec("ALTER TABLE t ADD COLUMN b DEFAULT 0")
    assert next(cursor) == {"a": 1}
    assert numbers.exec("SELECT * FROM t LIMIT 1").one() == {"a": 1, "b": 0}
    assert len(cursor.to_array()) == 4


def test_an_error_in_a_later_row_is_raised_by_the_read(rig: Rig) -> None:
    query = "SELECT json(v) AS j FROM (SELECT '1' AS v UNION ALL SELECT '2' UNION ALL SELECT 'x')"
    for read in (
        lambda c: c.to_array(),
        lambda c: list(c),
        lambda c: list(c.raw()),
        lambda c: [next(c), next(c), next(c)],
    ):
        with pytest.raises(SqlError, match=r"^malformed JSON: SQLITE_ERROR$"):
            read(rig.exec(query))


# ---- row types


class User(TypedDict):
    id: int
    name: str


class Pair(NamedTuple):
    id: int
    name: str


@dataclasses.dataclass
class Person:
    id: int
    name: str = "nobody"


USERS = "SELECT 1 AS id, 'ann' AS name UNION ALL SELECT 2, 'bob'"


def test_a_typed_dict_is_a_plain_dict(rig: Rig) -> None:
    rows = rig.exec(USERS, row_type=User).to_array()
    assert rows == [{"id": 1, "name": "ann"}, {"id": 2, "name": "bob"}]
    assert type(rows[0]) is dict


@pytest.mark.parametrize("row_type", [Pair, Person])
def test_a_row_type_gets_the_columns_as_keywords(rig: Rig, row_type: Any) -> None:
    expected = [row_type(1, "ann"), row_type(id=2, name="bob")]
    assert rig.exec(USERS, row_type=row_type).to_array() == expected
    assert list(rig.exec(USERS, row_type=row_type)) == expected
    assert next(rig.exec(USERS, row_type=row_type)) == expected[0]
    assert rig.exec("SELECT 1 AS id, 'ann' AS name", row_type=row_type).one() == expected[0]
    assert list(rig.exec(USERS, row_type=row_type).raw()) == [(1, "ann"), (2, "bob")]


def test_a_row_type_may_be_any_callable(rig: Rig) -> None:
    def joined(**columns: object) -> str:
        return ",".join(f"{name}={value}" for name, value in columns.items())

    assert rig.exec('SELECT 1 AS "a b", 2 AS c', row_type=joined).one() == "a b=1,c=2"


def test_columns_that_a_row_type_does_not_take_are_its_own_error(rig: Rig) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        rig.exec("SELECT 1 AS x", row_type=Person).one()


# ---- limits


LIMITS = [
    ("SELECT " + ",".join("1" * 101), "too many columns in result set"),
    ("CREATE TABLE x(" + ",".join(f"c{i}" for i in range(101)) + ")", "too many columns on x"),
    ("SELECT max(" + ",".join("1" * 33) + ")", "too many arguments on function max"),
    ("SELECT ?101", "variable number must be between ?1 and ?100"),
    ("SELECT 'a' LIKE '" + "%" * 51 + "'", "LIKE or GLOB pattern too complex"),
    ("SELECT 'a' GLOB '" + "*" * 51 + "'", "LIKE or GLOB pattern too complex"),
    (" UNION ".join(["SELECT 1"] * 6), "too many terms in compound SELECT"),
    ("SELECT " + "+".join("1" * 101), "Expression tree is too large"),
    ("SELECT zeroblob(2097153)", "string or blob too big"),
    ("SELECT 1 FROM " + ",".join(f"(SELECT 1) t{i}" for i in range(65)), "at most 64 tables"),
    ("SELECT '" + "x" * 99_992 + "'", "statement too long"),
]


@pytest.mark.parametrize(("query", "message"), LIMITS, ids=[message for _, message in LIMITS])
def test_limits_are_enforced(rig: Rig, query: str, message: str) -> None:
    with pytest.raises(SqlLimitError) as caught:
        rig.exec(query)
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, LimitExceededError)
    assert isinstance(caught.value, ValueError)


def test_what_is_just_within_the_limits_works(rig: Rig) -> None:
    rig.exec("SELECT " + ",".join("1" * 100))
    rig.exec("SELECT max(" + ",".join("1" * 32) + ")")
    rig.exec("SELECT 'a' LIKE '" + "%" * 50 + "'")
    rig.exec(" UNION ".join(["SELECT 1"] * 5))
    assert rig.rows("SELECT length(zeroblob(2097152))") == [(2097152,)]
    assert len(rig.rows("SELECT '" + "x" * 99_991 + "'")[0][0]) == 99_991


@pytest.mark.parametrize("value", ["x" * 2_097_153, b"x" * 2_097_153, "ä" * 1_100_000])
def test_a_binding_that_is_too_long_is_refused(rig: Rig, value: object) -> None:
    rig.exec("CREATE TABLE t(a)")
    with pytest.raises(SqlLimitError, match=r"^string or blob too big: SQLITE_TOOBIG$"):
        rig.exec("INSERT INTO t VALUES(?)", value)
    assert rig.rows("SELECT * FROM t") == []


def test_triggers_nest_at_most_ten_deep(rig: Rig) -> None:
    for number in range(12):
        rig.exec(f"CREATE TABLE t{number}(a)")
    for number in range(11):
        rig.exec(
            f"CREATE TRIGGER g{number} AFTER INSERT ON t{number} BEGIN"
            f" INSERT INTO t{number + 1} VALUES(new.a); END"
        )
    rig.exec("INSERT INTO t1 VALUES(1)")
    with pytest.raises(SqlLimitError, match="trigger"):
        rig.exec("INSERT INTO t0 VALUES(1)")


def test_limits_can_be_lowered_and_raised(tmp_path: Path) -> None:
    limits = Limits(columns=3, parameters=300, function_arguments=100, value_size_max_bytes=1000)
    rig = Rig(tmp_path / "object.sqlite", limits)
    rig.exec("SELECT max(" + ",".join("1" * 100) + ")")
    rig.exec("SELECT ?300", *range(300))
    with pytest.raises(SqlLimitError, match="too many columns"):
        rig.exec("SELECT 1, 2, 3, 4")
    with pytest.raises(SqlLimitError, match="too big"):
        rig.exec("SELECT zeroblob(1001)")
    rig.database.close()


# ---- extensions


def test_fts5_with_its_vocabulary(rig: Rig) -> None:
    rig.exec("CREATE VIRTUAL TABLE f USING fts5(a)")
    rig.exec("INSERT INTO f VALUES ('alpha beta'), ('beta gamma')")
    rig.exec("CREATE VIRTUAL TABLE v USING fts5vocab(f, row)")
    rig.commit()
    assert rig.rows("SELECT rowid FROM f WHERE f MATCH 'beta' ORDER BY rank") == [(1,), (2,)]
    assert rig.rows("SELECT term, doc FROM v") == [("alpha", 1), ("beta", 2), ("gamma", 1)]
    assert rig.rows("SELECT highlight(f, 0, '<', '>') FROM f('alpha')") == [("<alpha> beta",)]


def test_r_tree_json_and_mathematics(rig: Rig) -> None:
    rig.exec("CREATE VIRTUAL TABLE r USING rtree(id, x0, x1)")
    rig.exec("INSERT INTO r VALUES(1, 0, 5), (2, 10, 15)")
    assert rig.rows("SELECT id FROM r WHERE x1 > 6") == [(2,)]
    assert rig.rows("SELECT value FROM json_each('[1, 2]')") == [(1,), (2,)]
    assert rig.rows("SELECT '{\"a\": 5}' ->> 'a', sqrt(16), pow(2, 3)") == [(5, 4.0, 8.0)]


def test_what_the_linked_sqlite_lacks_is_named_with_its_version(rig: Rig) -> None:
    with pytest.raises(SqlError, match="no such function: nosuch: SQLITE_ERROR") as caught:
        rig.exec("SELECT nosuch(1)")
    (note,) = caught.value.__notes__
    assert "linked with SQLite" in note


def test_errors_carry_the_codes_of_sqlite(rig: Rig) -> None:
    rig.exec("CREATE TABLE u(a UNIQUE)")
    rig.exec("INSERT INTO u VALUES(1)")
    with pytest.raises(SqlError) as caught:
        rig.exec("INSERT INTO u VALUES(1)")
    assert str(caught.value) == (
        "UNIQUE constraint failed: u.a: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_UNIQUE)"
    )
    assert caught.value.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE"
    assert caught.value.sqlite_errorcode == 2067
