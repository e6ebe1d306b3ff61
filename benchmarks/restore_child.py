"""Restores an object of 100 MB in a process of its own, where memory can be measured.

Run by the suite as ``python -m benchmarks.restore_child KIND DAY FOLDER ROUNDS``; prints JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from durable_storage import DurableObject, ObjectResetError, Runtime

WORDS = ["the", "object", "keeps", "what", "it", "was", "told", "and", "says", "nothing", "before"]
ROWS = 92_000
ROW_BYTES = 1000
COMMITS = 4000
MEBIBYTE = 1024**2


def incompressible(chance: random.Random, size: int) -> bytes:
    return chance.randbytes(size)


def text(chance: random.Random, size: int) -> str:
    """Sentences with names and numbers in them."""
    parts: list[str] = []
    while size > 0:
        parts += [*WORDS[chance.randrange(8) :], str(chance.randrange(10_000)), "\n"]
        size -= sum(map(len, parts[-len(WORDS) :]))
    return " ".join(parts)[:ROW_BYTES]


KINDS: dict[str, Callable[[random.Random, int], object]] = {
    "incompressible": incompressible,
    "text": text,
}


class Archive(DurableObject):
    async def fill(self, first: int, values: Sequence[object]) -> None:
        sql = self.ctx.storage.sql
        sql.exec("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")

        def work() -> None:
            for number, value in enumerate(values, first):
                sql.exec("INSERT INTO t VALUES(?, ?)", number, value)

        self.ctx.storage.transaction_sync(work)

    async def change(self, number: int, value: object) -> None:
        self.ctx.storage.sql.exec("UPDATE t SET b=? WHERE a=?", value, number)

    async def bookmark(self) -> str:
        return await self.ctx.storage.get_current_bookmark()

    async def restore(self, bookmark: str) -> None:
        await self.ctx.storage.on_next_session_restore_bookmark(bookmark)
        self.ctx.abort("to restore")

    async def count(self) -> int:
        return int(self.ctx.storage.sql.exec("SELECT count(*) AS n FROM t").one()["n"])


async def _prepare(folder: Path, kind: str, day: str) -> str:
    """Make the object and a day of changes: of a twentieth of the rows, or of rows everywhere."""
    chance = random.Random(1)
    make = KINDS[kind]
    touched = ROWS // 20 if day == "hot" else ROWS
    bookmark = ""
    async with Runtime(folder, durability="os") as runtime:
        stub = runtime.namespace(Archive).get_by_name("archive")
        for first in range(0, ROWS, 1000):
            await stub.fill(first, [make(chance, ROW_BYTES) for _ in range(1000)])
        for number in range(COMMITS):
            await stub.change(chance.randrange(touched), make(chance, ROW_BYTES))
            if number == COMMITS // 2:
                bookmark = await stub.bookmark()
    return bookmark


async def _restore(folder: Path, bookmark: str) -> dict[str, float]:
    async with Runtime(folder) as runtime:
        stub = runtime.namespace(Archive).get_by_name("archive")
        await stub.count()
        with contextlib.suppress(ObjectResetError):
            await stub.restore(bookmark)
        os.sync()
        before = _forget_peak_mib()
        wall, cpu = time.perf_counter(), time.process_time()
        await stub.bookmark()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"restore": wall, "cpu": cpu, "mib": _peak_mib() - before}


def _forget_peak_mib() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mib()


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _copy(source: Path, destination: Path, *, sync: bool) -> float:
    start = time.perf_counter()
    shutil.copyfile(source, destination)
    if sync:
        descriptor = os.open(destination, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    spent = time.perf_counter() - start
    destination.unlink()
    return spent


def main(kind: str, day: str, folder: str, rounds: str) -> None:
    prepared, work = Path(folder, "prepared"), Path(folder, "work")
    bookmark = asyncio.run(_prepare(prepared, kind, day))
    found: dict[str, Any] = {"copy": [], "synced": [], "restore": [], "cpu": [], "mib": []}
    for _ in range(int(rounds)):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(prepared, work, symlinks=True)
        (source,) = [path for path in work.glob("**/*.sqlite") if path.name != "registry.sqlite"]
        found["bytes"] = source.stat().st_size
        os.sync()
        found["copy"].append(_copy(source, work / "copy", sync=False))
        found["synced"].append(_copy(source, work / "copy", sync=True))
        for name, value in asyncio.run(_restore(work, bookmark)).items():
            found[name].append(value)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
