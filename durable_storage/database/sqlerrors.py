"""SQLite's errors in the words of the original runtime.

A message is ``<text>: SQLITE_<CODE>``, followed by `` (extended: SQLITE_<CODE>_<DETAIL>)`` when
SQLite knows more.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from ..errors import SqlError, SqlLimitError

__all__ = [
    "AUTH",
    "CONSTRAINT",
    "MULTIPLE_RESULTS",
    "NO_RESULTS",
    "NO_STATEMENT",
    "PARAMETERS_BEFORE_THE_LAST",
    "TRANSACTION_STATEMENT",
    "not_authorized",
    "primary_code",
    "refused_bindings",
    "too_big",
    "translate",
    "wrong_bindings",
]

NO_RESULTS: Final = "Expected exactly one result from SQL query, but got no results."
MULTIPLE_RESULTS: Final = "Expected exactly one result from SQL query, but got multiple results."
NO_STATEMENT: Final = "SQL code did not contain a statement."
_WRONG_BINDINGS: Final = "Wrong number of parameter bindings for SQL query."
PARAMETERS_BEFORE_THE_LAST: Final = (
    "When executing multiple SQL statements in a single call, only the last statement can have"
    " parameters."
)
TRANSACTION_STATEMENT: Final = (
    "To execute a transaction, use storage.transaction() or storage.transaction_sync() instead of"
    " the SQL BEGIN TRANSACTION or SAVEPOINT statements: they roll back on exceptions, and they"
    " work together with the automatic coalescing of writes."
)

CONSTRAINT: Final = sqlite3.SQLITE_CONSTRAINT
AUTH: Final = sqlite3.SQLITE_AUTH

# SQLite's primary result codes, by number.
_PRIMARY_NAMES: Final = tuple(
    f"SQLITE_{name}"
    for group in (
        "OK ERROR INTERNAL PERM ABORT BUSY LOCKED NOMEM READONLY INTERRUPT IOERR CORRUPT NOTFOUND",
        "FULL CANTOPEN PROTOCOL EMPTY SCHEMA TOOBIG CONSTRAINT MISMATCH MISUSE NOLFS AUTH FORMAT",
        "RANGE NOTADB",
    )
    for name in group.split()
)

# SQLite reports most of its limits as a plain SQLITE_ERROR: only the text tells them apart, and
# it decides nothing but the class of the exception.
_LIMIT_TEXTS: Final = (
    "too many ",
    "LIKE or GLOB pattern too complex",
    "Expression tree is too large",
    "variable number must be between",
    "at most ",
    "triggers nested too deep",
    "parser stack overflow",
)

# What Python's module says without a code; the bindings of a statement are counted nowhere else.
_BINDINGS_TEXT: Final = re.compile(r"current statement uses (\d+), and there are (\d+) supplied")

_MISSING_TEXTS: Final = ("no such module: ", "no such function: ")


def primary_code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code, or ``None`` when Python's module raised by itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def too_big(text: str) -> SqlLimitError:
    """Return the error of a text or value that SQLite must not even see."""
    return SqlLimitError(
        f"{text}: SQLITE_TOOBIG",
        sqlite_errorcode=sqlite3.SQLITE_TOOBIG,
        sqlite_errorname="SQLITE_TOOBIG",
    )


def not_authorized() -> SqlError:
    """Return the error of a statement that the authorizer cannot judge."""
    return SqlError(
        "not authorized: SQLITE_AUTH", sqlite_errorcode=AUTH, sqlite_errorname="SQLITE_AUTH"
    )


def wrong_bindings(needed: int, given: int) -> SqlError:
    """Return the error of a statement that was given too few or too many values."""
    return SqlError(f"{_WRONG_BINDINGS} It takes {needed} and was given {given}.")


def refused_bindings(error: sqlite3.Error) -> SqlError:
    """Return the error to raise for bindings that Python's module refused before SQLite ran."""
    counts = _BINDINGS_TEXT.search(str(error))
    if counts is None:
        return SqlError(_WRONG_BINDINGS)
    return wrong_bindings(int(counts[1]), int(counts[2]))


def translate(error: sqlite3.Error) -> SqlError:
    """Return the error to raise for one that SQLite reported."""
    text = str(error)
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return SqlError(text)
    primary = code & 0xFF
    name = _PRIMARY_NAMES[primary] if primary < len(_PRIMARY_NAMES) else error.sqlite_errorname
    message = f"{text}: {name}"
    if code != primary:
        message += f" (extended: {error.sqlite_errorname})"
    limit = primary == sqlite3.SQLITE_TOOBIG or (
        primary == sqlite3.SQLITE_ERROR and text.startswith(_LIMIT_TEXTS)
    )
    kind = SqlLimitError if limit else SqlError
    translated = kind(message, sqlite_errorcode=code, sqlite_errorname=error.sqlite_errorname)
    if text.startswith(_MISSING_TEXTS):
        translated.add_note(
            f"Python is linked with SQLite {sqlite3.sqlite_version}, which may have been built"
            " without this module or function, or be too old for it."
        )
    return translated
