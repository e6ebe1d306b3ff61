"""The output gate: answers leave once the disk holds what they could have seen.

Commits are numbered. ``committed`` is the newest; ``confirmed`` the newest that the disk is known
to hold; ``withheld`` the newest that an answer must wait for (one whose writes were all
``allow_unconfirmed`` raises the first and not the last). One confirmation serves every commit made
before it began.

A failed confirmation is final: the gate stays broken and is never retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias, final

from .loop import Loop, Signal

__all__ = ["OutputGate", "Start"]

Start: TypeAlias = "Callable[[Callable[[BaseException | None], None]], None]"

# A confirmation on the loop's own thread holds everybody up for as long as the disk takes.
INLINE_MAX_SECONDS = 0.001
# Without confirmations, look at the log's size once in so many commits.
IMMEDIATE_LOOK = 64


@final
class OutputGate:
    """The output gate of one open file.

    Args:
        loop: the loop on which it is used.
        confirm: makes every commit made so far durable; blocks; may run in a worker thread.
        on_failure: called once, on the loop, when ``confirm`` failed.
        immediate: commits count as confirmed at once (``durability="os"``).
        on_confirmed: called on the loop after each successful confirmation, or now and then when
            there are none.
        start: instead of ``confirm``: starts to make every commit made so far durable and calls
            what it is given, on the loop, with the failure or None, but not before it returns.
    """

    __slots__ = (
        "_confirm",
        "_loop",
        "_next",
        "_on_confirmed",
        "_on_failure",
        "_running",
        "_signal",
        "_start_confirming",
        "_target",
        "committed",
        "confirmed",
        "dropped",
        "failure",
        "immediate",
        "withheld",
    )

    def __init__(
        self,
        loop: Loop,
        confirm: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        *,
        immediate: bool,
        on_confirmed: Callable[[], None] | None = None,
        start: Start | None = None,
    ) -> None:
        self._on_confirmed = on_confirmed
        self._start_confirming = start
        self._loop = loop
        self._confirm = confirm
        self._on_failure = on_failure
        self.immediate: bool = immediate
        self.committed: int = 0
        self.confirmed: int = 0
        self.withheld: int = 0
        self.failure: BaseException | None = None
        self.dropped: BaseException | None = None
        self._running = False
        self._target = 0
        self._signal: Signal | None = None
        self._next: Signal | None = None

    def commit(self, *, withhold: bool = True) -> None:
        """Note one more commit, and see to its confirmation."""
        self.committed += 1
        if withhold:
            self.withheld = self.committed
        if self.immediate:
            self.confirmed = self.committed
            if self._next is not None:
                # An answer that was to leave while something was still pending.
                signal, self._next = self._next, None
                signal.set()
            if not self.committed % IMMEDIATE_LOOK and self._on_confirmed is not None:
                self._on_confirmed()
        elif not self._running:
            self._start()

    def skip(self) -> None:
        """The commit that answers may wait for changed nothing: there is nothing to confirm."""
        none_under_way = self.confirmed == self.committed
        self.committed += 1
        if none_under_way:
            self.confirmed = self.committed
            signal, self._next = self._next, None
            if signal is not None:
                signal.set()
        elif self._next is None and self._target == self.committed - 1:
            # What is under way covers it, and wakes who may have begun to wait for it before.
            self._target = self.committed
        # Else one more confirmation follows, and releases them all.

    def _start(self) -> None:
        self._target = self.committed
        self._running = True
        self._signal, self._next = self._next, None
        loop = self._loop
        if self._start_confirming is not None:
            self._start_confirming(self._finish)
        elif loop.events <= 1 and self.confirmed and loop.confirm_seconds < INLINE_MAX_SECONDS:
            # Nobody else would be held up, and a thread costs as much as a fast disk. The first
            # time, files and folders may have to be made durable too: that is a thread's work.
            error: BaseException | None = None
            try:
                self._confirm_timed()
            except Exception as exc:
                error = exc
            self._finish(error)
        else:
            self._loop.run_in_thread(self._confirm_timed, self._finish)

    def _confirm_timed(self) -> None:
        started = time.perf_counter()
        self._confirm()
        seconds = time.perf_counter() - started
        self._loop.confirm_seconds = (self._loop.confirm_seconds * 3 + seconds) / 4

    def _finish(self, error: BaseException | None) -> None:
        self._running = False
        signal, self._signal = self._signal, None
        if error is None:
            self.confirmed = self._target
            if self._on_confirmed is not None:
                self._on_confirmed()
            if self.confirmed < self.committed:
                self._start()
        elif self.failure is None:
            self.failure = error
            self.drop(error)
            self._on_failure(error)
        if signal is not None:
            signal.set()

    def drop(self, error: BaseException) -> None:
        """Refuse what was not committed: only commits made so far may still be waited for."""
        if self.failure is None and self.dropped is None:
            self.dropped = error
        signal, self._next = self._next, None
        if signal is not None:
            signal.set()

    async def wait(self, number: int) -> None:
        """Return once commit ``number`` is confirmed.

        Cancelling the wait undoes nothing: the commit stands.

        Raises:
            BaseException: what the confirmation failed with.
        """
        while self.confirmed < number:
            await self.signal_of(number).wait()

    def signal_of(self, number: int) -> Signal:
        """What is set when commit ``number``, which is not confirmed yet, may be."""
        if self.failure is not None:
            raise self.failure
        if self.dropped is not None and number > self.committed:
            raise self.dropped
        if self._running and self._target >= number:
            if self._signal is None:
                self._signal = self._loop.signal()
            return self._signal
        if self._next is None:
            self._next = self._loop.signal()
        return self._next
