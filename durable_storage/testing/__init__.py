"""What a test of an application needs: a clock moved by hand, and access to objects."""

from __future__ import annotations

from .clock import ManualClock

__all__ = ["ManualClock"]
