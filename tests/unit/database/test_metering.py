from __future__ import annotations

import pytest

from durable_storage.database.simplex import minimise

from .rig import Rig

NUMBERS = (
    "INSERT INTO t WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20)"
    " SELECT n, n * 10 FROM c"
)


@pytest.fixture
def numbers(rig: Rig) -> Rig:
    rig.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    rig.exec(NUMBERS)
    return rig


# Recorded from the original runtime.
@pytest.mark.parametrize(
    ("query", "reads"),
    [
        ("SELECT 1", 0),
        ("SELECT * FROM t", 20),
        ("SELECT v FROM t WHERE id = 7", 1),
        ("SELECT v FROM t WHERE id = 999", 1),
        ("SELECT v FROM t WHERE id IN (1, 2, 999)", 6),
        ("SELECT id FROM t WHERE id BETWEEN 5 AND 8", 5),
        ("SELECT id FROM t WHERE id > 17", 3),
        ("SELECT id FROM t WHERE id < 3", 3),
        ("SELECT id FROM t WHERE id > 100", 1),
        ("SELECT count(*) FROM t", 20),
        ("SELECT count(*) FROM t WHERE id > 10", 10),
        ("SELECT count(*) FROM t WHERE v > 0", 20),
        ("SELECT max(id) FROM t", 1),
        ("SELECT max(v) FROM t", 20),
        ("SELECT id FROM t ORDER BY id DESC LIMIT 2", 2),
        ("SELECT id FROM t ORDER BY v DESC LIMIT 2", 40),
        ("SELECT id FROM t LIMIT 0", 0),
        ("SELECT id FROM t LIMIT 2 OFFSET 5", 7),
        ("SELECT id FROM t LIMIT -1 OFFSET 18", 20),
        ("SELECT id FROM t WHERE v = 200 LIMIT 1", 20),
        ("SELECT id FROM t WHERE v = 10 LIMIT 1", 1),
        ("SELECT EXISTS (SELECT 1 FROM t WHERE v = 30)", 3),
        ("SELECT id FROM t WHERE v = (SELECT max(v) FROM t)", 40),
    ],
)
def test_rows_read_by_a_query(numbers: Rig, query: str, reads: int) -> None:
    cursor = numbers.exec(query)
    cursor.to_array()
    assert (cursor.rows_read, cursor.rows_written) == (reads, 0)
    numbers.exec(query).to_array()
    again = numbers.exec(query)
    list(again)
    assert again.rows_read == reads


@pytest.mark.parametrize(
    ("statement", "reads", "writes"),
    [
        ("UPDATE t SET v = 0 WHERE id = 3", 1, 1),
        ("UPDATE t SET v = 1 WHERE id <= 5", 6, 5),
        ("UPDATE t SET v = v", 20, 20),
        ("UPDATE t SET v = 9 WHERE id = 999", 1, 0),
        ("DELETE FROM t WHERE id = 1", 1, 1),
        ("DELETE FROM t WHERE v > 150", 20, 5),
        ("DELETE FROM t", 0, 20),
        ("INSERT INTO t VALUES(100, 1)", 1, 1),
        ("INSERT INTO t(v) VALUES(1), (2), (3)", 0, 3),
        ("CREATE TABLE u(a UNIQUE, b)", 1, 3),
    ],
)
def test_rows_read_and_written_by_a_change(
    numbers: Rig, statement: str, reads: int, writes: int
) -> None:
    cursor = numbers.exec(statement)
    assert (cursor.rows_read, cursor.rows_written) == (reads, writes)


def test_indexes_count_as_written_rows(rig: Rig) -> None:
    rig.exec("CREATE TABLE s(a, b); CREATE INDEX i ON s(a); CREATE INDEX j ON s(a, b)")
    rig.exec("CREATE INDEX p ON s(b) WHERE b > 10")
    assert rig.exec("INSERT INTO s VALUES(1, 1)").rows_written == 3
    assert rig.exec("INSERT INTO s VALUES(1, 11)").rows_written == 4
    assert rig.exec("UPDATE s SET b = 2 WHERE rowid = 1").rows_written == 2


def test_a_statement_is_counted_also_when_it_was_run_before_without_being_asked(rig: Rig) -> None:
    rig.exec("CREATE TABLE s(a)")
    for _ in range(3):
        rig.exec("INSERT INTO s VALUES(?), (2)", 1)
    assert rig.exec("INSERT INTO s VALUES(?), (2)", 1).rows_written == 2
    assert rig.exec("INSERT INTO s VALUES(?), (2)", 1).rows_written == 2
    assert rig.exec("DELETE FROM s").rows_written == 10
    assert rig.exec("DELETE FROM s").rows_written == 0


