"""Finding races: one test, run under many orders of the same tasks.

The model. A seed decides, at every point where the library could let somebody else run, how many
turns the event loop is given before the code goes on. The points are:

* before a call is delivered to an object;
* after every wait of an object's event that really suspended it;
* after every storage operation awaited by a *child task* of an event (``asyncio.gather``, a task
  group): Cloudflare may switch between such tasks there, although this library does not.

Invariant: only what the gates allow is made to happen. While a child task stands at a storage
operation, its siblings may run, and no step of another event, as behind Cloudflare's input gate.
"""

from __future__ import annotations

import functools
import inspect
import os
import random
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast, final, overload

import anyio
import anyio.lowlevel

from ..errors import ArgumentTypeError, ArgumentValueError
from ..gates import ready
from ..gates.event import EVENT, Frame
from ..gates.input_gate import Scope, Waiter
from ..gates.life import Life
from ..gates.loop import Loop
from ..history import History
from ..runtime import alarms, namespace
from ..runtime.runtime import Runtime
from .clock import ManualClock
from .places import temporary_directory

__all__ = ["find_races", "shuffled"]

P = ParamSpec("P")
T = TypeVar("T")

SEEDS: Final = 100
TURNS_MAX: Final = 3
SETTLE_TURNS: Final = 64
WAKING_TURNS: Final = 4
# The number is no more than what a failure prints.
SEED_VARIABLE: Final = "DURABLE_STORAGE_SEED"
START: Final = datetime(2026, 1, 1, tzinfo=UTC)

RaceTest = Callable[Concatenate[Runtime, P], Awaitable[None]]
Decorated = Callable[P, Coroutine[Any, Any, None]]


@overload
def find_races(test: RaceTest[P], /) -> Decorated[P]: ...
@overload
def find_races(
    *, seeds: int = SEEDS, seed: int | None = None, **options: Any
) -> Callable[[RaceTest[P]], Decorated[P]]: ...
def find_races(
    test: Callable[..., Any] | None = None,
    /,
    *,
    seeds: int = SEEDS,
    seed: int | None = None,
    **options: Any,
) -> Any:
    """Run an async test under many seeds, each with a fresh runtime as its first argument.

    ``@find_races`` or ``@find_races(seeds=500)``. A failure names the seed; ``seed=`` it, or the
    environment variable ``DURABLE_STORAGE_SEED``, runs that order alone.

    Args:
        test: the test; its further parameters stay pytest's fixtures.
        seeds: how many orders are tried: 0, 1, …
        seed: try this one only.
        options: passed to `Runtime`; by default it has a `ManualClock`, no history, and
            ``durability="os"``, so that no thread disturbs the order.
    """
    if test is None:
        return functools.partial(_decorate, seeds=seeds, seed=seed, options=options)
    return _decorate(test, seeds=seeds, seed=seed, options=options)


