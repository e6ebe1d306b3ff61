"""Bookmarks: the public name of one commit of one object.

``EEEEEEEE-GGGGGGGG-FFFFFFFF-<32 hex>``: epoch, generation and frame of a `Position`, then a hash
of them under the object's random id. So bookmarks compare as strings in time order, and one of
another object is recognised.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import struct
from typing import Final, NamedTuple

from ..errors import ArgumentTypeError, BookmarkError

__all__ = ["BEGINNING", "Position", "format_bookmark", "moment", "parse_bookmark"]

_END: Final = 0xFFFFFFFF
_EPOCH: Final = datetime.datetime(1970, 1, 1)  # in UTC
_SHAPE: Final = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{32})", re.ASCII)


class Position(NamedTuple):
    """Where one commit stands in an object's log; compares in time order.

    The epoch grows with every restore and every change that was made behind our back, the
    generation with every restart of the WAL, the frame with every page written to it. A
    generation number is never used twice.
    """

    epoch: int
    generation: int
    frame: int

    @classmethod
    def end_of(cls, epoch: int) -> Position:
        """Return the position that stands for the last commit of an epoch."""
        return cls(epoch, _END, _END)

    @property
    def ends_epoch(self) -> bool:
        """Whether this stands for the last commit of its epoch, whichever that will be."""
        return self.generation == _END


BEGINNING: Final = Position(1, 0, 0)
"""Before the first commit: an empty database."""


def format_bookmark(object_id: bytes, position: Position) -> str:
    """Return the bookmark of a position."""
    epoch, generation, frame = position
    return f"{epoch:08x}-{generation:08x}-{frame:08x}-{_seal(object_id, position)}"


def moment(time_ms: int) -> str:
    """A time (ms since the epoch) as messages write it: ``2026-01-31T12:00:00.000Z``."""
    try:
        when = _EPOCH + datetime.timedelta(milliseconds=time_ms)
    except OverflowError:
        return f"{time_ms} (milliseconds since the epoch)"
    return when.isoformat(timespec="milliseconds") + "Z"


def parse_bookmark(object_id: bytes, bookmark: str) -> Position:
    """Return the position that a bookmark of this object names.

    Raises:
        ArgumentTypeError: it is not a string.
        BookmarkError: it is not a bookmark, or one of another object.
    """
    if not isinstance(bookmark, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers
        raise ArgumentTypeError(f"a bookmark is a str, got {type(bookmark).__name__}")
    found = _SHAPE.fullmatch(bookmark)
    if found is None:
        raise BookmarkError(
            f"not a bookmark: {bookmark[:80]!r}; a bookmark is four groups of 8, 8, 8 and 32 "
            "lower-case hexadecimal digits joined by '-'"
        )
    position = Position(*(int(group, 16) for group in found.groups()[:3]))
    if found[4] != _seal(object_id, position):
        raise BookmarkError(
            f"{bookmark} is a bookmark of another object; an object can go back only to its own"
        )
    return position


def _seal(object_id: bytes, position: Position) -> str:
    return hashlib.blake2b(
        struct.pack(">3I", *position), key=object_id, digest_size=16, person=b"bookmark"
    ).hexdigest()