def test_an_open_cursor_counts_what_was_read_so_far(numbers: Rig) -> None:
    cursor = numbers.exec("SELECT id FROM t WHERE id % 5 = 0")
    counts = [cursor.rows_read]
    for _ in cursor:
        counts.append(cursor.rows_read)
    assert counts == [5, 10, 15, 20, 20]
    assert cursor.rows_read == 20


def test_only_the_last_statement_of_a_script_is_counted(rig: Rig) -> None:
    cursor = rig.exec("CREATE TABLE s(a); INSERT INTO s VALUES(1), (2); INSERT INTO s VALUES(3)")
    assert (cursor.rows_read, cursor.rows_written) == (0, 1)


def test_asking_about_a_table_that_is_gone_is_no_error(numbers: Rig) -> None:
    cursor = numbers.exec("SELECT id FROM t")
    cursor.to_array()
    numbers.exec("DROP TABLE t")
    assert cursor.rows_read == 20
    assert numbers.exec("PRAGMA foreign_keys").rows_read == 0
    assert numbers.exec("EXPLAIN SELECT 1").rows_read == 0


def test_asking_changes_nothing(numbers: Rig) -> None:
    numbers.commit()
    cursor = numbers.exec("UPDATE t SET v = v + 1 WHERE id = 1 RETURNING v")
    assert cursor.rows_written == 1
    assert cursor.one() == {"v": 11}
    assert numbers.rows("SELECT v FROM t WHERE id = 1") == [(11,)]


# ---- linear programming


def test_the_cheapest_solution_is_found() -> None:
    # x + y = 4, x - y = 2 has one solution; x + y + z = 4 prefers what costs least.
    assert minimise([1, 1], [({0: 1, 1: 1}, 4), ({0: 1, 1: -1}, 2)]) == pytest.approx([3, 1])
    assert minimise([3, 1, 2], [({0: 1, 1: 1, 2: 1}, 4)]) == pytest.approx([0, 4, 0])
    assert minimise([1, 1], [({0: -1}, -2), ({0: 1, 1: 1}, 5)]) == pytest.approx([2, 3])


def test_a_contradiction_has_no_solution() -> None:
    assert minimise([1], [({0: 1}, 1), ({0: 1}, 2)]) is None
    assert minimise([1], [({0: 1}, -1)]) is None
    assert minimise([1], [({}, 1)]) is None


def test_equations_that_say_the_same_are_no_contradiction() -> None:
    assert minimise([1], [({0: 1}, 1), ({0: 2}, 2), ({}, 0)]) == pytest.approx([1])


# ---- long programs


def test_a_statement_of_hundreds_of_rows_is_counted_at_once(rig: Rig) -> None:
    rig.exec("CREATE TABLE s(a, b); CREATE INDEX i ON s(a)")
    values = ",".join(f"({number}, 1)" for number in range(500))
    assert rig.exec(f"INSERT INTO s VALUES {values}").rows_written == 1000


def test_left_joins_and_groups_are_counted(numbers: Rig) -> None:
    numbers.exec("CREATE TABLE b(id INTEGER PRIMARY KEY, t INTEGER); CREATE INDEX b_t ON b(t)")
    numbers.exec("INSERT INTO b SELECT id, id % 5 FROM t")
    joined = numbers.exec("SELECT t.id, b.id FROM t LEFT JOIN b ON b.t = t.id WHERE t.id <= 4")
    assert len(joined.to_array()) == 16
    # Five rows of t, of which the last ends the range; four lookups, each with three steps, and
    # one more where another key follows.
    assert joined.rows_read == 5 + 4 * 4 + 3
    grouped = numbers.exec("SELECT t, count(*) FROM b GROUP BY t")
    assert len(grouped.to_array()) == 5
    assert grouped.rows_read == 20


def test_the_sequence_of_autoincrement_is_a_row_written(rig: Rig) -> None:
    rig.exec("CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, v)")
    rig.exec("CREATE TABLE b(id INTEGER PRIMARY KEY AUTOINCREMENT, v)")
    for table in ("a", "b"):
        assert rig.exec(f"INSERT INTO {table}(v) VALUES (1)").rows_written == 2
        assert rig.exec(f"INSERT INTO {table}(v) VALUES (1), (2), (3)").rows_written == 4
