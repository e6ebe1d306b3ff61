"""Snapshots: the whole database as of one block, so that a restore need not start at the first.

They are made from the log, never from the live file, and only save time: everything but the
oldest one of a pruned log can be lost without loss of history.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple, final

from .block import Block, Damage, is_compressible
from .bookmarks import Position
from .files import Files
from .image import Image
from .pipeline import ahead

__all__ = ["Snapshot", "Snapshots"]

SUFFIX: Final = ".snapshot"
MAGIC: Final = b"DSHS"
FORMAT: Final = 1
_HEADER: Final = struct.Struct(">4sHH16sQIIIIIQ16s")
_CHUNK: Final = struct.Struct(">III")
_CRC: Final = struct.Struct(">I")
_HASH_SIZE: Final = 32
# A page is had by reading one chunk; smaller ones compress less well.
CHUNK_SIZE: Final = 32 * 1024
# What is read, and decompressed in one go.
_BATCH_SIZE: Final = 1024 * 1024

_Chunk = tuple[int, int, bytes]
"""First page, size of the pages, data."""


class _Header(NamedTuple):
    object_id: bytes
    number: int
    epoch: int
    generation: int
    frame: int
    page_size: int
    pages: int
    time: int
    block_hash: bytes


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot's header and where it is."""

    path: str
    object_id: bytes
    number: int
    """The block after which this is the state."""
    position: Position
    page_size: int
    pages: int
    time: int
    """When the commit at ``position`` was made."""
    block_hash: bytes
    """Of that block, which links the snapshot into the chain."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.path.getsize(self.path)

    def fill(self, image: Image) -> None:
        """Fill an image's missing pages, and read no more for it than it takes.

        What is read is checked by the Adler-32 of each chunk.

        Raises:
            Damage: the file is not what was written.
        """
        self._read(image.misses, image.fill_run)

    def check(self) -> None:
        """Read all of the snapshot.

        Raises:
            Damage: the file is not what was written.
        """
        self._read(lambda first_page, pages: True, lambda first_page, data: None)
        hasher = hashlib.sha256()
        with open(self.path, "rb", buffering=0) as file:
            left = self.size - _HASH_SIZE
            while left > 0 and (data := file.read(min(left, _BATCH_SIZE))):
                hasher.update(data)
                left -= len(data)
            if file.read(_HASH_SIZE + 1) != hasher.digest():
                raise self._damage()

    def _read(self, wants: Callable[[int, int], bool], take: Callable[[int, bytes], None]) -> None:
        try:
            with open(self.path, "rb") as file:
                self._read_chunks(file, wants, take)
        except (FileNotFoundError, zlib.error, EOFError) as error:
            raise self._damage() from error

    def _read_chunks(
        self,
        file: BinaryIO,
        wants: Callable[[int, int], bool],
        take: Callable[[int, bytes], None],
    ) -> None:
        def read(size: int) -> bytes:
            data = file.read(size)
            if len(data) != size:
                raise EOFError
            return data

        read(_HEADER.size + _CRC.size)

        def batches() -> Iterator[list[_Chunk]]:
            expected, batch, batch_size = 1, list[_Chunk](), 0
            while expected <= self.pages:
                first_page, pages, size = _CHUNK.unpack(read(_CHUNK.size))
                if first_page != expected or not 0 < pages <= self.pages + 1 - expected:
                    raise self._damage()
                expected += pages
                if wants(first_page, pages):
                    batch.append((first_page, pages * self.page_size, read(size)))
                    batch_size += pages * self.page_size
                    if batch_size >= _BATCH_SIZE:
                        yield batch
                        batch, batch_size = [], 0
                else:
                    file.seek(size, os.SEEK_CUR)
            yield batch
            if read(_CHUNK.size) != bytes(_CHUNK.size):
                raise self._damage()

        for batch in ahead(_decompress, batches()):
            for first_page, data in batch:
                take(first_page, data)

    def _damage(self) -> Damage:
        return Damage(f"{self.path} is damaged", self.number)


@final
class Snapshots:
    """The snapshots of one object."""

    def __init__(self, directory: str, files: Files, *, object_id: bytes) -> None:
        self.directory = directory
        self._files = files
        self._object_id = object_id

    def rename(self, object_id: bytes) -> None:
        """Be the snapshots of an object of another id, of which there are none yet."""
        self._object_id = object_id

    def all(self) -> list[Snapshot]:
        """Return the snapshots whose headers are whole, oldest first."""
        try:
            names = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return []
        paths = [os.path.join(self.directory, name) for name in names if name.endswith(SUFFIX)]
        found = [self._read_header(path) for path in paths]
        return [snapshot for snapshot in found if snapshot is not None]

    def _read_header(self, path: str) -> Snapshot | None:
        with open(path, "rb", buffering=0) as file:
            data = file.read(_HEADER.size + _CRC.size)
        if len(data) < _HEADER.size + _CRC.size:
            return None
        magic, version, _, *fields = _HEADER.unpack_from(data)
        crc = zlib.crc32(data[: _HEADER.size])
        if (magic, version, crc) != (MAGIC, FORMAT, *_CRC.unpack_from(data, _HEADER.size)):
            return None
        header = _Header(*fields)
        if header.object_id != self._object_id:
            return None
        position = Position(header.epoch, header.generation, header.frame)
        return Snapshot(
            path,
            header.object_id,
            header.number,
            position,
            header.page_size,
            header.pages,
            header.time,
            header.block_hash,
        )

    def write(self, image: Image, block: Block) -> None:
        """Durably keep an image that is the state after a block.

        Raises:
            OSError: the disk refused; there is no such snapshot.
        """
        path = os.path.join(self.directory, f"{block.number:016x}{SUFFIX}")
        temporary = path + ".new"
        descriptor = self._files.scratch(temporary)
        try:
            try:
                self._write(descriptor, temporary, image, block)
                self._files.sync(descriptor, temporary)
            finally:
                os.close(descriptor)
            self._files.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                self._files.unlink(temporary)
            raise

    def _write(self, descriptor: int, path: str, image: Image, block: Block) -> None:
        header = _HEADER.pack(
            MAGIC,
            FORMAT,
            0,
            *_Header(
                self._object_id,
                block.number,
                *block.end,
                image.page_size,
                image.pages,
                block.last_time,
                block.hash,
            ),
        )
        hasher = hashlib.sha256()
        offset = 0

        def write(data: bytes) -> None:
            nonlocal offset
            hasher.update(data)
            offset = self._files.write(descriptor, path, offset, data)

        write(header + _CRC.pack(zlib.crc32(header)))
        most = max(1, _BATCH_SIZE // image.page_size)
        step = max(1, CHUNK_SIZE // image.page_size)
        for start in range(1, image.pages + 1, most):
            stop = min(start + most, image.pages + 1)
            data = image.read_run(start, stop - start)
            level = 1 if is_compressible(data) else 0
            parts: list[bytes] = []
            for first_page in range(start, stop, step):
                pages = min(step, stop - first_page)
                first = (first_page - start) * image.page_size
                chunk = zlib.compress(data[first : first + pages * image.page_size], level)
                parts += (_CHUNK.pack(first_page, pages, len(chunk)), chunk)
            write(b"".join(parts))
        write(_CHUNK.pack(0, 0, 0))
        self._files.write(descriptor, path, offset, hasher.digest())

    def remove(self, snapshots: list[Snapshot]) -> None:
        """Remove snapshots; after a loss of power they may be back, which does no harm."""
        for snapshot in snapshots:
            self._files.unlink(snapshot.path)


def _decompress(batch: list[_Chunk]) -> list[tuple[int, bytes]]:
    return [(first_page, _inflate(data, size)) for first_page, size, data in batch]


def _inflate(data: bytes, size: int) -> bytes:
    pages = zlib.decompress(data, bufsize=size)
    if len(pages) != size:
        raise zlib.error("a chunk of another size")
    return pages
