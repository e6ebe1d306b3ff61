"""What the commit log costs, and how fast it gives back what it keeps."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from durable_storage import DurableObject, History, Runtime

from ..harness import Bench, Run
from ..peers import OURS, host_of
from ..restore_child import KINDS
from .durable import WITH_HISTORY
from .hold import watched

SMALL_GOAL = 1 / 0.95
BULK_GOAL = 1 / 0.80
HOLD_GOAL_SECONDS = 0.005
RESTORE_GOAL = 3.0
RESTORE_MEMORY_GOAL_MIB = 64
DISK_GOALS = {"incompressible": 1.2, "text": 0.3}
WAL_BYTES = 4 * 1024**2
MIB = 1024**2


class Store(DurableObject):
    async def put(self, number: int) -> None:
        self.ctx.storage.put(f"key-{number % 100}", {"number": number, "text": "x" * 200})

    async def note(self, value: object) -> None:
        sql = self.ctx.storage.sql
        sql.exec("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")
        sql.exec("INSERT INTO t(b) VALUES(?)", value)

    async def insert(self, values: Sequence[object]) -> None:
        sql = self.ctx.storage.sql
        sql.exec("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")

        def work() -> None:
            for value in values:
                sql.exec("INSERT INTO t(b) VALUES(?)", value)

        self.ctx.storage.transaction_sync(work)


def our_store(clients: int, *, history: bool) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        async with Runtime(folder / "runtime", history=History(enabled=history)) as runtime:
            stub = runtime.namespace(Store).get_by_name("store")

            async def client(start: int, count: int) -> None:
                for number in range(start, start + count):
                    await stub.put(number)

            async def run(count: int, salt: int) -> None:
                calls = [client(salt * count + n, count // clients) for n in range(clients)]
                await asyncio.gather(*calls)

            yield run

    return contender


def bulk(kind: str, size: int, *, history: bool) -> Any:
    """Events of a thousand rows each."""

    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        chance = random.Random(1)
        rows = [KINDS[kind](chance, size) for _ in range(10_000)]
        async with Runtime(folder / "runtime", history=History(enabled=history)) as runtime:
            stub = runtime.namespace(Store).get_by_name("store")

            async def run(count: int, salt: int) -> None:
                for start in range(0, count, 1000):
                    await stub.insert(rows[start % len(rows) : start % len(rows) + 1000])
                # What goes on behind would be counted as the other contender's.
                while host_of(stub)._fold_wanted:  # noqa: ASYNC110 - a benchmark may look
                    await asyncio.sleep(0.0005)

            yield run

    return contender


async def history(bench: Bench) -> None:
    """History on, relative to history off: time, disk, and how long the loop is held up."""
    # Rounds are long enough for several folds of the log each, or for many syncs.
    for clients, count in ((1, 400), (64, 2560)):
        await bench.compare(
            f"durable puts, {clients} clients",
            {
                OURS: our_store(clients, history=False),
                WITH_HISTORY: our_store(clients, history=True),
            },
            base=OURS,
            clock="wall",
            count=count,
            goals={WITH_HISTORY: SMALL_GOAL},
        )
    for kind in KINDS:
        for size, count in ((100, 80_000), (1000, 20_000)):
            await bench.compare(
                f"bulk insert, rows of {size} bytes, {kind}",
                {
                    OURS: bulk(kind, size, history=False),
                    WITH_HISTORY: bulk(kind, size, history=True),
                },
                base=OURS,
                clock="wall",
                count=count,
                goals={WITH_HISTORY: BULK_GOAL},
            )
    for kind, goal in DISK_GOALS.items():
        for size, rows in ((100, 1), (2000, 1), (1000, 1000)):
            await _disk(bench, kind, size, rows, goal)
    await _hold(bench)


async def _disk(bench: Bench, kind: str, size: int, rows: int, goal: float) -> None:
    """Bytes of history for each byte that went into the WAL."""
    chance = random.Random(1)
    with bench.workspace(in_memory=True) as folder:
        async with Runtime(folder / "runtime", durability="os") as runtime:
            stub = runtime.namespace(Store).get_by_name("store")
            await stub.note(KINDS[kind](chance, size))
            file = host_of(stub).file
            written = 0
            while written < 16 * MIB:
                for _ in range(200 // rows if rows < 200 else 1):
                    values = [KINDS[kind](chance, size) for _ in range(rows)]
                    await (stub.insert(values) if rows > 1 else stub.note(values[0]))
                written += file.database.wal_size_bytes
                file.confirm()
                assert file.fold()
            assert file.log is not None
            use = sum(file.log.disk_use()) / written
    bench.record(
        f"bytes of history a byte of WAL: {kind}, {rows} rows of {size} bytes a commit",
        WITH_HISTORY,
        use * 100,
        unit="%",
        goal=goal * 100,
        absolute=True,
    )


async def _hold(bench: Bench) -> None:
    """The longest gap of a task that ticks each millisecond, while a WAL of 4 MiB is folded."""
    for kind in KINDS:
        walls: list[float] = []
        cpus: list[float] = []
        idle: list[float] = []
        for number in range(30 if bench.long else 8):
            chance = random.Random(number)
            with bench.workspace() as folder:
                async with Runtime(folder / "run") as runtime:
                    stub = runtime.namespace(Store).get_by_name("store")
                    values = [KINDS[kind](chance, 1000) for _ in range(WAL_BYTES // 1100)]
                    await stub.insert(values)
                    own = host_of(stub)
                    assert own.life is not None
                    idle.append(max((await watched(asyncio.sleep(0.05))).walls))
                    ticker = await watched(own._fold(own.life, own.file))
                    walls.append(max(ticker.walls))
                    cpus.append(max(ticker.cpus))
        # What the quietest of them took is the library's; more is the machine's.
        for clock, values_of in (("wall", walls), ("cpu", cpus)):
            bench.record(
                f"archiving a WAL of 4 MiB, {kind}: longest hold, {clock}",
                WITH_HISTORY,
                min(values_of),
                low=sorted(values_of)[len(values_of) // 2],
                high=max(values_of),
                goal=HOLD_GOAL_SECONDS,
                absolute=True,
                note=f"(quartiles: median, longest; an idle loop {max(idle) * 1000:.1f} ms)",
            )


# -- restore ------------------------------------------------------------------------------


async def restore(bench: Bench) -> None:
    """An object of 100 MB back to the middle of its day, relative to copying its file."""
    for kind in KINDS:
        for day in ("hot", "even"):
            with bench.workspace() as folder:
                found = await asyncio.to_thread(_restore_in_child, kind, day, folder, bench.long)
            case = f"restore of {found['bytes'] / 1e6:.0f} MB, {kind}, {day} day"
            copies, synced = found["copy"], found["synced"]
            bench.record(case, "copy", statistics.median(copies))
            bench.record(case, "copy and fsync", statistics.median(synced))
            ratios = [a / b for a, b in zip(found["restore"], synced, strict=True)]
            bench.record(
                case,
                WITH_HISTORY,
                statistics.median(found["restore"]),
                cpu=statistics.median(found["cpu"]),
                ratio=statistics.median(ratios),
                ratio_low=min(ratios),
                ratio_high=max(ratios),
                goal=RESTORE_GOAL,
                note="(to copy and fsync)",
            )
            bench.record(
                f"{case}: memory",
                WITH_HISTORY,
                max(found["mib"]),
                unit="MiB",
                goal=RESTORE_MEMORY_GOAL_MIB,
                absolute=True,
            )


def _restore_in_child(kind: str, day: str, folder: Path, long: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.restore_child"]
    command += [kind, day, str(folder), "9" if long else "3"]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(child.stdout)
    return found
