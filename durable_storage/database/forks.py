"""After a fork, what the parent has open is the parent's alone.

A child that closed its copy of a connection, were it only at its end, would fold and remove the
WAL that the parent goes on to write to. So the child keeps every such connection for ever, and
whoever owns it is told to let go of it.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from typing import Protocol

__all__ = ["keep", "leak"]


class Owner(Protocol):
    """Somebody who has a connection open."""

    def forked(self) -> None:
        """Do nothing to the file any more; called in the child."""


def keep(owner: Owner) -> None:
    """Have ``owner`` told of a fork, as long as it exists."""
    _OWNERS.add(owner)


def leak(connection: sqlite3.Connection) -> None:
    """See to it that a connection is never closed, not even at the end of the interpreter."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _tell() -> None:
    for owner in list(_OWNERS):
        owner.forked()


_OWNERS: weakref.WeakSet[Owner] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell)
