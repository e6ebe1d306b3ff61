from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import anyio
import anyio.to_thread
import pytest

from durable_storage.clock import Clock, SystemClock, busy
from durable_storage.errors import ArgumentTypeError, ArgumentValueError, ConcurrencyError
from durable_storage.testing import ManualClock

START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = 1_767_225_600_000

pytestmark = pytest.mark.anyio


async def test_both_clocks_are_clocks() -> None:
    assert isinstance(SystemClock(), Clock)
    assert isinstance(ManualClock(), Clock)


async def test_the_system_clock_tells_the_time_of_the_machine() -> None:
    before = time.time() * 1000
    assert before - 1 <= SystemClock().time_ms() <= time.time() * 1000
    assert abs(SystemClock().monotonic() - time.monotonic()) < 1


async def test_the_system_clock_sleeps_until_its_deadline_and_not_less() -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + 0.01
    await clock.sleep_until(deadline)
    assert clock.monotonic() >= deadline


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()])
async def test_a_deadline_that_has_passed_is_a_checkpoint(clock: Clock) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await clock.sleep_until(clock.monotonic())
    assert scope.cancelled_caught


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()])
async def test_an_infinite_deadline_waits_for_cancellation(clock: Clock) -> None:
    with anyio.move_on_after(0) as scope:
        await clock.sleep_until(math.inf)
    assert scope.cancelled_caught


async def test_a_manual_clock_stands_still() -> None:
    clock = ManualClock(START)
    assert (clock.now, clock.time_ms(), clock.monotonic()) == (START, START_MS, 0.0)


async def test_a_manual_clock_starts_in_the_present_in_whole_milliseconds() -> None:
    clock = ManualClock()
    assert abs(clock.now - datetime.now(UTC)) < timedelta(minutes=1)
    assert clock.now.microsecond % 1000 == 0


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((timedelta(seconds=90),), {}),
        ((90,), {}),
        ((), {"seconds": 90.0}),
        ((), {"minutes": 1.5}),
        ((), {"minutes": 1, "seconds": 29, "milliseconds": 1000}),
        ((), {"days": 1, "hours": -24, "seconds": 90}),
    ],
)
async def test_advance_moves_both_clocks(args: tuple[float], kwargs: dict[str, float]) -> None:
    clock = ManualClock(START)
    await clock.advance(*args, **kwargs)
    assert clock.now == START + timedelta(seconds=90)
    assert clock.time_ms() == START_MS + 90_000
    assert clock.monotonic() == 90.0


async def test_many_small_steps_add_up_exactly() -> None:
    clock = ManualClock(START)
    for _ in range(10):
        await clock.advance(seconds=0.1)
    assert clock.monotonic() == 1.0
    assert clock.time_ms() == START_MS + 1000


async def test_sleepers_wake_in_order_of_their_deadlines_each_at_its_moment() -> None:
    clock = ManualClock(START)
    woken: list[tuple[float, float]] = []

    async def sleep(deadline: float) -> None:
        await clock.sleep_until(deadline)
        woken.append((deadline, clock.monotonic()))

    async with anyio.create_task_group() as tasks:
        for deadline in (5.0, 1.0, 3.0, 7.0):
            tasks.start_soon(sleep, deadline)
        await clock.advance(seconds=6)
        assert woken == [(1.0, 1.0), (3.0, 3.0), (5.0, 5.0)]
        assert clock.monotonic() == 6.0
        await clock.advance(seconds=1)
        assert woken[-1] == (7.0, 7.0)


async def test_a_woken_sleeper_may_sleep_again_within_the_same_advance() -> None:
    clock = ManualClock(START)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await clock.sleep_until(clock.monotonic() + 0.1)
            ticks.append(round(clock.monotonic(), 6))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await clock.advance(seconds=1)
        assert ticks == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
        tasks.cancel_scope.cancel()


async def test_a_sleeper_never_wakes_before_its_deadline_however_odd() -> None:
    clock = ManualClock(START)
    deadline = 0.1 + 0.2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep_until, deadline)
        await clock.advance(seconds=0.3)
    assert clock.monotonic() >= deadline


