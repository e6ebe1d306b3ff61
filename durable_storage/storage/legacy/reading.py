"""Operations that really wait for the store: what they return."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast, final

from ...errors import ObjectDead
from ...gates.critical import CriticalSection
from ...gates.life import Life
from ...gates.loop import Signal
from ...gates.ready import Eager, Later

__all__ = ["Postponed", "Queued", "Reading"]

T = TypeVar("T")


@final
class Reading(Generic[T]):
    """Work on the store that was started by the call; await it for its result, or drop it.

    The work has a task of its own: whoever waits may be cancelled, and leaves the store alone.

    Args:
        life: the life on whose behalf it waits.
        work: makes the coroutine that does it.
        failed: called with what it failed with.
        locked: while code awaits it, no other event's step runs in the object.

    Attributes:
        ended: set when the store has answered or failed.
    """

    __slots__ = ("_error", "_life", "_locked", "_value", "ended")

    def __init__(
        self,
        life: Life,
        work: Callable[[], Coroutine[Any, Any, T]],
        failed: Callable[[Exception], None],
        *,
        locked: bool,
    ) -> None:
        self._life = life
        self._locked = locked
        self._value: T | None = None
        self._error: BaseException | None = None
        self.ended: Signal = life.loop.signal()

        async def run() -> None:
            try:
                self._value = await work()
            except Exception as exc:
                self._error = ObjectDead(str(exc))
                failed(exc)
            except BaseException as exc:
                self._error = ObjectDead("the event loop ended")
                raise exc
            finally:
                self.ended.set()

        life.loop.spawn(run)

    def __await__(self) -> Generator[Any, Any, T]:
        if not self.ended.is_set():
            if self._locked:
                yield from CriticalSection(
                    self._life, self._wait, resets=False, limited=False
                ).__await__()
            else:
                yield from self._wait().__await__()
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    async def _wait(self) -> None:
        await self.ended.wait()
        if self._life.broken is not None:
            raise self._life.dead_error()


@final
class Postponed(Generic[T]):
    """Something that is done only if it is awaited, and then each time.

    A read of a child task is: between its call and its wait other steps may run, so what the call
    could have read is stale.

    Args:
        life: the life in which it is done.
        start: begins it, and gives what to await.
        locked: it is done in a critical section, so that what follows from it comes at once.
    """

    __slots__ = ("_life", "_locked", "_start")

    def __init__(self, life: Life, start: Callable[[], Awaitable[T]], *, locked: bool) -> None:
        self._life = life
        self._start = start
        self._locked = locked

    def __await__(self) -> Generator[Any, Any, T]:
        if self._locked:
            section = CriticalSection(self._life, self._body, resets=False, limited=False)
            return section.__await__()
        return self._body().__await__()

    async def _body(self) -> T:
        result = await self._start()
        if self._life.broken is not None:
            raise self._life.dead_error()
        return result


@final
class Queued(Generic[T]):
    """An operation that waits its turn behind a closed gate, and may then wait for the store."""

    __slots__ = ("_later",)

    def __init__(self, later: Later[Eager[T]]) -> None:
        self._later = later

    def __await__(self) -> Generator[Any, Any, T]:
        operation = yield from self._later.__await__()
        return (yield from operation.__await__())
