"""What the legacy backend does not offer: there under its name, and refused whenever it is used."""

from __future__ import annotations

from typing import Final, NoReturn, final

from ...errors import TransactionError

__all__ = ["UnavailableSql", "UnavailableSyncKv", "refuse"]

CHANGE: Final = (
    "change `new_classes` to `new_sqlite_classes` within the 'migrations' field in your "
    "wrangler.jsonc or wrangler.toml file, or in Runtime(migrations=...), or leave out "
    'storage="kv". Note that this change cannot be made once the class has objects.'
)
SQL: Final = f"SQL is not enabled for this Durable Object class. To enable it, {CHANGE}"
SYNC_KV: Final = (
    "The storage.kv (synchronous KV) API is only available for SQLite-backed Durable Objects, but "
    "this object's namespace is not declared to use SQLite. You can use the older, asynchronous "
    "interface via methods of `storage` itself (e.g. `storage.get()`). Alternatively, to enable "
    f"SQLite, {CHANGE}"
)


def refuse(operation: str) -> NoReturn:
    """Refuse an operation that only SQLite offers.

    Raises:
        TransactionError: always.
    """
    raise TransactionError(
        f"{operation} is only available for SQLite-backed Durable Objects. To enable it, {CHANGE}"
    )


@final
class UnavailableSql:
    """``ctx.storage.sql`` of the legacy backend: every use raises `TransactionError`."""

    def exec(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused."""
        raise TransactionError(SQL)

    @property
    def database_size(self) -> int:
        """Refused."""
        raise TransactionError(SQL)


@final
class UnavailableSyncKv:
    """``ctx.storage.kv`` of the legacy backend: every use raises `TransactionError`."""

    def get(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused."""
        raise TransactionError(SYNC_KV)

    def put(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused."""
        raise TransactionError(SYNC_KV)

    def delete(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused."""
        raise TransactionError(SYNC_KV)

    def list(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused."""
        raise TransactionError(SYNC_KV)
