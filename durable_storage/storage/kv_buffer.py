"""The KV store as an event sees it: written behind, read from a cache, always a private copy.

Invariants:

* ``dirty`` holds what the implicit transaction owes the table, and nothing else.
* What ``hot`` (or ``aged``) holds for a key is what a read of the table after a flush would give.
* The table exists once anything was written in this life: SQL may meet its name, never its rows.
* A value that does not change is cached as it is, or in the `Ready` that an awaited get of it gave.
* A container is cached as the ``bytes`` it is stored as, and decoded on every read, so no two
  readers share it. (An object to tell them by costs a put or a get past the cache 0.1 R.) A value
  that is ``bytes`` itself is therefore cached in a `Ready`.
* ``hot`` is the fast path: a hit there needs no permission. While a critical section is open, or
  the object is broken or closed, ``hot`` is empty and every access asks the gates.
"""

from __future__ import annotations

import datetime
import decimal
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, final

from ..database.connection import MISSING, Database, Stored
from ..database.kv import KeyRange
from ..database.listing import DecodeMany, as_dict, as_pairs
from ..database.reading import Reading
from ..errors import ArgumentTypeError, ArgumentValueError, DurableStorageError, LimitExceededError
from ..gates.ready import Ready
from ..limits import Limits
from ..serializers import MsgpackSerializer, Serializer
from ..serializers.messagepack import loads_many

__all__ = ["ABSENT", "MISS", "Gap", "KvBuffer", "check_key", "utf8_size"]

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
# What an entry costs beside its key and value: three objects and a slot of a dict.
ENTRY_OVERHEAD_BYTES: Final = 216
# Pending writes are flushed early once so much was written since the last flush, to bound memory:
# twice the largest value by default, and a quarter of what SQLite may then keep of it in memory.
DIRTY_MAX_BYTES: Final = 4 * 1024**2

IMMUTABLE: Final = frozenset(
    {
        bool,
        bytes,
        int,
        float,
        str,
        type(None),
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
        decimal.Decimal,
        uuid.UUID,
    }
)
# Of those that the table has no column type for.
OF_ANY_SIZE: Final = frozenset({bytes, int, decimal.Decimal})


@final
class Gap:
    """A cache entry that stands for no value: a known absence, or no entry."""

    __slots__ = ()


ABSENT: Final = Gap()
MISS: Final = Gap()


def check_key(key: object, operation: str) -> str:
    """The key, if it is one.

    Raises:
        ArgumentTypeError: it is no ``str``.
    """
    if not isinstance(key, str):
        raise ArgumentTypeError(f"{operation} takes a str as key, got {type(key).__name__}")
    return key if type(key) is str else str.__str__(key)


def utf8_size(text: str, what: str) -> int:
    """The size of ``text`` in UTF-8.

    Raises:
        ArgumentValueError: it has a lone surrogate, which UTF-8 cannot hold.
    """
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise ArgumentValueError(
            f"{what} has a lone surrogate at position {exc.start}, which UTF-8 cannot hold"
        ) from exc


