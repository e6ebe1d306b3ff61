"""What is kept: snapshots often enough to restore fast, and the log only as far as promised."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from .files import Files
from .image import Image
from .reader import HistoryReader, Target
from .segment import Entry

__all__ = ["make_snapshot", "may_want_maintenance", "prune", "wants_snapshot"]

# A smaller log is replayed in a fraction of a second.
SNAPSHOT_AFTER_MIN_BYTES: Final = 64 * 1024**2
# In sizes of the database. With so many, snapshots take at most a sixth of what the log takes.
LOG_PER_SNAPSHOT: Final = 6


def may_want_maintenance(reader: HistoryReader, before_ms: int) -> bool:
    """Whether `prune` or `wants_snapshot` may have become true, told by the segments alone.

    For every open, which must not read the whole log: an object may be used so little at a time
    that its WAL is never folded while it is open.
    """
    segments = reader.log.segments()
    if len(segments) < 2:
        return False
    second = reader.log.first_time(segments[1])
    if second is not None and second <= before_ms:
        return True
    snapshots = reader.snapshots.all()
    last = snapshots[-1].number if snapshots else 0
    stored = reader.log.stored_bytes(after=last)
    head = reader.log.head
    return head is not None and stored > _logged_max_bytes(head)


def _logged_max_bytes(head: Entry) -> int:
    return max(SNAPSHOT_AFTER_MIN_BYTES, LOG_PER_SNAPSHOT * head.block.pages * head.block.page_size)


def wants_snapshot(reader: HistoryReader) -> bool:
    """Whether the log has grown by several times the database since a restore could last start.

    So a restore looks for its pages in no more log than that, and rows that are only added need no
    snapshot: the log holds each page once.
    """
    head = reader.log.head
    if head is None:
        return False
    most = _logged_max_bytes(head)
    snapshots = reader.snapshots.all()
    last = snapshots[-1].number if snapshots else 0
    grown = 0
    for entry in reversed(reader.log.entries()):
        block = entry.block
        if block.number <= last:
            return False
        grown += block.frame_count * block.page_size
        if grown > most:
            return not block.starts_full
        if block.starts_full:
            return False
    return False


def make_snapshot(reader: HistoryReader, entry: Entry, files: Files) -> None:
    """Durably keep the database as of the end of a block.

    Raises:
        BookmarkError: something it needs is damaged.
        OSError: the disk refused.
    """
    block = entry.block
    image = Image(reader.layout.snapshot_image, files)
    try:
        reader.materialize(Target(block.end, block.number, block.last_time), image)
        reader.snapshots.write(image, block)
    finally:
        image.remove()


def prune(reader: HistoryReader, before_ms: int, files: Files) -> int:
    """Drop whole segments of commits that were all made before a time; return the bytes freed.

    Every moment from that time on stays restorable: a snapshot of the last commit that is
    dropped is made first.

    Raises:
        BookmarkError: something the snapshot needs is damaged; nothing was dropped.
        OSError: the disk refused.
    """
    last: Entry | None = None
    dropped: list[str] = []
    entries = reader.log.entries()
    for entry, following in pairwise(entries):
        if following.block.first_time > before_ms:
            break
        if following.segment != entry.segment and not entry.block.continues:
            last = entry
            dropped.append(entry.segment)
    if last is None:
        return 0
    use_before = sum(reader.disk_use())
    number = last.block.number
    if all(snapshot.number != number for snapshot in reader.snapshots.all()):
        make_snapshot(reader, last, files)
    # Everything will depend on it, so it is read back.
    next(item for item in reader.snapshots.all() if item.number == number).check()
    reader.snapshots.remove([item for item in reader.snapshots.all() if item.number < number])
    reader.log.forget_segments(dropped)
    return use_before - sum(reader.disk_use())
