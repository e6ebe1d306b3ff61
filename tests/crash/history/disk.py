"""A disk that can lose power: which bytes and which names would still be there.

Fault model. A file's content is durable as of its last fsync or fdatasync, its time of
modification as of its last fsync, a directory's names as of its last fsync. What came later may
be there or not: independently for every file and every name, and for a file also in part, sector
by sector. SQLite is trusted to sync what it says it syncs; the rig reports that with
`synced`.

Everything is observed through the fault seam, which is told of an operation before it is done.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable

SECTOR = 512
Site = tuple[str, ...]


class Disk:
    """Watches a directory through the fault seam.

    Args:
        root: the directory, whose files are all known about.
        at_point: called before every operation, with its number, name and path.
        skipped: the place in the code whose syncs have no effect.
    """

    def __init__(
        self,
        root: str,
        at_point: Callable[[int, str, str], None] = lambda number, operation, path: None,
        skipped: Site | None = None,
    ) -> None:
        self.root = root
        self.points = 0
        self.sites: set[Site] = set()
        self._at_point = at_point
        self._skipped = skipped
        self._content: dict[int, bytes] = {}
        self._modified: dict[int, int] = {}
        self._names: dict[str, dict[str, int]] = {}
        # An inode number must not be used again for another file.
        self._kept_open: dict[int, int] = {}
        for directory, _, names in os.walk(root):
            self._sync_names(directory)
            for name in names:
                self.synced(os.path.join(directory, name), times=True)

    def close(self) -> None:
        for descriptor in self._kept_open.values():
            os.close(descriptor)
        self._kept_open.clear()

    # -- the fault seam

    def before(self, operation: str, path: str) -> None:
        self._at_point(self.points, operation, path)
        self.points += 1
        if operation not in ("fsync", "fdatasync"):
            return
        site = _site()
        self.sites.add(site)
        if site == self._skipped:
            return
        if os.path.isdir(path):
            self._sync_names(path)
        else:
            self.synced(path, times=operation == "fsync")

    def synced(self, path: str, *, times: bool = False) -> None:
        """Note that a file's content was made durable."""
        inode = self._inode(path)
        with open(path, "rb") as file:
            self._content[inode] = file.read()
        if times:
            self._modified[inode] = os.stat(path).st_mtime_ns

    def _sync_names(self, directory: str) -> None:
        self._names[os.path.abspath(directory)] = self._current_names(directory)

    def _current_names(self, directory: str) -> dict[str, int]:
        return {name: self._inode(os.path.join(directory, name)) for name in os.listdir(directory)}

    def _inode(self, path: str) -> int:
        inode = os.stat(path).st_ino
        if inode not in self._kept_open:
            self._kept_open[inode] = os.open(path, os.O_RDONLY)
        return inode

    # -- what would be there

    def kill(self, destination: str) -> None:
        """Copy the directory as the death of the process would leave it."""
        self._build(destination, self.root, lambda directory: self._current_names(directory), None)

    def lose_power(self, destination: str, chance: random.Random | None) -> None:
        """Copy the directory as a loss of power could leave it; without chance, at the worst."""

        def names(directory: str) -> dict[str, int]:
            durable = self._names.get(os.path.abspath(directory), {})
            current = self._current_names(directory) if os.path.isdir(directory) else {}
            if chance is None or chance.random() < 0.3:
                return durable
            if chance.random() < 0.3:
                return current
            chosen = {
                name: chance.choice([durable, current]).get(name)
                for name in sorted({*durable, *current})
            }
            return {name: inode for name, inode in chosen.items() if inode is not None}

        self._build(destination, self.root, names, _Loss(chance))

    def _build(
        self,
        destination: str,
        directory: str,
        names_of: Callable[[str], dict[str, int]],
        loss: _Loss | None,
        copies: dict[int, str] | None = None,
    ) -> None:
        os.mkdir(destination)
        copies = {} if copies is None else copies
        for name, inode in sorted(names_of(directory).items()):
            target = os.path.join(destination, name)
            held = self._kept_open[inode]
            status = os.fstat(held)
            if os.path.isdir(f"/dev/fd/{held}"):
                self._build(target, os.path.join(directory, name), names_of, loss, copies)
                continue
            if inode in copies:
                os.link(copies[inode], target)
                continue
            copies[inode] = target
            content = os.pread(held, status.st_size, 0)
            modified = status.st_mtime_ns
            if loss is not None:
                content = loss.content(self._content.get(inode, b""), content)
                modified = loss.modified(self._modified.get(inode, 0), modified)
            with open(target, "wb") as file:
                file.write(content)
            os.utime(target, ns=(modified, modified))


class _Loss:
    def __init__(self, chance: random.Random | None) -> None:
        self._chance = chance

    def content(self, durable: bytes, current: bytes) -> bytes:
        chance = self._chance
        if chance is None:
            return durable
        kind = chance.random()
        if kind < 0.4:
            return durable
        if kind < 0.7:
            return current
        size = chance.choice([len(durable), len(current)])
        mixed = bytearray(size)
        for start in range(0, size, SECTOR):
            source = chance.choice([durable, current])
            mixed[start : start + SECTOR] = source[start : min(start + SECTOR, size)].ljust(
                min(SECTOR, size - start), b"\0"
            )
        return bytes(mixed)

    def modified(self, durable: int, current: int) -> int:
        return durable if self._chance is None or self._chance.random() < 0.5 else current


def _site() -> Site:
    """Return where in the package a sync was asked for: the sync, and who wanted it."""
    frame = sys._getframe(2)
    site: list[str] = []
    while frame is not None:
        name = os.path.basename(frame.f_code.co_filename)
        if "durable_storage" in frame.f_code.co_filename:
            if name != "files.py" and frame.f_code.co_name != "_before":
                return (f"{name}:{frame.f_lineno} {frame.f_code.co_name}", *site)
            if frame.f_code.co_name not in ("announce", "_before"):
                site.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    raise AssertionError("a sync from outside the package")


def copy_tree(source: str, destination: str) -> None:
    shutil.copytree(source, destination)
