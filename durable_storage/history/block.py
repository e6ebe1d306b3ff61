"""Blocks: runs of WAL frames with their commit times, as the log stores them.

A block is a header and a payload. The payload is the times, an index, and the frames exactly as
they stand in a WAL, so that archiving copies whole slices and there is one way to read everything.
What did not come from a WAL (a restore, an import, a change from outside) is written as frames too.
``docs/format.md`` gives every byte.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter, sub
from typing import Any, Final, NamedTuple, final

from .bookmarks import Position
from .wal import FRAME_HEADER_SIZE

__all__ = [
    "BLOCK_HEADER_SIZE",
    "MAGIC",
    "NO_HASH",
    "Block",
    "Damage",
    "Encoded",
    "Flags",
    "Head",
    "Slice",
    "chain",
    "commit_frames",
    "encode",
    "is_compressible",
    "is_intact",
    "last_time",
    "parse_block",
    "parse_frames",
    "parse_heads",
    "parse_index",
    "parse_pages",
    "parse_times",
]

MAGIC: Final = b"DSHB"
FORMAT: Final = 1
NO_HASH: Final = bytes(16)
_HEADER: Final = struct.Struct(">4sH H16sQQIIIIIII8sQQII16s16s")
_CRC: Final = struct.Struct(">I")
BLOCK_HEADER_SIZE: Final = _HEADER.size + _CRC.size
_TIME: Final = struct.Struct(">IQ")
_HEAD: Final = struct.Struct(">II")
_WORD: Final = struct.Struct(">I")
# A page is had by decompressing one piece. Smaller ones compress less well, and for each the event
# loop has to wait for the interpreter's lock.
PIECE_SIZE: Final = 32 * 1024
# Pages that were written in their order, as by many insertions, are mostly wanted together.
LONG_PIECE_SIZE: Final = 128 * 1024
# Compressing takes ten times as long as copying, and reading three times: it has to gain much.
_SAMPLES_MIN: Final = 4
_SAMPLES_MAX: Final = 8
_SAMPLE_SIZE: Final = 8192
_SAMPLE_EVERY: Final = 256 * 1024
_WORTHWHILE_HURRIED: Final = 0.25
_WORTHWHILE: Final = 0.7

Head = tuple[int, int]
"""A frame's page, and the pages of the database if the frame ends a commit, else 0."""
CommitTime = tuple[int, int]
"""A frame, and a time in ms by which every commit up to that frame had been made."""


class Damage(Exception):  # noqa: N818 - translated to BookmarkError where a bookmark is at hand
    """A part of the history cannot be read.

    Attributes:
        number: the block that is damaged or missing.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Flags:
    """Bits of a block's ``flags``."""

    COMPRESSED: Final = 1
    """The frames are a zlib stream."""
    CONTINUES: Final = 2
    """The last frame ends no commit; the next block goes on."""
    FULL: Final = 4
    """The block is of a commit that holds every page: reading may start with its first block."""
    RESTORE: Final = 8
    OUTSIDE: Final = 16
    """The commit is the difference that was found between the file and the log."""
    IMPORT: Final = 32
    INDEXED: Final = 64
    """The heads of the frames stand behind the times, so that they can be read by themselves."""
    PIECES: Final = 128
    """There is not one zlib stream but several, of which each can be read by itself."""


class Block(NamedTuple):
    """A block's header."""

    flags: int
    object_id: bytes
    number: int
    """Dense, from 1."""
    durable: int
    """The last block known to be durable when this one was written."""
    epoch: int
    generation: int
    first_frame: int
    frame_count: int
    commit_count: int
    page_size: int
    pages: int
    """The database's size after the block's last commit; 0 if it ends none."""
    salts: bytes
    """Of the WAL that the frames are from; zeros for frames that were not in one."""
    first_time: int
    last_time: int
    times_size: int
    frames_size: int
    payload_hash: bytes
    previous_hash: bytes

    @property
    def last_frame(self) -> int:
        """The number of the last frame in its generation."""
        return self.first_frame + self.frame_count - 1

    @property
    def end(self) -> Position:
        """The position of the last frame: a commit unless the block continues."""
        return Position(self.epoch, self.generation, self.last_frame)

    @property
    def size(self) -> int:
        """Bytes of header and payload."""
        return BLOCK_HEADER_SIZE + self.times_size + self.frames_size

    @property
    def continues(self) -> bool:
        """Whether the last frame is in the middle of a commit."""
        return bool(self.flags & Flags.CONTINUES)

    @property
    def starts_full(self) -> bool:
        """Whether the block needs nothing before it."""
        return bool(self.flags & Flags.FULL) and self.first_frame == 1

    def pack(self) -> bytes:
        """Return the header's bytes."""
        data = _HEADER.pack(MAGIC, FORMAT, *self)
        return data + _CRC.pack(zlib.crc32(data))

    @property
    def hash(self) -> bytes:
        """What the next block names as ``previous_hash``; covers the payload by its hash."""
        return _hash(self.pack())


