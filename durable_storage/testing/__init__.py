"""What a test of an application needs: a clock moved by hand, and access to objects."""

from __future__ import annotations

from .clock import ManualClock
from .objects import (
    evict_all_durable_objects,
    evict_durable_object,
    list_durable_object_ids,
    run_durable_object_alarm,
    run_in_durable_object,
)

__all__ = [
    "ManualClock",
    "evict_all_durable_objects",
    "evict_durable_object",
    "list_durable_object_ids",
    "run_durable_object_alarm",
    "run_in_durable_object",
]
