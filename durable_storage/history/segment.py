"""The log's files: blocks, appended and never changed.

Model: the log is one chain of blocks, numbered without gaps, each naming the hash of the one
before, cut into files called segments. A segment is named by the number of its first block.

Invariants:
- An append is all of a run of commits or nothing: a tail that ends no commit, or was torn by a
  crash, is cut off before the next append.
- A block that was reported durable is never cut off. A gap before such a block is damage, and
  what follows it stays.
- A block in a later segment replaces blocks of the same or higher numbers in earlier ones: those
  are left over from an append that failed and could not be undone.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

from .block import (
    BLOCK_HEADER_SIZE,
    MAGIC,
    NO_HASH,
    Block,
    Damage,
    Encoded,
    Flags,
    Head,
    chain,
    is_intact,
    parse_block,
    parse_frames,
    parse_heads,
    parse_index,
)
from .bookmarks import BEGINNING, Position
from .files import Files

__all__ = ["Entry", "SegmentLog", "find_object_id"]

SUFFIX: Final = ".segment"
_NAME: Final = re.compile(r"[0-9a-f]{16}\.segment")
_SEARCH_SIZE: Final = 1024 * 1024


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """A block and where it is."""

    block: Block
    segment: str
    offset: int

    @property
    def stop(self) -> int:
        """The offset behind the block."""
        return self.offset + self.block.size

    def payload(self) -> bytes:
        """Read the payload.

        Raises:
            Damage: it is not what was written.
        """
        data = self._read(self.block.size - BLOCK_HEADER_SIZE)
        if not is_intact(self.block, data):
            raise Damage(
                f"block {self.block.number} is damaged (offset {self.offset} of {self.segment})",
                self.block.number,
            )
        return data

    def heads(self) -> list[Head]:
        """Return what the frames are, reading no more than that takes.

        Raises:
            Damage: the block is not what was written.
        """
        if self.block.flags & Flags.INDEXED:
            return parse_index(self.block, self._read(self.block.times_size))
        return parse_heads(self.block, parse_frames(self.block, self.payload()))

    def _read(self, size: int) -> bytes:
        """Read the first bytes of the payload."""
        try:
            with open(self.segment, "rb", buffering=0) as file:
                return os.pread(file.fileno(), size, self.offset + BLOCK_HEADER_SIZE)
        except OSError as error:
            raise Damage(f"{self.segment}: {error.strerror}", self.block.number) from error


@final
class SegmentLog:
    """The chain of blocks of one object.

    Appending is for one thread at a time; reading may go on meanwhile.

    Args:
        directory: where the segments are; may be missing.
        files: writes go through it.
        object_id: written into every block.
        segment_size_bytes: a segment is finished when it has this size,
        segment_age_ms: or when its first block is this old.
    """

    def __init__(
        self,
        directory: str,
        files: Files,
        *,
        object_id: bytes,
        segment_size_bytes: int,
        segment_age_ms: int,
    ) -> None:
        self.directory = directory
        self.head: Entry | None = None
        self._files = files
        self._object_id = object_id
        self._segment_size_bytes = segment_size_bytes
        self._segment_age_ms = segment_age_ms
        self._descriptor = -1
        self._path = ""
        self._offset = 0
        self._begun_ms = 0
        self._durable: Entry | None = None
        self._lost = 0
        self._entries: list[Entry] | None = None
        # Held while that list is made or goes on: archiving and maintenance are two threads.
        self._listing = threading.Lock()

    # -- what is there

    @property
    def position(self) -> Position:
        """The last commit in the log."""
        return self.head.block.end if self.head is not None else BEGINNING

    @property
    def durable(self) -> Position:
        """The last commit that is durable in the log."""
        return self._durable.block.end if self._durable is not None else BEGINNING

    @property
    def _durable_number(self) -> int:
        return self._durable.block.number if self._durable is not None else 0

    @property
    def durable_entry(self) -> Entry | None:
        """The last block that is durable."""
        return self._durable

    @property
    def number(self) -> int:
        """The number of the last block; 0 if there is none."""
        return self.head.block.number if self.head is not None else 0

    @property
    def last_time(self) -> int:
        """When the last commit was made; 0 if there is none."""
        return self.head.block.last_time if self.head is not None else 0

    def segments(self) -> list[str]:
        """Return the paths of all segments, oldest first."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return [
            os.path.join(self.directory, name) for name in sorted(names) if _NAME.fullmatch(name)
        ]

    def strays(self) -> list[str]:
        """Return the segments that are copies of earlier ones under another name."""
        return [path for path in self.segments() if _is_stray(path, _scan(path, self._object_id))]

    def begins_damaged(self) -> bool:
        """Whether the oldest segment does not begin with a block that can be found."""
        entries, segments = self.entries(), self.segments()
        return bool(entries and segments) and _first_number(segments[0]) < entries[0].block.number

    def first_time(self, path: str) -> int | None:
        """When the first commit of a segment was made; None if its first block is damaged."""
        with contextlib.suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
            block = parse_block(file.read(BLOCK_HEADER_SIZE))
            return block.first_time if block is not None else None
        return None

    def has_block(self, number: int, segment: str, offset: int) -> bool:
        """Whether a block is where it is said to be, also one that was added by another process."""
        with (
            contextlib.suppress(FileNotFoundError),
            open(os.path.join(self.directory, segment), "rb", buffering=0) as file,
        ):
            block = parse_block(os.pread(file.fileno(), BLOCK_HEADER_SIZE, offset))
            size = os.fstat(file.fileno()).st_size
            return block is not None and block.number == number and offset + block.size <= size
        return False

    def stored_bytes(self, after: int) -> int:
        """How much the segments take that begin behind a block."""
        return sum(os.path.getsize(path) for path in self.segments() if _first_number(path) > after)

    def entries(self) -> list[Entry]:
        """Return every block up to the head, oldest first. Reads headers only, and those once."""
        with self._listing:
            if self._entries is None:
                entries: list[Entry] = []
                for path in self.segments():
                    found = _scan(path, self._object_id)
                    if found and not _is_stray(path, found):
                        _drop_from(entries, found[0].block.number)
                        entries += found
                _drop_from(entries, self.number + 1)
                self._entries = entries
            return self._entries

    # -- opening

    def rename(self, object_id: bytes) -> None:
        """Be the log of an object of another id; only while it is empty."""
        assert self.head is None, "blocks keep the id they were written with"
        self._object_id = object_id

    def open_at(self, number: int, segment: str, offset: int) -> bool:
        """Take a block that is known to be the last one as the head, if it still is."""
        path = os.path.join(self.directory, segment)
        try:
            with open(path, "rb", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                first = parse_block(file.read(BLOCK_HEADER_SIZE) if not file.seek(0) else b"")
                file.seek(offset)
                block = parse_block(file.read(BLOCK_HEADER_SIZE))
        except (FileNotFoundError, IsADirectoryError):
            return False
        if block is None or first is None or block.number != number or block.continues:
            return False
        entry = Entry(block, path, offset)
        if entry.stop != size or self.segments()[-1] != path or block.object_id != self._object_id:
            return False
        self._take_head(entry, first.first_time)
        return True

    def recover(self, durable: int) -> None:
        """Find the head, and cut off what a crash left behind it.

        Args:
            durable: the last block that is known from elsewhere to have been durable. If it is
                lost, the log goes on behind its number, and the gap shows that.
        """
        self._find_head(durable, cut=True)
        self._lost = durable

    @property
    def end_is_lost(self) -> bool:
        """Whether blocks behind the head are missing that had been durable."""
        return self._lost > self.number

    def read_only(self, durable: int = 0) -> None:
        """Find the head as `recover` does, and change nothing."""
        self._find_head(durable, cut=False)

    def _find_head(self, durable: int, *, cut: bool) -> None:
        for path in reversed(self.segments()):
            found = _scan(path, self._object_id)
            if _is_stray(path, found):
                continue
            kept = _without_torn_tail(found, _first_number(path), durable)
            if kept:
                self._take_head(kept[-1], found[0].block.first_time)
                if cut and (
                    kept[-1].block.number > durable or os.path.getsize(path) > kept[-1].stop
                ):
                    self._cut(path, kept[-1].stop)
                return
            if cut:
                self._files.unlink(path)
                self._files.sync_directory(self.directory)

    def _take_head(self, entry: Entry, begun_ms: int) -> None:
        self.head = entry
        self._path = entry.segment
        self._offset = entry.stop
        self._begun_ms = begun_ms
        self._durable = entry

    def _cut(self, path: str, size: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._files.truncate(descriptor, path, size)
            self._files.sync(descriptor, path)
        finally:
            os.close(descriptor)

    # -- appending

    def append(self, slices: Iterable[Encoded], *, epoch: int, generation: int) -> None:
        """Add slices, the last of which ends a commit. Not durable until `sync`.

        Raises:
            OSError: the disk refused; nothing was added.
        """
        before = self.head
        try:
            for encoded in slices:
                self._append_one(encoded, epoch, generation)
            assert self.head is None or not self.head.block.continues, (
                "the last slice ends a commit"
            )
        except BaseException:
            if before is None or before.block.number < self.number:
                self._undo(before)
            raise

    def _append_one(self, encoded: Encoded, epoch: int, generation: int) -> None:
        block = chain(
            encoded,
            object_id=self._object_id,
            epoch=epoch,
            generation=generation,
            number=max(self.number, self._lost) + 1,
            durable=max(self._durable_number, self._lost),
            previous=self.head.block.hash if self.head is not None else NO_HASH,
        )
        if self._is_finished(block):
            self._begin_segment(block)
        elif self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        entry = Entry(block, self._path, self._offset)
        self._offset = self._files.write(
            self._descriptor,
            self._path,
            self._offset,
            block.pack(),
            encoded.times,
            encoded.frames,
        )
        with self._listing:
            self.head = entry
            if self._entries is not None:
                self._entries.append(entry)

    def _is_finished(self, block: Block) -> bool:
        if not self._path:
            return True
        if self.head is not None and self.head.block.continues:
            return False
        return (
            self._offset >= self._segment_size_bytes
            or block.first_time - self._begun_ms >= self._segment_age_ms
        )

    def _begin_segment(self, block: Block) -> None:
        self.sync()
        self._close_file()
        path = os.path.join(self.directory, f"{block.number:016x}{SUFFIX}")
        for leftover in reversed(self.segments()):  # from an append that could not be undone
            if leftover < path:
                break
            self._files.unlink(leftover)
        self._descriptor = self._files.create(path)
        self._path, self._offset, self._begun_ms = path, 0, block.first_time
        self._files.sync_directory(self.directory)

    def _undo(self, before: Entry | None) -> None:
        """Forget what was appended after ``before``; the next append begins a new segment.

        If the disk refuses even this, the leftovers are overruled by that new segment.
        """
        with self._listing:
            self.head = before
            self._entries = None
        if before is None or before.block.number < self._durable_number:
            # Beginning a segment made a part of what is undone durable.
            self._durable = before
        self._close_file()
        try:
            for path in reversed(self.segments()):
                if before is not None and path <= before.segment:
                    self._cut(path, before.stop)
                    break
                self._files.unlink(path)
        except OSError:
            # The file is closed, so what was not made durable in it never will be.
            self.head = self._durable
        self._path = ""

    def sync(self) -> None:
        """Make every block durable.

        Raises:
            OSError: the disk refused; the blocks since the last sync are gone from the log.
        """
        if self._descriptor >= 0 and self.head is not self._durable:
            try:
                self._files.sync(self._descriptor, self._path)
            except OSError:
                # The kernel may have dropped the pages and will not say so again.
                self._undo(self._durable)
                raise
            self._durable = self.head

    def forget_segments(self, paths: list[str]) -> None:
        """Drop whole segments from the front of the log, durably."""
        for path in paths:
            # One after the other, so that a crash leaves no hole.
            self._files.unlink(path)
            self._files.sync_directory(self.directory)
        with self._listing:
            self._entries = None

    def close(self) -> None:
        """Close the segment that is being written."""
        self._close_file()

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _drop_from(entries: list[Entry], number: int) -> None:
    while entries and entries[-1].block.number >= number:
        entries.pop()


def _first_number(path: str) -> int:
    """Return the number of the block that a segment begins with: it is the segment's name."""
    return int(os.path.basename(path).removesuffix(SUFFIX), 16)


def _is_stray(path: str, found: list[Entry]) -> bool:
    """Whether the blocks of a segment come before what its name says: they are another one's."""
    return bool(found) and found[0].block.number < _first_number(path)


def _without_torn_tail(found: list[Entry], first: int, durable: int) -> list[Entry]:
    """Return the blocks of a segment up to the last that can be relied upon and ends a commit.

    Blocks that were not durable reach the disk in any order, so the first one that is missing
    ends the log, unless a later block says that it had been durable: then it is damage.
    """
    durable = max([durable, *(entry.block.durable for entry in found)])
    kept: list[Entry] = []
    for entry in found:
        number = entry.block.number
        expected = kept[-1].block.number + 1 if kept else first
        if number != expected and expected > durable:
            break
        if number > durable:
            try:
                entry.payload()
            except Damage:
                break
        kept.append(entry)
    while kept and kept[-1].block.continues:
        kept.pop()
    return kept


def _scan(path: str, object_id: bytes) -> list[Entry]:
    """Return the blocks in a segment whose headers are whole, in order."""
    entries: list[Entry] = []
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset + BLOCK_HEADER_SIZE <= size:
            block = parse_block(os.pread(file.fileno(), BLOCK_HEADER_SIZE, offset))
            if block is None or block.object_id != object_id or offset + block.size > size:
                offset = _next_block(file.fileno(), offset + 1)
                if offset < 0:
                    break
                continue
            entries.append(Entry(block, path, offset))
            offset += block.size
    return entries


def _next_block(descriptor: int, start: int) -> int:
    """Return where the next header may begin; -1 if nowhere."""
    while True:
        data = os.pread(descriptor, _SEARCH_SIZE, start)
        found = data.find(MAGIC)
        if found >= 0:
            return start + found
        if len(data) < _SEARCH_SIZE:
            return -1
        start += _SEARCH_SIZE - len(MAGIC) + 1


def find_object_id(directory: str) -> bytes | None:
    """Return the object id in the first block that can be read, should the identity be lost."""
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb", buffering=0) as file:
                block = parse_block(file.read(BLOCK_HEADER_SIZE))
            if block is not None:
                return block.object_id
    return None