@final
@dataclass(frozen=True, slots=True)
class Slice:
    """Frames on their way into the log, of one generation, at most a few MiB."""

    frames: bytes | memoryview
    first_frame: int
    times: list[CommitTime]
    page_size: int
    salts: bytes = bytes(8)
    flags: int = 0
    hurried: bool = False
    """Somebody waits: compress only what is compressed faster than it is written."""


@final
@dataclass(frozen=True, slots=True)
class Encoded:
    """A slice as it will be stored, before it has its place in the chain."""

    piece: Slice
    flags: int
    frame_count: int
    commit_count: int
    pages: int
    first_time: int
    last_time: int
    times: bytes
    frames: bytes | memoryview
    payload_hash: bytes


def encode(piece: Slice) -> Encoded:
    """Return what takes time to compute; most of it runs outside the interpreter's lock."""
    frame_size = FRAME_HEADER_SIZE + piece.page_size
    index = _index(piece.frames, frame_size)
    heads = list(_HEAD.iter_unpack(index))
    commits = _commits(heads)
    frame_count = len(heads)
    flags = piece.flags | Flags.INDEXED
    if not commits or commits[-1] != frame_count - 1:
        flags |= Flags.CONTINUES
    frames = piece.frames
    times = _on_commits(piece, commits)
    packed_times = zlib.compress(b"".join(_TIME.pack(*time) for time in times), 1)
    packed_times += zlib.compress(index, 1)
    if is_compressible(frames, _WORTHWHILE_HURRIED if piece.hurried else _WORTHWHILE):
        step = max(1, (LONG_PIECE_SIZE if _is_ordered(heads) else PIECE_SIZE) // piece.page_size)
        flags |= Flags.COMPRESSED
        if frame_count > step and _is_diverse(heads):
            flags |= Flags.PIECES
            size = step * frame_size
            starts = range(0, len(frames), size)
            pieces = [zlib.compress(frames[start : start + size], 1) for start in starts]
            packed_times += b"".join(map(_WORD.pack, [*map(len, pieces), step]))
            frames = b"".join(pieces)
        else:
            frames = zlib.compress(frames, 1)
    return Encoded(
        piece=piece,
        flags=flags,
        frame_count=frame_count,
        commit_count=len(commits),
        pages=heads[commits[-1]][1] if commits else 0,
        first_time=times[0][1],
        last_time=times[-1][1],
        times=packed_times,
        frames=frames,
        payload_hash=_hash(packed_times, frames),
    )


def chain(
    encoded: Encoded,
    *,
    object_id: bytes,
    epoch: int,
    generation: int,
    number: int,
    durable: int,
    previous: bytes,
) -> Block:
    """Return the header that gives a slice its place in the chain."""
    piece = encoded.piece
    return Block(
        flags=encoded.flags,
        object_id=object_id,
        number=number,
        durable=durable,
        epoch=epoch,
        generation=generation,
        first_frame=piece.first_frame,
        frame_count=encoded.frame_count,
        commit_count=encoded.commit_count,
        page_size=piece.page_size,
        pages=encoded.pages,
        salts=piece.salts,
        first_time=encoded.first_time,
        last_time=encoded.last_time,
        times_size=len(encoded.times),
        frames_size=len(encoded.frames),
        payload_hash=encoded.payload_hash,
        previous_hash=previous,
    )


def parse_block(data: bytes) -> Block | None:
    """Return the header at the start of ``data``, or None if there is no whole one."""
    if len(data) < BLOCK_HEADER_SIZE or data[:4] != MAGIC:
        return None
    if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
        return None
    fields = _HEADER.unpack_from(data)
    if fields[1] != FORMAT:
        raise Damage(
            f"the history is written in format {fields[1]}, and this version of the library reads "
            f"{FORMAT}; open the object with a newer one",
            fields[4],
        )
    return Block(*fields[2:])


def parse_times(block: Block, payload: bytes) -> list[CommitTime]:
    """Return the commit times in a payload, in order."""
    times = zlib.decompressobj().decompress(payload[: block.times_size])
    return list(_TIME.iter_unpack(times))


def parse_index(block: Block, section: bytes) -> list[Head]:
    """Return the heads of the frames from a payload's first ``times_size`` bytes.

    Raises:
        Damage: they are not what was written, as far as the stream's Adler-32 shows.
    """
    try:
        times = zlib.decompressobj()
        times.decompress(section)
        index = list(_HEAD.iter_unpack(zlib.decompress(times.unused_data)))
    except (zlib.error, struct.error) as error:
        raise Damage(f"block {block.number} is damaged: {error}", block.number) from error
    if len(index) != block.frame_count:
        raise Damage(f"block {block.number} is damaged: its index is too short", block.number)
    return index


def parse_heads(block: Block, frames: bytes | memoryview) -> list[Head]:
    """Return the heads of some frames."""
    return list(_HEAD.iter_unpack(_index(frames, FRAME_HEADER_SIZE + block.page_size)))


def parse_frames(block: Block, payload: bytes) -> bytes | memoryview:
    """Return the frames in a payload that `is_intact`.

    Raises:
        Damage: they were written wrongly.
    """
    _, pieces = _decompress(block, payload, range(block.frame_count))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces.values())


