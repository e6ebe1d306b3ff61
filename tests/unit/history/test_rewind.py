"""A restore takes from the present file what has not changed since, and the rest from the log."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from durable_storage.history import archive
from durable_storage.history.block import Encoded, Flags, Slice, _hash, encode
from durable_storage.history.files import Files
from durable_storage.history.image import Image
from durable_storage.history.reader import HistoryReader

from ...crash.history.workload import shrink_constants
from .rig import Session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "object.sqlite"


def rebuilt(reader: HistoryReader, bookmark: str, path: Path) -> bytes:
    image = Image(str(path.with_suffix(".whole")), Files())
    reader.materialize(reader.find(reader.parse(bookmark)), image)
    image.close()
    return Path(image.path).read_bytes()


def rewound(reader: HistoryReader, bookmark: str, path: Path) -> tuple[bytes, bytes | None]:
    image = Image(str(path.with_suffix(".rewound")), Files())
    changed = reader.rewind(str(path), reader.find(reader.parse(bookmark)), image)
    image.close()
    return Path(image.path).read_bytes(), changed


def grow_and_shrink(session: Session, seed: int) -> Iterator[str]:
    """Yield the bookmark of each of many states."""
    chance = random.Random(seed)
    session.run("CREATE TABLE t(a)")
    for number in range(40):
        kind = chance.random()
        if kind < 0.6:
            session.run(("INSERT INTO t VALUES(?)", str(number) * chance.randrange(20_000)))
        elif kind < 0.7:
            session.run("DELETE FROM t WHERE rowid % 2")
        elif kind < 0.8:
            session.vacuum()
        elif kind < 0.85:
            session.delete_all()
            session.run("CREATE TABLE t(a)")
        else:
            session.fold()
        yield session.log.current_bookmark()


@pytest.mark.parametrize("seed", range(6))
def test_a_rewound_file_is_the_one_that_the_log_alone_gives_byte_for_byte(
    path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_constants(monkeypatch)
    session = Session(path)
    bookmarks = list(grow_and_shrink(session, seed))
    session.close()
    reader = session.log._reader
    for bookmark in bookmarks:
        content, changed = rewound(reader, bookmark, path)
        assert content == rebuilt(reader, bookmark, path)
        assert changed is not None
        present = path.read_bytes()
        for start in range(0, min(len(content), len(present)), 4096):
            if content[start : start + 4096] != present[start : start + 4096]:
                assert changed[start // 4096 + 1]


def test_a_rewind_reads_no_block_without_a_page_that_it_needs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    for number in range(30):
        session.run(("INSERT INTO t VALUES(?)", str(number) * 10_000))
        session.fold()
    session.run("UPDATE t SET a = 'x' WHERE rowid = 3")
    session.fold()
    bookmark = session.log.current_bookmark()
    session.run("UPDATE t SET a = 'y' WHERE rowid = 3")
    session.close()
    read: list[int] = []
    genuine = segment.Entry.payload

    def noted(entry: segment.Entry) -> bytes:
        read.append(entry.block.number)
        return genuine(entry)

    monkeypatch.setattr(segment.Entry, "payload", noted)
    content, _ = rewound(session.log._reader, bookmark, path)
    assert 1 <= len(read) <= 3
    assert content == rebuilt(session.log._reader, bookmark, path)


def test_what_was_changed_since_is_not_taken_from_a_damaged_index(path: Path) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    session.run("INSERT INTO t VALUES(1)")
    bookmark = session.log.current_bookmark()
    session.fold()
    session.run("INSERT INTO t VALUES(2)")
    session.close()
    reader = session.log._reader
    last = reader.log.entries()[-1]
    with open(last.segment, "r+b") as file:
        file.seek(last.offset + 136 + last.block.times_size - 2)
        file.write(b"\xff\xff")
    content, changed = rewound(reader, bookmark, path)
    assert changed is None
    assert content == rebuilt(reader, bookmark, path)
    assert not session.log.verify().sound


def test_blocks_without_an_index_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_index(piece: Slice) -> Encoded:
        encoded = encode(piece)
        stream = zlib.decompressobj()
        stream.decompress(encoded.times)
        times = encoded.times[: -len(stream.unused_data)]
        return replace(
            encoded,
            flags=encoded.flags & ~Flags.INDEXED,
            times=times,
            payload_hash=_hash(times, encoded.frames),
        )

    monkeypatch.setattr(archive, "encode", without_index)
    shrink_constants(monkeypatch)
    session = Session(path)
    bookmarks = list(grow_and_shrink(session, 1))
    session.close()
    reader = session.log._reader
    assert not any(entry.block.flags & Flags.INDEXED for entry in reader.log.entries())
    assert session.log.verify().sound
    for bookmark in bookmarks:
        content, changed = rewound(reader, bookmark, path)
        assert changed is not None
        assert content == rebuilt(reader, bookmark, path)
