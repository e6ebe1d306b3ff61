"""What an event says to the outside: nothing before its disk holds what it could have seen."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import ObjectDead
from .event import EVENT, Frame
from .input_gate import Waiter
from .loop import Loop

__all__ = ["current_frame", "send"]

T = TypeVar("T")


def current_frame(loop: Loop) -> Frame | None:
    """The frame for which the calling code works: the driven step's, or the inherited one."""
    return loop.current if loop.current is not None else EVENT.get()


async def send(frame: Frame, deliver: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Deliver a message of ``frame``'s event, and let its code go on only when it may.

    The output gate is passed before the message leaves, the input gate again before its answer
    is seen. A message sent from inside an open explicit transaction does not wait: nothing of the
    transaction can be confirmed before it ends.

    Raises:
        ObjectDead: the object that sent it was reset meanwhile.
    """
    life = frame.life
    loop = life.loop
    driven = loop.current is frame
    if life.broken is not None:
        raise ObjectDead(str(life.broken))
    if driven:
        frame.suspended()
        frame.delegated += 1
    life.calling.add(frame)
    result: T | None = None
    error: BaseException | None = None
    held: BaseException | None = None
    try:
        try:
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
        life.calling.discard(frame)
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
            raise ObjectDead(str(life.broken))
        if held is not None:
            raise held
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # deliver() gave it
    finally:
        del error, held
