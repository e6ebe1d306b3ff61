"""The result of one ``exec``: an iterator of rows with one position.

A cursor that is read at once, by ``one`` or ``to_array``, talks to the cursor of ``sqlite3``
directly. The first iteration puts a ``Reading`` between, which several iterators can share.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from ..errors import SqlError
from .metering import Observation
from .reading import Reading, Tuple, raw_rows
from .sqlerrors import MULTIPLE_RESULTS, NO_RESULTS
from .statement import Parameters, RowBuilder, Statement, row_builder

if TYPE_CHECKING:
    from .connection import Database

__all__ = ["NOTHING", "SqlStorageCursor", "make_cursor"]

Row = TypeVar("Row")

NOTHING: Final[Iterator[Tuple]] = iter(())
"""What is left of a result that was read to its end."""


@final
class SqlStorageCursor(Generic[Row]):
    """The rows of a query, which has been run up to the first of them.

    All ways to read share one position, and breaking out of a loop does not end the cursor. Rows
    are dicts by column name (of columns with the same name the last counts), or what ``row_type``
    makes of them.
    """

    __slots__ = (
        "__weakref__",
        "_bindings",
        "_count",
        "_database",
        "_reading",
        "_row_type",
        "_seen",
        "_statement",
        "finished",
        "source",
    )

    _database: Database
    _statement: Statement
    _bindings: Parameters
    _row_type: Callable[..., Row] | None
    _reading: Reading | None
    _seen: Observation | None
    _count: int
    source: Iterator[Tuple]
    finished: bool

    def one(self) -> Row:
        """Return the only row that is left.

        Raises:
            SqlError: there is no row, or more than one; then the cursor is finished.
        """
        if get_ident() != self._database.thread_id:
            self._database.refuse_thread("one()")
        builder = self._statement.builder or self._builder()
        source = self.source
        try:
            row = next(source, None)
        except sqlite3.Error as error:
            self._database.recover(error)
            return self.one()
        try:
            more = next(source, None) is not None
        except sqlite3.Error:
            more = True
        if more:
            self._count += 1
            self._shared().finish()
            raise SqlError(MULTIPLE_RESULTS)
        if self._reading is None:
            self.finished = True
        if row is None:
            raise SqlError(NO_RESULTS)
        self._count += 1
        built: Any = builder.one(row)
        return built if self._row_type is None else self._row_type(**built)

    def to_array(self) -> list[Row]:
        """Return the rows that are left."""
        if get_ident() != self._database.thread_id:
            self._database.refuse_thread("to_array()")
        builder = self._statement.builder or self._builder()
        rows: list[Any] = []
        while True:
            try:
                builder.extend(rows, self.source)
                break
            except sqlite3.Error as error:
                self._database.recover(error)
        if self._reading is None:
            self._count += len(rows)
            self.finished = True
        row_type = self._row_type
        return rows if row_type is None else [row_type(**row) for row in rows]

    def raw(self) -> Iterator[Tuple]:
        """Return an iterator of the rows that are left as tuples, from the same position."""
        self._database.refuse_thread("raw()")
        return raw_rows(self._shared())

    def __iter__(self) -> Iterator[Row]:
        self._database.refuse_thread("Iteration")
        rows: Iterator[Any] = (self._statement.builder or self._builder()).each(self._shared())
        return rows if self._row_type is None else _typed(rows, self._row_type)

    def __next__(self) -> Row:
        self._database.refuse_thread("next()")
        row = next(self._shared())
        built: Any = (self._statement.builder or self._builder()).one(row)
        return built if self._row_type is None else self._row_type(**built)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, also those that occur twice."""
        return list((self._statement.builder or self._builder()).columns)

    @property
    def rows_read(self) -> int:
        """How many rows SQLite has read for this query so far."""
        return self._counts()[0]

    @property
    def rows_written(self) -> int:
        """How many rows SQLite has written for this query, index entries included."""
        return self._counts()[1]

    # What follows is for the database, not for users.

    @property
    def open(self) -> bool:
        """Whether SQLite still holds the result open."""
        if self.finished:
            return False
        return self._reading is None or not self._reading.finished

    def drain(self) -> bool:
        """Read the rest into memory; false when it is too long for that, and then lost."""
        return self._shared().drain()

    def account(self) -> Callable[[], tuple[int, int]]:
        """Return what gives the rows read and written so far, without holding the result open."""
        meter = self._database.meter
        statement, bindings, seen = self._statement, self._bindings, self._seen
        delivered = self._count + (0 if self._reading is None else self._reading.count)

        def counts() -> tuple[int, int]:
            return meter.counts(
                statement, bindings, seen or meter.observe(statement, bindings, delivered)
            )

        return counts

    def cancel(self, error: Exception) -> None:
        """End the result; every further use raises ``error``."""
        self._shared().cancel(error)

    @staticmethod
    def made(
        database: Database,
        statement: Statement,
        source: Iterator[Tuple],
        bindings: Parameters,
        row_type: Callable[..., Any] | None,
        seen: Observation | None = None,
    ) -> SqlStorageCursor[Any]:
        """Return the cursor of a statement that was run.

        Not ``__init__``, which takes longer: one of these is made for every ``exec``.
        """
        self: SqlStorageCursor[Any] = SqlStorageCursor()
        self._database = database
        self._statement = statement
        self.source = source
        self._bindings = bindings
        self._row_type = row_type
        self._reading = None
        self._seen = seen
        self._count = 0
        self.finished = False
        return self

    def _shared(self) -> Reading:
        reading = self._reading
        if reading is None:
            if self._statement.builder is None:
                self._builder()
            reading = self._reading = Reading(self.source, self._database.recover)
            reading.finished = self.finished
            self.source = reading
            self._database.track(reading)
        return reading

    def _builder(self) -> RowBuilder:
        description = self.source.description if isinstance(self.source, sqlite3.Cursor) else None
        columns = self._statement.columns(description or ())
        builder = self._statement.builder = row_builder(columns)
        return builder

    def _counts(self) -> tuple[int, int]:
        self._database.refuse_thread("Counting rows")
        self._check()
        delivered = self._count + (0 if self._reading is None else self._reading.count)
        meter = self._database.meter
        seen = self._seen
        if seen is None or not (self._statement.is_write or seen.delivered == delivered):
            seen = self._seen = meter.observe(self._statement, self._bindings, delivered)
        return meter.counts(self._statement, self._bindings, seen)

    def _check(self) -> None:
        if self._reading is not None and self._reading.error is not None:
            raise self._reading.error


def _typed(rows: Iterator[dict[str, Any]], row_type: Callable[..., Row]) -> Iterator[Row]:
    for row in rows:
        yield row_type(**row)


make_cursor: Final = SqlStorageCursor.made
