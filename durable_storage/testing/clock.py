"""A clock that moves only when a test moves it.

The model: sleepers wait in order of their deadline. ``advance`` moves time to the earliest
deadline, wakes those who wait for it, lets everything that became runnable finish, and only
then moves on to the next one, until the requested span is used up.

Finishing is judged by two things. Tasks that run on the event loop alone get a bounded number
of turns. Work that leaves the loop (a worker thread that syncs a file) is not seen that way:
whoever starts it in the background holds the clock with ``busy()``, and time stands still
until the hold is released. A holder that itself sleeps on this clock does not hold it
meanwhile, since only time can wake it.

Invariants: ``monotonic()`` never goes back; a woken sleeper finds ``monotonic()`` at or past its
deadline; the wall clock moves with the monotonic one, except for ``set_wall``.
"""

from __future__ import annotations

import asyncio
import heapq
import weakref
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import final

import anyio
import anyio.lowlevel

from ..errors import ArgumentTypeError, ArgumentValueError, ConcurrencyError
from ..gates.loop import Loop

__all__ = ["ManualClock"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SPAN_MAX = 10**17
"""Microseconds; a little more than three thousand years."""

_SETTLE_TURNS = 64
"""Turns of the event loop that woken tasks get before time moves on, at most."""
_QUIET_TURNS = 6
"""So many turns in which nobody else was runnable are enough."""


def _wall_microseconds(moment: datetime) -> int:
    if not isinstance(moment, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(f"ManualClock takes an aware datetime, got {type(moment).__name__}")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ArgumentValueError(
            "ManualClock takes an aware datetime, such as datetime(2026, 1, 1, tzinfo=UTC); "
            f"got the naive {moment!r}"
        )
    return (moment - _EPOCH) // _MICROSECOND


@final
class ManualClock:
    """A ``Clock`` for tests: time stands still until ``advance`` moves it.

    Args:
        start: the wall-clock time to begin with, aware; without it the present, in whole
            milliseconds.
    """

    def __init__(self, start: datetime | None = None) -> None:
        if start is None:
            present = datetime.now(UTC)
            start = present.replace(microsecond=present.microsecond // 1000 * 1000)
        # The wall clock is this plus the microseconds that have passed.
        self._wall_offset = _wall_microseconds(start)
        # Time is counted in whole microseconds, so that ten steps of 0.1 s make 1 s.
        self._passed = 0
        self._monotonic = 0.0
        self._sleepers: list[tuple[int, int, float, anyio.Event]] = []
        self._sleeper_number = 0
        self._holds: dict[int, int] = {}
        self._released: anyio.Event | None = None
        self._advancing = False
        self._watchers: list[weakref.WeakMethod[Callable[[], None]]] = []

    def __repr__(self) -> str:
        return f"<ManualClock {self.now.isoformat()}>"

    @property
    def now(self) -> datetime:
        """The wall-clock time, in UTC."""
        return _EPOCH + timedelta(microseconds=self._wall_offset + self._passed)

    def time_ms(self) -> int:
        """Return the wall-clock time in milliseconds since the Unix epoch."""
        return (self._wall_offset + self._passed) // 1000

    def monotonic(self) -> float:
        """Return the seconds by which the clock was advanced."""
        return self._monotonic

    async def sleep_until(self, deadline: float) -> None:
        """Return once ``advance`` has moved the clock to ``deadline`` (monotonic seconds)."""
        if deadline <= self._monotonic:
            await anyio.lowlevel.checkpoint()
            return
        if deadline == float("inf"):
            await anyio.sleep_forever()
        woken = anyio.Event()
        self._sleeper_number += 1
        sleeper = (round(deadline * 1e6), self._sleeper_number, deadline, woken)
        heapq.heappush(self._sleepers, sleeper)
        task = anyio.get_current_task().id
        holds = self._holds.pop(task, 0)
        self._tell_when_released()
        try:
            await woken.wait()
        finally:
            if holds:
                self._holds[task] = self._holds.get(task, 0) + holds
            if not woken.is_set():
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    @contextmanager
    def busy(self) -> Generator[None, None, None]:
        """Hold the clock while the calling task does work that ``advance`` has to wait for."""
        task = anyio.get_current_task().id
        self._holds[task] = self._holds.get(task, 0) + 1
        try:
            yield
        finally:
            self._holds[task] -= 1
            if not self._holds[task]:
                del self._holds[task]
            self._tell_when_released()

    def set_wall(self, moment: datetime) -> None:
        """Set the wall clock alone, as a correction of the system's time does.

        The monotonic clock stays, and no sleeper wakes.

        Raises:
            ArgumentValueError: ``moment`` is naive.
        """
        self._wall_offset = _wall_microseconds(moment) - self._passed
        for watcher in self._watchers:
            changed = watcher()
            if changed is not None:
                changed()

    def watch_wall(self, changed: Callable[[], None]) -> None:
        """Have the bound method ``changed`` called after every ``set_wall``, while it lives."""
        self._watchers = [each for each in self._watchers if each() is not None]
        self._watchers.append(weakref.WeakMethod(changed))

    async def advance(
        self,
        delta: timedelta | float | None = None,
        *,
        days: float | None = None,
        hours: float | None = None,
        minutes: float | None = None,
        seconds: float | None = None,
        milliseconds: float | None = None,
    ) -> None:
        """Move time forward, waking every sleeper on the way at its own moment.

        When it returns, everything that became due has run: alarms included. A span of zero
        only lets what is due already run.

        Args:
            delta: the span, as a ``timedelta`` or in seconds; or give it by the other arguments,
                which add up.
            days: of 24 hours.
            hours: of 60 minutes.
            minutes: of 60 seconds.
            seconds: the seconds of the span.
            milliseconds: the milliseconds of the span.

        Raises:
            ArgumentTypeError: no span was given or two were, or not a number.
            ArgumentValueError: the span is negative; time never goes back (see ``set_wall``).
            ConcurrencyError: another task is advancing this clock.
        """
        units = {
            "days": days,
            "hours": hours,
            "minutes": minutes,
            "seconds": seconds,
            "milliseconds": milliseconds,
        }
        given = {unit: number for unit, number in units.items() if number is not None}
        target = self._passed + _span_microseconds(delta, given)
        if self._advancing:
            raise ConcurrencyError("advance(): another task is advancing this clock")
        self._advancing = True
        try:
            await self._settle()
            while self._sleepers and self._sleepers[0][0] <= target:
                self._wake_next()
                await self._settle()
            self._move(target)
            await self._settle()
        finally:
            self._advancing = False

    def _move(self, passed: int) -> None:
        self._passed = max(self._passed, passed)
        self._monotonic = max(self._monotonic, self._passed / 1e6)

    def _wake_next(self) -> None:
        """Move to the earliest deadline and wake everyone who waits for it."""
        due = self._sleepers[0][0]
        self._move(due)
        while self._sleepers and self._sleepers[0][0] == due:
            _, _, deadline, woken = heapq.heappop(self._sleepers)
            # A deadline that is not a whole microsecond has been reached all the same.
            self._monotonic = max(self._monotonic, deadline)
            woken.set()

    async def _settle(self) -> None:
        """Return once runnable tasks had their turns and nobody holds the clock."""
        while True:
            quiet = 0
            for _ in range(_SETTLE_TURNS):
                await anyio.lowlevel.checkpoint()
                # Nobody else can run: what comes next comes from outside the loop, or with time.
                quiet = 0 if _others_runnable() else quiet + 1
                if quiet == _QUIET_TURNS:
                    break
            if not self._holds:
                return
            self._released = anyio.Event()
            await self._released.wait()

    def _tell_when_released(self) -> None:
        if self._released is not None and not self._holds:
            self._released.set()
            self._released = None


def _others_runnable() -> bool:
    """Whether another task or callback of this loop may run now; True if nobody can tell."""
    loop = Loop.running()
    if loop.is_trio:
        import trio

        told = trio.lowlevel.current_statistics()
        return bool(told.tasks_runnable or told.run_sync_soon_queue_size)
    ready: Collection[object] | None = getattr(asyncio.get_running_loop(), "_ready", None)
    return ready is None or bool(ready)


def _span_microseconds(delta: timedelta | float | None, units: dict[str, float]) -> int:
    if (delta is None) == (not units):
        raise ArgumentTypeError(
            "advance() takes a timedelta, a number of seconds, or keywords such as days=, and only "
            "one of the three"
        )
    if isinstance(delta, timedelta):
        span = delta // _MICROSECOND
    else:
        numbers: dict[str, object] = {**units} if delta is None else {"seconds": delta}
        span = sum(_microseconds(unit, number) for unit, number in numbers.items())
    if span < 0:
        raise ArgumentValueError(
            f"advance() takes a span that is not negative, got {span / 1e6} seconds; "
            "set_wall() moves the wall clock back"
        )
    return span


def _microseconds(unit: str, number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ArgumentTypeError(
            f"advance() takes a timedelta or a number of {unit}, got {type(number).__name__}"
        )
    one = timedelta(**{unit: 1}) // _MICROSECOND
    if not abs(number) < _SPAN_MAX // one:
        raise ArgumentValueError(f"advance() takes a finite span, got {number!r} {unit}")
    return round(number * one)
