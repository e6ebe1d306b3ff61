"""Temporary directories whose syncs cost nothing, where the system has such a place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

__all__ = ["temporary_directory"]

_MEMORY: Final = "/dev/shm"
_ROOM_BYTES: Final = 64 * 1024**2


@contextmanager
def temporary_directory() -> Generator[str]:
    """An empty directory, in memory if possible, that is removed at the end."""
    path = os.path.realpath(tempfile.mkdtemp(prefix="durable-storage-", dir=_in_memory()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _in_memory() -> str | None:
    if not os.access(_MEMORY, os.W_OK | os.X_OK):
        return None
    space = os.statvfs(_MEMORY)
    return _MEMORY if space.f_bavail * space.f_frsize > _ROOM_BYTES else None
