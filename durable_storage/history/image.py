"""A database file in the making: pages of the log are written into it, commit by commit."""

from __future__ import annotations

import errno
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

from ..database.create import FIRST_PAGE
from .block import Flags, Slice
from .files import Files
from .wal import FRAME_HEADER_SIZE

__all__ = ["SLICE_SIZE", "Difference", "Image", "compare", "difference_slices", "page_size_of"]

_PAGE_AND_SIZE: Final = struct.Struct(">II")
_FRAME_HEADER: Final = struct.Struct(">II16x")
_PENDING_BYTE: Final = 0x40000000
SLICE_SIZE: Final = 4 * 1024**2
"""The most bytes of frames that one block holds."""
# Pages of one system call, far below any limit on them.
_RUN_MAX: Final = 256
_COMPARE_SIZE: Final = 1024 * 1024


@final
class Image:
    """A file that becomes a database as of some commit.

    Args:
        path: where; made anew.
        files: writes go through it.

    Attributes:
        page_size: of the database.
        pages: its size as of the last commit applied.
    """

    def __init__(self, path: str, files: Files) -> None:
        self.path = path
        self.page_size: int = len(FIRST_PAGE)
        self.pages: int = 0
        self._files = files
        self._descriptor = files.scratch(path)
        # The highest page that the file may hold now, committed or not.
        self._high = 0

    def begin(self, page_size: int) -> None:
        """Forget everything and start with no pages."""
        os.ftruncate(self._descriptor, 0)
        self.page_size = page_size
        self.pages = self._high = 0

    def begin_empty(self) -> None:
        """Start with the database that a new object has."""
        self.begin(len(FIRST_PAGE))
        self.write_run(1, FIRST_PAGE)
        self.end(1)

    def write_run(self, first_page: int, data: bytes) -> None:
        """Write consecutive pages."""
        offset = (first_page - 1) * self.page_size
        self._files.write(self._descriptor, self.path, offset, data)

    def read_run(self, first_page: int, pages: int) -> bytes:
        """Return consecutive pages; zeros where none was written."""
        size = pages * self.page_size
        data = os.pread(self._descriptor, size, (first_page - 1) * self.page_size)
        return data.ljust(size, b"\0")

    def apply(self, frames: bytes, page_size: int, count: int) -> bool:
        """Write the first ``count`` of some frames; true if the last of them ends a commit."""
        assert page_size == self.page_size, "only a full commit changes the page size"
        frame_size = FRAME_HEADER_SIZE + page_size
        newest: dict[int, int] = {}
        high, size = self._high, 0
        unpack = _PAGE_AND_SIZE.unpack_from
        for start in range(0, count * frame_size, frame_size):
            page, size = unpack(frames, start)
            newest[page] = start
            high = max(high, page)
            if size:
                if size < high:
                    # What a commit cuts off does not come back unless it is written again.
                    newest = {page: start for page, start in newest.items() if page <= size}
                    os.ftruncate(self._descriptor, size * page_size)
                    high = size
                self.pages = size
        self._high = high
        self._files.announce("write", self.path)
        view = memoryview(frames)
        run: list[memoryview] = []
        run_start = run_end = 0
        for page in sorted(newest):
            if page != run_end or len(run) == _RUN_MAX:
                self._write_pages(run_start, run)
                run, run_start = [], page
            start = newest[page] + FRAME_HEADER_SIZE
            run.append(view[start : start + page_size])
            run_end = page + 1
        self._write_pages(run_start, run)
        return size > 0

    def _write_pages(self, first_page: int, pages: list[memoryview]) -> None:
        if pages:
            offset = (first_page - 1) * self.page_size
            written = os.pwritev(self._descriptor, pages, offset)
            if written != len(pages) * self.page_size:
                raise OSError(errno.ENOSPC, "the disk took only a part of it", self.path)

    def end(self, pages: int) -> None:
        """Give the file exactly the size of the database."""
        self.pages = self._high = pages
        os.ftruncate(self._descriptor, pages * self.page_size)

    def leave_wal_mode(self) -> None:
        """Mark the database as one with a rollback journal, which is a single file at rest."""
        self._files.write(self._descriptor, self.path, 18, b"\x01\x01")

    def sync(self) -> None:
        """Make the file durable under its present name."""
        self._files.sync(self._descriptor, self.path)

    def close(self) -> None:
        """Close the file, which stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Close and remove the file, which was only needed for a while."""
        self.close()
        os.unlink(self.path)


def page_size_of(descriptor: int) -> int:
    """Return the page size in a database file's header; 0 if it has none."""
    header = os.pread(descriptor, 18, 0)
    if len(header) < 18 or header[:16] != b"SQLite format 3\0":
        return 0
    size = int.from_bytes(header[16:18], "big")
    return 65536 if size == 1 else size


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """What a commit has to hold that turns one database file into another."""

    pages: array[int]
    full: bool
    """The pages are all there are, and the old file is of no use."""


def compare(old: int, new: int) -> Difference | None:
    """Return what ``new`` has and ``old`` has not, both given by descriptor; None if nothing.

    Page 1 is always in a difference, so that there is a page that can carry the new size. The
    page sizes may differ.
    """
    page_size = page_size_of(new)
    full = page_size_of(old) != page_size
    new_size = os.fstat(new).st_size
    pages = array("I", [1])
    # SQLite never writes the page that holds its locks.
    skipped = _PENDING_BYTE // page_size + 1
    differ = full or new_size != os.fstat(old).st_size
    for start in range(0, new_size, _COMPARE_SIZE):
        data = os.pread(new, _COMPARE_SIZE, start)
        other = b"" if full else os.pread(old, _COMPARE_SIZE, start)
        if data == other:
            continue
        for offset in range(0, len(data), page_size):
            if data[offset : offset + page_size] != other[offset : offset + page_size]:
                page = (start + offset) // page_size + 1
                if page != skipped:
                    differ = True
                    if page != 1:
                        pages.append(page)
    return Difference(pages, full) if differ else None


def difference_slices(
    difference: Difference, descriptor: int, time_ms: int, flags: int
) -> Iterator[Slice]:
    """Yield a difference, its pages read from the new file, as the slices of one commit."""
    pages = difference.pages
    page_size = page_size_of(descriptor)
    database_pages = os.fstat(descriptor).st_size // page_size
    if difference.full:
        flags |= Flags.FULL
    step = max(1, SLICE_SIZE // (page_size + FRAME_HEADER_SIZE))
    for start in range(0, len(pages), step):
        parts: list[bytes] = []
        for page in pages[start : start + step]:
            parts.append(_FRAME_HEADER.pack(page, 0))
            parts.append(os.pread(descriptor, page_size, (page - 1) * page_size))
        last = min(start + step, len(pages))
        if last == len(pages):
            parts[-2] = _FRAME_HEADER.pack(pages[-1], database_pages)
        yield Slice(b"".join(parts), start + 1, [(last, time_ms)], page_size, flags=flags)
