"""What SQL may do: allow-lists for functions, pragmas and modules, and the reserved names.

SQLite asks while it prepares a statement, so a cached statement costs nothing. The rules are
those of workerd's ``util/sqlite.c++``, with the reserved prefix matched in any case.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from typing import Final, final

__all__ = ["RESERVED_PREFIX", "Authorizer", "is_reserved"]

RESERVED_PREFIX: Final = "_cf_"
_OK: Final = sqlite3.SQLITE_OK
_DENY: Final = sqlite3.SQLITE_DENY
_IGNORE: Final = sqlite3.SQLITE_IGNORE
_TEMP: Final = "temp"

_FUNCTIONS: Final = frozenset(
    word
    for group in (
        # https://www.sqlite.org/lang_corefunc.html
        "abs changes char coalesce concat concat_ws format glob hex ifnull iif instr",
        "last_insert_rowid length like likelihood likely lower ltrim match max min nullif",
        "octet_length printf quote random randomblob replace round rtrim sign substr substring",
        "total_changes trim typeof unhex unicode unlikely upper zeroblob",
        # https://www.sqlite.org/lang_datefunc.html
        "current_date current_time current_timestamp date datetime julianday strftime time",
        "timediff unixepoch",
        # https://www.sqlite.org/lang_aggfunc.html and windowfunctions.html
        "avg count group_concat string_agg sum total cume_dist dense_rank first_value lag",
        "last_value lead nth_value ntile percent_rank rank row_number",
        # https://www.sqlite.org/lang_mathfunc.html
        "acos acosh asin asinh atan atan2 atanh ceil cos cosh degrees exp floor ln log log2 mod pi",
        "pow radians sin sinh sqrt tan tanh trunc",
        # https://www.sqlite.org/json1.html
        "-> ->> json json_array json_array_length json_each json_extract json_group_array",
        "json_group_object json_insert json_object json_patch json_quote json_remove json_replace",
        "json_set json_tree json_type json_valid",
        "jsonb jsonb_array jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert",
        "jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set",
        # https://www.sqlite.org/fts5.html and rtree.html
        "bm25 highlight snippet fts5 rtreecheck",
        # Refused by SQLite itself, with a message of its own.
        "load_extension",
    )
    for word in group.split()
)

# ALTER TABLE, which is allowed, is carried out by functions that SQL cannot name.
_ALTER_FUNCTIONS: Final = frozenset(
    {
        "sqlite_add_constraint",
        "sqlite_drop_column",
        "sqlite_drop_constraint",
        "sqlite_fail",
        "sqlite_find_constraint",
        "sqlite_rename_column",
        "sqlite_rename_quotefix",
        "sqlite_rename_table",
        "sqlite_rename_test",
    }
)

MODULES: Final = frozenset({"fts5", "fts5vocab", "rtree", "rtree_i32"})

# Virtual tables that exist without being created and show more than the object's data.
_HIDDEN_TABLES: Final = frozenset(
    {
        "bytecode",
        "carray",
        "completion",
        "dbstat",
        "fts3tokenize",
        "sqlite_dbdata",
        "sqlite_dbpage",
        "sqlite_dbptr",
        "sqlite_stmt",
        "tables_used",
    }
)

_Argument = Callable[[str | None], bool]
_BOOLEAN: Final = re.compile(r"[01]|on|off|yes|no|true|false", re.IGNORECASE)
_INTEGER: Final = re.compile(r"[-+]?(0x[0-9a-f]+|[0-9]+)", re.IGNORECASE)


def _absent(argument: str | None) -> bool:
    return argument is None


def _anything(argument: str | None) -> bool:
    return True


def _name(argument: str | None) -> bool:
    return argument is not None and not is_reserved(argument)


def _name_or_absent(argument: str | None) -> bool:
    return not is_reserved(argument)


def _boolean_or_absent(argument: str | None) -> bool:
    return argument is None or _BOOLEAN.match(argument) is not None


def _integer_or_absent(argument: str | None) -> bool:
    return argument is None or _INTEGER.fullmatch(argument) is not None


_PRAGMAS: Final[dict[str, _Argument]] = {
    "data_version": _absent,
    "page_size": _absent,
    "table_list": _anything,
    "table_info": _name,
    "table_xinfo": _name,
    "index_list": _name,
    "index_info": _name,
    "index_xinfo": _name,
    "foreign_key_list": _name,
    "foreign_key_check": _name_or_absent,
    "quick_check": _name_or_absent,
    "optimize": _integer_or_absent,
    "case_sensitive_like": _boolean_or_absent,
    "foreign_keys": _boolean_or_absent,
    "defer_foreign_keys": _boolean_or_absent,
    "ignore_check_constraints": _boolean_or_absent,
    "legacy_alter_table": _boolean_or_absent,
    "recursive_triggers": _boolean_or_absent,
    "reverse_unordered_selects": _boolean_or_absent,
}

_REFUSED: Final = frozenset(
    {
        sqlite3.SQLITE_ATTACH,
        sqlite3.SQLITE_DETACH,
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
        sqlite3.SQLITE_DROP_TEMP_INDEX,
        sqlite3.SQLITE_DROP_TEMP_TABLE,
        sqlite3.SQLITE_DROP_TEMP_TRIGGER,
        sqlite3.SQLITE_DROP_TEMP_VIEW,
    }
)
# Asked about each table or index in turn, and left out where it is ours.
_OF_EACH: Final = frozenset({sqlite3.SQLITE_ANALYZE, sqlite3.SQLITE_REINDEX})
_OWN_INDEX: Final = "sqlite_autoindex_"
_TRANSACTION_CONTROL: Final = frozenset({sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT})
# The second argument is the name of a column in these, of an object in all the others.
_COLUMN_SECOND: Final = frozenset({sqlite3.SQLITE_READ, sqlite3.SQLITE_UPDATE})


def is_reserved(name: str | None) -> bool:
    """Return whether an object of this name is out of SQL's reach."""
    return name is not None and name[: len(RESERVED_PREFIX)].lower() == RESERVED_PREFIX


