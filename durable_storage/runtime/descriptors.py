"""How many objects the process's file descriptors allow to be open."""

from __future__ import annotations

import sys

__all__ = ["places"]

# The database, its WAL and our own view of both; the log's segment; room for a restore.
PER_OBJECT = 7
# For sockets, the registry and everything else of the process.
RESERVED = 128


def places(wanted: int) -> int:
    """At most ``wanted``, and no more than there are descriptors for.

    The process's soft limit is raised as far as the hard limit allows and this needs, as the
    run-time systems of other languages do: the low default serves programs that use ``select()``.
    """
    if sys.platform == "win32":
        return wanted
    import resource

    needed = wanted * PER_OBJECT + RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        target = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
        except (ValueError, OSError):
            # macOS may refuse what its hard limit promises.
            pass
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (soft - RESERVED) // PER_OBJECT))
