"""A hidden table of keys and values, created by the first write to it.

Two of them exist: ``_cf_KV`` and ``_cf_METADATA``. Keys compare as UTF-8 bytes, which is the
order of code points and so also the order in which Python compares strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, final

from .internal import InternalSql, own

__all__ = ["MISSING", "KeyRange", "KeyValueTable", "Missing", "Stored"]

Stored = None | int | float | str | bytes


@final
class Missing:
    """The class of ``MISSING``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()

_LAST_CODE_POINT: Final = 0x10FFFF
_BEFORE_SURROGATES: Final = 0xD7FF
_AFTER_SURROGATES: Final = 0xE000


class KeyRange(NamedTuple):
    """Which keys to list: from ``start`` (included or not) up to, not including, ``end``."""

    start: str | None
    start_included: bool
    end: str | None
    reverse: bool
    limit: int | None

    @classmethod
    def of(
        cls,
        *,
        start: str | None,
        start_after: str | None,
        end: str | None,
        prefix: str | None,
        reverse: bool,
        limit: int | None,
    ) -> KeyRange:
        """Return the one range that all the options allow."""
        included = True
        if start_after is not None and (start is None or start_after >= start):
            start, included = start_after, False
        if prefix:
            if start is None or start < prefix:
                start, included = prefix, True
            behind = after_prefix(prefix)
            if behind is not None and (end is None or behind < end):
                end = behind
        return cls(start, included, end, reverse, limit)

    def rest(self, after: str | None, taken: int) -> KeyRange:
        """Return what comes after the key ``after``, so many keys having been taken."""
        limit = None if self.limit is None else self.limit - taken
        if after is None:
            return self._replace(limit=limit)
        if self.reverse:
            return self._replace(end=after, limit=limit)
        return self._replace(start=after, start_included=False, limit=limit)


def after_prefix(prefix: str) -> str | None:
    """Return the least string above every string with this prefix, if there is one."""
    for last in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[last])
        if code < _LAST_CODE_POINT:
            code = _AFTER_SURROGATES if code == _BEFORE_SURROGATES else code + 1
            return prefix[:last] + chr(code)
    return None


@final
class KeyValueTable:
    """One hidden table.

    Raises what ``sqlite3`` raises; the database translates.
    """

    __slots__ = (
        "_create",
        "_created",
        "_delete",
        "_list",
        "_look",
        "_put",
        "_sql",
        "known",
        "name",
        "select",
    )

    def __init__(
        self, sql: InternalSql, name: str, created: Callable[[], None] = lambda: None
    ) -> None:
        self._sql = sql
        self._created = created
        self.name: str = name
        # None: not known, because a transaction that may have created it was rolled back.
        self.known: bool | None = None
        self._look = own(f"SELECT 1 FROM sqlite_master WHERE type='table' AND name='{name}'")
        self._create = own(f"CREATE TABLE {name}(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self.select: str = own(f"SELECT value FROM {name} WHERE key=?")
        self._put = own(
            f"INSERT INTO {name} VALUES(?,?) ON CONFLICT DO UPDATE SET value=excluded.value"
        )
        self._delete = own(f"DELETE FROM {name} WHERE key=?")
        self._list = f"SELECT key, value FROM {name}"

    def forget(self) -> None:
        """Look again before the next use whether the table exists."""
        self.known = None

    def exists(self) -> bool:
        """Return whether the table has been created."""
        if self.known is None:
            self.known = self._sql.value(self._look) is not None
        return self.known

    def get(self, key: str) -> Stored | Missing:
        """Return the value of ``key``, or ``MISSING``."""
        if not (self.known or self.exists()):
            return MISSING
        row = self._sql.run(self.select, (key,)).fetchone()
        return MISSING if row is None else row[0]

    def put(self, key: str, value: Stored) -> None:
        """Set the value of ``key``."""
        if not self.known:
            self.create()
        self._sql.run(self._put, (key, value))

    def put_many(self, items: Sequence[tuple[str, Stored]]) -> None:
        """Set the values of many keys."""
        if not self.known:
            self.create()
        self._sql.execute_many(self._put, items)

    def delete(self, key: str) -> bool:
        """Remove ``key`` and return whether it was there. Creates the table like any write."""
        if not self.known:
            self.create()
        return self._sql.run(self._delete, (key,)).rowcount > 0

    def list(self, keys: KeyRange) -> Iterable[tuple[str, Stored]]:
        """Return an open cursor over a range of keys."""
        if not (self.known or self.exists()):
            return ()
        conditions: list[str] = []
        parameters: list[str | int] = []
        if keys.start is not None:
            conditions.append("key>=?" if keys.start_included else "key>?")
            parameters.append(keys.start)
        if keys.end is not None:
            conditions.append("key<?")
            parameters.append(keys.end)
        sql = self._list
        if conditions:
            sql += " WHERE " + " AND ".join(conditions)
        sql += " ORDER BY key DESC" if keys.reverse else " ORDER BY key"
        if keys.limit is not None:
            sql += " LIMIT ?"
            # SQLite's integers end at 64 bits, Python's do not; no table holds more rows.
            parameters.append(min(keys.limit, 2**62))
        return self._sql.execute(own(sql), parameters)

    def create(self) -> None:
        """Create the table if it does not exist."""
        if not self.exists():
            self._sql.execute(self._create)
            self.known = True
            self._created()

    def drop(self) -> None:
        """Remove the table with all that is in it."""
        if self.exists():
            self._sql.execute(own(f"DROP TABLE {self.name}"))
            self.known = False
