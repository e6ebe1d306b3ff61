"""Emptying a database within its own transaction, so that it is all or nothing."""

from __future__ import annotations

import sqlite3
from typing import Final

from .internal import InternalSql, own
from .sqlerrors import CONSTRAINT, primary_code

__all__ = ["drop_everything"]

# The first to go is what only depends on the others. A virtual table, which has no root page,
# takes its shadow tables. Without LIKE, whose patterns and arguments may be limited.
_OBJECTS: Final = own(
    "SELECT type, name FROM sqlite_master WHERE type<>'index'"
    " AND (name<'sqlite_' OR name>='sqlite`')"
    " ORDER BY type<>'trigger', type<>'view', rootpage<>0, rowid DESC"
)
_STATISTICS: Final = own(
    "SELECT name FROM sqlite_master WHERE type='table'"
    " AND name>='sqlite_stat' AND name<'sqlite_stau'"
)
_SEQUENCES: Final = own("SELECT 1 FROM sqlite_master WHERE name='sqlite_sequence'")


def drop_everything(sql: InternalSql) -> None:
    """Drop every table, view, trigger, index and virtual table.

    Raises what ``sqlite3`` raises.
    """
    with sql:
        # A foreign key that is deferred does not stand in the way of dropping its parent first.
        sql.execute(own("PRAGMA defer_foreign_keys=ON"))
        remaining = sql.execute(_OBJECTS).fetchall()
        while remaining:
            blocked = [row for row in remaining if not _drop(sql, *row)]
            if len(blocked) == len(remaining):
                _drop(sql, *blocked[0], last_attempt=True)
            remaining = blocked
        for (name,) in sql.execute(_STATISTICS).fetchall():
            sql.execute(own(f"DROP TABLE {name}"))
        _drop_sequences(sql)
        _forget_last_change(sql)
        sql.execute(own("PRAGMA defer_foreign_keys=OFF"))


def _drop(sql: InternalSql, kind: str, name: str, *, last_attempt: bool = False) -> bool:
    """Drop one object; false when a foreign key's action refuses until another is gone."""
    quoted = name.replace('"', '""')
    try:
        # IF EXISTS, because a shadow table goes with its virtual table.
        sql.execute(own(f'DROP {kind} IF EXISTS "{quoted}"'))
    except sqlite3.Error as error:
        if primary_code(error) != CONSTRAINT or last_attempt:
            raise
        return False
    return True


def _forget_last_change(sql: InternalSql) -> None:
    """Make ``last_insert_rowid()`` and ``changes()`` 0, as in a new database."""
    sql.execute(own("CREATE TABLE _cf_EMPTY(id INTEGER PRIMARY KEY)"))
    sql.execute(own("INSERT INTO _cf_EMPTY VALUES(0)"))
    sql.execute(own("DELETE FROM _cf_EMPTY WHERE id<0"))
    sql.execute(own("DROP TABLE _cf_EMPTY"))


def _drop_sequences(sql: InternalSql) -> None:
    """Drop ``sqlite_sequence``, which SQLite allows only under another name."""
    if sql.value(_SEQUENCES) is None:
        return
    with sql.undefended():
        sql.execute(own("PRAGMA writable_schema=ON"))
        sql.execute(
            own(
                "UPDATE sqlite_master SET name='_cf_SEQUENCE', tbl_name='_cf_SEQUENCE',"
                " sql='CREATE TABLE _cf_SEQUENCE(name,seq)' WHERE name='sqlite_sequence'"
            )
        )
        sql.execute(own("PRAGMA writable_schema=RESET"))
    sql.execute(own("DROP TABLE _cf_SEQUENCE"))
