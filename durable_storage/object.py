"""The base class of objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .state import DurableObjectState

__all__ = ["DurableObject"]


class DurableObject:
    """Base class of objects: subclass it and write public ``async`` methods.

    A subclass with an ``__init__`` of its own calls ``super().__init__(ctx, env)``. An optional
    ``async def alarm(self, alarm_info)``, whose parameter may be left out, runs when the alarm set
    with ``ctx.storage.set_alarm()`` is due.

    Attributes:
        ctx: the object's state: its id, its storage, its gates.
        env: the runtime's ``env``.
    """

    ctx: DurableObjectState
    env: Any

    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        self.ctx = ctx
        self.env = env
