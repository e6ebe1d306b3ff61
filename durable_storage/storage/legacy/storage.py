"""``ctx.storage`` of an object of the legacy backend."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar, cast, final, overload

from ...errors import ArgumentTypeError, TransactionError
from ...gates.ready import READY, Eager, Pending, Ready
from ..alarm_slot import alarm_time, from_ms
from ..transaction import DurableObjectTransaction, TransactionContext, transaction_section
from . import operations
from .operations import VALUE_MISSING
from .session import LegacySession
from .transaction import LegacyTransaction
from .unavailable import UnavailableSql, UnavailableSyncKv, refuse

__all__ = ["LegacyStorage"]

T = TypeVar("T")


@final
class LegacyStorage:
    """The private storage of one object of the legacy backend: `DurableObjectStorage` without SQL.

    A write does its work when it is called. A read of what is not in memory waits for the store;
    while code awaits it no other event's step runs in the object, unless it is called with
    ``allow_concurrency``. ``no_cache`` keeps the value out of the read cache; ``allow_unconfirmed``
    lets answers leave before the store holds this write.

    ``sql``, ``kv``, ``transaction_sync`` and the bookmarks are there and raise `TransactionError`.
    """

    __slots__ = ("_alarm_handler", "_now_ms", "_session", "kv", "sql")

    def __init__(
        self,
        session: LegacySession,
        now_ms: Callable[[], int],
        *,
        alarm_handler: bool,
    ) -> None:
        self._session = session
        self._now_ms = now_ms
        self._alarm_handler = alarm_handler
        self.sql: UnavailableSql = UnavailableSql()
        self.kv: UnavailableSyncKv = UnavailableSyncKv()

    def _rebind(self, session: LegacySession, bookmarks: object) -> None:
        """Serve another life of the object from now on."""
        self._session = session

    # -- keys -----------------------------------------------------------------------------

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

        Cancelling the wait undoes nothing.

        Raises:
            LimitExceededError: a key is larger than 2048 bytes, or there are more than 128.
        """
        return operations.get(
            self._session,
            self._session,
            key,
            default,
            allow_concurrency=allow_concurrency,
            no_cache=no_cache,
        )

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
            allow_concurrency: let other events run meanwhile.
            no_cache: has no effect: listing never fills the cache.
        """
        return operations.list_(
            self._session,
            self._session,
            start=start,
            start_after=start_after,
            end=end,
            prefix=prefix,
            reverse=reverse,
            limit=limit,
            allow_concurrency=allow_concurrency,
        )

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
        value: object = VALUE_MISSING,
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Eager[None]:
        """Store a value, or every pair of a mapping or none of them.

        Awaiting it waits only when the store is behind by more than a quarter of
        ``Limits.cache_size_max_bytes``.

        Raises:
            DataCloneError: a value cannot be stored; nothing changed.
            LimitExceededError: a key is larger than 2048 bytes, a value than 131072, or there are
                more than 128 pairs.
        """
        return operations.put(
            self._session,
            self._session,
            key,
            value,
            allow_concurrency=allow_concurrency,
            allow_unconfirmed=allow_unconfirmed,
            no_cache=no_cache,
        )

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
        """Delete a key: whether it was there; or several: how many were.

        The deletion is done by the call; only the answer may have to wait for the store.
        """
        return operations.delete(
            self._session,
            self._session,
            key,
            allow_concurrency=allow_concurrency,
            allow_unconfirmed=allow_unconfirmed,
            no_cache=no_cache,
        )

    def delete_all(
        self,
        *,
        delete_alarm: bool = False,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
    ) -> Eager[None]:
        """Delete every key, and the alarm only if asked; awaiting it waits for the store.

        Earlier uncommitted writes are dropped with the rest. The store may fail part-way: the
        object is then reset, the error names what is left (its ``__cause__`` is a
        ``PartialDeleteError``), and the next event sees what is left.

        Raises:
            TransactionError: inside a transaction.
        """

        def run(driven: bool) -> Eager[None]:
            session = self._session
            life = session.life
            if session.transactions:
                raise TransactionError("Cannot call delete_all() within a transaction")
            session.delete_all(delete_alarm=delete_alarm)
            session.wrote(driven, withhold=not allow_unconfirmed)
            life.commit()
            number = life.gate.committed
            return session.wait(lambda: life.gate.wait(number), locked=not allow_concurrency)

        return operations.eager(self._session, "delete_all()", run)

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

        Without a callback: ``async with storage.transaction() as txn:``. Only what is done on
        ``txn`` takes part: it is committed together when the code is done, and none of it when the
        code raises, which does not reset the object.

        Args:
            callback: sync or async; takes the transaction, or nothing.
        """
        session = self._session

        def begin() -> DurableObjectTransaction:
            return cast("DurableObjectTransaction", LegacyTransaction(session, self._due))

        if callback is None:
            return TransactionContext(session.life, begin)
        return transaction_section(session.life, begin, callback)

    def transaction_sync(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused: this needs SQLite."""
        refuse("transaction_sync()")

    # -- alarms ---------------------------------------------------------------------------

    def _due(self, when: object) -> int:
        """The milliseconds at which an alarm set to ``when`` is due.

        Raises:
            ArgumentValueError: a naive or impossible time, or seconds.
            ArgumentTypeError: no time at all, or the class has no ``alarm`` method.
        """
        due = alarm_time(when, self._now_ms())
        if not self._alarm_handler:
            raise ArgumentTypeError(
                "Your Durable Object class must have an alarm() handler in order to call "
                "set_alarm()"
            )
        return due

    def get_alarm(self, *, allow_concurrency: bool = False) -> Eager[datetime.datetime | None]:
        """When the alarm is due, in UTC, or None; None in its own handler until one is set."""

        def run(_: bool) -> Eager[datetime.datetime | None]:
            due = self._session.alarm.get()
            return Ready(None if due is None else from_ms(due))

        return operations.eager(self._session, "get_alarm()", run)

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
            allow_concurrency: has no effect: this never waits.
            allow_unconfirmed: let answers leave before the alarm is confirmed.

        Raises:
            ArgumentValueError: a naive or impossible time, or seconds; the old alarm stays.
            ArgumentTypeError: no time at all, or the class has no ``alarm`` method.
        """
        due = self._due(when)

        def run(driven: bool) -> Eager[None]:
            session = self._session
            session.alarm.set(due)
            session.wrote(driven, withhold=not allow_unconfirmed)
            return READY

        return operations.eager(self._session, "set_alarm()", run)

    def delete_alarm(
        self, *, allow_concurrency: bool = False, allow_unconfirmed: bool = False
    ) -> Eager[None]:
        """Remove the alarm; no effect in its own handler, unless that has set a new one."""

        def run(driven: bool) -> Eager[None]:
            session = self._session
            if session.alarm.get() is not None:
                session.alarm.clear()
                session.wrote(driven, withhold=not allow_unconfirmed)
            return READY

        return operations.eager(self._session, "delete_alarm()", run)

    # -- durability and recovery ----------------------------------------------------------

    def sync(self) -> Eager[None]:
        """Return when the store holds every write made so far.

        Cancelling it undoes nothing.
        """
        life = self._session.life
        if not life.pending and life.broken is None and life.gate.confirmed >= life.gate.committed:
            return READY
        return Pending(life.wait_confirmed)

    def get_current_bookmark(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused: this needs SQLite."""
        refuse("get_current_bookmark()")

    def get_bookmark_for_time(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused: this needs SQLite."""
        refuse("get_bookmark_for_time()")

    def on_next_session_restore_bookmark(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused: this needs SQLite."""
        refuse("on_next_session_restore_bookmark()")
