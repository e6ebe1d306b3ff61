"""The object's file before SQLite sees it: opened by us, and created as one valid page.

SQLite deletes the WAL of a database that is missing or empty. So a new file is written here as
the single page that SQLite itself would write for an empty database in WAL mode, and only then
opened. A crash in the middle leaves a prefix of that page or zeros, which count as new.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
from typing import Final, final
from weakref import WeakValueDictionary

from ..errors import DatabaseFileError
from .faults import Faults
from .soundness import check_size

__all__ = ["FIRST_PAGE", "PAGE_SIZE", "DatabaseFile", "FileClaim"]

PAGE_SIZE: Final = 4096
_WAL: Final = 2
_UTF_8: Final = 1
_LEAF_TABLE: Final = 0x0D
# "Database File Format" of the SQLite documentation, section 1.3, then 1.6 for the empty schema.
_HEADER: Final = struct.pack(
    ">16sHBBBBBB12I20x2I",
    b"SQLite format 3\0",
    PAGE_SIZE,
    _WAL,  # write version
    _WAL,  # read version
    0,  # reserved bytes of each page
    64,  # payload fractions, fixed
    32,
    32,
    1,  # file change counter
    1,  # pages
    0,  # first free page
    0,  # free pages
    0,  # schema cookie
    4,  # schema format
    0,  # suggested cache size
    0,  # auto-vacuum off
    _UTF_8,
    0,  # user version
    0,  # incremental vacuum off
    0,  # application id
    1,  # the change counter for which the next number holds
    3_040_000,  # version of the library that wrote it
)
FIRST_PAGE: Final = (_HEADER + struct.pack(">BHHHB", _LEAF_TABLE, 0, 0, PAGE_SIZE, 0)).ljust(
    PAGE_SIZE, b"\0"
)


_open_lock: Final = threading.Lock()
_open_files: Final[set[tuple[int, int]]] = set()
# By directory and name, and by the file itself, which may have other names. Weakly: what is never
# opened, because nobody is left who could, is claimed no longer.
_claimed: Final[WeakValueDictionary[tuple[int, int, str], FileClaim]] = WeakValueDictionary()
_claimed_files: Final[WeakValueDictionary[tuple[int, int], FileClaim]] = WeakValueDictionary()


@final
class FileClaim:
    """A database file that nobody else in this process opens, until it is released.

    Closing any descriptor of a file drops the POSIX locks that SQLite holds on it, in the whole
    process. So the file is claimed before anything opens it, were it only to read it.

    Raises:
        DatabaseFileError: somebody has it, or its directory is missing.
    """

    __slots__ = ("__weakref__", "_file", "_name")

    def __init__(self, path: str) -> None:
        directory, file = os.path.split(path)
        with _open_lock:
            try:
                self._name = (*_identity(os.stat(directory or os.curdir)), file)
                self._file = _identity_of(path)
            except OSError as error:
                raise _cannot_open(path, error) from error
            if self._name in _claimed or self._file in _claimed_files or self._file in _open_files:
                raise _is_open(path)
            _claimed[self._name] = self
            if self._file is not None:
                _claimed_files[self._file] = self

    def opened(self) -> None:
        """Take note that the file is open: that tells it from others, also if it is another now."""
        with _open_lock:
            if self._file is not None and _claimed_files.get(self._file) is self:
                del _claimed_files[self._file]

    def release(self) -> None:
        """Let others have it; nothing of it is open any more."""
        self.opened()
        with _open_lock:
            if _claimed.get(self._name) is self:
                del _claimed[self._name]


def _forget_claims() -> None:
    # They are the parent's, and so may be the threads that would release them.
    _claimed.clear()
    _claimed_files.clear()
    _open_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_open_lock.acquire,
        after_in_parent=_open_lock.release,
        after_in_child=_forget_claims,
    )


@final
class DatabaseFile:
    """Our own descriptor of an object's file, kept as long as SQLite has the file open.

    For the reason that `FileClaim` gives, a file that is open already is refused before a second
    descriptor exists.

    Attributes:
        descriptor: open for reading and writing.
        created: the file was written now.

    Raises:
        DatabaseFileError: the file cannot be opened for writing, is no regular file, or is open.
    """

    __slots__ = ("_identity", "created", "descriptor")

    def __init__(self, path: str, faults: Faults | None) -> None:
        with _open_lock:
            try:
                if _identity_of(path) in _open_files:
                    raise _is_open(path)
            except OSError as error:
                raise _cannot_open(path, error) from error
            try:
                if faults is not None:
                    faults.before("open", path)
                self.descriptor: int = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise _cannot_open(path, error) from error
            try:
                self.created: bool = _write_if_new(self.descriptor, path, faults)
                self._identity = _identity(os.fstat(self.descriptor))
            except BaseException as error:
                os.close(self.descriptor)
                if isinstance(error, OSError):
                    raise DatabaseFileError(
                        f"cannot create the database file {path!r}: {error.strerror}"
                    ) from error
                raise
            _open_files.add(self._identity)

    def close(self) -> None:
        """Release the descriptor; SQLite has closed the file before."""
        with _open_lock:
            os.close(self.descriptor)
            _open_files.discard(self._identity)


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        return _identity(os.stat(path))
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_open(path: str) -> DatabaseFileError:
    return DatabaseFileError(
        f"the database file {path!r} is open in this process already; close the other"
        " DurableObjectState first"
    )


def _cannot_open(path: str, error: OSError) -> DatabaseFileError:
    return DatabaseFileError(
        f"cannot open the database file {path!r} for reading and writing: {error.strerror}"
    )


def _write_if_new(descriptor: int, path: str, faults: Faults | None) -> bool:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DatabaseFileError(f"{path!r} is not a regular file")
    if status.st_size > PAGE_SIZE:
        check_size(descriptor, path)
        return False
    content = os.pread(descriptor, PAGE_SIZE, 0)
    written = content.rstrip(b"\0")
    if content == FIRST_PAGE or not FIRST_PAGE.startswith(written):
        return False
    if faults is not None:
        faults.before("write", path)
    os.pwrite(descriptor, FIRST_PAGE, 0)
    return True
