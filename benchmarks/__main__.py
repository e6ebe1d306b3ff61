"""``python -m benchmarks [suite …]``: measure, print a table, judge the goals."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import warnings
from pathlib import Path

from . import report
from .harness import Bench
from .suites import SUITES


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw them (.svg, .png)")
    parser.add_argument("--tmpfs", action="store_true", help="data in /dev/shm: no disk")
    parser.add_argument("--folder", type=Path, help="data below this folder")
    parser.add_argument("--long", action="store_true", help="more rounds, larger data")
    parser.add_argument("--strict", action="store_true", help="fail when a goal is missed")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.suites if name not in SUITES]
    if unknown:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    warnings.simplefilter("ignore", ResourceWarning)
    parent = "/dev/shm" if given.tmpfs else given.folder
    environment = report.environment()
    print(
        "Python {python}, SQLite {sqlite}, {system} {machine}, {cpus} CPUs, load {load:.1f}".format(
            **environment
        )
    )
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="durable-bench-", dir=parent) as folder:
        bench = Bench(Path(folder), long=given.long, report=report.Table())
        for name in given.suites or SUITES:
            bench.suite = name
            asyncio.run(SUITES[name](bench))
    print(report.summary(bench))
    print(f"{time.perf_counter() - started:.0f} s")
    if given.json is not None:
        report.write_json(bench, given.json)
    if given.chart is not None:
        from .chart import draw

        draw(bench.rows, given.chart)
    return int(given.strict and any(row.met is False for row in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
