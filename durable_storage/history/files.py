"""The writes of this package, each announced to the fault seam before it is done.

Only what passes through here changes a file of the history, and a file is durable only once it
and, if it is new or renamed, its directory were synced here.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final, final

from ..database.faults import Faults

__all__ = ["Files"]

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700

_datasync = getattr(os, "fdatasync", os.fsync)


@final
class Files:
    """Operations on files by descriptor and path; the path is what the fault seam is told."""

    def __init__(self, faults: Faults | None = None) -> None:
        self._faults = faults

    def announce(self, operation: str, path: str) -> None:
        """Tell the fault seam of an operation that the caller does itself."""
        if self._faults is not None:
            self._faults.before(operation, path)

    def make_directory(self, path: str) -> None:
        """Make a directory unless it exists; not durable until its parent is synced."""
        if not os.path.isdir(path):
            self.announce("open", path)
            # Whoever confirms, archives or gives a bookmark is the first to need one.
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, DIRECTORY_MODE)

    def create(self, path: str) -> int:
        """Return a descriptor of a new file. FileExistsError if there is one."""
        self.announce("open", path)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)

    def scratch(self, path: str) -> int:
        """Return a descriptor of an empty file, in place of what a crash may have left."""
        self.announce("open", path)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return os.open(path, flags, FILE_MODE)

    def append_to(self, path: str) -> int:
        """Return a descriptor that writes at the end of a file, made if missing."""
        self.announce("open", path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(path, flags, FILE_MODE)

    def write(self, descriptor: int, path: str, offset: int, *parts: bytes | memoryview) -> int:
        """Write all of ``parts`` from ``offset`` on and return the offset behind them."""
        self.announce("write", path)
        for part in parts:
            rest = memoryview(part)
            while rest:
                written = os.pwrite(descriptor, rest, offset)
                rest = rest[written:]
                offset += written
        return offset

    def append(self, descriptor: int, path: str, data: bytes) -> None:
        """Write ``data`` at the end of a file opened by `append_to`."""
        self.announce("write", path)
        os.write(descriptor, data)

    def truncate(self, descriptor: int, path: str, size: int) -> None:
        """Cut or extend a file."""
        self.announce("truncate", path)
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int, path: str) -> None:
        """Make a file's content and size durable."""
        self.announce("fdatasync", path)
        _datasync(descriptor)

    def sync_with_times(self, path: str) -> os.stat_result:
        """Make a file durable together with its modification time, and return its status.

        Not for a file that SQLite has open: closing the descriptor would drop its locks.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.announce("fsync", path)
            os.fsync(descriptor)
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.announce("fsync", path)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: str, destination: str, *, durably: bool = True) -> None:
        """Rename a file over another and make the new name durable."""
        self.announce("rename", destination)
        os.rename(source, destination)
        if durably:
            self.sync_directory(os.path.dirname(destination))

    def replace(self, path: str, data: bytes) -> None:
        """Durably put ``data`` in the place of a file: all of it or, after a crash, none."""
        temporary = path + ".new"
        descriptor = self.scratch(temporary)
        try:
            self.write(descriptor, temporary, 0, data)
            self.sync(descriptor, temporary)
        finally:
            os.close(descriptor)
        self.rename(temporary, path)

    def link(self, source: str, destination: str) -> None:
        """Give a file a second name."""
        self.announce("open", destination)
        os.link(source, destination)

    def unlink(self, path: str) -> bool:
        """Remove a file; false if there is none. Not durable until its directory is synced."""
        self.announce("unlink", path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True
