"""Which commits can be had although parts of the log are damaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import final

from .block import Damage, Head
from .bookmarks import BEGINNING, Position
from .image import lock_page
from .segment import Entry
from .snapshot import Snapshot

__all__ = ["restorable_runs"]

Run = tuple[Position, Position]
"""The first and the last of commits that follow one another."""


@final
class _Runs:
    """Commits that can be had, added in order."""

    def __init__(self) -> None:
        self.found: list[Run] = []
        self.is_open = False

    def add(self, position: Position) -> None:
        first = self.found.pop()[0] if self.is_open else position
        self.found.append((first, position))
        self.is_open = True

    def cut(self) -> None:
        """Note a commit that cannot be had."""
        self.is_open = False


@final
class _Lost:
    """The pages of the database, as of some frame, that cannot be had."""

    def __init__(self) -> None:
        self._pages: set[int] = set()
        # While every page is lost, however many there are: those that were written since.
        self._written: set[int] | None = None
        # No lost page has a higher number.
        self._highest = 0

    @property
    def is_empty(self) -> bool:
        return self._written is None and not self._pages

    def nothing(self) -> None:
        self._pages, self._written = set(), None

    def everything(self) -> None:
        self._written = set()

    def follow(self, entry: Entry, heads: list[Head], *, sound: bool) -> Iterator[int]:
        """Go on over the frames of a block; yield the indices of those that end a commit."""
        for index, (page, size) in enumerate(heads):
            if self._written is not None:
                (self._written.add if sound else self._written.discard)(page)
            elif sound:
                self._pages.discard(page)
            else:
                self._pages.add(page)
                self._highest = max(self._highest, page)
            if size:
                self._end_commit(size, entry.block.page_size)
                yield index

    def _end_commit(self, size: int, page_size: int) -> None:
        if self._written is not None:
            self._pages = set(range(1, size + 1)) - self._written - {lock_page(page_size)}
            self._written = None
        elif size < self._highest:
            # What is cut off is zeros if it comes back.
            self._pages = {page for page in self._pages if page <= size}
        self._highest = size


def restorable_runs(
    entries: Sequence[Entry],
    snapshots: Sequence[Snapshot],
    damaged_blocks: AbstractSet[int],
    damaged_snapshots: AbstractSet[int],
) -> list[Run]:
    """Return the unbroken runs of commits of which every page can be had.

    A commit can be had if the newest block before its end that has the page is sound, for each of
    its pages, as far back as the nearest sound snapshot or the beginning. What may be sound in a
    damaged snapshot is not counted. Reads indices, and those only from a damage to where it is
    overcome.

    Args:
        entries: the blocks whose headers are whole, oldest first.
        snapshots: those whose headers are whole, oldest first.
        damaged_blocks: the numbers of blocks whose payload is not what was written.
        damaged_snapshots: the numbers of snapshots that are not what was written.
    """
    bases = {item.number: item for item in snapshots if item.number not in damaged_snapshots}
    # What is before the first thing that a state can be built up from counts as pruned.
    sources = [item.position for item in snapshots]
    sources += [
        Position(block.epoch, block.generation, block.first_frame)
        for block in (entry.block for entry in entries)
        if block.starts_full
    ]
    runs, lost = _Runs(), _Lost()
    number, link = 0, b""
    if not entries or entries[0].block.number == 1:
        sources.append(BEGINNING)
        runs.add(BEGINNING)
    kept = min(sources, default=BEGINNING)
    for entry in entries:
        block = entry.block
        if block.number != number + 1 or (link and block.previous_hash != link):
            runs.cut()
            lost.everything()
            for between in range(number + 1, block.number):
                runs.cut()
                if between in bases:
                    runs.add(bases[between].position)
        base = bases.get(block.number - 1)
        if block.starts_full or (base is not None and base.block_hash == block.previous_hash):
            lost.nothing()
        sound = block.number not in damaged_blocks
        if sound and lost.is_empty and runs.is_open and not block.continues:
            runs.add(block.end)
        else:
            try:
                heads = entry.heads()
            except Damage:
                runs.cut()
                lost.everything()
                heads = []
            for index in lost.follow(entry, heads, sound=sound):
                position = Position(block.epoch, block.generation, block.first_frame + index)
                if sound and lost.is_empty and position >= kept:
                    runs.add(position)
                else:
                    runs.cut()
        if block.number in bases:
            runs.add(bases[block.number].position)
        number, link = block.number, block.hash
    for base in bases.values():
        if base.number > number:
            runs.cut()
            runs.add(base.position)
    return runs.found
