"""Kill a process that sets, moves, deletes and handles alarms, and count which alarms then run.

    python -m tests.crash.alarms --rounds 200     kill -9 at random points
    python -m tests.crash.alarms --flood 10000    so many alarms due in one second, 500 objects open

Every operation on an alarm carries a number, which grows. The alarm with the largest acknowledged
number must run, before the kill or after it, unless a later operation was under way; an alarm that
was deleted or replaced must not run, and none is left that is set and does not run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import anyio

from durable_storage import DurableObject, Runtime

from .images import MEMORY, ROOT
from .tracing import python

OBJECTS = 12
CLIENTS = 6
# Everything is due by then, so that after a kill one wait shows what runs.
SOON_SECONDS = 0.4


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


class Bell(DurableObject):
    """Remembers which alarm it has set, and which ones have run."""

    async def alarm(self) -> None:
        storage = self.ctx.storage
        number = storage.kv.get("set", 0)
        runs = storage.kv.get("runs", {})
        runs[number] = runs.get(number, 0) + 1
        storage.kv.put("runs", {n: runs[n] for n in sorted(runs)[-50:]})
        # Now and then a kill comes between what the handler wrote and the end of the alarm.
        if number % 3 == 0:
            await storage.sync()

    async def set(self, number: int, milliseconds: int) -> None:
        self.ctx.storage.kv.put("set", number)
        self.ctx.storage.set_alarm(datetime.timedelta(milliseconds=milliseconds))

    async def delete(self, number: int) -> bool:
        """Delete the alarm if there is one; while its handler runs there is none."""
        if await self.ctx.storage.get_alarm() is None:
            return False
        self.ctx.storage.kv.put("set", number)
        self.ctx.storage.delete_alarm()
        return True

    async def state(self) -> tuple[int, dict[int, int], bool]:
        kv = self.ctx.storage.kv
        return kv.get("set", 0), kv.get("runs", {}), await self.ctx.storage.get_alarm() is not None


async def client(bells: Any, number: int, first: int) -> None:
    """Work on objects that no other client works on."""
    chance = random.Random(f"{number} {first}")
    names = [f"bell{i}" for i in range(OBJECTS) if i % CLIENTS == number]
    count = first
    while True:
        count += 1
        name = chance.choice(names)
        stub = bells.get_by_name(name)
        kind = chance.random()
        if kind < 0.25:
            say(f"delete {name} {count}")
            if not await stub.delete(count):
                say(f"nothing {name} {count}")
                continue
        else:
            late = kind > 0.75
            delay = chance.randint(100, int(SOON_SECONDS * 1000)) if late else chance.randint(1, 20)
            say(f"set {name} {count}")
            await stub.set(count, delay)
        say(f"done {name} {count}")
        if chance.random() < 0.3:
            await anyio.sleep(chance.random() * 0.02)


async def work(path: str, first: int) -> None:
    async with Runtime(path, max_open_objects=8, idle_timeout=0.1) as runtime:
        bells = runtime.namespace(Bell)
        async with anyio.create_task_group() as group:
            for number in range(CLIENTS):
                group.start_soon(client, bells, number, first)


@dataclass
class Bookkeeping:
    """What is known of one object's alarm."""

    acknowledged: int = 0
    """The last operation that was acknowledged."""
    kind: str = "delete"
    tried: int = 0
    tried_kind: str = "delete"


def note(line: str, books: dict[str, Bookkeeping]) -> None:
    what, name, text = line.split()
    book, number = books.setdefault(name, Bookkeeping()), int(text)
    if what in ("set", "delete"):
        book.tried, book.tried_kind = number, what
    elif what == "nothing":
        book.tried, book.tried_kind = book.acknowledged, book.kind
    else:
        book.acknowledged, book.kind = number, book.tried_kind


def one_round(
    path: str, backend: str, chance: random.Random, books: dict[str, Bookkeeping], first: int
) -> tuple[int, int]:
    """Run, kill, and look; how many operations were acknowledged and how many alarms had to run."""
    command = python(
        "tests.crash.alarms", "--work", path, "--first", str(first), "--backend", backend
    )
    enough = chance.randint(1, 400)
    done = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            while done < enough:
                line = process.stdout.readline()
                assert line, f"the worker ended by itself: {process.wait()}"
                note(line, books)
                done += line.startswith("done")
        finally:
            process.send_signal(signal.SIGKILL)
        for line in process.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                note(line, books)
    due: int = anyio.run(look, path, books, backend=backend)
    return done, due


