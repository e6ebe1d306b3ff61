"""The data directory: who owns it, and where each object's file is.

Layout: ``owner.lock``, ``registry.sqlite``, and one folder per namespace with two levels of
fan-out, ``<folder>/<xx>/<yy>/<64 hex digits>.sqlite``, where ``xxyy`` are the id's first digits.

Invariants:

- One owner: the lock on ``owner.lock`` is held from construction to ``release()``; the
  operating system drops it when the process dies. The file itself is never removed, because
  removing a locked file lets two processes lock two files of the same name.
- A folder that was made is in its parent on stable storage before anything in it is confirmed:
  whoever confirms a new object calls ``sync_folders()`` first.
- Nothing is created through a symbolic link below the root. The root itself may be one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import Final, final

from ..errors import ArgumentValueError, DatabaseFileError, RuntimeInUseError
from ..state import text_path

__all__ = ["DataDirectory", "namespace_folder"]

_LOCK_FILE: Final = "owner.lock"
_REGISTRY_FILE: Final = "registry.sqlite"
_SUFFIX: Final = ".sqlite"
_OBJECT_ID: Final = re.compile(r"[0-9a-f]{64}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_]")

# flock works on open files, so it already refuses a second runtime of this process; some
# network file systems turn it into a lock of the whole process, which would let it in.
_owned: Final[set[tuple[int, int]]] = set()
_owned_guard: Final = threading.Lock()


def namespace_folder(unique_key: str) -> str:
    """The folder name of the namespace with this key: readable, and safe on every file system.

    Different keys give different names even where case is ignored, and the same key always
    gives the same name, so that a lost registry can be rebuilt.
    """
    readable = _UNSAFE.sub("_", unique_key)[:40]
    return (
        f"{readable}-{hashlib.sha256(unique_key.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
    )


@final
class DataDirectory:
    """The directory ``path``, owned by this process until ``release()``.

    Args:
        path: created, readable by its owner alone, when missing. ``None``: a temporary directory
            that ``release()`` removes.

    Raises:
        RuntimeInUseError: another process, or another runtime of this one, owns it.
        DatabaseFileError: it cannot be created, written or locked.
    """

    path: Final[str]
    temporary: Final[bool]

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.temporary = path is None
        self.path = _make_temporary() if path is None else _make_root(_root_path(path))
        # Parents of new folders, each with the number of folders made in it: a parent leaves
        # only if that number is the one from before its fsync.
        self._unsynced: dict[str, int] = {}
        self._guard = threading.Lock()
        # Held during the fsyncs, so that sync_folders() also waits for what another thread does.
        self._syncing = threading.Lock()
        self._pid = os.getpid()
        self._lock: int | None = None
        self._identity: tuple[int, int] | None = None
        self._acquire()
        _open_directories.add(self)

    # ------------------------------------------------------------------ ownership

    def _acquire(self) -> None:
        lock_path = os.path.join(self.path, _LOCK_FILE)
        try:
            flags = os.O_RDWR | os.O_CREAT | _flag("O_CLOEXEC") | _flag("O_NOFOLLOW")
            descriptor = os.open(lock_path, flags, 0o600)
        except OSError as exc:
            raise DatabaseFileError(
                f"the data directory {self.path!r} cannot be used: {exc.strerror or exc}; "
                "pass a directory that this user may write"
            ) from exc
        claimed: tuple[int, int] | None = None
        try:
            status = os.fstat(descriptor)
            identity = (status.st_dev, status.st_ino)
            with _owned_guard:
                if identity in _owned:
                    raise self._in_use(descriptor)
                _owned.add(identity)
            claimed = identity
            try:
                _lock_nowait(descriptor)
            except BlockingIOError as exc:
                raise self._in_use(descriptor) from exc
            except OSError as exc:
                raise DatabaseFileError(
                    f"the data directory {self.path!r} cannot be locked: {exc.strerror or exc}; "
                    "use a file system with file locks"
                ) from exc
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"{self._pid}\n".encode())
        except BaseException:
            os.close(descriptor)
            if claimed is not None:
                with _owned_guard:
                    _owned.discard(claimed)
            raise
        self._lock = descriptor
        self._identity = claimed

    def _in_use(self, descriptor: int) -> RuntimeInUseError:
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            text = os.read(descriptor, 32).decode("ascii", "replace").strip()
        except OSError:
            text = ""
        if text == str(os.getpid()):
            owner = f"another runtime of this process (pid {text})"
        elif text.isdigit():
            owner = f"the process with pid {text}"
        else:
            owner = "another process"
        return RuntimeInUseError(
            f"the data directory {self.path!r} is in use by {owner}; "
            "close that runtime first, or use another directory"
        )

    def release(self) -> None:
        """Give the directory up; a temporary one is removed. Idempotent."""
        descriptor, self._lock = self._lock, None
        if descriptor is None:
            return
        _open_directories.discard(self)
        # A forked child shares the open file: unlocking there would take the parent's lock away.
        if os.getpid() != self._pid:
            os.close(descriptor)
            return
        try:
            if self.temporary:
                shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            _unlock(descriptor)
        finally:
            os.close(descriptor)
            if self._identity is not None:
                with _owned_guard:
                    _owned.discard(self._identity)

    @property
    def released(self) -> bool:
        """Whether the directory was given up."""
        return self._lock is None

    def _forget_in_child(self) -> None:
        # Otherwise a child that outlives a killed parent would keep the directory locked.
        descriptor, self._lock = self._lock, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    # ------------------------------------------------------------------ places

    @property
    def registry_path(self) -> str:
        """Where the registry's database is."""
        return os.path.join(self.path, _REGISTRY_FILE)

    def object_path(self, folder: str, object_id: str) -> str:
        """Where the file of an object is or will be; nothing is created.

        Args:
            folder: ``NamespaceRecord.folder``.
            object_id: 64 lower-case hex digits.
        """
        if _OBJECT_ID.fullmatch(object_id) is None:
            raise ArgumentValueError(f"an object id is 64 hex digits, got {object_id!r}")
        return os.path.join(self.path, folder, object_id[:2], object_id[2:4], object_id + _SUFFIX)

    def prepare(self, folder: str, object_id: str) -> str:
        """The object's path, with the folders above it made (mode 0700).

        The new folders are durable only after ``sync_folders()``.

        Raises:
            DatabaseFileError: something that is not a folder, such as a symbolic link, is in
                the way, or a folder cannot be made.
        """
        path = self.object_path(folder, object_id)
        if os.path.islink(path):
            raise DatabaseFileError(f"{path!r} is a symbolic link: objects are real files")
        if os.path.exists(path):
            return path
        below = self.path
        for part in (folder, object_id[:2], object_id[2:4]):
            parent, below = below, os.path.join(below, part)
            self._make_folder(parent, below)
        return path

    def _make_folder(self, parent: str, path: str) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise DatabaseFileError(
                    f"{path!r} is in the way: objects are only created in real folders"
                ) from None
        except OSError as exc:
            raise DatabaseFileError(
                f"the folder {path!r} cannot be made: {exc.strerror or exc}"
            ) from exc
        else:
            with self._guard:
                self._unsynced[parent] = self._unsynced.get(parent, 0) + 1

    @property
    def unsynced(self) -> bool:
        """Whether ``sync_folders()`` has anything to do; true while another thread does it."""
        return bool(self._unsynced)

    def sync_folders(self) -> None:
        """Return once every folder made so far is on stable storage. Blocking, thread-safe.

        Raises:
            OSError: a folder could not be synced; it is tried again by the next call.
        """
        if not self._unsynced:
            return
        with self._syncing:
            with self._guard:
                taken = dict(self._unsynced)
            for folder, made in sorted(taken.items()):
                _sync_directory(folder)
                with self._guard:
                    if self._unsynced[folder] == made:
                        del self._unsynced[folder]

    def object_ids(self, folder: str) -> Iterator[str]:
        """The ids of the objects that have a file in a namespace's folder, in order of id."""
        top = os.path.join(self.path, folder)
        for first in _folders(top):
            for second in _folders(os.path.join(top, first)):
                ids: list[str] = []
                with os.scandir(os.path.join(top, first, second)) as entries:
                    for entry in entries:
                        object_id = entry.name.removesuffix(_SUFFIX)
                        if (
                            len(entry.name) == 64 + len(_SUFFIX)
                            and _OBJECT_ID.fullmatch(object_id) is not None
                            and object_id.startswith(first + second)
                            and entry.is_file(follow_symlinks=False)
                        ):
                            ids.append(object_id)
                yield from sorted(ids)

    def remove_namespace(self, folder: str) -> None:
        """Remove a namespace's folder with everything in it. Safe to repeat after a crash.

        Raises:
            DatabaseFileError: something could not be removed.
        """
        path = os.path.join(self.path, folder)
        try:
            if os.path.islink(path):
                os.unlink(path)
            elif os.path.lexists(path):
                shutil.rmtree(path)
            _sync_directory(self.path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise DatabaseFileError(
                f"the folder {path!r} of a deleted class cannot be removed: "
                f"{exc.strerror or exc}; it is tried again when the directory is next opened"
            ) from exc


_open_directories: Final[weakref.WeakSet[DataDirectory]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _owned.clear()
    for directory in list(_open_directories):
        directory._forget_in_child()  # pyright: ignore[reportPrivateUsage] - the same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _root_path(path: str | os.PathLike[str]) -> str:
    text = text_path(path, "the data directory is")
    if not text:
        raise ArgumentValueError(
            "the data directory is an empty path; pass None for a temporary one"
        )
    if "\0" in text:
        raise ArgumentValueError(f"the data directory's path cannot hold NUL, got {text!r}")
    return text


def _make_temporary() -> str:
    try:
        return tempfile.mkdtemp(prefix="durable-storage-")
    except OSError as exc:
        raise DatabaseFileError(
            f"no temporary directory can be made: {exc.strerror or exc}; pass a path"
        ) from exc


def _make_root(path: str) -> str:
    path = os.path.abspath(path)
    missing: list[str] = []
    existing = path
    while not os.path.isdir(existing):
        missing.append(existing)
        existing = os.path.dirname(existing)
    try:
        for folder in reversed(missing):
            try:
                os.mkdir(folder, 0o700 if folder == path else 0o777)
            except FileExistsError:
                if not os.path.isdir(folder):
                    raise
            _sync_directory(os.path.dirname(folder))
    except OSError as exc:
        raise DatabaseFileError(
            f"the data directory {path!r} cannot be made: {exc.strerror or exc}"
        ) from exc
    return path


def _flag(name: str) -> int:
    return int(getattr(os, name, 0))  # 0 where the platform has no such flag


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if len(entry.name) == 2 and entry.is_dir(follow_symlinks=False)
            )
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sync_directory(path: str) -> None:
    if os.name == "nt":  # folders cannot be opened there; NTFS journals its metadata
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | _flag("O_DIRECTORY") | _flag("O_CLOEXEC"))
    except FileNotFoundError:  # removed since, with everything in it
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    # Far behind the pid, because a locked range cannot be read by others.
    _LOCKED_BYTE: Final = 1 << 30

    def _lock_nowait(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as exc:
            if exc.errno in (errno.EACCES, errno.EDEADLK):
                raise BlockingIOError(exc.errno, "locked") from exc
            raise
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock_nowait(descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BlockingIOError(exc.errno, "locked") from exc
            raise

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
