"""Random use of one object with its history, and what must be true of it after a crash."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from durable_storage.errors import BookmarkError
from durable_storage.history import (
    History,
    archive,
    block,
    commit_log,
    image,
    recovery,
    retention,
)

from ...unit.history.rig import ManualTime, Session
from .disk import Disk, Site

SETTINGS = History(retention=timedelta(seconds=12), segment_size_bytes=4096)
RETENTION_MS = SETTINGS.retention_ms


@dataclass
class Known:
    """What the outside world knows at some moment."""

    possible: list[str] = field(default_factory=list)
    """States that the object may be in after a loss of power; the last is the newest commit."""
    attempted: str | None = None
    """A state that is just being committed."""
    restoring: str | None = None
    """The state of a restore that was asked for durably."""
    bookmarks: dict[str, tuple[str, int]] = field(default_factory=dict)
    """State and time behind every bookmark that was given out and confirmed."""
    moments: list[tuple[int, str]] = field(default_factory=list)
    """When which state was confirmed."""
    now_ms: int = 0

    def copy(self) -> Known:
        return replace(
            self,
            possible=list(self.possible),
            bookmarks=dict(self.bookmarks),
            moments=list(self.moments),
        )


def shrink_constants(patch: pytest.MonkeyPatch) -> None:
    """Make everything happen often."""
    patch.setattr(archive, "SLICE_SIZE", 4 * 4120)
    patch.setattr(image, "SLICE_SIZE", 4 * 4120)
    patch.setattr(block, "PIECE_SIZE", 4096)
    patch.setattr(block, "LONG_PIECE_SIZE", 2 * 4096)
    patch.setattr(retention, "SNAPSHOT_AFTER_MIN_BYTES", 40 * 4096)
    patch.setattr(retention, "LOG_PER_SNAPSHOT", 2)
    patch.setattr(commit_log, "ARCHIVE_AHEAD_FRAMES", 5)


class Trusted:
    """A database that reports to the disk what SQLite syncs."""

    def __init__(self, session: Session, disk: Disk) -> None:
        self._session = session
        self._disk = disk

    @property
    def resting_at(self) -> int | None:
        return self._session.database.resting_at

    def confirm(self) -> None:
        self._session.database.confirm()

    def close(self) -> None:
        self._session.database.close()
        self._disk.synced(self._session.path)


class Workload:
    def __init__(self, root: str, seed: int, skipped: Site | None = None) -> None:
        self.path = os.path.join(root, "object.sqlite")
        self.chance = random.Random(seed)
        self.clock = ManualTime()
        self.known = Known()
        self.disk = Disk(root, self._point, skipped)
        self.at_point = lambda number, operation, path: None
        self.unconfirmed: dict[str, tuple[str, int]] = {}
        self.session: Session | None = None

    def _point(self, number: int, operation: str, path: str) -> None:
        self.known.now_ms = self.clock.now_ms
        self.at_point(number, operation, path)

    def run(self, patch: pytest.MonkeyPatch, steps: int) -> None:
        self._trust_recovery(patch)
        self._open()
        for _ in range(steps):
            self.clock.now_ms += self.chance.choice([0, 1, 200, 3000])
            self._step()
        self._close()
        self.disk.close()

    def _trust_recovery(self, patch: pytest.MonkeyPatch) -> None:
        disk = self.disk
        genuine = recovery._checkpoint

        def checkpoint(connection: sqlite3.Connection) -> tuple[int, int]:
            result = genuine(connection)
            for path in (self.path, self.path + "-wal"):
                if os.path.exists(path):
                    disk.synced(path)
            return result

        patch.setattr(recovery, "_checkpoint", checkpoint)

    def _step(self) -> None:
        kind = self.chance.random()
        if kind < 0.45:
            self._commit()
        elif kind < 0.65:
            self._confirm()
        elif kind < 0.75:
            self._bookmark()
        elif kind < 0.85:
            self._fold()
        elif kind < 0.89:
            self._reopen()
        elif kind < 0.94:
            self._restore()
        else:
            assert self.session is not None
            if self.session.log._log.head is not None:
                self.session.log.prune(self.clock.now_ms)

    # -- steps

    def _open(self) -> None:
        known = self.known
        self.session = Session(self.path, self.clock, SETTINGS, self.disk)
        self.session.log.attach(Trusted(self.session, self.disk))
        state = self.session.content()
        if known.restoring is not None:
            assert state == known.restoring
            known.possible = [state]
            known.restoring = None
        elif known.possible:
            assert state == known.possible[-1]
        else:
            known.possible = [state]
        known.moments.append((self.clock.now_ms, state))

    def _reopen(self) -> None:
        self._close()
        self._open()

    def _close(self) -> None:
        assert self.session is not None
        state = self.known.possible[-1]
        self.session.close()
        self.known.possible = [state]
        self._acknowledge()

    def _acknowledge(self) -> None:
        self.known.possible = self.known.possible[-1:]
        self.known.moments.append((self.clock.now_ms, self.known.possible[-1]))
        self.known.bookmarks.update(self.unconfirmed)
        self.unconfirmed.clear()

    def _commit(self) -> None:
        session, chance, known = self.session, self.chance, self.known
        assert session is not None
        kind = chance.random()
        statements: list[str | tuple[object, ...]] = [
            "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)"
        ]
        put = "INSERT OR REPLACE INTO t VALUES(?, ?)"
        if kind < 0.5:
            statements.append((put, chance.randrange(30), chance.randbytes(chance.randrange(3000))))
        elif kind < 0.6:
            for _ in range(chance.randrange(1, 15)):
                statements.append((put, chance.randrange(60), chance.randbytes(3000)))
        elif kind < 0.7:
            statements.append(("DELETE FROM t WHERE a >= ?", chance.randrange(40)))
        elif kind < 0.8:
            name = f"u{chance.randrange(3)}"
            statements += [f"CREATE TABLE IF NOT EXISTS {name}(a)", f"INSERT INTO {name} VALUES(1)"]
        elif kind < 0.85:
            statements.append(f"DROP TABLE IF EXISTS u{chance.randrange(3)}")
        elif kind < 0.92:
            session.database.begin()
            session.database.delete_all()
            statements = []
        else:
            session.vacuum()
            return
        if statements:
            session.database.begin()
            for statement in statements:
                query, *bindings = (statement,) if isinstance(statement, str) else statement
                session.database.exec(str(query), tuple(bindings), None, lambda: None).to_array()
        known.attempted = session.content()
        session.database.commit()
        known.possible.append(known.attempted)
        known.attempted = None

    def _confirm(self) -> None:
        assert self.session is not None
        self.session.confirm()
        self._acknowledge()

    def _bookmark(self) -> None:
        assert self.session is not None
        bookmark = self.session.log.current_bookmark()
        state = self.known.possible[-1]
        known = self.unconfirmed.get(bookmark) or self.known.bookmarks.get(bookmark)
        assert known is None or known[0] == state
        self.unconfirmed[bookmark] = (state, self.clock.now_ms)

    def _fold(self) -> None:
        session = self.session
        assert session is not None
        if self.chance.random() < 0.5:
            session.log.catch_up(lambda: None)
        # Both at once is in one of these orders, or in between.
        lagging = session.log.may_lag() and self.chance.random() < 0.9
        folded = lagging and self._checkpoint(session)
        archived = session.log.archive()
        if archived:
            self._acknowledge()
            folded = folded or (not lagging and self._checkpoint(session))
        elif folded:
            self._reopen()
            return
        if folded:
            session.database.restart_wal()
            self.disk.synced(self.path + "-wal")
            session.log.checkpointed()

    def _checkpoint(self, session: Session) -> bool:
        folded = session.database.checkpoint(restart=False)
        self.disk.synced(self.path)
        self.disk.synced(self.path + "-wal")
        return folded

    def _restore(self) -> None:
        session, known = self.session, self.known
        assert session is not None
        usable = [
            (bookmark, state)
            for bookmark, (state, time_ms) in known.bookmarks.items()
            if time_ms >= self.clock.now_ms - RETENTION_MS
        ]
        if not usable:
            return
        bookmark, state = self.chance.choice(usable)
        self._confirm()
        before = known.possible[-1]
        # While it is being asked for, a crash may have it happen or not; from then on it must.
        known.attempted = state
        undo = session.log.request_restore(bookmark)
        known.attempted, known.restoring = None, state
        session.close()
        self.unconfirmed.clear()
        # It names the last commit of its epoch, whatever comes of the restore.
        known.bookmarks[undo] = (before, self.clock.now_ms)
        self._open()


def check(root: str, known: Known, *, power: bool, chance: random.Random) -> None:
    """Reopen what a crash left, and compare it with what the outside world knew."""
    path = os.path.join(root, "object.sqlite")
    clock = ManualTime(known.now_ms + 1)
    session = Session(path, clock, SETTINGS)
    state = session.content()
    allowed = set(known.possible) if power else set(known.possible[-1:])
    if known.attempted is not None:
        allowed.add(known.attempted)
    if known.restoring is not None:
        allowed = {known.restoring}
    if known.possible:
        assert state in allowed, "the state is none of those it may be"
    if os.path.exists(path + "-history/identity"):
        verification = session.log.verify()
        assert verification.sound, verification.damages
    cutoff = known.now_ms - RETENTION_MS
    wanted = [item for item in known.bookmarks.items() if item[1][1] >= cutoff]
    for bookmark, (expected, _) in chance.sample(wanted, min(3, len(wanted))) + wanted[-2:]:
        try:
            assert session.exported(bookmark) == expected, "a bookmark holds another state"
        except BookmarkError as error:
            raise AssertionError(f"a confirmed bookmark is lost: {error}") from error
    session.run("CREATE TABLE IF NOT EXISTS afterwards(a)", "INSERT INTO afterwards VALUES(1)")
    session.confirm()
    bookmark, state = session.log.current_bookmark(), session.content()
    assert all(bookmark > other for other in known.bookmarks)
    session.fold()
    session.close()
    session = Session(path, clock, SETTINGS)
    assert session.content() == state
    assert session.exported(bookmark) == state
    session.close()
    shutil.rmtree(root)
