"""Time limits of critical sections: one sleeping task for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import anyio

from ..clock import Clock
from .loop import Loop

__all__ = ["Deadlines"]


@final
class Deadlines:
    """Calls back when something that was started has not ended ``seconds`` later.

    Every entry has the same limit, so the order of arrival is the order of expiry, and both
    `start` and `end` take constant time.
    """

    def __init__(self, loop: Loop, clock: Clock, seconds: float) -> None:
        self._loop = loop
        self._clock = clock
        self._seconds = seconds
        self._entries: dict[object, tuple[float, Callable[[], None]]] = {}
        self._sleeper: anyio.CancelScope | None = None
        self._sleeping = False

    def start(self, key: object, expired: Callable[[], None]) -> None:
        """Call ``expired`` on the loop unless `end` is called for ``key`` in time."""
        self._entries[key] = (self._clock.monotonic() + self._seconds, expired)
        if not self._sleeping:
            self._sleeping = True
            self._loop.spawn(self._sleep)

    def end(self, key: object) -> None:
        """It has ended in time, or did already not."""
        self._entries.pop(key, None)

    async def _sleep(self) -> None:
        try:
            with anyio.CancelScope() as self._sleeper:
                while self._entries:
                    deadline, _ = next(iter(self._entries.values()))
                    await self._clock.sleep_until(deadline)
                    now = self._clock.monotonic()
                    for key, (deadline, expired) in list(self._entries.items()):
                        if deadline > now:
                            break
                        del self._entries[key]
                        expired()
        finally:
            self._sleeping = False

    def close(self) -> None:
        """Forget every entry and end the sleeping task."""
        self._entries.clear()
        if self._sleeper is not None:
            self._sleeper.cancel()