def _decorate(
    test: Callable[..., Awaitable[None]],
    *,
    seeds: int,
    seed: int | None,
    options: dict[str, Any],
) -> Callable[..., Coroutine[Any, Any, None]]:
    if not inspect.iscoroutinefunction(test):
        raise ArgumentTypeError(f"find_races() takes an async function, got {test!r}")
    for name, number in (("seeds", seeds), ("seed", seed)):
        if isinstance(number, bool) or not isinstance(number, (int, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(f"{name} is an int, got {type(number).__name__}")
    if seeds < 1:
        raise ArgumentValueError(f"find_races() takes at least one seed, got seeds={seeds}")

    @functools.wraps(test)
    async def run(*arguments: Any, **fixtures: Any) -> None:
        for each in _chosen(seeds, seed):
            try:
                async with shuffled(each, **options) as runtime:
                    await test(runtime, *arguments, **fixtures)
            except Exception as exc:
                hint = (
                    f"found with seed {each}: replay it with @find_races(seed={each}) or "
                    f"{SEED_VARIABLE}={each}"
                )
                print(hint)
                exc.add_note(hint)
                raise

    signature = inspect.signature(test)
    parameters = list(signature.parameters.values())
    if not parameters:
        raise ArgumentTypeError("the test takes a Runtime as its first parameter")
    cast("Any", run).__signature__ = signature.replace(parameters=parameters[1:])
    del cast("Any", run).__wrapped__
    return run


def _chosen(seeds: int, seed: int | None) -> range:
    given = os.environ.get(SEED_VARIABLE)
    if given:
        try:
            seed = int(given)
        except ValueError:
            raise ArgumentValueError(f"{SEED_VARIABLE} is a number, got {given!r}") from None
    return range(seeds) if seed is None else range(seed, seed + 1)


@asynccontextmanager
async def shuffled(seed: int, **options: Any) -> AsyncGenerator[Runtime]:
    """A runtime whose tasks run in the order that ``seed`` decides, for the ``async with`` block.

    The building block of `find_races`. One at a time in a process.
    """
    settings: dict[str, Any] = {
        "durability": "os",
        "clock": ManualClock(START),
        "history": History(enabled=False),
        **options,
    }
    # What is still ending of an earlier runtime must not change the order.
    for _ in range(SETTLE_TURNS):
        await anyio.lowlevel.checkpoint()
    before = random.getstate()
    random.seed(seed)
    alarms.JITTER.seed(seed)
    try:
        with temporary_directory() as path, _Schedule(seed).installed(), _trio_follows(seed):
            settings.setdefault("path", path)
            async with Runtime(**settings) as runtime:
                yield runtime
    finally:
        random.setstate(before)


@final
class _Schedule:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        # How many child tasks of a frame stand at a storage operation, by life.
        self._standing: dict[Life, dict[Frame, int]] = {}
        self._queues: dict[Life, dict[Frame, Scope]] = {}
        self._synchronous = False

    async def turns(self) -> None:
        """Let others run for as many turns as the seed says."""
        for _ in range(self._random.randint(0, TURNS_MAX)):
            await anyio.lowlevel.checkpoint()

    async def arrive(self) -> None:
        """Before a call is delivered."""
        await self.turns()

    async def stand(self, frame: Frame) -> None:
        """After a storage operation of a child task of ``frame``."""
        self._enter(frame)
        try:
            await self.turns()
        finally:
            self._leave(frame)

    def _enter(self, frame: Frame) -> None:
        frames = self._standing.setdefault(frame.life, {})
        frames[frame] = frames.get(frame, 0) + 1
        # Every access asks the gate meanwhile, those that are answered from memory too.
        frame.life.backing.hold(True)

    def _leave(self, frame: Frame) -> None:
        life = frame.life
        frames = self._standing[life]
        frames[frame] -= 1
        if not frames[frame]:
            del frames[frame]
        if not frames:
            if life.broken is None and life.root.child is None:
                life.backing.hold(False)
            # Not at once: first the code that stood here goes on to its next operation.
            life.loop.call_soon(functools.partial(self._let_in, life))

    def _let_in(self, life: Life) -> None:
        """Run the operations that waited, those of one event at a time."""
        queues = self._queues.get(life)
        if not queues or self._standing.get(life):
            return
        frame = next(iter(queues))
        queue = queues.pop(frame)
        self._enter(frame)
        while queue.waiters:
            operation = queue.waiters.popleft().operation
            if operation is not None:
                operation()
        # Whoever awaits them gets their results in the next turns.
        _after(life.loop, WAKING_TURNS, functools.partial(self._leave, frame))

    def _must_wait(self, life: Life) -> bool:
        frame = EVENT.get()
        return any(other is not frame for other in self._standing.get(life, ()))

    def _queue(self, life: Life) -> Scope:
        """A closed scope, at which operations of the present event's child tasks wait."""
        frame = EVENT.get()
        assert frame is not None
        queues = self._queues.setdefault(life, {})
        queue = queues.get(frame)
        if queue is None:
            queue = queues[frame] = Scope()
            queue.promised = Waiter(life.loop, queue)
        return queue

    async def resumed(self, frame: Frame) -> None:
        """Before a step of ``frame``'s event."""
        # Shielded: what the wait before has given must not be lost to a cancellation.
        with anyio.CancelScope(shield=True):
            await self.turns()
            while self._must_wait(frame.life):
                await anyio.lowlevel.checkpoint()

    async def perturbed(self, code: Coroutine[Any, Any, T]) -> T:
        """Run an event's code, with turns for others before each of its steps."""
        return await self._steps(code)

    @types.coroutine
    def _steps(self, code: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        frame = EVENT.get()
        assert frame is not None
        value: Any = None
        error: BaseException | None = None
        while True:
            if error is None:
                try:
                    yield from self.resumed(frame).__await__()
                except GeneratorExit:
                    code.close()
                    raise
                except BaseException as exc:
                    error = exc
            try:
                if error is None:
                    yielded = code.send(value)
                else:
                    thrown, error = error, None
                    yielded = code.throw(thrown)
            except StopIteration as stop:
                return cast("T", stop.value)
            try:
                value = yield yielded
            except GeneratorExit:
                code.close()
                raise
            except BaseException as exc:
                error = exc

    @contextmanager
    def installed(self) -> Generator[None]:
        """Make the library ask this schedule."""
        schedule = self
        make_method = namespace._method  # pyright: ignore[reportPrivateUsage]
        ready_type: Any = ready.Ready
        none_type: Any = type(ready.READY)
        ready_await, none_await = ready_type.__await__, none_type.__await__
        life_type: Any = Life
        ask, admit = life_type.admission, life_type.admit

        def method(of: Any, object_id: Any, hint: Any, name: str) -> Any:
            runtime, residents, digits = of._runtime, of._residents, str(object_id)

            async def call(*arguments: Any, **options: Any) -> Any:
                await schedule.arrive()
                resident = residents.get(digits)
                if resident is None or runtime.closing:
                    resident = await runtime.open_object(of, object_id, hint)

                def code(instance: Any) -> Any:
                    result = getattr(instance, name)(*arguments, **options)
                    return schedule.perturbed(result) if inspect.iscoroutine(result) else result

                return await resident.deliver(code)

            call.__name__ = name
            return call

        def admission(life: Life, operation: str) -> Scope | None:
            scope: Scope | None = ask(life, operation)
            if scope is None or not scope.open or schedule._synchronous or EVENT.get() is None:
                return scope
            return schedule._queue(life) if schedule._must_wait(life) else scope

        def admit_now(life: Life, operation: str) -> bool:
            schedule._synchronous = True
            try:
                return bool(admit(life, operation))
            finally:
                schedule._synchronous = False

        def await_ready(self: Any) -> Generator[Any, Any, Any]:
            yield from schedule.after_storage()
            return self.value

        def await_none(self: Any) -> Generator[Any, Any, None]:
            yield from schedule.after_storage()

        namespace._method = method  # type: ignore[assignment]  # pyright: ignore[reportPrivateUsage]
        ready_type.__await__, none_type.__await__ = await_ready, await_none
        life_type.admission, life_type.admit = admission, admit_now
        try:
            yield
        finally:
            namespace._method = make_method  # pyright: ignore[reportPrivateUsage]
            ready_type.__await__, none_type.__await__ = ready_await, none_await
            life_type.admission, life_type.admit = ask, admit

    def after_storage(self) -> Generator[Any, Any, None]:
        """What awaiting a finished storage operation does."""
        frame = EVENT.get()
        if frame is not None and frame.life.loop.current is None and frame.life.broken is None:
            yield from self.stand(frame).__await__()


def _after(loop: Loop, turns: int, action: Callable[[], object]) -> None:
    if turns:
        loop.call_soon(functools.partial(_after, loop, turns - 1, action))
    else:
        action()


@contextmanager
def _trio_follows(seed: int) -> Generator[None]:
    """Take trio's own choice of order out of the game, where it is what runs."""
    try:
        from trio._core import _run as trio_run  # pyright: ignore[reportPrivateUsage]
    except ImportError:
        yield
        return
    internals: Any = trio_run
    before = internals._ALLOW_DETERMINISTIC_SCHEDULING
    state = internals._r.getstate()
    internals._ALLOW_DETERMINISTIC_SCHEDULING = True
    internals._r.seed(seed)
    try:
        yield
    finally:
        internals._ALLOW_DETERMINISTIC_SCHEDULING = before
        internals._r.setstate(state)
