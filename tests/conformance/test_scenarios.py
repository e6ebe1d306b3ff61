"""Every recorded concurrency scenario, on asyncio and trio."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from . import report, scenarios

SCENARIOS, UNREADABLE = report.load(Path(__file__).parent / "data" / "scenarios", "events")


@functools.cache
def results_on(backend: report.Backend) -> dict[str, report.Result]:
    """Run all scenarios once, side by side, since each of them mostly waits."""
    return {result.name: result for result in scenarios.run(SCENARIOS, backend)}


def test_all_files_of_recorded_scenarios_can_be_read() -> None:
    assert not UNREADABLE
    assert len({scenario["name"] for scenario in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "scenario", [pytest.param(scenario, id=scenario["name"]) for scenario in SCENARIOS]
)
def test_events_interleave_as_recorded(
    scenario: scenarios.Scenario, backend: report.Backend
) -> None:
    result = results_on(backend)[scenario["name"]]
    if result.verdict == "skipped":
        pytest.skip(result.reason)
    assert result.verdict == "passed", str(result)