async def look(path: str, books: dict[str, Bookkeeping]) -> int:
    """Let every alarm that is left run, and compare."""
    owed = 0
    async with Runtime(path) as runtime:
        registry = runtime.registry
        assert not registry.clean_start
        bells = runtime.namespace(Bell)
        with anyio.fail_after(300):
            while registry.count_alarms():  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.02)
        for name, book in books.items():
            number, runs, pending = await bells.get_by_name(name).state()
            where = f"{name}: {book}, found {number}, {runs}, alarm set: {pending}"
            assert not pending, f"an alarm is set and did not run: {where}"
            assert number in (book.acknowledged, book.tried), f"an operation is lost: {where}"
            kind = book.kind if number == book.acknowledged else book.tried_kind
            if kind == "set":
                owed += 1
                assert runs.get(number), f"an alarm did not run: {where}"
            else:
                assert not runs.get(number), f"a deleted alarm ran: {where}"
            book.acknowledged = book.tried = number
            book.kind = book.tried_kind = kind
    return owed


def rounds(count: int, seed: int) -> tuple[int, int]:
    """Kill so many times in one directory; operations acknowledged, alarms that had to run."""
    chance = random.Random(seed)
    books: dict[str, Bookkeeping] = {}
    operations = owed = 0
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-crash-") as place:
        path = os.path.join(place, "data")
        for number in range(count):
            backend = ("asyncio", "trio")[number % 2]
            done, due = one_round(path, backend, chance, books, (number + 1) * 1_000_000)
            operations += done
            owed += due
    return operations, owed


# -- many alarms at once


class Many(DurableObject):
    async def set(self, when: int) -> None:
        self.ctx.storage.set_alarm(when)

    async def alarm(self) -> None:
        self.ctx.storage.kv.put("runs", self.ctx.storage.kv.get("runs", 0) + 1)
        self.env.append(self.ctx.id.name)

    async def runs(self) -> int:
        return self.ctx.storage.kv.get("runs", 0)


async def flood(count: int, open_max: int, path: str) -> dict[str, float]:
    """Set alarms that are all due in the same second, and let them run."""
    ran: list[str] = []
    async with Runtime(path, env=ran, max_open_objects=open_max, idle_timeout=3600) as runtime:
        objects = runtime.namespace(Many)
        began = time.monotonic()
        # Far enough away that none runs while they are still being set.
        due = int(time.time() * 1000) + 3_600_000
        limiter = anyio.CapacityLimiter(64)

        async def one(number: int) -> None:
            async with limiter:
                await objects.get_by_name(f"m{number}").set(due + number % 1000)

        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(one, number)
        set_seconds = time.monotonic() - began
        assert not ran
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # A restart with a clock that has come to that second.
    clock = _LaterClock(3_600_000 + int(set_seconds * 1000) + 1000)
    most = 0
    async with Runtime(
        path, env=ran, max_open_objects=open_max, idle_timeout=3600, clock=clock
    ) as runtime:
        began = time.monotonic()
        objects = runtime.namespace(Many)
        while len(ran) < count:
            most = max(most, runtime.open_objects)
            await anyio.sleep(0.01)
            assert time.monotonic() - began < 600, f"{len(ran)} of {count} ran"
        while runtime.registry.count_alarms():  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)
        run_seconds = time.monotonic() - began
        assert len(ran) == len(set(ran)) == count, "an alarm ran twice"
        for number in random.Random(0).sample(range(count), min(count, 500)):
            assert await objects.get_by_name(f"m{number}").runs() == 1
    return {
        "alarms": count,
        "open at most": most,
        "set, seconds": round(set_seconds, 1),
        "run, seconds": round(run_seconds, 1),
        "alarms a second": round(count / run_seconds),
        "memory at most, MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "of that before they ran, MiB": round(before / 1024),
    }


class _LaterClock:
    """The system's clock, ahead by some time."""

    def __init__(self, ahead_ms: int) -> None:
        self._ahead_ms = ahead_ms

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep_until(self, deadline: float) -> None:
        await anyio.sleep(max(0.0, deadline - time.monotonic()))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--flood", type=int, default=0)
    parser.add_argument("--open", type=int, default=500)
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        anyio.run(work, options.work, options.first, backend=options.backend)
    if options.rounds:
        operations, owed = rounds(options.rounds, options.seed)
        print(
            f"{options.rounds} kills, {operations} acknowledged operations on alarms, "
            f"{owed} alarms had to run afterwards, 0 did not (seed {options.seed})"
        )
    if options.flood:
        with tempfile.TemporaryDirectory() as place:
            path = os.path.join(place, "data")
            figures = anyio.run(flood, options.flood, options.open, path, backend=options.backend)
        print(", ".join(f"{name}: {value}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
