"""What is ended when it lasts too long: alarm handlers, and events when a runtime closes."""

from __future__ import annotations

import datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from durable_storage import (
    AlarmInvocationInfo,
    DurableObject,
    DurableObjectState,
    Limits,
    ObjectResetError,
    Runtime,
)
from durable_storage.runtime.alarms import RETRIES_MAX, RUNNING_MAX
from durable_storage.testing import ManualClock

pytestmark = pytest.mark.anyio

LIMIT_SECONDS = 900.0


class Sleeper(DurableObject):
    """Its alarm sleeps until it is killed, except for objects called ``"quick"``."""

    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        self.tries: list[AlarmInvocationInfo] = env

    async def arm(self) -> None:
        await self.ctx.storage.set_alarm(datetime.timedelta(seconds=1))

    async def armed(self) -> datetime.datetime | None:
        return await self.ctx.storage.get_alarm()

    async def alarm(self, alarm_info: AlarmInvocationInfo) -> None:
        self.tries.append(alarm_info)
        self.ctx.storage.put("began", True)
        if self.ctx.id.name != "quick":
            await self.sleep()

    async def sleep(self) -> None:
        clock = self.ctx.clock
        await clock.sleep_until(clock.monotonic() + 10 * LIMIT_SECONDS)

    async def call(self, other: Any) -> None:
        await other.sleep()


async def test_a_handler_that_never_ends_is_ended_and_tried_again_as_after_a_failure() -> None:
    clock = ManualClock()
    tries: list[AlarmInvocationInfo] = []
    async with Runtime(clock=clock, env=tries) as runtime:
        sleeper = runtime.namespace(Sleeper).get_by_name("one")
        await sleeper.arm()
        await clock.advance(seconds=LIMIT_SECONDS)
        assert len(tries) == 1
        await clock.advance(seconds=1)
        armed = await sleeper.armed()
        assert armed == tries[0].scheduled_time
        await clock.advance(seconds=10 * LIMIT_SECONDS)
    assert [(each.retry_count, each.is_retry) for each in tries] == [
        (count, count > 0) for count in range(RETRIES_MAX + 1)
    ]


async def test_handlers_that_never_end_hold_other_alarms_up_for_no_longer_than_the_limit() -> None:
    clock = ManualClock()
    tries: list[AlarmInvocationInfo] = []
    async with Runtime(clock=clock, env=tries, limits=Limits(alarm_seconds=20)) as runtime:
        sleepers = runtime.namespace(Sleeper)
        for number in range(RUNNING_MAX):
            await sleepers.get_by_name(str(number)).arm()
        await clock.advance(seconds=1)
        assert len(tries) == RUNNING_MAX
        quick = sleepers.get_by_name("quick")
        await quick.arm()
        await clock.advance(seconds=10)
        assert await quick.armed() is not None
        await clock.advance(seconds=10)
        assert await quick.armed() is None


async def test_a_closing_runtime_ends_what_lasts_too_long_by_its_own_clock() -> None:
    clock = ManualClock()
    failures: list[Any] = []
    runtime = Runtime(clock=clock)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            async with runtime:
                sleepers = runtime.namespace(Sleeper, name="sleepers")

                async def call() -> None:
                    with pytest.raises(ObjectResetError, match="closing") as raised:
                        await sleepers.get_by_name("one").sleep()
                    failures.append(raised.value)

                group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                closed: list[None] = []

                async def close() -> None:
                    await runtime.close()
                    closed.append(None)

                group.start_soon(close)
                await anyio.wait_all_tasks_blocked()
                await clock.advance(seconds=9)
                assert not failures + closed
                await clock.advance(seconds=1)
                await anyio.wait_all_tasks_blocked()
                assert len(failures) == 1
    assert len(closed) == 1
