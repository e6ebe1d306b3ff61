from __future__ import annotations

import time

import pytest

from durable_storage.database.splitter import (
    leading_keyword,
    parameter_names,
    renames_into_reserved,
    split_script,
    with_names,
    writes,
)


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("", [""]),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;", ["SELECT 1;"]),
        ("SELECT 1; \n", ["SELECT 1;"]),
        ("SELECT 1; -- c", ["SELECT 1;"]),
        ("SELECT 1;;", ["SELECT 1;", ""]),
        (";;SELECT 1", [";;SELECT 1"]),
        ("a; b; c", ["a;", " b;", " c"]),
        ("SELECT ';'; SELECT \";\"", ["SELECT ';';", ' SELECT ";"']),
        ("SELECT 1 /* ; */; SELECT 2 -- ;", ["SELECT 1 /* ; */;", " SELECT 2 -- ;"]),
        ("SELECT [;], `;`; SELECT 2", ["SELECT [;], `;`;", " SELECT 2"]),
        ("SELECT 1;\u00a0", ["SELECT 1;", "\u00a0"]),
        ("SELECT 'open; SELECT 2;", ["SELECT 'open; SELECT 2;"]),
        (
            "CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; SELECT 2; END; SELECT 3",
            ["CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; SELECT 2; END;", " SELECT 3"],
        ),
    ],
)
def test_a_script_is_split_where_sqlite_ends_a_statement(
    script: str, statements: list[str]
) -> None:
    assert split_script(script) == statements


@pytest.mark.parametrize("unit", [" ", "-", "/*", ";", "'", "(", "x"])
def test_long_texts_take_no_more_than_their_share_of_time(unit: str) -> None:
    text = unit * (100_000 // len(unit)) + "\u00a0"
    start = time.process_time()
    split_script(text)
    writes("WITH " + text)
    renames_into_reserved("ALTER " + text)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("statement", "keyword"),
    [
        ("select 1", "SELECT"),
        (" \n-- c\n/* d */ ;Insert", "INSERT"),
        ("/* open", ""),
        ("5", ""),
        ("", ""),
    ],
)
def test_the_leading_keyword(statement: str, keyword: str) -> None:
    assert leading_keyword(statement) == keyword


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT 1", False),
        ("VALUES (1)", False),
        ("EXPLAIN DELETE FROM t", False),
        ("PRAGMA foreign_keys=ON", False),
        ("PRAGMA optimize", True),
        ("BEGIN", False),
        ("INSERT INTO t VALUES(1)", True),
        ("REPLACE INTO t VALUES(1)", True),
        ("DROP TABLE t", True),
        ("VACUUM", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", False),
        ("WITH a AS (SELECT 'INSERT') SELECT * FROM a", False),
        ("WITH a AS (SELECT 1), b(x, y) AS MATERIALIZED (VALUES (1)) DELETE FROM t", True),
        ("WITH RECURSIVE a AS (SELECT ')') /* SELECT */ UPDATE t SET a = 1", True),
    ],
)
def test_what_could_write(statement: str, expected: bool) -> None:
    assert writes(statement) is expected


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("SELECT 1", None),
        ("SELECT ?", None),
        ("SELECT :a, @b, $c, :a", ("a", "b", "c")),
        ("SELECT :a, ?", None),
        ("SELECT :a, ?1", None),
        ("SELECT :a, @a", None),
        ("SELECT ':a', \":b\" -- :c", None),
        ("SELECT ':a', :é", ("é",)),
    ],
)
def test_the_names_of_parameters(statement: str, names: tuple[str, ...] | None) -> None:
    assert parameter_names(statement) == names


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("SELECT ?2, ?1", ("1", "2")),
        ("SELECT :a, ?2, ?1", ("a", "2")),
        ("SELECT ?, ?1", ("1",)),
    ],
)
def test_numbers_of_parameters_are_names(statement: str, names: tuple[str, ...]) -> None:
    assert with_names(statement, 8) == (statement, names, ())


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("SELECT :a, ?", "SELECT :_cf_1_, :_cf_2_"),
        ("SELECT :a, @a, :a", "SELECT :_cf_1_, :_cf_2_, :_cf_1_"),
        ("SELECT ?4, ?2 -- ?", "SELECT :_cf_4_, :_cf_2_ -- ?"),
        ("SELECT '?', ?2+?", "SELECT '?', :_cf_2_+:_cf_3_"),
    ],
)
def test_parameters_are_given_names_where_they_have_none(statement: str, named: str) -> None:
    found = with_names(statement, 8)
    assert found is not None
    assert found.sql == named
    assert found.as_written(named) == statement


@pytest.mark.parametrize(
    "statement",
    ["SELECT 1", "SELECT ?, '?1' -- :a", "SELECT ?0, :a", "SELECT ?9", "SELECT ?99999999999999"],
)
def test_there_may_be_nothing_to_name(statement: str) -> None:
    assert with_names(statement, 8) is None
