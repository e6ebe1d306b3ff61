"""Reading SQLite's WAL: its header, and the frames that stand for commits.

A frame is 24 bytes and a page: page number, the database's size in pages if the frame ends a
commit and else 0, the salts of the WAL's generation, a running checksum ("File Format" of the
SQLite documentation, section 4). Frames count from 1.

Two facts carry the rest. A frame that ends a commit is written only by a COMMIT, so in a quiet
moment (no COMMIT is running) every such frame of the current salts is a commit, but for one: of a
COMMIT that the disk refused the head of the last frame may be there, and not its page. And what
follows the last of them may be anything: spilled pages of a transaction that was rolled back,
frames of an earlier generation.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from typing import Final, final

__all__ = ["FRAME_HEADER_SIZE", "HEADER_SIZE", "WalHeader", "parse_header"]

HEADER_SIZE: Final = 32
FRAME_HEADER_SIZE: Final = 24
# Page number, size and salts: what is looked at.
_HEAD_SIZE: Final = 16
_READ_FRAMES: Final = 16
_PAUSE_SECONDS: Final = 0.00001
_LITTLE_ENDIAN: Final = 0x377F0682
_BIG_ENDIAN: Final = 0x377F0683
_TWO_WORDS: Final = struct.Struct(">II")

Checksum = tuple[int, int]


@final
@dataclass(frozen=True, slots=True)
class WalHeader:
    """The first 32 bytes of a WAL."""

    frame_size: int
    """Bytes of a frame."""
    salts: bytes
    order: str
    """Of the words that the checksums are computed over: ``<`` or ``>``."""
    checksum: Checksum

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self.frame_size - FRAME_HEADER_SIZE

    def offset(self, frame: int) -> int:
        """Return where a frame starts in the file."""
        return HEADER_SIZE + (frame - 1) * self.frame_size

    def last_commit(self, descriptor: int, after: int) -> int:
        """Return the last frame that ends a commit, or ``after`` if none follows it.

        Right in a quiet moment; while a COMMIT runs, the result may be a commit in the making.
        """
        # One read for the header of the next frame and, past its page, of the one behind.
        frame_size, salts = self.frame_size, self.salts
        data = os.pread(descriptor, frame_size + _HEAD_SIZE, self.offset(after + 1))
        if data[8:_HEAD_SIZE] != salts:
            return after
        if data[frame_size + 8 :] != salts and data[4:8] != b"\0\0\0\0":
            return after + 1
        # The frames of a generation are written one behind the other, so the last is searched for
        # by doubling, then halving; only what is behind the last commit is walked.
        step = 2
        while self._is_in_use(descriptor, after + step):
            step *= 2
        low, high = after + step // 2, after + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._is_in_use(descriptor, middle) else (low, middle)
        while low > after and not self.is_commit(descriptor, low):
            low -= 1
        return low

    def _is_in_use(self, descriptor: int, frame: int) -> bool:
        return os.pread(descriptor, _HEAD_SIZE, self.offset(frame))[8:] == self.salts

    def is_commit(self, descriptor: int, frame: int) -> bool:
        """Whether a frame of this generation ends a commit."""
        head = os.pread(descriptor, _HEAD_SIZE, self.offset(frame))
        return head[8:] == self.salts and head[4:8] != b"\0\0\0\0"

    def is_complete(self, descriptor: int, frame: int) -> bool:
        """Whether a frame was written to its end: its checksum follows from its predecessor's."""
        if frame == 1:
            start = self.checksum
        else:
            head = os.pread(descriptor, FRAME_HEADER_SIZE, self.offset(frame - 1))
            if len(head) < FRAME_HEADER_SIZE:
                return False
            start = _TWO_WORDS.unpack_from(head, 16)
        return (
            self._follow(os.pread(descriptor, self.frame_size, self.offset(frame)), start)
            is not None
        )

    def last_sound_commit(self, descriptor: int) -> int:
        """Return the last commit as SQLite's recovery finds it: every checksum is computed.

        About 0.1 ms a frame, for a WAL that SQLite cannot be asked about.
        """
        checksum, size = self.checksum, self.frame_size
        frame = found = 0
        # Not frame by frame: a thread that lets go of the interpreter's lock so often and briefly
        # has it back before others wake up. They get it where it sleeps.
        while data := os.pread(descriptor, _READ_FRAMES * size, self.offset(frame + 1)):
            for start in range(0, len(data), size):
                following = self._follow(data[start : start + size], checksum)
                if following is None:
                    return found
                checksum = following
                frame += 1
                if data[start + 4 : start + 8] != b"\0\0\0\0":
                    found = frame
            time.sleep(_PAUSE_SECONDS)
        return found

    def _follow(self, frame: bytes, checksum: Checksum) -> Checksum | None:
        if len(frame) < self.frame_size or frame[8:16] != self.salts or frame[:4] == b"\0\0\0\0":
            return None
        checksum = _checksum(frame[:8], checksum, self.order)
        checksum = _checksum(frame[FRAME_HEADER_SIZE:], checksum, self.order)
        return checksum if checksum == _TWO_WORDS.unpack_from(frame, 16) else None


def parse_header(data: bytes) -> WalHeader | None:
    """Return the header of a WAL, or None if the bytes are not a valid one."""
    if len(data) < HEADER_SIZE:
        return None
    magic, _, page_size, _, _, _, first, second = struct.unpack_from(">8I", data)
    if magic not in (_LITTLE_ENDIAN, _BIG_ENDIAN):
        return None
    order = "<" if magic == _LITTLE_ENDIAN else ">"
    if _checksum(data[:24], (0, 0), order) != (first, second):
        return None
    return WalHeader(FRAME_HEADER_SIZE + page_size, data[16:24], order, (first, second))


def _checksum(data: bytes, start: Checksum, order: str) -> Checksum:
    first, second = start
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
