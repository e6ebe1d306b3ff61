"""Every recorded single-object case, on asyncio and trio."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from . import report, vectors

DATA = Path(__file__).parent / "data"

RECORDED, UNREADABLE = report.load(DATA / "vectors", "steps")
# Written by hand from what the recordings taught, where no recorded case here shows it.
FINDINGS, UNREADABLE_FINDINGS = report.load(DATA / "findings", "steps")
CASES = RECORDED + FINDINGS
SUITES = sorted({case["suite"] for case in CASES})


@functools.cache
def results_of(suite: str, backend: report.Backend) -> dict[str, report.Result]:
    """Run a suite once, for all of its cases; a runtime and its objects are shared."""
    cases = [case for case in CASES if case["suite"] == suite]
    return {result.name: result for result in vectors.run(cases, backend)}


def test_all_files_of_recorded_cases_can_be_read() -> None:
    assert not UNREADABLE + UNREADABLE_FINDINGS
    assert len({case["name"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_an_object_answers_as_recorded(case: vectors.Case, backend: report.Backend) -> None:
    result = results_of(case["suite"], backend)[case["name"]]
    if result.verdict == "skipped":
        pytest.skip(result.reason)
    assert result.verdict == "passed", str(result)
