"""The projects that the testing guides show, run by pytest as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
FILE = re.compile(
    r"^```\{code-block\} \w+\n:caption: ([^\n]+)\n\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def files_of(guide: str) -> dict[str, str]:
    text = (ROOT / "docs" / "guides" / guide).read_text(encoding="utf-8")
    return dict(FILE.findall(text))


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_subprocess(
        "-W", "error", "-p", "no:asyncio", "-p", "durable_storage.pytest_plugin", *options
    )


def test_the_first_tests_of_the_guide_pass(project: pytest.Pytester) -> None:
    files = files_of("testing.md")
    for name in ("reminders.py", "test_reminders.py"):
        (project.path / name).write_text(files[name])
    run(project).assert_outcomes(passed=3)


def test_the_bugs_of_the_guide_are_found_and_mended(project: pytest.Pytester) -> None:
    files = files_of("testing.md")
    for name in ("shop.py", "test_shop.py"):
        (project.path / name).write_text(files[name])
    found = run(project)
    found.assert_outcomes(failed=3)
    found.stdout.fnmatch_lines(["*found with seed * replay it with*"])
    found.stdout.fnmatch_lines(["*told something before it was durable*"])
    (project.path / "shop.py").write_text(files["shop.py (mended)"])
    run(project, "-p", "no:cacheprovider").assert_outcomes(passed=3)


def test_the_worker_of_the_guide_passes(project: pytest.Pytester) -> None:
    for name, code in files_of("testing-workers.md").items():
        (project.path / name).write_text(code)
    run(project).assert_outcomes(passed=3)
