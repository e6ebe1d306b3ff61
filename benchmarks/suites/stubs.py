"""Calling objects: what an event costs that does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from durable_storage import DurableObject, History, Runtime

from ..harness import Bench, Run
from ..peers import OURS

CONCURRENT = 100


class Idle(DurableObject):
    async def nothing(self) -> None:
        pass


@asynccontextmanager
async def stub_calls(folder: Path) -> AsyncIterator[Run]:
    async with Runtime(folder / "runtime", history=History(enabled=False)) as runtime:
        stub = runtime.namespace(Idle).get_by_name("idle")

        async def run(count: int, salt: int) -> None:
            for _ in range(count):
                await stub.nothing()

        yield run


@asynccontextmanager
async def stub_gathered(folder: Path) -> AsyncIterator[Run]:
    async with Runtime(folder / "runtime", history=History(enabled=False)) as runtime:
        stub = runtime.namespace(Idle).get_by_name("idle")

        async def run(count: int, salt: int) -> None:
            for _ in range(count):
                await asyncio.gather(*[stub.nothing() for _ in range(CONCURRENT)])

        yield run


class Bare:
    async def nothing(self) -> None:
        pass


@asynccontextmanager
async def bare_calls(folder: Path) -> AsyncIterator[Run]:
    bare = Bare()

    async def run(count: int, salt: int) -> None:
        for _ in range(count):
            await bare.nothing()

    yield run


@asynccontextmanager
async def bare_gathered(folder: Path) -> AsyncIterator[Run]:
    bare = Bare()

    async def run(count: int, salt: int) -> None:
        for _ in range(count):
            await asyncio.gather(*[bare.nothing() for _ in range(CONCURRENT)])

    yield run


async def stubs(bench: Bench) -> None:
    """A no-op method, one call after the other and 100 at a time."""
    await bench.compare(
        "no-op, one after the other",
        {OURS: stub_calls, "bare await": bare_calls},
        base="bare await",
        goals={OURS: 12},
    )
    await bench.compare(
        f"no-op, {CONCURRENT} at a time",
        {OURS: stub_gathered, "bare gather": bare_gathered},
        base="bare gather",
        divide=CONCURRENT,
    )