@final
class Authorizer:
    """Answers SQLite's questions about a statement that it prepares.

    Attributes:
        internal: allow everything, for the package's own statements. SQLite prepares a statement
            again after a schema change, so it has to hold while one of those is run.
        transaction_statement: a BEGIN, COMMIT, ROLLBACK or SAVEPOINT was refused.
    """

    __slots__ = ("internal", "transaction_statement")

    def __init__(self) -> None:
        self.internal: bool = True
        self.transaction_statement: bool = False

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, *_: object
    ) -> int:
        """Return SQLite's code for "go on" or "refuse"."""
        if self.internal:
            return _OK
        if action in _TRANSACTION_CONTROL:
            self.transaction_statement = True
            return _DENY
        if action == sqlite3.SQLITE_FUNCTION:
            name = (second or "").lower()
            return _OK if name in _FUNCTIONS or name in _ALTER_FUNCTIONS else _DENY
        if action == sqlite3.SQLITE_PRAGMA:
            allows = _PRAGMAS.get((first or "").lower())
            allowed = allows is not None and allows(second) and database != _TEMP
            return _OK if allowed else _DENY
        if action in _OF_EACH:
            return _IGNORE if is_reserved((first or "").removeprefix(_OWN_INDEX)) else _OK
        if action in _REFUSED or is_reserved(first):
            return _DENY
        if database == _TEMP and action not in _COLUMN_SECOND:  # ALTER TABLE looks there too
            return _DENY
        if action not in _COLUMN_SECOND and is_reserved(second):
            return _DENY
        if action == sqlite3.SQLITE_READ and (first or "").lower() in _HIDDEN_TABLES:
            return _DENY
        if action == sqlite3.SQLITE_CREATE_VTABLE and (second or "").lower() not in MODULES:
            return _DENY
        return _OK
