"""The small files beside the log: who the object is, what the database file is known to be.

``base`` is the key to opening fast and to reading a WAL rightly. It says: *the database file
without its WAL is exactly the log's last commit*, and how to recognise that this still holds.
Losing it costs a comparison of the whole file, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final, final

from ..errors import DatabaseFileError
from .block import CommitTime
from .bookmarks import Position
from .files import Files

__all__ = ["Base", "Intent", "Layout", "read_base", "read_identity", "read_intent", "read_times"]

FORMAT: Final = 1
_TIME: Final = struct.Struct(">8sIQ")
_CRC: Final = struct.Struct(">I")
_TIME_SIZE: Final = _TIME.size + _CRC.size


@final
class Layout:
    """The paths of one object's history."""

    def __init__(self, database_path: str) -> None:
        self.database = database_path
        self.wal: str = database_path + "-wal"
        self.journal: str = database_path + "-journal"
        self.directory: str = database_path + "-history"
        self.segments: str = os.path.join(self.directory, "log")
        self.snapshots: str = os.path.join(self.directory, "snapshots")
        self.identity: str = os.path.join(self.directory, "identity")
        self.base: str = os.path.join(self.directory, "base")
        self.intent: str = os.path.join(self.directory, "restore")
        self.times: str = os.path.join(self.directory, "times")
        self.held_wal: str = os.path.join(self.directory, "wal")
        """A second name of the live WAL: a connection that is closed behind our back (at the
        exit of the interpreter) removes the first."""
        self.image: str = os.path.join(self.directory, "image.new")
        self.new_journal: str = os.path.join(self.directory, "journal.new")
        self.snapshot_image: str = os.path.join(self.directory, "snapshot.new")

    def make_directories(self, files: Files) -> None:
        """Make the directories. What is in the first is durable with the identity, written next."""
        for path in (self.directory, self.segments, self.snapshots):
            files.make_directory(path)
        files.sync_directory(os.path.dirname(self.directory))

    def hold_wal(self, files: Files, *, durably: bool = True) -> None:
        """Give the live WAL its second name; where that cannot be done, do without."""
        if not self.holds_wal():
            files.unlink(self.held_wal)
            with contextlib.suppress(OSError):
                files.link(self.wal, self.held_wal)
                if durably:
                    self._sync_name(files)

    def _sync_name(self, files: Files) -> None:
        try:
            files.sync_directory(self.directory)
        except OSError:
            files.unlink(self.held_wal)
            raise

    def holds_wal(self) -> bool:
        """Whether the live WAL has its second name."""
        try:
            return os.path.samefile(self.wal, self.held_wal)
        except FileNotFoundError:
            return False

    def released_wal(self) -> bool:
        """Whether there is a WAL that has only its second name."""
        return os.path.exists(self.held_wal) and not self.holds_wal()


@final
@dataclass(frozen=True, slots=True)
class Base:
    """What the database file is, apart from its WAL."""

    position: Position
    number: int
    """Of the block that ends at ``position``: it was durable."""
    segment: str
    offset: int
    size: int
    modified_ns: int
    salts: bytes
    """Of the WAL that goes on from here; empty while there is none."""

    def matches(self, database_path: str) -> bool:
        """Whether the database file was not changed since."""
        try:
            status = os.stat(database_path)
        except FileNotFoundError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.modified_ns)

    def pack(self) -> bytes:
        """Return the record's bytes."""
        return _pack(
            position=list(self.position),
            number=self.number,
            segment=self.segment,
            offset=self.offset,
            size=self.size,
            modified_ns=self.modified_ns,
            salts=self.salts.hex(),
        )


@final
@dataclass(frozen=True, slots=True)
class Intent:
    """A restore that the next open has to do."""

    position: Position
    number: int
    """The log's last block when it was asked for: a later one that is a restore is this one."""

    def pack(self) -> bytes:
        """Return the record's bytes."""
        return _pack(position=list(self.position), number=self.number)


def read_base(path: str) -> Base | None:
    """Return the record in ``base``, or None if there is none that can be read."""
    try:
        fields = _read(path)
        if fields is None:
            return None
        return Base(
            Position(*fields["position"]),
            fields["number"],
            fields["segment"],
            fields["offset"],
            fields["size"],
            fields["modified_ns"],
            bytes.fromhex(fields["salts"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def read_intent(path: str) -> Intent | None:
    """Return the restore that was asked for.

    Raises:
        DatabaseFileError: the record cannot be read.
    """
    try:
        fields = _read(path)
        return None if fields is None else Intent(Position(*fields["position"]), fields["number"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatabaseFileError(
            f"{path} cannot be read ({error!r}); remove it to open the object as it is"
        ) from error


def read_identity(path: str) -> bytes | None:
    """Return the object's random id, or None if it cannot be read."""
    try:
        fields = _read(path)
        return None if fields is None else bytes.fromhex(fields["object_id"])
    except (ValueError, KeyError, TypeError):
        return None


def pack_identity(object_id: bytes) -> bytes:
    return _pack(object_id=object_id.hex())


def pack_time(salts: bytes, frame: int, time_ms: int) -> bytes:
    """Return one record of ``times``."""
    data = _TIME.pack(salts, frame, time_ms)
    return data + _CRC.pack(zlib.crc32(data))


def read_times(path: str, salts: bytes) -> list[CommitTime]:
    """Return the commit times that were recorded for a WAL; a torn tail is left out."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return []
    times: list[CommitTime] = []
    for start in range(0, len(data) - _TIME_SIZE + 1, _TIME_SIZE):
        record = data[start : start + _TIME.size]
        if _CRC.unpack_from(data, start + _TIME.size)[0] != zlib.crc32(record):
            break
        of_salts, frame, time_ms = _TIME.unpack(record)
        if of_salts == salts and (not times or frame > times[-1][0]):
            times.append((frame, time_ms))
    return times


def _pack(**fields: object) -> bytes:
    return json.dumps({"format": FORMAT, **fields}).encode() + b"\n"


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            fields: dict[str, Any] = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    if fields["format"] != FORMAT:
        raise DatabaseFileError(
            f"{path} is of format {fields['format']}, and this version of the library reads "
            f"{FORMAT}; open the object with a newer one"
        )
    return fields
