"""Copies of files that another process may be writing, which show one moment of them.

A database in WAL mode is its file and its WAL, and a running runtime holds the lock of an object's
file, so SQLite cannot be asked for it. Both are copied instead.

Invariant: the header of the WAL, which names its generation, is the same before the first file is
copied and after the last one was. So the WAL did not restart meanwhile, every page that was folded
into the file is in the copied WAL too, and SQLite reads the last whole commit of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Generator
from typing import Final

from ..errors import DurableStorageError
from ..history.files import Files
from ..history.layout import Layout, read_base, read_identity
from ..history.reader import HistoryReader
from ..history.segment import SegmentLog, find_object_id
from ..history.snapshot import Snapshots
from ..history.wal import HEADER_SIZE
from .failures import Failure

__all__ = [
    "copied",
    "copied_with_history",
    "install",
    "lacks_room",
    "make_plain",
    "no_room",
    "open_reader",
    "working_on_copy",
]

_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 0.05
_UNLIMITED: Final = 2**62
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# The second when it cannot make the file that stands for its shared memory.
_SQLITE_HAS_NO_ROOM: Final = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})


@contextlib.contextmanager
def copied(path: str) -> Generator[str]:
    """Give the path of a copy of a database, which is gone afterwards.

    Raises:
        Failure: the file is missing, changes all the time, or there is no room for the copy.
    """
    with _place(path) as target:
        with working_on_copy(path):
            _at_one_moment(path, lambda: _copy_database(path, target))
        yield target


@contextlib.contextmanager
def copied_with_history(path: str) -> Generator[str]:
    """Give the path of a copy of an object with its log; a restore that it asks for is left out.

    Segments and snapshots that are never written again are not copied but linked to.
    """
    with _place(path) as target:

        def copy() -> None:
            shutil.rmtree(Layout(target).directory, ignore_errors=True)
            _copy_history(Layout(path), Layout(target))
            _copy_database(path, target)

        with working_on_copy(path):
            _at_one_moment(path, copy)
        yield target


@contextlib.contextmanager
def _place(path: str) -> Generator[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="durable-storage-")
    except OSError as exc:
        raise Failure(f"there is no room for a copy of {path}: {exc.strerror}; set TMPDIR") from exc
    with folder as name:
        yield os.path.join(name, os.path.basename(path))


@contextlib.contextmanager
def working_on_copy(path: str) -> Generator[None]:
    """Have what fails in here for want of room say so; only the copy of ``path`` is written.

    Raises:
        Failure: the folder of copies is full.
    """
    try:
        yield
    except (DurableStorageError, OSError, sqlite3.Error) as exc:
        if lacks_room(exc):
            raise no_room(path) from exc
        raise


def lacks_room(exc: BaseException) -> bool:
    """Whether an error comes from a full disk."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return True
        # Python's own errors of the module have no name.
        if getattr(cause, "sqlite_errorname", None) in _SQLITE_HAS_NO_ROOM:
            return True
        cause = cause.__cause__
    return False


def no_room(path: str) -> Failure:
    """What to do when the folder of copies is full."""
    return Failure(
        f"there is no room for a copy of {path} in {tempfile.gettempdir()}; set TMPDIR to a folder "
        "that has more"
    )


def _at_one_moment(path: str, copy: Callable[[], None]) -> None:
    for _ in range(_ATTEMPTS):
        before = _generation(path)
        try:
            copy()
        except FileNotFoundError as exc:
            if not os.path.exists(path):
                raise Failure(f"there is no file {path}") from exc
        else:
            if _generation(path) == before:
                return
        time.sleep(_PAUSE_SECONDS)
    raise Failure(
        f"{path} is written too busily to be read beside its runtime; try again later, or stop the "
        "runtime"
    )


def _generation(path: str) -> object:
    try:
        with open(path + "-wal", "rb", buffering=0) as wal:
            header = wal.read(HEADER_SIZE)
    except FileNotFoundError:
        header = b""
    if header:
        return header
    # Without a WAL nobody writes the file, except to make it anew or out of a journal.
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, os.path.exists(path + "-journal")


def _copy_database(path: str, target: str) -> None:
    # In this order: what is folded into the file while it is copied is in the WAL.
    shutil.copyfile(path, target)
    status = os.stat(path)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target + "-wal")
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(path + "-wal", target + "-wal")
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(path + "-journal", target + "-journal")


def _copy_history(source: Layout, target: Layout) -> None:
    if not os.path.isdir(source.directory):
        return
    for directory in (target.directory, target.segments, target.snapshots):
        os.mkdir(directory, 0o700)
    for name in ("identity", "base", "times"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(os.path.join(source.directory, name), os.path.join(target.directory, name))
    if source.released_wal():
        shutil.copy2(source.held_wal, target.held_wal)
    reader = open_reader(source)
    if reader is None:
        return
    written = reader.log.head.segment if reader.log.head is not None else ""
    for path in reader.log.segments():
        copy = os.path.join(target.segments, os.path.basename(path))
        if path < written:
            os.symlink(os.path.abspath(path), copy)
        else:
            # Opening the copy cuts off what a crash left, and goes on writing here.
            shutil.copy2(path, copy)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(source.snapshots):
            os.symlink(
                os.path.abspath(os.path.join(source.snapshots, name)),
                os.path.join(target.snapshots, name),
            )


def open_reader(layout: Layout) -> HistoryReader | None:
    """An object's history where it is, opened without changing anything; None if there is none."""
    if not os.path.isdir(layout.directory):
        return None
    object_id = read_identity(layout.identity) or find_object_id(layout.segments)
    if object_id is None:
        return None
    files = Files()
    log = SegmentLog(
        layout.segments,
        files,
        object_id=object_id,
        segment_size_bytes=_UNLIMITED,
        segment_age_ms=_UNLIMITED,
    )
    base = read_base(layout.base)
    if base is None or not log.open_at(base.number, base.segment, base.offset):
        log.read_only(durable=base.number if base is not None else 0)
    snapshots = Snapshots(layout.snapshots, files, object_id=object_id)
    return HistoryReader(layout, log, snapshots, object_id)


def make_plain(path: str) -> None:
    """Make a copy a single file without a WAL."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    finally:
        connection.close()


def install(source: str, target: str) -> None:
    """Put a copy in place, whole or not at all; what is there already stays.

    Raises:
        Failure: something is there.
    """
    temporary = f"{target}.{os.getpid()}.new"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as written, open(source, "rb") as read:
            while data := read.read(1024 * 1024):
                written.write(data)
            written.flush()
            os.fsync(written.fileno())
        os.link(temporary, target)
    except FileExistsError as exc:
        raise Failure(f"{target} exists already") from exc
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    Files().sync_directory(os.path.dirname(target))
