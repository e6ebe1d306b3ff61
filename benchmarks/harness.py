"""Measuring: contenders take turns within one process, so that what disturbs one disturbs all.

The model. A *case* is one kind of work. Its *contenders* do that work, each its own way; one of
them is the *base*. After warming up, every contender runs once in every *round*, A B C A B C…,
and does a number of operations that takes it about as long as the others. A contender's ratio is
the median, over the rounds, of its cost per operation divided by the base's in the same round.

Every run is given a number that grows (the *salt*), for values that differ from the last ones:
SQLite writes no page for an identical overwrite.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Run = Callable[[int, int], Awaitable[object] | object]
"""Does ``count`` operations; called with (count, salt)."""
Contender = Callable[[Path], AbstractAsyncContextManager[Run] | AsyncIterator[Run]]
"""Prepares in an empty folder what it needs, and gives a `Run`."""


class Missing(Exception):  # noqa: N818 - a message to the harness
    """A peer is not installed."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        value: the median, in ``unit``.
        low, high: the quartiles of the value.
        ratio: to the base of the case, None for the base and where nothing is compared.
        goal: the ratio (or the value, if ``absolute``) that is allowed.
    """

    suite: str
    case: str
    contender: str
    value: float
    unit: str = "s"
    low: float | None = None
    high: float | None = None
    cpu: float | None = None
    wall: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    goal: float | None = None
    absolute: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        measured = self.value if self.absolute else self.ratio
        return None if measured is None else measured <= self.goal

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


@dataclass
class _Sampled:
    name: str
    run: Run
    count: int = 1
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


@dataclass
class Bench:
    """What a suite is given: where its data may lie, how long it may take, and `compare`."""

    folder: Path
    long: bool = False
    report: Callable[[Row], None] = lambda row: None
    rows: list[Row] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)
    suite: str = ""
    _salt: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def on_disk(self) -> bool:
        """Whether a sync of the data costs what a disk does; goals of durable work presume it."""
        return not str(self.folder).startswith("/dev/shm")

    @property
    def rounds(self) -> int:
        return 45 if self.long else 13

    @property
    def slice_seconds(self) -> float:
        """How long one contender works in one round, about."""
        return 0.03 if self.long else 0.015

    def record(self, case: str, contender: str, value: float, **more: Any) -> Row:
        """Add one line."""
        row = Row(self.suite, case, contender, value, **more)
        self.rows.append(row)
        self.report(row)
        return row

    @contextmanager
    def workspace(self, *, in_memory: bool = False) -> Iterator[Path]:
        """An empty folder, removed afterwards; ``in_memory``: where no disk is, if possible."""
        shared = "/dev/shm" if in_memory and os.path.isdir("/dev/shm") else self.folder
        path = Path(tempfile.mkdtemp(prefix="durable-bench-", dir=shared))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    async def compare(
        self,
        case: str,
        contenders: Mapping[str, Contender],
        *,
        base: str,
        goals: Mapping[str, float] | None = None,
        clock: str = "cpu",
        count: int | None = None,
        rounds: int | None = None,
        divide: int = 1,
        note: str = "",
    ) -> dict[str, Row]:
        """Let ``contenders`` do the same work by turns, and report each one.

        Args:
            case: what the work is.
            contenders: by name; one that raises `Missing` is left out.
            base: the contender that ratios refer to.
            goals: the highest ratio allowed, by contender.
            clock: ``"cpu"`` or ``"wall"``: which time the ratio is made of.
            count: operations a round; default as many as fill a time slice.
            rounds: default by the length of the run.
            divide: how many operations one counted operation really is.
            note: shown behind the line of each contender that has a goal.
        """
        async with AsyncExitStack() as stack:
            sampled: list[_Sampled] = []
            for name, contender in contenders.items():
                folder = stack.enter_context(self.workspace())
                try:
                    manager: Any = contender(folder)
                    run = await stack.enter_async_context(manager)
                except Missing as missing:
                    self.skipped.add(str(missing))
                    continue
                each = _Sampled(name, run)
                await self._warm_up(each, count)
                sampled.append(each)
            gc.collect()
            gc.disable()
            try:
                for _ in range(rounds or self.rounds):
                    for each in sampled:
                        cpu, wall = await self._time(each)
                        each.cpu.append(cpu / each.count / divide)
                        each.wall.append(wall / each.count / divide)
                    gc.collect(0)
            finally:
                gc.enable()
        return self._rows_of(case, sampled, base, goals or {}, clock, note)

    async def _warm_up(self, each: _Sampled, count: int | None) -> None:
        # Twice at least: the first run parses, prepares and imports.
        each.count = count or 1
        await self._time(each)
        while True:
            _, wall = await self._time(each)
            if count is not None or wall >= self.slice_seconds * 0.7:
                return
            factor = self.slice_seconds / max(wall, 1e-7)
            each.count = max(each.count + 1, int(each.count * min(factor, 20)))

    async def _time(self, each: _Sampled) -> tuple[float, float]:
        run, count, salt = each.run, each.count, next(self._salt)
        wall, cpu = time.perf_counter(), time.process_time()
        result = run(count, salt)
        if inspect.isawaitable(result):
            await result
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return cpu, wall

    def _rows_of(
        self,
        case: str,
        sampled: list[_Sampled],
        base: str,
        goals: Mapping[str, float],
        clock: str,
        note: str,
    ) -> dict[str, Row]:
        reference = next((getattr(each, clock) for each in sampled if each.name == base), None)
        rows: dict[str, Row] = {}
        for each in sampled:
            times: list[float] = getattr(each, clock)
            low, value, high = _quartiles(times)
            ratios: tuple[float | None, float | None, float | None] = (None, None, None)
            if reference is not None and each.name != base:
                ratios = _quartiles(
                    [a / max(b, 1e-12) for a, b in zip(times, reference, strict=True)]
                )
            rows[each.name] = self.record(
                case,
                each.name,
                value,
                low=low,
                high=high,
                cpu=statistics.median(each.cpu),
                wall=statistics.median(each.wall),
                ratio=ratios[1],
                ratio_low=ratios[0],
                ratio_high=ratios[2],
                goal=goals.get(each.name),
                note=note if each.name in goals else "",
            )
        return rows


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
