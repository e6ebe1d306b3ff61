"""How long the library holds up the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable

from durable_storage import DurableObject, History, Runtime

from ..harness import Bench
from ..peers import OURS

HOLD_MAX_SECONDS = 0.010
VALUE_BYTES = 100_000


class Writer(DurableObject):
    async def put(self, number: int, size: int) -> None:
        self.ctx.storage.put(f"key-{number % 50}", number.to_bytes(4, "big") * (size // 4))

    async def read(self, number: int) -> object:
        return await self.ctx.storage.get(f"key-{number % 50}", no_cache=True)


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
