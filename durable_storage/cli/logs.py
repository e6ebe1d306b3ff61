"""The commit logs of objects, read beside a running runtime."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final, final

from ..errors import BookmarkError
from ..history import CommitLog, History
from ..history.block import Damage, parse_times
from ..history.bookmarks import Position
from ..history.layout import Layout, read_times
from ..history.reader import HistoryReader
from ..history.wal import HEADER_SIZE, parse_header
from .copies import copied_with_history, no_room, open_reader, working_on_copy
from .directory import StoredObject
from .failures import Failure
from .output import Output

__all__ = [
    "KEEP_ALL",
    "View",
    "commit_ms",
    "commits_in_wal",
    "last_commit_ms",
    "moments",
    "no_history",
    "note_restored",
    "now_ms",
    "read_only",
    "viewed",
]

KEEP_ALL: Final = History(retention=datetime.timedelta(days=365 * 100))
"""The command line does not know how much the application keeps, so it never drops anything."""


def now_ms() -> int:
    """The time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@final
@dataclass(frozen=True, slots=True)
class View:
    """An object's log up to its last commit, on a copy.

    Attributes:
        path: of the copy.
        log: it.
        reader: the same, for looking at its parts.
        named: whether its bookmarks are those of the object. A new object that is running, or has
            crashed, may not have the identity yet that they are made with.
    """

    path: str
    log: CommitLog
    reader: HistoryReader | None
    named: bool


@contextlib.contextmanager
def viewed(stored: StoredObject) -> Generator[View]:
    """Give the log of an object up to its last commit, on a copy.

    Raises:
        Failure: the object keeps none.
    """
    _check(stored)
    with copied_with_history(stored.path) as path:
        named = open_reader(Layout(path)) is not None
        with working_on_copy(stored.path):
            log = CommitLog.open(path, settings=KEEP_ALL, clock_ms=now_ms)
        try:
            wal = Layout(path).wal
            if log.gap or (os.path.exists(wal) and os.path.getsize(wal)):
                # An object may be used so; here it would be shown without its last commits.
                raise no_room(stored.path)
            yield View(path, log, open_reader(Layout(path)), named)
        finally:
            log.close()


def read_only(stored: StoredObject) -> HistoryReader | None:
    """What is archived of an object's log, where it is; None if nothing is.

    Raises:
        Failure: the object keeps none.
    """
    _check(stored)
    return open_reader(Layout(stored.path))


def moments(reader: HistoryReader) -> Iterator[tuple[int, str]]:
    """Yield time and bookmark of everything that was confirmed together, oldest first.

    Raises:
        BookmarkError: a part of the log is damaged.
    """
    for entry in reader.log.entries():
        block = entry.block
        try:
            times = parse_times(block, entry.payload())
        except Damage as damage:
            raise BookmarkError(str(damage)) from damage
        for frame, time_ms in times:
            if not (block.continues and frame == block.last_frame):
                position = Position(block.epoch, block.generation, frame)
                yield time_ms, reader.bookmark(position)


def commit_ms(stored: StoredObject, bookmark: str) -> int | None:
    """When an archived commit was made; None if the log does not tell."""
    reader = read_only(stored)
    if reader is None:
        return None
    try:
        target = reader.find(reader.parse(bookmark))
        for entry in reader.log.entries():
            if entry.block.number == target.number:
                for frame, time_ms in parse_times(entry.block, entry.payload()):
                    if frame >= target.position.frame:
                        return time_ms
    except (BookmarkError, Damage):
        return None
    return target.time_ms or None


def commits_in_wal(stored: StoredObject, reader: HistoryReader | None) -> int:
    """How many commits that are whole, by SQLite's checksums, are not archived yet."""
    layout = Layout(stored.path)
    path = layout.held_wal if layout.released_wal() else layout.wal
    try:
        with open(path, "rb", buffering=0) as wal:
            header = parse_header(wal.read(HEADER_SIZE))
            if header is None:
                return 0
            head = reader.log.head if reader is not None else None
            archived = 0
            if head is not None and head.block.salts == header.salts:
                archived = head.block.end.frame
            last = header.last_sound_commit(wal.fileno())
            frames = range(archived + 1, last + 1)
            return sum(header.is_commit(wal.fileno(), each) for each in frames)
    except FileNotFoundError:
        return 0


def _check(stored: StoredObject) -> None:
    if not stored.has_history:
        raise no_history(stored)


def no_history(stored: StoredObject) -> Failure:
    """Why there is nothing to go back to."""
    if stored.namespace.backend == "kv":
        return Failure(f"{stored.label} is of the legacy backend, which keeps no history")
    return Failure(
        f"{stored.label} has no history: it was never written, or with History(enabled=False)"
    )


def note_restored(out: Output, stored: StoredObject) -> None:
    """Tell that opening an object has done the restore that the application had asked for."""
    out.note(f"The restore that {stored.label} was waiting for is done.")


def last_commit_ms(path: str) -> int | None:
    """When the last commit of an object was made; None if there is none.

    Without a log, when the file was last written.
    """
    layout = Layout(path)
    try:
        with open(layout.wal, "rb", buffering=0) as wal:
            header = parse_header(wal.read(HEADER_SIZE))
    except FileNotFoundError:
        header = None
    times = read_times(layout.times, header.salts) if header is not None else []
    if times:
        return times[-1][1]
    reader = open_reader(layout)
    if reader is not None and reader.log.head is not None:
        return reader.log.last_time
    if reader is not None and header is None:
        return None
    try:
        newest = os.stat(layout.wal if header is not None else path)
    except FileNotFoundError:
        return None
    return newest.st_mtime_ns // 1_000_000