@final
class KvBuffer:
    """The write-behind buffer and read cache over one database's KV table.

    Args:
        begin: opens the implicit transaction unless one is open.
    """

    def __init__(
        self,
        database: Database,
        serializer: Serializer,
        limits: Limits,
        begin: Callable[[], None],
    ) -> None:
        self._database = database
        self._table = database.kv_table
        self._execute = database.kv_execute
        self._dumps = serializer.dumps
        self.loads: Callable[[bytes], Any] = serializer.loads
        self._loads_many: DecodeMany | None = None
        if isinstance(serializer, MsgpackSerializer):
            self._loads_many = partial(loads_many, serializer)
        self._limit = limits.value_size_max_bytes
        self._begin = begin
        self._fresh: dict[str, Any] = {}
        self._aged: dict[str, Any] = {}
        self._fresh_bytes = 0
        self._half_bytes = limits.cache_size_max_bytes // 2
        self.hot: dict[str, Any] = self._fresh
        self._held = False
        self.dirty: dict[str, Stored] = {}
        self._levels: list[set[str]] = []
        self._listing = 0
        # Changes with every write, rollback and listing: an iterator looks again what comes next.
        self.edition: int = 0
        # How many bytes may be written before the next flush; none while the table may be missing.
        self._room = -1

    # -- the fast path --------------------------------------------------------------------

    def hold(self, held: bool) -> None:
        """Switch the fast path off (True) or on again."""
        self._held = held
        self.hot = {} if held else self._fresh

    def close(self) -> None:
        """Forget everything and switch the fast path off for good."""
        self.forget()
        self.hold(True)
        self.edition += 1

    # -- encoding -------------------------------------------------------------------------

    def encode(self, key: str, value: object) -> tuple[Stored, Any, int]:
        """What the table holds for ``value``, what the cache does, and the bytes of the larger one.

        Raises:
            DataCloneError: the value cannot be stored.
            LimitExceededError: key and value together are too large.
        """
        kind = type(value)
        stored: Stored
        cached: Any = value
        # What the value takes in memory beyond the size of what is stored.
        beyond = 0
        if kind is int and INT_MIN <= value <= INT_MAX:  # type: ignore[operator]
            stored, size = value, 8  # type: ignore[assignment]
        elif kind is str:
            stored = value  # type: ignore[assignment]
            if value.isascii():  # type: ignore[attr-defined]
                size = len(value)  # type: ignore[arg-type]
            else:
                size = utf8_size(value, "the value")  # type: ignore[arg-type]
                # SQLite's interface keeps the text's UTF-8, and a NUL, with the text.
                beyond = _size_of(value) + 1
        elif (kind is float and value == value) or value is None:
            stored, size = value, 8  # type: ignore[assignment]
        else:
            stored = self._dumps(value)
            size = len(stored)
            if kind not in IMMUTABLE:
                cached = stored
            elif kind in OF_ANY_SIZE:
                if kind is bytes:
                    cached = Ready(value)
                # A serializer may compress.
                beyond = max(_size_of(value) - size, 0)
        size += len(key) if key.isascii() else utf8_size(key, "the key")
        if size > self._limit:
            raise LimitExceededError(
                f"put() of {key[:40]!r} is {size} bytes; a key and its value together may hold "
                f"{self._limit}"
            )
        return stored, cached, size + beyond

    # -- reading --------------------------------------------------------------------------

    # No keyword-only parameters here and in put(): such functions are called slowly (0.05 R).
    def get(self, key: str, default: Any, no_cache: bool) -> Any:
        """The value of ``key``, a private copy, or ``default``."""
        fresh = self._fresh
        entry = fresh.get(key, MISS)
        if entry is MISS and self._aged:
            entry = self._aged.get(key, MISS)
            if entry is not MISS and not no_cache:
                self._remember(key, entry, _size_of(entry) + len(key) + ENTRY_OVERHEAD_BYTES)
        if entry is not MISS:
            kind = type(entry)  # pyright: ignore[reportUnknownVariableType] - of Any
            if kind is bytes:
                return self.loads(entry)
            if entry is ABSENT:
                return default
            return entry.value if kind is Ready else entry
        stored: Any = self.dirty.get(key, MISSING) if self.dirty else MISSING
        if stored is MISSING:
            table = self._table
            if table.known:
                # Not a call of its own, which would cost 0.05 R.
                try:
                    row = self._execute(table.select, (key,)).fetchone()
                except Exception as error:  # the database tells which they are
                    stored = self._database.kv_get_after(error, key)
                else:
                    stored = MISSING if row is None else row[0]
            else:
                stored = self._database.kv_get(key)
        size = len(key) + ENTRY_OVERHEAD_BYTES
        kind = type(stored)  # pyright: ignore[reportUnknownVariableType] - of Any
        if kind is bytes:
            entry = stored
            stored = self.loads(stored)
            if type(stored) in IMMUTABLE:
                entry = Ready(stored) if type(stored) is bytes else stored
                size += _size_of(entry)
            else:
                size += len(entry)
        elif stored is MISSING:
            stored, entry = default, ABSENT
        else:
            entry = stored
            size += _size_of(stored) if kind is str else 8
        if not no_cache:
            # As _remember, of a key that is not there.
            fresh[key] = entry
            self._fresh_bytes = size = self._fresh_bytes + size
            if size > self._half_bytes:
                self._turn_over()
        return stored

    def get_many(self, keys: Iterable[str], *, no_cache: bool = False) -> dict[str, Any]:
        """The values of those keys that are there, in order of the keys."""
        found: dict[str, Any] = {}
        for key in sorted(set(keys), key=_utf8):
            value = self.get(key, MISS, no_cache)
            if value is not MISS:
                found[key] = value
        return found

    def items(self, **span: Any) -> Iterator[tuple[str, Any]]:
        """Pairs in key order, lazily; an iterator made earlier and not finished is invalidated.

        Takes what `KeyRange.of` takes.
        """
        keys = KeyRange.of(**span)
        listing = self._new_listing()
        reading: Reading | None = None
        taken = 0

        def read(after: str | None, dropped: int) -> Reading:
            nonlocal reading, taken
            if reading is None or listing == self._listing:
                # What was written meanwhile is seen.
                self.flush()
                taken += 0 if reading is None else reading.count - dropped
                reading = self._database.kv_read(keys.rest(after, taken))
            if listing != self._listing and (dropped or next(reading, None) is not None):
                raise DurableStorageError(
                    "kv.list() iterator was invalidated because a new call to kv.list() was "
                    "started. Only one kv.list() iterator can exist at a time."
                )
            return reading

        return as_pairs(read, self.loads, self._loads_many, self)

    def as_dict(self, **span: Any) -> dict[str, Any]:
        """As `items`, all at once."""
        self._new_listing()
        reading = self._database.kv_read(KeyRange.of(**span))
        return as_dict(reading, self.loads, self._loads_many)

    def _new_listing(self) -> int:
        self._listing += 1
        self.edition += 1
        self.flush()
        return self._listing

    # -- writing --------------------------------------------------------------------------

    def put(self, key: str, stored: Stored, cached: Any, size: int, no_cache: bool) -> None:
        """Write one encoded pair; the caller sees to the commit."""
        self.edition += 1
        if self._levels:
            self._levels[-1].add(key)
        self.dirty[key] = stored
        size += ENTRY_OVERHEAD_BYTES
        if no_cache:
            self._evict(key)
        else:
            self._remember(key, cached, size)
        # Also what is overwritten counts: to look for it here would cost every put.
        self._room = room = self._room - size
        if room < 0:
            self.flush()

    def delete(self, key: str) -> bool:
        """Delete one pair; whether it was there."""
        utf8_size(key, "the key")
        self.edition += 1
        if self._levels:
            self._levels[-1].add(key)
        buffered = self.dirty.pop(key, MISSING) is not MISSING
        self._begin()
        existed = self._database.kv_delete(key)
        self._remember(key, ABSENT, len(key) + ENTRY_OVERHEAD_BYTES)
        return existed or buffered

    def flush(self) -> None:
        """Bring the table up to date, inside the implicit transaction."""
        if self.dirty:
            self._begin()
            self._database.kv_put_many(self.dirty.items())
            self.dirty.clear()
            self._room = DIRTY_MAX_BYTES

    def flush_and_commit_one(self) -> bool:
        """Write a single pending pair in a transaction of its own; False if there are more."""
        if len(self.dirty) != 1:
            return False
        ((key, stored),) = self.dirty.items()
        self._database.kv_put(key, stored)
        self.dirty.clear()
        self._room = DIRTY_MAX_BYTES
        return True

    # -- savepoints -----------------------------------------------------------------------

    def push(self) -> None:
        """Start to note what is written, because it may be rolled back."""
        self.flush()
        self._levels.append(set())

    def release(self) -> None:
        """Keep what was written since the matching `push`."""
        self.flush()
        written = self._levels.pop()
        if self._levels:
            self._levels[-1] |= written

    def rollback(self) -> None:
        """Forget what was written since the matching `push`."""
        # Everything dirty is newer than the push, which flushed.
        self.dirty.clear()
        self._room = -1
        # Also what a listing read ahead may be undone.
        self.edition += 1
        for key in self._levels.pop():
            self._evict(key)

    def forget(self) -> None:
        """Forget everything: the buffer, the cache, the levels."""
        self.dirty.clear()
        self._levels.clear()
        self._room = -1
        self._fresh.clear()
        self._aged.clear()
        self._fresh_bytes = 0

    # -- the cache ------------------------------------------------------------------------

    def _remember(self, key: str, entry: Any, size: int) -> None:
        fresh = self._fresh
        old = fresh.get(key, MISS)
        fresh[key] = entry
        if old is not MISS:
            size -= _size_of(old) + len(key) + ENTRY_OVERHEAD_BYTES
        self._fresh_bytes += size
        if self._fresh_bytes > self._half_bytes:
            self._turn_over()

    def _turn_over(self) -> None:
        # Two generations stand in for a list in order of use: a hit in the newer one then
        # costs nothing, and whatever was not used for a whole generation is dropped.
        self._aged = self._fresh
        self._fresh = {}
        self._fresh_bytes = 0
        if not self._held:
            self.hot = self._fresh

    def _evict(self, key: str) -> None:
        self._fresh.pop(key, None)
        self._aged.pop(key, None)


def _size_of(entry: Any) -> int:
    """The bytes of a cached value, beside the overhead: at most what it was counted as."""
    kind = type(entry)  # pyright: ignore[reportUnknownVariableType] - of Any
    if kind is int:
        return 8 if INT_MIN <= entry <= INT_MAX else sys.getsizeof(entry)
    if kind is bytes:
        return len(entry)
    if kind is str:
        # Others take up to four bytes a character, beside their UTF-8.
        return len(entry) if entry.isascii() else sys.getsizeof(entry)
    if kind is bool or kind is Gap:
        return 0
    if kind is float or entry is None:
        return 8
    if kind is Ready:
        return _size_of(entry.value)
    return sys.getsizeof(entry) if kind is decimal.Decimal else 0


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
