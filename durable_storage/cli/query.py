"""``sql``: a query on an object's database."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from ..clock import SystemClock
from ..database.connection import Database
from ..database.cursor import SqlStorageCursor
from ..history import History
from ..storage.object_file import ObjectFile
from .alarms import indexed_alarm
from .directory import StoredObject, opened, owned
from .failures import Failure
from .logs import KEEP_ALL, note_restored
from .looking import WIDE, opened_copy
from .output import Line, Output, Table
from .values import as_json, as_text, counted

__all__ = ["run_sql"]


def run_sql(
    path: str,
    out: Output,
    namespace: str,
    name_or_id: str,
    query: str,
    bindings: list[str],
    *,
    write: bool,
) -> None:
    """Run a query and show its rows.

    Args:
        path: the directory.
        out: where rows go.
        namespace: whose object.
        name_or_id: which object.
        query: SQL, one statement or several; ``-``: what standard input says.
        bindings: texts for the parameters of the last statement.
        write: it may change the object, which no runtime may own then.
    """
    sql = sys.stdin.read() if query == "-" else query
    values = tuple(_value(text) for text in bindings)
    if write:
        with owned(path) as owner:
            stored = owner.directory.find(namespace, name_or_id)
            _refuse_legacy(stored)
            with indexed_alarm(owner.directory.registry, stored):
                _write(stored, out, sql, values)
        return
    with opened(path) as directory:
        stored = directory.find(namespace, name_or_id)
        _refuse_legacy(stored)
        with opened_copy(stored) as database:
            _show(out, _read(database, sql, values))


def _read(database: Database, sql: str, values: tuple[Any, ...]) -> SqlStorageCursor[Any]:
    try:
        return database.exec(sql, values, None, _refuse_write)
    except Failure as refused:
        # What is no SQL at all counts as a write; then what is wrong with it is the better answer.
        try:
            database.exec(f"EXPLAIN {sql}", values, None, _refuse_write)
        except Failure:
            pass
        raise refused


def _refuse_write() -> NoReturn:
    raise Failure("this statement may change the object; add --write, with no runtime running")


def _refuse_legacy(stored: StoredObject) -> None:
    if stored.namespace.backend == "kv":
        raise Failure(f"{stored.label} is of the legacy backend, which has no SQL; use show")


def _value(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _write(stored: StoredObject, out: Output, sql: str, values: tuple[Any, ...]) -> None:
    history = KEEP_ALL if stored.has_history else History(enabled=False)
    file = ObjectFile(stored.path, limits=WIDE, clock=SystemClock(), history=history)
    try:
        if file.restored:
            note_restored(out, stored)
        database = file.database
        database.begin()
        try:
            cursor = database.exec(sql, values, None, lambda: None)
            columns, rows = cursor.column_names, list(cursor.raw())
            changes = _changes(database)
            database.commit()
        except BaseException:
            database.rollback()
            raise
        file.confirm()
    finally:
        file.close()
    _emit(out, columns, rows, changes)


def _changes(database: Database) -> int:
    return int(database.exec("SELECT changes() AS n", (), None, lambda: None).one()["n"])


def _show(out: Output, cursor: SqlStorageCursor[Any]) -> None:
    _emit(out, cursor.column_names, list(cursor.raw()), None)


def _emit(
    out: Output, columns: list[str], rows: list[tuple[Any, ...]], changes: int | None
) -> None:
    data: dict[str, Any] = {
        "columns": columns,
        "rows": [[as_json(value) for value in row] for row in rows],
    }
    if changes is not None:
        data["changes"] = changes
    if columns:
        out.result(data, Table("", columns, [[as_text(value) for value in row] for row in rows]))
    else:
        out.result(data, Line(f"done, {counted(changes or 0, 'row')} changed"))
