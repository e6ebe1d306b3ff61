"""What is wrong with a file as a whole, found before anything is changed."""

from __future__ import annotations

import os
import sqlite3
from typing import Final
from urllib.parse import quote

from ..errors import DatabaseFileError

__all__ = ["FORMAT_VERSION", "check_file", "check_size", "check_version", "wrong_version"]

FORMAT_VERSION: Final = 1
"""What is on disk, as recorded under the metadata key ``schema``."""

_HEADER_SIZE: Final = 18
_MAGIC: Final = b"SQLite format 3\0"


def check_file(path: str) -> None:
    """Refuse a file that is cut off or of another version, without locking or changing it.

    What else is wrong with it, and what its WAL holds, opening it tells.

    Raises:
        DatabaseFileError: it is refused.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if check_size(descriptor, path) <= 1:
            return  # there is no page for a table
    finally:
        os.close(descriptor)
    try:
        connection = sqlite3.connect(f"file:{quote(path)}?immutable=1", uri=True)
        try:
            check_version(connection, path)
        finally:
            connection.close()
    except sqlite3.Error:
        pass


def check_size(descriptor: int, path: str) -> int:
    """Return the pages of a database, 0 if it is none; refuse one that ends in the middle of one.

    Raises:
        DatabaseFileError: it does, and there is no log that could mend it.
    """
    header = os.pread(descriptor, _HEADER_SIZE, 0)
    if len(header) < _HEADER_SIZE or not header.startswith(_MAGIC):
        return 0
    page_size = int.from_bytes(header[16:], "big")
    if page_size == 1:
        page_size = 65536
    size = os.fstat(descriptor).st_size
    pages, rest = divmod(size, max(512, page_size))
    # A new file may have been written in part.
    if pages and rest and not any(_has_content(path + end) for end in ("-wal", "-journal")):
        raise DatabaseFileError(
            f"the database file {path!r} is damaged: it was cut off in the middle of a page, after"
            f" {size} bytes. Put back a copy of it"
        )
    return pages + (rest > 0)


def _has_content(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except FileNotFoundError:
        return False


def check_version(connection: sqlite3.Connection, path: str) -> None:
    """Refuse an open database that another version wrote.

    Raises:
        DatabaseFileError: it is one.
    """
    look = "SELECT name FROM sqlite_master WHERE name='_cf_METADATA'"
    if connection.execute(look).fetchone() is None:
        return
    row = connection.execute("SELECT value FROM _cf_METADATA WHERE key='schema'").fetchone()
    if row is not None and row[0] != FORMAT_VERSION:
        raise wrong_version(row[0], path)


def wrong_version(found: object, path: str) -> DatabaseFileError:
    """Return the error of a file that another version wrote."""
    return DatabaseFileError(
        f"the database file {path!r} has format version {found!r}; this version of"
        f" durable_storage reads and writes version {FORMAT_VERSION}. Upgrade"
        " durable_storage to open it"
    )
