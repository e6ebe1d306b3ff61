from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from durable_storage.database import Database
from durable_storage.errors import DatabaseFileError, SqlError

from .rig import Rig


class Recorder:
    """Remembers every operation, and fails those that ``fails`` picks."""

    def __init__(self, fails: Callable[[str, str], bool] = lambda operation, path: False) -> None:
        self.operations: list[tuple[str, str]] = []
        self.fails = fails

    def before(self, operation: str, path: str) -> None:
        name = os.path.basename(path)
        self.operations.append((operation, name))
        if self.fails(operation, name):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def _use(rig: Rig, faults: Recorder) -> None:
    rig.database.close()
    rig.path.unlink(missing_ok=True)
    rig.database = Database(rig.path, faults=faults)


def test_the_first_confirm_syncs_the_file_the_wal_and_the_directory(rig: Rig) -> None:
    faults = Recorder()
    _use(rig, faults)
    rig.exec("CREATE TABLE t(a)")
    rig.commit()
    directory = rig.path.parent.name
    assert faults.operations == [
        ("open", "object.sqlite"),
        ("write", "object.sqlite"),
        ("commit", "object.sqlite"),
    ]
    faults.operations.clear()
    rig.database.confirm()
    assert faults.operations == [
        ("fsync", "object.sqlite"),
        ("fdatasync", "object.sqlite-wal"),
        ("fsync", directory),
    ]
    faults.operations.clear()
    rig.database.confirm()
    assert faults.operations == [("fdatasync", "object.sqlite-wal")]


def test_confirming_before_anything_was_committed_is_allowed(rig: Rig) -> None:
    rig.database.confirm()
    assert rig.database.wal_size_bytes == 0


def test_sqlite_syncs_by_itself_only_after_the_first_confirm(rig: Rig) -> None:
    def synchronous() -> int:
        rig.database.begin()
        rig.database.rollback()
        connection: sqlite3.Connection = rig.database._connection  # pyright: ignore
        connection.set_authorizer(None)
        value: int = connection.execute("PRAGMA synchronous").fetchone()[0]
        return value

    assert synchronous() == 0
    rig.exec("CREATE TABLE t(a)")
    rig.commit()
    rig.database.confirm()
    assert synchronous() == 1


@pytest.mark.parametrize("failing", ["fsync", "fdatasync"])
def test_after_a_failed_sync_nothing_is_ever_confirmed(rig: Rig, failing: str) -> None:
    faults = Recorder(lambda operation, name: operation == failing)
    _use(rig, faults)
    rig.exec("CREATE TABLE t(a)")
    rig.commit()
    with pytest.raises(OSError, match="Input/output error"):
        rig.database.confirm()
    faults.fails = lambda operation, name: False
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error") as caught:
            rig.database.confirm()
        assert caught.value.errno == errno.EIO


def test_a_fault_before_the_commit_leaves_the_transaction_to_be_rolled_back(rig: Rig) -> None:
    faults = Recorder()
    _use(rig, faults)
    rig.exec("CREATE TABLE t(a)")
    faults.fails = lambda operation, name: operation == "commit"
    with pytest.raises(OSError, match="Input/output error"):
        rig.database.commit()
    rig.database.rollback()
    assert rig.rows("SELECT name FROM sqlite_master") == []


@pytest.mark.parametrize("failing", ["open", "write"])
def test_a_fault_while_opening_is_an_error_about_the_file(tmp_path: Path, failing: str) -> None:
    path = tmp_path / "object.sqlite"
    with pytest.raises(DatabaseFileError, match="Input/output error"):
        Database(path, faults=Recorder(lambda operation, name: operation == failing))
    Database(path).close()


def test_what_was_confirmed_survives_without_closing(rig: Rig, tmp_path: Path) -> None:
    rig.exec("CREATE TABLE t(a)")
    rig.exec("INSERT INTO t VALUES(1)")
    rig.commit()
    rig.database.confirm()
    copy = tmp_path / "copy.sqlite"
    shutil.copy(rig.path, copy)
    shutil.copy(f"{rig.path}-wal", f"{copy}-wal")
    other = Rig(copy)
    assert other.rows("SELECT a FROM t") == [(1,)]
    other.database.close()


# ---- checkpoints


@pytest.fixture
def numbers(rig: Rig) -> Rig:
    rig.exec("CREATE TABLE t(a)")
    rig.exec(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20000)"
        " INSERT INTO t SELECT n FROM c"
    )
    rig.commit()
    return rig


def test_a_checkpoint_folds_the_wal_which_then_starts_anew(numbers: Rig) -> None:
    wal = Path(f"{numbers.path}-wal")
    grown = wal.stat().st_size
    assert numbers.database.wal_size_bytes == grown > 100_000
    assert numbers.database.checkpoint()
    assert numbers.path.stat().st_size > 100_000
    assert numbers.database.wal_size_bytes < 10_000
    for _ in range(20):
        numbers.exec("INSERT INTO t VALUES(1)")
        numbers.commit()
    assert wal.stat().st_size == grown
    assert numbers.database.checkpoint()
    assert numbers.rows("SELECT count(*) FROM t") == [(20020,)]


def test_a_checkpoint_changes_nothing_that_a_user_can_see(numbers: Rig) -> None:
    before = (numbers.rows("SELECT * FROM sqlite_master"), numbers.rows("SELECT sum(a) FROM t"))
    numbers.database.checkpoint()
    numbers.reopen()
    after = (numbers.rows("SELECT * FROM sqlite_master"), numbers.rows("SELECT sum(a) FROM t"))
    assert before == after


