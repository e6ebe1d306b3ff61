"""Keys and values in order: how their rows become pairs.

Some rows are read ahead, because decoding many values at once is faster than one after the other.
Invariant: nobody can tell, except by what a damaged file or an abandoned listing did not have to
read. Whatever could change a row changes the edition, and then what was read ahead is dropped.

The loops are here, beside `Reading`, so that a row passes through one generator and no more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from operator import itemgetter, length_hint
from typing import Any, Final, Protocol

from .reading import Reading

__all__ = ["Decode", "DecodeMany", "Edition", "as_dict", "as_pairs"]

Decode = Callable[[bytes], Any]
DecodeMany = Callable[[list[bytes]], list[Any] | None]

ALONE_ROWS: Final = 16
"""So many encoded values are decoded one by one, because short listings gain nothing."""
AHEAD_MAX_ROWS: Final = 128
AHEAD_MAX_BYTES: Final = 64 * 1024
"""After so many bytes of values no further row is read ahead."""

_Row = tuple[str, Any]
_key: Callable[[_Row], str] = itemgetter(0)


class Edition(Protocol):
    """What is listed.

    Attributes:
        edition: changes whenever a listing has to look again what comes next.
    """

    edition: int


def as_pairs(
    read: Callable[[str | None, int], Reading],
    decode: Decode,
    decode_many: DecodeMany | None,
    listed: Edition,
) -> Iterator[tuple[str, Any]]:
    """Yield every key and its value, which is decoded when it is ``bytes``.

    Args:
        read: returns what comes after a key, or all of it, given how many of the rows that were
            read until now are dropped; asked again after each new edition.
        decode: makes a value of bytes.
        decode_many: makes values of many bytes, or nothing when ``decode`` should tell why.
        listed: tells of new editions.
    """
    rows: Iterator[Any] | None
    reading = read(None, 0)
    edition = listed.edition
    rows = reading.start()
    alone = most = ALONE_ROWS
    while rows is not None:
        left: Iterator[_Row] = iter(())
        try:
            for key, stored in rows:
                if type(stored) is not bytes:
                    yield key, stored
                elif alone or decode_many is None:
                    yield key, decode(stored)
                    alone -= 1
                else:
                    ahead, encoded, error = _read_ahead((key, stored), rows, most)
                    left = iter(ahead)
                    for pair in _decoded(left, ahead, encoded, decode, decode_many):
                        yield pair
                        if listed.edition != edition:
                            key = pair[0]
                            break
                        if reading.error is not None:
                            raise reading.error
                    else:
                        if error is not None:
                            raise error
                        most = min(2 * most, AHEAD_MAX_ROWS)
                if listed.edition != edition:
                    reading = read(key, length_hint(left))
                    edition = listed.edition
                    rows = reading.start()
                    alone = most = ALONE_ROWS
                    break
            else:
                rows = reading.resume()
        except sqlite3.Error as error:
            rows = reading.recover(error)


def as_dict(reading: Reading, decode: Decode, decode_many: DecodeMany | None) -> dict[str, Any]:
    """Return the rest of a listing at once."""
    pairs: dict[str, Any] = {}
    rows: Iterator[Any] | None = reading.start()
    while rows is not None:
        try:
            for key, stored in rows:
                if type(stored) is not bytes:
                    pairs[key] = stored
                elif decode_many is None:
                    pairs[key] = decode(stored)
                else:
                    ahead, encoded, error = _read_ahead((key, stored), rows, AHEAD_MAX_ROWS)
                    pairs.update(_decoded(iter(ahead), ahead, encoded, decode, decode_many))
                    if error is not None:
                        raise error
        except sqlite3.Error as error:
            rows = reading.recover(error)
        else:
            rows = reading.resume()
    return pairs


def _read_ahead(
    first: _Row, rows: Iterator[_Row], most: int
) -> tuple[list[_Row], list[bytes], sqlite3.Error | None]:
    """Return at most so many rows, what is encoded in them, and the error behind them.

    ``first`` is the first of them, and its value is encoded.
    """
    ahead = [first]
    encoded = [first[1]]
    size = len(first[1])
    try:
        for row in islice(rows, most - 1):
            ahead.append(row)
            stored = row[1]
            if type(stored) is bytes:
                encoded.append(stored)
            elif type(stored) is not str:
                continue
            size += len(stored)
            if size > AHEAD_MAX_BYTES:
                break
    except sqlite3.Error as error:
        return ahead, encoded, error
    return ahead, encoded, None


def _decoded(
    left: Iterator[_Row],
    ahead: list[_Row],
    encoded: list[bytes],
    decode: Decode,
    decode_many: DecodeMany,
) -> Iterator[_Row]:
    """Return the pairs of the rows ``ahead``, which are taken from ``left`` one by one."""
    values = decode_many(encoded) if len(encoded) > 1 else None
    if values is None:
        return ((key, decode(stored) if type(stored) is bytes else stored) for key, stored in left)
    if len(values) < len(ahead):
        each = iter(values)
        values = [next(each) if type(stored) is bytes else stored for _, stored in ahead]
    return zip(map(_key, left), values, strict=True)
