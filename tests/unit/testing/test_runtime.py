"""Moving time, reaching into objects, taking and restoring whole runtimes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from durable_storage import DurableObject, Runtime
from durable_storage.errors import ArgumentTypeError, ConcurrencyError
from durable_storage.testing import (
    ManualClock,
    evict_all_durable_objects,
    evict_durable_object,
    list_durable_object_ids,
    run_durable_object_alarm,
    run_in_durable_object,
    runtime_for_test,
)

from .samples import Counter, Daily, Flaky, Reminder

pytest_plugins = ["durable_storage.pytest_plugin"]
pytestmark = pytest.mark.anyio


# -- time


async def test_sixty_days_of_alarms_take_no_time(
    durable_runtime: Runtime, durable_clock: ManualClock
) -> None:
    daily = durable_runtime.namespace(Daily).get_by_name("d")
    await daily.start()
    started = time.process_time()
    await durable_clock.advance(days=60)
    # Of this process alone: a machine that is busy with others does not make it slow.
    worked_seconds = time.process_time() - started
    assert await daily.days() == 60
    assert worked_seconds < 1


def test_a_clock_starts_at_a_datetime() -> None:
    with pytest.raises(ArgumentTypeError, match="aware datetime"):
        ManualClock(0)  # type: ignore[arg-type] - refusing it is the point


async def test_retries_run_while_the_clock_is_moved(
    durable_runtime: Runtime, durable_clock: ManualClock
) -> None:
    flaky = durable_runtime.namespace(Flaky).get_by_name("f")
    await flaky.start()
    await durable_clock.advance(timedelta(minutes=2))
    assert await flaky.tries() == [0, 1, 2]


async def retry_times() -> list[datetime]:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    times: list[datetime] = []

    class Failing(DurableObject):
        async def start(self) -> None:
            self.ctx.storage.set_alarm(timedelta(seconds=1))

        async def alarm(self) -> None:
            times.append(clock.now)
            raise RuntimeError("never")

    async with runtime_for_test(clock=clock) as runtime:
        await runtime.namespace(Failing).get_by_name("f").start()
        await clock.advance(timedelta(minutes=10))
    return times


async def test_retries_come_at_the_same_moments_in_every_run() -> None:
    first = await retry_times()
    assert len(first) == 7
    assert await retry_times() == first


async def test_alarms_of_many_objects_run_in_order_of_time(
    durable_runtime: Runtime, durable_clock: ManualClock
) -> None:
    rung: list[tuple[str | None, datetime]] = []

    class Bell(DurableObject):
        async def set(self, seconds: int) -> None:
            self.ctx.storage.set_alarm(timedelta(seconds=seconds))

        async def alarm(self) -> None:
            rung.append((self.ctx.id.name, durable_clock.now))

    bells = durable_runtime.namespace(Bell)
    start = durable_clock.now
    for seconds in (30, 10, 20, 40):
        await bells.get_by_name(str(seconds)).set(seconds)
    await durable_clock.advance(seconds=35)
    assert rung == [(str(s), start + timedelta(seconds=s)) for s in (10, 20, 30)]


async def test_idle_objects_are_evicted_while_the_clock_is_moved(
    durable_runtime: Runtime, durable_clock: ManualClock
) -> None:
    await durable_runtime.namespace(Counter).get_by_name("c").increment()
    assert durable_runtime.open_objects == 1
    await durable_clock.advance(seconds=20)
    assert durable_runtime.open_objects == 0


async def test_setting_the_wall_clock_makes_alarms_due(
    durable_runtime: Runtime, durable_clock: ManualClock
) -> None:
    reminder = durable_runtime.namespace(Reminder).get_by_name("r")
    await reminder.remind(3600)
    durable_clock.set_wall(durable_clock.now + timedelta(hours=2))
    await durable_clock.advance(seconds=0)
    assert await reminder.rung()


# -- objects


async def test_a_test_can_look_inside_an_object(durable_runtime: Runtime) -> None:
    counter = durable_runtime.namespace(Counter).get_by_name("c")
    await counter.increment()

    async def look(instance: Counter, state: Any) -> int:
        assert isinstance(instance, Counter)
        assert state is instance.ctx
        return await state.storage.get("value")

    assert await run_in_durable_object(counter, look) == 1


async def test_an_alarm_can_be_run_at_once(durable_runtime: Runtime) -> None:
    reminder = durable_runtime.namespace(Reminder).get_by_name("r")
    assert not await run_durable_object_alarm(reminder)
    await reminder.remind(3600)
    assert await run_durable_object_alarm(reminder)
    assert await reminder.rung()
    assert not await run_durable_object_alarm(reminder)


async def test_eviction_loses_memory_and_keeps_storage(durable_runtime: Runtime) -> None:
    counters = durable_runtime.namespace(Counter)
    counter = counters.get_by_name("c")
    for _ in range(3):
        await counter.increment()
    first = await run_in_durable_object(counter, lambda instance, _: instance)
    await evict_durable_object(counter)
    assert await counter.increment() == 4
    assert await run_in_durable_object(counter, lambda instance, _: instance) is not first
    await counters.get_by_name("d").increment()
    assert await evict_all_durable_objects(durable_runtime) == 2


async def test_ids_are_listed(durable_runtime: Runtime) -> None:
    counters = durable_runtime.namespace(Counter)
    assert await list_durable_object_ids(counters) == []
    await counters.get_by_name("a").increment()
    await counters.get_by_name("b").increment()
    assert {each.name for each in await list_durable_object_ids(counters)} == {"a", "b"}


@pytest.mark.parametrize(
    "reach",
    [
        lambda runtime, stub: run_in_durable_object(stub, runtime),
        lambda runtime, stub: run_in_durable_object(runtime, lambda instance, state: None),
        lambda runtime, stub: run_durable_object_alarm(None),
        lambda runtime, stub: evict_durable_object("main"),
        lambda runtime, stub: evict_all_durable_objects(stub),
        lambda runtime, stub: list_durable_object_ids(stub),
    ],
)
async def test_what_cannot_be_reached_into_is_refused(
    durable_runtime: Runtime, reach: Callable[[Any, Any], Any]
) -> None:
    stub = durable_runtime.namespace(Counter).get_by_name("main")
    with pytest.raises(ArgumentTypeError, match="takes"):
        await reach(durable_runtime, stub)


# -- whole runtimes


@pytest.mark.parametrize(
    ("options", "more"), [(0, {}), ([], {}), ({}, {"clock": 0}), ({}, {"faults": 0})]
)
async def test_a_runtime_for_a_test_refuses_what_a_runtime_refuses(
    options: Any, more: dict[str, Any]
) -> None:
    with pytest.raises(ArgumentTypeError):
        async with runtime_for_test(options, **more):
            pass


async def test_a_snapshot_brings_everything_back(
    durable_runtime: Runtime, durable_clock: ManualClock
) -> None:
    counters = durable_runtime.namespace(Counter)
    reminder = durable_runtime.namespace(Reminder).get_by_name("r")
    counter = counters.get_by_name("c")
    await counter.increment()
    await reminder.remind(60)
    snapshot = await durable_runtime.snapshot()
    assert snapshot.size_bytes > 0

    await counter.increment()
    await counters.get_by_name("new").increment()
    await run_durable_object_alarm(reminder)
    await durable_runtime.restore(snapshot)
    assert await counter.value() == 1
    assert [each.name for each in await list_durable_object_ids(counters)] == ["c"]
    assert not await reminder.rung()
    await durable_clock.advance(seconds=61)
    assert await reminder.rung()

    await durable_runtime.restore(snapshot)
    assert not await reminder.rung()
    assert await counter.increment() == 2


async def test_a_snapshot_is_restored_in_another_runtime() -> None:
    async with runtime_for_test() as runtime:
        other = runtime.namespace(Reminder).get_by_name("r")
        await other.remind(60)
        await runtime.namespace(Counter).get_by_name("c").increment()
        eu = runtime.namespace(Counter).jurisdiction("eu").get_by_name("c")
        await eu.increment()
        await eu.increment()
        snapshot = await runtime.snapshot()
    clock = ManualClock()
    async with runtime_for_test(clock=clock) as runtime:
        # In another order: what the registry numbers is numbered differently.
        counters = runtime.namespace(Counter)
        european = counters.jurisdiction("eu")
        reminder = runtime.namespace(Reminder).get_by_name("r")
        await runtime.restore(snapshot)
        assert await counters.get_by_name("c").value() == 1
        assert await european.get_by_name("c").value() == 2
        await clock.advance(seconds=61)
        assert await reminder.rung()


async def test_a_snapshot_waits_for_nothing_under_way(durable_runtime: Runtime) -> None:
    started, go_on = anyio.Event(), anyio.Event()

    class Slow(DurableObject):
        async def work(self) -> None:
            started.set()
            await go_on.wait()

    slow = durable_runtime.namespace(Slow).get_by_name("s")
    async with anyio.create_task_group() as group:
        group.start_soon(slow.work)
        await started.wait()
        calls: list[Callable[[], Any]] = [
            durable_runtime.snapshot,
            lambda: evict_durable_object(slow),
        ]
        for call in calls:
            with pytest.raises(ConcurrencyError, match="under way"):
                await call()
        go_on.set()
    await durable_runtime.snapshot()


async def test_what_is_no_snapshot_changes_nothing(durable_runtime: Runtime) -> None:
    counter = durable_runtime.namespace(Counter).get_by_name("main")
    await counter.increment()
    for wrong in (None, b"", 0):
        with pytest.raises(ArgumentTypeError, match="RuntimeSnapshot"):
            await durable_runtime.restore(wrong)  # type: ignore[arg-type] - refusing it is the point
    assert await counter.increment() == 2


async def test_a_snapshot_for_which_the_disk_has_no_room_changes_nothing(
    durable_runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = durable_runtime.namespace(Counter)
    await counters.get_by_name("main").increment()
    snapshot = await durable_runtime.snapshot()
    await counters.get_by_name("main").increment()
    await counters.get_by_name("new").increment()
    written: list[str] = []

    def refuse(path: str, **_: Any) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", refuse)
        with pytest.raises(OSError, match="No space left"):
            await durable_runtime.restore(snapshot)
    assert not any(map(os.path.exists, written))
    assert await counters.get_by_name("main").value() == 2
    assert await counters.get_by_name("new").value() == 1
    await durable_runtime.restore(snapshot)
    assert await counters.get_by_name("main").value() == 1


async def test_snapshots_and_restores_do_not_overlap(durable_runtime: Runtime) -> None:
    counter = durable_runtime.namespace(Counter).get_by_name("main")
    await counter.increment()
    taken = await durable_runtime.snapshot()
    ended: list[str] = []

    async def restore() -> None:
        try:
            await durable_runtime.restore(taken)
        except ConcurrencyError:
            ended.append("refused")
        else:
            ended.append("restored")

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(restore)
    assert sorted(ended) == ["refused", "refused", "restored"]
    assert await counter.increment() == 2
