"""A connection as the database needs it: every setting is set, read back and compared."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final, final

from ..errors import DatabaseFileError
from ..limits import Limits
from .create import PAGE_SIZE
from .sqlerrors import primary_code

__all__ = [
    "LENGTH_MIN_BYTES",
    "STATEMENTS_MAX",
    "LoweredLimits",
    "connect",
    "reset_pragmas",
    "set_defensive",
    "set_synchronous",
]

STATEMENTS_MAX: Final = 512
"""Prepared statements that are kept."""

LENGTH_MIN_BYTES: Final = 4096
"""The length of a value or a row that our own statements may need."""

PAGE_CACHE_MAX_KIB: Final = 16_000
"""Memory for pages of one file. It is taken as pages are read, so small files take less."""

_CEILING: Final = 2**31 - 1
_OFF: Final = 0
_NORMAL: Final = 1

# Pragmas that SQL may change, and their values in a connection that nobody has used yet.
_USER_PRAGMAS: Final = (
    ("foreign_keys", 1),
    ("recursive_triggers", 0),
    ("defer_foreign_keys", 0),
    ("ignore_check_constraints", 0),
    ("legacy_alter_table", 0),
    ("reverse_unordered_selects", 0),
)

_LIKE: Final = "PRAGMA case_sensitive_like=0"  # cannot be read back


def connect(path: str, limits: Limits) -> sqlite3.Connection:
    """Return a configured connection that holds the file's lock.

    Raises:
        DatabaseFileError: not a database, in use, or in a place where no WAL can be created.
    """
    directory = os.path.dirname(path) or os.curdir
    if not os.access(directory, os.W_OK):
        raise DatabaseFileError(
            f"the directory {directory!r} is read-only; SQLite keeps the write-ahead log there"
        )
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            path,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS_MAX,
        )
        _configure(connection, path, limits)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise DatabaseFileError(_reason(path, error)) from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def _reason(path: str, error: sqlite3.Error) -> str:
    code = primary_code(error)
    if code == sqlite3.SQLITE_NOTADB:
        return f"{path!r} is not a SQLite database"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"the database file {path!r} is in use by another process or connection"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return f"the database file {path!r}, its -wal or its directory cannot be written: {error}"
    return f"cannot open the database file {path!r}: {error}"


def _configure(connection: sqlite3.Connection, path: str, limits: Limits) -> None:
    settings: tuple[tuple[str, str | int], ...] = (
        ("locking_mode", "exclusive"),
        ("journal_mode", "wal"),
        ("synchronous", _OFF),
        # Debian compiles it in; it would write every page that a DROP TABLE frees.
        ("secure_delete", 0),
        ("cache_size", -PAGE_CACHE_MAX_KIB),
        *_USER_PRAGMAS,
    )
    # A script, because Python keeps what execute() prepares: two kilobytes for each statement of
    # an object that is open. The SELECT reads the first page, and with EXCLUSIVE locking takes the
    # lock for good; it has to come after the first two.
    first, second, *others = (f"PRAGMA {name}={value}" for name, value in settings)
    lock = "SELECT count(*) FROM sqlite_master"
    pages = max(1, limits.database_size_max_bytes // PAGE_SIZE)
    room = f"PRAGMA max_page_count={pages}"  # a file that is larger already keeps its size
    connection.executescript(";".join((first, second, lock, *others, room, _LIKE)))
    names = [name for name, _ in settings]
    for (name, value), found in zip(settings, _read_back(connection, names), strict=True):
        _compare(path, name, value, found)
    # The one that a SELECT cannot read.
    (found,) = connection.execute("PRAGMA wal_autocheckpoint=0").fetchone()
    _compare(path, "wal_autocheckpoint", 0, found)
    for category, _, value in _run_time_limits(limits):
        connection.setlimit(category, value)
    set_defensive(connection, defensive=True)


def _run_time_limits(limits: Limits) -> Iterator[tuple[int, int, int]]:
    """Yield SQLite's limits: the category, what users may use, and what is in force for us."""
    for category, value, floor in (
        (sqlite3.SQLITE_LIMIT_LENGTH, limits.value_size_max_bytes, LENGTH_MIN_BYTES),
        (sqlite3.SQLITE_LIMIT_COLUMN, limits.columns, 10),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, limits.expression_depth, 50),
        (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, limits.compound_select_terms, 5),
        (sqlite3.SQLITE_LIMIT_FUNCTION_ARG, limits.function_arguments, 16),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0, 0),
        (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, limits.like_pattern_size_max_bytes, 50),
        (sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, limits.parameters, 10),
        (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, limits.trigger_depth, 1),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0, 0),
    ):
        # A value above the ceiling that was compiled in becomes that ceiling.
        allowed = min(value, _CEILING)
        yield category, allowed, max(allowed, floor)
    # The length of what users write is checked before. Ours has their names in it, quoted, and
    # EXPLAIN before their statements.
    length = min(2 * limits.statement_size_max_bytes + LENGTH_MIN_BYTES, _CEILING)
    yield sqlite3.SQLITE_LIMIT_SQL_LENGTH, length, length


@final
class LoweredLimits:
    """Limits below what our statements, and SQLite's own, need; a context that applies them.

    What changes the schema runs outside: SQLite changes its table of it by statements of its own.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Limits) -> None:
        self._connection = connection
        self._lowered = [item for item in _run_time_limits(limits) if item[1] < item[2]]

    def __bool__(self) -> bool:
        return bool(self._lowered)

    def __enter__(self) -> None:
        for category, allowed, _ in self._lowered:
            self._connection.setlimit(category, allowed)

    def __exit__(self, *error: object) -> None:
        for category, _, ours in self._lowered:
            self._connection.setlimit(category, ours)


def reset_pragmas(connection: sqlite3.Connection, path: str) -> None:
    """Give every pragma that SQL may change its first value. No transaction is open."""
    for name, value in _USER_PRAGMAS:
        _set(connection, path, name, value)
    connection.execute(_LIKE)


def set_synchronous(connection: sqlite3.Connection, path: str, *, normal: bool) -> None:
    """Let SQLite sync at checkpoints and WAL restarts, or not at all."""
    _set(connection, path, "synchronous", _NORMAL if normal else _OFF)


def set_defensive(connection: sqlite3.Connection, *, defensive: bool) -> None:
    """Refuse writes to the shadow tables of FTS5 and R*Tree, and to the schema's own table, or not.

    Before CPython 3.12 this cannot be set, and nothing happens.
    """
    set_config: Callable[[int, bool], None] | None = getattr(connection, "setconfig", None)
    if set_config is not None:
        set_config(getattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE"), defensive)  # noqa: B009


def _set(connection: sqlite3.Connection, path: str, name: str, value: str | int) -> None:
    connection.execute(f"PRAGMA {name}={value}").fetchall()
    row: tuple[Any, ...] | None = connection.execute(f"PRAGMA {name}").fetchone()
    _compare(path, name, value, None if row is None else row[0])


def _read_back(connection: sqlite3.Connection, names: list[str]) -> list[Any]:
    """Return the values of pragmas. No statement is open, because a function is replaced."""
    found: list[Any] = []
    connection.create_function("read_back", len(names), lambda *values: found.extend(values))
    values = ", ".join(f"(SELECT * FROM pragma_{name})" for name in names)
    connection.executescript(f"SELECT read_back({values})")
    connection.create_function("read_back", len(names), None)
    return found


def _compare(path: str, name: str, value: str | int, found: object) -> None:
    if found != value:
        raise DatabaseFileError(
            f"SQLite did not accept PRAGMA {name}={value} for {path!r}: it is {found!r}"
        )
