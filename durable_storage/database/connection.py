"""One object's SQLite file: transactions, SQL, keys and values.

Model. One connection owns the file (``locking_mode=EXCLUSIVE``) and runs in autocommit mode: a
transaction is open exactly between ``begin`` and ``commit`` or ``rollback``. Commits go to the
WAL and are durable only after ``confirm``; the WAL is folded into the file only by
``checkpoint`` and ``close``.

Invariants:
- Texts of users are authorized; the package's own never equal a user's (``internal``).
- Whatever is remembered of a statement's columns is forgotten when the schema may have changed.
- Only reads stay open after ``exec``. Every open one is known, so that it can be ended.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from threading import get_ident
from typing import Any, Final, TypeVar, final

from typing_extensions import is_typeddict

from ..errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ConcurrencyError,
    SqlError,
)
from ..limits import Limits
from .authorizer import Authorizer
from .bindings import PLAIN_TYPES, explain, plain
from .configure import (
    LENGTH_MIN_BYTES,
    STATEMENTS_MAX,
    LoweredLimits,
    connect,
    reset_pragmas,
    set_synchronous,
)
from .create import DatabaseFile
from .cursor import NOTHING, SqlStorageCursor, make_cursor
from .deletion import drop_everything
from .faults import Faults
from .forks import keep, leak
from .internal import InternalSql, own
from .kv import MISSING, KeyRange, KeyValueTable, Missing, Stored
from .meter import Meter
from .reading import DRAIN_MAX_STEPS, Reading, raw_rows
from .soundness import FORMAT_VERSION, wrong_version
from .sqlerrors import (
    AUTH,
    NO_STATEMENT,
    PARAMETERS_BEFORE_THE_LAST,
    TRANSACTION_STATEMENT,
    not_authorized,
    primary_code,
    refused_bindings,
    too_big,
    translate,
    wrong_bindings,
)
from .statement import Parameters, Statement, parse_script, row_builder
from .wal import WriteAheadLog

__all__ = ["FORMAT_VERSION", "MISSING", "Database", "Missing", "Stored"]

# Room for what a record adds to a key and a value that are together as long as a value may be.
_RECORD_OVERHEAD_BYTES: Final = 64

_BEGIN: Final = own("BEGIN")
_COMMIT: Final = own("COMMIT")
_ROLLBACK: Final = own("ROLLBACK")
_PAGES: Final = own("PRAGMA page_count")
_FREE_PAGES: Final = own("PRAGMA freelist_count")
_PAGE_SIZE: Final = own("PRAGMA page_size")
_CHECKPOINT: Final = own("PRAGMA wal_checkpoint(PASSIVE)")
_USER_VERSION: Final = own("PRAGMA user_version")

_Row = tuple[Any, ...]
_Result = TypeVar("_Result")
_SqliteRefusals = (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeEncodeError, MemoryError)


@final
class Database:
    """One object's file, opened or created.

    Args:
        path: the file; its ``-wal`` lies beside it.
        limits: what SQL may not exceed.
        faults: makes file operations fail, for tests.

    Attributes:
        path: as given.
        created: the file was created now.
        commits: grows with every commit that may have changed something.
        left: this is a forked child, and the file is its parent's.
        thread_id: the only thread that may read results, where there are threads at all.
        transaction_lost: SQLite ended a transaction by itself, as ``INSERT OR ROLLBACK`` and some
            I/O errors make it; what the transaction wrote is gone.

    Raises:
        DatabaseFileError: not a database, not writable, in use, or of a newer version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.path: Final = os.fspath(path)
        self.commits: int = 0
        self.committed_nothing: bool = False
        self._changes = 0
        self.transaction_lost: bool = False
        self._limits = limits or Limits()
        self._faults = faults
        self._closed = False
        self.left: bool = False
        # Invariant: true between begin and commit or rollback, whatever SQLite did meanwhile.
        self._begun = False
        self._commits_alone = False
        # Invariant: false while no transaction is open; true once SQL may have written in it.
        self._written = False
        self.thread_id: int | None = None
        self._schema_changed = False
        self._pragmas_due = False
        self._synchronous_off = True
        self._statements: dict[str, Statement] = {}
        # The newest cursor is held strongly until the next exec, which finds most of them
        # finished: cheaper than a weak reference for each.
        self._newest: SqlStorageCursor[Any] | None = None
        self._open: weakref.WeakSet[SqlStorageCursor[Any] | Reading] = weakref.WeakSet()
        self._file = DatabaseFile(self.path, faults)
        try:
            self._connection = connect(self.path, self._limits)
        except BaseException:
            self._file.close()
            raise
        self._lowered = LoweredLimits(self._connection, self._limits)
        self.created: bool = self._file.created
        # Making a cursor of sqlite3 costs as much as a small query. Writes leave nothing open and
        # share one; the newest read has the other, and leaves it to the next when it is finished.
        self._writer = self._connection.cursor()
        self._write = self._writer.execute
        self._reader = self._connection.cursor()
        self._read = self._reader.execute
        self._authorizer = Authorizer()
        self._sql = InternalSql(self._connection, self._authorizer)
        self.meter: Meter = Meter(self._connection, self._sql)
        self.kv_table: KeyValueTable = KeyValueTable(self._sql, "_cf_KV")
        # For reading a key with one call less; an error goes to kv_get_after().
        self.kv_execute: Callable[[str, tuple[str]], sqlite3.Cursor] = self._sql.cursor.execute
        self._metadata = KeyValueTable(self._sql, "_cf_METADATA", self._record_version)
        self._wal = WriteAheadLog(self.path, self._file.descriptor, faults)
        keep(self)
        try:
            self._check_version()
            self._authorizer.internal = False
            self._connection.set_authorizer(self._authorizer)
        except BaseException:
            self.close()
            raise

    def _check_version(self) -> None:
        found = self._metadata.get("schema")
        if found is not MISSING and found != FORMAT_VERSION:
            raise wrong_version(found, self.path)

    def _record_version(self) -> None:
        self._metadata.put("schema", FORMAT_VERSION)

    # ---- transactions

    @property
    def resting_at(self) -> int | None:
        """The number of ``commits``; None while one may be under way. Any thread may ask."""
        return None if self._begun or self._commits_alone else self.commits

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, as SQLite sees it."""
        return not self._closed and self._connection.in_transaction

    def begin(self) -> None:
        """Open a transaction."""
        if self._synchronous_off and self._wal.confirmed_once:
            self._sync_normally()
        self._control(_BEGIN)
        self._begun = True
        self._changes = self._connection.total_changes
        self._schema_changed = False

    def commit(self) -> None:
        """Commit the transaction. It may still be open when this raises; then roll it back.

        Raises:
            SqlError: a deferred constraint is violated, or the file cannot be written.
        """
        if self._faults is not None:
            self._faults.before("commit", self.path)
        # Statements that define tables count as no change; then the log tells. A transaction that
        # wrote no frame ("CREATE TABLE IF NOT EXISTS" of a table that exists) confirms nothing.
        unchanged = self._connection.total_changes == self._changes
        size_bytes = self._wal.size_bytes if unchanged else 0
        self._control(_COMMIT)
        self._wal.extend()
        self.commits += 1
        self._begun = self._written = False
        self.committed_nothing = unchanged and self._wal.size_bytes == size_bytes
        if self._pragmas_due:
            self._pragmas_due = False
            with self._sql:
                reset_pragmas(self._connection, self.path)

    def rollback(self) -> None:
        """Undo everything since ``begin``; nothing when no transaction is open."""
        if self.in_transaction:
            self._control(_ROLLBACK)
        self._begun = self._written = False
        self._after_rollback()

    def savepoint(self, depth: int) -> None:
        """Set the savepoint of a nested transaction."""
        self._control(own(f"SAVEPOINT s{depth}"))

    def release(self, depth: int) -> None:
        """Keep what was done since the savepoint, and remove it."""
        self._control(own(f"RELEASE s{depth}"))

    def rollback_to(self, depth: int) -> None:
        """Undo what was done since the savepoint, and remove it."""
        if self._schema_changed:
            # A full-text table that was created since keeps what it still has to write until the
            # commit, which then fails; another savepoint lets it write that before it goes.
            self._control(own(f"SAVEPOINT s{depth + 1}"))
        self._control(own(f"ROLLBACK TO s{depth}"))
        self._control(own(f"RELEASE s{depth}"))
        self._after_rollback()

    def _control(self, sql: str) -> None:
        try:
            self._sql.run(sql)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _after_rollback(self) -> None:
        self.kv_table.forget()
        self._metadata.forget()
        if self._schema_changed:
            self._statements.clear()

    # ---- durability

    def confirm(self) -> None:
        """Return once every commit made before the call is on stable storage.

        Blocks, and may run in a thread while others use the database.

        Raises:
            OSError: the disk failed, now or earlier. Nothing is ever confirmed after that.
        """
        self._wal.confirm()

    @property
    def wal_size_bytes(self) -> int:
        """Size of the write-ahead log."""
        return self._wal.size_bytes

    def checkpoint(self, *, restart: bool = True) -> bool:
        """Fold the WAL into the file, and start it anew.

        Nobody else uses the database meanwhile, and no transaction is open. Open cursors are
        drained first; one that is too long for that is ended.

        Args:
            restart: whether to start it anew; the next commit does otherwise, over what is there.

        Returns:
            Whether all of it was folded.

        Raises:
            SqlError: the file cannot be written.
        """
        self.end_readings()
        try:
            if self._synchronous_off:
                self._sync_normally()
            busy, frames, folded = self._sql.execute(_CHECKPOINT).fetchone()
        except sqlite3.Error as error:
            raise self._failure(error) from error
        if busy or frames != folded:
            return False
        if restart:
            self.restart_wal()
        return True

    def restart_wal(self) -> None:
        """Start the WAL anew, all of which is folded.

        With a commit of one page, so that the sync of the WAL's header is done here and not by the
        next user of the database.

        Raises:
            SqlError: the file cannot be written.
        """
        try:
            version = self._sql.value(_USER_VERSION)
            self._sql.execute(own(f"PRAGMA user_version={version}"))
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _sync_normally(self) -> None:
        with self._sql:
            set_synchronous(self._connection, self.path, normal=True)
        self._synchronous_off = False

    def forked(self) -> None:
        """Leave the file to the parent process."""
        self.left = self._closed = True
        leak(self._connection)

    def close(self) -> None:
        """Fold the WAL, close the file and end every cursor; an open transaction is undone."""
        if self._closed:
            return
        self._closed = True
        try:
            # A result that somebody still holds would keep the file, and its lock, open; so would
            # a cursor whose last statement failed.
            self._end_all(SqlError("The database is closed."))
            self._writer.close()
            self._reader.close()
            self._sql.close()
            self._connection.rollback()
            if self._synchronous_off:
                self._sync_normally()
        except sqlite3.Error:
            pass  # the file fails already, and closing it is what is left to do
        finally:
            self._newest = None
            self._open.clear()
            self._statements.clear()
            self._connection.close()
            self._wal.close()
            self._file.close()

    # ---- keys and values

    def kv_get(self, key: str) -> Stored | Missing:
        """Return what is stored under ``key``, or ``MISSING``."""
        try:
            return self.kv_table.get(key)
        except _SqliteRefusals as error:
            raise self._failure(error, (key,)) from error

    def kv_get_after(self, error: Exception, key: str) -> Stored | Missing:
        """As `kv_get`, when the statement was tried as it is and failed."""
        # Only for want of rights: trying again after any other error could hide a lost transaction.
        if isinstance(error, sqlite3.DatabaseError) and primary_code(error) == AUTH:
            return self.kv_get(key)
        if isinstance(error, _SqliteRefusals):
            raise self._failure(error, (key,)) from error
        raise error

    def kv_put(self, key: str, value: Stored) -> None:
        """Store ``value`` under ``key``."""
        self._kv_write(lambda: self.kv_table.put(key, value))

    def kv_put_many(self, items: Iterable[tuple[str, Stored]]) -> None:
        """Store many values."""
        pairs = items if isinstance(items, Sequence) else list(items)
        self._kv_write(lambda: self.kv_table.put_many(pairs))

    def kv_delete(self, key: str) -> bool:
        """Remove ``key`` and return whether it was there."""
        return self._kv_write(lambda: self.kv_table.delete(key))

    def kv_list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[str, Stored]]:
        """Return the keys and values in a range, in UTF-8 byte order, read as they are asked for.

        ``start`` is included, ``start_after`` and ``end`` are not; all of them and ``prefix`` have
        to be satisfied.
        """
        return raw_rows(
            self.kv_read(
                KeyRange.of(
                    start=start,
                    start_after=start_after,
                    end=end,
                    prefix=prefix,
                    reverse=reverse,
                    limit=limit,
                )
            )
        )

    def kv_read(self, keys: KeyRange) -> Reading:
        """Return the rows of a range, counted only if their number is limited."""
        try:
            rows = self.kv_table.list(keys)
        except _SqliteRefusals as error:
            raise self._failure(error) from error
        reading = Reading(iter(rows), self.recover, counted=keys.limit is not None)
        self.track(reading)
        return reading

    def meta_get(self, key: str) -> Stored | Missing:
        """Return the metadata under ``key``, or ``MISSING``."""
        try:
            return self._metadata.get(key)
        except _SqliteRefusals as error:
            raise self._failure(error) from error

    def meta_put(self, key: str, value: Stored) -> None:
        """Store metadata under ``key``."""
        self._kv_write(lambda: self._metadata.put(key, value))

    def meta_delete(self, key: str) -> None:
        """Remove metadata."""
        if self._metadata.exists():
            self._kv_write(lambda: self._metadata.delete(key))

    def _kv_write(self, write: Callable[[], _Result]) -> _Result:
        alone = not self._begun
        if alone:
            if self._faults is not None:
                self._faults.before("commit", self.path)
            self.commits += 1
            self._commits_alone = True
        try:
            try:
                return write()
            except sqlite3.Error as error:
                if primary_code(error) != sqlite3.SQLITE_TOOBIG:
                    raise
            # A key and a value may together be as long as one value of SQL may be, but SQLite
            # counts the overhead of their row too.
            limit = max(self._limits.value_size_max_bytes, LENGTH_MIN_BYTES)
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limit + _RECORD_OVERHEAD_BYTES)
            try:
                return write()
            finally:
                self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limit)
        except _SqliteRefusals as error:
            raise self._failure(error) from error
        finally:
            if alone:
                self._wal.extend()
                self._commits_alone = False

    def delete_all(self, *, keep: Sequence[str] = ()) -> None:
        """Empty the database inside the open transaction, which the caller then commits.

        Tables, views, triggers, indexes, virtual tables, keys and values go, and of the metadata
        all but the keys in ``keep``. Open cursors are ended. Pragmas have their first values again
        after the commit.
        """
        self._end_all(SqlError("SQLite query was canceled because the database was deleted."))
        try:
            kept = [(key, self._metadata.get(key)) for key in keep]
            drop_everything(self._sql)
            self.kv_table.forget()
            self._metadata.forget()
            for key, value in kept:
                if not isinstance(value, Missing):
                    self._metadata.put(key, value)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._statements.clear()
        self._schema_changed = True
        self._pragmas_due = True

    @property
    def size_bytes(self) -> int:
        """Size of the data: the pages in use."""
        value = self._sql.value
        return int((value(_PAGES) - value(_FREE_PAGES)) * value(_PAGE_SIZE))

    # ---- SQL

    def exec(
        self,
        query: str,
        bindings: tuple[object, ...],
        row_type: Callable[..., Any] | None,
        before_write: Callable[[], None],
    ) -> SqlStorageCursor[Any]:
        """Run a script, up to the first row of its last statement, and return the cursor of that.

        Args:
            query: one statement or several; the bindings belong to the last.
            bindings: values for its parameters.
            row_type: what makes a row of the columns given as keywords; a ``TypedDict`` or
                ``None`` leave it a dict.
            before_write: called before the first statement of a transaction that could write; it
                opens the transaction unless one is open.

        Raises:
            SqlError: SQLite or the rules for SQL refuse a statement. Earlier statements of the
                script stand.
            ArgumentTypeError: a binding is of a type that SQL does not have.
            ArgumentValueError: a binding or the query cannot be represented.
        """
        newest = self._newest
        if newest is not None:
            if newest.finished:
                newest.source = NOTHING  # the cursor of sqlite3 is used again
            else:
                del newest  # the last reference may be this one, and the result may lock a table
                self._keep_newest()
        try:
            statement = self._statements[query]
        except (KeyError, TypeError):
            statement = self._parse(query)
        for value in bindings:
            if type(value) not in PLAIN_TYPES:
                bindings = plain(bindings)
                break
        if row_type is not None:
            if is_typeddict(row_type):
                row_type = None
            elif not callable(row_type):
                raise ArgumentTypeError(
                    "exec() takes a class or another callable as row_type, got"
                    f" {type(row_type).__name__}"
                )
        cursor: SqlStorageCursor[Any]
        try:
            if statement.is_simple_read:
                source = self._read(statement.sql, bindings)
                cursor = self._newest = make_cursor(self, statement, source, bindings, row_type)
            elif statement.is_simple_write:
                if not self._written:
                    before_write()
                    self._written = self._begun
                self._write(statement.sql, bindings)
                # It has run before, so whether it returns rows is known.
                rows = NOTHING if statement.builder is None else iter(self._written_rows(statement))
                cursor = make_cursor(self, statement, rows, bindings, row_type)
            else:
                cursor = self._run(statement, bindings, row_type, before_write)
        except _SqliteRefusals as error:
            raise self._failure(error, bindings) from error
        return cursor

    def _written_rows(self, statement: Statement) -> list[_Row]:
        """Return all rows of a write: one that is not run to its end is undone by the commit."""
        rows: list[_Row] = []
        if self._writer.description is None:
            return rows
        if statement.builder is None:
            statement.builder = row_builder(statement.columns(self._writer.description))
        while True:
            try:
                rows.extend(self._writer)
                return rows
            except sqlite3.Error as error:
                self.recover(error)

    def _run(
        self,
        last: Statement,
        bindings: tuple[object, ...],
        row_type: Callable[..., Any] | None,
        before_write: Callable[[], None],
    ) -> SqlStorageCursor[Any]:
        """Run a script, or a statement that needs more care than most."""
        wrong = explain(bindings)
        if wrong is not None:
            raise wrong
        for statement in (*last.earlier, last):
            if statement.is_write and not self._written:
                before_write()
                self._written = self._begun
            if statement.forbidden:
                raise not_authorized()
            if statement is last:
                break
            try:
                with nullcontext() if statement.changes_schema else self._lowered:
                    # Closing ends the statement, and with it what it locks.
                    self._connection.execute(statement.sql).close()
            except sqlite3.Error as error:
                if primary_code(error) is None:
                    raise SqlError(PARAMETERS_BEFORE_THE_LAST) from error
                raise
            if statement.changes_schema:
                self._forget_statements()
        if not last.sql:
            raise SqlError(NO_STATEMENT)
        parameters: Parameters = bindings
        if last.names is not None:
            if len(last.names) != len(bindings):
                raise wrong_bindings(len(last.names), len(bindings))
            parameters = dict(zip(last.names, bindings, strict=True))
        if not last.is_write:
            with self._lowered:
                source = self._read(last.sql, parameters)
            self._newest = cursor = make_cursor(self, last, source, parameters, row_type)
            return cursor
        if last.changes_schema:
            with suppress(sqlite3.Error):  # what is wrong with it, running it will tell
                self.meter.explain(last, parameters)
        rows: list[_Row] = []
        self.meter.start(last.sql)
        try:
            with nullcontext() if last.changes_schema else self._lowered:
                self._write(last.sql, parameters)
                rows = self._written_rows(last)
        finally:
            self.meter.stop()
        seen = self.meter.written(len(rows))
        if last.changes_schema:
            self._forget_statements()
        if not self._lowered:
            last.done()
        return make_cursor(self, last, iter(rows), parameters, row_type, seen)

    def _parse(self, query: object) -> Statement:
        if not isinstance(query, str):
            raise ArgumentTypeError(f"exec() takes SQL as a str, got {type(query).__name__}")
        text = query.partition("\0")[0]
        limit = self._limits.statement_size_max_bytes
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise ArgumentValueError(
                f"exec() query has a lone surrogate at index {error.start}"
            ) from error
        if size > limit:
            raise too_big("statement too long")
        statement = parse_script(text, self._limits.parameters)
        if self._lowered:
            statement.is_simple_read = False
        if len(self._statements) >= STATEMENTS_MAX:
            self._statements.clear()
        self._statements[query] = statement
        return statement

    def _forget_statements(self) -> None:
        self._schema_changed = True
        self._statements.clear()

    def recover(self, error: Exception) -> None:
        """Return when the row that failed can be read after all, and raise otherwise.

        TEXT that is not UTF-8 is decoded by SQLite's Python module at full speed until the first
        time that fails, and from then on with U+FFFD for what is invalid.
        """
        undecodable = isinstance(error, sqlite3.OperationalError) and primary_code(error) is None
        if not undecodable or self._connection.text_factory is _decode or self._closed:
            raise self._failure(error) from error
        self._connection.text_factory = _decode

    # ---- open results

    def refuse_thread(self, operation: str) -> None:
        """Raise unless the calling thread may read results. For callers on ``thread_id``, nothing.

        Raises:
            ConcurrencyError: it may not.
        """
        if self.thread_id is not None and self.thread_id != get_ident():
            raise ConcurrencyError(
                f"{operation} was called from another thread; an object's storage belongs to the"
                " thread of its event loop. Read the result there, for instance by to_array(), and"
                " hand on the rows"
            )

    def track(self, reading: Reading) -> None:
        """Know of an open result, so that it can be ended."""
        if not reading.finished:
            self._open.add(reading)

    def end_readings(self) -> None:
        """Drain every open result, and end those that are too long for that."""
        for result in self._open_results():
            # A query may also search for long without finding a row.
            self._connection.set_progress_handler(lambda: 1, DRAIN_MAX_STEPS)
            try:
                drained = result.drain()
            finally:
                self._connection.set_progress_handler(None, 0)
            if not drained:
                result.cancel(
                    SqlError(
                        "The query was left open with too many rows unread while the database had"
                        " to be compacted. Read it to its end at once, or add a LIMIT."
                    )
                )

    def _end_all(self, error: Exception) -> None:
        for result in self._open_results():
            result.cancel(error)

    def _keep_newest(self) -> None:
        """Let the newest cursor keep its result as long as anybody has the cursor."""
        newest, self._newest = self._newest, None
        if newest is not None and newest.open:
            self._open.add(newest)
        self._reader = self._connection.cursor()
        self._read = self._reader.execute

    def _open_results(self) -> list[SqlStorageCursor[Any] | Reading]:
        self._keep_newest()
        results = list(self._open)
        self._open.clear()
        return results

    # ---- errors

    def _failure(self, error: Exception, bindings: tuple[object, ...] = ()) -> Exception:
        """Return what to raise for an error of ``sqlite3``, having looked what it did."""
        if self._closed:
            return SqlError("The database is closed.")
        if self._begun and not self._connection.in_transaction:
            self.transaction_lost = True
            self._after_rollback()
        if isinstance(error, MemoryError):
            return SqlError(
                "out of memory: SQLITE_NOMEM",
                sqlite_errorcode=sqlite3.SQLITE_NOMEM,
                sqlite_errorname="SQLITE_NOMEM",
            )
        if not isinstance(error, sqlite3.Error):
            return explain(bindings) or ArgumentValueError(str(error))
        code = primary_code(error)
        if code == AUTH and self._authorizer.transaction_statement:
            self._authorizer.transaction_statement = False
            return SqlError(TRANSACTION_STATEMENT)
        if code is not None or isinstance(error, sqlite3.OperationalError):
            return translate(error)
        # Python's own checks of the bindings carry no code.
        limit = self._limits.value_size_max_bytes
        if any(isinstance(v, (str, bytes)) and len(v) > limit for v in bindings):
            return too_big("string or blob too big")
        return explain(bindings) or refused_bindings(error)


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")
