"""The package's own statements on the reserved tables.

Invariant: a text that this package runs with its own rights is never a text that a user could
run. Python caches prepared statements by text, and a cached statement is not authorized again;
so each of our texts begins with a token that is random in every process.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

from .authorizer import Authorizer
from .configure import set_defensive
from .sqlerrors import AUTH, primary_code

__all__ = ["InternalSql", "own"]

_TOKEN: Final = f"/*{secrets.token_hex(16)}*/"


def own(sql: str) -> str:
    """Return ``sql`` as a text that no user can guess."""
    return _TOKEN + sql


@final
class InternalSql:
    """Runs statements with the package's own rights.

    A statement that is prepared already needs no authorization, so it is tried as it is; SQLite
    asks again on the first use and after a schema change, and then it is run once more with the
    rights. A statement that was refused has done nothing.
    """

    __slots__ = ("_authorizer", "_connection", "_run", "cursor")

    def __init__(self, connection: sqlite3.Connection, authorizer: Authorizer) -> None:
        self._connection = connection
        self._authorizer = authorizer
        self.cursor: sqlite3.Cursor = connection.cursor()
        self._run = self.cursor.execute

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement. Raises what ``sqlite3`` raises."""
        try:
            return self._connection.execute(sql, parameters)
        except sqlite3.DatabaseError as error:
            if primary_code(error) != AUTH:
                raise
        with self:
            return self._connection.execute(sql, parameters)

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for every row. Raises what ``sqlite3`` raises."""
        with self:
            self._connection.executemany(sql, rows)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement whose result is read before the next call: cheaper.

        Raises what ``sqlite3`` raises.
        """
        try:
            return self._run(sql, parameters)
        except sqlite3.DatabaseError as error:
            if primary_code(error) != AUTH:
                raise
        with self:
            return self._run(sql, parameters)

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the first column of the first row, ``None`` without a row."""
        row = self.run(sql, parameters).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def undefended(self) -> Generator[None]:
        """Let the statements inside write to the schema's own table."""
        set_defensive(self._connection, defensive=False)
        try:
            yield
        finally:
            set_defensive(self._connection, defensive=True)

    def close(self) -> None:
        """End the last ``run``, which would keep the file open; ``execute`` still works."""
        self.cursor.close()

    def __enter__(self) -> None:
        self._authorizer.internal = True

    def __exit__(self, *_: object) -> None:
        self._authorizer.internal = False
        self._authorizer.transaction_statement = False
