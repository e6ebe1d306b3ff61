"""Die at every operation on a file: what is reopened is the state before or after, never between."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator

import pytest

from .disk import Site
from .workload import Workload, check, shrink_constants

STEPS = 40
# A few hundred operations each.
SEEDS = range(60 if "DURABLE_STORAGE_SLOW_TESTS" in os.environ else 6)
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def place() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-crash-") as directory:
        yield directory


def sweep(
    place: str,
    seed: int,
    patch: pytest.MonkeyPatch,
    *,
    power: bool,
    every: int = 1,
    skipped: Site | None = None,
    steps: int = STEPS,
) -> tuple[int, set[Site]]:
    """Run a workload, crash it at its operations, check each outcome; return how many."""
    root = os.path.join(place, "live")
    os.mkdir(root)
    workload = Workload(root, seed, skipped)
    crashes = []

    def at_point(number: int, operation: str, path: str) -> None:
        if number % every:
            return
        target = os.path.join(place, f"crash{number}")
        if power:
            chance = random.Random(seed * 1000 + number) if number % 3 else None
            workload.disk.lose_power(target, chance)
        else:
            workload.disk.kill(target)
        crashes.append((target, workload.known.copy()))

    workload.at_point = at_point
    with pytest.MonkeyPatch.context() as during:
        workload.run(during, steps)
    for target, known in crashes:
        try:
            check(target, known, power=power, chance=random.Random(seed))
        except BaseException:
            print("seed", seed, "at", target)
            raise
    return len(crashes), workload.disk.sites


@pytest.mark.parametrize("seed", SEEDS)
def test_a_process_that_dies_at_any_operation_loses_nothing(
    place: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_constants(monkeypatch)
    crashes, _ = sweep(place, seed, monkeypatch, power=False)
    assert crashes > 100


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_of_power_at_any_operation_loses_nothing_that_was_confirmed(
    place: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_constants(monkeypatch)
    crashes, _ = sweep(place, seed, monkeypatch, power=True)
    assert crashes > 100
