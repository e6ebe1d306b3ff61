"""One object's file with its history, driven by hand, and full copies to compare with."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from datetime import timedelta

from durable_storage.database.connection import Database
from durable_storage.database.faults import Faults
from durable_storage.history import CommitLog, History

SMALL = History(retention=timedelta(seconds=100), segment_size_bytes=4096)


class ManualTime:
    def __init__(self, now_ms: int = 1_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


class Session:
    """An open object: what the storage layer does, in as few words as possible."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Callable[[], int] | None = None,
        settings: History = SMALL,
        faults: Faults | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.clock = clock or ManualTime()
        self.log = CommitLog.open(path, settings=settings, clock_ms=self.clock, faults=faults)
        # Work in the background is done at once, so that tests are repeatable.
        self.log._start = lambda work: work()
        self.database = Database(path, faults=faults)
        self.log.attach(self.database)

    def run(self, *statements: str | tuple[str, ...]) -> None:
        """Commit statements as one transaction."""
        self.database.begin()
        for statement in statements:
            query, *bindings = (statement,) if isinstance(statement, str) else statement
            self.database.exec(query, tuple(bindings), None, lambda: None).to_array()
        self.database.commit()

    def delete_all(self) -> None:
        self.database.begin()
        self.database.delete_all()
        self.database.commit()

    def vacuum(self) -> None:
        connection = self.database._connection
        connection.set_authorizer(None)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
        connection.execute("VACUUM")
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_authorizer(self.database._authorizer)

    def confirm(self) -> None:
        self.log.confirming()
        self.database.confirm()
        self.log.confirmed(self.clock())

    def fold(self) -> bool:
        if not self.log.archive():
            return False
        folded = self.database.checkpoint()
        if folded:
            self.log.checkpointed()
        return folded

    def close(self) -> None:
        self.log.close()

    def crash(self) -> None:
        """Leave the files as the death of the process would."""
        kill(self)

    def content(self) -> str:
        return content(self.database._connection)

    def exported(self, bookmark: str | None = None) -> str:
        destination = self.path + ".exported"
        self.log.export(destination, bookmark)
        try:
            return file_content(destination)
        finally:
            os.unlink(destination)


def kill(session: Session) -> None:
    """Close an object's descriptors with its files as they are now."""
    directory = os.path.dirname(session.path)
    held = {}
    for root, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                held[path] = file.read(), os.stat(path)
    links = [
        (path, other)
        for path in held
        for other in held
        if path < other and os.path.samefile(path, other)
    ]
    session.database.close()
    session.log.abandon()
    for root, _, names in os.walk(directory):
        for name in names:
            if os.path.join(root, name) not in held:
                os.unlink(os.path.join(root, name))
    for path, (data, status) in held.items():
        # In place, so that nothing else about the file changes.
        with open(path, "r+b" if os.path.exists(path) else "wb") as file:
            file.truncate(0)
            file.write(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for path, other in links:
        if not os.path.samefile(path, other):
            os.unlink(other)
            os.link(path, other)


def content(connection: sqlite3.Connection) -> str:
    """Return a digest of the schema and every row."""
    return hashlib.blake2b(dump(connection).encode(), digest_size=8).hexdigest()


def dump(connection: sqlite3.Connection) -> str:
    connection.set_authorizer(None)
    lines = []
    tables = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall()
    for name, sql in tables:
        lines.append(f"{name}: {sql}")
        if sql is not None and sql.upper().startswith("CREATE TABLE"):
            rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()
            lines += sorted(map(repr, rows))
    return "\n".join(lines)


def file_content(path: str) -> str:
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        assert verdict == "ok", verdict
        return content(connection)
    finally:
        connection.close()
