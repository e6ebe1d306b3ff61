"""Delivering one event to an object, from outside or from another object's event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from .event import Frame
from .life import Life, NotDelivered
from .loop import Loop
from .outgoing import current_frame, send

__all__ = ["deliver"]

T = TypeVar("T")


async def deliver(
    loop: Loop,
    life_of: Callable[[], Life],
    code: Callable[[Life], Coroutine[Any, Any, T]],
    ready: Callable[[], Awaitable[None] | None] | None = None,
) -> T:
    """Run one event and give its answer once it may leave.

    A call made by another object's event first passes that object's output gate.

    Args:
        loop: the loop of the object.
        life_of: the object's present life; begins one if there is none.
        code: makes the event's coroutine for the life it is delivered to.
        ready: gives what to wait for before ``life_of`` is called, or None.

    Raises:
        ObjectResetError: the life ended before the answer could be given.
        OverloadedError: too many events wait for the object.
        ConcurrencyError: the event could never be delivered, or comes from another thread.
    """
    loop.check_thread("an object")
    up = current_frame(loop)
    if up is None:
        return await _run(life_of, code, ready, None)
    caller = up
    return await send(caller, lambda: _run(life_of, code, ready, caller))


async def _run(
    life_of: Callable[[], Life],
    code: Callable[[Life], Coroutine[Any, Any, T]],
    ready: Callable[[], Awaitable[None] | None] | None,
    up: Frame | None,
) -> T:
    ended = False
    while True:
        waiting = ready() if ready is not None else None
        if waiting is not None:
            await waiting
        life = life_of()
        if life.broken is not None:
            if ended:
                raise life.reset_error()
            life.end()
            ended = True
            continue
        ended = False
        if not life.root.open:
            try:
                await life.enter(up)
            except NotDelivered:
                continue
        if life.broken is None:
            return await life.run(Frame(life, life.root, up), code(life))
