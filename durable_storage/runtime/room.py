"""How many objects may be open at once, and whose turn it is when there is no place left.

Invariants:

* ``taken`` objects are open, opening or closing; ``promised`` places belong to objects whose
  callers were woken and have not opened them yet. Without nested calls, which may exceed the number
  because waiting while holding a place could never end, the two together are at most ``places``.
* Objects wait in the order in which they were first asked for; all callers of one wait together.
* As many idle objects are being closed as objects wait or are open above the number, if so many are
  idle.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import final

import anyio
import anyio.lowlevel

from ..clock import Clock
from ..errors import OverloadedError
from ..gates.deadlines import Deadlines
from ..gates.loop import Loop, Signal

__all__ = ["Room", "Turns"]

# Closing costs a worker thread each; more at once would only wait for one.
CLOSING_MAX = 16


@final
class _Turn:
    __slots__ = ("callers", "signal")

    def __init__(self, signal: Signal) -> None:
        self.signal = signal
        self.callers = 0


@final
class Turns:
    """Lets objects be opened one in each pass of the event loop, so that a crowd does not hold it.

    They are opened in the order in which they were asked for; all callers of one wait together.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: dict[Hashable, Signal] = {}
        self._granted: Hashable | None = None
        self.taken: bool = False
        """Whether an object was opened in this pass, or others wait."""

    def take(self) -> None:
        """An object is opened now."""
        if not self.taken:
            self.taken = True
            self._loop.call_soon(self._pass)

    async def wait(self, key: Hashable) -> None:
        """Return when it is this object's turn, or would have been."""
        if key == self._granted:
            # Those who waited open it in this pass, and come first.
            await anyio.lowlevel.checkpoint()
            return
        signal = self._waiting.get(key)
        if signal is None:
            signal = self._waiting[key] = self._loop.signal()
        await signal.wait()

    def _pass(self) -> None:
        self._granted = None
        if self._waiting:
            # Whether or not somebody is still there to use it.
            self._granted = next(iter(self._waiting))
            self._waiting.pop(self._granted).set()
            self._loop.call_soon(self._pass)
        else:
            self.taken = False


@final
class Room:
    """The places for open objects.

    Args:
        clock: measures the patience of those who wait.
        places: how many there are.
        seconds: how long anybody waits for one.
        close_one: begins to close an idle object; False when none is idle. `give_back` follows.

    Attributes:
        taken: places in use.
    """

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        places: int,
        seconds: float,
        close_one: Callable[[], bool],
    ) -> None:
        self._seconds = seconds
        self._deadlines = Deadlines(loop, clock, seconds)
        self._loop = loop
        self._places = places
        self._close_one = close_one
        self._waiting: dict[Hashable, _Turn] = {}
        self._promised: set[Hashable] = set()
        self._closing = 0
        self.taken: int = 0

    def take(self, key: Hashable, *, anyway: bool = False) -> bool:
        """Take a place for an object if there is one, or ``anyway``."""
        if key in self._promised:
            self._promised.discard(key)
        elif not anyway and self.taken + len(self._promised) >= self._places:
            return False
        self.taken += 1
        if self.taken > self._places:
            self._loop.on_idle.add(self.make)
            self.make()
        return True

    def give_back(self) -> None:
        """An object is closed: its place is the next one's."""
        self.taken -= 1
        if self._closing:
            self._closing -= 1
        self._grant()

    async def wait(self, key: Hashable) -> None:
        """Return when it may be this object's turn.

        Raises:
            OverloadedError: it was not in time.
        """
        turn = self._waiting.get(key)
        if turn is None:
            turn = self._waiting[key] = _Turn(self._loop.signal())
        turn.callers += 1
        self._loop.on_idle.add(self.make)
        self.make()
        patience = anyio.CancelScope()
        self._deadlines.start(patience, patience.cancel)
        try:
            with patience:
                await turn.signal.wait()
        except BaseException:
            # A turn that came and is not taken passes on.
            self._promised.discard(key)
            raise
        finally:
            self._deadlines.end(patience)
            turn.callers -= 1
            if not turn.callers and self._waiting.get(key) is turn:
                del self._waiting[key]
            self._grant()
        if patience.cancelled_caught and not turn.signal.is_set():
            raise OverloadedError(
                f"{self._places} objects are open and busy, and none was closed within "
                f"{self._seconds:.0f} s; raise max_open_objects"
            )

    def close(self) -> None:
        """Nobody waits any more."""
        self._deadlines.close()

    def make(self) -> None:
        """Begin to close idle objects, if any are, for who waits and what is above the number."""
        wanted = len(self._waiting) + max(0, self.taken - self._places)
        while self._closing < min(wanted, CLOSING_MAX) and self._close_one():
            self._closing += 1

    def _grant(self) -> None:
        while self._waiting and self.taken + len(self._promised) < self._places:
            key = next(iter(self._waiting))
            turn = self._waiting.pop(key)
            self._promised.add(key)
            turn.signal.set()
        if self._waiting or self.taken > self._places:
            self.make()
        else:
            self._loop.on_idle.discard(self.make)
