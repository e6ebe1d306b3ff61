"""Reading an object's history: which commits there are, and the database as of one of them."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple, final

from ..database.create import FIRST_PAGE
from ..errors import BookmarkError
from .block import Block, Damage, Head, last_time, parse_pages, parse_times
from .bookmarks import BEGINNING, Position, format_bookmark, moment, parse_bookmark
from .damages import restorable_runs
from .files import Files
from .image import Image, lock_page
from .layout import Layout
from .pipeline import ahead
from .segment import Entry, SegmentLog
from .snapshot import Snapshot, Snapshots

__all__ = ["DiskUse", "HistoryReader", "TimelineEntry"]


class TimelineEntry(NamedTuple):
    """Commits that were archived together."""

    time_ms: int
    """When the last of them was made."""
    bookmark: str
    """Of the last of them."""
    commits: int
    bytes: int
    """What they take on disk."""


class DiskUse(NamedTuple):
    """Bytes on disk."""

    log_bytes: int
    snapshot_bytes: int


@final
@dataclass(frozen=True, slots=True)
class Target:
    """A commit in the log that can be gone back to."""

    position: Position
    number: int
    """The block that holds it; 0 for the beginning."""
    time_ms: int


@final
class HistoryReader:
    """Everything that is done with the archived part of a history without changing it."""

    def __init__(
        self, layout: Layout, log: SegmentLog, snapshots: Snapshots, object_id: bytes
    ) -> None:
        self.layout = layout
        self.log = log
        self.snapshots = snapshots
        self.object_id: bytes = object_id

    def rename(self, object_id: bytes) -> None:
        """Give the object another id, so that no bookmark of a log that is lost names anything."""
        self.object_id = object_id
        self.log.rename(object_id)
        self.snapshots.rename(object_id)

    def bookmark(self, position: Position) -> str:
        """Return the bookmark of a position."""
        return format_bookmark(self.object_id, position)

    def parse(self, bookmark: str) -> Position:
        """Return the position of a bookmark; BookmarkError if it is not one of this object."""
        return parse_bookmark(self.object_id, bookmark)

    # -- finding commits

    def find(self, position: Position) -> Target:
        """Return the commit that a position names.

        Raises:
            BookmarkError: there is none, or it was pruned, or what it needs is damaged.
        """
        target = self._find(position)
        self._sources(target)
        self._shape(target)
        return target

    def _find(self, position: Position) -> Target:
        entries = self.log.entries()
        if not entries or entries[0].block.number == 1:
            # The first epoch may have no commit of its own: what was restored came before any.
            unused = not entries or entries[0].block.epoch > BEGINNING.epoch
            if position == BEGINNING or (unused and position == Position.end_of(BEGINNING.epoch)):
                return Target(BEGINNING, 0, 0)
        if position.ends_epoch:
            index = bisect_right(entries, position.epoch, key=lambda entry: entry.block.epoch) - 1
            if index >= 0 and entries[index].block.epoch == position.epoch:
                block = entries[index].block
                return Target(block.end, block.number, block.last_time)
        index = bisect_left(entries, position, key=lambda entry: entry.block.end)
        if index < len(entries):
            block = entries[index].block
            if position >= Position(block.epoch, block.generation, block.first_frame):
                return Target(position, block.number, block.last_time)
        for snapshot in self.snapshots.all():
            if snapshot.position == position or (
                position.ends_epoch and snapshot.position.epoch == position.epoch
            ):
                return Target(snapshot.position, snapshot.number, snapshot.time)
        missing = entries[index - 1].block.number + 1 if index else 0
        if 0 < index < len(entries) and entries[index].block.number > missing:
            raise self._damaged(position, Damage(f"block {missing} is missing", missing))
        raise BookmarkError(self._refusal(position))

    def _refusal(self, position: Position) -> str:
        name = self.bookmark(position)
        oldest = self.oldest()
        if oldest is None:
            return f"{name} cannot be restored: the history that it needs is missing"
        if position < oldest.position:
            return (
                f"{name} was pruned: the history that is kept begins at "
                f"{self.bookmark(oldest.position)} ({moment(oldest.time_ms)})"
            )
        newest = self.log.position
        if position > newest:
            return f"{name} is of the future: the last commit is {self.bookmark(newest)}"
        return f"{name} names no commit in this object's history; it was never confirmed, or lost"

    def oldest(self) -> Target | None:
        """Return the oldest commit that can be gone back to, if there is any."""
        entries = self.log.entries()
        if not entries or entries[0].block.number == 1:
            return Target(BEGINNING, 0, 0)
        targets = [
            Target(snapshot.position, snapshot.number, snapshot.time)
            for snapshot in self.snapshots.all()
        ]
        targets += [
            Target(entry.block.end, entry.block.number, entry.block.last_time)
            for entry in entries
            if entry.block.starts_full
        ]
        return min(targets, key=lambda target: target.number, default=None)

    def at_time(self, time_ms: int) -> Target:
        """Return the last commit that was made at or before a time.

        Raises:
            BookmarkError: the time is before the history that is kept.
        """
        entries = self.log.entries()
        index = bisect_right(entries, time_ms, key=lambda entry: entry.block.first_time)
        # A commit longer than a block has its time in each of them, and ends in the last.
        for entry in reversed(entries[:index]):
            block = entry.block
            found = last_time(parse_times(block, self._payload(entry)), time_ms)
            if found is None or (block.continues and found[0] == block.last_frame):
                continue
            frame, made = found
            return Target(Position(block.epoch, block.generation, frame), block.number, made)
        oldest = self.oldest()
        if oldest is None or oldest.position == BEGINNING or oldest.time_ms > time_ms:
            began = oldest.time_ms if oldest is not None else 0
            began = began or (entries[0].block.first_time if entries else 0)
            raise BookmarkError(
                f"the time {moment(time_ms)} is before this object's history begins, which is at "
                f"{moment(began)}"
            )
        return oldest

    # -- the database as of a commit

    def materialize(self, target: Target, image: Image) -> None:
        """Make an image the database as of a commit. Streams: a few blocks are in memory at a time.

        Raises:
            BookmarkError: something it needs is damaged; the message says what can be had.
        """
        image.begin(*self._shape(target))
        self._fill(target, image)

    def rewind(self, path: str, target: Target, image: Image) -> bytes | None:
        """Put what a database had as of a commit, and its file lacks, into an image.

        Only what was changed since is read from the log. The file's other pages are taken to be
        what they should be, which they are as far as its disk keeps what was written.

        Args:
            path: the file, which is the log's last commit.
            target: the commit.
            image: made anew.

        Returns:
            Not zero at the number of each page that may differ from the file's; None if that
            cannot be told, and the image is the whole.

        Raises:
            BookmarkError: something it needs is damaged; the message says what can be had.
        """
        page_size, pages = self._shape(target)
        try:
            changed = self._changed_since(target, pages)
            head = self.log.head
            size = head.block.pages * head.block.page_size if head is not None else 0
            if changed is not None and os.path.getsize(path) == size:
                image.begin_over(path, page_size, pages, bytearray(changed))
                self._fill(target, image)
                return changed
        except (BookmarkError, Damage):
            pass
        self.materialize(target, image)
        return None

    def last_commit(self, path: str, image: Image) -> bytes:
        """Put the pages of the log's last commit into an image, as `rewind` does.

        Raises:
            BookmarkError: it is damaged.
        """
        head = self.log.head
        assert head is not None, "there is no commit"
        block = head.block
        entries = self.log.entries()
        first = len(entries) - 1
        while first and entries[first - 1].block.continues:
            first -= 1
        changed = bytearray(block.pages + 1)
        try:
            for entry in entries[first:]:
                for page, _ in entry.heads():
                    changed[page] = 1
            image.begin_over(path, block.page_size, block.pages, bytearray(changed))
            target = Target(block.end, block.number, block.last_time)
            after = entries[first].block.number - 1
            self._replay(target, image, after, block.number, b"")
        except Damage as damage:
            raise self._damaged(block.end, damage) from damage
        return bytes(changed)

    def lost_with(self, changed: bytes | None, pages: int) -> bytes | None:
        """Return what of the log's last commit the log cannot give back; None if nothing is lost.

        Args:
            changed: what `rewind` returned; the file's other pages stay as they are.
            pages: what the file is cut off behind.

        Returns:
            Not zero at the number of each page that changes, if one of them is lost.
        """
        head = self.log.head
        if head is None:
            return None
        size, skipped = head.block.pages + 1, lock_page(head.block.page_size)
        changes = bytearray(b"\1" * size if changed is None else changed[:size].ljust(size, b"\1"))
        changes[0] = 0
        if skipped < size:
            changes[skipped] = 0
        if 1 not in changes:
            changes[1] = 1  # it will carry the size
        missing = bytearray(changes)
        number, link = self.log.number, b""

        def holders() -> Iterator[tuple[Entry, bool]]:
            for entry in reversed(self.log.entries()):
                if 1 not in missing:
                    return
                found = [page for page, _ in entry.heads() if page < size and missing[page]]
                for page in found:
                    missing[page] = 0
                yield entry, bool(found)

        try:
            for block in ahead(_check, holders()):
                if block.number != number or (link and block.hash != link):
                    return bytes(changes)
                number, link = number - 1, block.previous_hash
        except Damage:
            return bytes(changes)
        return bytes(changes) if 1 in missing else None

    def _changed_since(self, target: Target, pages: int) -> bytes | None:
        """Return which of the pages of a commit were written or cut off later."""
        if target.number == 0:
            return None
        changed = bytearray(pages + 1)
        smallest = pages
        number = target.number
        rest = self._between(number, self.log.number)
        last = self._between(number - 1, number)
        if last and last[0].block.end != target.position:
            rest = last + rest
            number -= 1
        for entry in rest:
            number += 1
            if entry.block.number != number or entry.block.starts_full:
                return None
            heads = entry.heads()
            if number == target.number:
                del heads[: target.position.frame + 1 - entry.block.first_frame]
            for page, size in heads:
                if page <= pages:
                    changed[page] = 1
                if size:
                    smallest = min(smallest, size)
        if number != self.log.number:
            return None
        changed[smallest + 1 :] = b"\1" * (pages - smallest)
        return bytes(changed)

    def _shape(self, target: Target) -> tuple[int, int]:
        """Return page size and pages of the database as of a commit."""
        for entry in self._between(target.number - 1, target.number):
            block = entry.block
            if target.position == block.end and not block.continues:
                return block.page_size, block.pages
            try:
                size = entry.heads()[target.position.frame - block.first_frame][1]
            except Damage as damage:
                raise self._damaged(target.position, damage) from damage
            if not size:
                raise BookmarkError(self._refusal(target.position))
            return block.page_size, size
        for snapshot in self.snapshots.all():
            if snapshot.number == target.number:
                return snapshot.page_size, snapshot.pages
        return len(FIRST_PAGE), 1

    def _fill(self, target: Target, image: Image) -> None:
        """Fill an image's missing pages, from the commit back to where nothing is missing."""
        damage: Damage | None = None
        damaged_snapshots: set[int] = set()
        damaged_blocks: set[int] = set()
        number, link = target.number, b""
        try:
            for source in self._sources(target):
                after = source.number if isinstance(source, Snapshot) else 0
                if isinstance(source, Entry):
                    after = source.block.number - 1
                number, link = self._replay(target, image, after, number, link)
                if image.is_complete:
                    return
                try:
                    if isinstance(source, Snapshot):
                        if link and source.block_hash != link:
                            raise Damage(f"{source.path} is not of the chain", number)
                        source.fill(image)
                    elif source is None:
                        image.fill_run(1, FIRST_PAGE)
                    image.fill_rest()
                except Damage as found:
                    damage = damage or found
                    damaged_snapshots.add(found.number)
                else:
                    return
        except Damage as found:
            damage = damage or found
            damaged_blocks.add(found.number)
        assert damage is not None, "there is a source, or find() had raised"
        raise self._damaged(target.position, damage, damaged_blocks, damaged_snapshots) from damage

    def _replay(
        self, target: Target, image: Image, after: int, number: int, link: bytes
    ) -> tuple[int, bytes]:
        """Fill an image from the blocks up to ``number``, newest first.

        ``link`` is the hash that the block behind knows ``number`` by. Returns both as of where it
        ended.
        """

        def blocks() -> Iterator[_Wanted]:
            for entry in reversed(self._between(after, number)):
                try:
                    heads = entry.heads()
                except Damage as damage:
                    yield entry, [], damage
                    continue
                if entry.block.number == target.number:
                    del heads[target.position.frame + 1 - entry.block.first_frame :]
                yield entry, heads, image.wanted(heads)

        # What goes wrong ahead counts when it is reached: a later block may have had what was
        # wanted, or be the last that is needed.
        for block, heads, pages in ahead(_load, blocks()):
            if block.number != number or (link and block.hash != link):
                raise Damage(f"block {number} is missing", number)
            if not isinstance(pages, Damage):
                image.fill(heads, pages)
            elif heads and not image.wanted(heads):
                image.fill(heads, {})
            else:
                raise pages
            number, link = number - 1, block.previous_hash
            if image.is_complete:
                return number, link
        if number != after:
            raise Damage(f"block {number} is missing", number)
        return number, link

    def _between(self, after: int, upto: int) -> list[Entry]:
        entries = self.log.entries()
        start = bisect_right(entries, after, key=lambda entry: entry.block.number)
        stop = bisect_right(entries, upto, key=lambda entry: entry.block.number)
        return entries[start:stop]

    def _sources(self, target: Target) -> list[Snapshot | Entry | None]:
        """Return what the state can be built up from, the nearest first; None: from nothing."""
        entries = self.log.entries()
        stop = bisect_right(entries, target.number, key=lambda entry: entry.block.number)
        whole = target.number
        last = entries[stop - 1].block if stop else None
        if last is not None and last.number == whole and last.end != target.position:
            whole -= 1  # a snapshot as of the end of the commit's own block is too new
        sources: list[tuple[int, Snapshot | Entry | None]] = [
            (entry.block.number - 1, entry) for entry in entries[:stop] if entry.block.starts_full
        ]
        sources += [
            (snapshot.number, snapshot)
            for snapshot in self.snapshots.all()
            if snapshot.number <= whole
        ]
        begins = target.number == 0 or (entries and entries[0].block.number == 1)
        if not (sources or begins or (entries and self.oldest() is None)):
            raise BookmarkError(self._refusal(target.position))
        # Even where the beginning is lost: what was written later is not.
        sources.append((0, None))
        return [source for _, source in sorted(sources, key=lambda item: item[0], reverse=True)]

    def _payload(self, entry: Entry) -> bytes:
        try:
            return entry.payload()
        except Damage as damage:
            raise self._damaged(entry.block.end, damage) from damage

    # -- damage

    def _damaged(
        self,
        position: Position,
        damage: Damage,
        blocks: AbstractSet[int] | None = None,
        snapshots: AbstractSet[int] = frozenset(),
    ) -> BookmarkError:
        found = self.restorable({damage.number} if blocks is None else blocks, snapshots)
        ranges = ", ".join(
            f"{self.bookmark(first)} to {self.bookmark(last)}" for first, last in found
        )
        return BookmarkError(
            f"{self.bookmark(position)} cannot be restored: {damage}; restorable are the commits "
            f"from {ranges or 'none'}"
        )

    def restorable(
        self, damaged_blocks: AbstractSet[int], damaged_snapshots: AbstractSet[int] = frozenset()
    ) -> list[tuple[Position, Position]]:
        """Return the ranges of commits that can be had although some of the files are damaged."""
        return restorable_runs(
            self.log.entries(), self.snapshots.all(), damaged_blocks, damaged_snapshots
        )

    # -- for people

    def timeline(self) -> Iterator[TimelineEntry]:
        """Yield what was archived, oldest first."""
        commits = size = 0
        for entry in self.log.entries():
            block = entry.block
            commits += block.commit_count
            size += block.size
            if not block.continues:
                yield TimelineEntry(block.last_time, self.bookmark(block.end), commits, size)
                commits = size = 0

    def disk_use(self) -> DiskUse:
        """Return how much the history takes on disk."""
        return DiskUse(
            sum(os.path.getsize(path) for path in self.log.segments()),
            sum(snapshot.size for snapshot in self.snapshots.all()),
        )

    def export(self, destination: str, target: Target, files: Files) -> None:
        """Write a plain SQLite file, not in WAL mode, of the database as of a commit.

        Raises:
            BookmarkError: something it needs is damaged.
            OSError: the destination cannot be written; nothing is left there.
        """
        image = Image(destination + ".new", files)
        try:
            self.materialize(target, image)
            image.leave_wal_mode()
            image.sync()
            image.close()
            files.rename(image.path, destination)
        except BaseException:
            image.remove()
            raise


def _check(item: tuple[Entry, bool]) -> Block:
    entry, wanted = item
    if wanted:
        entry.payload()
    return entry.block


_Wanted = tuple[Entry, list[Head], dict[int, int] | Damage]
_Loaded = tuple[Block, list[Head], dict[int, memoryview] | Damage]


def _load(item: _Wanted) -> _Loaded:
    entry, heads, wanted = item
    if isinstance(wanted, Damage):
        return entry.block, heads, wanted
    if not wanted:
        return entry.block, heads, {}
    try:
        return entry.block, heads, parse_pages(entry.block, entry.payload(), wanted)
    except Damage as damage:
        return entry.block, heads, damage
