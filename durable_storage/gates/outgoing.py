"""What an event says to the outside: nothing before its disk holds what it could have seen."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar, cast, overload

from ..errors import ArgumentTypeError, ConcurrencyError, ObjectDead
from .event import EVENT, Frame
from .input_gate import Waiter
from .loop import Loop
from .ready import awaited

__all__ = ["carry", "current_frame", "inside", "outgoing", "send"]

T = TypeVar("T")


@overload
async def outgoing(callback: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T: ...
@overload
async def outgoing(callback: Callable[..., T], *args: Any, **kwargs: Any) -> T: ...
async def outgoing(callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Send something out of the object whose code calls this, once its output gate lets it.

    ``callback`` runs when everything the event could have seen is confirmed, as an answer of the
    event would leave; what it gives arrives when the input gate lets the event go on. Calls to
    other objects do this by themselves; use it for messages that the library does not see:
    ``await outgoing(queue.publish, "orders", order)``. Beyond Cloudflare's API.

    Inside ``transaction()`` it does not wait: nothing of the transaction can be confirmed before
    it ends. Outside of every object it only awaits the callback. The callback works for nobody:
    give it all that it sends, and use the object's storage before and after.

    Args:
        callback: sync or async; called with the other arguments.
        *args: positional arguments of the callback.
        **kwargs: keyword arguments of the callback.

    Raises:
        ConcurrencyError: called in another thread than the object's.
        ObjectDead: the object was reset meanwhile; if its writes could not be confirmed, the
            callback was not called.
    """
    if not callable(callback):
        raise ArgumentTypeError(f"outgoing() takes a callable, got {type(callback).__name__}")
    return await carry(lambda: awaited(callback(*args, **kwargs)))


async def carry(
    deliver: Callable[[], Coroutine[Any, Any, T]],
    *,
    frame: Frame | None = None,
    withhold: bool = True,
) -> T:
    """Deliver a message that leaves the library, for the event that the calling code works for.

    Args:
        deliver: makes the coroutine that does it; its steps belong to no event.
        frame: the event's, where the calling code does not work for it.
        withhold: whether the output gate must be passed first.
    """
    if frame is None:
        frame = current_frame(Loop.running())
    if frame is None:
        return await deliver()
    loop = frame.life.loop
    if loop is not Loop.running():
        raise ConcurrencyError(
            f"something was to be sent for {frame.life.name} from another thread than its own; "
            "return to it first, for example with anyio.from_thread.run()"
        )
    return await send(frame, lambda: _outside(loop, deliver()), withhold=withhold, killable=True)


@types.coroutine
def _outside(loop: Loop, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Run ``coroutine`` for no event: the gates are not asked between its steps."""
    event = EVENT.get()
    EVENT.set(None)
    value: Any = None
    error: BaseException | None = None
    closing = False
    try:
        while True:
            outer, loop.current = loop.current, None
            if outer is not None:
                # The loop's first_step may be in the middle of the step that this is part of.
                loop.renew()
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
            try:
                value = yield yielded
            except GeneratorExit:
                closing = True
                coroutine.close()
                raise
            except BaseException as exc:
                error = exc
    finally:
        if not closing:
            EVENT.set(event)
        del error


async def inside(frame: Frame, code: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a part of ``frame``'s event from within a delivery; its outcome may leave on return.

    Raises:
        ObjectDead: the object was reset.
    """
    life = frame.life
    if life.broken is not None:
        raise life.dead_error()
    place = Waiter(life.loop, frame.place)
    place.scope.waiters.append(place)
    place.scope.wake_next()
    result = await life.branch(place, code(), frame)
    await life.outgoing(frame)
    return result


def current_frame(loop: Loop) -> Frame | None:
    """The frame for which the calling code works: the driven step's, or the inherited one.

    In the context of an event that has ended works its caller, or a task that it left behind. As
    long as anything of the object is unconfirmed, what they send is taken for the latter's.
    """
    frame = loop.current if loop.current is not None else EVENT.get()
    return None if frame is None or (frame.ended and frame.life.quiet) else frame


async def send(
    frame: Frame,
    deliver: Callable[[], Awaitable[T]],
    *,
    withhold: bool = True,
    killable: bool = False,
) -> T:
    """Deliver a message of ``frame``'s event, and let its code go on only when it may.

    The output gate is passed before the message leaves, the input gate again before its answer
    is seen. A message sent from inside an open explicit transaction does not wait: nothing of the
    transaction can be confirmed before it ends.

    Args:
        frame: the event's.
        deliver: what delivers the message; its steps do not ask ``frame``'s input gate.
        withhold: whether the output gate must be passed first.
        killable: a reset of the object ends the delivery; else it is waited for.

    Raises:
        ObjectDead: the object that sent it was reset meanwhile.
    """
    life = frame.life
    loop = life.loop
    if frame.ended:
        if withhold:
            with contextlib.suppress(ObjectDead):
                await life.outgoing(frame)
        return await deliver()
    driven = loop.current is frame
    if life.broken is not None:
        raise life.dead_error()
    if driven:
        frame.suspended()
        frame.delegated += 1
    under_way = life.sending if killable and driven else life.calling
    under_way.add(frame)
    result: T | None = None
    error: BaseException | None = None
    held: BaseException | None = None
    try:
        try:
            if withhold:
                await life.outgoing(frame)
            result = await deliver()
        except GeneratorExit:
            raise
        except BaseException as exc:
            error = exc
        if driven and life.broken is None and not frame.place.open:
            waiter = Waiter(loop, frame.place)
            waiter.scope.waiters.append(waiter)
            held = await waiter.wait_shielded(loop)
    finally:
        under_way.discard(frame)
        if driven:
            frame.delegated -= 1
    try:
        if life.broken is not None:
            if (
                error is not None
                and not isinstance(error, (Exception, ObjectDead))
                and loop.is_trio
            ):
                raise error
            raise life.dead_error()
        if held is not None:
            raise held
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # deliver() gave it
    finally:
        del error, held
