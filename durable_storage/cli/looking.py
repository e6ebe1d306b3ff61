"""``ls`` and ``show``: what is in a directory, and what is in an object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from typing import Any, Final

from ..database.authorizer import is_reserved
from ..database.connection import MISSING, Database
from ..limits import Limits
from .copies import copied, working_on_copy
from .directory import Directory, StoredObject
from .logs import last_commit_ms
from .output import Facts, Line, Output, Part, Table
from .values import Decoder, as_json, as_text, counted, size, time_text

__all__ = ["WIDE", "list_objects", "open_copy", "opened_copy", "show_object"]

WIDE: Final = Limits(
    columns=32767,
    parameters=32766,
    statement_size_max_bytes=1_000_000_000,
    function_arguments=127,
    like_pattern_size_max_bytes=50_000,
    value_size_max_bytes=1_000_000_000,
    database_size_max_bytes=2**43,
    compound_select_terms=500,
    expression_depth=1000,
    trigger_depth=1000,
)
"""As much as SQLite allows: the limits that matter are those of the application."""


def disk_size(path: str) -> tuple[int, int]:
    """Bytes of an object's database with its WAL, and of its history."""
    database = sum(_file_size(path + suffix) for suffix in ("", "-wal"))
    history = sum(
        _file_size(os.path.join(folder, name))
        for folder, _, names in os.walk(path + "-history")
        for name in names
        if not (name == "wal" and os.path.basename(folder).endswith("-history"))
    )
    return database, history


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def list_objects(directory: Directory, out: Output, namespace: str | None) -> None:
    """Show the namespaces with their objects, or one of them."""
    records = [directory.namespace(namespace)] if namespace else directory.namespaces()
    found: list[dict[str, Any]] = []
    parts: list[Part] = []
    if directory.running:
        parts.append(Line(f"{directory.path} is in use by a running process."))
    for record in records:
        objects = [_entry(stored) for stored in directory.objects(record)]
        found.append(
            {
                "name": record.name,
                "class": record.class_name,
                "backend": record.backend,
                "folder": record.folder,
                "objects": objects,
            }
        )
        parts.append(
            Table(
                f"{record.name} ({record.backend}), {counted(len(objects), 'object')}",
                ("name", "id", "size", "history", "next alarm", "last commit"),
                [
                    (
                        each["name"] or "",
                        each["id"],
                        size(each["size_bytes"]),
                        size(each["history_bytes"]),
                        time_text(each["alarm_ms"]),
                        time_text(each["last_commit_ms"]),
                    )
                    for each in objects
                ],
                right=("size", "history"),
            )
        )
    if not records:
        parts.append(Line(f"{directory.path} has no namespaces yet."))
    out.result({"path": directory.path, "running": directory.running, "namespaces": found}, *parts)


def _entry(stored: StoredObject) -> dict[str, Any]:
    database, history = disk_size(stored.path)
    return {
        "id": stored.id,
        "name": stored.name,
        "size_bytes": database,
        "history_bytes": history,
        "alarm_ms": stored.alarm_ms,
        "last_commit_ms": last_commit_ms(stored.path),
        "created_ms": stored.created_ms,
    }


