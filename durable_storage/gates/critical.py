"""Critical sections: code during which no other event's step runs in the object."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast, final

from ..errors import ConcurrencyError, ObjectDead
from .event import EVENT, Frame, drive, inherited
from .input_gate import Scope, Waiter
from .life import Life
from .loop import Signal

__all__ = ["CriticalSection"]

T = TypeVar("T")


def check_depth(life: Life, scope: Scope) -> None:
    """Refuse one more critical section below ``scope`` when there are too many already.

    Raises:
        ConcurrencyError: they nest too deeply.
    """
    if scope.depth >= life.nesting_max:
        raise ConcurrencyError(
            f"critical sections are nested too deeply: at most {life.nesting_max} levels of "
            "block_concurrency_while() and transaction()"
        )


def leave_section(life: Life, section: Scope) -> None:
    """Close ``section``; leaving it ends a turn, as entering it did."""
    if life.broken is None and life.pending and not life.explicit:
        life.commit()
    section.finish()
    if life.root.child is None and life.broken is None:
        life.backing.hold(False)


@final
class CriticalSection(Generic[T]):
    """A critical section that was asked for; await it for its result, or drop it.

    Its coroutine is made only when it runs, so dropping it warns of nothing: a dropped one runs in
    the background from the end of the step that made it.

    Args:
        life: the life whose other events it holds back.
        body: makes the coroutine to run inside.
        resets: whether a failure of the body resets the object.
        limited: whether it may last only so long and nest only so deep, as an application's own do;
            a wait of the library's is not.
    """

    __slots__ = (
        "_body",
        "_done",
        "_error",
        "_life",
        "_limited",
        "_resets",
        "_scope",
        "_signal",
        "_started",
        "_value",
    )

    def __init__(
        self,
        life: Life,
        body: Callable[[], Coroutine[Any, Any, T]],
        *,
        resets: bool,
        limited: bool = True,
    ) -> None:
        life.admission("block_concurrency_while()" if resets else "transaction()")
        self._life = life
        self._body = body
        self._resets = resets
        self._limited = limited
        self._started = False
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._signal: Signal | None = None
        self._scope = life.here()
        frame = life.loop.current
        if frame is not None and frame.life is life:
            if frame.sections is None:
                frame.sections = [self]
            else:
                frame.sections.append(self)
        elif inherited() is None:
            life.loop.call_soon(self._start_if_dropped)

    def _start_if_dropped(self) -> None:
        if not self._started and self._life.broken is None:
            self.start_in_background()
            self._scope.live().wake_next()

    def __await__(self) -> Generator[Any, Any, T]:
        if self._started:
            return self._join().__await__()
        self._started = True
        frame = self._life.loop.current
        if frame is not None and frame.sections is not None and self in frame.sections:
            frame.sections.remove(self)
        return self._run_awaited().__await__()

    async def _run_awaited(self) -> T:
        try:
            self._value = await self._run(None)
        except BaseException as exc:
            self._error = exc
            raise
        finally:
            self._end()
        return self._value

    def start_in_background(self) -> None:
        """Queue for the gate and run without being awaited."""
        self._started = True
        life = self._life
        waiter = Waiter(life.loop, self._scope.live(), critical=True)
        waiter.scope.critical_waiters.append(waiter)
        life.background += 1

        async def run() -> None:
            try:
                self._value = await self._run(waiter)
            except BaseException as exc:
                self._error = exc
                if not isinstance(exc, (Exception, ObjectDead)):
                    raise
            finally:
                life.background -= 1
                self._end()
                life.tell_idle()

        life.loop.spawn(run)

    def _end(self) -> None:
        self._done = True
        if self._signal is not None:
            self._signal.set()

    async def _join(self) -> T:
        if not self._done:
            if self._signal is None:
                self._signal = self._life.loop.signal()
            await self._signal.wait()
        error = self._error
        if error is None:
            return cast("T", self._value)
        if isinstance(error, (Exception, ObjectDead)):
            raise error
        # A cancellation belongs to the task that it was meant for.
        if self._life.broken is not None:
            raise self._life.dead_error()
        raise ConcurrencyError("the task that ran this critical section was cancelled") from error

    async def _run(self, waiter: Waiter | None) -> T:
        life = self._life
        loop = life.loop
        if life.broken is not None:
            raise life.dead_error()
        if self._limited:
            check_depth(life, self._scope.live())
        outer = loop.current if loop.current is not None and loop.current.life is life else None
        if waiter is not None:
            await waiter.wait(loop)
            scope = waiter.scope.live()
        else:
            scope = await self._enter(outer)
        section = scope.enter()
        frame = section.holder = Frame(life, section, outer or loop.current)
        life.backing.hold(True)
        if outer is not None:
            outer.suspended()
            outer.delegated += 1
            frame.kill_scope = outer.kill_scope
        if self._limited:
            life.deadlines.start(section, self._expired)
        failure: BaseException | None = None
        result: T | None = None
        try:
            result = await self._drive(frame, owns_task=outer is None)
        except BaseException as exc:
            failure = exc
        finally:
            life.deadlines.end(section)
            if outer is not None:
                outer.delegated -= 1
        frame.settle()
        if failure is not None and self._resets:
            life.break_(failure)
        leave_section(life, section)
        if outer is None:
            if self._limited:
                section.live().wake_next()
            else:
                # What the child task does at once with what it waited for comes first.
                loop.call_soon(lambda: section.live().wake_next())
        try:
            if life.broken is not None:
                if (
                    failure is not None
                    and not isinstance(failure, (Exception, ObjectDead))
                    and (failure is life.broken or loop.is_trio)
                ):
                    raise failure
                raise life.dead_error() from failure
            if failure is not None:
                raise failure
            return cast("T", result)
        finally:
            del failure

    async def _enter(self, outer: Frame | None) -> Scope:
        life = self._life
        if outer is not None:
            # Entering ends the turn; the step goes on inside.
            if self._limited:
                await life.loop.give_way()
            if life.pending and not life.explicit:
                life.commit()
            if life.broken is not None:
                raise life.dead_error()
            return self._scope.live()
        scope = self._scope.live()
        if not scope.open:
            waiter = Waiter(life.loop, scope, critical=True)
            scope.critical_waiters.append(waiter)
            await waiter.wait(life.loop)
            scope = waiter.scope.live()
        if life.pending and not life.explicit:
            life.commit()
            if life.broken is not None:
                raise life.dead_error()
        return scope

    async def _drive(self, frame: Frame, *, owns_task: bool) -> T:
        life = self._life
        if not (owns_task and life.loop.is_trio):
            return await drive(frame, self._body())
        import trio

        with trio.CancelScope() as frame.kill_scope:
            return await drive(frame, self._body())
        raise life.dead_error()

    def _expired(self) -> None:
        self._life.time_out()


@final
class OpenSection:
    """A critical section around part of the code that opens it: ``enter``, then ``leave``.

    The opening frame works inside the section meanwhile. Child tasks that it started before keep
    the scope they inherited and wait; those it starts inside belong to the section.
    """

    __slots__ = ("_frame", "_inside", "_life", "_outside", "_section")

    def __init__(self, life: Life) -> None:
        self._life = life
        self._frame: Frame | None = None
        self._inside: Frame | None = None
        self._outside: Frame | None = None
        self._section: Scope | None = None

    async def enter(self) -> None:
        """Wait for the gate and open the section.

        Raises:
            ConcurrencyError: nested too deeply.
            ObjectDead: the object is dead.
            ObjectResetError: it is dead, and the caller is no event's code.
        """
        life = self._life
        loop = life.loop
        life.admission("transaction()")
        current = loop.current
        frame = current if current is not None and current.life is life else None
        scope = life.here().live()
        check_depth(life, scope)
        if frame is None and not scope.open:
            waiter = Waiter(loop, scope, critical=True)
            scope.critical_waiters.append(waiter)
            await waiter.wait(loop)
            scope = waiter.scope.live()
        if frame is not None:
            await loop.give_way()
        if life.pending and not life.explicit:
            life.commit()
        if life.broken is not None:
            raise life.dead_error()
        section = self._section = scope.live().enter()
        self._frame = frame
        self._inside = section.holder = Frame(life, section, frame)
        if frame is not None:
            frame.inner = section
        self._outside = EVENT.get()
        EVENT.set(self._inside)
        life.backing.hold(True)
        life.deadlines.start(section, self._expired)

    def _expired(self) -> None:
        self._life.time_out()

    def leave(self) -> None:
        """Close the section and let others run."""
        section = self._section
        assert section is not None
        life = self._life
        life.deadlines.end(section)
        if EVENT.get() is self._inside:
            EVENT.set(self._outside)
        leave_section(life, section)
        if self._frame is None:
            section.live().wake_next()
