"""Schema migrations inside one object: a list of steps that only ever grows.

``_schema_migrations`` is an ordinary table of the object: one row for each step that was applied,
numbered from 1. A step and its row are written in one ``transaction_sync``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Final, Never, final

from .errors import ArgumentTypeError, ArgumentValueError, MigrationError
from .storage.storage import DurableObjectStorage

__all__ = ["Applied", "Step", "migrate"]

Step = str | Callable[[DurableObjectStorage], object]
"""SQL (one or more statements), or a synchronous function that is given the storage."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


@final
class Applied(int):
    """How many steps were applied. It may be awaited, as what operations of storage return."""

    def __await__(self) -> Generator[Never, None, int]:
        yield from ()
        return int(self)


def migrate(
    storage: DurableObjectStorage, steps: Sequence[Step], *, table: str = "_schema_migrations"
) -> Applied:
    """Apply the steps that this object has not seen yet; return how many that were.

    The call does the work, so a constructor can make it, and every event finds the new schema::

        class Room(DurableObject):
            def __init__(self, ctx, env):
                super().__init__(ctx, env)
                migrate(ctx.storage, [
                    "CREATE TABLE message (id INTEGER PRIMARY KEY, text TEXT NOT NULL)",
                    "ALTER TABLE message ADD COLUMN author TEXT",
                    fill_in_authors,
                ])

    Add steps at the end; never change, remove or reorder one that any object has applied.

    Args:
        storage: ``ctx.storage``.
        steps: all of them, the applied ones included.
        table: the table that records them; another name for each list of steps in one object.

    Raises:
        MigrationError: the object has applied more steps than there are: an older program opened
            it. Nothing was changed.
        ArgumentTypeError: a step is neither SQL nor a synchronous function.
        Exception: what a step raised, with a note that says which; it is undone, the steps before
            it stand.
    """
    if isinstance(steps, str) or not isinstance(steps, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(f"migrate() takes a list of steps, got {type(steps).__name__}")
    for number, step in enumerate(steps, 1):
        if not isinstance(step, str) and not callable(step):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(
                f"migrate() step {number} is SQL or a function, got {type(step).__name__}"
            )
    if _NAME.fullmatch(table) is None or table.lower().startswith(("_cf_", "sqlite_")):
        raise ArgumentValueError(
            f"migrate(table=) is a plain identifier without the prefixes _cf_ and sqlite_, "
            f"got {table!r}"
        )
    version = _version(storage, table)
    if version > len(steps):
        raise MigrationError(
            f"the object's schema is at step {version} of table {table!r}, but this program knows "
            f"only {len(steps)} steps; run the program that knows them all, and never remove a step"
        )
    for number, step in enumerate(steps[version:], version + 1):
        try:
            _apply(storage, table, number, step)
        except BaseException as exc:
            exc.add_note(f"in step {number} of {len(steps)} of migrate()")
            raise
    return Applied(len(steps) - version)


def _version(storage: DurableObjectStorage, table: str) -> int:
    known = storage.sql.exec(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", table
    ).to_array()
    if not known:
        return 0
    row = storage.sql.exec(f"SELECT coalesce(max(version), 0) AS version FROM {table}").one()
    return int(row["version"])


def _apply(storage: DurableObjectStorage, table: str, number: int, step: Step) -> None:
    def run() -> object:
        storage.sql.exec(
            f"CREATE TABLE IF NOT EXISTS {table} (version INTEGER PRIMARY KEY,"
            " applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
        )
        storage.sql.exec(f"INSERT INTO {table} (version) VALUES (?)", number)
        if isinstance(step, str):
            storage.sql.exec(step).to_array()
            return None
        return step(storage)  # an awaitable is refused by transaction_sync

    storage.transaction_sync(run)
