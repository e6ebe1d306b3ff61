"""``ctx.storage.sql``: SQL on the object's own database."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

from ..database.cursor import SqlStorageCursor
from ..errors import SqlError

if TYPE_CHECKING:
    from .session import Session

__all__ = ["SqlStorage"]

Row = TypeVar("Row")


@final
class SqlStorage:
    """SQL on the object's own database. See Cloudflare's "SQL API"."""

    __slots__ = ("_before_write", "_database", "_exec", "_life", "_loop", "_session")

    def __init__(self, session: Session) -> None:
        self._bind(session)

    def _bind(self, session: Session) -> None:
        self._session = session
        self._database = session.database
        self._exec = session.database.exec
        self._life = life = session.life
        self._loop = life.loop
        session.database.thread_id = life.loop.thread_id

        def before_write() -> None:
            session.before_sql_write()
            life.pending = True

        self._before_write = before_write

    @overload
    def exec(self, query: str, *bindings: object) -> SqlStorageCursor[dict[str, Any]]: ...
    @overload
    def exec(
        self, query: str, *bindings: object, row_type: Callable[..., Row]
    ) -> SqlStorageCursor[Row]: ...
    @overload
    def exec(
        self, query: str, *bindings: object, row_type: None
    ) -> SqlStorageCursor[dict[str, Any]]: ...
    def exec(
        self, query: str, *bindings: object, row_type: Callable[..., Any] | None = None
    ) -> SqlStorageCursor[Any]:
        """Run one or more statements now, up to the first row of the last one.

        Args:
            query: SQL; statements are separated by semicolons.
            bindings: the parameters of the last statement: ``None``, ``bool``, ``int`` of 64 bits,
                ``float``, ``str`` or bytes-like.
            row_type: what rows are made into: a ``TypedDict`` (types only), or a dataclass, a
                ``NamedTuple`` or any callable that takes the columns as keywords. Default ``dict``.

        Raises:
            SqlError: SQLite or the object's rules refused it; earlier statements of a script stand.
            ArgumentTypeError: a binding is of a type that SQLite does not store.
            ConcurrencyError: called where another event's isolation would be broken.
        """
        life = self._life
        loop = self._loop
        frame = loop.current
        if (
            frame is None
            or frame.life is not life
            or life.broken is not None
            or get_ident() != loop.thread_id
        ):
            return self._exec_undriven(query, bindings, row_type)
        try:
            return self._exec(query, bindings, row_type, self._before_write)
        except SqlError:
            self._session.check_transaction()
            raise

    def _exec_undriven(
        self, query: str, bindings: tuple[object, ...], row_type: Callable[..., Any] | None
    ) -> SqlStorageCursor[Any]:
        """As `exec`, called by code that the gates do not drive: a child task, or nobody's."""
        driven = self._life.admit("sql.exec()")
        session = self._session
        try:
            return self._exec(query, bindings, row_type, self._before_write)
        except SqlError:
            session.check_transaction()
            raise
        finally:
            if session.open:
                session.life.wrote(driven)

    @property
    def database_size(self) -> int:
        """Size of the database in bytes: its used pages."""
        session = self._session
        driven = self._life.admit("sql.database_size")
        if session.kv.dirty:
            session.kv.flush()
            self._life.wrote(driven)
        return session.database.size_bytes