def parse_pages(block: Block, payload: bytes, wanted: Mapping[int, int]) -> dict[int, memoryview]:
    """Return pages in a payload that `is_intact`, decompressing little more than these.

    Args:
        block: the header of the payload.
        payload: times, index and frames.
        wanted: by the pages' numbers, the indices of the frames that hold them.

    Raises:
        Damage: they were written wrongly.
    """
    frame_size = FRAME_HEADER_SIZE + block.page_size
    step, pieces = _decompress(block, payload, wanted.values())
    pages: dict[int, memoryview] = {}
    for page, index in wanted.items():
        start = index % step * frame_size + FRAME_HEADER_SIZE
        pages[page] = pieces[index // step][start : start + block.page_size]
    return pages


def is_intact(block: Block, payload: bytes) -> bool:
    """Whether this is the payload that was written with the header."""
    return _hash(payload) == block.payload_hash


def last_time(times: list[CommitTime], time_ms: int) -> CommitTime | None:
    """Return the last entry that is not after a time."""
    index = bisect_right(times, time_ms, key=lambda item: item[1])
    return times[index - 1] if index else None


def commit_frames(frames: bytes | memoryview, frame_size: int) -> list[int]:
    """Return the indices, from 0, of the frames that end a commit."""
    return _commits(_HEAD.iter_unpack(_index(frames, frame_size)))


def _index(frames: bytes | memoryview, frame_size: int) -> bytes:
    frame = struct.Struct(f"{_HEAD.size}s{frame_size - _HEAD.size}x")
    return b"".join(itertools.chain.from_iterable(frame.iter_unpack(frames)))


def _commits(heads: Iterable[tuple[Any, ...]]) -> list[int]:
    return list(itertools.compress(itertools.count(), map(itemgetter(1), heads)))


def _on_commits(piece: Slice, commits: list[int]) -> list[CommitTime]:
    """Return the times with each frame moved back to the last commit that it covers."""
    times: list[CommitTime] = []
    for frame, time_ms in piece.times:
        index = bisect_right(commits, frame - piece.first_frame)
        if index:
            commit = piece.first_frame + commits[index - 1]
            if not times or commit > times[-1][0]:
                times.append((commit, time_ms))
    return times or piece.times[-1:]


def is_compressible(frames: bytes | memoryview, worthwhile: float = _WORTHWHILE) -> bool:
    """Whether compressing makes it so small that it is worth its time and that of every reading.

    Judged by a sample.
    """
    count = min(max(_SAMPLES_MIN, len(frames) // _SAMPLE_EVERY), _SAMPLES_MAX)
    samples = range(0, len(frames), max(_SAMPLE_SIZE, len(frames) // count))
    sample = b"".join([frames[start : start + _SAMPLE_SIZE] for start in samples])
    return len(zlib.compress(sample, 1)) < worthwhile * len(sample)


def _is_diverse(heads: list[Head]) -> bool:
    """Whether few of the frames with these heads hold a page that others hold too.

    If many do, pieces would be much larger, because they repeat what the others say.
    """
    return 4 * len(set(map(itemgetter(0), heads))) >= 3 * len(heads)


def _is_ordered(heads: list[Head]) -> bool:
    """Whether most of the frames with these heads hold the page behind their predecessor's."""
    pages = list(map(itemgetter(0), heads))
    return 4 * list(map(sub, pages[1:], pages)).count(1) >= 3 * len(heads)


def _decompress(
    block: Block, payload: bytes, wanted: Iterable[int]
) -> tuple[int, dict[int, memoryview]]:
    """Return how many frames a piece holds, and the pieces that hold some frames, up to these."""
    frames = memoryview(payload)[block.times_size :]
    if not block.flags & Flags.COMPRESSED:
        return block.frame_count, {0: frames}
    frame_size = FRAME_HEADER_SIZE + block.page_size
    try:
        if not block.flags & Flags.PIECES:
            size = block.frame_count * frame_size
            return block.frame_count, {0: memoryview(zlib.decompress(frames, bufsize=size))}
        step = _word(payload, block.times_size - _WORD.size)
        number = -(-block.frame_count // step)
        table = block.times_size - (number + 1) * _WORD.size
        bounds = list(
            itertools.accumulate(struct.unpack_from(f">{number}I", payload, table), initial=0)
        )
        pieces: dict[int, memoryview] = {}
        last = {index // step: index % step for index in sorted(wanted)}
        for number, index in last.items():
            stored = frames[bounds[number] : bounds[number + 1]]
            size = (index + 1) * frame_size
            piece = zlib.decompressobj().decompress(stored, size)
            if len(piece) != size:
                raise zlib.error("a piece is too short")
            pieces[number] = memoryview(piece)
    except (zlib.error, struct.error) as error:
        raise Damage(f"block {block.number} is damaged: {error}", block.number) from error
    return step, pieces


def _word(data: bytes | memoryview, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")


def _hash(*parts: bytes | memoryview) -> bytes:
    # Processors have instructions for it: twice as fast as BLAKE2b.
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    return hasher.digest()[:16]
