"""Reading files of recorded cases, and reporting how a run of them went."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

# What an object must hold to be a case: of one object, and of several events.
MARKS: Final = ("steps", "events")

Backend = Literal["asyncio", "trio"]
Verdict = Literal["passed", "failed", "skipped"]


@dataclass
class Difference:
    """One thing that is not as recorded."""

    where: str
    expected: str
    got: str


@dataclass
class Result:
    """How one case went."""

    name: str
    suite: str
    verdict: Verdict
    reason: str = ""
    differences: list[Difference] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.verdict}" + (f" ({self.reason})" if self.reason else "")]
        for difference in self.differences:
            lines.append(f"    {difference.where}")
            lines.append(f"        expected {difference.expected}")
            lines.append(f"        got      {difference.got}")
        return "\n".join(lines)


def load(directory: Path, mark: str) -> tuple[list[dict[str, Any]], list[Result]]:
    """Return every case below ``directory``, and a failure for each file that holds none.

    A file is one case, a list of cases, or an object that holds such a list; ``mark`` is the
    key that makes an object a case. A case without a suite gets the name of its file. Files of the
    other kind of cases, which may lie beside them, are passed over.
    """
    cases: list[dict[str, Any]] = []
    unreadable: list[Result] = []
    paths = [directory] if directory.is_file() else sorted(directory.rglob("*.json"))
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            unreadable.append(Result(path.name, path.stem, "failed", f"cannot be read: {exc}"))
            continue
        found = list(_cases(content, mark))
        if not found and not any(any(_cases(content, other)) for other in MARKS if other != mark):
            unreadable.append(Result(path.name, path.stem, "failed", "holds no case"))
        for number, case in enumerate(found):
            case.setdefault("name", f"{path.stem}/{number}")
            case.setdefault("suite", path.stem)
            cases.append(case)
    return cases, unreadable


def _cases(content: Any, mark: str) -> Iterable[dict[str, Any]]:
    if isinstance(content, list):
        for item in content:
            yield from _cases(item, mark)
    elif isinstance(content, dict):
        if mark in content:
            yield content
        elif not any(other in content for other in MARKS):
            for key, item in content.items():
                for case in _cases(item, mark):
                    case.setdefault("name", key)
                    yield case


def print_results(results: Sequence[Result]) -> bool:
    """Print a run's report; True when nothing failed."""
    suites: dict[str, list[Result]] = {}
    for result in results:
        suites.setdefault(result.suite, []).append(result)
    for suite, members in suites.items():
        passed = sum(result.verdict == "passed" for result in members)
        skipped = sum(result.verdict == "skipped" for result in members)
        print(
            f"{suite}: {passed}/{len(members) - skipped}" + f" ({skipped} skipped)" * bool(skipped)
        )
    for result in results:
        if result.verdict == "failed":
            print(result)
    count = {
        verdict: sum(result.verdict == verdict for result in results)
        for verdict in ("passed", "failed", "skipped")
    }
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return not count["failed"]


def main(
    description: str,
    mark: str,
    run: Callable[[list[dict[str, Any]], Backend], list[Result]],
) -> None:
    """Run a directory of cases as a command."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--skipped", action="store_true", help="also print why cases are skipped")
    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # recordings hold lone surrogates
    if not arguments.directory.exists():
        parser.error(f"{arguments.directory} does not exist")
    cases, unreadable = load(arguments.directory, mark)
    cases = [case for case in cases if arguments.only in case["name"]]
    results = unreadable + run(cases, arguments.backend)
    if arguments.skipped:
        for result in results:
            if result.verdict == "skipped":
                print(result)
    if not results:
        parser.error(f"{arguments.directory} holds no case")
    sys.exit(0 if print_results(results) else 1)
