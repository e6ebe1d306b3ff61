"""Writes that a store does not hold yet, newest value only, and what a listing takes from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from ...gates.loop import Signal

__all__ = ["META", "UNKNOWN", "USER", "Known", "Layer", "Range", "Unknown"]

# What the store's keys begin with: the object's own keys, and those that it cannot see.
USER: Final = "u"
META: Final = "m"


@final
class Unknown:
    """The answer of whoever cannot say whether a key exists."""


UNKNOWN: Final = Unknown()

Known = bytes | None
"""What is known of a key: its encoded value, or None for its absence."""


@final
@dataclass(frozen=True, slots=True)
class Range:
    """The options of a listing, whose keys are without a prefix."""

    start: str | None
    start_after: str | None
    end: str | None
    prefix: str | None
    reverse: bool
    limit: int | None

    def holds(self, key: str) -> bool:
        """Whether a key is in it, the limit aside."""
        # UTF-8 keeps the order of code points, which is how Python compares strings.
        return (
            (self.start is None or key >= self.start)
            and (self.start_after is None or key > self.start_after)
            and (self.end is None or key < self.end)
            and (self.prefix is None or key.startswith(self.prefix))
        )

    def merged(
        self, stored: list[tuple[str, bytes]], newer: Mapping[str, Known]
    ) -> dict[str, bytes]:
        """The listing of a store's pairs under newer ones, of which all are in the range."""
        values: dict[str, Known] = {**dict(stored), **newer}
        pairs = [(key, value) for key, value in values.items() if value is not None]
        pairs.sort(reverse=self.reverse)
        return dict(pairs[: self.limit])


@final
class Layer:
    """Writes in the order of their commits, each key's newest value only.

    Attributes:
        entries: the store's keys with their new values; None deletes.
        cleared: every key of the object that is not in ``entries`` is deleted.
        size_bytes: about what the layer costs.
        after: the store may have it only when all of these are set.
    """

    __slots__ = ("after", "cleared", "entries", "size_bytes")

    def __init__(self) -> None:
        self.entries: dict[str, Known] = {}
        self.cleared: bool = False
        self.size_bytes: int = 0
        self.after: list[Signal] = []

    def __bool__(self) -> bool:
        return self.cleared or bool(self.entries)

    def find(self, key: str) -> Known | Unknown:
        """What it says of a key of the object."""
        return self.entries.get(USER + key, None if self.cleared else UNKNOWN)

    def write(self, stored_key: str, value: Known) -> None:
        """Note the new value of one of the store's keys."""
        entries = self.entries
        if stored_key in entries:
            self.size_bytes -= _size(stored_key, entries[stored_key])
        entries[stored_key] = value
        self.size_bytes += _size(stored_key, value)

    def clear(self) -> None:
        """Delete every key of the object."""
        kept = {key: value for key, value in self.entries.items() if key.startswith(META)}
        self.entries = kept
        self.size_bytes = sum(_size(*pair) for pair in kept.items())
        self.cleared = True

    def absorb(self, newer: Layer) -> None:
        """Put what ``newer`` says on top."""
        if newer.cleared:
            self.clear()
        for pair in newer.entries.items():
            self.write(*pair)
        self.after += newer.after

    def within(self, wanted: Range, below: dict[str, Known]) -> dict[str, Known]:
        """What it and the layers ``below`` say of the keys in a range."""
        found = {} if self.cleared else below
        for stored_key, value in self.entries.items():
            if stored_key.startswith(USER) and wanted.holds(stored_key[1:]):
                found[stored_key[1:]] = value
        return found


def _size(key: str, value: Known) -> int:
    return len(key) + (0 if value is None else len(value))
