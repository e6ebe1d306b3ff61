"""The index of a great many alarms: what it takes to load it, and that they run in order."""

from __future__ import annotations

import gc
import pathlib
from collections.abc import Iterator
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from durable_storage import DurableObject, History, Runtime
from durable_storage.gates.loop import Loop
from durable_storage.runtime.alarms import GIVE_WAY_EVERY, AlarmScheduler
from durable_storage.runtime.registry import AlarmRecord, NamespaceNumber, Registry
from durable_storage.testing import ManualClock

pytestmark = pytest.mark.anyio

MANY = 5 * GIVE_WAY_EVERY
FIRST, SECOND = NamespaceNumber(1), NamespaceNumber(2)


class Moment(int):
    """A time in milliseconds that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Moment.compared += 1
        return int(self) == other

    def __lt__(self, other: int) -> bool:
        Moment.compared += 1
        return int(self) < int(other)

    __hash__ = int.__hash__


class Index:
    """A registry's index of alarms, the latest first."""

    def __init__(self, many: int) -> None:
        self.many = many

    def alarms_all(self) -> Iterator[AlarmRecord]:
        for number in range(self.many):
            yield AlarmRecord(Moment(self.many - number), FIRST, f"{number:064x}")


def scheduler(registry: object) -> AlarmScheduler:
    async def run(namespace: NamespaceNumber, object_id: str) -> int | None:
        raise AssertionError("the scheduler was not started")

    return AlarmScheduler(Loop.running(), ManualClock(), cast(Registry, registry), run)


@pytest.mark.parametrize("known_before", [False, True])
async def test_alarms_are_loaded_with_few_comparisons_each(
    known_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Moment, "compared", 0)
    alarms = scheduler(Index(MANY))
    if known_before:
        alarms.add_namespace(FIRST)
    await alarms.load()
    alarms.add_namespace(FIRST)
    assert Moment.compared <= 6 * MANY
    heap = alarms._heap
    assert len(heap) == MANY
    assert all(heap[(place - 1) // 2] <= heap[place] for place in range(1, MANY))


async def test_others_run_while_alarms_are_loaded() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    alarms = scheduler(Index(MANY))
    async with anyio.create_task_group() as group:
        group.start_soon(others)
        await alarms.load()
        assert turns >= MANY // GIVE_WAY_EVERY - 1
        group.cancel_scope.cancel()


async def test_loaded_alarms_are_nothing_to_the_garbage_collector(tmp_path: pathlib.Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    for number in range(MANY):
        registry.alarm_set(FIRST, f"{number:064x}", number)
    alarms = scheduler(registry)
    alarms.add_namespace(FIRST)
    gc.collect()
    before = len(gc.get_objects())
    await alarms.load()
    # A tuple is let go of after those inside it.
    gc.collect()
    gc.collect()
    assert len(gc.get_objects()) - before < MANY // 10
    registry.close()


class Ringer(DurableObject):
    async def set(self, due_ms: int) -> None:
        self.ctx.storage.set_alarm(due_ms)

    async def alarm(self) -> None:
        self.env.append(self.ctx.id.name)


async def test_alarms_of_several_namespaces_run_in_order_after_a_new_start(
    tmp_path: pathlib.Path,
) -> None:
    rung: list[str] = []
    clock = ManualClock()
    options: dict[str, Any] = {
        "env": rung, "clock": clock, "history": History(enabled=False), "idle_timeout": 1e6
    }  # fmt: skip
    now = clock.time_ms()
    names = [f"{number:02}" for number in range(40)]
    async with Runtime(tmp_path, **options) as runtime:
        # One has many, which come first, and the other few.
        for number, name in enumerate(names):
            namespace = runtime.namespace(Ringer, name="few" if number % 20 == 19 else "many")
            await namespace.get_by_name(name).set(now + 1000 * (len(names) - number))
    async with Runtime(tmp_path, **options) as runtime:
        runtime.namespace(Ringer, name="many")
        runtime.namespace(Ringer, name="few")
        for _ in names:
            await clock.advance(1)
    assert rung == names[::-1]
