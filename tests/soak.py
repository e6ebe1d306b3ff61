"""Mixed load for a long time, with kills, failing disks, evictions and restores, and a ledger.

    python -m tests.soak --minutes 30

A process serves hundreds of objects, few of which may be open, and is killed or stopped every few
seconds. It says on its output what is tried before it is tried, and what was answered after that. At
every start some objects, and at the end all, must be what the ledger says: the last answer, or
something that was tried since then. It stops by itself and prints figures; exit status 1 when
anything was lost.
"""

from __future__ import annotations

import argparse
import datetime
import errno
import os
import pathlib
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio

from durable_storage import DurableObject, DurableStorageError, History, Runtime
from durable_storage.storage import host

ROOT = pathlib.Path(__file__).parents[1]
OBJECTS = 300
OPEN_MAX = 60
CLIENTS = 30
ROWS_KEPT = 40
LOOKED_AT = 40
LIFE_SECONDS = (2.0, 12.0)
PATIENCE_SECONDS = 600
CHANCE_OF_FAULT = 0.0005
HISTORY = History(retention=datetime.timedelta(minutes=10), segment_size_bytes=64 * 1024)
Refusals = (DurableStorageError, OSError)


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


class Page(DurableObject):
    """Holds one number three times."""

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")

    async def alarm(self) -> None:
        self.ctx.storage.kv.put("rang", self.ctx.storage.kv.get("rang", 0) + 1)

    def _note(self, number: int, size: int) -> None:
        storage = self.ctx.storage
        storage.sql.exec("INSERT INTO t VALUES (?, ?)", number, "x" * size)
        storage.sql.exec("DELETE FROM t WHERE a <= ?", number - ROWS_KEPT)
        storage.put({"step": number, "twin": number})

    async def note(self, number: int, size: int) -> None:
        self._note(number, size)

    async def note_in_transaction(self, number: int, size: int) -> None:
        async with self.ctx.storage.transaction():
            await self.ctx.storage.get("step")
            self._note(number, size)

    async def note_and_ring(self, number: int, size: int) -> None:
        self.ctx.storage.set_alarm(datetime.timedelta(milliseconds=size))
        self._note(number, size)

    async def bookmark(self) -> tuple[str, int]:
        return await self.ctx.storage.get_current_bookmark(), self.ctx.storage.kv.get("step", 0)

    async def restore(self, bookmark: str) -> None:
        await self.ctx.storage.on_next_session_restore_bookmark(bookmark)
        self.ctx.abort("restoring")

    async def look(self) -> tuple[int, int, int]:
        storage = self.ctx.storage
        newest = storage.sql.exec("SELECT coalesce(max(a), 0) AS n FROM t").one()["n"]
        return storage.kv.get("step", 0), storage.kv.get("twin", 0), newest


