"""A disk that plays recorded operations and can lose power after any of them.

Fault model. A file's bytes are durable as of its last fsync or fdatasync, its time of modification
as of its last fsync, the names in a directory as of the directory's last fsync. Whatever came later
may be there or not: of every file any subset of the later writes, each whole, missing or torn into
sectors of 512 bytes; of every directory any number of the later changes, counted from the first.
Files and directories are independent of each other. Nothing else is assumed: not that a sync of
one file helps another, nor that the disk keeps an order.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from typing import Literal

from .tracing import Operation

SECTOR = 512
# Times of modification come from a clock that ticks this slowly.
TICK_NS = 4_000_000

Variant = Literal["kept", "dropped", "random", "torn"]
VARIANTS: tuple[Variant, ...] = ("kept", "dropped", "random", "torn")


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    current: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)
    version: int = 0
    durable_version: int = 0
    times: dict[int, int] = field(default_factory=dict)


@dataclass
class _Directory:
    durable: dict[str, int] = field(default_factory=dict)
    current: dict[str, int] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)


class Disk:
    """What is on the disk after the operations played so far."""

    def __init__(self, operations: list[Operation]) -> None:
        self._files: dict[int, _File] = {}
        self._directories: dict[int, _Directory] = {0: _Directory()}
        self._known_times = _known_times(operations)

    def play(self, operation: Operation) -> None:
        kind = operation.kind
        if kind in ("write", "truncate"):
            file = self._files.setdefault(operation.node, _File())
            _apply(file.current, operation)
            file.pending.append(operation)
            file.version += 1
            known = self._known_times.get((operation.node, file.version))
            file.times[file.version] = known or operation.time_ns // TICK_NS * TICK_NS
        elif kind == "sync":
            self._sync(operation)
        elif kind == "mkdir":
            self._directories[operation.other] = _Directory()
            self._change(operation.node, operation)
        elif kind == "link":
            self._files.setdefault(operation.other, _File())
            self._change(operation.node, operation)
        elif kind == "unlink":
            self._change(operation.node, operation)
        elif kind == "rename":
            moved = self._directories[operation.node].current[operation.name]
            taken = Operation(**{**vars(operation), "kind": "unlink"})
            given = Operation(
                operation.start, operation.end, operation.time_ns, "link",
                node=operation.other, name=operation.other_name, other=moved,
            )  # fmt: skip
            if operation.node == operation.other:
                # Both halves of it happen at once.
                given.other_name = operation.name
                self._change(operation.node, given)
            else:
                self._change(operation.node, taken)
                self._change(operation.other, given)

    def _change(self, node: int, operation: Operation) -> None:
        directory = self._directories[node]
        _apply_names(directory.current, operation)
        directory.pending.append(operation)

    def _sync(self, operation: Operation) -> None:
        # What ended after the sync had begun need not be covered by it.
        directory = self._directories.get(operation.node)
        if directory is not None:
            covered = [p for p in directory.pending if p.end <= operation.start]
            directory.pending = [p for p in directory.pending if p.end > operation.start]
            for change in covered:
                _apply_names(directory.durable, change)
            return
        file = self._files.setdefault(operation.node, _File())
        covered = [p for p in file.pending if p.end <= operation.start]
        file.pending = [p for p in file.pending if p.end > operation.start]
        for change in covered:
            _apply(file.durable, change)
        if operation.whole:
            file.durable_version = file.version - len(file.pending)

    def build(self, destination: str, variant: Variant, chance: random.Random) -> None:
        """Make a directory as a crash could leave it."""
        os.mkdir(destination)
        self._build(destination, 0, variant, chance, {})

    def _build(
        self,
        destination: str,
        node: int,
        variant: Variant,
        chance: random.Random,
        made: dict[int, str],
    ) -> None:
        directory = self._directories[node]
        for name, child in sorted(self._names(directory, variant, chance).items()):
            path = os.path.join(destination, name)
            if child in self._directories:
                os.mkdir(path)
                self._build(path, child, variant, chance, made)
            elif child in made:
                os.link(made[child], path)
            else:
                made[child] = path
                self._build_file(path, self._files[child], variant, chance)

    def _names(
        self, directory: _Directory, variant: Variant, chance: random.Random
    ) -> dict[str, int]:
        if variant == "kept":
            return directory.current
        names = dict(directory.durable)
        if variant != "dropped":
            pending = directory.pending
            kept = chance.choice([0, len(pending), chance.randint(0, len(pending))])
            for change in pending[:kept]:
                _apply_names(names, change)
        return names

    def _build_file(self, path: str, file: _File, variant: Variant, chance: random.Random) -> None:
        version = file.version
        if variant == "kept":
            content = file.current
        else:
            content = bytearray(file.durable)
            version = file.durable_version
            if variant != "dropped":
                keep = chance.choice([0.0, 0.5, 0.5, 0.9, 1.0])
                for change in file.pending:
                    if chance.random() < keep:
                        _apply(content, change)
                    elif variant == "torn" and change.kind == "write" and chance.random() < 0.7:
                        _apply_torn(content, change, chance)
                version = chance.choice([version, file.version])
        with open(path, "wb") as target:
            target.write(content)
        time_ns = file.times.get(version, 0)
        os.utime(path, ns=(time_ns, time_ns))


def _known_times(operations: list[Operation]) -> dict[tuple[int, int], int]:
    """The time of modification that the process saw of a version of a file."""
    versions: dict[int, int] = {}
    known: dict[tuple[int, int], int] = {}
    for operation in operations:
        if operation.kind in ("write", "truncate"):
            versions[operation.node] = versions.get(operation.node, 0) + 1
        elif operation.kind == "modified":
            known[operation.node, versions.get(operation.node, 0)] = operation.offset
    return known


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.kind == "truncate":
        size = operation.offset
        del content[size:]
        content.extend(bytes(size - len(content)))
        return
    _put(content, operation.offset, operation.data)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _apply_torn(content: bytearray, operation: Operation, chance: random.Random) -> None:
    data, offset = operation.data, operation.offset
    position = 0
    while position < len(data):
        # Sectors of the disk, not of the write.
        size = min(SECTOR - (offset + position) % SECTOR, len(data) - position)
        if chance.random() < 0.5:
            _put(content, offset + position, data[position : position + size])
        position += size


def _apply_names(names: dict[str, int], change: Operation) -> None:
    if change.kind == "unlink":
        names.pop(change.name, None)
    else:
        if change.kind == "link" and change.other_name:
            names.pop(change.other_name, None)
        names[change.name] = change.other
