"""Confirming: what was committed is on stable storage.

SQLite runs with ``synchronous=NORMAL`` (or OFF until the first confirm), so a COMMIT only hands
the frames of the WAL to the operating system. ``confirm`` makes them durable through our own
descriptor of the WAL, and the first time also the database file and the directory entries.

Invariant: after a failed sync nothing is ever confirmed again. The kernel may have dropped the
dirty pages, and a second fsync that succeeds would prove nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Final, final

from .faults import Faults

__all__ = ["WriteAheadLog"]

_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24

# A commit that makes the file longer has the disk write the inode too: on ext4 that is confirmed
# in 260 instead of 130 µs. So small commits find the file longer than they need it, by this much.
_AHEAD: Final = bytes(64 * 1024)

# macOS has no fdatasync.
_fdatasync: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)


@final
class WriteAheadLog:
    """The ``-wal`` file beside a database file, as we see it.

    Attributes:
        confirmed_once: the file, its WAL and their directory entries are on stable storage.
    """

    def __init__(self, database_path: str, database_descriptor: int, faults: Faults | None) -> None:
        self._database_path = database_path
        self._database_descriptor = database_descriptor
        self._path = database_path + "-wal"
        # One descriptor for life: SQLite keeps the file as long as it has the database open.
        self._descriptor: int | None = None
        self._opening = threading.Lock()
        self._faults = faults
        self._failure: OSError | None = None
        self.confirmed_once: bool = False
        self._salts = b""
        self._frames = 0
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """How much of the file is in use, 0 before the first commit.

        The file does not shrink when SQLite starts it anew from its beginning; the frames of an
        earlier round are told by their salts (SQLite's "WAL-mode File Format").
        """
        descriptor = self._open()
        if descriptor is None:
            return 0
        header = os.pread(descriptor, _HEADER_BYTES, 0)
        if len(header) < _HEADER_BYTES:
            return 0
        frame_bytes = _FRAME_HEADER_BYTES + int.from_bytes(header[8:12])
        salts = header[16:24]
        if salts != self._salts:
            self._salts, self._frames = salts, 0

        def in_use(frame: int) -> bool:
            start = _HEADER_BYTES + (frame - 1) * frame_bytes
            return os.pread(descriptor, _FRAME_HEADER_BYTES, start)[8:16] == salts

        # The last frame in use, searched from where it was found before: by doubling, then halving.
        step = 1
        while in_use(self._frames + step):
            step *= 2
        low, high = self._frames + step // 2, self._frames + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if in_use(middle) else (low, middle)
        self._frames = low
        return _HEADER_BYTES + low * frame_bytes

    def extend(self) -> None:
        """Lengthen the file if small commits do so. No COMMIT may be running.

        To SQLite zeros are what is left of an earlier round: no frame has their salts.
        """
        if not self.confirmed_once:
            return  # nobody waits for the disk, or not yet
        with contextlib.suppress(OSError):  # a full disk; what was committed stays so
            descriptor = self._open()
            if descriptor is None:
                return
            # Not by fstat(): with fine times (Linux 6.13) the next commit would write the inode.
            size = os.lseek(descriptor, 0, os.SEEK_END)
            grown, self._size = size - self._size, size
            if 0 < grown < len(_AHEAD) <= size:
                self._before("write", self._path)
                self._size += os.pwrite(descriptor, _AHEAD, size)

    def confirm(self) -> None:
        """Make every commit that was done before the call durable. Any thread may call it.

        Raises:
            OSError: a sync failed, now or earlier.
        """
        if self._failure is not None:
            raise OSError(*self._failure.args) from self._failure
        try:
            self._sync()
        except OSError as error:
            self._failure = error
            raise

    def close(self) -> None:
        """Release the descriptor."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _sync(self) -> None:
        descriptor = self._open()
        first = not self.confirmed_once
        if first:
            self._before("fsync", self._database_path)
            os.fsync(self._database_descriptor)
        if descriptor is None:
            return
        self._before("fdatasync", self._path)
        _fdatasync(descriptor)
        if first:
            directory = os.path.dirname(self._database_path) or os.curdir
            self._before("fsync", directory)
            _sync_directory(directory)
            self.confirmed_once = True

    def _open(self) -> int | None:
        # The size is asked for while another thread confirms.
        with self._opening:
            if self._descriptor is None:
                try:
                    self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
                except FileNotFoundError:
                    return None
            return self._descriptor

    def _before(self, operation: str, path: str) -> None:
        if self._faults is not None:
            self._faults.before(operation, path)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