async def test_what_became_runnable_finishes_before_advance_returns() -> None:
    clock = ManualClock(START)
    send, receive = anyio.create_memory_object_stream[int](0)
    received: list[int] = []

    async def producer() -> None:
        async with send:
            await clock.sleep_until(1)
            for number in range(5):
                await send.send(number)

    async def consumer() -> None:
        async with receive:
            async for number in receive:
                received.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(producer)
        tasks.start_soon(consumer)
        await clock.advance(seconds=1)
        assert received == [0, 1, 2, 3, 4]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock(START)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep_until, 1.0)
        await clock.advance(seconds=0)
        tasks.cancel_scope.cancel()
    woken_at: list[float] = []

    async def sleep() -> None:
        await clock.sleep_until(2.0)
        woken_at.append(clock.monotonic())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleep)
        await clock.advance(seconds=5)
    assert woken_at == [2.0]


async def test_time_waits_for_work_in_a_worker_thread_that_holds_the_clock() -> None:
    clock = ManualClock(START)
    finished_at: list[float] = []

    async def work() -> None:
        await clock.sleep_until(1)
        with busy(clock):
            await anyio.to_thread.run_sync(time.sleep, 0.05)
            finished_at.append(clock.monotonic())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await clock.advance(seconds=100)
        assert finished_at == [1.0]


async def test_a_holder_that_sleeps_on_the_clock_does_not_hold_it() -> None:
    clock = ManualClock(START)
    finished_at: list[float] = []

    async def work() -> None:
        with clock.busy():
            with clock.busy():
                await clock.sleep_until(30)
            await anyio.to_thread.run_sync(time.sleep, 0.01)
            finished_at.append(clock.monotonic())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await clock.advance(seconds=60)
        assert finished_at == [30.0]


async def test_a_cancelled_holder_lets_time_go_on() -> None:
    clock = ManualClock(START)

    async def work() -> None:
        with clock.busy():
            await anyio.sleep_forever()

    async def advance() -> None:
        await clock.advance(seconds=1)

    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as holders:
            holders.start_soon(work)
            await anyio.lowlevel.checkpoint()
            outer.start_soon(advance)
            await anyio.lowlevel.checkpoint()
            holders.cancel_scope.cancel()
    assert clock.monotonic() == 1.0


async def test_a_clock_without_holds_is_never_busy() -> None:
    held: AbstractContextManager[None] = busy(SystemClock())
    with held:
        pass


async def test_set_wall_moves_the_wall_clock_alone() -> None:
    clock = ManualClock(START)
    await clock.advance(seconds=10)
    for moment in (START - timedelta(days=1), START + timedelta(days=1)):
        clock.set_wall(moment)
        assert clock.now == moment
        assert clock.monotonic() == 10.0
    await clock.advance(seconds=1)
    assert clock.now == START + timedelta(days=1, seconds=1)


async def test_naive_times_are_refused() -> None:
    with pytest.raises(ArgumentValueError, match="aware datetime"):
        ManualClock(datetime(2026, 1, 1))
    with pytest.raises(ArgumentValueError, match="aware datetime"):
        ManualClock().set_wall(datetime(2026, 1, 1))


@pytest.mark.parametrize("span", [None, "1", True])
async def test_a_span_that_is_no_span_is_refused(span: object) -> None:
    with pytest.raises(ArgumentTypeError):
        await ManualClock().advance(span)  # type: ignore[arg-type]


async def test_two_spans_at_once_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="only one"):
        await ManualClock().advance(timedelta(1), seconds=1)


@pytest.mark.parametrize("span", [-1, math.inf, math.nan, 1e300, 10**400])
@pytest.mark.parametrize("unit", [None, "days", "hours", "minutes", "seconds", "milliseconds"])
async def test_time_moves_only_forward_and_by_a_finite_span(span: float, unit: str | None) -> None:
    clock = ManualClock(START)
    with pytest.raises(ArgumentValueError):
        await (clock.advance(span) if unit is None else clock.advance(**{unit: span}))
    assert clock.now == START


async def test_two_tasks_cannot_advance_one_clock() -> None:
    clock = ManualClock(START)
    refused: list[ConcurrencyError] = []

    async def advance() -> None:
        try:
            await clock.advance(1)
        except ConcurrencyError as exc:
            refused.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(advance)
        tasks.start_soon(advance)
    assert len(refused) == 1
    assert clock.monotonic() == 1.0
