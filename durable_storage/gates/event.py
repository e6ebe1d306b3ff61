"""Events: driving a coroutine step by step through its object's input gate."""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

from .input_gate import Scope, Waiter

if TYPE_CHECKING:
    from .critical import CriticalSection
    from .life import Life

__all__ = ["EVENT", "Frame", "drive", "inherited"]

T = TypeVar("T")

# A killed coroutine that awaits again is killed again, this many times.
KILLS_MAX = 10

UNSTARTED: Any = object()


@final
class Frame:
    """One coroutine that the gates drive: an event, a critical section's body, background work.

    Attributes:
        life: the life of the object it belongs to.
        up: the frame whose step made this one, across objects.
        ended: the event ended in its first step, and its caller's context still names it: taking it
            out of there costs as much as all the rest of a call.
        delegated: above zero while a frame further in is driven in its stead.
        inner: the innermost section that its own code has opened around itself.
        sections: critical sections that its step has created and not awaited.
        waiting_for: the life at whose gate a call made by this frame is waiting.
    """

    # The rest has its defaults in the class: most events end in their first step and set none.
    __slots__ = ("__dict__", "base", "ended", "life", "sections", "up")

    delegated = 0
    inner: Scope | None = None
    waiting_for: Life | None = None
    kills: int = 0
    kill_scope: Any = None
    _task: asyncio.Task[Any] | None = None
    _cancelling = 0

    def __init__(self, life: Life, scope: Scope, up: Frame | None) -> None:
        self.life: Life = life
        self.base: Scope = scope
        self.up: Frame | None = up
        self.sections: list[CriticalSection[Any]] | None = None
        self.ended: bool = False

    @property
    def scope(self) -> Scope:
        """The scope it was made in, or the nearest one above that is not finished."""
        scope = self.base
        if scope.finished:
            scope = self.base = scope.live()
        return scope

    @scope.setter
    def scope(self, scope: Scope) -> None:
        self.base = scope

    @property
    def place(self) -> Scope:
        """The scope in which its own steps run: `scope`, or a section it has opened itself."""
        inner = self.inner
        if inner is None:
            return self.scope
        if inner.finished:
            # A section ended: the code is back in the one around it, or in none of its own.
            inner = inner.live()
            self.inner = None if inner is self.scope else inner
        return inner

    def suspended(self) -> None:
        """Note, at a suspension, which task must be cancelled to end this frame."""
        if self._task is None and not self.life.loop.is_trio:
            task = asyncio.current_task()
            assert task is not None
            self._task = task
            self._cancelling = task.cancelling()

    def kill(self) -> None:
        """End the frame's coroutine where it waits; its object is dead."""
        self.kills += 1
        if self.kill_scope is not None:
            self.kill_scope.cancel()
        elif self._task is not None:
            self._task.cancel("the object was reset")

    def settle(self) -> bool:
        """Take back our own cancellations; True when somebody else's is pending too."""
        task = self._task
        if task is None or not self.kills:
            return False
        for _ in range(self.kills):
            if task.cancelling():
                task.uncancel()
        self.kills = 0
        return task.cancelling() > self._cancelling


EVENT: contextvars.ContextVar[Frame | None] = contextvars.ContextVar(
    "durable_storage_event", default=None
)
"""The frame of the event that a task works for; child tasks inherit it. It may have ended."""


def inherited() -> Frame | None:
    """The frame of the event that the calling task works for, unless that has ended."""
    frame = EVENT.get()
    return None if frame is None or frame.ended else frame


@types.coroutine
def drive(
    frame: Frame, coroutine: Coroutine[Any, Any, T], yielded: Any = UNSTARTED
) -> Generator[Any, Any, T]:
    """Run ``coroutine`` in the caller's task, each step only when its scope may run.

    A step that really suspends ends: what it wrote is committed and others may run. Before the
    next one the gate is asked again, so that a resumed wait never lands in somebody's critical
    section.

    Args:
        frame: the frame whose code it is.
        coroutine: the code.
        yielded: what its first step ended with, if that has been run already: from outside every
            event, and with `EVENT` left as the step left it, for sections inside it have set it.
    """
    life = frame.life
    loop = life.loop
    outside: Frame | None = None
    if yielded is UNSTARTED:
        outside = EVENT.get()
        EVENT.set(frame)
    value: Any = None
    error: BaseException | None = None
    closing = False
    try:
        while True:
            if yielded is UNSTARTED:
                outer = loop.current
                loop.current = frame
                try:
                    if error is None:
                        yielded = coroutine.send(value)
                    else:
                        thrown, error = error, None
                        try:
                            yielded = coroutine.throw(thrown)
                        finally:
                            del thrown
                except StopIteration as stop:
                    return cast("T", stop.value)
                finally:
                    loop.current = outer
                    value = None
            if life.broken is None:
                life.end_step(frame)
            inner = frame.delegated
            if not inner:
                frame.suspended()
                life.waiting.add(frame)
                if life.broken is not None and frame.kills < KILLS_MAX:
                    frame.kill()
            try:
                given, yielded = yielded, UNSTARTED
                value = yield given
            except GeneratorExit:
                closing = True
                coroutine.close()
                raise
            except BaseException as exc:
                error = exc
            finally:
                life.waiting.discard(frame)
            if inner:
                continue
            if life.broken is None and not frame.place.open:
                held = yield from _gate(frame).__await__()
                if held is not None and error is None and life.broken is None:
                    error = held
                del held
            if life.broken is not None and error is None:
                if loop.is_trio:
                    # Some of trio's waits expect no exception but their own: the cancelled
                    # scope ends the coroutine at its next checkpoint.
                    frame.kill()
                else:
                    error = asyncio.CancelledError("the object was reset")
    finally:
        if not closing:
            # Not reset(token): a coroutine closed by the collector ends in another context.
            EVENT.set(outside)
        del error


async def _gate(frame: Frame) -> BaseException | None:
    loop = frame.life.loop
    waiter = Waiter(loop, frame.place)
    waiter.scope.waiters.append(waiter)
    return await waiter.wait_shielded(loop)
