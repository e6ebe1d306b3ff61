"""``ctx.storage`` under Cloudflare's own names; the work is done by the library's storage."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast, final

from ..database.cursor import SqlStorageCursor as NativeCursor
from ..errors import ArgumentTypeError
from ..gates.ready import Eager
from ..storage.alarm_slot import SECONDS_MAX
from ..storage.sql import SqlStorage as NativeSql
from ..storage.storage import DurableObjectStorage as NativeStorage
from ..storage.sync_kv import SyncKvStorage as NativeKv
from ..storage.transaction import DurableObjectTransaction as NativeTransaction
from .values import (
    JsArray,
    JsDict,
    JsMap,
    Mapped,
    Named,
    from_js,
    milliseconds,
    options_of,
    to_js,
)

__all__ = [
    "DurableObjectStorage",
    "DurableObjectTransaction",
    "SqlStorage",
    "SqlStorageCursor",
    "SyncKvStorage",
]

T = TypeVar("T")

_RANGE = ("start", "start_after", "end", "prefix", "reverse", "limit")
_READ = ("allow_concurrency", "no_cache")
_WRITE = ("allow_concurrency", "allow_unconfirmed", "no_cache")


class _AsyncStorage(Named):
    """What storage and a transaction have in common."""

    __slots__ = ("_native",)

    _native: Any

    def get(self, key: Any, options: Any = None, /, **more: Any) -> Awaitable[Any]:
        """The value of a key, or None; of a list of keys, a map of those found."""
        known = options_of(options, more, *_READ)
        if isinstance(key, str):
            return Mapped(self._native.get(key, **known), from_js)
        return Mapped(self._native.get(key, **known), _map)

    def list(self, options: Any = None, /, **more: Any) -> Awaitable[JsMap]:
        """A map of the pairs in a range, in key order."""
        return Mapped(self._native.list(**options_of(options, more, *_RANGE, *_READ)), _map)

    def put(self, key: Any, *arguments: Any, **more: Any) -> Eager[None]:
        """Store ``put(key, value)`` or ``put({key: value, ...})``; options come last."""
        if isinstance(key, str):
            if not arguments:
                raise ArgumentTypeError("put() called with undefined value.")
            value, options = arguments[0], arguments[1] if len(arguments) > 1 else None
            known = options_of(options, more, *_WRITE)
            return cast("Eager[None]", self._native.put(key, to_js(value), **known))
        known = options_of(arguments[0] if arguments else None, more, *_WRITE)
        return cast("Eager[None]", self._native.put(to_js(key), **known))

    def delete(self, key: Any, options: Any = None, /, **more: Any) -> Eager[Any]:
        """Delete a key: whether it was there; or a list of keys: how many were."""
        return cast("Eager[Any]", self._native.delete(key, **options_of(options, more, *_WRITE)))

    def getAlarm(self, options: Any = None, /, **more: Any) -> Awaitable[int | None]:  # noqa: N802
        """When the alarm is due, in milliseconds since the epoch, or None."""
        known = options_of(options, more, "allow_concurrency")
        return Mapped(self._native.get_alarm(**known), _to_ms)

    def setAlarm(self, when: Any, options: Any = None, /, **more: Any) -> Eager[None]:  # noqa: N802
        """Set the alarm: a ``datetime`` (naive: local time), or milliseconds since the epoch."""
        known = options_of(options, more, "allow_concurrency", "allow_unconfirmed")
        due = milliseconds(when, "setAlarm()")
        if due <= 0:
            raise ArgumentTypeError("setAlarm() cannot be called with an alarm time <= 0")
        # There, a time long past means now, even if seconds were meant.
        time = datetime.timedelta(0) if due < SECONDS_MAX else due
        return cast("Eager[None]", self._native.set_alarm(time, **known))

    def deleteAlarm(self, options: Any = None, /, **more: Any) -> Eager[None]:  # noqa: N802
        """Remove the alarm."""
        known = options_of(options, more, "allow_concurrency", "allow_unconfirmed")
        return cast("Eager[None]", self._native.delete_alarm(**known))


@final
class DurableObjectTransaction(_AsyncStorage):
    """What the callback of ``transaction()`` is given."""

    __slots__ = ()

    def __init__(self, native: NativeTransaction) -> None:
        self._native = native

    def deleteAll(self, options: Any = None, /, **_more: Any) -> Eager[None]:  # noqa: N802
        """Always refused."""
        return cast("Eager[None]", self._native.delete_all())

    def rollback(self) -> None:
        """Undo everything the transaction did and end it."""
        self._native.rollback()


@final
class DurableObjectStorage(_AsyncStorage):
    """``ctx.storage``.

    Attributes:
        sql: SQL on the object's database.
        kv: the KV store without awaiting.
    """

    __slots__ = ("kv", "sql")

    def __init__(self, native: NativeStorage) -> None:
        self._native: NativeStorage = native
        self.sql: SqlStorage = SqlStorage(native.sql)
        self.kv: SyncKvStorage = SyncKvStorage(native.kv)

    def deleteAll(self, options: Any = None, /, **more: Any) -> Eager[None]:  # noqa: N802
        """Delete everything but the alarm, atomically."""
        known = options_of(options, more, "allow_concurrency", "allow_unconfirmed", "delete_alarm")
        return self._native.delete_all(**known)

    def transaction(self, callback: Callable[..., Any]) -> Awaitable[Any]:
        """Run ``callback(txn)``, or ``callback()``, in a transaction."""
        if not callable(callback):
            raise ArgumentTypeError(
                f"transaction() takes a callable, got {type(callback).__name__}"
            )
        if not _takes_an_argument(callback):
            return self._native.transaction(callback)

        # An async function, so that a callback that fails at once fails inside the transaction.
        async def run(txn: NativeTransaction) -> Any:
            result: Any = callback(DurableObjectTransaction(txn))
            return await result if inspect.isawaitable(result) else result

        return self._native.transaction(run)

    def transactionSync(self, callback: Callable[[], T]) -> T:  # noqa: N802
        """Run the synchronous ``callback`` in a savepoint."""
        return self._native.transaction_sync(callback)

    def sync(self) -> Awaitable[None]:
        """Return when every write so far is confirmed."""
        return self._native.sync()

    def getCurrentBookmark(self) -> Eager[str]:  # noqa: N802
        """The bookmark of the present state."""
        return self._native.get_current_bookmark()

    def getBookmarkForTime(self, when: Any) -> Eager[str]:  # noqa: N802
        """The bookmark of the state at a time."""
        return self._native.get_bookmark_for_time(milliseconds(when, "getBookmarkForTime()"))

    def onNextSessionRestoreBookmark(self, bookmark: str) -> Eager[str]:  # noqa: N802
        """Restore the object to ``bookmark`` when it next starts; the bookmark that undoes it."""
        return self._native.on_next_session_restore_bookmark(bookmark)


@final
class SqlStorage(Named):
    """``ctx.storage.sql``."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeSql) -> None:
        self._native = native

    def exec(self, query: str, *bindings: Any) -> SqlStorageCursor:
        """Run statements now, up to the first row of the last one."""
        return SqlStorageCursor(self._native.exec(query, *bindings))

    @property
    def databaseSize(self) -> int:  # noqa: N802
        """Size of the database in bytes."""
        return self._native.database_size


