"""One life of an object: from the moment its code may run to the moment it is reset or closed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar, cast, final

from ..errors import ConcurrencyError, ObjectDead, ObjectResetError, OverloadedError
from ..log import OBJECTS
from .deadlines import Deadlines
from .event import EVENT, Frame, drive
from .input_gate import Scope, Waiter
from .loop import Loop
from .output_gate import OutputGate, Start
from .ready import Later

__all__ = ["Backing", "Life", "NotDelivered"]

T = TypeVar("T")

TIMED_OUT = (
    "A call to blockConcurrencyWhile() in a Durable Object waited for too long. The call was "
    "canceled and the Durable Object was reset."
)


class Backing(Protocol):
    """What the gates need of the storage behind an object.

    Attributes:
        withhold: whether answers must wait for what the present turn wrote so far.
    """

    withhold: bool

    def commit(self) -> bool | None:
        """Commit what the turn wrote: None if nothing, else whether answers must wait for it.

        Raises:
            ObjectResetError: the commit failed, and with it the object.
        """

    def discard(self) -> None:
        """Drop everything that is not committed; the life has ended."""

    def hold(self, held: bool) -> None:
        """A critical section opened (True) or the last one closed: every access must ask `Life`."""


def told(error: BaseException) -> str:
    """What an error says; an application's own may fail to."""
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__


def _has_stack(frames: int = 150) -> bool:
    """Whether functions may be nested so much deeper than here."""
    try:
        return not frames or _has_stack(frames - 1)
    except RecursionError:
        return False


class NotDelivered(Exception):  # noqa: N818 - a message between layers
    """The life ended, by nobody's failure, before the event ran: deliver it to the next."""


