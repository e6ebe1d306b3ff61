"""Random events over several objects, checked against what a serial order allows.

Each history is made from a seed: events that read, write, increment, run transactions and critical
sections, start child tasks, call other objects, abort, and are cancelled at random, while
confirmations are delayed and fail. Checked throughout: inside a transaction nothing but its own writes
happens; a rolled-back one leaves nothing; an acknowledged increment is never lost and an unacknowledged
one counts at most once; nobody waits for ever; nothing is left behind.

``python -m tests.stateful.test_events COUNT [FIRST_SEED]`` runs many and prints a failing seed.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import sys
import tempfile
import threading
import warnings
from collections import Counter
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from durable_storage import (
    ConcurrencyError,
    DurableObject,
    History,
    Limits,
    ObjectResetError,
    Runtime,
)
from durable_storage.gates import loop

from .profiles import times

HISTORIES = 60
AT_A_TIME = 20
OBJECTS = ("a", "b", "c")
KEYS = ("k0", "k1", "k2")


class Disk:
    """Delays confirmations by nothing the loop can see, and fails some of them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.lock = threading.Lock()
        self.failures = 0
        self.calls = 0
        self.calm = True

    def before(self, operation: str, path: str) -> None:
        if operation == "fdatasync" and path.endswith("-wal"):
            with self.lock:
                self.calls += 1
                fail = not self.calm and self.rng.random() < 0.03
                self.failures += fail
            if fail:
                raise OSError(errno.EIO, "injected")


class World:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.acknowledged: Counter[tuple[str, str]] = Counter()
        self.attempted: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []
        self.finished = 0
        self.inside: dict[str, int] = {}


class Node(DurableObject):
    """An object that carries out scripts."""

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self.world: World = env.world
        self.label = ctx.id.name

    async def run(self, script: list[Any], done: list[tuple[str, str]]) -> int:
        for step in script:
            await self.step(step, done)
        return len(script)

    async def pause(self, turns: int) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()

    def bump(self, key: str, done: list[tuple[str, str]]) -> None:
        counter = f"n:{key}"
        done.append((self.label, counter))
        self.world.attempted[self.label, counter] += 1
        self.ctx.storage.kv.put(counter, self.ctx.storage.kv.get(counter, 0) + 1)

    async def step(self, step: Any, done: list[tuple[str, str]]) -> None:
        kind, *rest = step
        storage = self.ctx.storage
        if kind == "pause":
            await self.pause(rest[0])
        elif kind == "get":
            await storage.get(rest[0])
        elif kind == "put":
            storage.put(rest[0], self.world.rng.random())
        elif kind == "bump":
            self.bump(rest[0], done)
        elif kind == "async_bump":
            counter = f"n:{rest[0]}"
            done.append((self.label, counter))
            self.world.attempted[self.label, counter] += 1
            value = await storage.get(counter, 0)
            await storage.put(counter, value + 1)
        elif kind == "sql":
            storage.sql.exec("CREATE TABLE IF NOT EXISTS t(x)")
            storage.sql.exec("INSERT INTO t VALUES (?)", 1)
        elif kind == "sync":
            await storage.sync()
        elif kind == "section":
            await self.ctx.block_concurrency_while(lambda: self.section(rest[0], done))
        elif kind == "transaction":
            await self.transaction(rest[0], rest[1], done)
        elif kind == "context":
            async with storage.transaction() as txn:
                await self.isolated(rest[0], done, txn)
        elif kind == "savepoint":
            self.savepoint(rest[0], done)
        elif kind == "children":
            async with anyio.create_task_group() as group:
                for script in rest[0]:
                    group.start_soon(self.child, script)
        elif kind == "gather":
            await self.ctx.gather(*[self.run(script, done) for script in rest[0]])
        elif kind == "call":
            stub = self.env.nodes.get_by_name(rest[0])
            await stub.run(rest[1], done)
        elif kind == "background":
            self.ctx.wait_until(self.quietly(rest[0]))
        elif kind == "raise":
            raise ValueError("own")
        elif kind == "abort":
            self.ctx.abort("aborted")
        else:
            raise AssertionError(kind)

    async def quietly(self, script: list[Any]) -> None:
        # What background work does is acknowledged to nobody.
        await self.run(script, [])

    async def child(self, script: list[Any]) -> None:
        """A task that no gate drives: its writes must wait, or be refused."""
        for step in script:
            await self.pause(2)
            try:
                if step[0] == "put":
                    await self.ctx.storage.put(f"child:{step[1]}", 1)
                else:
                    self.ctx.storage.kv.put(f"child:{step[1]}", 2)
            except ConcurrencyError:
                pass

    async def section(self, script: list[Any], done: list[tuple[str, str]]) -> None:
        depth = self.world.inside.get(self.label, 0)
        self.world.inside[self.label] = depth + 1
        try:
            before = await self.ctx.storage.list()
            await self.pause(3)
            if await self.ctx.storage.list() != before:
                self.world.problems.append("a critical section saw another event's write")
            await self.run(script, done)
        finally:
            self.world.inside[self.label] = depth

    async def transaction(
        self, script: list[Any], fails: bool, done: list[tuple[str, str]]
    ) -> None:
        mine: list[tuple[str, str]] = []

        async def body(txn: Any) -> None:
            await self.isolated(script, mine, txn)
            if fails:
                raise KeyError("undo")

        try:
            await self.ctx.storage.transaction(body)
        except KeyError:
            for entry in mine:
                self.world.attempted[entry] -= 1
        else:
            done.extend(mine)

    async def isolated(self, script: list[Any], done: list[tuple[str, str]], txn: Any) -> None:
        expected = await txn.list()
        for step in script:
            if step[0] == "pause":
                await self.pause(step[1])
            elif step[0] == "put":
                value = self.world.rng.random()
                txn.put(step[1], value)
                expected[step[1]] = value
            elif step[0] == "bump":
                self.bump(step[1], done)
                expected[f"n:{step[1]}"] = expected.get(f"n:{step[1]}", 0) + 1
            if await txn.list() != expected:
                self.world.problems.append(f"a transaction saw a foreign write after {step}")
                return

    def savepoint(self, fails: bool, done: list[tuple[str, str]]) -> None:
        mine: list[tuple[str, str]] = []
        try:
            with self.ctx.storage.transaction_sync():
                self.bump("k0", mine)
                self.ctx.storage.kv.put("k1", 7)
                if fails:
                    raise KeyError("undo")
        except KeyError:
            for entry in mine:
                self.world.attempted[entry] -= 1
        else:
            done.extend(mine)

    async def dump(self) -> dict[str, Any]:
        return await self.ctx.storage.list(prefix="n:")


