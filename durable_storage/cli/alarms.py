"""The registry's index of alarms, while the command line opens an object.

Invariant: the index is never later than the object's alarm, which a restore may bring back. So it
says *now* from before a restore can happen until the alarm is known again; an entry that is too
early costs one look.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator

from ..errors import DurableStorageError
from ..history.layout import Layout
from ..runtime.registry import Registry
from .directory import StoredObject
from .failures import Failure
from .logs import now_ms
from .looking import Contents, opened_copy

__all__ = ["indexed_alarm"]


@contextlib.contextmanager
def indexed_alarm(registry: Registry, stored: StoredObject) -> Generator[Callable[[], None]]:
    """Have the index follow an object's alarm through a restore, also through a pending one.

    Gives what is to be called before a restore is asked for.
    """
    expected = False

    def expect_restore() -> None:
        nonlocal expected
        expected = True
        registry.alarm_set(stored.namespace.number, stored.id, now_ms(), durable=True)

    if _is_pending(stored):
        expect_restore()
    try:
        yield expect_restore
    except BaseException:
        if expected:
            # What went wrong is to be told, and the index may stay too early.
            with contextlib.suppress(Failure, DurableStorageError, OSError):
                _follow(registry, stored)
        raise
    if expected:
        _follow(registry, stored)


def _is_pending(stored: StoredObject) -> bool:
    return os.path.exists(Layout(stored.path).intent)


def _follow(registry: Registry, stored: StoredObject) -> None:
    if _is_pending(stored):
        return  # there was no room to finish it
    with opened_copy(stored) as database:
        alarm_ms = Contents(database, legacy=False).alarm_ms
    if alarm_ms is None:
        registry.alarm_clear(stored.namespace.number, stored.id, durable=True)
    else:
        registry.alarm_set(stored.namespace.number, stored.id, alarm_ms, durable=True)
