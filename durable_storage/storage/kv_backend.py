"""The store behind an object of the legacy backend: a seam, and the default behind it.

A store is asynchronous, because a real one is remote: its reads wait, which is what the input
gate, the cache and the output gate of the legacy backend are there for. One store belongs to
one object, and one runtime owns the object, so a store need not expect other writers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol, TypeVar, final

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..database.connection import Database
from ..database.faults import Faults
from ..errors import DurableStorageError
from ..limits import Limits

__all__ = ["KvBackend", "PartialDeleteError", "SqliteKvBackend"]

T = TypeVar("T")

_THREADS: Final = 8
_WAL_SIZE_MAX_BYTES: Final = 4 * 1024**2


class PartialDeleteError(DurableStorageError):
    """A store could delete only a part of an object's keys; deleting again may do the rest.

    Attributes:
        remaining: how many keys are left, ``None`` if the store cannot say; the message says it
            too.
    """

    def __init__(self, message: str, *, remaining: int | None = None) -> None:
        if remaining is not None and str(remaining) not in message:
            message = f"{message}; {remaining} keys are left"
        super().__init__(message)
        self.remaining = remaining


class KvBackend(Protocol):
    """An ordered store of bytes under str keys, for one object.

    Keys are ordered by their UTF-8 bytes. Calls may overlap; a read sees every batch that had
    returned before it was called. Whatever a method raises breaks the object's output gate. A
    cancelled batch may have happened or not, but never a part of it.
    """

    async def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those of ``keys`` that exist."""
        ...

    async def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[str, bytes]]:
        """The pairs in a range of keys, in order.

        Args:
            start: the least key, itself included.
            start_after: the least key, itself left out.
            end: the key to stop before.
            prefix: what every key begins with.
            reverse: the greatest key first; the bounds stay what they are.
            limit: at most so many, counted in the order of the result.
        """
        ...

    async def batch(self, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        """Return once all of this is durable. All or nothing of it happens; no key is in both."""
        ...

    async def delete_all(self) -> None:
        """Delete every key.

        Raises:
            PartialDeleteError: some are deleted, and others are left.
        """
        ...

    async def close(self) -> None:
        """Release what the store holds. Idempotent."""
        ...


_limiter: Final[anyio.lowlevel.RunVar[anyio.CapacityLimiter]] = anyio.lowlevel.RunVar(
    "durable_storage_kv_threads"
)


def _threads() -> anyio.CapacityLimiter:
    # One for all stores of an event loop, so that a thousand objects do not mean as many threads.
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
        return limiter


@final
class SqliteKvBackend:
    """The default store: a SQLite file, used in a worker thread and opened by the first call.

    Calls take turns in the order in which they were made. Deleting everything is atomic here.

    Args:
        path: the file; the folder it is in exists.
        limits: what the file may hold.
        faults: makes file operations fail, for tests.
        before_confirm: called in the worker before a batch is called durable, to sync what the
            file's place depends on.

    Raises:
        DatabaseFileError: (the first call) the file cannot be opened.
        SqlError: (any call) the file cannot be read or written.
        OSError: (``batch``, ``delete_all``) the disk failed; every later batch fails too.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        faults: Faults | None = None,
        before_confirm: Callable[[], None] | None = None,
    ) -> None:
        self._path = os.fspath(path)
        self._limits = limits
        self._faults = faults
        self._before_confirm = before_confirm
        self._turn = anyio.Lock()
        self._database: Database | None = None
        self._closed = False

    async def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See ``KvBackend.get``."""
        wanted = list(keys)

        def work(database: Database) -> dict[str, bytes]:
            found = ((key, database.kv_get(key)) for key in wanted)
            return {key: value for key, value in found if isinstance(value, bytes)}

        return await self._run(work)

    async def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[str, bytes]]:
        """See ``KvBackend.list``."""

        def work(database: Database) -> list[tuple[str, bytes]]:
            pairs = database.kv_list(
                start=start,
                start_after=start_after,
                end=end,
                prefix=prefix,
                reverse=reverse,
                limit=limit,
            )
            return [(key, value) for key, value in pairs if isinstance(value, bytes)]

        return await self._run(work)

    async def batch(self, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        """See ``KvBackend.batch``."""
        # Taken now: the caller may go on changing what it passed.
        pairs = [(key, bytes(value)) for key, value in puts.items()]
        keys = list(deletes)

        def work(database: Database) -> None:
            if pairs:
                database.kv_put_many(pairs)
            for key in keys:
                database.kv_delete(key)

        await self._write(work)

    async def delete_all(self) -> None:
        """See ``KvBackend.delete_all``."""
        await self._write(Database.delete_all)

    async def close(self) -> None:
        """See ``KvBackend.close``."""
        async with self._turn:
            self._closed = True
            database, self._database = self._database, None
            if database is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(database.close, limiter=_threads())

    async def _write(self, work: Callable[[Database], None]) -> None:
        def transaction(database: Database) -> None:
            database.begin()
            try:
                work(database)
                database.commit()
            except BaseException:
                database.rollback()
                raise
            if self._before_confirm is not None:
                self._before_confirm()
            database.confirm()
            if database.wal_size_bytes > _WAL_SIZE_MAX_BYTES:
                database.checkpoint()

        await self._run(transaction)

    async def _run(self, work: Callable[[Database], T]) -> T:
        def in_worker() -> T:
            if self._database is None:
                self._database = Database(self._path, limits=self._limits, faults=self._faults)
            return work(self._database)

        async with self._turn:
            if self._closed:
                raise DurableStorageError(
                    f"the store {self._path!r} is closed; its object was evicted or the runtime "
                    "has ended"
                )
            return await anyio.to_thread.run_sync(in_worker, limiter=_threads())