class Contents:
    """What an object's database holds.

    Args:
        database: it.
        legacy: it is one of the legacy backend, which keeps everything in the key-value table.
    """

    def __init__(self, database: Database, *, legacy: bool) -> None:
        self._database = database
        self._legacy = legacy
        self.serializer: str = str(self._meta("serializer") or "msgpack")
        self.decoder: Decoder = Decoder(self.serializer)

    def _meta(self, key: str) -> int | str | None:
        if not self._legacy:
            value = self._database.meta_get(key)
            return None if value is MISSING or not isinstance(value, (int, str)) else value
        stored = self._database.kv_get("m" + key)
        text = stored.decode("utf-8", "replace") if isinstance(stored, bytes) else ""
        return int(text) if text.isdigit() else text or None

    @property
    def alarm_ms(self) -> int | None:
        """When the alarm is due."""
        value = self._meta("alarm")
        return value if isinstance(value, int) else None

    @property
    def alarm_retries(self) -> int:
        """How many counted tries of the alarm failed."""
        value = self._meta("alarm_retry")
        return value if isinstance(value, int) else 0

    def tables(self) -> list[tuple[str, str, str]]:
        """(kind, name, SQL) of the object's own tables and views."""
        rows = self._query(
            "SELECT type, name, coalesce(sql, '') FROM sqlite_master "
            "WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
            "ORDER BY name"
        )
        return [row for row in rows if not is_reserved(row[1])]

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(next(self._query(f"SELECT count(*) FROM {quoted(table)}"))[0])

    def rows(self, table: str, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The columns and the first rows of a table."""
        cursor = self._database.exec(
            f"SELECT * FROM {quoted(table)} LIMIT ?", (limit,), None, lambda: None
        )
        columns = cursor.column_names
        return columns, list(cursor.raw())

    def _query(self, sql: str) -> Iterator[tuple[Any, ...]]:
        return self._database.exec(sql, (), None, lambda: None).raw()

    def pairs(self) -> Iterator[tuple[str, object]]:
        """The keys and values, decoded, in order."""
        prefix = "u" if self._legacy else None
        for key, stored in self._database.kv_list(prefix=prefix):
            yield key[len(prefix or "") :], self.decoder.decode(stored)


def quoted(name: str) -> str:
    """A name as SQL takes it whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def open_copy(path: str) -> Database:
    """The database of a copy."""
    return Database(path, limits=WIDE)


@contextlib.contextmanager
def opened_copy(stored: StoredObject) -> Generator[Database]:
    """Give the database of an object, as a copy.

    Raises:
        Failure: it cannot be copied.
    """
    with copied(stored.path) as copy, working_on_copy(stored.path):
        database = open_copy(copy)
        try:
            yield database
        finally:
            database.close()


def show_object(
    directory: Directory, out: Output, namespace: str, name_or_id: str, *, limit: int
) -> None:
    """Show an object's facts, its tables with their first rows, and its first keys."""
    stored = directory.find(namespace, name_or_id)
    with opened_copy(stored) as database:
        _show(stored, Contents(database, legacy=stored.namespace.backend == "kv"), out, limit)


def _show(stored: StoredObject, contents: Contents, out: Output, limit: int) -> None:
    database_bytes, history_bytes = disk_size(stored.path)
    facts: dict[str, Any] = {
        "namespace": stored.namespace.name,
        "id": stored.id,
        "name": stored.name,
        "path": stored.path,
        "size_bytes": database_bytes,
        "history_bytes": history_bytes,
        "serializer": contents.serializer,
        "alarm_ms": contents.alarm_ms,
        "alarm_retries": contents.alarm_retries,
        "last_commit_ms": last_commit_ms(stored.path),
    }
    parts: list[Part] = [
        Facts(
            stored.label,
            [
                ("id", stored.id),
                ("name", stored.name or ""),
                ("file", stored.path),
                ("size", size(database_bytes)),
                ("history", size(history_bytes)),
                ("serializer", contents.serializer),
                ("alarm", time_text(contents.alarm_ms) or "none"),
                ("last commit", time_text(facts["last_commit_ms"]) or "none"),
            ],
        )
    ]
    tables: list[dict[str, Any]] = []
    facts["tables"] = tables
    for kind, name, sql in contents.tables():
        columns, rows = contents.rows(name, limit)
        count = contents.count(name)
        tables.append(
            {
                "name": name,
                "kind": kind,
                "sql": sql,
                "row_count": count,
                "columns": columns,
                "rows": [[as_json(value) for value in row] for row in rows],
            }
        )
        shown = counted(count, "row")
        if len(rows) < count:
            shown = f"{len(rows)} of {shown}"
        parts.append(
            Table(f"{kind} {name}, {shown}", columns, [[as_text(v) for v in row] for row in rows])
        )
    pairs: list[tuple[str, object]] = []
    total = 0
    for total, pair in enumerate(contents.pairs(), 1):
        if total <= limit:
            pairs.append(pair)
    facts["key_count"] = total
    facts["keys"] = {key: as_json(value) for key, value in pairs}
    if total:
        shown = counted(total, "key")
        if len(pairs) < total:
            shown = f"{len(pairs)} of {shown}"
        parts.append(
            Table(
                f"key-value storage, {shown}",
                ("key", "value"),
                [(as_text(key), as_text(value)) for key, value in pairs],
            )
        )
    out.result(facts, *parts)