def make_script(rng: random.Random, depth: int, label: str) -> list[Any]:
    script: list[Any] = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.choices(
            [
                "pause",
                "get",
                "put",
                "bump",
                "async_bump",
                "sql",
                "sync",
                "section",
                "transaction",
                "context",
                "savepoint",
                "children",
                "gather",
                "call",
                "background",
                "raise",
                "abort",
            ],
            [6, 3, 5, 6, 4, 2, 1, 2, 4, 2, 2, 3, 2, 2, 1, 0.4, 0.2],
        )[0]
        key = rng.choice(KEYS)
        if kind == "pause":
            script.append((kind, rng.randint(1, 6)))
        elif kind in ("get", "put", "bump", "async_bump"):
            script.append((kind, key))
        elif kind in ("sql", "sync", "raise", "abort"):
            script.append((kind,))
        elif kind == "savepoint":
            script.append((kind, rng.random() < 0.3))
        elif kind == "children":
            script.append(
                (
                    kind,
                    [
                        [(rng.choice(("put", "kvput")), rng.choice(KEYS)) for _ in range(2)]
                        for _ in range(2)
                    ],
                )
            )
        elif depth <= 0:
            script.append(("bump", key))
        elif kind == "section":
            script.append((kind, make_script(rng, depth - 1, label)))
        elif kind in ("transaction", "context"):
            inner = [
                rng.choice(
                    [
                        ("pause", rng.randint(1, 5)),
                        ("put", rng.choice(KEYS)),
                        ("bump", rng.choice(KEYS)),
                    ]
                )
                for _ in range(rng.randint(1, 4))
            ]
            script.append(
                (kind, inner, rng.random() < 0.3) if kind == "transaction" else (kind, inner)
            )
        elif kind == "gather":
            script.append((kind, [make_script(rng, 0, label) for _ in range(2)]))
        elif kind == "call":
            # Only downwards, so that no ring of critical sections can form.
            others = [o for o in OBJECTS if o > label]
            if others:
                other = rng.choice(others)
                script.append((kind, other, make_script(rng, depth - 1, other)))
        elif kind == "background":
            script.append((kind, make_script(rng, 0, label)))
    return script


