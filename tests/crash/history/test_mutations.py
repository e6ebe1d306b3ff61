"""Leave out one sync at a time: a simulated loss of power must show that it was needed."""

from __future__ import annotations

import contextlib
import io
import os

import pytest

from .disk import Site
from .test_crash import place, sweep  # noqa: F401 - a fixture
from .workload import shrink_constants

# The last has both happen for which a directory is synced twice: mostly one sync makes up for the
# other.
SEEDS = (*range(30), 67)
LEAST_SITES = 18


def sites(place: str, patch: pytest.MonkeyPatch) -> set[Site]:  # noqa: F811
    found: set[Site] = set()
    for seed in range(4):
        directory = os.path.join(place, f"sites{seed}")
        os.mkdir(directory)
        found |= sweep(directory, seed, patch, power=True, every=1 << 30)[1]
    return found


@pytest.mark.skipif(
    "DURABLE_STORAGE_SLOW_TESTS" not in os.environ,
    reason="takes minutes; set DURABLE_STORAGE_SLOW_TESTS",
)
def test_every_sync_is_needed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    shrink_constants(monkeypatch)
    found = sites(place, monkeypatch)
    assert len(found) >= LEAST_SITES
    needless = []
    for site in sorted(found):
        for seed in SEEDS:
            directory = os.path.join(place, f"{abs(hash(site))}-{seed}")
            os.mkdir(directory)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    sweep(directory, seed, monkeypatch, power=True, skipped=site)
            except Exception:
                print(site, seed, flush=True)
                break
        else:
            needless.append(site)
    assert not needless
