"""One position in an unfinished result.

A result that is still open keeps SQLite from folding the WAL, so it can be *drained*: its rest is
read into memory, and whoever iterates over it continues there without noticing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import chain, compress, repeat
from operator import length_hint
from typing import Any, Final, final

from .sqlerrors import primary_code

__all__ = ["DRAIN_MAX_STEPS", "Reading", "raw_rows"]

Tuple = tuple[Any, ...]

_ROWS_MAX: Final = 2**62
DRAIN_MAX_ROWS: Final = 10_000
DRAIN_MAX_BYTES: Final = 16 * 1024**2
DRAIN_MAX_STEPS: Final = 10_000_000
"""Instructions of SQLite that draining one result may take: some tenths of a second."""


@final
class Reading:
    """A result as an iterator of tuples that several iterators share.

    Args:
        source: the open cursor of ``sqlite3``, or rows in memory.
        recover: given an error of ``sqlite3``, returns when reading can go on and raises
            otherwise.
        counted: whether ``count`` will be asked for.
    """

    __slots__ = (
        "__weakref__",
        "_left",
        "_recover",
        "_rest",
        "error",
        "finished",
        "source",
    )

    def __init__(
        self,
        source: Iterator[Tuple],
        recover: Callable[[Exception], None],
        *,
        counted: bool = True,
    ) -> None:
        self.source: Iterator[Tuple] = source
        self.finished: bool = False
        self.error: Exception | None = None
        self._recover = recover
        self._rest: Iterator[Tuple] | None = None
        # One is taken for every row; how many are left tells how many rows were read.
        self._left = repeat(True, _ROWS_MAX) if counted else None

    @property
    def count(self) -> int:
        """How many rows were read so far."""
        return 0 if self._left is None else _ROWS_MAX - length_hint(self._left)

    def start(self) -> Iterator[Tuple]:
        """Return the rows from here on; ``resume`` gives what follows them."""
        # compress() counts without any Python in the loop.
        return self.source if self._left is None else compress(self.source, self._left)

    def resume(self) -> Iterator[Tuple] | None:
        """Return the rows that were drained meanwhile, ``None`` at the end."""
        if self.error is not None:
            raise self.error
        rest, self._rest = self._rest, None
        if rest is None:
            self.finished = True
            return None
        self.source = rest
        return self.start()

    def recover(self, error: Exception) -> Iterator[Tuple]:
        """Return the rows from here on after an error that need not end the result."""
        if self.error is not None:
            raise self.error
        if self.finished:
            return iter(())
        self._recover(error)
        return self.start()

    def __iter__(self) -> Iterator[Tuple]:
        return self

    def __next__(self) -> Tuple:
        rows: Iterator[Tuple] | None = self.start()
        while rows is not None:
            try:
                return next(rows)
            except StopIteration:
                rows = self.resume()
            except sqlite3.Error as error:
                rows = self.recover(error)
        raise StopIteration

    def drain(self) -> bool:
        """Read the rest into memory; false when it is too long for that, and then lost."""
        if self.finished or self.error or self._rest is not None:
            return True
        if not isinstance(self.source, sqlite3.Cursor):
            return True
        rest: list[Tuple] = []
        ending: Iterator[Tuple] = iter(())
        size = 0
        while True:
            try:
                for row in self.source:
                    rest.append(row)
                    size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
                    if len(rest) > DRAIN_MAX_ROWS or size > DRAIN_MAX_BYTES:
                        return False
                break
            except sqlite3.Error as error:
                if primary_code(error) == sqlite3.SQLITE_INTERRUPT:
                    return False
                try:
                    self._recover(error)
                except Exception as failure:
                    ending = _raising(failure)
                    break
        self._rest = chain(rest, ending)
        return True

    def finish(self) -> None:
        """End the result, as if its last row had been read."""
        self.finished = True
        if isinstance(self.source, sqlite3.Cursor):
            self.source.close()
        self.source = iter(())

    def cancel(self, error: Exception) -> None:
        """End the result; every further use raises ``error``."""
        if not self.finished:
            self.error = error
            if isinstance(self.source, sqlite3.Cursor):
                self.source.close()


def _raising(error: Exception) -> Iterator[Tuple]:
    raise error
    yield ()


def raw_rows(reading: Reading) -> Iterator[Tuple]:
    """Yield the rest of the rows as they are."""
    rows: Iterator[Tuple] | None = reading.start()
    while rows is not None:
        try:
            yield from rows
        except sqlite3.Error as error:
            rows = reading.recover(error)
        else:
            rows = reading.resume()
