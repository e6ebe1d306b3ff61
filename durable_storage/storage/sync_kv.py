"""``ctx.storage.kv``: the KV store without awaiting."""

from __future__ import annotations

from collections.abc import Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

from ..gates.ready import Ready
from .kv_buffer import MISS, Gap, check_key
from .ranges import check_range

if TYPE_CHECKING:
    from .session import Session

__all__ = ["SyncKvStorage"]

T = TypeVar("T")


@final
class SyncKvStorage:
    """The object's KV store, synchronously. See Cloudflare's "Synchronous KV API"."""

    __slots__ = ("_buffer", "_life", "_loop", "_session", "_thread_id")

    def __init__(self, session: Session) -> None:
        self._bind(session)

    def _bind(self, session: Session) -> None:
        self._session = session
        self._buffer = session.kv
        self._life = session.life
        self._loop = session.life.loop
        self._thread_id = session.life.loop.thread_id

    @overload
    def get(self, key: str) -> Any: ...
    @overload
    def get(self, key: str, default: T) -> T: ...
    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, a private copy, or ``default`` when there is none."""
        if get_ident() != self._thread_id:
            self._life.admission("kv.get()")
        buffer = self._buffer
        try:
            entry = buffer.hot.get(key, MISS)
        except TypeError:
            check_key(key, "kv.get()")
            raise
        kind = type(entry)  # pyright: ignore[reportUnknownVariableType] - of Any
        if kind is int:
            # Asked for first, because that is a tenth of what it costs.
            return entry
        if kind is bytes:
            return buffer.loads(entry)
        if kind is not Gap:
            return entry.value if kind is Ready else entry
        if type(key) is not str:
            key = check_key(key, "kv.get()")
        life = self._life
        frame = self._loop.current
        if frame is None or frame.life is not life or life.broken is not None:
            life.admit("kv.get()")
        return buffer.get(key, default, False)

    def put(self, key: str, value: object) -> None:
        """Store ``value`` under ``key``.

        Raises:
            DataCloneError: the value cannot be stored; nothing changed.
            LimitExceededError: key and value are larger than the limit.
        """
        if type(key) is not str:
            key = check_key(key, "kv.put()")
        buffer = self._buffer
        stored, cached, size = buffer.encode(key, value)
        life = self._life
        loop = self._loop
        frame = loop.current
        if (
            frame is None
            or frame.life is not life
            or life.broken is not None
            or get_ident() != loop.thread_id
        ):
            life.wrote(life.admit("kv.put()"))
        buffer.put(key, stored, cached, size, False)
        self._session.withhold = True
        life.pending = True

    def delete(self, key: str) -> bool:
        """Delete ``key``; whether it was there."""
        key = check_key(key, "kv.delete()")
        driven = self._life.admit("kv.delete()")
        existed = self._buffer.delete(key)
        self._session.withhold = True
        self._life.wrote(driven)
        return existed

    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Pairs in UTF-8 byte order of their keys, lazily.

        Only one such iterator exists at a time: a new listing invalidates an unfinished one.

        Args:
            start: first key, inclusive; not together with ``start_after``.
            start_after: first key, exclusive.
            end: last key, exclusive.
            prefix: what keys must begin with.
            reverse: from the highest key down.
            limit: at most so many pairs.
        """
        check_range("list()", start, start_after, end, prefix, limit)
        driven = self._life.admit("kv.list()")
        pairs = self._buffer.items(
            start=start,
            start_after=start_after,
            end=end,
            prefix=prefix,
            reverse=reverse,
            limit=limit,
        )
        if self._session.open:
            self._life.wrote(driven)
        return pairs
