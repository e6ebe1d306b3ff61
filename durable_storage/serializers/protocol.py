"""The seam at which an application may put a serializer of its own."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

__all__ = ["Serializer"]


@runtime_checkable
class Serializer(Protocol):
    """What storage asks of a serializer."""

    @property
    def name(self) -> str:
        """The name recorded in each object; data is read only with a serializer so named."""
        ...

    def dumps(self, value: object, /) -> bytes:
        """Return ``value`` as bytes.

        Raises:
            DataCloneError: it cannot be stored.
        """
        ...

    def loads(self, data: bytes, /) -> Any:
        """Return a new value equal to the one that ``dumps`` was given.

        Raises:
            DataCloneError: the bytes are not what ``dumps`` writes.
        """
        ...
