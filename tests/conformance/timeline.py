"""Waits whose order does not depend on how busy the machine is."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel


class Timeline:
    """A time of its own, in milliseconds, on which waits end in the order of their dues.

    One ends no sooner than its distance to the one before it, in real time, after that one has
    ended. So a late timer delays those behind it and never overtakes or crowds them.

    Args:
        slowness: how many real milliseconds one of its milliseconds takes.
    """

    def __init__(self, slowness: float) -> None:
        self._slowness = slowness
        self._waits: list[tuple[float, int, anyio.Event]] = []
        self._numbers = itertools.count()
        self._at = 0.0
        self._since = anyio.current_time()
        self._added = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Let waits end while the block runs, in a task that no object's gate holds up."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            try:
                yield
            except Exception as exc:
                failure = exc  # as it is, not in a group
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def sleep(self, milliseconds: float) -> None:
        now = self._now()
        if self._waits:
            now = min(now, self._waits[0][0])  # what is overdue has not happened yet
        ended = anyio.Event()
        heapq.heappush(self._waits, (now + milliseconds, next(self._numbers), ended))
        self._added.set()
        await ended.wait()

    def _now(self) -> float:
        return self._at + (anyio.current_time() - self._since) * 1000 / self._slowness

    async def _run(self) -> None:
        while True:
            rest = (self._waits[0][0] - self._now()) * self._slowness / 1000 if self._waits else 60
            if rest > 0:
                self._added = anyio.Event()
                with anyio.move_on_after(rest):
                    await self._added.wait()
                continue
            self._at, _, ended = heapq.heappop(self._waits)
            self._since = anyio.current_time()
            ended.set()
            # Who waited for it goes on before the next one's turn, on every event loop.
            await anyio.lowlevel.checkpoint()