class Disk:
    """Refuses an operation now and then."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self.calm = True
        self.refused = 0

    def before(self, operation: str, path: str) -> None:
        if self.calm or "registry" in path:
            # A registry that lost its disk needs a new runtime; that is what the kills are for.
            return
        with self._lock:
            if self._chance.random() >= CHANCE_OF_FAULT:
                return
            self.refused += 1
        raise OSError(self._chance.choice([errno.EIO, errno.ENOSPC]), "refused")


METHODS = ("note", "note", "note_in_transaction", "note_and_ring")


class Worker:
    """One life of the process."""

    def __init__(self, path: str, first: int, seconds: float) -> None:
        self.path = path
        self.number = first
        self.until = time.monotonic() + seconds
        self.chance = random.Random(first)
        self.latencies: list[float] = []
        self.counts: Counter[str] = Counter()

    async def client(self, pages: Any, mine: list[str]) -> None:
        bookmarks: dict[str, tuple[str, int]] = {}
        while time.monotonic() < self.until:
            name = self.chance.choice(mine)
            page = pages.get_by_name(name)
            try:
                if self.chance.random() < 0.03:
                    bookmarks[name] = await page.bookmark()
                elif name in bookmarks and self.chance.random() < 0.1:
                    await self.restore(page, name, *bookmarks.pop(name))
                else:
                    await self.note(page, name)
            except Refusals:
                self.counts["errors"] += 1

    async def note(self, page: Any, name: str) -> None:
        self.number += 1
        number = self.number
        say(f"try {name} {number}")
        began = time.monotonic()
        await getattr(page, self.chance.choice(METHODS))(number, self.chance.randint(1, 3000))
        self.latencies.append(time.monotonic() - began)
        say(f"ack {name} {number}")
        self.counts["acknowledged"] += 1

    async def restore(self, page: Any, name: str, bookmark: str, number: int) -> None:
        say(f"try {name} {number}")
        try:
            await page.restore(bookmark)
        except DurableStorageError as error:
            if str(error) != "restoring":
                raise
        step, _, _ = await page.look()
        if step != number:
            raise AssertionError(f"{name} is {step} and not {number} after its restore")
        say(f"ack {name} {number}")
        self.counts["restores"] += 1

    async def run(self, names: list[str]) -> None:
        disk = Disk(self.number)
        async with Runtime(
            self.path, max_open_objects=OPEN_MAX, idle_timeout=1, history=HISTORY, faults=disk
        ) as runtime:
            pages = runtime.namespace(Page)
            for name in names:
                say("state " + name + " {} {} {}".format(*await pages.get_by_name(name).look()))
            say("looked")
            disk.calm = False
            async with anyio.create_task_group() as group:
                for client in range(CLIENTS):
                    mine = [f"p{i}" for i in range(OBJECTS) if i % CLIENTS == client]
                    group.start_soon(self.client, pages, mine)
                group.start_soon(self.report, disk)
            disk.calm = True

    async def report(self, disk: Disk) -> None:
        """Say figures every second: a kill leaves no time for it at the end."""
        while time.monotonic() < self.until:
            await anyio.sleep(1)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            milliseconds = [1000 * each for each in self.latencies[-5000:]] or [0.0, 0.0]
            middle = statistics.median(milliseconds)
            late = sorted(milliseconds)[int(len(milliseconds) * 0.99)]
            descriptors = _descriptors()
            say(
                f"figures {memory} {descriptors} {middle:.1f} {late:.1f} {disk.refused}"
                f" {self.counts['errors']} {self.counts['restores']}"
            )


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@dataclass
class Ledger:
    """What each object may be."""

    possible: dict[str, set[int]] = field(default_factory=dict)
    acknowledged: int = 0
    looked_at: int = 0
    problems: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)

    def read(self, line: str) -> None:
        what, _, rest = line.partition(" ")
        if what in ("try", "ack"):
            name, number = rest.split()
            if what == "try":
                self.possible.setdefault(name, {0}).add(int(number))
            else:
                self.possible[name] = {int(number)}
                self.acknowledged += 1
        elif what == "state":
            name, *values = rest.split()
            self._look(name, [int(value) for value in values])
        elif what == "figures":
            self._figures([float(value) for value in rest.split()])

    def _look(self, name: str, values: list[int]) -> None:
        self.looked_at += 1
        possible = self.possible.get(name, {0})
        if len(set(values)) != 1:
            self.problems.append(f"half a commit in {name}: {values}")
        elif values[0] not in possible:
            self.problems.append(f"{name} is {values[0]}, and may be {sorted(possible)}")
        self.possible[name] = {values[0]}

    def _figures(self, values: list[float]) -> None:
        names = ("memory MiB", "descriptors", "median ms", "99 % ms")
        for name, value in zip(names, values, strict=False):
            self.figures[name] = max(self.figures.get(name, 0), value)
        self.last = dict(zip(("faults", "errors", "restores"), values[4:], strict=True))

    def life_ended(self) -> None:
        self.totals.update({name: int(value) for name, value in self.last.items()})
        self.last = {}

    last: dict[str, float] = field(default_factory=dict)


def one_life(
    path: str,
    ledger: Ledger,
    chance: random.Random,
    first: int,
    seconds: float,
    *,
    everything: bool,
) -> bool:
    """Run a process and end it; whether it was killed."""
    names = sorted(ledger.possible)
    if not everything:
        names = chance.sample(names, min(LOOKED_AT, len(names)))
    killed = not everything and chance.random() < 0.8
    command = [
        sys.executable,
        "-B",
        "-X",
        "faulthandler",
        "-m",
        "tests.soak",
        "--work",
        path,
        "--first",
        str(first),
    ]
    command += ["--seconds", str(0 if everything else seconds)]
    command += ["--backend", chance.choice(["asyncio", "trio"]), "--names", ",".join(names)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        timer = threading.Timer(
            1 + seconds * chance.random(), process.send_signal, [signal.SIGKILL]
        )
        # One that does not come to its end tells where it is.
        watchdog = threading.Timer(
            seconds + PATIENCE_SECONDS, process.send_signal, [signal.SIGABRT]
        )
        watchdog.start()
        looked = False
        try:
            for line in process.stdout:
                if line.endswith("\n"):
                    ledger.read(line.rstrip("\n"))
                if line == "looked\n":
                    looked = True
                    if killed:
                        timer.start()
        finally:
            timer.cancel()
            watchdog.cancel()
        errors = process.stderr.read()
        status = process.wait()
    ledger.life_ended()
    # A process that was to be killed may have come to its end before.
    ended_well = looked and (status == 0 or (killed and status == -signal.SIGKILL))
    if not ended_well:
        ledger.problems.append(f"the process ended with {status}: {errors[-3000:]}")
    return killed


def soak(path: str, minutes: float, seed: int) -> tuple[Ledger, Counter[str]]:
    """Run lives until the time is over."""
    host.FOLD_AT_BYTES = 256 * 1024
    chance = random.Random(seed)
    ledger, counts = Ledger(), Counter[str]()
    end = time.monotonic() + minutes * 60
    number = 0
    while time.monotonic() < end and not ledger.problems:
        number += 1
        seconds = min(chance.uniform(*LIFE_SECONDS), max(1.0, end - time.monotonic()))
        killed = one_life(path, ledger, chance, number * 10_000_000, seconds, everything=False)
        counts["kills" if killed else "stops"] += 1
    if not ledger.problems:
        one_life(path, ledger, chance, (number + 1) * 10_000_000, 0, everything=True)
    return ledger, counts


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    for hidden in ("--work", "--names"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        host.FOLD_AT_BYTES = 256 * 1024
        worker = Worker(options.work, options.first, options.seconds)
        names = [name for name in options.names.split(",") if name]
        anyio.run(worker.run, names, backend=options.backend)
        return 0
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "data")
        began = time.monotonic()
        ledger, counts = soak(path, options.minutes, options.seed)
        minutes = (time.monotonic() - began) / 60
        size = sum(p.stat().st_size for p in pathlib.Path(path).rglob("*") if p.is_file())
    print(
        f"{minutes:.1f} minutes, {len(ledger.possible)} objects, {counts['kills']} kills, "
        f"{counts['stops']} orderly stops, {ledger.acknowledged} answers, of them "
        f"{ledger.totals['restores']} restores, {ledger.totals['faults']} refused operations, "
        f"{ledger.totals['errors']} errors seen by clients, {ledger.looked_at} looks, "
        f"{len(ledger.problems)} problems (seed {options.seed})"
    )
    print(
        ", ".join(f"{name} at most {value:g}" for name, value in ledger.figures.items())
        + f", on disk {size / 1024**2:.0f} MiB"
    )
    for problem in ledger.problems:
        print("PROBLEM", problem)
    return 1 if ledger.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
