"""What is said to be restorable, after any damage, is what can be restored."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from durable_storage.cli.copies import open_reader
from durable_storage.errors import BookmarkError
from durable_storage.history import block, retention
from durable_storage.history.bookmarks import BEGINNING, Position
from durable_storage.history.files import Files
from durable_storage.history.image import Image
from durable_storage.history.layout import Layout
from durable_storage.history.reader import HistoryReader
from durable_storage.history.verify import Verification, verify

from ...crash.history.workload import shrink_constants
from .rig import Session
from .test_damage import flip
from .test_rewind import grow_and_shrink


def reopened(path: str) -> HistoryReader:
    reader = open_reader(Layout(path))
    assert reader is not None
    return reader


def commits(reader: HistoryReader) -> list[Position]:
    """Return the position of every commit in the log."""
    found = [BEGINNING]
    for entry in reader.log.entries():
        each = entry.block
        found += [
            Position(each.epoch, each.generation, each.first_frame + index)
            for index, (_, size) in enumerate(entry.heads())
            if size
        ]
    return found


def restored(reader: HistoryReader, position: Position, path: Path) -> bytes | None:
    image = Image(str(path), Files())
    try:
        reader.materialize(reader.find(position), image)
    except BookmarkError:
        return None
    finally:
        image.close()
    return path.read_bytes()


def named(reader: HistoryReader, found: Verification, all_commits: list[Position]) -> set[Position]:
    """Return the commits in the ranges that are said to be restorable."""
    ranges = [(reader.parse(first), reader.parse(last)) for first, last in found.restorable]
    assert {end for run in ranges for end in run} <= set(all_commits)
    return {each for each in all_commits if any(a <= each <= b for a, b in ranges)}


@pytest.mark.parametrize("seed", range(12))
def test_what_is_said_to_be_restorable_is_what_can_be_restored(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_constants(monkeypatch)
    chance = random.Random(seed)
    session = Session(tmp_path / "object.sqlite")
    for _ in grow_and_shrink(session, seed):
        if chance.random() < 0.1:
            session.fold()
            reader = session.log._reader
            head = reader.log.head
            assert head is not None
            retention.make_snapshot(reader, head, session.log._files)
    session.close()
    reader = reopened(session.path)
    all_commits = commits(reader)
    scratch = tmp_path / "restored"
    states = {each: restored(reader, each, scratch) for each in all_commits}
    assert None not in states.values()
    damaged = 0
    for _ in range(2 + seed % 3):
        entry = chance.choice(reader.log.entries()[:-1])
        part, payload = chance.choice(["header", "index", "frames"]), block.BLOCK_HEADER_SIZE
        if part == "header":
            flip(entry.segment, entry.offset + 20)
        elif part == "index":
            size = entry.block.times_size
            flip(entry.segment, entry.offset + payload + chance.randrange(size))
        else:
            flip(entry.segment, entry.stop - 1)
        for snapshot in reader.snapshots.all():
            if chance.random() < 0.3:
                # In the header, or at the first chunk: what lies behind cannot be found then.
                flip(snapshot.path, chance.choice([20, 80]))
        broken = reopened(session.path)
        found = verify(broken)
        can_be_had = {each: restored(broken, each, scratch) for each in all_commits}
        for each, content in can_be_had.items():
            assert content in (None, states[each])
        assert named(broken, found, all_commits) == {
            each for each, content in can_be_had.items() if content is not None
        }
        damaged += None in can_be_had.values()
    assert damaged
