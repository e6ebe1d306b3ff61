"""How far a listing reads ahead, and what it gives when reading or decoding fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import count, cycle, repeat
from typing import Any

import pytest

from durable_storage.database.listing import (
    AHEAD_MAX_BYTES,
    AHEAD_MAX_ROWS,
    ALONE_ROWS,
    as_dict,
    as_pairs,
)
from durable_storage.database.reading import Reading


class Listed:
    edition = 0


class Rows:
    """Rows that count how many of them were read."""

    def __init__(self, values: Iterable[object]) -> None:
        self.given = 0
        self._values = values

    def __iter__(self) -> Iterator[tuple[str, object]]:
        for number, value in enumerate(self._values):
            self.given += 1
            if isinstance(value, Exception):
                raise value
            yield f"{number:09}", value


def _refuse(error: Exception) -> None:
    raise ValueError("the row that failed") from error


def _listing(rows: Rows, decode_many: Any = None) -> Iterator[tuple[str, Any]]:
    reading = Reading(iter(rows), _refuse)
    return as_pairs(lambda _, __: reading, bytes.decode, decode_many, Listed())


def _together(encoded: list[bytes]) -> list[Any]:
    return [f"{one.decode()} of {len(encoded)}" for one in encoded]


def _nothing(_: list[bytes]) -> None:
    return None


def test_no_more_rows_are_read_ahead_than_were_given_before() -> None:
    rows = Rows(b"x" for _ in count())
    pairs = _listing(rows, _together)
    read = []
    for number in range(3 * AHEAD_MAX_ROWS):
        next(pairs)
        assert rows.given <= 1 + number if number < ALONE_ROWS else rows.given <= 2 * (1 + number)
        assert rows.given - number <= AHEAD_MAX_ROWS
        read.append(rows.given)
    assert max(given - number for number, given in enumerate(read)) == AHEAD_MAX_ROWS


@pytest.mark.parametrize("value", [5, "text", None])
def test_values_that_are_not_encoded_are_not_read_ahead(value: object) -> None:
    rows = Rows(value for _ in count())
    pairs = _listing(rows, _together)
    for number in range(200):
        next(pairs)
        assert rows.given == number + 1


def test_nothing_is_read_ahead_when_nothing_is_gained() -> None:
    rows = Rows(b"x" for _ in count())
    pairs = _listing(rows)
    for number in range(200):
        next(pairs)
        assert rows.given == number + 1


@pytest.mark.parametrize("size", [AHEAD_MAX_BYTES + 1, AHEAD_MAX_BYTES // 2])
def test_large_values_are_not_read_far_ahead(size: int) -> None:
    for values in (repeat(b"x" * size), cycle([b"x", "x" * size])):
        rows = Rows(values)
        pairs = _listing(rows, _together)
        for number in range(200):
            next(pairs)
            assert rows.given <= number + 2 + 2 * AHEAD_MAX_BYTES // size


def test_values_are_decoded_together_once_some_were_decoded_alone() -> None:
    values: list[object] = [b"a"] * ALONE_ROWS + [1, b"b", b"c", 2, b"d", 3]
    found = [value for _, value in _listing(Rows(values), _together)]
    assert found == ["a"] * ALONE_ROWS + [1, "b of 3", "c of 3", 2, "d of 3", 3]
    assert as_dict(Reading(iter(Rows(values[ALONE_ROWS:])), _refuse), bytes.decode, _together) == {
        f"{number:09}": value for number, value in enumerate(found[ALONE_ROWS:])
    }


@pytest.mark.parametrize("decode_many", [None, _nothing])
def test_values_are_decoded_alone_when_they_cannot_be_decoded_together(decode_many: Any) -> None:
    values: list[object] = [b"a", 1, b"b", "c"] * ALONE_ROWS
    expected = {
        f"{number:09}": value for number, value in enumerate(["a", 1, "b", "c"] * ALONE_ROWS)
    }
    assert dict(_listing(Rows(values), decode_many)) == expected
    assert as_dict(Reading(iter(Rows(values)), _refuse), bytes.decode, decode_many) == expected


@pytest.mark.parametrize("sound", [0, 1, ALONE_ROWS, ALONE_ROWS + 1, 5 * ALONE_ROWS])
@pytest.mark.parametrize("value", [b"x", "x", 1])
def test_rows_before_an_error_are_given(sound: int, value: object) -> None:
    pairs = _listing(Rows([value] * sound + [sqlite3.OperationalError()]), _together)
    for _ in range(sound):
        next(pairs)
    with pytest.raises(ValueError, match="the row that failed"):
        next(pairs)


@pytest.mark.parametrize("sound", [0, 1, ALONE_ROWS, ALONE_ROWS + 1, 5 * ALONE_ROWS])
def test_values_before_one_that_cannot_be_decoded_are_given(sound: int) -> None:
    pairs = _listing(Rows([b"x"] * sound + [b"\xff"] + [b"x"] * 9), _nothing)
    for _ in range(sound):
        next(pairs)
    with pytest.raises(UnicodeDecodeError):
        next(pairs)
