"""Explicit transactions of the legacy backend: only what goes through ``txn`` takes part.

A transaction is a layer over the object's state, or over that of the transaction around it. Nothing
can conflict with it: it runs in a critical section.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, final

from ...errors import TransactionError
from ...gates.ready import READY, Eager, Ready
from ..alarm_slot import from_ms
from . import operations
from .layer import USER, Known, Layer, Range, Unknown
from .operations import VALUE_MISSING
from .reading import Reading

if TYPE_CHECKING:
    from .session import LegacySession

__all__ = ["LegacyTransaction"]

UNCHANGED = object()


@final
class LegacyTransaction:
    """The transaction that ``storage.transaction()`` of the legacy backend runs its callback in.

    What is done on ``ctx.storage`` meanwhile is no part of it. Inside another transaction's
    callback it is a part of that one.

    Args:
        session: the storage under it.
        due: when an alarm is due that is set to what it is given; refuses what is no time.
    """

    __slots__ = ("_alarm", "_due", "_layer", "_parent", "_session", "_state", "_withhold")

    def __init__(self, session: LegacySession, due: Callable[[object], int]) -> None:
        self._due = due
        self._session = session
        self._parent = session.transactions[-1] if session.transactions else None
        self._layer = Layer()
        self._alarm: Any = UNCHANGED
        self._withhold = False
        self._state = "open"
        session.transactions.append(self)

    # -- its view of the object's state ---------------------------------------------------

    def find(self, key: str, *, touch: bool = True) -> Known | Unknown:
        """See `View.find`."""
        found = self._layer.find(key)
        if not isinstance(found, Unknown):
            return found
        below = self._parent or self._session
        return below.find(key, touch=touch)

    def within(self, wanted: Range) -> dict[str, Known]:
        """See `View.within`."""
        below = self._parent or self._session
        return self._layer.within(wanted, below.within(wanted))

    @property
    def cleared(self) -> bool:
        """See `View.cleared`."""
        return self._session.cleared

    def write(self, key: str, value: Known, *, cache: bool) -> None:
        """See `View.write`."""
        self._layer.write(USER + key, value)

    def wrote(self, driven: bool, *, withhold: bool, reading: Reading[Any] | None = None) -> None:
        """See `View.wrote`."""
        self._withhold = self._withhold or withhold
        if reading is not None:
            self._layer.after.append(reading.ended)

    # -- operations -----------------------------------------------------------------------

    def _check(self, operation: str) -> None:
        if self._state == "rolled back":
            raise TransactionError(f"Cannot {operation}() on rolled back transaction")
        if self._state == "committed":
            raise TransactionError(
                f"Cannot call {operation}() on transaction that has already committed: did you "
                "move `txn` outside of the closure?"
            )

    def get(
        self,
        key: str | Iterable[str],
        default: Any = None,
        *,
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Eager[Any]:
        """As ``storage.get``."""
        self._check("get")
        return operations.get(
            self._session,
            self,
            key,
            default,
            allow_concurrency=allow_concurrency,
            no_cache=no_cache,
        )

    def put(
        self,
        key: str | Mapping[str, object],
        value: object = VALUE_MISSING,
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Eager[None]:
        """As ``storage.put``; never waits."""
        self._check("put")
        return operations.put(
            self._session,
            self,
            key,
            value,
            allow_concurrency=allow_concurrency,
            allow_unconfirmed=allow_unconfirmed,
            no_cache=no_cache,
        )

    def delete(
        self,
        key: str | Iterable[str],
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Eager[Any]:
        """As ``storage.delete``."""
        self._check("delete")
        return operations.delete(
            self._session,
            self,
            key,
            allow_concurrency=allow_concurrency,
            allow_unconfirmed=allow_unconfirmed,
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
        """As ``storage.list``."""
        self._check("list")
        return operations.list_(
            self._session,
            self,
            start=start,
            start_after=start_after,
            end=end,
            prefix=prefix,
            reverse=reverse,
            limit=limit,
            allow_concurrency=allow_concurrency,
        )

    def _alarm_ms(self) -> int | None:
        if self._alarm is not UNCHANGED:
            due: int | None = self._alarm
            return due
        return self._session.alarm.get() if self._parent is None else self._parent._alarm_ms()

    def get_alarm(self, *, allow_concurrency: bool = False) -> Eager[datetime.datetime | None]:
        """As ``storage.get_alarm``."""
        self._check("get_alarm")

        def run(_: bool) -> Eager[datetime.datetime | None]:
            due = self._alarm_ms()
            return Ready(None if due is None else from_ms(due))

        return operations.eager(self._session, "get_alarm()", run)

    def set_alarm(
        self,
        when: datetime.datetime | datetime.timedelta | int,
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
    ) -> Eager[None]:
        """As ``storage.set_alarm``."""
        self._check("set_alarm")
        return self._change_alarm("set_alarm()", self._due(when), allow_unconfirmed)

    def delete_alarm(
        self, *, allow_concurrency: bool = False, allow_unconfirmed: bool = False
    ) -> Eager[None]:
        """As ``storage.delete_alarm``."""
        self._check("delete_alarm")
        if self._alarm_ms() is None:
            return READY
        return self._change_alarm("delete_alarm()", None, allow_unconfirmed)

    def _change_alarm(
        self, operation: str, due_ms: int | None, allow_unconfirmed: bool
    ) -> Eager[None]:
        def run(driven: bool) -> Eager[None]:
            self._alarm = due_ms
            self.wrote(driven, withhold=not allow_unconfirmed)
            return READY

        return operations.eager(self._session, operation, run)

    def delete_all(self, **options: Any) -> Eager[None]:
        """Always refused: it replaces everything that is stored.

        Raises:
            TransactionError: always.
        """
        raise TransactionError("Cannot call delete_all() within a transaction")

    # -- its end --------------------------------------------------------------------------

    def rollback(self) -> None:
        """Forget everything that was done on it; a second call does nothing.

        Raises:
            TransactionError: it has committed, or a transaction nested in it is still open.
        """
        if self._state == "rolled back":
            return
        self._check("rollback")
        if self._session.transactions[-1:] != [self]:
            raise TransactionError(
                "Cannot roll back an outer transaction while a nested transaction is still running."
            )
        self._end(keep=False)

    def _end(self, *, keep: bool) -> None:
        if self._state != "open":
            return
        self._state = "committed" if keep else "rolled back"
        session = self._session
        if self in session.transactions:
            session.transactions.remove(self)
        if not keep or session.life.broken is not None:
            return
        parent = self._parent
        if parent is not None:
            parent._layer.absorb(self._layer)
            parent._withhold = parent._withhold or self._withhold
            if self._alarm is not UNCHANGED:
                parent._alarm = self._alarm
            return
        if self._alarm is not UNCHANGED:
            if self._alarm is None:
                session.alarm.clear()
            else:
                session.alarm.set(self._alarm)
        if self._layer or self._alarm is not UNCHANGED:
            session.absorb(self._layer, withhold=self._withhold)
