"""``ctx.storage``: the object's private storage, every operation of it eager."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from threading import get_ident
from typing import Any, Protocol, TypeVar, cast, final, overload

from ..database.connection import Stored
from ..errors import ArgumentTypeError, LimitExceededError, TransactionError
from ..gates.ready import READY, Eager, Pending, Ready, uncalled
from ..limits import Limits
from .alarm_slot import alarm_time, from_ms, to_ms
from .kv_buffer import MISS, Gap, check_key, utf8_size
from .ranges import check_range
from .session import Session
from .sql import SqlStorage
from .sync_kv import SyncKvStorage
from .transaction import (
    DurableObjectTransaction,
    TransactionContext,
    transaction_section,
)

__all__ = ["Bookmarks", "DurableObjectStorage"]

T = TypeVar("T")

# Inside the class, "list" is its method.
_Keys = list[str]
_Pairs = list[tuple[str, object]]
_Stored = list[tuple[str, Stored, Any, int]]


class Bookmarks(Protocol):
    """The commit log, as far as an object sees it."""

    def current_bookmark(self) -> str:
        """The bookmark of the newest commit."""
        ...

    def bookmark_for_time(self, time_ms: int) -> str:
        """The bookmark of the last commit at or before a time."""
        ...

    def request_restore(self, bookmark: str) -> str:
        """Restore at the next start; the bookmark that undoes it."""
        ...


@final
class DurableObjectStorage:
    """The private storage of one object.

    Every operation does its work when it is called and returns a light awaitable, which may be
    dropped; awaiting a finished one does not suspend. Only inside a child task, while another
    event's critical section is open, does an operation wait for its turn.

    Options that every operation takes where Cloudflare's does: ``allow_concurrency`` has no effect
    on SQLite, whose reads never wait; ``no_cache`` keeps the value out of the read cache;
    ``allow_unconfirmed`` lets answers leave before this write is confirmed.

    Attributes:
        sql: the object's SQL.
        kv: the same keys and values, with plain functions.
    """

    __slots__ = ("_alarm_handler", "_bookmarks", "_limits", "_now_ms", "_session", "kv", "sql")

    def __init__(
        self,
        session: Session,
        limits: Limits,
        now_ms: Callable[[], int],
        bookmarks: Bookmarks | None,
        *,
        alarm_handler: bool,
    ) -> None:
        self._session = session
        self._limits = limits
        self._now_ms = now_ms
        self._bookmarks = bookmarks
        self._alarm_handler = alarm_handler
        self.sql: SqlStorage = SqlStorage(session)
        self.kv: SyncKvStorage = SyncKvStorage(session)

    def _rebind(self, session: Session, bookmarks: Bookmarks | None) -> None:
        """Serve another life of the object from now on."""
        self._session = session
        self._bookmarks = bookmarks
        self.sql._bind(session)  # pyright: ignore[reportPrivateUsage]
        self.kv._bind(session)  # pyright: ignore[reportPrivateUsage]

    # -- reading --------------------------------------------------------------------------

    @overload
    def get(
        self, key: str, *, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Eager[Any]: ...
    @overload
    def get(
        self, key: str, default: T, *, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Eager[T]: ...
    @overload
    def get(
        self, key: Iterable[str], *, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Eager[dict[str, Any]]: ...
    def get(
        self,
        key: str | Iterable[str],
        default: Any = None,
        *,
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Eager[Any]:
        """The value of a key, or ``default``; of several keys, a ``dict`` of those found, in order.

        Raises:
            LimitExceededError: more than 128 keys.
        """
        if type(key) is str:
            session = self._session
            if get_ident() != session.life.loop.thread_id:
                session.life.admission("get()")
            hot = session.kv.hot
            entry: Any = hot.get(key, MISS)
            kind = type(entry)  # pyright: ignore[reportUnknownVariableType] - of Any
            ready: Ready[Any]
            if kind is Ready:
                ready = entry
                return ready
            if kind is bytes:
                return Ready(session.kv.loads(entry))
            if kind is not Gap:
                # Kept in the value's place, so that the next get makes none (a third of its cost).
                ready = hot[key] = Ready(entry)
                return ready
        return self._get(key, default, no_cache)

    # Apart from get() and put(), because a function whose variables are used by functions inside it
    # makes a cell for each of them at every call (0.1 R).
    def _get(self, key: str | Iterable[str], default: Any, no_cache: bool) -> Eager[Any]:
        if isinstance(key, str):
            name = check_key(key, "get()")
            return self._eager("get()", lambda _: self._session.kv.get(name, default, no_cache))
        keys = self._keys(key, "get()")
        return self._eager("get()", lambda _: self._session.kv.get_many(keys, no_cache=no_cache))

    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Eager[dict[str, Any]]:
        """A ``dict`` of pairs in UTF-8 byte order of their keys.

        Args:
            start: first key, inclusive; not together with ``start_after``.
            start_after: first key, exclusive.
            end: last key, exclusive.
            prefix: what keys must begin with.
            reverse: from the highest key down.
            limit: at most so many pairs.
            allow_concurrency: has no effect on SQLite.
            no_cache: has no effect: listing never fills the cache.
        """
        check_range("list()", start, start_after, end, prefix, limit)

        def run(driven: bool) -> dict[str, Any]:
            session = self._session
            pairs = session.kv.as_dict(
                start=start,
                start_after=start_after,
                end=end,
                prefix=prefix,
                reverse=reverse,
                limit=limit,
            )
            if session.open:
                session.life.wrote(driven)
            return pairs

        return self._eager("list()", run)

    # -- writing --------------------------------------------------------------------------

    @overload
    def put(
        self,
        key: str,
        value: object,
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Eager[None]: ...
    @overload
    def put(
        self,
        key: Mapping[str, object],
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Eager[None]: ...
    def put(
        self,
        key: str | Mapping[str, object],
        value: object = MISS,
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Eager[None]:
        """Store a value, or every pair of a mapping or none of them.

        Raises:
            DataCloneError: a value cannot be stored; nothing changed.
            LimitExceededError: key and value are too large, or there are more than 128 pairs.
        """
        session = self._session
        life = session.life
        buffer = session.kv
        if type(key) is str and value is not MISS:
            stored, cached, size = buffer.encode(key, value)
            frame = life.loop.current
            if frame is not None and frame.life is life and life.admission("put()") is None:
                buffer.put(key, stored, cached, size, no_cache)
                life.pending = True
                if not allow_unconfirmed:
                    session.withhold = True
                return READY
            pairs = [(key, stored, cached, size)]
        else:
            pairs = [(k, *buffer.encode(k, v)) for k, v in self._pairs(key, value)]
        return self._put(pairs, allow_unconfirmed, no_cache)

    def _put(self, pairs: _Stored, allow_unconfirmed: bool, no_cache: bool) -> Eager[None]:
        def run(driven: bool) -> None:
            session = self._session
            for each in pairs:
                session.kv.put(*each, no_cache)
            if pairs:
                self._wrote(driven, allow_unconfirmed)

        return self._eager("put()", run)

    def _pairs(self, key: object, value: object) -> _Pairs:
        if isinstance(key, Mapping):
            if value is not MISS:
                raise ArgumentTypeError("put() takes a mapping alone, or a key and a value")
            entries = cast("Mapping[object, object]", key)
            self._count(len(entries), "put()", "pairs")
            return [(check_key(k, "put()"), v) for k, v in entries.items()]
        name = check_key(key, "put()")
        if value is MISS:
            raise ArgumentTypeError("put() of a key takes a value too")
        return [(name, value)]

    @overload
    def delete(
        self,
        key: str,
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Eager[bool]: ...
    @overload
    def delete(
        self,
        key: Iterable[str],
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Eager[int]: ...
    def delete(
        self,
        key: str | Iterable[str],
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Eager[Any]:
        """Delete a key: whether it was there; or several: how many were."""
        if isinstance(key, str):
            name = check_key(key, "delete()")

            def one(driven: bool) -> bool:
                existed = self._session.kv.delete(name)
                self._wrote(driven, allow_unconfirmed)
                return existed

            return self._eager("delete()", one)
        keys = self._keys(key, "delete()")

        def many(driven: bool) -> int:
            delete = self._session.kv.delete
            count = sum([delete(each) for each in dict.fromkeys(keys)])
            if keys:
                self._wrote(driven, allow_unconfirmed)
            return count

        return self._eager("delete()", many)

    def delete_all(
        self,
        *,
        delete_alarm: bool = False,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
    ) -> Eager[None]:
        """Delete everything, atomically and at once: tables, KV, and the alarm only if asked.

        Earlier uncommitted writes are dropped with the rest; an abort afterwards undoes nothing.

        Raises:
            TransactionError: inside a transaction.
        """

        def run(driven: bool) -> None:
            session = self._session
            if session.depth:
                raise TransactionError("Cannot call delete_all() within a transaction")
            session.delete_all(delete_alarm=delete_alarm)
            session.withhold = session.withhold or not allow_unconfirmed
            session.life.pending = True
            session.life.commit()

        return self._eager("delete_all()", run)

    # -- transactions ---------------------------------------------------------------------

    @overload
    def transaction(self) -> TransactionContext: ...
    @overload
    def transaction(
        self, callback: Callable[[DurableObjectTransaction], Awaitable[T]]
    ) -> Eager[T]: ...
    @overload
    def transaction(self, callback: Callable[[], Awaitable[T]]) -> Eager[T]: ...
    @overload
    def transaction(self, callback: Callable[[DurableObjectTransaction], T]) -> Eager[T]: ...
    @overload
    def transaction(self, callback: Callable[[], T]) -> Eager[T]: ...
    def transaction(self, callback: Callable[..., Any] | None = None) -> Any:
        """Run ``callback`` in a transaction during which no other event runs in the object.

        Without a callback: ``async with storage.transaction() as txn:``. The transaction commits
        when the code is done and rolls back when it raises; neither resets the object. Nested ones
        are savepoints.

        Args:
            callback: sync or async; takes the `DurableObjectTransaction`, or nothing.
        """
        life = self._session.life

        def begin() -> DurableObjectTransaction:
            return DurableObjectTransaction(self)

        if callback is None:
            return TransactionContext(life, begin)
        if not callable(callback):
            raise ArgumentTypeError(
                f"transaction() takes a callable, got {type(callback).__name__}{uncalled(callback)}"
            )
        return transaction_section(life, begin, callback)

    @overload
    def transaction_sync(self) -> AbstractContextManager[None]: ...
    @overload
    def transaction_sync(self, callback: Callable[[], T]) -> T: ...
    def transaction_sync(self, callback: Callable[[], Any] | None = None) -> Any:
        """Run the synchronous ``callback`` in a savepoint: undone when it raises. Nests.

        Without a callback: ``with storage.transaction_sync():``.

        Raises:
            ArgumentTypeError: the callback is asynchronous; nothing it did is kept.
        """
        if callback is None:
            return self._transaction_sync()
        if not callable(callback):
            raise ArgumentTypeError(
                "transaction_sync() takes a callable, got "
                f"{type(callback).__name__}{uncalled(callback)}"
            )
        session = self._session
        driven = session.life.admit("transaction_sync()")

        def run() -> Any:
            result = callback()
            if isinstance(result, Awaitable):
                close = getattr(cast("Any", result), "close", None)
                if close is not None:
                    close()
                raise ArgumentTypeError(
                    "transaction_sync() takes a synchronous callback; use transaction() for an "
                    "asynchronous one"
                )
            return result

        try:
            return session.savepoint(run)
        finally:
            self._wrote_in(session, driven)

    @contextmanager
    def _transaction_sync(self) -> Generator[None, None, None]:
        session = self._session
        driven = session.life.admit("transaction_sync()")
        depth = session.enter_savepoint()
        mine = session.occupant[depth]
        self._wrote_in(session, driven)
        life = session.life
        try:
            yield
        except BaseException:
            if session.occupant.get(depth) is mine:
                session.leave_savepoint(depth, keep=False)
            raise
        if life.broken is None and (
            session.depth != depth + 1 or session.occupant.get(depth) is not mine
        ):
            raise TransactionError(
                "a transaction_sync() block was left while one opened later is still open, or "
                "after an await let another step end it; do not await inside it"
            )
        session.leave_savepoint(depth, keep=True)

    def _wrote_in(self, session: Session, driven: bool) -> None:
        if session.open:
            session.withhold = True
            session.life.wrote(driven)

    # -- alarms ---------------------------------------------------------------------------

    def get_alarm(self, *, allow_concurrency: bool = False) -> Eager[datetime.datetime | None]:
        """When the alarm is due, in UTC, or None; None in its own handler until one is set."""

        def run(_: bool) -> datetime.datetime | None:
            due = self._session.alarm.get()
            return None if due is None else from_ms(due)

        return self._eager("get_alarm()", run)

    def set_alarm(
        self,
        when: datetime.datetime | datetime.timedelta | int,
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
    ) -> Eager[None]:
        """Set the object's one alarm, replacing an earlier one; a past time means now.

        Args:
            when: an aware ``datetime``, a ``timedelta`` from now, or milliseconds since the epoch.
            allow_concurrency: has no effect on SQLite.
            allow_unconfirmed: let answers leave before the alarm is confirmed.

        Raises:
            ArgumentValueError: a naive or impossible time, or seconds; the old alarm stays.
            ArgumentTypeError: no time at all, or the class has no ``alarm`` method.
        """
        due = alarm_time(when, self._now_ms())
        if not self._alarm_handler:
            raise ArgumentTypeError(
                "Your Durable Object class must have an alarm() handler in order to call "
                "set_alarm()"
            )

        def run(driven: bool) -> None:
            session = self._session
            session.begin()
            session.alarm.set(due)
            self._wrote(driven, allow_unconfirmed)

        return self._eager("set_alarm()", run)

    def delete_alarm(
        self, *, allow_concurrency: bool = False, allow_unconfirmed: bool = False
    ) -> Eager[None]:
        """Remove the alarm; no effect in its own handler, unless that has set a new one."""

        def run(driven: bool) -> None:
            session = self._session
            if session.alarm.get() is not None:
                session.begin()
                session.alarm.clear()
                self._wrote(driven, allow_unconfirmed)

        return self._eager("delete_alarm()", run)

    # -- durability and recovery ----------------------------------------------------------

    def sync(self) -> Eager[None]:
        """Return when every write made so far is confirmed.

        Cancelling it undoes nothing.
        """
        life = self._session.life
        life.admission("sync()")
        if not life.pending and life.broken is None and life.gate.confirmed >= life.gate.committed:
            return READY
        return Pending(life.wait_confirmed)

    def _log(self, operation: str) -> Bookmarks:
        self._session.life.admit(operation)
        if self._bookmarks is None:
            raise TransactionError(
                f"{operation} needs the commit log, which is off for this object; open it with "
                "history=History()"
            )
        if self._session.depth:
            raise TransactionError(
                f"{operation} cannot be called within a transaction: a bookmark names a commit"
            )
        if self._session.life.pending:
            self._session.life.commit()
            self._session.life.admit(operation)
        return self._bookmarks

    def get_current_bookmark(self) -> Eager[str]:
        """The bookmark of the state as it is now; bookmarks compare as strings in time order."""
        return Ready(self._log("get_current_bookmark()").current_bookmark())

    def get_bookmark_for_time(self, when: datetime.datetime | int) -> Eager[str]:
        """The bookmark of the last commit at or before ``when``.

        Args:
            when: an aware ``datetime`` or milliseconds since the epoch.

        Raises:
            BookmarkError: the time is before the history begins, or in the future.
        """
        if isinstance(when, datetime.datetime):
            time_ms = to_ms(when, "get_bookmark_for_time()")
        elif isinstance(when, int) and not isinstance(when, bool):
            time_ms = when
        else:
            raise ArgumentTypeError(
                "get_bookmark_for_time() takes an aware datetime or an int of milliseconds since "
                f"the epoch, got {type(when).__name__}"
            )
        return Ready(self._log("get_bookmark_for_time()").bookmark_for_time(time_ms))

    def on_next_session_restore_bookmark(self, bookmark: str) -> Eager[str]:
        """Restore the object to ``bookmark`` when it next starts; ``ctx.abort()`` makes that now.

        Returns:
            The bookmark of the state just before the restore, which undoes it.

        Raises:
            BookmarkError: malformed, of another object, pruned, or of the future.
        """
        if not isinstance(bookmark, str):
            raise ArgumentTypeError(
                f"on_next_session_restore_bookmark() takes a str, got {type(bookmark).__name__}"
            )
        return Ready(self._log("on_next_session_restore_bookmark()").request_restore(bookmark))

    # -- helpers --------------------------------------------------------------------------

    def _eager(self, operation: str, function: Callable[[bool], T]) -> Eager[T]:
        life = self._session.life
        scope = life.admission(operation)
        if scope is None:
            return Ready(function(True))
        if scope.open:
            return Ready(function(False))
        return life.later(scope, function)

    def _wrote(self, driven: bool, allow_unconfirmed: bool) -> None:
        session = self._session
        if not allow_unconfirmed:
            session.withhold = True
        session.life.wrote(driven)

    def _keys(self, keys: object, operation: str) -> _Keys:
        if isinstance(keys, (bytes, bytearray)) or not isinstance(keys, Iterable):
            raise ArgumentTypeError(
                f"{operation} takes a str or an iterable of str, got {type(keys).__name__}"
            )
        names = [check_key(key, operation) for key in cast("Iterable[object]", keys)]
        self._count(len(names), operation, "keys")
        # All are checked before the first is used: a call changes everything or nothing.
        limit = self._limits.value_size_max_bytes
        for name in names:
            size = utf8_size(name, "the key")
            if size > limit:
                raise LimitExceededError(
                    f"{operation} of {name[:40]!r}...: the key is {size} bytes; a key and its "
                    f"value together may hold {limit}"
                )
        return names

    def _count(self, count: int, operation: str, what: str) -> None:
        if count > self._limits.keys_per_call:
            raise LimitExceededError(
                f"{operation} of {count} {what}; one call may hold {self._limits.keys_per_call}"
            )
