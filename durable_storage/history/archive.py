"""Copying committed frames of a WAL into the log."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

from .block import CommitTime, Slice, commit_frames, encode
from .segment import SegmentLog
from .wal import WalHeader

__all__ = ["SLICE_SIZE", "archive_frames"]

SLICE_SIZE: Final = 4 * 1024**2
"""The most bytes of frames that one block holds.

Small slices cost: with each one the event loop has to wait for the interpreter's lock a few times.
"""


def archive_frames(
    log: SegmentLog,
    descriptor: int,
    header: WalHeader,
    *,
    epoch: int,
    generation: int,
    after: int,
    upto: int,
    times: list[CommitTime],
    now_ms: int,
    hurried: bool = False,
) -> None:
    """Append the frames after ``after`` up to ``upto``, which ends a commit; not yet durable.

    ``times`` are those of the commits, as far as they are known, in order; ``now_ms`` is the time
    of the others. ``hurried`` frames are copied without being compressed.

    Raises:
        OSError: the disk refused, or the WAL is shorter than that; nothing was appended.
    """
    now_ms = max(now_ms, log.last_time)
    slices = _slices(descriptor, header, after, upto, times, now_ms, hurried)
    # Not in several threads: they would take the processor from the events that go on.
    log.append(map(encode, slices), epoch=epoch, generation=generation)


def _slices(
    descriptor: int,
    header: WalHeader,
    after: int,
    upto: int,
    times: list[CommitTime],
    now_ms: int,
    hurried: bool,
) -> Iterator[Slice]:
    frame_size = header.frame_size
    most = max(1, SLICE_SIZE // frame_size)
    while after < upto:
        count = min(most, upto - after)
        # Views, because a copy of all of it would hold up the event loop.
        frames = memoryview(os.pread(descriptor, count * frame_size, header.offset(after + 1)))
        if len(frames) != count * frame_size or bytes(frames[8:16]) != header.salts:
            raise OSError("the WAL does not hold the frames that were committed to it")
        if after + count < upto:
            # Cut behind a commit, unless one commit fills the slice.
            commits = commit_frames(frames, frame_size)
            if commits:
                count = commits[-1] + 1
                frames = frames[: count * frame_size]
        last = after + count
        yield Slice(
            frames,
            after + 1,
            _times_between(times, after, last, now_ms),
            header.page_size,
            header.salts,
            hurried=hurried,
        )
        after = last


def _times_between(times: list[CommitTime], after: int, last: int, now_ms: int) -> list[CommitTime]:
    """Return the times of frames ``after + 1`` to ``last``, ending with one for ``last``."""
    start = bisect_right(times, after, key=lambda item: item[0])
    stop = bisect_left(times, last, key=lambda item: item[0])
    # The first time at or behind a frame is its own.
    final = times[stop][1] if stop < len(times) else now_ms
    return [*times[start:stop], (last, final)]
