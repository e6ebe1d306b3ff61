"""The seam through which tests make this package's own file operations fail."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Faults"]


class Faults(Protocol):
    """Told of every operation on a file before it is done, and free to raise instead."""

    def before(self, operation: str, path: str) -> None:
        """Allow the operation by returning.

        Args:
            operation: ``open``, ``write``, ``fsync``, ``fdatasync``, ``commit``, ``rename``,
                ``unlink`` or ``truncate``.
            path: the file or directory it is about.

        Raises:
            OSError: the operation fails this way, and is not done.
        """
        ...
