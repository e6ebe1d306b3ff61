"""A PEP 249 connection over ``ctx.storage.sql``, for SQLAlchemy, pandas and code like them.

``connect(ctx.storage)`` gives it. It is used inside the object's own code, where ``storage.sql``
is, and like it does not wait: no ``await`` belongs between the first write of a transaction
and its end.

Model. A transaction begins with the first statement that could write and is a savepoint, as of
``storage.transaction_sync()``. ``commit()`` keeps it: it then is part of the object's
implicit transaction, which is durable before any answer leaves. ``rollback()`` undoes it.

Errors are those of the standard library's ``sqlite3``, so that what catches those catches these,
and what SQLAlchemy makes of them is right; each has the library's own error as its ``__cause__``.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from sqlite3 import (
    Binary,
    DatabaseError,
    DataError,
    Date,
    DateFromTicks,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Time,
    TimeFromTicks,
    TimestampFromTicks,
    Warning,  # noqa: A004 - PEP 249 calls it so
    sqlite_version,
    sqlite_version_info,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, cast, final

from ..database.authorizer import is_reserved
from ..database.cursor import SqlStorageCursor
from ..database.splitter import leading_keyword, parameter_names, split_script, writes
from ..errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ConcurrencyError,
    DurableStorageError,
    SqlError,
    SqlLimitError,
)
from ..storage.storage import DurableObjectStorage

if TYPE_CHECKING:
    from ..storage.session import Session

__all__ = [
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "sqlite_version",
    "sqlite_version_info",
    "threadsafety",
]

apilevel: Final = "2.0"
threadsafety: Final = 1
"""Threads may share the module, but a connection belongs to the thread of its object."""
Timestamp: Final = datetime.datetime
paramstyle: Final = "qmark"

Row = tuple[Any, ...]
Parameters = Sequence[object] | Mapping[str, object]
_Described = tuple[tuple[str, None, None, None, None, None, None], ...]

_PLAIN: Final = (type(None), bool, int, float, str, bytes, bytearray, memoryview)
_TRANSACTION: Final = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK"})
_SAVEPOINTS: Final = frozenset({"SAVEPOINT", "RELEASE"})
_DML: Final = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE", "WITH"})
_NAME: Final = r"(\"(?:[^\"]|\"\")+\"|`[^`]+`|\[[^\]]+\]|'[^']+'|[\w$]+)\s*;?\s*"
_SAVEPOINT: Final = re.compile(rf"\s*SAVEPOINT\s+{_NAME}", re.IGNORECASE)
_RELEASE: Final = re.compile(rf"\s*RELEASE\s+(?:SAVEPOINT\s+)?{_NAME}", re.IGNORECASE)
_ROLLBACK_TO: Final = re.compile(
    rf"\s*ROLLBACK\s+(?:TRANSACTION\s+)?TO\s+(?:SAVEPOINT\s+)?{_NAME}", re.IGNORECASE
)
_SCHEMA: Final = re.compile(r"\bsqlite_(?:master|schema)\b", re.IGNORECASE)
_PRAGMA: Final = re.compile(
    r"\s*PRAGMA\s+(?:(\w+)\s*\.\s*)?(\w+)\s*(?:=\s*(\w+)|\((.*)\))?\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
# SQLAlchemy gives them to every connection. The first is not allowed in objects and says so when
# it is used; the second is SQLite's own there.
_EXPECTED_FUNCTIONS: Final = frozenset({"regexp", "floor"})
_ISOLATION_LEVELS: Final = ("", "DEFERRED", "IMMEDIATE", "EXCLUSIVE")


def connect(storage: DurableObjectStorage, *, isolation_level: str | None = "") -> Connection:
    """A connection to the object's own database; making one costs nothing.

    Args:
        storage: ``ctx.storage`` of an object on SQLite.
        isolation_level: None for no transactions: each statement stands when it is done.
    """
    return Connection(storage, isolation_level=isolation_level)


@final
class _Savepoint:
    """One open savepoint of the object's storage, and how to tell that it is still the innermost.

    Not a ``transaction_sync()`` block: one that is dropped while it is open is left by the garbage
    collector, which would then undo whatever is open at the time.
    """

    def __init__(self, storage: DurableObjectStorage, name: str | None) -> None:
        self.name = name
        self._storage = storage
        session = self._session = _session(storage)
        driven = session.life.admit("a write of a DB-API connection")
        self._index = session.enter_savepoint()
        storage._wrote_in(session, driven)  # pyright: ignore[reportPrivateUsage]
        self._commits = session.database.commits

    @property
    def alive(self) -> bool:
        """False once the object was reset, or committed while this was open, which undid this."""
        session = _session(self._storage)
        return (
            session is self._session
            and session.life.broken is None
            and session.depth > self._index
            and session.database.commits == self._commits
        )

    def leave(self, *, keep: bool) -> None:
        session = self._session
        session.life.admit("the end of a transaction of a DB-API connection")
        if session.depth != self._index + 1:
            raise OperationalError(
                "a transaction that was begun later is still open: another connection's, or a "
                "storage.transaction_sync() block; end that one first"
            )
        session.leave_savepoint(self._index, keep=keep)


def _gone() -> OperationalError:
    return OperationalError(
        "the transaction is gone: its event awaited something or ended before commit(), which "
        "undid what it had written; commit before any await"
    )


def _session(storage: DurableObjectStorage) -> Session:
    return storage._session  # pyright: ignore[reportPrivateUsage]


@final
class Connection:
    """A PEP 249 connection. Made by `connect`.

    As a context manager it commits, or rolls back when the block raises, as ``sqlite3`` does.

    Attributes:
        row_factory: called with the cursor and each row; None for tuples.
    """

    Warning = Warning
    Error = Error
    InterfaceError = InterfaceError
    DatabaseError = DatabaseError
    DataError = DataError
    OperationalError = OperationalError
    IntegrityError = IntegrityError
    InternalError = InternalError
    ProgrammingError = ProgrammingError
    NotSupportedError = NotSupportedError

    def __init__(self, storage: DurableObjectStorage, *, isolation_level: str | None = "") -> None:
        if not isinstance(cast("object", storage), DurableObjectStorage):
            raise ArgumentTypeError(
                f"connect() takes ctx.storage of an object on SQLite, got {type(storage).__name__}"
            )
        self._storage = storage
        self._savepoints: list[_Savepoint] = []
        self._closed = False
        self._isolation_level: str | None = None
        self.isolation_level = isolation_level
        self.row_factory: Callable[[Cursor, Row], Any] | None = None
        self.text_factory: Any = str

    if not TYPE_CHECKING:
        # pandas takes a connection that is not one of sqlite3 only with a warning, and uses
        # nothing of one that is not here.
        @property
        def __class__(self) -> type:
            return sqlite3.Connection

    # -- transactions ---------------------------------------------------------------------

    @property
    def isolation_level(self) -> str | None:
        """None: there are no transactions. Any other level is the same: writes begin one."""
        return self._isolation_level

    @isolation_level.setter
    def isolation_level(self, level: str | None) -> None:
        if level is not None and level.upper() not in _ISOLATION_LEVELS:
            raise ProgrammingError(f"isolation_level is one of {_ISOLATION_LEVELS} or None")
        if level is None and self._savepoints:
            self.commit()
        self._isolation_level = level

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return bool(self._savepoints)

    def commit(self) -> None:
        """Keep what the transaction wrote; nothing if none is open.

        It is durable before an answer of the event leaves.

        Raises:
            OperationalError: the transaction is gone, or is not the innermost.
        """
        self._check_open()
        self._leave(0, keep=True)

    def rollback(self) -> None:
        """Undo what the transaction wrote; nothing if none is open, or it is gone already.

        Raises:
            OperationalError: the transaction is not the innermost.
        """
        self._check_open()
        self._rollback()

    def _rollback(self) -> None:
        if self._savepoints and not self._savepoints[0].alive:
            self._savepoints.clear()
            return
        self._leave(0, keep=False)

    def _leave(self, upto: int, *, keep: bool) -> None:
        """End the savepoints from the innermost down to the one at index ``upto``."""
        with _translated():
            while len(self._savepoints) > upto:
                savepoint = self._savepoints[-1]
                if not savepoint.alive:
                    self._savepoints.clear()  # whatever is open now is somebody else's
                    raise _gone()
                savepoint.leave(keep=keep)
                self._savepoints.pop()

    def before(self, *, write: bool) -> None:
        """For cursors: check that a statement may run, and begin a transaction if it writes."""
        self._check_open()
        if self._savepoints:
            if not self._savepoints[-1].alive:
                self._savepoints.clear()
                raise _gone()
        elif write and self._isolation_level is not None:
            self._savepoints.append(_Savepoint(self._storage, None))

    def savepoint(self, sql: str) -> None:
        """For cursors: carry out ``SAVEPOINT``, ``RELEASE`` or ``ROLLBACK TO``."""
        self._check_open()
        if made := _SAVEPOINT.fullmatch(sql):
            if self._isolation_level is None:
                raise NotSupportedError(
                    "SAVEPOINT needs a transaction, and isolation_level is None"
                )
            self.before(write=True)
            self._savepoints.append(_Savepoint(self._storage, _unquoted(made[1])))
            return
        released, undone = _RELEASE.fullmatch(sql), _ROLLBACK_TO.fullmatch(sql)
        found = released or undone
        if found is None:
            raise _refused_transaction(sql)
        name = _unquoted(found[1])
        self.before(write=False)
        for index in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[index].name == name:
                break
        else:
            raise OperationalError(f"no such savepoint: {name}")
        self._leave(index, keep=released is not None)
        if undone is not None:
            self._savepoints.append(_Savepoint(self._storage, name))

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.commit()
        elif isinstance(error, Exception):
            self._rollback()
        else:
            # The object may be dead, or its event cancelled: its own rules undo what is open.
            self._savepoints.clear()

    def close(self) -> None:
        """Undo an open transaction and refuse further use; the object's database stays open."""
        if not self._closed:
            try:
                self._rollback()
            finally:
                self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ProgrammingError("Cannot operate on a closed database.")

    # -- statements -----------------------------------------------------------------------

    def cursor(self, factory: Callable[[Connection], Any] | None = None) -> Cursor:
        """A new cursor.

        Args:
            factory: refused; it is here because ``sqlite3`` has it.
        """
        self._check_open()
        if factory is not None:
            raise NotSupportedError("cursor(factory=) is not supported")
        return Cursor(self, self._storage)

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        """Run one statement in a new cursor, which is returned."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> Cursor:
        """Run one statement for each of the parameters in a new cursor, which is returned."""
        return self.cursor().executemany(sql, parameters)

    def executescript(self, script: str) -> Cursor:
        """Run several statements in a new cursor, which is returned."""
        return self.cursor().executescript(script)

    @property
    def total_changes(self) -> int:
        """How many rows were changed since the object's file was opened."""
        self._check_open()
        return int(self._storage.sql.exec("SELECT total_changes() AS n").one()["n"])

    # -- what sqlite3 has besides -----------------------------------------------------------

    def create_function(
        self,
        name: str,
        narg: int,
        func: Callable[..., Any] | None,
        *,
        deterministic: bool = False,
    ) -> None:
        """Refuse functions written in Python: SQL in objects has SQLite's own.

        ``regexp`` and ``floor``, which SQLAlchemy gives to every connection, are passed over:
        ``floor`` is there already, ``REGEXP`` is refused when it is used.

        Raises:
            NotSupportedError: for any other name.
        """
        if name.lower() not in _EXPECTED_FUNCTIONS:
            raise _refused("create_function", "compute in Python what SQLite has no function for")

    def create_aggregate(self, *_: object, **__: object) -> NoReturn:
        """Refused: SQL in objects has SQLite's own functions."""
        raise _refused("create_aggregate", "aggregate in Python")

    def create_window_function(self, *_: object, **__: object) -> NoReturn:
        """Refused: SQL in objects has SQLite's own functions."""
        raise _refused("create_window_function", "compute it in Python")

    def create_collation(self, *_: object, **__: object) -> NoReturn:
        """Refused: SQL in objects has SQLite's own collations."""
        raise _refused("create_collation", "use BINARY, NOCASE or RTRIM, or sort in Python")

    def backup(self, *_: object, **__: object) -> NoReturn:
        """Refused: an object's file is backed up by other means."""
        raise _refused("backup", "use `python -m durable_storage export`")

    def enable_load_extension(self, *_: object) -> NoReturn:
        """Refused: no code is loaded into an object's database."""
        raise _refused("enable_load_extension", "there are no extensions in objects")

    def __getattr__(self, name: str) -> NoReturn:
        if hasattr(sqlite3.Connection, name):
            raise AttributeError(
                f"a connection of durable_storage has no {name!r}: it is not a connection of its "
                "own to a file, but a view of the object's storage"
            )
        raise AttributeError(f"'Connection' object has no attribute {name!r}")


