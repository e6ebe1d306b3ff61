"""A restore takes from the present file what has not changed since, and the rest from the log."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from durable_storage.errors import BookmarkError
from durable_storage.history import archive, block, segment
from durable_storage.history.block import Encoded, Flags, Slice, _hash, encode
from durable_storage.history.files import Files
from durable_storage.history.image import Image, pages_of
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
    marks = b"\1" * (image.pages + 1) if changed is None else changed
    copy = shutil.copyfile(path, path.with_suffix(".copy"))
    image.write_journal(f"{copy}-journal", pages_of(marks, image.page_size))
    image.close()
    connection = sqlite3.connect(copy)
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.close()
    return copy.read_bytes(), changed


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


def large(path: Path) -> tuple[Session, list[str]]:
    """Return an object of one block whose pages are in many pieces, and of changes to few."""
    session = Session(path)
    session.run("CREATE TABLE t(a)", "INSERT INTO t VALUES('0')")
    session.fold()
    session.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) "
        "INSERT INTO t SELECT printf('%d', i) || hex(zeroblob(1500)) FROM n"
    )
    session.fold()
    bookmarks = [session.log.current_bookmark()]
    for row in (5, 6, 90):
        session.run(f"UPDATE t SET a = 'x' || a WHERE rowid = {row}")
        session.fold()
        bookmarks.append(session.log.current_bookmark())
    return session, bookmarks


def test_of_a_block_only_the_pieces_with_pages_that_are_needed_are_decompressed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "LONG_PIECE_SIZE", block.PIECE_SIZE)
    session, bookmarks = large(path)
    session.close()
    reader = session.log._reader
    whole = [entry for entry in session.log._log.entries() if entry.block.flags & Flags.PIECES]
    assert [entry.block.number for entry in whole] == [2]
    frames = whole[0].block.frame_count
    step = block.PIECE_SIZE // 4096
    assert frames > 10 * step
    decompressed: list[int] = []
    genuine = zlib.decompressobj

    def noted() -> object:
        stream = genuine()

        class Noted:
            def decompress(self, data: bytes, size: int = 0) -> bytes:
                decompressed.append(size // (4096 + 24))
                return stream.decompress(data, size)

            @property
            def unused_data(self) -> bytes:
                return stream.unused_data

        return Noted()

    monkeypatch.setattr(zlib, "decompressobj", noted)
    contents = [rewound(reader, bookmark, path)[0] for bookmark in bookmarks]
    assert 0 < sum(decompressed) <= frames // 2
    monkeypatch.undo()
    assert contents == [rebuilt(reader, bookmark, path) for bookmark in bookmarks]


def piece_count(encoded: Encoded) -> int:
    (step,) = struct.unpack(">I", encoded.times[-4:])
    return -(-encoded.frame_count // step)


def test_pages_that_were_written_in_their_order_are_in_larger_pieces() -> None:
    pages = list(range(1, 257))
    scattered = pages[::3] + pages[1::3] + pages[2::3]

    def frames(numbers: list[int]) -> bytes:
        text = b"of a page " * 500
        return b"".join(struct.pack(">II16x", number, 1) + text[:4096] for number in numbers)

    def encoded(numbers: list[int]) -> Encoded:
        return encode(Slice(frames(numbers), 1, [(len(numbers), 1)], 4096))

    assert piece_count(encoded(pages)) == 256 * 4096 // block.LONG_PIECE_SIZE
    assert piece_count(encoded(scattered)) == 256 * 4096 // block.PIECE_SIZE


def test_a_block_in_which_pages_repeat_is_compressed_in_one_piece(path: Path) -> None:
    session = Session(path)
    session.run("CREATE TABLE t(a)")
    for number in range(50):
        session.run(("INSERT INTO t VALUES(?)", str(number) * 10))
    session.fold()
    session.close()
    blocks = [entry.block for entry in session.log._log.entries()]
    assert any(block.frame_count > 20 and block.flags & Flags.COMPRESSED for block in blocks)
    assert not any(block.flags & Flags.PIECES for block in blocks)


@pytest.mark.parametrize("wrong", ["sizes", "step"])
def test_a_block_that_says_wrongly_where_its_pieces_are_is_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def miscut(piece: Slice) -> Encoded:
        encoded = encode(piece)
        if not encoded.flags & Flags.PIECES:
            return encoded
        count = piece_count(encoded)
        words = list(struct.unpack(f">{count + 1}I", encoded.times[-4 * (count + 1) :]))
        if wrong == "sizes":
            words[0], words[1] = words[1], words[0]
            assert words[0] != words[1]
        else:
            words[-1] += 1
        times = encoded.times[: -4 * (count + 1)] + struct.pack(f">{count + 1}I", *words)
        return replace(encoded, times=times, payload_hash=_hash(times, encoded.frames))

    monkeypatch.setattr(archive, "encode", miscut)
    session, bookmarks = large(path)
    state = session.content()
    session.close()
    verification = session.log.verify()
    assert len(verification.damages) == 1
    assert "block 2" in verification.damages[0]
    with pytest.raises(BookmarkError, match="block 2"):
        rebuilt(session.log._reader, bookmarks[0], path)
    session = Session(path)
    assert session.content() == state
    session.close()


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
    for size in ("PIECE_SIZE", "LONG_PIECE_SIZE"):
        monkeypatch.setattr(block, size, archive.SLICE_SIZE)
    session = Session(path)
    bookmarks = list(grow_and_shrink(session, 1))
    session.close()
    reader = session.log._reader
    assert not any(
        entry.block.flags & (Flags.INDEXED | Flags.PIECES) for entry in reader.log.entries()
    )
    assert session.log.verify().sound
    for bookmark in bookmarks:
        content, changed = rewound(reader, bookmark, path)
        assert changed is not None
        assert content == rebuilt(reader, bookmark, path)
