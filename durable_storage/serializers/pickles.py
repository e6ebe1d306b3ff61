"""Pickle, for those who trust every byte of their files."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable
from typing import Any, final

from ..errors import DataCloneError
from .refusal import NOT_AWAITED, cannot_store, unreadable

__all__ = ["PickleSerializer"]


@final
class PickleSerializer:
    """Pickle, for values of any class.

    Warning:
        Reading a pickle runs whatever code its bytes name. Whoever can write to the files of an
        object can therefore run code in every process that reads them: a copied
        database, an imported backup and a shared directory are programs, not data. A pickle
        also names classes by module: moving or renaming one makes stored values
        unreadable. Use it only for files that nobody else can write; ``MsgpackSerializer`` has
        neither problem.
    """

    @property
    def name(self) -> str:
        """The name recorded in each object."""
        return "pickle"

    def __repr__(self) -> str:
        return "PickleSerializer()"

    def dumps(self, value: object, /) -> bytes:
        """Return ``value`` as a pickle of protocol 5.

        Raises:
            DataCloneError: pickle refuses it.
        """
        try:
            return pickle.dumps(value, protocol=5)
        except Exception as exc:  # the classes of the application may raise anything
            if isinstance(value, Awaitable):
                raise cannot_store("value", NOT_AWAITED) from exc
            raise DataCloneError(f"value cannot be stored: pickle refuses it: {exc}") from exc

    def loads(self, data: bytes, /) -> Any:
        """Return the value that ``dumps`` made into ``data``; runs the code that it names.

        Raises:
            DataCloneError: the bytes are not a pickle, or name a class that does not exist.
        """
        try:
            return pickle.loads(data)
        except Exception as exc:  # the classes of the application may raise anything
            raise unreadable("PickleSerializer", exc) from exc
