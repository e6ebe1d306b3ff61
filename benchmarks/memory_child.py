"""Measures memory in a process of its own: what one measurement leaves must not serve the next.

Run by the suites as ``python -m benchmarks.memory_child KIND FOLDER``; prints JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from durable_storage import DurableObject, History, Runtime

from .peers import connect

OBJECTS = 10_000
OPEN_MAX = 500
KIB = 1024
IDLE = 200


class Cell(DurableObject):
    async def increment(self) -> int:
        value = await self.ctx.storage.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        return int(value)

    async def fill(self) -> None:
        """Hold a hundred pairs of a kibibyte, written and read."""
        for number in range(100):
            self.ctx.storage.kv.put(f"key-{number}", {"text": "x" * KIB})
        await self.ctx.storage.sync()
        for number in range(100):
            self.ctx.storage.kv.get(f"key-{number}")


def _resident_kib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / KIB


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB


def _runtime(folder: Path, history: bool, **options: Any) -> Runtime:
    return Runtime(folder, history=History(enabled=history), idle_timeout=3600, **options)


async def _open_objects(folder: Path, history: bool, method: str) -> dict[str, float]:
    async with _runtime(folder / "runtime", history) as runtime:
        cells = runtime.namespace(Cell)
        # The first ones pay for what all share: threads, imports, the registry.
        for number in range(20):
            await getattr(cells.get_by_name(f"warm-{number}"), method)()
        before = _resident_kib()
        for number in range(IDLE):
            await getattr(cells.get_by_name(f"cell-{number}"), method)()
        return {"kib": (_resident_kib() - before) / IDLE}


async def _closed_objects(folder: Path, history: bool) -> dict[str, float]:
    count = 3000
    async with _runtime(folder / "runtime", history, max_open_objects=50) as runtime:
        cells = runtime.namespace(Cell)

        async def touch(start: int, stop: int) -> None:
            stubs = [cells.get_by_name(f"cell-{number}") for number in range(start, stop)]
            for index in range(0, len(stubs), 50):
                await asyncio.gather(*[stub.increment() for stub in stubs[index : index + 50]])

        # Until what is shared has its size: caches, the allocator's arenas.
        await touch(0, count)
        await runtime.evict_all()
        before = _resident_kib()
        await touch(count, 2 * count)
        await runtime.evict_all()
        return {"kib": (_resident_kib() - before) / count}


def _raw_connections(folder: Path, filled: bool) -> dict[str, float]:
    connections: list[Any] = []

    def open_one(number: int) -> None:
        connection = connect(folder / f"raw-{number}.db")
        connection.execute("INSERT INTO kv VALUES('value', 1)")
        connection.execute("SELECT value FROM kv WHERE key='value'").fetchone()
        if filled:
            connection.execute("BEGIN")
            for key in range(100):
                connection.execute("INSERT INTO kv VALUES(?, ?)", (f"key-{key}", b"x" * KIB))
            connection.execute("COMMIT")
            for key in range(100):
                connection.execute("SELECT value FROM kv WHERE key=?", (f"key-{key}",)).fetchone()
        connections.append(connection)

    for number in range(20):
        open_one(number)
    before = _resident_kib()
    for number in range(20, 20 + IDLE):
        open_one(number)
    return {"kib": (_resident_kib() - before) / IDLE}


async def _many(folder: Path, history: bool) -> dict[str, float]:
    """10 000 objects, two increments of each, 500 open at most, 500 calls under way."""
    async with _runtime(folder / "runtime", history, max_open_objects=OPEN_MAX) as runtime:
        cells = runtime.namespace(Cell)
        numbers = iter(range(OBJECTS))

        async def client() -> int:
            done = 0
            for number in numbers:
                cell = cells.get_by_name(f"cell-{number}")
                await cell.increment()
                assert await cell.increment() == 2
                done += 1
            return done

        started = time.perf_counter()
        done = sum(await asyncio.gather(*[client() for _ in range(OPEN_MAX)]))
        seconds = time.perf_counter() - started
        assert done == OBJECTS
    return {"mib": _peak_mib(), "seconds": seconds}


def _child(kind: str, folder: Path) -> dict[str, float]:
    what, _, history = kind.partition("+")
    with_history = history == "history"
    if what == "idle":
        return asyncio.run(_open_objects(folder, with_history, "increment"))
    if what == "open":
        return asyncio.run(_open_objects(folder, with_history, "fill"))
    if what == "closed":
        return asyncio.run(_closed_objects(folder, with_history))
    if what == "many":
        return asyncio.run(_many(folder, with_history))
    return _raw_connections(folder, what == "raw-open")


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(_child(sys.argv[1], Path(sys.argv[2]))))
