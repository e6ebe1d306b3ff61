"""The clock behind which all waiting happens, so that tests can move time by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, final, runtime_checkable

import anyio
import anyio.lowlevel

__all__ = ["Clock", "SystemClock", "busy", "watch_wall"]


@runtime_checkable
class Clock(Protocol):
    """What the runtime knows of time.

    The wall clock may jump in either direction; the monotonic clock never goes back. Waiting
    is always for the monotonic clock.
    """

    def time_ms(self) -> int:
        """Return the wall-clock time in milliseconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never less than the time before."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Return once ``monotonic()`` has reached ``deadline``; always passes a checkpoint."""
        ...


@runtime_checkable
class _HoldableClock(Clock, Protocol):
    def busy(self) -> AbstractContextManager[None]: ...


def busy(clock: Clock) -> AbstractContextManager[None]:
    """Return a context in which a clock moved by hand does not move on.

    Background work that nobody awaits, such as running an alarm, is done inside it. For a
    clock that has no ``busy()`` of its own the context does nothing.
    """
    return clock.busy() if isinstance(clock, _HoldableClock) else nullcontext()


@runtime_checkable
class _WatchableClock(Clock, Protocol):
    def watch_wall(self, changed: Callable[[], None]) -> None: ...


def watch_wall(clock: Clock, changed: Callable[[], None]) -> bool:
    """Have ``changed`` called when the wall clock jumps; False if this clock cannot tell.

    Of a clock that can, the wall clock moves with the monotonic one otherwise.
    """
    if isinstance(clock, _WatchableClock):
        clock.watch_wall(changed)
        return True
    return False


@final
class SystemClock:
    """The clock of the machine."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "SystemClock()"

    def time_ms(self) -> int:
        """Return the wall-clock time in milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return the system's monotonic clock in seconds."""
        return time.monotonic()

    async def sleep_until(self, deadline: float) -> None:
        """Return once ``monotonic()`` has reached ``deadline``; ``inf`` waits for cancellation."""
        if deadline == math.inf:
            await anyio.sleep_forever()
        remaining_seconds = deadline - time.monotonic()
        if remaining_seconds <= 0:
            await anyio.lowlevel.checkpoint()
        # An event loop may round its timers and wake a little early.
        while remaining_seconds > 0:
            await anyio.sleep(remaining_seconds)
            remaining_seconds = deadline - time.monotonic()
