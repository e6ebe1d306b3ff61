"""What is known of a store's keys without asking it."""

from __future__ import annotations

import collections
from typing import Final, final

from .layer import UNKNOWN, Known, Unknown

__all__ = ["Cache"]

# What an entry costs beside its key and value.
ENTRY_OVERHEAD_BYTES: Final = 160


@final
class Cache:
    """Encoded values and known absences, least recently used dropped first.

    Args:
        size_max_bytes: what it may hold.
    """

    __slots__ = ("_entries", "_size_bytes", "_size_max_bytes")

    def __init__(self, size_max_bytes: int) -> None:
        self._entries: collections.OrderedDict[str, Known] = collections.OrderedDict()
        self._size_bytes = 0
        self._size_max_bytes = size_max_bytes

    def find(self, key: str, *, touch: bool) -> Known | Unknown:
        """What is known of a key; with ``touch`` it counts as used."""
        entry = self._entries.get(key, UNKNOWN)
        if touch and not isinstance(entry, Unknown):
            self._entries.move_to_end(key)
        return entry

    def put(self, key: str, value: Known) -> None:
        """Know that a key has ``value``, or is absent."""
        self.drop(key)
        self._entries[key] = value
        self._size_bytes += _size(key, value)
        while self._size_bytes > self._size_max_bytes:
            self._size_bytes -= _size(*self._entries.popitem(last=False))

    def drop(self, key: str) -> None:
        """Know nothing of a key any more."""
        if key in self._entries:
            self._size_bytes -= _size(key, self._entries.pop(key))

    def clear(self) -> None:
        """Know nothing."""
        self._entries.clear()
        self._size_bytes = 0


def _size(key: str, value: Known) -> int:
    return ENTRY_OVERHEAD_BYTES + len(key) + (0 if value is None else len(value))
