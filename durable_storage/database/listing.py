"""Keys and values in order: how their rows become pairs.

The loops are here, beside `Reading`, so that a row passes through one generator and no more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .reading import Reading

__all__ = ["Edition", "as_dict", "as_pairs"]

Decode = Callable[[bytes], Any]


class Edition(Protocol):
    """What is listed.

    Attributes:
        edition: changes whenever a listing has to look again what comes next.
    """

    edition: int


def as_pairs(
    read: Callable[[str | None], Reading], decode: Decode, listed: Edition
) -> Iterator[tuple[str, Any]]:
    """Yield every key and its value, which is decoded when it is ``bytes``.

    Args:
        read: returns what comes after a key, or all of it; asked again after each new edition.
        decode: makes a value of bytes.
        listed: tells of new editions.
    """
    rows: Iterator[Any] | None
    reading = read(None)
    edition = listed.edition
    rows = reading.start()
    while rows is not None:
        try:
            for key, stored in rows:
                yield key, decode(stored) if type(stored) is bytes else stored
                if listed.edition != edition:
                    reading = read(key)
                    edition = listed.edition
                    rows = reading.start()
                    break
            else:
                rows = reading.resume()
        except sqlite3.Error as error:
            rows = reading.recover(error)


def as_dict(reading: Reading, decode: Decode) -> dict[str, Any]:
    """Return the rest of a listing at once."""
    pairs: dict[str, Any] = {}
    rows: Iterator[Any] | None = reading.start()
    while rows is not None:
        try:
            for key, stored in rows:
                pairs[key] = decode(stored) if type(stored) is bytes else stored
        except sqlite3.Error as error:
            rows = reading.recover(error)
        else:
            rows = reading.resume()
    return pairs
