"""A script as its statements, and what can be told from the text of one.

Where a statement ends is decided by SQLite's own ``sqlite3_complete``. It is asked only at
semicolons that are no part of a string or a comment, and inside a trigger only after an END, so
that a long script costs no more than its length.
"""

from __future__ import annotations

import re
import sqlite3
from itertools import pairwise
from typing import Final, NamedTuple

from .authorizer import is_reserved

__all__ = [
    "Named",
    "leading_keyword",
    "parameter_names",
    "renames_into_reserved",
    "split_script",
    "with_names",
    "without_blanks",
    "writes",
]

# Python counts more characters as white space than SQL does.
_SPACE: Final = r"[ \t-\r]"
_COMMENT: Final = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
# Possessive, so that a long run of blanks before something else costs one pass.
_BLANK: Final = re.compile(rf"(?:{_SPACE}|{_COMMENT})*+", re.DOTALL)
_EMPTY: Final = re.compile(rf"(?:{_SPACE}|;|{_COMMENT})*+", re.DOTALL)
_WORD: Final = re.compile(r"[A-Za-z]+")
_TOKEN: Final = re.compile(
    rf"{_COMMENT}"
    r"|'(?:[^']|'')*+(?:'|\Z)|\"(?:[^\"]|\"\")*+(?:\"|\Z)|`(?:[^`]|``)*+(?:`|\Z)|\[[^\]]*(?:\]|\Z)"
    r"|[:@$]?(?:[\w$]|[^\x00-\x7f])+|\?\d*|\S",
    re.DOTALL,
)

# No parameter of SQLite has a number with so many digits.
_DIGITS_MAX: Final = 10
_GIVEN: Final = re.compile(r":_cf_(\d+)_")

_TRIGGER: Final = re.compile(r"(EXPLAIN (QUERY PLAN )?)?CREATE (TEMP(ORARY)? )?TRIGGER\b")
_HEAD_WORDS: Final = 6

_READS: Final = frozenset({"SELECT", "VALUES", "EXPLAIN", "PRAGMA"})
# Refused before they run, so nothing has to be prepared for a write.
_TRANSACTION: Final = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"})
_WRITING_VERBS: Final = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE"})
_VERBS: Final = _WRITING_VERBS | {"SELECT", "VALUES"}


def split_script(script: str) -> list[str]:
    """Return the statements of ``script`` in order.

    The last one is ``""`` where the original runtime looks for a statement and finds none: in an
    empty script, and after a second semicolon. A comment after the last semicolon is nothing.
    """
    statements: list[str] = []
    start = 0
    head: list[str] = []
    last = ""
    for match in _TOKEN.finditer(script) if ";" in script else ():
        token = match[0]
        if token != ";":
            if not token.startswith(("--", "/*")):
                last = token.upper()
                if len(head) < _HEAD_WORDS:
                    head.append(last)
        elif last and (last == "END" or not _TRIGGER.match(" ".join(head))):
            piece = script[start : match.end()]
            if sqlite3.complete_statement(piece):
                statements.append(piece)
                start = match.end()
                head, last = [], ""
    rest = script[start:]
    if not _EMPTY.fullmatch(rest):
        statements.append(rest)
    elif not statements or not _BLANK.fullmatch(rest):
        statements.append("")
    return statements


def without_blanks(statement: str) -> str:
    """Return the statement without blanks, comments and semicolons before it."""
    blank = _EMPTY.match(statement)
    return statement[blank.end() :] if blank else statement


def leading_keyword(statement: str) -> str:
    """Return the first word in capitals, ``""`` when the text does not begin with one."""
    word = _WORD.match(without_blanks(statement))
    return word[0].upper() if word else ""


def writes(statement: str) -> bool:
    """Return whether the statement could change the database."""
    keyword = leading_keyword(statement)
    if keyword == "PRAGMA":
        return "optimize" in statement.lower()
    if keyword == "WITH":
        return _main_verb(statement) in _WRITING_VERBS
    return keyword not in _READS and keyword not in _TRANSACTION


def renames_into_reserved(statement: str) -> bool:
    """Return whether this ALTER TABLE gives the table a reserved name.

    SQLite does not tell its authorizer the new name.
    """
    words = [word.upper() for word in _tokens(statement)]
    return any(
        pair == ("RENAME", "TO") and is_reserved(name.strip("\"'`["))
        for pair, name in zip(pairwise(words), words[2:], strict=False)
    )


def parameter_names(statement: str) -> tuple[str, ...] | None:
    """Return the names of the parameters by index, ``None`` unless all of them have one.

    Also ``None`` when two names differ only in the character before them.
    """
    tokens = _tokens(statement)
    marked = list(dict.fromkeys(token for token in tokens if _is_named(token)))
    names = tuple(token[1:] for token in marked)
    if not names or len(set(names)) < len(names) or any(token[0] == "?" for token in tokens):
        return None
    return names


class Named(NamedTuple):
    """A statement each of whose parameters has a name.

    Attributes:
        sql: its text.
        names: the names by index.
        texts: what stood in the place of those that were given a name; empty if none were.
    """

    sql: str
    names: tuple[str, ...]
    texts: tuple[str, ...] = ()

    def as_written(self, column: str) -> str:
        """The name of a column before the parameters in it were given names."""
        return _GIVEN.sub(lambda match: self.texts[int(match[1]) - 1], column)


def with_names(statement: str, most: int) -> Named | None:
    """Return the statement with a name for each of its parameters.

    A number is a name: ``?3`` is called 3. Where one has none, or two share one, all are given
    names.
    ``None`` where there are no parameters but ``?``, and where SQLite refuses a number: it counts
    to ``most``.
    """
    marks = [m for m in _TOKEN.finditer(statement) if m[0][0] == "?" or _is_named(m[0])]
    if all(mark[0] == "?" for mark in marks):
        return None
    # As SQLite counts: a new name, and one without, is one more than the largest so far.
    indexes: dict[str, int] = {}
    found: list[int] = []
    texts: dict[int, str] = {}
    largest = 0
    for mark in marks:
        text = mark[0]
        if text[0] == "?" and text[1:]:
            index = int(text[1:]) if len(text) < _DIGITS_MAX else 0
        else:
            index = indexes.get(text, largest + 1)
        if not 0 < index <= most:
            return None
        if text != "?":
            indexes[text] = index
            texts.setdefault(index, text)
        found.append(index)
        largest = max(largest, index)
    if len({text[1:] for text in texts.values()}) == largest:
        return Named(statement, tuple(texts[index][1:] for index in range(1, largest + 1)))
    names = tuple(f"_cf_{index}_" for index in range(1, largest + 1))
    pieces: list[str] = []
    end = 0
    for mark, index in zip(marks, found, strict=True):
        pieces += statement[end : mark.start()], ":", names[index - 1]
        end = mark.end()
    named = "".join(pieces) + statement[end:]
    return Named(named, names, tuple(texts.get(index, "?") for index in range(1, largest + 1)))


def _is_named(token: str) -> bool:
    return token[0] in ":@$" and token[1:] != ""


def _tokens(statement: str) -> list[str]:
    return [token for token in _TOKEN.findall(statement) if not token.startswith(("--", "/*"))]


def _main_verb(statement: str) -> str:
    """Return the verb that follows the common table expressions of a WITH."""
    depth = 0
    for token in _tokens(statement):
        if token == "(":
            depth += 1
        elif token == ")":
            depth -= 1
        elif depth == 0 and token.upper() in _VERBS:
            return token.upper()
    return ""