@final
class Life:
    """One life. See the package's model.

    Args:
        loop: the event loop it runs on.
        name: how messages name the object.
        backing: its storage.
        deadlines: limits the time of critical sections.
        nesting_max: how deep critical sections may nest.

    Attributes:
        broken: why this life has ended, or None while it runs.
        pending: writes were made that no commit holds yet.
        events: events that are under way or wait at the gate.
        background: background tasks that keep the object alive.
    """

    __slots__ = (
        "_ended",
        "_ends_calls",
        "_entering",
        "_monotonic",
        "_queue_max",
        "_queue_seconds",
        "_scheduled",
        "background",
        "backing",
        "broken",
        "calling",
        "deadlines",
        "events",
        "explicit",
        "folding",
        "gate",
        "loop",
        "name",
        "nesting_max",
        "on_broken",
        "pending",
        "root",
        "sending",
        "storage_failed",
        "waiting",
    )

    def __init__(
        self,
        loop: Loop,
        name: str,
        backing: Backing,
        deadlines: Deadlines,
        *,
        confirm: Callable[[], None],
        immediate: bool,
        nesting_max: int,
        queue: tuple[int, float, Callable[[], float]],
        on_broken: Callable[[Life], None],
        on_confirmed: Callable[[], None] | None = None,
        start_confirming: Start | None = None,
    ) -> None:
        self.loop: Loop = loop
        self.name: str = name
        self.backing: Backing = backing
        self.deadlines: Deadlines = deadlines
        self.nesting_max: int = nesting_max
        self._queue_max, self._queue_seconds, self._monotonic = queue
        self.on_broken: Callable[[Life], None] = on_broken
        self.root: Scope = Scope()
        self.broken: BaseException | None = None
        self._ends_calls = False
        self._ended = False
        self.storage_failed: bool = False
        self.pending: bool = False
        self._scheduled = False
        # Events that wait to begin, the oldest first; some of them do not wait any more.
        self._entering: deque[Waiter] = deque()
        # Depth of explicit transactions: while one is open, turns do not commit.
        self.explicit: int = 0
        self.events: int = 0
        self.background: int = 0
        self.waiting: set[Frame] = set()
        self.calling: set[Frame] = set()
        self.sending: set[Frame] = set()
        self.folding: threading.Event | None = None
        self.gate: OutputGate = OutputGate(
            loop,
            confirm,
            self.confirm_failed,
            immediate=immediate,
            on_confirmed=on_confirmed,
            start=start_confirming,
        )

    # -- who may use storage now ----------------------------------------------------------

    def admit(self, operation: str) -> bool:
        """Check that the caller may touch storage now; True when a driven step does.

        Raises:
            ConcurrencyError: another thread, or a child task while a critical section of
                another event is open.
            ObjectDead: the caller belongs to a life that has ended.
            ObjectResetError: this life has ended, and the caller is no event's code.
        """
        blocked = self.admission(operation)
        if blocked is None:
            return True
        if not blocked.open:
            folding = self.folding
            if folding is None:
                raise ConcurrencyError(
                    f"{operation} was called by a child task of {self.name} while a critical "
                    "section or transaction of another event is open; use the awaitable storage "
                    "API, or start the task with ctx.wait_until()"
                )
            # The library itself holds the gate, for milliseconds, to fold the log.
            folding.wait()
        return False

    def admission(self, operation: str) -> Scope | None:
        """None when a driven step of this life is running; else the scope that must be open."""
        loop = self.loop
        if threading.get_ident() != loop.thread_id:
            raise ConcurrencyError(
                f"{operation} was called from another thread; an object's storage belongs to the "
                "thread of its event loop. Return to it first, as anyio.from_thread.run() does"
            )
        frame = loop.current
        if frame is not None and frame.life is self:
            if self.broken is not None:
                raise self.dead_error()
            return None
        frame = EVENT.get()
        if self.broken is not None:
            if frame is not None and frame.life is self and not frame.ended:
                raise self.dead_error()
            raise self.reset_error()
        if frame is not None and frame.life is self:
            return frame.scope
        return self.root

    def later(self, scope: Scope, function: Callable[[bool], T]) -> Later[T]:
        """Queue ``function(False)`` until a step of ``scope`` may run; give its later result."""
        later: Later[T] = Later(self.loop)
        waiter = Waiter(self.loop, scope, operation=lambda: None)

        def run() -> None:
            if waiter.error is not None:
                later.finish(None, waiter.error)
                return
            try:
                later.finish(function(False), None)
            except BaseException as exc:
                later.finish(None, exc)

        waiter.operation = run
        scope.waiters.append(waiter)
        return later

    @property
    def quiet(self) -> bool:
        """Whether nothing of it waits to be committed or confirmed, or ever will."""
        gate = self.gate
        return self.broken is not None or not (self.pending or gate.confirmed < gate.withheld)

    # -- turns ----------------------------------------------------------------------------

    def wrote(self, driven: bool) -> None:
        """Note that something was written which the end of the turn must commit."""
        self.pending = True
        if not driven:
            self.schedule()

    def schedule(self) -> None:
        """Commit when everything that is ready to run on the loop now has run."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self.pending and self.broken is None and not self.explicit:
            self.commit()

    def commit(self) -> None:
        """Commit what is pending now; the life breaks if that fails."""
        self.pending = False
        if not self.loop.thread_id:
            return  # in a forked child, the file is the parent's
        try:
            withhold = self.backing.commit()
        except Exception as exc:
            self.storage_failed = True
            self.break_(exc)
            return
        if withhold is not None:
            self.gate.commit(withhold=withhold)
        else:
            self.gate.skip()

    def end_step(self, frame: Frame) -> None:
        """What every step ends with: commit, start what was left to start, let others run."""
        if self.pending and not self.explicit:
            self.commit()
        if frame.sections is not None:
            sections, frame.sections = frame.sections, None
            if self.broken is None:
                for section in sections:
                    section.start_in_background()
        scope = frame.place
        if scope.waiters or scope.critical_waiters:
            scope.wake_next()

    def _end_event(self, frame: Frame) -> None:
        # As end_step, but the commit waits for the others of this turn: they share it.
        if self.pending and not self.explicit:
            if self.gate.immediate:
                self.commit()
            else:
                self.schedule()
        if frame.sections is not None:
            self.end_step(frame)
        else:
            scope = frame.scope
            if scope.waiters or scope.critical_waiters:
                scope.wake_next()

    # -- events ---------------------------------------------------------------------------

    async def enter(self, up: Frame | None) -> None:
        """Wait for the input gate on behalf of an event that has not run any code yet.

        Raises:
            NotDelivered: the life ended meanwhile; try the next one.
            ObjectResetError: the life ended through a failure that takes the queue along.
            ConcurrencyError: the wait could never end.
        OverloadedError: too many events wait, or one has waited too long.
        """
        if up is not None:
            self._refuse_deadlock(up)
        try:
            self._refuse_overload()
        except OverloadedError:
            # Whoever tries again at once must not keep the queue from growing shorter.
            await self.loop.give_way()
            raise
        waiter = Waiter(self.loop, self.root, started=False)
        waiter.since = self._monotonic()
        waiter.caller = None if up is None else up.life.name
        self.root.waiters.append(waiter)
        self._entering.append(waiter)
        frames: list[Frame] = []
        while up is not None:
            frames.append(up)
            holder = up.place.holder
            if up.delegated and up.inner is not None and holder is not None:
                # It waits inside a section that it has opened around itself.
                frames.append(holder)
            up = up.up
        for frame in frames:
            frame.waiting_for = self
        try:
            await waiter.wait(self.loop)
        finally:
            for frame in frames:
                frame.waiting_for = None

    def _refuse_overload(self) -> None:
        waiters = self.root.waiters
        if len(waiters) >= self._queue_max:
            # Whoever gave up has left its place in the queue to nobody.
            self.root.forget_gone()
        if len(waiters) >= self._queue_max:
            raise OverloadedError(
                f"{self.name} is overloaded: {len(waiters)} events wait for it and "
                f"{self._queue_max} may; the call was not delivered"
            )
        entering = self._entering
        while entering and (entering[0].gone or entering[0].granted):
            entering.popleft()
        if entering:
            age = self._monotonic() - entering[0].since
            if age > self._queue_seconds:
                raise OverloadedError(
                    f"{self.name} is overloaded: an event has waited {age:.0f} s for it and "
                    f"{self._queue_seconds:.0f} s are allowed; the call was not delivered"
                )

    def _refuse_deadlock(self, up: Frame) -> None:
        # Follow who waits for whom: from the critical section that holds us to the gate its
        # holder waits at, and on. Meeting a life whose section we hold ourselves closes a ring.
        held: set[Life] = set()
        frame: Frame | None = up
        while frame is not None:
            if frame.place.parent is not None:
                held.add(frame.life)
            frame = frame.up
        life: Life | None = self
        seen: set[Life] = set()
        while life is not None and life not in seen:
            if life in held:
                raise ConcurrencyError(
                    f"a call from {up.life.name} to {self.name} can never be delivered: "
                    f"{life.name} is inside a critical section that waits for this call; make "
                    "the call outside block_concurrency_while() or transaction()"
                )
            seen.add(life)
            child = life.root.child
            while child is not None and child.child is not None:
                child = child.child
            life = None if child is None or child.holder is None else child.holder.waiting_for

    async def run(self, frame: Frame, coroutine: Coroutine[Any, Any, T]) -> T:
        """Drive one event to its end and withhold its answer.

        Raises:
            ObjectResetError: the life ended before the answer could be given.
        """
        if not self.loop.is_trio:
            return await self.run_here(frame, coroutine)
        import trio

        with trio.CancelScope() as frame.kill_scope:
            return await self.run_here(frame, coroutine)
        raise self.reset_error()

    async def run_here(self, frame: Frame, coroutine: Coroutine[Any, Any, T]) -> T:
        """As `run`, inside the scope through which trio may kill it."""
        return await self.resume(frame, drive(frame, coroutine))

    async def resume(self, frame: Frame, steps: Awaitable[T]) -> T:
        """Await the driven ``steps`` of an event, then withhold its answer."""
        self.events += 1
        self.loop.events += 1
        try:
            try:
                result = await steps
            except BaseException as exc:
                await self.fail(frame, exc)
                raise
            await self.finish(frame)
            return result
        finally:
            self.loop.events -= 1
            self.events -= 1
            if self.loop.on_idle:
                self.tell_idle()

    async def answer(self, frame: Frame) -> None:
        """As `finish`, for an event that was not counted yet: it ended in its first step."""
        self.events += 1
        self.loop.events += 1
        try:
            if self.broken is None:
                self._end_event(frame)
            if self.broken is not None:
                self.end()
                frame.settle()
                raise self.reset_error()
            gate = self.gate
            number = gate.withheld
            if self.pending and self.backing.withhold:
                number = gate.committed + 1
            try:
                while gate.confirmed < number:
                    await gate.signal_of(number).wait()
            except (Exception, ObjectDead):
                if self.broken is None:
                    raise
                error = self.reset_error()
                raise error from error.__cause__
            await self.loop.give_way()
        finally:
            self.loop.events -= 1
            self.events -= 1
            if self.loop.on_idle:
                self.tell_idle()

    async def finish(self, frame: Frame) -> None:
        """End an event that returned; return once its answer may leave.

        Raises:
            ObjectResetError: the life ended first.
        """
        if self.broken is None:
            self._end_event(frame)
        if self.broken is not None:
            self.end()
            frame.settle()
            raise self.reset_error()
        if (self.pending and self.backing.withhold) or self.gate.confirmed < self.gate.withheld:
            await self._withhold()
        await self.loop.give_way()

    async def fail(self, frame: Frame, exc: BaseException) -> None:
        """End an event that raised ``exc``; return once that may leave.

        Raises:
            ObjectResetError: the life ended first.
        """
        alive = self.broken is None
        if alive:
            self._end_event(frame)
        self.end()
        if self.broken is not None and not alive:
            self._raise_reset(frame, exc)
        if not isinstance(exc, Exception):
            return
        try:
            if self.broken is not None:
                raise self.reset_error()
            if (self.pending and self.backing.withhold) or self.gate.confirmed < self.gate.withheld:
                await self._withhold()
            await self.loop.give_way()
        except ObjectResetError as reset:
            if self.gate.failure is not None or not self.storage_failed:
                raise
            # Its own commit was refused: the original runtime lets the event's error stand, and it
            # says no more than that the event failed.
            exc.add_note(str(reset))

    def tell_idle(self) -> None:
        """Tell whoever waits for room that this object may have become idle."""
        if not self.events:
            for callback in tuple(self.loop.on_idle):
                callback()

    def _raise_reset(self, frame: Frame, exc: BaseException) -> None:
        # Whose cancellation is it? Ours becomes the reset; a caller's stays what it is.
        foreign = frame.settle()
        if isinstance(exc, (GeneratorExit, KeyboardInterrupt, SystemExit)):
            raise exc
        rest: BaseException | None = exc
        if isinstance(exc, BaseExceptionGroup):
            # What child tasks of the dead object ended with; only cancellations are left of it.
            group = cast("BaseExceptionGroup[BaseException]", exc)
            rest = group.split((Exception, ObjectDead))[1]
        elif isinstance(exc, (Exception, ObjectDead)):
            rest = None
        if rest is not None and (self.loop.is_trio or foreign or self.broken is exc):
            raise rest
        error = self.reset_error()
        raise error from error.__cause__

    async def _withhold(self) -> None:
        gate = self.gate
        pending = self.pending and self.backing.withhold
        number = gate.committed + 1 if pending else gate.withheld
        try:
            await gate.wait(number)
        except (Exception, ObjectDead):
            if self.broken is None:
                raise
            error = self.reset_error()
            raise error from error.__cause__

    async def wait_confirmed(self) -> None:
        """Return once every write made so far is confirmed.

        Raises:
            ObjectDead: the life ended.
        """
        committed = self.pending and not self.explicit
        if committed:
            self.commit()
        if self.broken is not None:
            raise self.dead_error()
        if self.gate.confirmed < self.gate.committed:
            try:
                await self.gate.wait(self.gate.committed)
            except Exception:
                raise self.dead_error() from None
        elif committed:
            await self.loop.give_way()

    async def outgoing(self, frame: Frame) -> None:
        """Withhold a message of ``frame``'s event until what it could have seen is confirmed."""
        if self.broken is not None:
            raise self.dead_error()
        if self.pending and not self.explicit:
            self.commit()
            if self.broken is not None:
                raise self.dead_error()
        gate = self.gate
        if gate.confirmed < gate.withheld:
            try:
                await gate.wait(gate.withheld)
            except Exception:
                raise self.dead_error() from None

    # -- background work ------------------------------------------------------------------

    def here(self) -> Scope:
        """The scope that code running now in this life works in."""
        frame = self.loop.current
        if frame is not None and frame.life is self:
            return frame.place
        frame = EVENT.get()
        return frame.scope if frame is not None and frame.life is self else self.root

    def place(self) -> Waiter:
        """Take a place in the queue for a branch that is about to start."""
        waiter = Waiter(self.loop, self.here())
        waiter.scope.waiters.append(waiter)
        return waiter

    async def branch(self, place: Waiter, coroutine: Coroutine[Any, Any, T], up: Frame | None) -> T:
        """Drive a child of an event: every step of it is gated, the first one at ``place``."""
        frame = Frame(self, place.scope, up)
        try:
            await place.wait(self.loop)
        except BaseException:
            coroutine.close()
            raise
        frame.scope = place.scope
        try:
            if self.loop.is_trio:
                import trio

                with trio.CancelScope() as frame.kill_scope:
                    return await self._branch(frame, coroutine)
                raise self.dead_error()
            return await self._branch(frame, coroutine)
        finally:
            if self.broken is None:
                self.end_step(frame)

    async def _branch(self, frame: Frame, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            result = await drive(frame, coroutine)
        except BaseException as exc:
            foreign = frame.settle()
            ours = self.broken is not None and not isinstance(exc, (Exception, ObjectDead))
            if ours and not foreign and not self.loop.is_trio:
                raise self.dead_error() from None
            raise
        frame.settle()
        if self.broken is not None:
            raise self.dead_error()
        return result

    def keep(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run ``coroutine`` in the background of this life; its failure is its own affair."""
        place = self.place()
        self.background += 1

        async def run() -> None:
            try:
                await self.branch(place, coroutine, None)
            except ObjectDead:
                pass
            except Exception as exc:
                OBJECTS.error("%s: background work failed", self.name, exc_info=exc)
            finally:
                self.background -= 1
                self.tell_idle()

        self.loop.spawn(run)
        if self.loop.current is None:
            place.scope.wake_next()

    # -- the end --------------------------------------------------------------------------

    def confirm_failed(self, error: BaseException) -> None:
        """End this life, because the disk refused what was committed."""
        reset = ObjectResetError(
            f"{self.name} was reset: its storage could not be made durable ({error}); what it held "
            "after the last confirmed write is unknown to the disk"
        )
        reset.__cause__ = error
        self.storage_failed = True
        self.break_(reset)

    def break_(self, error: BaseException, *, calls: bool = False) -> None:
        """End this life: drop what is not committed, refuse who waits, kill what runs.

        Args:
            error: the reason; a cancellation re-delivers the events that had not started.
            calls: also end code that waits for another object's answer.
        """
        if self.broken is not None:
            return
        self.broken = error
        self._ends_calls = calls
        self.end()

    def end(self) -> None:
        """Do what follows from `broken`, unless it is done.

        Where the application has used up the stack, that is later: half of it would be worse.
        """
        if self._ended or self.broken is None:
            return
        if not _has_stack():
            self.loop.call_soon(self.end)
            return
        error, calls = self.broken, self._ends_calls
        self.pending = False
        self.explicit = 0
        self.backing.discard()
        cancelled = not isinstance(error, (Exception, ObjectDead))

        def refusal(waiter: Waiter) -> BaseException:
            if waiter.started:
                return self.dead_error()
            return NotDelivered() if cancelled else self.reset_error()

        self.gate.drop(self.reset_error())
        self.root.fail_all(refusal)
        self.on_broken(self)
        current = self.loop.current
        doomed = {*self.waiting, *self.sending}
        if calls:
            doomed |= self.calling
        for frame in doomed:
            if frame is not current:
                frame.kill()
        self._ended = True

    def time_out(self) -> None:
        """End this life because its critical section lasts too long; say who waits for whom."""
        message = TIMED_OUT
        section = self.root.child
        while section is not None and section.child is not None:
            section = section.child
        holder = None if section is None else section.holder
        if holder is not None and holder.waiting_for is not None:
            message += f" Code of {self.name} was waiting for a call to {holder.waiting_for.name}."
        callers = sorted({w.caller for w in self.root.waiters if w.caller is not None})
        if callers:
            message += f" Calls from {', '.join(callers)} to {self.name} were waiting for it."
        self.break_(ObjectResetError(message), calls=True)

    def dead_error(self) -> ObjectDead:
        """What code of this life sees of its end."""
        assert self.broken is not None
        return ObjectDead(told(self.broken))

    def reset_error(self) -> ObjectResetError:
        """What callers see of this life's end."""
        broken = self.broken
        assert broken is not None
        error = ObjectResetError(told(broken), retryable=getattr(broken, "retryable", False))
        error.__cause__ = (
            broken.__cause__
            if isinstance(broken, ObjectResetError) and broken.__cause__
            else broken
        )
        return error
