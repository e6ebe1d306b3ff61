"""A database file in the making: pages of the log are written into it, commit by commit."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, final

from ..database.create import FIRST_PAGE
from .block import Flags, Head, Slice
from .files import Files
from .wal import FRAME_HEADER_SIZE

__all__ = [
    "SLICE_SIZE",
    "Difference",
    "Image",
    "compare",
    "difference_slices",
    "lock_page",
    "page_size_of",
    "pages_of",
]

_FRAME_HEADER: Final = struct.Struct(">II16x")
_NUMBER: Final = struct.Struct(">I")
_JOURNAL_HEADER: Final = struct.Struct(">8sIIIII")
_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
_JOURNAL_SECTOR: Final = 512
_PENDING_BYTE: Final = 0x40000000
SLICE_SIZE: Final = 1024**2
"""The most bytes of a difference that one block holds."""
# Pages of one system call, far below any limit on them.
_RUN_MAX: Final = 256
_COMPARE_SIZE: Final = 1024 * 1024


@final
class Image:
    """A file that becomes a database as of some commit, filled from the newest change backwards.

    So every page is written once, and reading can stop when none is missing.

    Args:
        path: where; made anew.
        files: writes go through it.

    Attributes:
        page_size: of the database.
        pages: its size.
    """

    def __init__(self, path: str, files: Files) -> None:
        self.path = path
        self.page_size: int = len(FIRST_PAGE)
        self.pages: int = 0
        self._files = files
        self._descriptor = files.scratch(path)
        # By page number: 1 as long as nothing that was read so far says what the page is.
        self._missing = bytearray()
        # The smallest size of the commits read so far: what lay behind was cut off.
        self._limit = 0

    def begin(self, page_size: int, pages: int) -> None:
        """Forget everything and start with a database of which every page is missing."""
        self._clear()
        self._begin(page_size, pages, bytearray(b"\1") * (pages + 1))

    def begin_over(self, path: str, page_size: int, pages: int, missing: bytearray) -> None:
        """Start with what another file has, except for the pages that are missing.

        Of what is not missing only page 1 is copied, which says how large pages are.
        """
        self._clear()
        with open(path, "rb", buffering=0) as file:
            self._files.write(self._descriptor, self.path, 0, file.read(page_size))
        self._begin(page_size, pages, missing)

    def _clear(self) -> None:
        # Not without need: of a file that was cut to nothing, ext4 begins to write what it holds
        # when it is closed, and removing it then has to wait for the disk.
        if self.pages:
            os.ftruncate(self._descriptor, 0)

    def _begin(self, page_size: int, pages: int, missing: bytearray) -> None:
        os.ftruncate(self._descriptor, pages * page_size)
        missing[0] = 0
        never_written = lock_page(page_size)
        if never_written <= pages:
            missing[never_written] = 0
        self.page_size, self.pages = page_size, pages
        self._missing, self._limit = missing, pages

    def begin_empty(self) -> None:
        """Start with the database that a new object has."""
        self.begin(len(FIRST_PAGE), 1)
        self.fill_run(1, FIRST_PAGE)

    @property
    def is_complete(self) -> bool:
        """Whether no page is missing."""
        return 1 not in self._missing

    def misses(self, first_page: int, pages: int) -> bool:
        """Whether one of some consecutive pages is missing."""
        return self._missing.find(1, first_page, first_page + pages) >= 0

    def fill_run(self, first_page: int, data: bytes) -> None:
        """Write those of some consecutive pages that are missing."""
        missing, page_size = self._missing, self.page_size
        behind = min(first_page + len(data) // page_size, len(missing))
        view = memoryview(data)
        start = missing.find(1, first_page, behind)
        while start >= 0:
            stop = missing.find(0, start, behind)
            stop = stop if stop >= 0 else behind
            run = view[(start - first_page) * page_size : (stop - first_page) * page_size]
            offset = (start - 1) * page_size
            self._files.write(self._descriptor, self.path, offset, run)
            missing[start:stop] = bytes(stop - start)
            start = missing.find(1, stop, behind)

    def wanted(self, heads: list[Head]) -> dict[int, int]:
        """Return the missing pages that some frames hold, and which frame holds the newest."""
        missing = self._missing
        return {
            page: index
            for index, (page, _) in enumerate(heads)
            if page < len(missing) and missing[page]
        }

    def fill(self, heads: list[Head], pages: Mapping[int, memoryview]) -> None:
        """Write the missing pages that some frames hold.

        ``pages`` has at least those that are still `wanted`, by number.
        """
        missing = self._missing
        found: list[int] = []
        for page, size in reversed(heads):
            if size and size < self._limit:
                self._cut(size)
            if page < len(missing) and missing[page]:
                missing[page] = 0
                found.append(page)
        self._files.announce("write", self.path)
        run: list[memoryview] = []
        run_start = run_end = 0
        for page in sorted(found):
            if page != run_end or len(run) == _RUN_MAX:
                self._write_pages(run_start, run)
                run, run_start = [], page
            run.append(pages[page])
            run_end = page + 1
        self._write_pages(run_start, run)

    def fill_rest(self) -> None:
        """Let every page that is still missing be zeros: it was never written."""
        self._cut(0)

    def _cut(self, pages: int) -> None:
        # What a commit cuts off does not come back unless it is written again.
        self._limit = pages
        page = self._missing.find(1, pages + 1)
        while page >= 0:
            self.fill_run(page, bytes(self.page_size))
            page = self._missing.find(1, page + 1)

    def _write_pages(self, first_page: int, pages: list[memoryview]) -> None:
        if pages:
            offset = (first_page - 1) * self.page_size
            written = os.pwritev(self._descriptor, pages, offset)
            if written != len(pages) * self.page_size:
                raise OSError(errno.ENOSPC, "the disk took only a part of it", self.path)

    def read_run(self, first_page: int, pages: int) -> bytes:
        """Return consecutive pages; zeros where none was written."""
        return os.pread(self._descriptor, pages * self.page_size, (first_page - 1) * self.page_size)

    def write_journal(self, path: str, pages: Sequence[int]) -> None:
        """Write a file that has SQLite make another one this database, by some of its pages.

        As a rollback journal beside the other file it is what an interrupted transaction leaves:
        whoever opens the file next, SQLite puts the pages into it first, and again if that is
        interrupted. See SQLite's "Database File Format", chapter 3.
        """
        files, page_size = self._files, self.page_size
        nonce = secrets.randbits(32)
        header = _JOURNAL_HEADER.pack(
            _JOURNAL_MAGIC, len(pages), nonce, self.pages, _JOURNAL_SECTOR, page_size
        )
        descriptor = files.scratch(path)
        try:
            offset = files.write(descriptor, path, 0, header.ljust(_JOURNAL_SECTOR, b"\0"))
            for start in range(0, len(pages), _RUN_MAX):
                parts: list[bytes] = []
                for page in pages[start : start + _RUN_MAX]:
                    data = self.read_run(page, 1)
                    check = (nonce + sum(data[page_size - 200 : 0 : -200])) & 0xFFFFFFFF
                    parts += [_NUMBER.pack(page), data, _NUMBER.pack(check)]
                offset = files.write(descriptor, path, offset, b"".join(parts))
        finally:
            os.close(descriptor)

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
        """Close the file, which was needed for a while, and remove it unless it was renamed."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
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