@final
class SqlStorageCursor(Named):
    """The rows of a query, as `JsDict`; every way to read shares one position."""

    __slots__ = ("__weakref__", "_native")

    def __init__(self, native: NativeCursor[dict[str, Any]]) -> None:
        self._native = native

    def __iter__(self) -> Iterator[JsDict]:
        return map(JsDict, self._native)

    def __next__(self) -> JsDict:
        return JsDict(next(self._native))

    def next(self) -> JsDict:
        """The next row as JavaScript's iterators give it: ``done``, and ``value``."""
        return _step(iter(self))

    def toArray(self) -> JsArray:  # noqa: N802
        """The rows that are left."""
        return JsArray(map(JsDict, self._native.to_array()))

    def one(self) -> JsDict:
        """The only row that is left; anything else is an error."""
        return JsDict(self._native.one())

    def raw(self) -> RawRows:
        """The rows that are left as lists of values, from the same position."""
        return RawRows(self._native.raw())

    @property
    def columnNames(self) -> JsArray:  # noqa: N802
        """The names of the columns."""
        return JsArray(self._native.column_names)

    @property
    def rowsRead(self) -> int:  # noqa: N802
        """How many rows were read."""
        return self._native.rows_read

    @property
    def rowsWritten(self) -> int:  # noqa: N802
        """How many rows were written."""
        return self._native.rows_written


@final
class RawRows(Named):
    """The result of ``cursor.raw()``."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[JsArray]:
        return self

    def __next__(self) -> JsArray:
        return JsArray(next(self._rows))

    def next(self) -> JsDict:
        """The next row as JavaScript's iterators give it."""
        return _step(self)

    def toArray(self) -> JsArray:  # noqa: N802
        """The rows that are left."""
        return JsArray(self)


@final
class SyncKvStorage(Named):
    """``ctx.storage.kv``."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeKv) -> None:
        self._native = native

    def get(self, key: str) -> Any:
        """The value of ``key``, or None."""
        return from_js(self._native.get(key))

    def put(self, key: str, value: Any) -> None:
        """Store ``value`` under ``key``."""
        self._native.put(key, to_js(value))

    def delete(self, key: str) -> bool:
        """Delete ``key``; whether it was there."""
        return self._native.delete(key)

    def list(self, options: Any = None, /, **more: Any) -> Iterator[JsArray]:
        """Pairs of key and value, in key order."""
        pairs = self._native.list(**options_of(options, more, *_RANGE))
        return (JsArray([key, from_js(value)]) for key, value in pairs)


def _map(pairs: dict[str, Any]) -> JsMap:
    return JsMap({key: from_js(value) for key, value in pairs.items()})


def _to_ms(when: datetime.datetime | None) -> int | None:
    return None if when is None else round(when.timestamp() * 1000)


def _step(rows: Iterator[Any]) -> JsDict:
    for row in rows:
        return JsDict(done=False, value=row)
    return JsDict(done=True, value=None)


def _takes_an_argument(callback: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(
        each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD, each.VAR_POSITIONAL)
        for each in parameters
    )
