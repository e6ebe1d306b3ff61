"""A database as the layer above uses it: the first write opens a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from durable_storage.database import Database, SqlStorageCursor
from durable_storage.limits import Limits


def built_with(option: str) -> bool:
    """Whether the SQLite that Python is linked with was built with an option."""
    with closing(sqlite3.connect(":memory:")) as connection:
        return bool(
            connection.execute("SELECT sqlite_compileoption_used(?)", (option,)).fetchone()[0]
        )


class Rig:
    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        self.limits = limits or Limits()
        self.database = Database(path, limits=self.limits)
        self.before_writes = 0

    def begin(self) -> None:
        self.before_writes += 1
        if not self.database.in_transaction:
            self.database.begin()

    def exec(
        self, query: str, *bindings: object, row_type: Callable[..., Any] | None = None
    ) -> SqlStorageCursor[Any]:
        return self.database.exec(query, bindings, row_type, self.begin)

    def rows(self, query: str, *bindings: object) -> list[tuple[Any, ...]]:
        return list(self.exec(query, *bindings).raw())

    def commit(self) -> None:
        if self.database.in_transaction:
            self.database.commit()

    def reopen(self) -> None:
        self.commit()
        self.database.close()
        self.database = Database(self.path, limits=self.limits)
