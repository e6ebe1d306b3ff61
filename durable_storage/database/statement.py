"""A statement as it is remembered: what it may do, and how its rows are built.

Rows are built by code compiled for the statement's columns: a dict display with the names in it
is faster than ``dict(zip(names, row))``.
"""

from __future__ import annotations

import dataclasses
import functools
import sqlite3
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Final

from .program import Op, Program
from .reading import Reading
from .splitter import leading_keyword, renames_into_reserved, split_script, with_names, writes

__all__ = ["Parameters", "RowBuilder", "Statement", "parse_script", "row_builder"]

Row = dict[str, Any]
Tuple = tuple[Any, ...]
Parameters = tuple[Any, ...] | dict[str, Any]


@dataclasses.dataclass(slots=True, frozen=True)
class RowBuilder:
    """The compiled builders of one list of columns."""

    columns: tuple[str, ...]
    one: Callable[[Tuple], Row]
    extend: Callable[[list[Row], Iterator[Tuple]], None]
    each: Callable[[Reading], Iterator[Row]]


@dataclasses.dataclass(slots=True, eq=False)
class Statement:
    """One statement of SQL, or the last one of a script.

    Attributes:
        sql: its text, ``""`` when a script ends without one.
        earlier: the statements of the script before it.
        is_write: it could change the database.
        changes_schema: what was prepared before may mean something else afterwards.
        forbidden: it gives a table a reserved name.
        names: of its parameters, where Python wants a mapping for them.
        as_written: gives columns the names that they have without the names that parameters were
            given; ``None`` if none were.
        is_simple_read: it stands alone, is allowed, changes no schema and only reads.
        is_simple_write: it stands alone, is allowed, changes no schema, writes, has run before and
            nobody asked for its counts.
        is_metered: somebody asked for its counts.
        explained: what EXPLAIN says; ``None`` until it was asked.
        program: that as a graph; ``None`` until somebody asks for counts.
        counts: rows read and written, by what is known of the run.
        builder: builds its rows; ``None`` until its columns are known.
    """

    sql: str
    earlier: tuple[Statement, ...] = ()
    is_write: bool = False
    changes_schema: bool = False
    forbidden: bool = False
    names: tuple[str, ...] | None = None
    as_written: Callable[[str], str] | None = None
    builder: RowBuilder | None = None
    is_simple_read: bool = False
    is_simple_write: bool = False
    is_metered: bool = False
    explained: list[Op] | None = None
    program: Program | None = None
    counts: dict[Hashable, tuple[int, int]] = dataclasses.field(
        default_factory=dict[Hashable, tuple[int, int]]
    )

    def columns(self, description: Iterable[tuple[Any, ...]]) -> tuple[str, ...]:
        """The names of its columns, from what a cursor says of them."""
        columns: Iterator[str] = (column[0] for column in description)
        return tuple(columns if self.as_written is None else map(self.as_written, columns))

    def done(self) -> None:
        """Note that a write has run once, so that the next run needs no care."""
        if self.sql and not (
            self.earlier or self.forbidden or self.changes_schema or self.is_metered or self.names
        ):
            self.is_simple_write = True


# From 3.12 Python warns when values for named parameters come in a sequence, and later refuses.
NAMES_NEED_A_MAPPING: Final = sys.version_info >= (3, 12)

_SCHEMA_KEYWORDS: Final = frozenset({"CREATE", "DROP", "ALTER", "REINDEX", "ANALYZE"})


def parse_script(script: str, parameters_max: int) -> Statement:
    """Return the last statement of ``script``, holding the earlier ones."""
    *earlier, last = map(_describe, split_script(script))
    last.earlier = tuple(earlier)
    if NAMES_NEED_A_MAPPING:
        named = with_names(last.sql, parameters_max)
        if named is not None:
            last.sql, last.names = named.sql, named.names
            if named.texts:
                last.as_written = named.as_written
    last.is_simple_read = bool(last.sql and not (earlier or last.is_write or last.names))
    return last


def _describe(sql: str) -> Statement:
    keyword = leading_keyword(sql)
    return Statement(
        sql,
        is_write=sql != "" and writes(sql),
        changes_schema=keyword in _SCHEMA_KEYWORDS,
        forbidden=keyword == "ALTER" and renames_into_reserved(sql),
    )


@functools.lru_cache(maxsize=1024)
def row_builder(columns: tuple[str, ...]) -> RowBuilder:
    """Return builders of rows as dicts; of several columns with one name the last counts."""
    names = [f"c{position}" for position in range(len(columns))]
    target = ", ".join(names) + "," if names else "nothing"
    last = dict(zip(columns, names, strict=True))
    display = "{" + ", ".join(f"{column!r}: {name}" for column, name in last.items()) + "}"
    scope: dict[str, Any] = {"SqliteError": sqlite3.Error}
    # The columns are in the source as string literals, so that nothing of them is executed.
    exec(_SOURCE.format(target=target, display=display), scope)
    return RowBuilder(columns, scope["one"], scope["extend"], scope["each"])


# extend() keeps what it has when a row fails, so that reading can go on with that row.
_SOURCE: Final = """
def one(row):
    {target} = row
    return {display}

def extend(built, rows):
    append = built.append
    for {target} in rows:
        append({display})

def each(reading):
    rows = reading.start()
    while rows is not None:
        try:
            for {target} in rows:
                yield {display}
        except SqliteError as error:
            rows = reading.recover(error)
        else:
            rows = reading.resume()
"""
