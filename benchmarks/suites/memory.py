"""How much memory an object takes, and how many objects a process can serve."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..harness import Bench
from ..memory_child import OBJECTS, OPEN_MAX
from ..peers import OURS, RAW

MEMORY_MAX_MIB = 300


def _measure(bench: Bench, kind: str) -> dict[str, float]:
    # What is measured does not depend on the disk.
    with bench.workspace(in_memory=True) as folder:
        output = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory_child", kind, str(folder)],
            check=True,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ).stdout
    return dict(json.loads(output))


def _kinds() -> Iterator[tuple[str, str]]:
    yield OURS, ""
    yield f"{OURS} history", "+history"


async def memory(bench: Bench) -> None:
    """Memory of an object that is open, idle, closed."""
    for what, title in (("idle", "idle object"), ("open", "open object, 100 KiB read")):
        raw = _measure(bench, f"raw-{what}")["kib"]
        for name, suffix in _kinds():
            value = _measure(bench, what + suffix)["kib"]
            goal = 1.4 if not suffix else None
            bench.record(title, name, value, unit="KiB", ratio=value / raw, goal=goal)
        bench.record(title, f"{RAW} connection", raw, unit="KiB")
    for name, suffix in _kinds():
        value = _measure(bench, "closed" + suffix)["kib"]
        bench.record("closed object", name, value, unit="KiB", goal=2.0, absolute=True)


async def capacity(bench: Bench) -> None:
    """10 000 objects with 500 open."""
    for name, suffix in list(_kinds()) if bench.long else list(_kinds())[:1]:
        measured = _measure(bench, "many" + suffix)
        case = f"{OBJECTS} objects, {OPEN_MAX} open"
        bench.record(
            f"{case}: peak",
            name,
            measured["mib"],
            unit="MiB",
            goal=float(MEMORY_MAX_MIB),
            absolute=True,
        )
        bench.record(f"{case}: an object", name, measured["seconds"] / OBJECTS)
