"""What is known about a run, for the metering.

Nothing is measured for a statement that is run again and again, until somebody asks for its
counts. The first run of every text that writes is observed, because it cannot be repeated; a read
is run once more, as far as it was read, when it is asked about.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from itertools import islice
from typing import Final, final

from .internal import InternalSql, own
from .metering import Observation, analyse, scanned_roots
from .program import Op, Program
from .splitter import leading_keyword, without_blanks
from .statement import Parameters, Statement

__all__ = ["Meter"]

_STEPS_MAX: Final = 1_000
_REPEATED_STEPS_MAX: Final = 1_000_000
_SCHEMA_ROOT: Final = 1
_OBJECT: Final = own("SELECT type, tbl_name, sql FROM sqlite_master WHERE rootpage=?")
_CHANGES: Final = own("SELECT changes()")

_KNOWN_MAX: Final = 64

# From 3.41 SQLite reports progress while it prepares a statement too.
_PREPARING_COUNTS: Final = sqlite3.sqlite_version_info >= (3, 41)
# More values than any statement has parameters: it is prepared and does not run.
_TOO_MANY: Final = (None,) * 40_000


@final
class Meter:
    """Observes runs on one connection and counts what they read and wrote."""

    def __init__(self, connection: sqlite3.Connection, sql: InternalSql) -> None:
        self._connection = connection
        self._sql = sql
        self._steps = 0
        self._steps_max = 0
        self._changes_before = 0
        # Held here, because SQLite's module drops its own reference while it calls.
        self._handler = self._tick

    def start(self, sql: str, steps_max: int = _STEPS_MAX) -> None:
        """Begin to observe the run of a statement."""
        if _PREPARING_COUNTS:
            # Python prepares a statement before it looks at the values, and keeps it.
            with suppress(sqlite3.Error):
                self._connection.execute(sql, _TOO_MANY)
        self._steps = 0
        self._steps_max = steps_max
        self._changes_before = self._connection.total_changes
        self._connection.set_progress_handler(self._handler, 1)

    def stop(self) -> None:
        """Stop observing."""
        self._connection.set_progress_handler(None, 0)

    def written(self, rows: int) -> Observation:
        """Return what was seen of a write that returned so many rows."""
        changes = self._connection.total_changes - self._changes_before
        return Observation(rows, True, changes, self._seen_steps(), delivered=0)

    def observe(self, statement: Statement, bindings: Parameters, delivered: int) -> Observation:
        """Return what can be found out about a run afterwards.

        Args:
            statement: what was run.
            bindings: with which values.
            delivered: how many rows were read of its result.
        """
        try:
            if statement.is_write:
                return Observation(delivered, True, self._sql.value(_CHANGES), None, delivered)
            return self._repeat(statement, bindings, delivered)
        except sqlite3.Error:  # the schema is no longer that for which it was written
            return Observation(delivered, True, None, None, delivered)

    def counts(
        self, statement: Statement, bindings: Parameters, seen: Observation
    ) -> tuple[int, int]:
        """Return the rows read and written."""
        statement.is_metered = True
        statement.is_simple_write = False
        try:
            program = self._program(statement, bindings)
            if program is None:
                return 0, 0
            entries = {root: self._entries(root) for root in scanned_roots(program)}
        except sqlite3.Error:
            return seen.rows, 0
        known = (seen, tuple(entries.items()))
        found = statement.counts.get(known)
        if found is None:
            if len(statement.counts) >= _KNOWN_MAX:
                statement.counts.clear()
            found = statement.counts[known] = analyse(program, seen, entries.get)
        return found

    def _tick(self) -> int:
        self._steps += 1
        if self._steps > self._steps_max:
            self._connection.set_progress_handler(None, 0)
        return 0

    def _seen_steps(self) -> int | None:
        return self._steps if self._steps <= self._steps_max else None

    def _repeat(self, statement: Statement, bindings: Parameters, delivered: int) -> Observation:
        """Run a read once more, as far as it was read."""
        sql = own(statement.sql)
        self.start(sql, _REPEATED_STEPS_MAX)
        try:
            rows: sqlite3.Cursor = self._connection.execute(sql, bindings)
            for _ in islice(rows, delivered):
                pass
            steps = self._seen_steps()
        finally:
            self.stop()
        finished = rows.fetchone() is None
        rows.close()
        # SQLite stands at the row after the last that was read.
        return Observation(delivered + (not finished), finished, None, steps, delivered)

    def explain(self, statement: Statement, bindings: Parameters) -> None:
        """Keep what SQLite will execute; for a change of the schema only possible before it."""
        # SQLite carries out some pragmas already when it prepares them.
        if leading_keyword(statement.sql) not in ("PRAGMA", "EXPLAIN"):
            sql = own("EXPLAIN ") + without_blanks(statement.sql)
            statement.explained = [Op(*row) for row in self._connection.execute(sql, bindings)]

    def _program(self, statement: Statement, bindings: Parameters) -> Program | None:
        if statement.explained is None:
            self.explain(statement, bindings)
        if statement.program is None and statement.explained is not None:
            statement.program = Program(statement.explained)
        return statement.program

    def _entries(self, root: int) -> int | None:
        if root == _SCHEMA_ROOT:
            table = "sqlite_master"
        else:
            row = self._sql.run(_OBJECT, (root,)).fetchone()
            # A partial index has as many entries as its condition allows.
            if row is None or (row[0] == "index" and " where " in (row[2] or "").lower()):
                return None
            table = row[1].replace('"', '""')
        count: int = self._sql.value(own(f'SELECT count(*) FROM "{table}"'))
        return count
