"""The running event loop, asyncio's or trio's, as the gates need it.

anyio's own primitives cost several microseconds a use; the few operations on an event's way are
therefore taken from the loop directly. Everything else in the library uses anyio.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import queue
import sys
import threading
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast, final

import anyio
import anyio.lowlevel

from ..errors import ConcurrencyError

if TYPE_CHECKING:
    from .event import Frame

__all__ = ["RETURNED", "Loop", "Signal"]

WORKER_THREADS = 4
# A task gives way when it has come this far without having been interrupted: in time, and in events
# or turns, so that what is done in one go is not torn apart because the machine is slow.
GIVE_WAY_AFTER_SECONDS: Final = 0.002
GIVE_WAY_AFTER_EVENTS: Final = 16
# Of the program or of a coroutine, and no failures of the code that they pass through.
_ENDINGS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)

RETURNED: Final = object()
"""What `Loop.first_step` gives for a coroutine that ended in its first step."""

_Job: TypeAlias = "tuple[Loop, Callable[[], object], Callable[[BaseException | None], None]]"


class Signal(Protocol):
    """A one-shot event that any number of tasks may wait for."""

    def set(self) -> Any:
        """Wake everybody who waits, and whoever will."""

    def is_set(self) -> bool:
        """Whether it was set."""
        ...

    def wait(self) -> Awaitable[Any]:
        """Done once it is set."""
        ...


class _Backend(Protocol):
    is_trio: bool

    def signal(self) -> Signal: ...
    @property
    def call_soon(self) -> Callable[[Callable[[], object]], object]: ...
    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None: ...
    def spawn(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None: ...
    def same(self) -> bool: ...


@final
class _AsyncioSignal:
    """As ``asyncio.Event``, whose ``wait`` costs a coroutine and a search of its queue more."""

    __slots__ = ("_is_set", "_new_future", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_set = False
        self._new_future = loop.create_future
        self._waiters: list[asyncio.Future[None]] = []

    def set(self) -> None:
        self._is_set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def is_set(self) -> bool:
        return self._is_set

    def wait(self) -> asyncio.Future[None]:
        waiter = self._new_future()
        if self._is_set:
            waiter.set_result(None)
        else:
            self._waiters.append(waiter)
        return waiter


@final
class _Asyncio:
    is_trio = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self.call_soon: Callable[[Callable[[], object]], object] = self._loop.call_soon

    def signal(self) -> Signal:
        return _AsyncioSignal(self._loop)

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def spawn(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        task = self._loop.create_task(function(), context=contextvars.Context())
        # The loop itself keeps only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    def same(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False


@final
class _Trio:
    is_trio = True

    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()

    def signal(self) -> Signal:
        return self._trio.Event()

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._token.run_sync_soon(callback)

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        try:
            self._token.run_sync_soon(callback)
        except self._trio.RunFinishedError:
            pass

    def spawn(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        async def main() -> None:
            try:
                await function()
            except (self._trio.Cancelled, KeyboardInterrupt):
                raise
            except BaseException:
                # Whoever spawns reports failures itself; an escaping one would end trio.
                pass

        self._trio.lowlevel.spawn_system_task(main, context=contextvars.Context())

    def same(self) -> bool:
        try:
            return self._trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return False


@final
class Loop:
    """One running event loop and the step that now runs on it.

    Attributes:
        current: the frame whose step is running, or None between steps.
        thread_id: the only thread from which objects of this loop may be used; 0 in a forked child.
        confirm_seconds: how long a confirmation takes of late.
        events: how many events are under way on this loop.
        on_idle: called when an object may have become idle; empty unless somebody waits for that.
        first_step: runs the first step of a coroutine and gives what that ended with: `RETURNED`,
            or what the coroutine waits for. In the second case, and after an exception, it is of no
            use to others: `renew` it, and keep the old one for as long as the coroutine.
        returned: the result, if that was `RETURNED`; whoever takes it sets it to None.
    """

    __slots__ = (
        "__weakref__",
        "_backend",
        "_held_events",
        "_held_since",
        "call_soon",
        "call_soon_threadsafe",
        "confirm_seconds",
        "current",
        "events",
        "first_step",
        "is_trio",
        "on_idle",
        "returned",
        "signal",
        "spawn",
        "thread_id",
    )

    def __init__(self) -> None:
        backend = _running_backend()
        self._backend = backend
        # Since when, and for how many events, the loop has been in its present pass.
        self._held_since: float | None = None
        self._held_events = 0
        self.is_trio: bool = backend.is_trio
        self.current: Frame | None = None
        self.thread_id: int = threading.get_ident()
        _LOOPS.add(self)
        self.events: int = 0
        self.confirm_seconds: float = 0.0
        self.on_idle: set[Callable[[], None]] = set()
        self.signal: Callable[[], Signal] = backend.signal
        self.call_soon: Callable[[Callable[[], object]], object] = backend.call_soon
        self.call_soon_threadsafe: Callable[[Callable[[], object]], object] = (
            backend.call_soon_threadsafe
        )
        self.spawn: Callable[[Callable[[], Coroutine[Any, Any, object]]], object] = backend.spawn
        self.returned: Any = None
        self.first_step: Callable[[Coroutine[Any, Any, Any]], object]
        self.renew()

    @staticmethod
    def running() -> Loop:
        """The `Loop` of the event loop that runs in this thread.

        Raises:
            ConcurrencyError: its tasks begin to run before the code that makes them goes on.
        """
        loop = getattr(_LOCAL, "loop", None)
        if loop is None or not loop._backend.same():
            _refuse_eager_tasks()
            loop = _LOCAL.loop = Loop()
        return loop

    def renew(self) -> None:
        """Replace `first_step`."""
        steps = cast("Generator[Any, Any, None]", _first_steps(self))
        steps.send(None)
        self.first_step = steps.send

    async def give_way(self, events: int = 1) -> None:
        """Let other tasks run, if so many ``events`` more have held the loop up for too long.

        What need not wait for the disk does not suspend. A task that does nothing else would keep
        logs from being folded, alarms from running, and everybody else waiting.
        """
        self._held_events += events
        if self._held_since is None:
            self._held_since = perf_counter()
            if not self.is_trio:
                # With trio the next pass would come sooner for it, before tasks that are ready.
                self.call_soon(self._pass)
        elif (
            self._held_events > GIVE_WAY_AFTER_EVENTS
            and perf_counter() - self._held_since > GIVE_WAY_AFTER_SECONDS
        ):
            self._pass()
            await anyio.lowlevel.checkpoint()

    def _pass(self) -> None:
        self._held_since = None
        self._held_events = 0

    def check_thread(self, used: str) -> None:
        """Refuse what another thread does with ``used``.

        Raises:
            ConcurrencyError: the caller is not on the thread of this loop.
        """
        if threading.get_ident() != self.thread_id:
            if not self.thread_id:
                raise ConcurrencyError(
                    f"{used} was used in a forked process; it belongs to the parent. Let the child "
                    "open a runtime of its own, on another directory"
                )
            raise ConcurrencyError(
                f"{used} was used from another thread; it belongs to the thread of its event "
                "loop. Return to that first, as anyio.from_thread.run() does"
            )
        if not self._backend.same():
            raise ConcurrencyError(
                f"{used} was used from another event loop; it belongs to the one that its runtime "
                "was opened in, and ends with that"
            )

    def own_failure(self, exc: BaseException) -> bool:
        """Whether code failed with ``exc`` by itself, and was not cancelled from outside."""
        if isinstance(exc, Exception):
            return True
        if isinstance(exc, asyncio.CancelledError) and not self.is_trio:
            task = asyncio.current_task()
            return task is not None and not task.cancelling()
        if isinstance(exc, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", exc)
            return all(self.own_failure(each) for each in group.exceptions)
        return not isinstance(exc, (*_ENDINGS, anyio.get_cancelled_exc_class()))

    def run_in_thread(
        self, job: Callable[[], object], done: Callable[[BaseException | None], None]
    ) -> None:
        """Run ``job`` in a worker thread, then ``done(error)`` on the loop."""
        _WORKERS.submit(self, job, done)


@types.coroutine
def _first_steps(loop: Loop) -> Generator[Any, Any, None]:
    # coroutine.send() of one that ends makes a StopIteration, and its caller catches it: 0.15 µs,
    # a seventh of a stub's call. Here the result comes by `yield from`, which makes none.
    coroutine: Generator[Any, Any, Any] = yield
    while True:
        loop.returned = yield from coroutine
        coroutine = yield RETURNED


def _refuse_eager_tasks() -> None:
    # The first step of such a task would be taken for one of the event that makes it.
    if sys.version_info < (3, 12):
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return

    async def nothing() -> None:
        pass

    if asyncio.create_task(nothing()).done():
        raise ConcurrencyError(
            "the event loop starts tasks eagerly (asyncio.eager_task_factory): the events of an "
            "object and its child tasks cannot be told apart then. Leave the task factory as it is"
        )


def _running_backend() -> _Backend:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _Trio()
    return _Asyncio()


@final
class _Workers:
    """A few threads for all loops of the process, started when first needed."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._threads = 0

    def submit(
        self, loop: Loop, job: Callable[[], object], done: Callable[[BaseException | None], None]
    ) -> None:
        if self._threads < WORKER_THREADS:
            thread = threading.Thread(target=self._work, name="durable_storage", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
            else:
                self._threads += 1
        self._jobs.put((loop, job, done))

    def _work(self) -> None:
        while True:
            loop, job, done = self._jobs.get()
            error: BaseException | None = None
            try:
                job()
            except BaseException as exc:
                error = exc
            loop.call_soon_threadsafe(functools.partial(done, error))
            # The thread sleeps in get() holding what these names hold.
            del loop, job, done, error


def _forked() -> None:
    # Threads do not survive a fork; their queue must not seem served.
    _WORKERS.reset()
    _LOCAL.loop = None
    for loop in list(_LOOPS):
        loop.thread_id = 0


_LOCAL = threading.local()
_WORKERS = _Workers()
_LOOPS: weakref.WeakSet[Loop] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
