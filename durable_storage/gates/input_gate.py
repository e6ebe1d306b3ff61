"""The input gate: a tree of scopes that decides whose step may run next.

The root of the tree is the object itself; below it hang the critical sections that are open now.
Invariants:

* A scope has at most one open child. While it has one, its own code does not run.
* ``promised`` is the waiter to whom the next step of the scope already belongs. Nobody else
  starts a step of the scope until that waiter has taken it or passed it on.
* A finished scope hands its child, its promise and its waiters to its parent; whoever still
  refers to it is led there by `Scope.live`.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import TYPE_CHECKING, final

from .loop import Loop, Signal

if TYPE_CHECKING:
    from .event import Frame

__all__ = ["Scope", "Waiter"]


@final
class Waiter:
    """A place in a scope's queue: a task that waits, or an operation to be run in its turn."""

    __slots__ = (
        "caller",
        "critical",
        "error",
        "gone",
        "granted",
        "operation",
        "scope",
        "signal",
        "since",
        "started",
    )

    def __init__(
        self,
        loop: Loop,
        scope: Scope,
        *,
        critical: bool = False,
        started: bool = True,
        operation: Callable[[], None] | None = None,
    ) -> None:
        self.scope: Scope = scope
        self.critical: bool = critical
        self.started: bool = started
        """Whether its event has run any code yet; one that has not may still be refused."""
        self.operation: Callable[[], None] | None = operation
        self.since: float = 0.0
        self.caller: str | None = None
        """The object whose event makes the call, in messages."""
        self.granted: bool = False
        self.gone: bool = False
        self.error: BaseException | None = None
        self.signal: Signal | None = loop.signal() if operation is None else None

    async def wait(self, loop: Loop) -> None:
        """Return once the next step of the scope is this waiter's.

        Cancelling the wait passes the promise on, as if the wait had never been made.

        Raises:
            BaseException: what the scope was failed with.
        """
        try:
            while True:
                assert self.signal is not None
                await self.signal.wait()
                if self.error is not None:
                    raise self.error
                if self.take():
                    return
                self._again(loop)
        except BaseException:
            self.leave()
            raise

    def take(self) -> bool:
        """Use the promise; False when a critical section opened meanwhile: wait again."""
        scope = self.scope.live()
        if scope.promised is self:
            scope.promised = None
        return scope.child is None

    def _again(self, loop: Loop) -> None:
        self.granted = False
        self.signal = loop.signal()
        self.scope = self.scope.live()
        self.scope.queue_of(self).appendleft(self)

    async def wait_shielded(self, loop: Loop) -> BaseException | None:
        """As `wait`, for code that has started: cancellation is held back and returned.

        Its ``finally`` blocks must not run inside somebody's critical section.
        """
        held: BaseException | None = None
        while True:
            while not self.granted and self.error is None:
                assert self.signal is not None
                try:
                    await _shielded(loop, self.signal)
                except BaseException as exc:
                    if isinstance(exc, GeneratorExit):
                        self.leave()
                        raise
                    held = exc
            if self.error is not None or self.take():
                return held
            self._again(loop)

    def leave(self) -> None:
        """Give up the place, and pass the promise on if it was already given."""
        self.gone = True
        scope = self.scope.live()
        if scope.promised is self:
            scope.promised = None
            scope.wake_next()


async def _shielded(loop: Loop, signal: Signal) -> None:
    if loop.is_trio:
        import trio

        with trio.CancelScope(shield=True):
            await signal.wait()
    else:
        await signal.wait()


@final
class Scope:
    """One node of the tree. See the module's invariants.

    Attributes:
        holder: the frame that runs the critical section; None for the root.
    """

    __slots__ = (
        "child",
        "critical_waiters",
        "depth",
        "finished",
        "holder",
        "parent",
        "promised",
        "waiters",
    )

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent: Scope | None = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.child: Scope | None = None
        self.promised: Waiter | None = None
        self.waiters: collections.deque[Waiter] = collections.deque()
        self.critical_waiters: collections.deque[Waiter] = collections.deque()
        self.finished: bool = False
        self.holder: Frame | None = None

    def live(self) -> Scope:
        """This scope, or the nearest one above it that is not finished."""
        scope = self
        while scope.finished:
            assert scope.parent is not None
            scope = scope.parent
        return scope

    @property
    def open(self) -> bool:
        """Whether a step of this scope may run now."""
        return self.child is None and self.promised is None

    def queue_of(self, waiter: Waiter) -> collections.deque[Waiter]:
        """The queue in which ``waiter`` stands."""
        return self.critical_waiters if waiter.critical else self.waiters

    def enter(self) -> Scope:
        """Open a critical section under this scope, which must be open."""
        assert self.child is None, "a critical section opened inside another event's"
        self.child = Scope(self)
        return self.child

    def finish(self) -> None:
        """Close this critical section; what still hangs below it moves up."""
        parent = self.parent
        assert parent is not None
        self.finished = True
        if parent.child is self:
            parent.child = self.child
        if self.child is not None:
            self.child.parent = parent
        for waiter in (*self.waiters, *self.critical_waiters):
            waiter.scope = parent
            parent.queue_of(waiter).append(waiter)
        if self.promised is not None:
            self.promised.scope = parent
            parent.promised = self.promised

    def wake_next(self) -> None:
        """Promise the next step to the first waiter, sections first; run queued operations."""
        while self.child is None and self.promised is None:
            if self.critical_waiters:
                waiter = self.critical_waiters.popleft()
            elif self.waiters:
                waiter = self.waiters.popleft()
            else:
                return
            if waiter.gone:
                continue
            if waiter.operation is not None:
                waiter.operation()
                continue
            waiter.granted = True
            self.promised = waiter
            assert waiter.signal is not None
            waiter.signal.set()

    def forget_gone(self) -> None:
        """Take those out of the queue of events who have given up waiting."""
        staying = [waiter for waiter in self.waiters if not waiter.gone]
        self.waiters.clear()
        self.waiters.extend(staying)

    def fail_all(self, error_of: Callable[[Waiter], BaseException]) -> None:
        """Fail every waiter of this scope and of those below it."""
        scope: Scope | None = self
        while scope is not None:
            failed = [*scope.critical_waiters, *scope.waiters]
            scope.critical_waiters.clear()
            scope.waiters.clear()
            if scope.promised is not None:
                failed.append(scope.promised)
                scope.promised = None
            for waiter in failed:
                waiter.granted = False
                waiter.error = error_of(waiter)
                if waiter.operation is not None:
                    waiter.operation()
                else:
                    assert waiter.signal is not None
                    waiter.signal.set()
            scope = scope.child
