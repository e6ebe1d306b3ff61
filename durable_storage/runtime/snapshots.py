"""A data directory held in memory: taken from a runtime, or given back to one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

__all__ = ["RuntimeSnapshot", "SavedFile", "read_directory", "write_directory"]

# The lock belongs to the process, shared memory to an open connection.
_LEFT_ALONE: Final = ("owner.lock", "-shm")
# Where a snapshot is written before it takes the place of what is there.
_STAGING: Final = "restore.new"


@final
@dataclass(frozen=True, slots=True)
class SavedFile:
    """One file of a snapshot.

    Attributes:
        path: relative to the data directory.
        content: its bytes.
        modified_ns: its time of modification.
        same_as: paths with the same number are names of one file; None when it has one name.
    """

    path: str
    content: bytes
    modified_ns: int | None = None
    same_as: int | None = None


@final
@dataclass(frozen=True, slots=True)
class RuntimeSnapshot:
    """Everything that a runtime had on its disk. ``Runtime.restore`` takes it, any number of times.

    Attributes:
        files: the files, in order of path.
        folders: every folder, parents first, relative to the data directory.
    """

    files: tuple[SavedFile, ...]
    folders: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """How much memory the files take."""
        return sum(len(file.content) for file in self.files)

    def __repr__(self) -> str:
        return f"<RuntimeSnapshot of {len(self.files)} files, {self.size_bytes} bytes>"


def read_directory(root: str) -> RuntimeSnapshot:
    """Read everything below ``root``, of which nothing may be in use."""
    files: list[SavedFile] = []
    folders: list[str] = []
    for directory, below, names in os.walk(root):
        below.sort()
        relative = os.path.relpath(directory, root)
        if relative != os.curdir:
            folders.append(relative)
        for name in sorted(names):
            if name.endswith(_LEFT_ALONE):
                continue
            path = os.path.join(directory, name)
            status = os.stat(path)
            with open(path, "rb") as file:
                content = file.read()
            files.append(
                SavedFile(
                    os.path.relpath(path, root),
                    content,
                    status.st_mtime_ns,
                    status.st_ino if status.st_nlink > 1 else None,
                )
            )
    return RuntimeSnapshot(tuple(files), tuple(folders))


def write_directory(root: str, snapshot: RuntimeSnapshot) -> None:
    """Make ``root``, of which nothing may be in use, hold what the snapshot holds.

    Raises:
        OSError: the disk refused; ``root`` holds what it held.
    """
    staging = os.path.join(root, _STAGING)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        os.mkdir(staging, mode=0o700)
        _write(staging, snapshot)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    for entry in _entries(root):
        if entry.is_dir(follow_symlinks=False):
            if entry.name != _STAGING:
                shutil.rmtree(entry.path)
        elif not entry.name.endswith("owner.lock"):
            os.unlink(entry.path)
    for entry in _entries(staging):
        os.rename(entry.path, os.path.join(root, entry.name))
    os.rmdir(staging)


def _write(root: str, snapshot: RuntimeSnapshot) -> None:
    for folder in snapshot.folders:
        os.makedirs(os.path.join(root, folder), mode=0o700, exist_ok=True)
    first: dict[int, str] = {}
    for file in snapshot.files:
        path = os.path.join(root, file.path)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        if file.same_as is not None and file.same_as in first:
            os.link(first[file.same_as], path)
            continue
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as target:
            target.write(file.content)
        if file.modified_ns is not None:
            os.utime(path, ns=(file.modified_ns, file.modified_ns))
        if file.same_as is not None:
            first[file.same_as] = path


def _entries(root: str) -> Iterable[os.DirEntry[str]]:
    with os.scandir(root) as entries:
        return list(entries)