READERS: list[Callable[[Rig], object]] = [
    lambda rig: rig.exec("SELECT a FROM t WHERE a <= 5"),
    lambda rig: iter(rig.exec("SELECT a FROM t WHERE a <= 5")),
    lambda rig: rig.exec("SELECT a FROM t WHERE a <= 5").raw(),
]


@pytest.mark.parametrize("start", READERS)
@pytest.mark.parametrize("read_before", [0, 1, 4, 5])
def test_open_results_are_drained_and_go_on(
    numbers: Rig, start: Callable[[Rig], object], read_before: int
) -> None:
    rows = start(numbers)
    values = [next(rows) for _ in range(read_before)]  # type: ignore[call-overload]
    assert numbers.database.checkpoint()
    numbers.exec("DROP TABLE t")
    values += list(rows)  # type: ignore[call-overload]
    assert [next(iter(r.values())) if isinstance(r, dict) else r[0] for r in values] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_every_open_result_is_drained_also_of_keys(numbers: Rig) -> None:
    numbers.begin()
    numbers.database.kv_put_many([("a", 1), ("b", 2)])
    numbers.commit()
    first = numbers.exec("SELECT a FROM t WHERE a <= 3")
    next(first)
    second = numbers.exec("SELECT a FROM t WHERE a <= 3 ORDER BY a DESC")
    keys = numbers.database.kv_list()
    next(keys)
    assert numbers.database.checkpoint()
    numbers.exec("DROP TABLE t")
    assert first.column_names == ["a"]
    assert first.to_array() == [{"a": 2}, {"a": 3}]
    assert second.to_array() == [{"a": 3}, {"a": 2}, {"a": 1}]
    assert list(keys) == [("b", 2)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a FROM t",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)"
        " SELECT n FROM c WHERE n < 3",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100)"
        " SELECT zeroblob(1000000) FROM c",
    ],
)
def test_a_result_that_is_too_long_to_drain_is_ended_with_a_clear_error(
    numbers: Rig, query: str
) -> None:
    cursor = numbers.exec(query)
    rows = iter(cursor)
    next(rows)
    assert numbers.database.checkpoint()
    for use in (
        lambda: next(rows),
        lambda: next(cursor),
        cursor.to_array,
        cursor.one,
        lambda: cursor.rows_read,
    ):
        with pytest.raises(SqlError, match="left open with too many rows unread"):
            use()
    assert numbers.rows("SELECT count(*) FROM t") == [(20000,)]


def test_an_error_in_the_drained_rows_comes_where_it_belongs(numbers: Rig) -> None:
    cursor = numbers.exec(
        "SELECT json(v) AS j FROM"
        " (SELECT '1' AS v UNION ALL SELECT '2' UNION ALL SELECT '3' UNION ALL SELECT 'x')"
    )
    assert next(cursor) == {"j": "1"}
    assert numbers.database.checkpoint()
    assert next(cursor) == {"j": "2"}
    with pytest.raises(SqlError, match="malformed JSON"):
        cursor.to_array()


def test_a_dropped_iterator_does_not_keep_the_wal(numbers: Rig) -> None:
    rows = iter(numbers.exec("SELECT a FROM t"))
    next(rows)
    del rows
    assert numbers.database.checkpoint()


def test_checkpoints_in_a_thread(numbers: Rig) -> None:
    import threading

    folded: list[bool] = []
    thread = threading.Thread(target=lambda: folded.append(numbers.database.checkpoint()))
    thread.start()
    thread.join()
    assert folded == [True]
    numbers.exec("INSERT INTO t VALUES(0)")
    numbers.commit()


def _small_commits(rig: Rig, number: int) -> int:
    """Make commits, each confirmed; return how often the WAL became longer."""
    wal = Path(f"{rig.path}-wal")
    longer = 0
    for value in range(number):
        before = wal.stat().st_size if wal.exists() else 0
        rig.exec("INSERT INTO t VALUES(?)", value)
        rig.commit()
        rig.database.confirm()
        longer += wal.stat().st_size > before
    return longer


def test_small_commits_seldom_make_the_log_longer(rig: Rig) -> None:
    rig.exec("CREATE TABLE t(a)")
    _small_commits(rig, 20)
    assert _small_commits(rig, 160) <= 160 * 4120 // (64 * 1024) + 1
    # What SQLite has not written yet counts for nothing, as in any log that is used again.
    assert 180 * 4120 <= rig.database.wal_size_bytes < 184 * 4120
    copy = rig.path.with_name("copy.sqlite")
    shutil.copy(rig.path, copy)
    shutil.copy(f"{rig.path}-wal", f"{copy}-wal")
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*), sum(a) FROM t").fetchone() == (
            180,
            sum(range(20)) + sum(range(160)),
        )


def test_a_large_commit_makes_the_log_no_longer_than_it_is(rig: Rig) -> None:
    rig.exec("CREATE TABLE t(a)")
    for _ in range(3):
        rig.exec("INSERT INTO t VALUES(randomblob(200000))")
        rig.commit()
        rig.database.confirm()
    assert Path(f"{rig.path}-wal").stat().st_size == rig.database.wal_size_bytes


def test_a_log_that_cannot_be_lengthened_ahead_is_used_as_it_is(rig: Rig) -> None:
    faults = Recorder()
    _use(rig, faults)
    rig.exec("CREATE TABLE t(a)")
    faults.fails = lambda operation, name: operation == "write"
    assert _small_commits(rig, 60) == 60
    assert ("write", "object.sqlite-wal") in faults.operations
    assert rig.rows("SELECT count(*) FROM t") == [(60,)]
