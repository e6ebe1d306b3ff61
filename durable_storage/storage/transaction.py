"""Explicit transactions: ``storage.transaction()`` and the ``txn`` it gives."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

from ..errors import TransactionError
from ..gates.critical import CriticalSection, OpenSection
from ..gates.ready import Eager

if TYPE_CHECKING:
    import datetime

    from ..gates.life import Life
    from .session import Session
    from .storage import DurableObjectStorage

__all__ = ["DurableObjectTransaction", "TransactionContext", "transaction_section"]

T = TypeVar("T")


@final
class DurableObjectTransaction:
    """The transaction that ``storage.transaction()`` runs its callback in.

    It and ``ctx.storage`` are the same transaction while it is open; `rollback` ends it early.
    """

    __slots__ = ("_depth", "_session", "_state", "_storage")

    def __init__(self, storage: DurableObjectStorage) -> None:
        self._storage = storage
        self._session: Session = storage._session  # pyright: ignore[reportPrivateUsage]
        self._depth = self._session.enter_transaction()
        self._state = "open"

    def _check(self, operation: str) -> DurableObjectStorage:
        if self._state == "rolled back":
            raise TransactionError(f"Cannot {operation}() on rolled back transaction")
        if self._state == "committed":
            raise TransactionError(
                f"Cannot call {operation}() on transaction that has already committed: did you "
                "move `txn` outside of the closure?"
            )
        return self._storage

    def get(self, key: Any, default: Any = None, **options: Any) -> Eager[Any]:
        """As ``storage.get``."""
        return self._check("get").get(key, default, **options)

    def put(self, key: str | Mapping[str, object], *value: object, **options: Any) -> Eager[None]:
        """As ``storage.put``."""
        put: Any = self._check("put").put
        return cast("Eager[None]", put(key, *value, **options))

    def delete(self, key: Any, **options: Any) -> Eager[Any]:
        """As ``storage.delete``."""
        return self._check("delete").delete(key, **options)

    def list(self, **options: Any) -> Eager[dict[str, Any]]:
        """As ``storage.list``."""
        return self._check("list").list(**options)

    def get_alarm(self, **options: Any) -> Eager[datetime.datetime | None]:
        """As ``storage.get_alarm``."""
        return self._check("get_alarm").get_alarm(**options)

    def set_alarm(
        self, when: datetime.datetime | datetime.timedelta | int, **options: Any
    ) -> Eager[None]:
        """As ``storage.set_alarm``."""
        return self._check("set_alarm").set_alarm(when, **options)

    def delete_alarm(self, **options: Any) -> Eager[None]:
        """As ``storage.delete_alarm``."""
        return self._check("delete_alarm").delete_alarm(**options)

    def delete_all(self, **options: Any) -> Eager[None]:
        """Always refused: it replaces the whole database.

        Raises:
            TransactionError: always.
        """
        raise TransactionError("Cannot call delete_all() within a transaction")

    def rollback(self) -> None:
        """Undo everything the transaction did and end it; a second call does nothing.

        Raises:
            TransactionError: it has committed, or a transaction nested in it is still open.
        """
        if self._state == "rolled back":
            return
        self._check("rollback")
        if self._session.depth != self._depth + 1:
            raise TransactionError(
                "Cannot roll back an outer transaction while a nested transaction is still running."
            )
        self._state = "rolled back"
        self._session.leave_transaction(self._depth, keep=False)

    def _end(self, *, keep: bool) -> None:
        if self._state != "open":
            return
        self._state = "committed" if keep else "rolled back"
        self._session.leave_transaction(self._depth, keep=keep)


def _takes_txn(callback: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters
    )


def transaction_section(
    life: Life,
    begin: Callable[[], DurableObjectTransaction],
    callback: Callable[..., Awaitable[T] | T],
) -> CriticalSection[T]:
    """The critical section that runs ``callback`` in the transaction that ``begin`` begins."""

    async def body() -> T:
        txn = begin()
        try:
            result = callback(txn) if _takes_txn(callback) else callback()
            if isinstance(result, Awaitable):
                result = await cast("Awaitable[T]", result)
        except BaseException:
            txn._end(keep=False)  # pyright: ignore[reportPrivateUsage]
            raise
        txn._end(keep=True)  # pyright: ignore[reportPrivateUsage]
        if life.broken is not None:
            raise life.dead_error()
        return result

    return CriticalSection(life, body, resets=False)


@final
class TransactionContext:
    """``async with storage.transaction() as txn:``."""

    __slots__ = ("_begin", "_life", "_section", "_txn")

    def __init__(self, life: Life, begin: Callable[[], DurableObjectTransaction]) -> None:
        self._life = life
        self._begin = begin
        self._section: OpenSection | None = None
        self._txn: DurableObjectTransaction | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        raise TransactionError(
            "transaction() without a callback is a context manager: `async with "
            "storage.transaction() as txn:`"
        )
        yield

    async def __aenter__(self) -> DurableObjectTransaction:
        if self._section is not None:
            raise TransactionError(
                "a transaction context can be entered once; call transaction() again"
            )
        section = self._section = OpenSection(self._life)
        await section.enter()
        try:
            self._txn = self._begin()
        except BaseException:
            section.leave()
            raise
        return self._txn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        section, txn = self._section, self._txn
        assert section is not None
        assert txn is not None
        life = self._life
        try:
            txn._end(keep=error is None)  # pyright: ignore[reportPrivateUsage]
        finally:
            section.leave()
        if error is None and life.broken is not None:
            raise life.dead_error()
