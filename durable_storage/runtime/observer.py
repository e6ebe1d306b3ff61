"""The seam through which an application's calls, alarms and storage are observed.

A runtime without observers pays for one look at an empty list per stub method, alarm and life of
an object, and nothing per call or operation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from ..gates.life import Life
from ..ids import DurableObjectId
from ..state import DurableObjectState

__all__ = ["Observer"]


class Observer(Protocol):
    """Somebody who observes every object of a runtime."""

    def call(
        self,
        class_name: str,
        object_id: DurableObjectId,
        method: str,
        call: Callable[..., Coroutine[Any, Any, Any]],
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Give what a stub's method is to be instead of ``call``."""
        ...

    async def alarm(
        self, class_name: str, life: Life, retry_count: int, run: Callable[[], Awaitable[None]]
    ) -> None:
        """Run an alarm's handler; what it raises must be passed on."""
        ...

    def began(self, class_name: str, life: Life, state: DurableObjectState) -> None:
        """A life of an object has begun; none of its code has run yet."""
        ...
