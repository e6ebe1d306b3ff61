"""``check``: whether everything in a directory is what it should be."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import DurableStorageError
from ..history.verify import verify
from .copies import copied, lacks_room, working_on_copy
from .directory import Directory, StoredObject
from .failures import FAILED, Failure
from .logs import read_only
from .looking import Contents, open_copy
from .output import Line, Output, Part, Table
from .values import Undecoded, counted, size

__all__ = ["check_directory"]


class Problem(NamedTuple):
    """Something that is not as it should be."""

    where: str
    what: str


def check_directory(directory: Directory, out: Output, namespace: str | None) -> int:
    """Check the registry, every object and every history; the exit code."""
    records = [directory.namespace(namespace)] if namespace else directory.namespaces()
    problems = [Problem("registry", what) for what in _check_registry(directory)]
    objects = [stored for record in records for stored in directory.objects(record)]
    read = 0
    with out.progress(f"checking {directory.path}") as progress:
        for done, stored in enumerate(objects, 1):
            found, amount = _check_object(directory, stored)
            problems += [Problem(stored.label, what) for what in found]
            read += amount
            progress(done, len(objects))
    data: dict[str, Any] = {
        "path": directory.path,
        "running": directory.running,
        "namespaces": len(records),
        "objects": len(objects),
        "bytes": read,
        "problems": [each._asdict() for each in problems],
    }
    parts: list[Part] = []
    if problems:
        parts.append(Table(counted(len(problems), "problem"), ("where", "what"), problems))
    else:
        parts.append(Line(f"Sound: {counted(len(objects), 'object')}, {size(read)} read."))
    out.result(data, *parts)
    return FAILED if problems else 0


def _check_registry(directory: Directory) -> Iterator[str]:
    registry = os.path.join(directory.path, "registry.sqlite")
    with copied(registry) as copy, working_on_copy(registry):
        yield from _integrity(copy)
    known = {record.folder for record in directory.namespaces()}
    known |= {record.folder for record in directory.registry.namespaces_to_remove()}
    for name in sorted(os.listdir(directory.path)):
        if os.path.isdir(os.path.join(directory.path, name)) and name not in known:
            yield f"the folder {name!r} belongs to no namespace"


def _check_object(directory: Directory, stored: StoredObject) -> tuple[list[str], int]:
    """What is wrong with an object, and how many bytes were read of it."""
    if not os.path.exists(stored.path):
        # An object that was only just used may not be confirmed yet.
        missing = [] if directory.running else [f"its file {stored.path} is missing"]
        return missing, 0
    problems: list[str] = []
    amount = os.path.getsize(stored.path)
    try:
        with copied(stored.path) as copy, working_on_copy(stored.path):
            problems += _integrity(copy)
            if not problems:
                problems += _check_contents(directory, stored, copy)
        if stored.created_ms is None and not directory.running:
            problems.append(
                "the registry does not know it: it was made just before a crash; its next use "
                "makes it known"
            )
        reader = read_only(stored) if stored.has_history else None
        if reader is not None:
            found = verify(reader)
            problems += found.damages
            amount += found.bytes
    except (Failure, DurableStorageError, OSError) as exc:
        problems.append(str(exc))
    return problems, amount


def _integrity(path: str) -> Iterator[str]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for (problem,) in connection.execute("PRAGMA integrity_check"):
            if problem != "ok":
                yield str(problem)
        for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
            yield f"row {rowid} of {table} refers to a row of {parent} that is not there"
    except sqlite3.Error as exc:
        if lacks_room(exc):
            raise
        yield str(exc)
    finally:
        connection.close()


def _check_contents(directory: Directory, stored: StoredObject, copy: str) -> Iterator[str]:
    database = open_copy(copy)
    try:
        contents = Contents(database, legacy=stored.namespace.backend == "kv")
        if contents.decoder.known:
            for key, value in contents.pairs():
                if isinstance(value, Undecoded):
                    yield f"the value of the key {key!r} is {value!r}"
        due = contents.alarm_ms
        if directory.running or due is None:
            return
        if stored.alarm_ms is None or stored.alarm_ms > due:
            yield "its alarm is missing or late in the registry; it runs once the object is used"
    finally:
        database.close()
