"""Calls that reach an object, or a runtime, when it has just been closed."""

from __future__ import annotations

import pathlib
from typing import Any

import anyio
import pytest

from durable_storage import DurableObject, DurableStorageError, Runtime
from durable_storage.testing import FaultInjector, evict_durable_object

pytestmark = pytest.mark.anyio


class Counter(DurableObject):
    async def increment(self) -> int:
        value: int = await self.ctx.storage.get("value", 0)
        self.ctx.storage.put("value", value + 1)
        return value + 1


class Caller(DurableObject):
    async def call(self, counter: Any) -> int:
        self.ctx.storage.put("key", await self.ctx.storage.get("key", 0) + 1)
        value: int = await counter.increment()
        return value


async def test_an_object_closed_while_its_caller_waits_for_the_disk_is_opened_anew(
    tmp_path: pathlib.Path,
) -> None:
    faults = FaultInjector()
    answers: list[int] = []
    async with Runtime(tmp_path, faults=faults) as runtime:
        counter = runtime.namespace(Counter).get_by_name("counter")
        caller = runtime.namespace(Caller).get_by_name("caller")
        assert await counter.increment() == 1
        assert await caller.call(counter) == 2

        async def call() -> None:
            answers.append(await caller.call(counter))

        with faults.hold("fdatasync") as held:
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                with anyio.fail_after(60):
                    await held.reached()
                # Closing it waits for the disk as well.
                group.start_soon(evict_durable_object, counter)
                await anyio.wait_all_tasks_blocked()
                held.release()
        assert answers == [3]
        assert runtime.open_objects == 2
        assert await runtime.namespace(Counter).get_by_name("counter").increment() == 4
        assert await caller.call(counter) == 5


async def test_objects_of_another_runtime_cannot_open_a_closed_one(tmp_path: pathlib.Path) -> None:
    async with Runtime(tmp_path) as closed:
        used = closed.namespace(Counter).get_by_name("used")
        unused = closed.namespace(Counter).get_by_name("unused")
        await used.increment()
    async with Runtime() as runtime:
        caller = runtime.namespace(Caller).get_by_name("caller")
        for stub in (used, unused):
            with pytest.raises(DurableStorageError, match="after its runtime was closed"):
                await caller.call(stub)
    assert closed.open_objects == 0


class Remembering(DurableObject):
    calls = 0

    async def call(self) -> int:
        self.calls += 1
        return self.calls


async def test_the_object_that_was_called_longest_ago_makes_room() -> None:
    async with Runtime(max_open_objects=3) as runtime:
        objects = runtime.namespace(Remembering)
        for name in "abcab":
            await objects.get_by_name(name).call()
        assert await objects.get_by_name("d").call() == 1
        assert [await objects.get_by_name(name).call() for name in "abd"] == [3, 3, 2]
        assert await objects.get_by_name("c").call() == 1
        assert [await objects.get_by_name(name).call() for name in "bd"] == [4, 3]
