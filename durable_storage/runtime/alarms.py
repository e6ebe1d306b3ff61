"""Running alarms when they are due: one sleeping task, a heap, and an index on disk.

The truth about an alarm is in its object's own storage. The heap and the registry's index only
say when to look, and are never later than the truth: `ObjectAlarms.earlier` reaches the operating
system before the object's commit does and stable storage before the object's confirmation does;
`ObjectAlarms.changed` follows the confirmation and may be lost. An entry that is too early costs
one look.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Awaitable, Callable, Collection
from typing import Final, final

import anyio
import anyio.lowlevel

from ..clock import Clock, busy, watch_wall
from ..gates.loop import Loop, Signal
from ..log import ALARMS
from .registry import NamespaceNumber, Registry

__all__ = ["RETRIES_MAX", "AlarmScheduler", "ObjectAlarms", "retry_delay_ms"]

RETRIES_MAX: Final = 6
RUNNING_MAX: Final = 64
# So many entries are read from the index before others get a turn.
GIVE_WAY_EVERY: Final = 1_000
# The wall clock may be set, and the machine may sleep: look at it at least so often.
LOOK_EVERY_SECONDS: Final = 30.0
# An alarm that could not be run for a reason that is not its own.
TRY_AGAIN_MS: Final = 2_000
JITTER: Final = random.Random()
"""What spreads retries; a test seeds it to have the same ones every time."""


def retry_delay_ms(retry: int) -> int:
    """How long to wait before counted retry 1 to 6: 2, 4 … 64 s, and up to 25 % more."""
    return int(1000 * 2**retry * (1 + JITTER.random() / 4))


# Plain tuples, which the garbage collector need not look at: there may be many of them.
Key = tuple[NamespaceNumber, str]


@final
class AlarmScheduler:
    """Runs the alarms of every object of a runtime.

    Args:
        run: runs the alarm of one object if it is due; returns when it should be looked at again,
            in milliseconds since the epoch, or None when the object's own storage has told already.
    """

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        registry: Registry,
        run: Callable[[NamespaceNumber, str], Awaitable[int | None]],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._registry = registry
        self._run = run
        # When to look at each; of those that are running, what was told meanwhile, or -1.
        self._due: dict[Key, int] = {}
        self._running: set[Key] = set()
        # What to look at, the earliest first; entries of which `_due` says something else are old.
        self._heap: list[tuple[int, Key]] = []
        # Namespaces whose class the application has given: only their objects can be loaded.
        self._known: set[NamespaceNumber] = set()
        self._waiting: dict[NamespaceNumber, list[Key]] = {}
        self._sleeping: anyio.CancelScope | None = None
        self._wake = False
        self._ended: Signal | None = None
        self._closing = False
        self._look_every = math.inf if watch_wall(clock, self.wake) else LOOK_EVERY_SECONDS

    # -- the index ------------------------------------------------------------------------

    async def load(self) -> None:
        """Fill the heap from the registry's index, and let others run in between."""
        runnable: list[Key] = []
        for number, record in enumerate(self._registry.alarms_all(), 1):
            key = (record.namespace, record.id)
            self._due[key] = record.due_ms
            if record.namespace in self._known:
                runnable.append(key)
            else:
                self._waiting.setdefault(record.namespace, []).append(key)
            if not number % GIVE_WAY_EVERY:
                await anyio.lowlevel.checkpoint()
        self._push_all(runnable)

    def add_namespace(self, namespace: NamespaceNumber) -> None:
        """The class of a namespace is known from now on: its alarms can run."""
        if namespace not in self._known:
            self._known.add(namespace)
            self._push_all(self._waiting.pop(namespace, ()))
            self.wake()

    def _push_all(self, keys: Collection[Key]) -> None:
        entries = [(self._due[key], key) for key in keys if key in self._due]
        if len(entries) < len(self._heap) // 16:
            for entry in entries:
                heapq.heappush(self._heap, entry)
        else:
            self._heap += entries
            heapq.heapify(self._heap)

    @property
    def complete(self) -> bool:
        """Whether the index is known to have every alarm: the last owner closed it."""
        return self._registry.clean_start

    def due_ms(self, namespace: NamespaceNumber, object_id: str) -> int | None:
        """When an object's alarm is next looked at."""
        return self._due.get((namespace, object_id))

    def _put(self, key: Key, due_ms: int) -> None:
        self._due[key] = due_ms
        if key in self._running:
            return
        namespace = key[0]
        if namespace in self._known:
            heapq.heappush(self._heap, (due_ms, key))
            if self._heap[0][1] == key:
                self.wake()
            if len(self._heap) > 64 and len(self._heap) > 4 * len(self._due):
                self._heap = [
                    (due_ms, key)
                    for key, due_ms in self._due.items()
                    if key not in self._running and key[0] in self._known
                ]
                heapq.heapify(self._heap)
        else:
            self._waiting.setdefault(namespace, []).append(key)

    def set(self, namespace: NamespaceNumber, object_id: str, due_ms: int, *, flush: bool) -> None:
        """Look at the object at ``due_ms``; with ``flush``, a crash of the process keeps that."""
        self._registry.alarm_set(namespace, object_id, due_ms)
        if flush:
            self._registry.flush()
        self._put((namespace, object_id), due_ms)

    def clear(self, namespace: NamespaceNumber, object_id: str) -> None:
        """Look at the object no more."""
        self._registry.alarm_clear(namespace, object_id)
        key = (namespace, object_id)
        if key in self._running:
            self._due[key] = -1
        else:
            self._due.pop(key, None)

    # -- the task -------------------------------------------------------------------------

    def start(self) -> None:
        """Start the one task that sleeps."""
        self._ended = self._loop.signal()
        self._loop.spawn(self._serve)

    def wake(self) -> None:
        """Look at the heap again now."""
        self._wake = True
        if self._sleeping is not None:
            # Not at once: a namespace may be added by code that runs outside the loop.
            self._loop.call_soon(self._sleeping.cancel)

    async def _serve(self) -> None:
        assert self._ended is not None
        try:
            while not self._closing:
                with busy(self._clock):
                    self._wake = False
                    for started in self._start_due():
                        await started.wait()
                if self._closing or self._wake:
                    continue
                seconds = self._look_every
                if self._heap and len(self._running) < RUNNING_MAX:
                    seconds = min(seconds, (self._heap[0][0] - self._clock.time_ms()) / 1000)
                with anyio.CancelScope() as self._sleeping:
                    await self._clock.sleep_until(self._clock.monotonic() + max(seconds, 0))
                self._sleeping = None
        finally:
            self._ended.set()

    def _start_due(self) -> list[Signal]:
        started: list[Signal] = []
        now = self._clock.time_ms()
        while self._heap and len(self._running) < RUNNING_MAX:
            due, key = self._heap[0]
            if due > now:
                break
            heapq.heappop(self._heap)
            if self._due.get(key) != due or key in self._running:
                continue
            self._running.add(key)
            started.append(self._spawn(key))
        return started

    def _spawn(self, key: Key) -> Signal:
        started = self._loop.signal()
        namespace, object_id = key

        async def run() -> None:
            with busy(self._clock):
                started.set()
                self._due[key] = -1
                again: int | None = self._clock.time_ms() + TRY_AGAIN_MS
                try:
                    again = await self._run(namespace, object_id)
                except Exception as exc:
                    ALARMS.warning(
                        "the alarm of object %s could not be run; it is tried again in %d s",
                        object_id, TRY_AGAIN_MS // 1000, exc_info=exc,
                    )  # fmt: skip
                finally:
                    self._finish(key, again)

        self._loop.spawn(run)
        return started

    def _finish(self, key: Key, again: int | None) -> None:
        self._running.discard(key)
        # What the object's storage told meanwhile is newer than the answer.
        told = self._due[key]
        due = told if told >= 0 else again
        if due is None:
            del self._due[key]
            self._registry.alarm_clear(*key)
        else:
            self._put(key, due)
        self.wake()

    async def close(self) -> None:
        """Start no more alarms and return when none is running."""
        self._closing = True
        self.wake()
        if self._ended is not None:
            await self._ended.wait()

    @property
    def running(self) -> int:
        """How many alarms are running now."""
        return len(self._running)


@final
class ObjectAlarms:
    """The `AlarmIndex` of one object."""

    __slots__ = ("_id", "_namespace", "_scheduler")

    def __init__(
        self, scheduler: AlarmScheduler, namespace: NamespaceNumber, object_id: str
    ) -> None:
        self._scheduler = scheduler
        self._namespace = namespace
        self._id = object_id

    @property
    def complete(self) -> bool:
        """See `AlarmIndex.complete`."""
        return self._scheduler.complete

    def earlier(self, due_ms: int) -> None:
        """See `AlarmIndex.earlier`."""
        known = self._scheduler.due_ms(self._namespace, self._id)
        if known is None or known < 0 or due_ms < known:
            self._scheduler.set(self._namespace, self._id, due_ms, flush=True)

    def changed(self, due_ms: int | None) -> None:
        """See `AlarmIndex.changed`."""
        if due_ms is None:
            self._scheduler.clear(self._namespace, self._id)
        elif due_ms != self._scheduler.due_ms(self._namespace, self._id):
            self._scheduler.set(self._namespace, self._id, due_ms, flush=False)
