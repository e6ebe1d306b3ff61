"""``export`` and ``import``: objects as plain SQLite files."""

from __future__ import annotations

import glob
import os
import re
import sqlite3
from collections.abc import Iterator
from typing import Final

from ..database.authorizer import MODULES, is_reserved
from ..database.connection import Database
from ..errors import DurableStorageError
from ..history import CommitLog
from ..limits import Limits
from .copies import copied, install, lacks_room, make_plain, no_room, working_on_copy
from .directory import Directory, Owned, owned
from .failures import Failure
from .logs import KEEP_ALL, now_ms
from .looking import Contents, quoted
from .output import Line, Output
from .timeline import check_target
from .values import size

__all__ = ["export_object", "import_file"]

_PAGE_SIZE: Final = 4096
# SQLite keeps the statement as it was written, from the name on.
_USING: Final = re.compile(r"""\bUSING\s+["'`\[]?(\w+)""", re.IGNORECASE)
_HIDDEN: Final = ("_cf_KV", "_cf_METADATA")
_HIDDEN_COLUMNS: Final = [("key", "TEXT", 1), ("value", "BLOB", 0)]


def export_object(
    directory: Directory, out: Output, namespace: str, name_or_id: str, file: str
) -> None:
    """Write a plain SQLite file of an object as it is now."""
    target = check_target(file)
    stored = directory.find(namespace, name_or_id)
    with copied(stored.path) as copy:
        with working_on_copy(stored.path):
            make_plain(copy)
        install(copy, target)
    out.result(
        {"file": target, "size_bytes": os.path.getsize(target)},
        Line(f"wrote {file} ({size(os.path.getsize(target))})"),
    )


def import_file(
    file: str, path: str, out: Output, namespace: str, name: str, *, exported: bool
) -> None:
    """Make a new object of a SQLite file.

    Args:
        file: the database; it stays as it is.
        path: the data directory; made if missing.
        out: where the result goes.
        namespace: made if it is new.
        name: the object's name.
        exported: the file is an export of this library, whose hidden tables are taken over.
    """
    if not os.path.isfile(file):
        raise Failure(f"there is no file {file!r}")
    with copied(file) as copy:
        made = copy + ".made"
        with out.progress(f"reading {file}"):
            alarm_ms = _prepare(file, copy, made, exported=exported)
        with owned(path, create=True) as owner:
            object_id, target = _adopt(owner, made, namespace, name, alarm_ms)
    out.result(
        {"namespace": namespace, "name": name, "id": object_id, "path": target},
        Line(f"{file} is now the object {name!r} of {namespace} ({object_id})"),
    )


def _prepare(file: str, copy: str, made: str, *, exported: bool) -> int | None:
    """Write what an object's file has to be, having checked that it can be one; its alarm."""
    connection = sqlite3.connect(copy, isolation_level=None)
    try:
        try:
            for (problem,) in connection.execute("PRAGMA integrity_check(1)"):
                if problem != "ok":
                    raise Failure(f"{file} is damaged: {problem}")
            (encoding,) = connection.execute("PRAGMA encoding").fetchone()
            if encoding != "UTF-8":
                raise Failure(
                    f"{file} keeps its text as {encoding}; objects keep it as UTF-8: dump it with "
                    "the sqlite3 shell and load it into a new file"
                )
            for problem in [*_reserved(connection, exported=exported), *_modules(connection)]:
                raise Failure(f"{file}: {problem}")
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
            connection.execute(f"PRAGMA page_size={_PAGE_SIZE}")
            connection.execute("PRAGMA auto_vacuum=NONE")
            connection.execute("VACUUM INTO ?", (made,))
        except sqlite3.Error as exc:
            if lacks_room(exc):
                raise no_room(file) from exc
            raise Failure(f"{file} cannot be imported: {exc}") from exc
    finally:
        connection.close()
    return _try_out(file, made)


def _reserved(connection: sqlite3.Connection, *, exported: bool) -> Iterator[str]:
    for kind, name in connection.execute("SELECT type, name FROM sqlite_master").fetchall():
        if not is_reserved(name):
            continue
        columns = [
            (column[1], column[2], column[5])
            for column in connection.execute(f"PRAGMA table_info({quoted(name)})")
        ]
        ours = kind == "table" and name in _HIDDEN and columns == _HIDDEN_COLUMNS
        if exported and ours:
            continue
        yield (
            f"the {kind} {name!r} has a name that objects keep for themselves (_cf_…); rename or "
            "drop it"
            + (", or add --exported if the file is an export of this library" if ours else "")
        )


def _modules(connection: sqlite3.Connection) -> Iterator[str]:
    query = "SELECT name, sql FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE %'"
    for name, sql in connection.execute(query):
        used = _USING.search(sql)
        module = used[1] if used is not None else "?"
        if module.lower() not in MODULES:
            yield f"the table {name!r} is of the module {module!r}, which objects do not have"


def _try_out(file: str, path: str) -> int | None:
    """Refuse what an object could not read under its rules and default limits; its alarm."""
    try:
        database = Database(path, limits=Limits())
        try:
            names = database.exec(
                "SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view')",
                (),
                None,
                lambda: None,
            ).to_array()
            for row in names:
                if not is_reserved(row["name"]):
                    # Every row of a table: one may be too long.
                    query = f"SELECT * FROM {quoted(row['name'])}"
                    if row["type"] == "view":
                        query += " LIMIT 1"
                    for _ in database.exec(query, (), None, lambda: None).raw():
                        pass
            return Contents(database, legacy=False).alarm_ms
        finally:
            database.close()
    except DurableStorageError as exc:
        raise Failure(f"{file} holds what an object cannot: {exc}") from exc


def _adopt(
    owner: Owned, made: str, namespace: str, name: str, alarm_ms: int | None
) -> tuple[str, str]:
    directory, registry = owner.directory, owner.directory.registry
    record = registry.ensure_namespace(namespace, class_name=None, now_ms=now_ms())
    if record.backend != "sqlite":
        raise Failure(f"the namespace {namespace!r} is of the legacy backend, which has no SQL")
    object_id = directory.id_of(record, name)
    target = owner.lock.prepare(record.folder, object_id)
    if os.path.lexists(target) or os.path.lexists(target + "-history"):
        raise Failure(
            f"{namespace} has an object {name!r} already; choose another name. An object whose "
            "storage was deleted is one too: its history can still be restored"
        )
    registry.register_object(record.number, object_id, name=name, created_ms=now_ms())
    if alarm_ms is not None:
        registry.alarm_set(record.number, object_id, alarm_ms)
    owner.lock.sync_folders()
    registry.flush(durable=True)
    for left in glob.glob(glob.escape(target) + ".*.new"):  # by an import that was killed
        os.unlink(left)
    install(made, target)
    # Begins its history with everything that is in it.
    CommitLog.open(target, settings=KEEP_ALL, clock_ms=now_ms).close()
    return object_id, target
