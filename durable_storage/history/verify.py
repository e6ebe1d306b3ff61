"""Reading all of a history to see whether it is what was written."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from .block import Damage, parse_frames, parse_heads, parse_times
from .layout import read_base
from .reader import HistoryReader

__all__ = ["Verification", "verify"]


@final
@dataclass(frozen=True, slots=True)
class Verification:
    """What was found."""

    blocks: int
    commits: int
    snapshots: int
    bytes: int
    damages: tuple[str, ...]
    """One sentence each; empty if all is well."""
    restorable: tuple[tuple[str, str], ...]
    """The first and the last bookmark of each unbroken run of commits that can be restored."""

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


def _may_begin(reader: HistoryReader) -> bool:
    """Whether nothing but pruning can have taken what was before the first block."""
    entries = reader.log.entries()
    first = entries[0].block
    numbers = [snapshot.number for snapshot in reader.snapshots.all()]
    if first.number == 1 or first.starts_full or first.number - 1 in numbers:
        return True
    # Pruning that a crash cut short has left segments in front of its snapshot, but whole ones.
    oldest = min((number for number in numbers if number >= first.number), default=0)
    return any(
        entry.block.number == oldest and entry.segment != following.segment
        for entry, following in pairwise(entries)
    )


def _lost_ends(reader: HistoryReader) -> Iterator[str]:
    """What is missing where no block can tell: before the first one, and after the last."""
    entries, base = reader.log.entries(), read_base(reader.layout.base)
    if reader.log.begins_damaged():
        yield f"the first block of {reader.log.segments()[0]} is damaged"
    elif entries and not _may_begin(reader):
        number = entries[0].block.number
        yield f"the log begins with block {number}, and no snapshot says what was before"
    # Beside a running runtime, blocks are added after the log was opened here.
    if (
        base is not None
        and base.number > reader.log.number
        and not reader.log.has_block(base.number, base.segment, base.offset)
    ):
        yield (
            f"the log ends with block {reader.log.number}, but there was a block {base.number}: "
            "the commits behind are missing"
        )


def verify(
    reader: HistoryReader, progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Read every block and every snapshot, and check hashes and the chain between them.

    ``progress`` is called with the bytes read so far, and in all.
    """
    entries = reader.log.entries()
    snapshots = reader.snapshots.all()
    total = sum(entry.block.size for entry in entries) + sum(item.size for item in snapshots)
    done = commits = 0
    damages: list[str] = []
    damaged_blocks: set[int] = set()
    damaged_snapshots: set[int] = set()
    previous = None
    for entry in entries:
        block = entry.block
        if previous is not None and (
            block.number != previous.number + 1 or block.previous_hash != previous.hash
        ):
            damages.append(
                f"the chain is broken between block {previous.number} and block {block.number}, "
                f"at offset {entry.offset} of {entry.segment}"
            )
        try:
            payload = entry.payload()
            parse_times(block, payload)
            if entry.heads() != parse_heads(block, parse_frames(block, payload)):
                raise Damage(f"the index of block {block.number} is wrong", block.number)
        except (Damage, zlib.error) as damage:
            damages.append(str(damage))
            damaged_blocks.add(block.number)
        previous = block
        commits += block.commit_count
        done += block.size
        if progress is not None:
            progress(done, total)
    damages += _lost_ends(reader)
    damages += [
        f"{path} has blocks of an earlier segment: remove it" for path in reader.log.strays()
    ]
    hashes = {entry.block.number: entry.block.hash for entry in entries}
    for snapshot in snapshots:
        try:
            snapshot.check()
            if hashes.get(snapshot.number, snapshot.block_hash) != snapshot.block_hash:
                raise Damage(f"{snapshot.path} is not of the chain", snapshot.number)
        except Damage as damage:
            damages.append(str(damage))
            damaged_snapshots.add(snapshot.number)
        done += snapshot.size
        if progress is not None:
            progress(done, total)
    ranges = reader.restorable(damaged_blocks, damaged_snapshots)
    return Verification(
        len(entries),
        commits,
        len(snapshots),
        total,
        tuple(damages),
        tuple((reader.bookmark(first), reader.bookmark(last)) for first, last in ranges),
    )