async def client(world: World, nodes: Any, label: str, script: list[Any], patience: int) -> None:
    done: list[tuple[str, str]] = []
    try:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                if patience:
                    group.start_soon(impatient, patience, scope)
                await nodes.get_by_name(label).run(script, done)
                for entry in done:
                    world.acknowledged[entry] += 1
                group.cancel_scope.cancel()
    except* (ObjectResetError, ValueError, ConcurrencyError):
        pass
    world.finished += 1


async def dump(node: Any) -> dict[str, Any]:
    error: ObjectResetError | None = None
    for _ in range(3):
        # A confirmation that was under way when the disk became calm may still fail.
        try:
            return await node.dump()
        except ObjectResetError as exc:
            error = exc
    raise AssertionError("a calm disk kept failing") from error


def descriptors() -> int:
    """How many are open, where that can be seen."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def impatient(turns: int, scope: anyio.CancelScope) -> None:
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def play(seed: int) -> None:
    world = World(seed)
    rng = world.rng
    disk = Disk(random.Random(seed + 1))
    before = descriptors()

    class Env:
        pass

    env = Env()
    env.world = world  # type: ignore[attr-defined]
    with anyio.fail_after(300):
        async with Runtime(
            env=env, faults=disk, history=History(enabled=False), limits=Limits(queued_events=1000)
        ) as runtime:
            nodes = env.nodes = runtime.namespace(Node)  # type: ignore[attr-defined]
            disk.calm = False
            async with anyio.create_task_group() as group:
                for _ in range(rng.randint(6, 14)):
                    label = rng.choice(OBJECTS)
                    script = make_script(rng, 2, label)
                    patience = rng.randint(1, 40) if rng.random() < 0.25 else 0
                    group.start_soon(client, world, nodes, label, script, patience)
                    for _ in range(rng.randint(0, 6)):
                        await anyio.lowlevel.checkpoint()
            disk.calm = True
            await runtime._quiet()
            for label in OBJECTS:
                final = await dump(nodes.get_by_name(label))
                for key in KEYS:
                    counter = f"n:{key}"
                    value = final.get(counter, 0)
                    least = world.acknowledged[label, counter]
                    most = world.attempted[label, counter]
                    if not least <= value <= most:
                        world.problems.append(
                            f"{label} {counter} is {value}, acknowledged {least}, attempted {most}"
                        )
            await runtime._quiet()
            for residents in runtime._residents.values():
                for resident in residents.values():
                    life = resident.host.life
                    if life is None:
                        continue
                    if life.root.child is not None or life.root.promised is not None:
                        world.problems.append("a lock was leaked")
                    if life.waiting or life.calling or life.explicit:
                        world.problems.append("a frame was left behind")
                    if resident.host.session is not None and resident.host.session.depth:
                        world.problems.append("a savepoint was left open")
    gc.collect()
    if descriptors() > before + 2:
        world.problems.append("descriptors were left open")
    assert not world.problems, f"seed {seed}: {world.problems}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "first" in metafunc.fixturenames:
        histories = HISTORIES * times(metafunc.config)
        metafunc.parametrize("first", range(0, histories, AT_A_TIME))


@pytest.mark.anyio
async def test_random_events_leave_what_a_serial_order_allows(first: int) -> None:
    for seed in range(first, first + AT_A_TIME):
        try:
            await play(seed)
        except BaseException as exc:
            exc.add_note(f"seed {seed}")
            raise


@pytest.mark.anyio
@pytest.mark.parametrize("seed", [3, 12, 27, 38])
async def test_random_events_that_give_way_wherever_they_may(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "GIVE_WAY_AFTER_EVENTS", -1)
    monkeypatch.setattr(loop, "GIVE_WAY_AFTER_SECONDS", -1)
    await play(seed)


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else 1000
    first = int(arguments[1]) if len(arguments) > 1 else 0
    warnings.simplefilter("error")
    for seed in range(first, first + count):
        for backend in ("asyncio", "trio"):
            try:
                anyio.run(play, seed, backend=backend)
            except BaseException as exc:
                print(f"seed {seed} on {backend}: {exc!r}", file=sys.stderr)
                raise
    print(f"{count} histories on each backend from seed {first}: nothing lost, nothing interleaved")
    return 0


if __name__ == "__main__":
    tempfile.tempdir = "/dev/shm" if os.path.isdir("/dev/shm") else None
    sys.exit(main(sys.argv[1:]))
