"""``registry.sqlite``: which namespaces, objects, alarms and applied migrations a directory has.

The registry is an index. The truth about an object (its data, its name, its alarm) is in the
object's own file, and ``rescan()`` rebuilds the index from those files; only namespaces and
applied migrations are nowhere else.

Writing has three strengths:

- *buffered*: objects and alarms by default. A dict entry, written by the next flush, read or
  close. Lost when the process dies first.
- *committed* (``flush()``): survives a crash of the process, not a power loss.
- *durable* (``durable=True``, ``flush(durable=True)``): on stable storage. One fdatasync serves
  everybody whose writes were committed before it began. Changes of namespaces and migrations
  are always durable.

Invariants:

- A buffered entry is newer than the row of its key, and at most one entry exists for a key.
- ``_synced <= _committed``; they are equal when all that was committed is on stable storage.
- ``_taken`` is set while entries are neither buffered nor committed, but on their way.
- The mark "closed" is in the file only while nobody has it open: without it the index may lack
  the last buffered writes (``clean_start``).

Locks, always taken in this order: ``_database`` (the connection; held for a transaction or a
query), ``_syncing`` (the fdatasync), ``_buffering`` (the dicts; never held across I/O). Only
``close()`` holds the first during an fdatasync.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, NewType, final

from ..database.faults import Faults
from ..database.forks import keep, leak
from ..errors import (
    ArgumentValueError,
    DatabaseFileError,
    MigrationError,
    SqlError,
)
from .directory import DataDirectory, namespace_folder

__all__ = [
    "AlarmRecord",
    "AppliedMigration",
    "Backend",
    "NamespaceNumber",
    "NamespaceRecord",
    "ObjectFacts",
    "ObjectRecord",
    "Registry",
]

Backend = Literal["sqlite", "kv"]
NamespaceNumber = NewType("NamespaceNumber", int)
"""Identifies a namespace inside one registry: a rename keeps it, a deletion retires it."""

_FORMAT: Final = 1
_APPLICATION_ID: Final = 0x44537265  # "DSre"
_BUFFER_MAX_ENTRIES: Final = 2000

_SCHEMA: Final = """
CREATE TABLE namespace (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    unique_key TEXT NOT NULL UNIQUE,
    class_name TEXT NOT NULL,
    backend TEXT NOT NULL CHECK (backend IN ('sqlite', 'kv')),
    folder TEXT NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    declared_by TEXT,
    state TEXT NOT NULL CHECK (state IN ('live', 'deleting', 'deleted'))
);
CREATE UNIQUE INDEX namespace_name ON namespace (name) WHERE state = 'live';
CREATE TABLE retired_name (name TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE migration (
    position INTEGER PRIMARY KEY,
    tag TEXT NOT NULL UNIQUE,
    steps TEXT NOT NULL,
    applied_ms INTEGER NOT NULL
);
CREATE TABLE object (
    namespace INTEGER NOT NULL,
    id BLOB NOT NULL,
    name TEXT,
    created_ms INTEGER NOT NULL,
    location_hint TEXT,
    jurisdiction TEXT,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;
CREATE TABLE alarm (
    namespace INTEGER NOT NULL,
    id BLOB NOT NULL,
    due_ms INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;
CREATE INDEX alarm_due ON alarm (due_ms);
CREATE TABLE mark (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""

_PUT_OBJECT: Final = """
INSERT INTO object (namespace, id, name, created_ms, location_hint, jurisdiction)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (namespace, id) DO UPDATE SET
    name = coalesce(excluded.name, name),
    location_hint = coalesce(location_hint, excluded.location_hint),
    jurisdiction = coalesce(jurisdiction, excluded.jurisdiction)
WHERE name IS NOT coalesce(excluded.name, name)
    OR (location_hint IS NULL AND excluded.location_hint IS NOT NULL)
    OR (jurisdiction IS NULL AND excluded.jurisdiction IS NOT NULL)
"""
_PUT_ALARM: Final = """
INSERT INTO alarm (namespace, id, due_ms) VALUES (?, ?, ?)
ON CONFLICT (namespace, id) DO UPDATE SET due_ms = excluded.due_ms
WHERE due_ms <> excluded.due_ms
"""

_RETIRE: Final = """
INSERT OR REPLACE INTO retired_name SELECT name, ? FROM namespace WHERE number = ?
"""

_Key = tuple[int, bytes]
_fdatasync: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)


@final
@dataclass(frozen=True, slots=True)
class NamespaceRecord:
    """One namespace.

    Attributes:
        number: what every other method takes.
        name: what migrations and ``runtime.namespace()`` call it now.
        unique_key: what its objects' ids are computed from; a rename keeps it.
        class_name: the Python class last used for it; information only.
        folder: its folder in the data directory; a rename keeps it.
        declared_by: tag of the migration that declared it, ``None`` when it was created by use.
    """

    number: NamespaceNumber
    name: str
    unique_key: str
    class_name: str
    backend: Backend
    folder: str
    created_ms: int
    declared_by: str | None


@final
@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One object that was used at least once."""

    namespace: NamespaceNumber
    id: str
    name: str | None
    created_ms: int
    location_hint: str | None
    jurisdiction: str | None


class AlarmRecord(NamedTuple):
    """One entry of the alarm index; they compare by due time."""

    due_ms: int
    namespace: NamespaceNumber
    id: str


@final
@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A migration that was applied: its tag, and its steps as ``Migration.steps()`` gives them."""

    tag: str
    steps: str
    applied_ms: int


@final
@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What an object's own file says about it, for ``rescan()``."""

    name: str | None = None
    jurisdiction: str | None = None
    alarm_ms: int | None = None


@dataclass(slots=True)
class _NewObject:
    name: str | None
    created_ms: int
    location_hint: str | None
    jurisdiction: str | None


@final
class Registry:
    """The registry in ``path``, created when missing. All methods are thread-safe and block.

    Raises:
        DatabaseFileError: the file is no registry, of a newer version, or cannot be opened.
        SqlError: (any method) the file cannot be read or written, with SQLite's code.

    Attributes:
        clean_start: whether the last owner closed it; otherwise ``rescan()`` finds what the
            index may lack.
    """

    clean_start: Final[bool]

    def __init__(self, path: str | os.PathLike[str], *, faults: Faults | None = None) -> None:
        self._path = os.fspath(path)
        self._faults = faults
        self._database = threading.RLock()
        self._buffering = threading.Lock()
        self._syncing = threading.Lock()
        self._objects: dict[_Key, _NewObject | None] = {}
        self._alarms: dict[_Key, int | None] = {}
        self._taken = False
        self._committed = 0
        self._synced = 0
        self._sync_failure: OSError | None = None
        self._batch = threading.local()
        self._wal: int | None = None
        self._connection = self._open()
        keep(self)
        try:
            with self._change() as connection:
                row = connection.execute("SELECT value FROM mark WHERE name = 'closed'").fetchone()
                connection.execute("DELETE FROM mark WHERE name = 'closed'")
            self.clean_start = row is not None
        except BaseException:
            self._close_files()
            raise

    def _open(self) -> sqlite3.Connection:
        fresh = not os.path.exists(self._path)
        connection: sqlite3.Connection | None = None
        if os.path.islink(self._path):
            raise DatabaseFileError(f"{self._path!r} is a symbolic link: a registry is a real file")
        try:
            if fresh:  # SQLite gives the -wal and -shm files the mode of the main file
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            application = int(connection.execute("PRAGMA application_id").fetchone()[0])
            tables = int(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
            if version > _FORMAT:
                raise DatabaseFileError(
                    f"{self._path!r} has format {version}; this release reads up to {_FORMAT}: "
                    "use the release that wrote it, or a newer one"
                )
            if tables and (application != _APPLICATION_ID or version < 1):
                raise DatabaseFileError(f"{self._path!r} is a database, but not a registry")
            _set(connection, "journal_mode", "WAL", "wal")
            # NORMAL: a COMMIT does not sync; _sync() does, outside the locks.
            _set(connection, "synchronous", "NORMAL", 1)
            _set(connection, "wal_autocheckpoint", "2000", 2000)
            _set(connection, "busy_timeout", "5000", 5000)
            if not tables:
                connection.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA application_id={_APPLICATION_ID};"
                    f" PRAGMA user_version={_FORMAT}; COMMIT"
                )
                connection.execute("PRAGMA wal_checkpoint(FULL)")
                connection.execute(f"PRAGMA user_version={_FORMAT}")
            else:
                connection.execute(f"PRAGMA user_version={version}")  # makes the -wal exist
            self._wal = os.open(self._path + "-wal", os.O_RDWR)
            self._before("fdatasync", self._path + "-wal")
            _fdatasync(self._wal)
            if fresh:
                # Its content was synced by the checkpoint.
                self._before("fsync", self._path)
                directory = os.path.dirname(self._path) or "."
                self._before("fsync", directory)
                _sync_directory(directory)
        except (sqlite3.Error, OSError) as exc:
            if connection is not None:
                connection.close()
            raise DatabaseFileError(
                f"the registry {self._path!r} cannot be opened: {exc}; if it is damaged, move it "
                "away: a new one is filled from the objects' files"
            ) from exc
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        return connection

    def _before(self, operation: str, path: str) -> None:
        if self._faults is not None:
            self._faults.before(operation, path)

    # ------------------------------------------------------------------ transactions

    @contextlib.contextmanager
    def _query(self) -> Generator[sqlite3.Connection]:
        """The connection, with everything buffered written; errors translated."""
        with self._database, _translated():
            if (self._alarms or self._objects) and not self._connection.in_transaction:
                self._flush()
            yield self._connection

    @contextlib.contextmanager
    def _change(self) -> Generator[sqlite3.Connection]:
        """One durable transaction; nested uses join the outermost."""
        with self._database, _translated():
            connection = self._connection
            if connection.in_transaction:
                yield connection
                return
            self._flush()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self._committed += 1
        self._sync()

    @contextlib.contextmanager
    def transaction(self) -> Generator[None]:
        """Everything inside happens durably as one, or (when the block raises) not at all."""
        with self._change():
            yield

    def _flush(self) -> None:
        # With _database held. An entry that fails to be written goes back, under newer ones.
        with self._buffering:
            objects, self._objects = self._objects, {}
            alarms, self._alarms = self._alarms, {}
            self._taken = bool(objects or alarms)
        if not self._taken:
            return
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            _write(connection, objects, alarms)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            with self._buffering:
                self._objects = objects | self._objects
                self._alarms = alarms | self._alarms
                self._taken = False
            raise
        self._committed += 1
        with self._buffering:
            self._taken = False

    def flush(self, *, durable: bool = False) -> None:
        """Commit what is buffered; with ``durable``, return once it is on stable storage.

        Raises:
            OSError: (``durable``) the disk failed. The next durable call writes everything anew.
        """
        # Before every confirmation of an object, and mostly there is nothing to do: without this
        # look the rest is 7 % of an increment.
        if durable and self._settled():
            return
        # With the lock: another thread may have taken the buffer and not committed it yet.
        with self._database, _translated():
            if not self._connection.in_transaction:
                self._flush()
        if durable:
            self._sync()

    def _settled(self) -> bool:
        """Whether everything that was written before the call is on stable storage."""
        with self._buffering:
            return not (
                self._objects
                or self._alarms
                or self._taken
                or self._synced != self._committed
                or self._sync_failure is not None
            )

    def _sync(self) -> None:
        target = self._committed
        if self._synced >= target and self._sync_failure is None:
            return
        if self._sync_failure is not None:
            self._rewrite()
            return
        with self._syncing:
            if self._synced >= target:
                return
            # Without the connection's lock, which others hold while they wait for this one: the
            # number only grows, and only after its commit.
            target = self._committed
            descriptor = self._wal
            if descriptor is None:
                raise SqlError("the registry is closed")
            try:
                self._before("fdatasync", self._path + "-wal")
                _fdatasync(descriptor)
            except OSError as exc:
                self._sync_failure = exc
                raise
            self._synced = target

    def _rewrite(self) -> None:
        """After a failed fdatasync: fold the WAL, which writes its pages to the main file anew.

        The system may show data that the disk does not hold; syncing the same pages again would
        prove nothing.
        """
        with self._database, self._syncing:
            if self._sync_failure is None:
                return
            target = self._committed
            self._before("fsync", self._path)
            with _translated():
                busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise OSError(
                    self._sync_failure.errno,
                    f"the registry's disk failed before ({self._sync_failure.strerror}), and "
                    "another program keeps its file from being written anew; end that program",
                ) from self._sync_failure
            self._sync_failure = None
            self._synced = target

    @contextlib.contextmanager
    def batch(self) -> Generator[None]:
        """Group the durable alarm writes of this thread: one fdatasync, when the block ends."""
        depth: int = getattr(self._batch, "depth", 0)
        if depth == 0:
            self._batch.owed = False
        self._batch.depth = depth + 1
        try:
            yield
        finally:
            self._batch.depth = depth
            if depth == 0 and self._batch.owed:
                self._batch.owed = False
                self.flush(durable=True)

    def _written(self, durable: bool) -> None:
        if durable:
            if getattr(self._batch, "depth", 0):
                self._batch.owed = True
            else:
                self.flush(durable=True)
        elif len(self._alarms) + len(self._objects) >= _BUFFER_MAX_ENTRIES:
            self.flush()

    def forked(self) -> None:
        """Leave the file to the parent process."""
        self._wal = None
        leak(self._connection)

    def close(self) -> None:
        """Write everything durably, mark the registry closed, close it. Idempotent."""
        with self._database:
            if self._wal is None:
                return
            try:
                if self._sync_failure is None:
                    with self._change() as connection:
                        connection.execute("INSERT OR REPLACE INTO mark VALUES ('closed', 1)")
            finally:
                self._close_files()

    def _close_files(self) -> None:
        with self._syncing:
            descriptor, self._wal = self._wal, None
            if descriptor is not None:
                os.close(descriptor)
        with _translated():
            self._connection.close()

    # ------------------------------------------------------------------ namespaces

    def namespaces(self) -> list[NamespaceRecord]:
        """Every live namespace, oldest first."""
        return self._namespaces("state = 'live' ORDER BY number")

    def namespaces_to_remove(self) -> list[NamespaceRecord]:
        """Deleted namespaces whose folder may still be on disk (see ``namespace_removed()``)."""
        return self._namespaces("state = 'deleting' ORDER BY number")

    def find_namespace(self, name: str) -> NamespaceRecord | None:
        """The live namespace of that name."""
        found = self._namespaces("state = 'live' AND name = ?", name)
        return found[0] if found else None

    def namespace(self, number: NamespaceNumber) -> NamespaceRecord | None:
        """The live namespace of that number."""
        found = self._namespaces("state = 'live' AND number = ?", number)
        return found[0] if found else None

    def _namespaces(self, where: str, *values: object) -> list[NamespaceRecord]:
        with self._query() as connection:
            rows = connection.execute(
                "SELECT number, name, unique_key, class_name, backend, folder, created_ms,"
                f" declared_by FROM namespace WHERE {where}",
                values,
            ).fetchall()
        return [NamespaceRecord(*row) for row in rows]

    def ensure_namespace(
        self,
        name: str,
        backend: Backend | None = None,
        *,
        class_name: str | None = None,
        now_ms: int = 0,
    ) -> NamespaceRecord:
        """The live namespace ``name``, created by this use when there is none.

        Args:
            name: what migrations call it; usually the class's name.
            backend: what the caller expects; ``None`` takes what exists, or ``"sqlite"``.
            class_name: recorded as information; ``name`` by default.
            now_ms: recorded as its creation.

        Raises:
            MigrationError: it exists with the other backend, or the name was deleted or renamed
                away by a migration; nothing was changed.
        """
        found = self.find_namespace(name)
        if found is None:
            with self._change():
                found = self.find_namespace(name)  # another thread may have been first
                if found is None:
                    reason = self.retired_names().get(name)
                    if reason is not None:
                        raise MigrationError(
                            f"the class {name!r} {reason}; to start it anew, add a migration with "
                            f"new_sqlite_classes=[{name!r}]"
                        )
                    return self.create_namespace(
                        name, backend or "sqlite", class_name=class_name, now_ms=now_ms
                    )
        if backend is not None and backend != found.backend:
            raise MigrationError(
                f"the class {name!r} is stored by the {found.backend!r} backend and cannot be "
                f"opened with storage={backend!r}: the backend of an existing class never changes; "
                f"use storage={found.backend!r}, or another class and copy the data"
            )
        if class_name is not None and class_name != found.class_name:
            with self._change() as connection:
                connection.execute(
                    "UPDATE namespace SET class_name = ? WHERE number = ?",
                    (class_name, found.number),
                )
            return self.find_namespace(name) or found
        return found

    def create_namespace(
        self,
        name: str,
        backend: Backend,
        *,
        class_name: str | None = None,
        declared_by: str | None = None,
        now_ms: int = 0,
    ) -> NamespaceRecord:
        """A new namespace. Its key is its name, or, when that was ever used, the name and a number.

        Raises:
            MigrationError: a live namespace has that name.
        """
        if not name:
            raise ArgumentValueError("a namespace's name is empty; pass the class's name")
        with self._change() as connection:
            if self.find_namespace(name) is not None:
                raise MigrationError(f"the class {name!r} exists already")
            unique_key, attempt = name, 1
            while connection.execute(
                "SELECT 1 FROM namespace WHERE unique_key = ?", (unique_key,)
            ).fetchone():
                attempt += 1
                unique_key = f"{name}~{attempt}"
            connection.execute(
                "INSERT INTO namespace (name, unique_key, class_name, backend, folder, created_ms,"
                " declared_by, state) VALUES (?, ?, ?, ?, ?, ?, ?, 'live')",
                (
                    name,
                    unique_key,
                    class_name or name,
                    backend,
                    namespace_folder(unique_key),
                    now_ms,
                    declared_by,
                ),
            )
            connection.execute("DELETE FROM retired_name WHERE name = ?", (name,))
            found = self.find_namespace(name)
        if found is None:
            raise AssertionError("the namespace that was just inserted is not there")
        return found

    def declare_namespace(self, number: NamespaceNumber, tag: str) -> None:
        """Record that a migration now declares a namespace that use had created."""
        with self._change() as connection:
            connection.execute(
                "UPDATE namespace SET declared_by = ? WHERE number = ?", (tag, number)
            )

    def rename_namespace(self, number: NamespaceNumber, name: str, *, reason: str) -> None:
        """Give a namespace another name. Its key, folder, objects and alarms stay.

        Args:
            number: which.
            name: the new name.
            reason: completes "the class X …" for whoever uses the old name.
        """
        with self._change() as connection:
            connection.execute(_RETIRE, (reason, number))
            connection.execute("DELETE FROM retired_name WHERE name = ?", (name,))
            connection.execute(
                "UPDATE namespace SET name = ?, class_name = ? WHERE number = ?",
                (name, name, number),
            )

    def delete_namespace(self, number: NamespaceNumber, *, reason: str) -> None:
        """Retire a namespace with its objects and alarms; its folder is removed afterwards."""
        with self._change() as connection:
            connection.execute(_RETIRE, (reason, number))
            connection.execute(
                "UPDATE namespace SET state = 'deleting' WHERE number = ?", (number,)
            )
            connection.execute("DELETE FROM object WHERE namespace = ?", (number,))
            connection.execute("DELETE FROM alarm WHERE namespace = ?", (number,))

    def namespace_removed(self, number: NamespaceNumber) -> None:
        """Record that the folder of a deleted namespace is gone."""
        with self._change() as connection:
            connection.execute("UPDATE namespace SET state = 'deleted' WHERE number = ?", (number,))

    def retired_names(self) -> dict[str, str]:
        """Names that a migration took, each with what it did ("was deleted by …")."""
        with self._query() as connection:
            return dict(connection.execute("SELECT name, reason FROM retired_name").fetchall())

    # ------------------------------------------------------------------ migrations

    def applied_migrations(self) -> list[AppliedMigration]:
        """The migrations that were applied, in order."""
        with self._query() as connection:
            rows = connection.execute(
                "SELECT tag, steps, applied_ms FROM migration ORDER BY position"
            ).fetchall()
        return [AppliedMigration(*row) for row in rows]

    def applied_tags(self) -> list[str]:
        """The tags of the applied migrations, in order."""
        return [migration.tag for migration in self.applied_migrations()]

    def record_migration(self, tag: str, steps: str, *, now_ms: int = 0) -> None:
        """Record that a migration was applied, after those recorded before."""
        with self._change() as connection:
            connection.execute(
                "INSERT INTO migration (tag, steps, applied_ms) VALUES (?, ?, ?)",
                (tag, steps, now_ms),
            )

    # ------------------------------------------------------------------ objects

    def register_object(
        self,
        namespace: NamespaceNumber,
        object_id: str,
        *,
        name: str | None = None,
        created_ms: int = 0,
        location_hint: str | None = None,
        jurisdiction: str | None = None,
    ) -> None:
        """Remember an object; buffered. Known facts are only added to, never erased."""
        key = (namespace, bytes.fromhex(object_id))
        with self._buffering:
            waiting = self._objects.get(key)
            if waiting is None:
                self._objects[key] = _NewObject(name, created_ms, location_hint, jurisdiction)
            else:
                waiting.name = name if name is not None else waiting.name
                waiting.location_hint = waiting.location_hint or location_hint
                waiting.jurisdiction = waiting.jurisdiction or jurisdiction
        self._written(durable=False)

    def forget_object(self, namespace: NamespaceNumber, object_id: str) -> None:
        """Drop an object and its alarm from the index; buffered."""
        key = (namespace, bytes.fromhex(object_id))
        with self._buffering:
            self._objects[key] = None
            self._alarms[key] = None
        self._written(durable=False)

    def object(self, namespace: NamespaceNumber, object_id: str) -> ObjectRecord | None:
        """What is known about one object."""
        with self._query() as connection:
            row = connection.execute(
                "SELECT name, created_ms, location_hint, jurisdiction FROM object"
                " WHERE namespace = ? AND id = ?",
                (namespace, bytes.fromhex(object_id)),
            ).fetchone()
        return None if row is None else ObjectRecord(namespace, object_id, *row)

    def objects(
        self,
        namespace: NamespaceNumber,
        *,
        after: str | None = None,
        limit: int = 1000,
    ) -> list[ObjectRecord]:
        """One page of a namespace's objects, in order of id, starting behind ``after``."""
        with self._query() as connection:
            rows = connection.execute(
                "SELECT id, name, created_ms, location_hint, jurisdiction FROM object"
                " WHERE namespace = ? AND id > ? ORDER BY id LIMIT ?",
                (namespace, bytes.fromhex(after) if after is not None else b"", limit),
            ).fetchall()
        return [ObjectRecord(namespace, row[0].hex(), *row[1:]) for row in rows]

    def iterate_objects(
        self, namespace: NamespaceNumber, *, page: int = 1000
    ) -> Iterator[ObjectRecord]:
        """Every object of a namespace in order of id, read page by page."""
        after: str | None = None
        while records := self.objects(namespace, after=after, limit=page):
            yield from records
            after = records[-1].id

    def count_objects(self, namespace: NamespaceNumber) -> int:
        """How many objects of a namespace are known."""
        with self._query() as connection:
            row = connection.execute(
                "SELECT count(*) FROM object WHERE namespace = ?", (namespace,)
            ).fetchone()
        return int(row[0])

    def rescan(
        self,
        directory: DataDirectory,
        *,
        namespace: NamespaceNumber | None = None,
        read: Callable[[NamespaceRecord, str], ObjectFacts | None] | None = None,
    ) -> int:
        """Make the objects of the index those that have a file; return how many were added.

        Names and hints that the index has are kept. Entries without a file go, and their
        alarms with them.

        Args:
            directory: where the files are.
            namespace: only this one; all live ones by default.
            read: given a namespace and the path of a file that the index lacks, what the file
                says; its alarm enters the alarm index. ``None``: nothing is read.
        """
        added = 0
        for record in self.namespaces():
            if namespace is not None and record.number != namespace:
                continue
            known = {entry.id for entry in self.iterate_objects(record.number)}
            for object_id in directory.object_ids(record.folder):
                if object_id in known:
                    known.discard(object_id)
                    continue
                path = directory.object_path(record.folder, object_id)
                facts = (read(record, path) if read is not None else None) or ObjectFacts()
                self.register_object(
                    record.number,
                    object_id,
                    name=facts.name,
                    jurisdiction=facts.jurisdiction,
                    created_ms=int(os.stat(path).st_mtime * 1000),
                )
                if facts.alarm_ms is not None:
                    self.alarm_set(record.number, object_id, facts.alarm_ms)
                added += 1
            for object_id in known:
                self.forget_object(record.number, object_id)
        self.flush(durable=True)
        return added

    # ------------------------------------------------------------------ alarms

    def alarm_set(
        self, namespace: NamespaceNumber, object_id: str, due_ms: int, *, durable: bool = False
    ) -> None:
        """Put an object's alarm into the index, in place of the one it has."""
        key = (namespace, bytes.fromhex(object_id))
        with self._buffering:
            self._alarms[key] = due_ms
        self._written(durable)

    def alarm_clear(
        self, namespace: NamespaceNumber, object_id: str, *, durable: bool = False
    ) -> None:
        """Take an object's alarm out of the index, if it is there."""
        key = (namespace, bytes.fromhex(object_id))
        with self._buffering:
            self._alarms[key] = None
        self._written(durable)

    def alarm_get(self, namespace: NamespaceNumber, object_id: str) -> int | None:
        """When the index says that an object's alarm is due."""
        with self._query() as connection:
            row = connection.execute(
                "SELECT due_ms FROM alarm WHERE namespace = ? AND id = ?",
                (namespace, bytes.fromhex(object_id)),
            ).fetchone()
        return None if row is None else int(row[0])

    def alarms_due(self, before_ms: int, limit: int = 1000) -> list[AlarmRecord]:
        """Alarms due at or before ``before_ms``, the earliest first."""
        with self._query() as connection:
            rows = connection.execute(
                "SELECT due_ms, namespace, id FROM alarm WHERE due_ms <= ?"
                " ORDER BY due_ms, namespace, id LIMIT ?",
                (before_ms, limit),
            ).fetchall()
        return [AlarmRecord(due, number, id_.hex()) for due, number, id_ in rows]

    def alarms_all(self, *, page: int = 1000) -> Iterator[AlarmRecord]:
        """Every alarm in order of object, read page by page; alarms may change meanwhile."""
        after: tuple[int, bytes] = (-1, b"")
        while True:
            with self._query() as connection:
                rows = connection.execute(
                    "SELECT due_ms, namespace, id FROM alarm WHERE (namespace, id) > (?, ?)"
                    " ORDER BY namespace, id LIMIT ?",
                    (*after, page),
                ).fetchall()
            if not rows:
                return
            for due, number, id_ in rows:
                yield AlarmRecord(due, number, id_.hex())
            after = (rows[-1][1], rows[-1][2])

    def next_due(self) -> int | None:
        """When the earliest alarm is due."""
        with self._query() as connection:
            row = connection.execute("SELECT min(due_ms) FROM alarm").fetchone()
        return None if row[0] is None else int(row[0])

    def count_alarms(self) -> int:
        """How many alarms are set."""
        with self._query() as connection:
            return int(connection.execute("SELECT count(*) FROM alarm").fetchone()[0])


def _write(
    connection: sqlite3.Connection,
    objects: dict[_Key, _NewObject | None],
    alarms: dict[_Key, int | None],
) -> None:
    _many(
        connection,
        _PUT_OBJECT,
        (
            (*key, new.name, new.created_ms, new.location_hint, new.jurisdiction)
            for key, new in objects.items()
            if new is not None
        ),
    )
    _many(
        connection,
        "DELETE FROM object WHERE namespace = ? AND id = ?",
        (key for key, new in objects.items() if new is None),
    )
    _many(connection, _PUT_ALARM, ((*key, due) for key, due in alarms.items() if due is not None))
    _many(
        connection,
        "DELETE FROM alarm WHERE namespace = ? AND id = ?",
        (key for key, due in alarms.items() if due is None),
    )


def _many(connection: sqlite3.Connection, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
    connection.executemany(sql, rows)


def _set(connection: sqlite3.Connection, pragma: str, value: str, expected: object) -> None:
    connection.execute(f"PRAGMA {pragma}={value}")
    found = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    if found != expected:
        raise DatabaseFileError(f"PRAGMA {pragma}={value} was not accepted: it is {found!r}")


def _sync_directory(path: str) -> None:
    if os.name == "nt":  # folders cannot be opened there; NTFS journals its metadata
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise SqlError(
            f"the registry: {exc}",
            sqlite_errorcode=getattr(exc, "sqlite_errorcode", None),
            sqlite_errorname=getattr(exc, "sqlite_errorname", None),
        ) from exc
