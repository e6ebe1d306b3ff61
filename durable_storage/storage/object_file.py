"""One object's file with everything that belongs to it: the database and, unless off, its log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, final

from ..clock import Clock
from ..database.connection import MISSING, Database
from ..database.create import FileClaim
from ..database.faults import Faults
from ..errors import DatabaseFileError
from ..history import CommitLog, History
from ..limits import Limits
from .session import DEFAULT_SERIALIZER, SERIALIZER_KEY

__all__ = ["LogRefusedError", "ObjectFile", "Prepared", "prepare"]


class LogRefusedError(OSError):
    """The disk refused what an object's history lacks and its WAL must not lose."""


class Prepared(NamedTuple):
    """A file that SQLite may open."""

    claim: FileClaim
    log: CommitLog | None
    restored: bool
    """Whether a restore was pending."""

    def close(self) -> None:
        """Give up what nobody opens."""
        try:
            if self.log is not None:
                self.log.close()
        finally:
            self.claim.release()


def prepare(path: str, *, clock: Clock, history: History, faults: Faults | None) -> Prepared:
    """Do what a crash or a restore left to do before SQLite opens a file; may run in a worker.

    Raises:
        DatabaseFileError: it cannot be opened, or is open in this process.
        BookmarkError: a pending restore cannot be done; it is given up.
        OSError: the disk refused.
    """
    claim = FileClaim(path)
    open_log = CommitLog.open if history.enabled else CommitLog.finish_restore
    try:
        found = open_log(path, settings=history, clock_ms=clock.time_ms, faults=faults)
    except BaseException:
        claim.release()
        raise
    if isinstance(found, CommitLog):
        return Prepared(claim, found, found.restored)
    return Prepared(claim, None, found)


@final
class ObjectFile:
    """An open object file.

    Args:
        path: the database file; made if missing.
        history: the commit log's settings; disabled, there is none.
        prepared: what `prepare` gave; done now if missing.

    Attributes:
        restored: opening it has done a restore that was asked for before.

    Raises:
        DatabaseFileError: it cannot be opened.
    """

    def __init__(
        self,
        path: str,
        *,
        limits: Limits,
        clock: Clock,
        history: History,
        faults: Faults | None = None,
        before_confirm: Callable[[], None] | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        self.path = path
        self._clock = clock
        self._before_confirm = before_confirm
        # Two lives may confirm at once: the last commits of the old and the first of the new.
        self._lock = threading.Lock()
        self._closed: list[Exception] | None = None
        if prepared is None:
            prepared = prepare(path, clock=clock, history=history, faults=faults)
        self._claim = prepared.claim
        self.log: CommitLog | None = prepared.log
        self.restored: bool = prepared.restored
        try:
            self.database: Database = Database(path, limits=limits, faults=faults)
            self._claim.opened()
            if self.log is not None:
                self.log.attach(self.database)
        except BaseException:
            prepared.close()
            raise

    def claim_serializer(self, name: str) -> None:
        """Refuse a serializer other than the one the file's values were written with.

        Raises:
            DatabaseFileError: it is another one.
        """
        recorded = self.database.meta_get(SERIALIZER_KEY)
        if recorded is MISSING:
            holds_values = next(
                self.database.kv_list(
                    start=None, start_after=None, end=None, prefix=None, reverse=False, limit=1
                ),
                None,
            )
            recorded = name if holds_values is None else DEFAULT_SERIALIZER
        if recorded != name:
            raise DatabaseFileError(
                f"{self.path} holds values of the serializer {recorded!r} and was opened with "
                f"{name!r}; open it with {recorded!r}, or copy its values into a new object"
            )

    def confirm(self) -> None:
        """Make every commit made so far durable; blocks, and may run in a worker thread.

        Raises:
            OSError: the disk refused.
        """
        if self.database.left:  # also, no thread is left to give the lock back
            raise OSError("the file is the parent process's")
        with self._lock:
            if self._closed is not None:
                if self._closed:
                    raise self._closed[0]
                return
            if self._before_confirm is not None:
                self._before_confirm()
            if self.log is not None:
                self.log.confirming()
            self.database.confirm()
            if self.log is not None:
                self.log.confirmed(self._clock.time_ms())

    def fold(self) -> bool:
        """Archive the log's newest part and fold it into the database; blocks.

        Nobody else may use the database meanwhile. False if it could not be folded now.

        Raises:
            LogRefusedError: nothing may be written until the file was closed and opened anew.
            OSError: the log itself cannot be synced.
            SqlError: the file cannot be written.
        """
        database, log = self.database, self.log
        if database.left:
            return False
        with self._lock:
            if self._closed is not None:
                return False
            if log is None:
                # Folding may delete the WAL; its name must not be an earlier WAL's by then.
                database.confirm()
                return database.checkpoint()
            if log.may_lag():
                folded = self._archive_and_fold(log)
            else:
                # What is not in the log (a full disk) must stay in the WAL.
                folded = log.archive() and database.checkpoint(restart=False)
            if folded:
                database.restart_wal()
                # The new WAL begins with a commit that a bookmark may name.
                database.confirm()
                log.checkpointed()
            return folded

    def _archive_and_fold(self, log: CommitLog) -> bool:
        """Do both at once: one keeps the processor busy, and the other the disk."""
        with ThreadPoolExecutor(1) as thread:
            archiving = thread.submit(log.archive)
            folded = self.database.checkpoint(restart=False)
        refusal = archiving.exception()
        if folded and (refusal is not None or not archiving.result()):
            # The next commit would start the WAL anew, over what is not in the log.
            self.database.close()
            raise LogRefusedError("its history cannot be written") from refusal
        return folded and archiving.result()

    def close(self) -> None:
        """Close everything; what was committed is confirmed by then."""
        if self.database.left:
            return
        with self._lock:
            if self._closed is not None:
                return
            self._closed = []
            try:
                if self.log is not None:
                    self.log.close()
                elif self.database.commits:
                    self.database.confirm()
            except Exception as error:
                self._closed.append(error)
                if self.log is not None or not isinstance(error, OSError):
                    raise
            finally:
                self.database.close()
                self._claim.release()
