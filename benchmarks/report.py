"""What a run prints and writes: a table, JSON, a chart."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
from pathlib import Path
from typing import TextIO

from .harness import Bench, Row

_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def amount(value: float, unit: str) -> str:
    """``value`` in a unit that is easy to read."""
    if unit != "s":
        return f"{value:,.1f} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
    for scale, name in _SCALES:
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value * 1e9:.2g} ns"


class Table:
    """Prints each line as soon as it is measured."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._suite = ""
        self._case = ""

    def __call__(self, row: Row) -> None:
        if row.suite != self._suite:
            self._suite, self._case = row.suite, ""
            head = f"{'median':>11} {'quartiles':>19} {'cpu':>9} {'wall':>9}"
            print(f"\n{row.suite:<58} {head} {'ratio':>7} {'quartiles':>13}  goal", file=self._out)
        case = row.case if row.case != self._case else ""
        self._case = row.case
        spread = ""
        if row.low is not None and row.high is not None:
            spread = f"{amount(row.low, row.unit)}…{amount(row.high, row.unit)}"
        cpu = "" if row.cpu is None else amount(row.cpu, "s")
        wall = "" if row.wall is None else amount(row.wall, "s")
        ratio, around = "", ""
        if row.ratio is not None:
            ratio = f"{row.ratio:.2f}" if row.ratio < 100 else f"{row.ratio:.0f}"
        if row.ratio_low is not None and row.ratio_high is not None:
            around = f"{row.ratio_low:.2f}…{row.ratio_high:.2f}"
        print(
            f"  {case:<34} {row.contender:<21} {amount(row.value, row.unit):>11} {spread:>19} "
            f"{cpu:>9} {wall:>9} {ratio:>7} {around:>13}  {verdict(row)} {row.note}".rstrip(),
            file=self._out,
            flush=True,
        )


def verdict(row: Row) -> str:
    """The goal, and whether it is reached."""
    if row.goal is None:
        return ""
    goal = amount(row.goal, row.unit) if row.absolute else f"{row.goal:g}"
    return f"≤ {goal} {'ok' if row.met else 'MISS'}"


def summary(bench: Bench) -> str:
    """One paragraph about the goals and about what was not measured."""
    judged = [row for row in bench.rows if row.met is not None]
    missed = [row for row in judged if not row.met]
    lines = [f"\n{len(judged) - len(missed)} of {len(judged)} goals reached."]
    lines += [
        f"  missed: {row.suite}: {row.case}: {row.contender}: "
        f"{amount(row.value, row.unit) if row.absolute else f'{row.ratio:.2f}'}, {verdict(row)}"
        for row in missed
    ]
    if bench.skipped:
        lines.append(f"Not installed and left out: {', '.join(sorted(bench.skipped))}.")
    return "\n".join(lines)


def environment() -> dict[str, object]:
    """Where the numbers come from."""
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def write_json(bench: Bench, path: Path) -> None:
    """Write every line, for comparison with other runs."""
    content = {"environment": environment(), "rows": [row.as_json() for row in bench.rows]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
