"""What a test of an application needs.

A clock moved by hand, access to objects, a disk that fails and loses power on request, a finder of
races. The pytest plugin makes fixtures of them.
"""

from __future__ import annotations

from ..runtime.snapshots import RuntimeSnapshot
from .clock import ManualClock
from .faults import Announced, Fault, FaultInjector, Hold
from .objects import (
    evict_all_durable_objects,
    evict_durable_object,
    list_durable_object_ids,
    run_durable_object_alarm,
    run_in_durable_object,
)
from .races import find_races, shuffled
from .session import runtime_for_test

__all__ = [
    "Announced",
    "Fault",
    "FaultInjector",
    "Hold",
    "ManualClock",
    "RuntimeSnapshot",
    "evict_all_durable_objects",
    "evict_durable_object",
    "find_races",
    "list_durable_object_ids",
    "run_durable_object_alarm",
    "run_in_durable_object",
    "runtime_for_test",
    "shuffled",
]
