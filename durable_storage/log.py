"""The loggers of the library: ``durable_storage`` and, below it, one for each thing that reports.

They say what no caller is told. Whoever wants to read it configures `logging`; by default nothing
is printed. Names, levels and messages are listed in ``docs/guides/monitoring.md``.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["ALARMS", "OBJECTS", "SCHEDULES", "STORAGE", "log_reset"]

logging.getLogger("durable_storage").addHandler(logging.NullHandler())

OBJECTS: Final = logging.getLogger("durable_storage.objects")
"""Objects that are opened, reset and closed."""

ALARMS: Final = logging.getLogger("durable_storage.alarms")
"""Alarms that failed, are tried again, or were given up."""

SCHEDULES: Final = logging.getLogger("durable_storage.schedules")
"""Schedules whose method failed."""

STORAGE: Final = logging.getLogger("durable_storage.storage")
"""Files that could not be folded or closed."""


def log_reset(name: str, reason: BaseException | None) -> None:
    """Tell of the object called ``name`` that its life has ended by a reset."""
    cause = None if reason is None else reason.__cause__
    OBJECTS.warning(
        "%s: reset: %s", name, reason or type(reason).__name__, exc_info=cause or reason
    )