@final
class Cursor:
    """A PEP 249 cursor. Made by ``Connection.cursor()``.

    Attributes:
        connection: whose it is.
        arraysize: how many rows ``fetchmany()`` gives unless told.
        description: the result's columns, seven values each of which the first is the name; None
            for a statement without a result.
        rowcount: how many rows the last INSERT, UPDATE, REPLACE or DELETE changed; -1 for others.
        lastrowid: the rowid of the last INSERT.
    """

    def __init__(self, connection: Connection, storage: DurableObjectStorage) -> None:
        self.connection: Final = connection
        self.arraysize = 1
        self.description: _Described | None = None
        self.rowcount: int = -1
        self.lastrowid: int | None = None
        self.row_factory: Callable[[Cursor, Row], Any] | None = connection.row_factory
        self._sql = storage.sql
        self._rows: Iterator[Row] = iter(())
        self._closed = False

    # -- running --------------------------------------------------------------------------

    def execute(self, sql: str, parameters: Parameters = ()) -> Self:
        """Run one statement.

        Args:
            sql: with ``?`` for parameters in a sequence, or ``:name`` for ones in a mapping.
            parameters: their values.
        """
        self._begin()
        statement = _only_statement(sql)
        keyword = leading_keyword(statement)
        if keyword in _TRANSACTION or keyword in _SAVEPOINTS:
            self.connection.savepoint(statement)
        elif keyword == "PRAGMA" and (known := _answered(statement)) is not None:
            self._answer(*known)
        else:
            self.rowcount = self._run(statement, keyword, parameters)
        return self

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> Self:
        """Run one INSERT, UPDATE, REPLACE or DELETE for each of the parameters."""
        self._begin()
        statement = _only_statement(sql)
        keyword = leading_keyword(statement)
        if not (keyword in _DML and writes(statement)):
            raise ProgrammingError("executemany() can only execute DML statements.")
        changed = 0
        for each in parameters:
            changed += self._run(statement, keyword, each)
        self._rows = iter(())
        self.description = None
        self.rowcount = changed
        return self

    def executescript(self, script: str) -> Self:
        """Run several statements in the connection's transaction, begun if none is open.

        Unlike that of ``sqlite3`` it commits nothing.

        Raises:
            NotSupportedError: there is a transaction statement in the script; none of it was run.
        """
        self._begin()
        statements = [each for each in _split(script) if each]
        keywords = [leading_keyword(each) for each in statements]
        for keyword in keywords:
            if keyword in _TRANSACTION or keyword in _SAVEPOINTS:
                raise NotSupportedError(
                    f"executescript() with {keyword}: a script is part of the connection's "
                    "transaction; use commit() and rollback(), or split the script there"
                )
        for statement, keyword in zip(statements, keywords, strict=True):
            self._run(statement, keyword, ())
        self._rows = iter(())
        self.description = None
        return self

    def _begin(self) -> None:
        if self._closed:
            raise ProgrammingError("Cannot operate on a closed cursor.")
        self._rows = iter(())
        self.description = None
        self.rowcount = -1

    def _answer(self, columns: Sequence[str], rows: Iterable[Row]) -> None:
        self._rows = iter(rows)
        self.description = _described(columns)

    def _run(self, statement: str, keyword: str, parameters: Parameters) -> int:
        """Run a statement and return how many rows it changed, -1 if it is not of that kind."""
        write = writes(statement)
        bindings = _bindings(statement, parameters)
        with _translated():
            self.connection.before(write=write)
            result = self._sql.exec(statement, *bindings)
            columns = result.column_names
            self.description = _described(columns) if columns else None
            self._rows = _each(result)
            if _SCHEMA.search(statement):
                self._rows = _without_reserved(self._rows, columns)
            if not (write and keyword in _DML):
                return -1
            one = self._sql.exec("SELECT changes() AS n, last_insert_rowid() AS id").one()
        if keyword in ("INSERT", "REPLACE"):
            self.lastrowid = one["id"]
        return int(one["n"])

    # -- reading --------------------------------------------------------------------------

    def fetchone(self) -> Any:
        """The next row, or None."""
        return next(self, None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next rows: ``size`` of them, by default ``arraysize``, fewer at the end."""
        rows: list[Any] = []
        for _ in range(self.arraysize if size is None else size):
            row = next(self, self)
            if row is self:
                break
            rows.append(row)
        return rows

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        return list(self)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._closed:
            raise ProgrammingError("Cannot operate on a closed cursor.")
        row = next(self._rows)
        return row if self.row_factory is None else self.row_factory(self, row)

    # -- the rest -------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the result and refuse further use."""
        self._closed = True
        self._rows = iter(())
        self.description = None

    def setinputsizes(self, sizes: object, /) -> None:
        """Does nothing, as PEP 249 allows."""

    def setoutputsize(self, size: object, column: object = None, /) -> None:
        """Does nothing, as PEP 249 allows."""


def _split(sql: object) -> list[str]:
    if not isinstance(sql, str):
        raise TypeError(f"SQL is a str, got {type(sql).__name__}")
    return split_script(sql)


def _only_statement(sql: object) -> str:
    statements = _split(sql)
    if len(statements) > 1 and any(statements[1:]):
        raise ProgrammingError("You can only execute one statement at a time.")
    return statements[0]


def _described(columns: Sequence[str]) -> _Described:
    return tuple((name, None, None, None, None, None, None) for name in columns)


def _each(result: SqlStorageCursor[Any]) -> Iterator[Row]:
    rows = result.raw()
    while True:
        with _translated():
            row = next(rows, None)
        if row is None:
            return
        yield row


def _without_reserved(rows: Iterator[Row], columns: Sequence[str]) -> Iterator[Row]:
    """Leave out the tables of the schema that SQL cannot touch: tools try to reflect them."""
    named = [index for index, name in enumerate(columns) if name.lower() in ("name", "tbl_name")]
    for row in rows:
        if not any(isinstance(row[index], str) and is_reserved(row[index]) for index in named):
            yield row


def _bindings(statement: str, parameters: Parameters) -> list[object]:
    values: Iterable[object]
    if isinstance(parameters, Mapping):
        names = parameter_names(statement) or ()
        missing = [name for name in names if name not in parameters]
        if missing:
            raise ProgrammingError(
                f"You did not supply a value for binding parameter :{missing[0]}."
            )
        values = [parameters[name] for name in names]
    elif isinstance(cast("object", parameters), (str, bytes)) or not isinstance(
        cast("object", parameters), Iterable
    ):
        raise ProgrammingError(
            f"parameters are a sequence or a mapping, got {type(parameters).__name__}"
        )
    else:
        values = parameters
    return [value if isinstance(value, _PLAIN) else _adapted(value) for value in values]


def _adapted(value: object) -> object:
    """What an adapter registered with ``sqlite3`` makes of a value."""
    return sqlite3.adapt(value, sqlite3.PrepareProtocol, value)


def _unquoted(name: str) -> str:
    return name[1:-1].lower() if name[0] in "\"`['" else name.lower()


def _answered(statement: str) -> tuple[Sequence[str], list[Row]] | None:
    """The answer to a PRAGMA about what objects do not have: (columns, rows)."""
    found = _PRAGMA.fullmatch(statement)
    if found is None:
        return None
    schema, name, value, _ = found.groups()
    if schema is not None and schema.lower() == "temp":
        return (), []
    match name.lower():
        case "database_list":
            return ("seq", "name", "file"), [(0, "main", "")]
        case "read_uncommitted" if value is None:
            return ("read_uncommitted",), [(0,)]
        case "read_uncommitted" if value.lower() in ("0", "off", "no", "false"):
            return (), []
        case "read_uncommitted":
            raise NotSupportedError(
                "PRAGMA read_uncommitted: an object's database has one connection, so everything "
                "that is read is serializable"
            )
        case _:
            return None


def _refused(operation: str, instead: str) -> NotSupportedError:
    return NotSupportedError(f"{operation}() is not possible in an object's database; {instead}")


def _refused_transaction(sql: str) -> NotSupportedError:
    keyword = leading_keyword(sql)
    instead = {
        "BEGIN": "a transaction begins with the first write",
        "COMMIT": "call commit()",
        "END": "call commit()",
        "ROLLBACK": "call rollback()",
    }.get(keyword, "its form is not known")
    return NotSupportedError(f"{keyword} as SQL is not possible in an object's database; {instead}")


@contextlib.contextmanager
def _translated() -> Generator[None]:
    """Raise the library's errors as those of PEP 249."""
    try:
        yield
    except SqlError as exc:
        raise _sql_error(exc) from exc
    except (ArgumentTypeError, ArgumentValueError) as exc:
        raise InterfaceError(str(exc)) from exc
    except ConcurrencyError as exc:
        raise ProgrammingError(str(exc)) from exc
    except DurableStorageError as exc:
        raise OperationalError(str(exc)) from exc


def _sql_error(exc: SqlError) -> Error:
    name = exc.sqlite_errorname or ""
    kind: type[DatabaseError] | type[InterfaceError]
    if name.startswith("SQLITE_CONSTRAINT") or name == "SQLITE_MISMATCH":
        kind = IntegrityError
    elif name == "SQLITE_TOOBIG":
        kind = DataError
    elif name == "SQLITE_INTERNAL":
        kind = InternalError
    elif name in ("SQLITE_AUTH", "SQLITE_CORRUPT"):
        kind = DatabaseError
    elif name in ("SQLITE_MISUSE", "SQLITE_RANGE"):
        kind = InterfaceError
    elif not name:
        kind = ProgrammingError  # the number of bindings, a result that was ended
    else:
        kind = OperationalError
    error = kind(str(exc))
    if exc.sqlite_errorcode is not None:
        error.sqlite_errorcode = exc.sqlite_errorcode
        error.sqlite_errorname = name
    if isinstance(exc, SqlLimitError) and "too many SQL variables" in str(exc):
        error.add_note(
            "Raise it with Limits(parameters=…), or give the statement fewer rows or values at a "
            "time."
        )
    return error
