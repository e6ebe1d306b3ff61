"""Objects of the legacy backend against a dict, over a store of random speed that fails at times.

One machine plays events one after the other: each is a random script of operations, and the store
may fail under it. What an event answered must be what a dict answers; after an acknowledged event
the object holds what the dict does, after a failed one either that or what was there before. Another
plays increments side by side, in events, child tasks and transactions, with cancellations: an
acknowledged one is never lost, an unacknowledged one counts at most once.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from durable_storage import DurableObject, Limits, ObjectResetError, Runtime
from durable_storage.testing import evict_durable_object

from .profiles import times

EVENTS = 25
SEEDS = 20
KEYS = ("a", "b", "c", "é", "\U0010ffff", "b/1")


class RandomStore:
    """A store in memory; its calls overlap, and each may fail before or after it has its effect."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.data: dict[str, bytes] = {}
        self.failure_rate = 0.0
        self.failures = 0

    def __call__(self, namespace: str, object_id: str) -> RandomStore:
        return self

    async def _pause(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await anyio.lowlevel.checkpoint()
        if self.rng.random() < self.failure_rate:
            self.failures += 1
            raise ConnectionError("injected")

    async def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        await self._pause()
        found = {key: self.data[key] for key in keys if key in self.data}
        await self._pause()
        return found

    async def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[str, bytes]]:
        await self._pause()
        pairs = listed(self.data, start, start_after, end, prefix, reverse, limit)
        await self._pause()
        return pairs

    async def batch(self, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        await self._pause()
        self.data.update(puts)
        for key in deletes:
            self.data.pop(key, None)
        await self._pause()

    async def delete_all(self) -> None:
        await self._pause()
        self.data.clear()
        await self._pause()

    async def close(self) -> None:
        pass


def listed(
    data: Mapping[str, Any],
    start: str | None,
    start_after: str | None,
    end: str | None,
    prefix: str | None,
    reverse: bool,
    limit: int | None,
) -> list[tuple[str, Any]]:
    return [
        (key, data[key])
        for key in sorted(data, reverse=reverse)
        if (start is None or key >= start)
        and (start_after is None or key > start_after)
        and (end is None or key < end)
        and (prefix is None or key.startswith(prefix))
    ][:limit]


class Undo(Exception):
    """Ends a transaction without its effect."""


class Scripted(DurableObject):
    """An object whose events carry out scripts and compare every answer with a dict."""

    async def play(self, script: list[Any], model: dict[str, Any]) -> None:
        await perform(self.ctx.storage, self.ctx.storage, script, model)

    async def read_all(self) -> dict[str, Any]:
        return await self.ctx.storage.list()

    async def increment(self, way: str) -> int:
        storage = self.ctx.storage
        if way == "children":
            results: list[int] = []

            async def child() -> None:
                value = await storage.get("n", 0)
                storage.put("n", value + 1)
                results.append(value + 1)

            async with anyio.create_task_group() as group:
                group.start_soon(child)
            return results[0]
        if way == "transaction":
            async with storage.transaction() as txn:
                value = int(await txn.get("n", 0))
                await anyio.lowlevel.checkpoint()
                await txn.put("n", value + 1)
            return value + 1
        value = await storage.get("n", 0)
        await storage.put("n", value + 1)
        if way == "sync":
            await storage.sync()
        elif way == "list":
            assert (await storage.list(prefix="n"))["n"] >= value + 1
        return int(value) + 1


async def perform(storage: Any, target: Any, script: list[Any], model: dict[str, Any]) -> None:
    """Carry out a script on storage or a transaction; ``model`` is what the target sees."""
    for operation, argument in script:
        match operation:
            case "put":
                target.put(argument)
                model.update(argument)
            case "delete":
                count = sum(key in model for key in argument)
                answer = target.delete(argument)
                for key in argument:
                    model.pop(key, None)
                if len(argument) % 2:
                    assert await answer == count
            case "get":
                expected = {key: model[key] for key in sorted(argument) if key in model}
                assert await target.get(argument) == expected
            case "list":
                expected = dict(listed(model, *argument.values()))
                answer = await target.list(**argument)
                assert list(answer.items()) == list(expected.items())
            case "delete_all":
                storage.delete_all()
                model.clear()
            case "sync":
                await storage.sync()
            case "checkpoint":
                await anyio.lowlevel.checkpoint()
            case "transaction":
                inner, keep = argument
                view = dict(model)
                try:
                    async with storage.transaction() as txn:
                        await perform(storage, txn, inner, view)
                        if not keep:
                            raise Undo
                except Undo:
                    continue
                model.clear()
                model.update(view)


def make_script(rng: random.Random, depth: int = 0) -> list[Any]:
    script: list[Any] = []
    for _ in range(rng.randrange(1, 6)):
        keys = rng.sample(KEYS, rng.randrange(1, 4))
        operation = rng.choice(
            ["put", "put", "delete", "get", "get", "list", "checkpoint"]
            + (["sync", "delete_all", "transaction", "transaction"] if not depth else [])
            + (["transaction"] if depth == 1 else [])
        )
        argument: Any = None
        if operation == "put":
            argument = {key: rng.choice([None, 1, "x" * 40, [1, 2]]) for key in keys}
        elif operation in ("delete", "get"):
            argument = keys
        elif operation == "list":
            after = rng.random() < 0.5
            argument = {
                "start": None if after else rng.choice([None, *keys]),
                "start_after": rng.choice([None, *keys]) if after else None,
                "end": rng.choice([None, None, *keys]),
                "prefix": rng.choice([None, None, "b"]),
                "reverse": rng.random() < 0.5,
                "limit": rng.choice([None, 1, 2, 5]),
            }
        elif operation == "transaction":
            argument = (make_script(rng, depth + 1), rng.random() < 0.6)
        script.append((operation, argument))
    return script


async def play_scripts(seed: int) -> None:
    rng = random.Random(seed)
    store = RandomStore(rng)
    cache = rng.choice([1, 300, 100_000])
    async with Runtime(kv_backend=store, limits=Limits(cache_size_max_bytes=cache)) as runtime:
        stub = runtime.namespace(Scripted, storage="kv").get_by_name("one")
        state: dict[str, Any] = {}
        for _ in range(EVENTS):
            script = make_script(rng)
            after = dict(state)
            store.failure_rate = rng.choice([0, 0, 0.05])
            try:
                await stub.play(script, after)
                allowed = [after]
            except ObjectResetError:
                # What ends a step may have committed a part; without it, all or nothing happened.
                one_step = all(operation == "put" for operation, _ in script)
                allowed = [state, after] if one_step else []
            store.failure_rate = 0
            if rng.random() < 0.2:
                await evict_durable_object(stub)
            state = await stub.read_all()
            assert not allowed or state in allowed, (seed, script, state, allowed)
    held = {key[1:] for key in store.data if key.startswith("u")}
    assert held == state.keys()


async def play_increments(seed: int) -> None:
    rng = random.Random(seed)
    store = RandomStore(rng)
    cache = rng.choice([1, 100_000])
    acknowledged = 0
    attempted = 0
    async with Runtime(kv_backend=store, limits=Limits(cache_size_max_bytes=cache)) as runtime:
        stub = runtime.namespace(Scripted, storage="kv").get_by_name("one")
        store.failure_rate = rng.choice([0, 0.02])
        cancels = rng.random() < 0.5

        async def call(way: str) -> None:
            nonlocal acknowledged, attempted
            for _ in range(4):
                attempted += 1
                with anyio.CancelScope() as scope:
                    if cancels and rng.random() < 0.3:
                        async with anyio.create_task_group() as group:
                            group.start_soon(cancel_later, scope)
                            await one(way)
                    else:
                        await one(way)

        async def one(way: str) -> None:
            nonlocal acknowledged
            try:
                await stub.increment(way)
                acknowledged += 1
            except ObjectResetError:
                pass

        async def cancel_later(scope: anyio.CancelScope) -> None:
            for _ in range(rng.randrange(20)):
                await anyio.lowlevel.checkpoint()
            scope.cancel()

        with anyio.fail_after(300):
            async with anyio.create_task_group() as group:
                for way in ("plain", "plain", "children", "transaction", "sync", "list"):
                    group.start_soon(call, way)
        store.failure_rate = 0
        total = (await stub.read_all()).get("n", 0)
        assert acknowledged <= total <= attempted, (seed, acknowledged, total, attempted)
        if not store.failures and not cancels:
            assert acknowledged == attempted


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(SEEDS * times(metafunc.config)))


@pytest.mark.anyio
async def test_scripts_answer_as_a_dict_does(seed: int) -> None:
    await play_scripts(seed)


@pytest.mark.anyio
async def test_no_acknowledged_increment_is_lost(seed: int) -> None:
    await play_increments(seed)
