"""How much the property tests try: little by default, much with ``pytest --long``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

LONG = 40
"""How many times as many examples a long run tries."""


def times(config: pytest.Config) -> int:
    """How many times as much as usual is to be tried."""
    return LONG if config.getoption("--long") else 1


def choose(config: pytest.Config) -> None:
    """Load the profile that the command line asks for."""
    common: dict[str, Any] = {
        "deadline": None,
        "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
        "print_blob": True,
    }
    # A short run is the same every time, so that it fails for whoever broke something.
    settings.register_profile("short", max_examples=25, derandomize=True, database=None,
                              stateful_step_count=25, **common)  # fmt: skip
    settings.register_profile("long", max_examples=25 * LONG, stateful_step_count=80,
                              phases=tuple(Phase), **common)  # fmt: skip
    settings.load_profile("long" if config.getoption("--long") else "short")
