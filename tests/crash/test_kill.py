"""A process is killed while clients increment counters: what was acknowledged is there.

``python -m tests.crash.test_kill ROUNDS`` kills as often as asked; the test does a few rounds.
"""

from __future__ import annotations

import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import pytest

ROUNDS = 4
OBJECTS = 20
CLIENTS = 100

WORKER = """
import sys, anyio
from durable_storage import DurableObject, Runtime

class Counter(DurableObject):
    async def increment(self):
        value = await self.ctx.storage.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        self.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS log(n INTEGER PRIMARY KEY)")
        self.ctx.storage.sql.exec("INSERT INTO log VALUES (?)", value)
        return value

    async def value(self):
        rows = self.ctx.storage.sql.exec("SELECT count(*) AS n FROM sqlite_master WHERE name='log'").one()
        logged = self.ctx.storage.sql.exec("SELECT count(*) AS n FROM log").one()["n"] if rows["n"] else 0
        return await self.ctx.storage.get("value", 0), logged

async def client(counters, number):
    i = number
    while True:
        name = f"c{i % %(objects)d}"
        value = await counters.get_by_name(name).increment()
        sys.stdout.write(f"{name} {value}\\n")
        sys.stdout.flush()
        i += 7

async def main():
    async with Runtime(sys.argv[1]) as runtime:
        counters = runtime.namespace(Counter)
        if sys.argv[2] == "check":
            for i in range(%(objects)d):
                value, logged = await counters.get_by_name(f"c{i}").value()
                print(f"c{i} {value} {logged}")
            return
        async with anyio.create_task_group() as group:
            for i in range(%(clients)d):
                group.start_soon(client, counters, i)

anyio.run(main, backend=sys.argv[3])
""".replace("%(objects)d", str(OBJECTS)).replace("%(clients)d", str(CLIENTS))


def one_round(
    directory: str, backend: str, rng: random.Random, acknowledged: dict[str, int]
) -> int:
    """Run, kill, read what was acknowledged, then check what is there; how many were acknowledged."""
    script = os.path.join(directory, "worker.py")
    pathlib.Path(script).write_text(WORKER)
    data = os.path.join(directory, "data")
    count = 0
    enough = rng.randint(1, 1500)
    with subprocess.Popen(
        [sys.executable, script, data, "run", backend], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while count < enough:
            line = process.stdout.readline()
            if not line:
                raise AssertionError(f"the worker ended by itself: {process.wait()}")
            count += note(line, acknowledged)
        process.send_signal(signal.SIGKILL)
        for line in process.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                count += note(line, acknowledged)
    checked = subprocess.run(
        [sys.executable, script, data, "check", backend],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert checked.returncode == 0, checked.stderr
    for line in checked.stdout.splitlines():
        name, value, logged = line.split()
        assert int(value) >= acknowledged.get(name, 0), (name, value, acknowledged[name])
        assert value == logged, f"half a commit of {name} is there: {line}"
        acknowledged[name] = int(value)
    for path in pathlib.Path(data).rglob("*.sqlite"):
        connection = sqlite3.connect(path)
        try:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), path
        finally:
            connection.close()
    return count


def note(line: str, acknowledged: dict[str, int]) -> int:
    name, value = line.split()
    acknowledged[name] = max(acknowledged.get(name, 0), int(value))
    return 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_acknowledged_increments_survive_a_kill(backend: str, tmp_path: pathlib.Path) -> None:
    rng = random.Random(backend)
    acknowledged: dict[str, int] = {}
    for _ in range(ROUNDS // 2):
        one_round(str(tmp_path), backend, rng, acknowledged)


def main(arguments: list[str]) -> int:
    rounds = int(arguments[0]) if arguments else 50
    rng = random.Random(int(arguments[1]) if len(arguments) > 1 else time.time_ns())
    total = 0
    with tempfile.TemporaryDirectory() as directory:
        acknowledged: dict[str, int] = {}
        for number in range(rounds):
            total += one_round(directory, ("asyncio", "trio")[number % 2], rng, acknowledged)
    print(f"{rounds} kills, {total} acknowledged increments, 0 lost")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