def compare(old_path: str, new_path: str) -> Difference | None:
    """Return what a database file has and an old one has not; None if nothing.

    Page 1 is always in a difference, so that there is a page that can carry the new size. The
    page sizes may differ.
    """
    with open(old_path, "rb", buffering=0) as old, open(new_path, "rb", buffering=0) as new:
        return _compare(old.fileno(), new.fileno())


def _compare(old: int, new: int) -> Difference | None:
    page_size = page_size_of(new)
    full = page_size_of(old) != page_size
    new_size = os.fstat(new).st_size
    pages = array("I", [1])
    skipped = lock_page(page_size)
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


def pages_of(marks: bytes, page_size: int) -> array[int]:
    """Return the numbers of the pages that are marked, in order; page 1 if none is.

    A commit needs one, to carry the size.
    """
    skipped = lock_page(page_size)
    pages = [page for page in compress(range(len(marks)), marks) if page not in (0, skipped)]
    return array("I", pages or [1])


def lock_page(page_size: int) -> int:
    """Return the number of the page that holds SQLite's locks, and is never written."""
    return _PENDING_BYTE // page_size + 1


def difference_slices(
    difference: Difference, descriptor: int, time_ms: int, flags: int, *, hurried: bool
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
        times = [(last, time_ms)]
        yield Slice(b"".join(parts), start + 1, times, page_size, flags=flags, hurried=hurried)
