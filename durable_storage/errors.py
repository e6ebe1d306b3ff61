"""Every error of the library: one class per thing the caller can do about it.

Mistakes in arguments also derive from ``TypeError`` or ``ValueError``, so that code that
knows nothing of this library handles them the usual way.
"""

from __future__ import annotations

__all__ = [
    "ArgumentTypeError",
    "ArgumentValueError",
    "BookmarkError",
    "ConcurrencyError",
    "DataCloneError",
    "DatabaseFileError",
    "DurableStorageError",
    "LimitExceededError",
    "MigrationError",
    "ObjectDead",
    "ObjectResetError",
    "OverloadedError",
    "RuntimeInUseError",
    "SqlError",
    "SqlLimitError",
    "TransactionError",
]


class DurableStorageError(Exception):
    """Base of every error that the library raises on purpose."""


class ArgumentTypeError(DurableStorageError, TypeError):
    """An argument has a type that the operation does not take."""


class ArgumentValueError(DurableStorageError, ValueError):
    """An argument has the right type and a value that the operation does not take."""


class LimitExceededError(DurableStorageError, ValueError):
    """A documented limit (``Limits``) would be exceeded; nothing was changed."""


class DataCloneError(DurableStorageError, TypeError):
    """A value cannot be stored; the message names the path to the offending part."""


class SqlError(DurableStorageError):
    """SQLite, or the rules for SQL inside an object, refused a statement.

    The message is ``<text>: SQLITE_<CODE>`` as the original runtime writes it; the codes are
    SQLite's own result codes.
    """

    def __init__(
        self,
        message: str,
        *,
        sqlite_errorcode: int | None = None,
        sqlite_errorname: str | None = None,
    ) -> None:
        super().__init__(message)
        self.sqlite_errorcode = sqlite_errorcode
        self.sqlite_errorname = sqlite_errorname


class SqlLimitError(SqlError, LimitExceededError):
    """A statement, a string, a BLOB or a row is larger than the object's limits allow."""


class DatabaseFileError(DurableStorageError):
    """The object's file cannot be opened: not a database, read-only, or of a newer version."""


class TransactionError(DurableStorageError):
    """A transaction was used at a moment at which it cannot be used."""


class BookmarkError(DurableStorageError, ValueError):
    """A bookmark is malformed, of another object, pruned, or of the future."""


class ConcurrencyError(DurableStorageError):
    """Storage was used where it would break another event's isolation; nothing was changed."""


class MigrationError(DurableStorageError, ValueError):
    """A class or schema migration cannot be applied; nothing was changed."""


class RuntimeInUseError(DurableStorageError):
    """Another process, or another runtime of this one, owns the data directory."""


class ObjectResetError(DurableStorageError):
    """The object was reset before its answer could be given; its cause is ``__cause__``.

    Attributes:
        retryable: whether the same call, made again, may well succeed.
        durable_object_reset: always true; the name the original runtime gives the mark.
    """

    durable_object_reset = True

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class OverloadedError(DurableStorageError):
    """Too many events wait for one object; the call was not delivered.

    Attributes:
        overloaded: always true; retrying at once makes matters worse.
    """

    overloaded = True
    retryable = False


class ObjectDead(BaseException):
    """Raised inside an object that was reset, so that ``except Exception`` cannot resume it."""
