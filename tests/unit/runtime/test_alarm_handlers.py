"""What an alarm's handler may do to the object's one alarm before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable_storage import ArgumentValueError, DurableObject, Runtime
from durable_storage.errors import ObjectDead
from durable_storage.testing import ManualClock

pytestmark = pytest.mark.anyio

LATER = datetime.timedelta(seconds=500)


class Handler(DurableObject):
    """Its alarm does what the test says."""

    does: Callable[[Any], Awaitable[None]]
    retries: list[int]
    scheduled: list[datetime.datetime]

    async def arm(self) -> None:
        await self.ctx.storage.set_alarm(datetime.timedelta(seconds=5))

    async def arm_at(self, when: datetime.datetime | datetime.timedelta | int) -> None:
        await self.ctx.storage.set_alarm(when)

    async def armed(self) -> datetime.datetime | None:
        return await self.ctx.storage.get_alarm()

    async def alarm(self, alarm_info: Any) -> None:
        type(self).retries.append(alarm_info.retry_count)
        type(self).scheduled.append(alarm_info.scheduled_time)
        await type(self).does(self)


async def run(does: Callable[[Any], Awaitable[None]], *seconds: float) -> datetime.timedelta | None:
    """Run an alarm that ``does`` this; how much later than it the alarm is set to afterwards."""
    clock = ManualClock()
    due = clock.now + datetime.timedelta(seconds=5)
    Handler.does = staticmethod(does)  # type: ignore[assignment]
    Handler.retries = []
    Handler.scheduled = []
    async with Runtime(clock=clock) as runtime:
        handler = runtime.namespace(Handler).get_by_name("one")
        await handler.arm()
        for each in seconds or (5,):
            await clock.advance(each)
        armed = await handler.armed()
    assert Handler.retries
    return None if armed is None else armed - due


async def rolled_back_block(handler: Any) -> None:
    def fail() -> None:
        handler.ctx.storage.put("key", 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        handler.ctx.storage.transaction_sync(fail)


async def rolled_back_transaction(handler: Any) -> None:
    async with handler.ctx.storage.transaction() as txn:
        await txn.put("key", 1)
        txn.rollback()


async def deleted(handler: Any) -> None:
    await handler.ctx.storage.delete_all()


@pytest.mark.parametrize("then", [rolled_back_block, rolled_back_transaction, deleted])
@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("fails", [True, False])
async def test_an_alarm_it_has_set_outlasts_what_it_rolls_back(
    then: Callable[[Any], Awaitable[None]], committed: bool, fails: bool
) -> None:
    async def does(handler: Any) -> None:
        await handler.ctx.storage.set_alarm(LATER)
        if committed:
            await handler.ctx.storage.sync()
        await then(handler)
        assert await handler.ctx.storage.get_alarm() is not None
        if fails:
            raise ZeroDivisionError

    assert await run(does) == LATER
    assert Handler.retries == [0]


async def test_one_that_is_rolled_back_was_never_set() -> None:
    async def does(handler: Any) -> None:
        def fail() -> None:
            handler.ctx.storage.set_alarm(LATER)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            handler.ctx.storage.transaction_sync(fail)
        assert await handler.ctx.storage.get_alarm() is None

    assert await run(does) is None


@pytest.mark.parametrize("then", [None, ZeroDivisionError])
@pytest.mark.parametrize("retry", [True, False])
async def test_one_that_swallows_the_end_of_its_object_leaves_the_storage_alone(
    then: type[Exception] | None, retry: bool
) -> None:
    async def does(handler: Any) -> None:
        if Handler.retries == [0]:
            with contextlib.suppress(ObjectDead):
                handler.ctx.abort("enough", retry_alarm=retry)
            if then is not None:
                raise then

    armed = await run(does)
    assert (armed is not None) == retry
    assert await run(does, 5, 3) is None
    assert Handler.retries == ([0, 1] if retry else [0])


async def test_one_that_fails_stays_set_to_its_time_until_it_succeeds() -> None:
    async def does(handler: Any) -> None:
        assert await handler.armed() is None
        if len(Handler.retries) < 3:
            raise ZeroDivisionError

    assert await run(does) == datetime.timedelta(0)
    assert await run(does, 5, 3) == datetime.timedelta(0)
    assert await run(does, 5, 3, 5) is None
    assert Handler.retries == [0, 1, 2]
    assert len(Handler.scheduled) == 3
    assert len(set(Handler.scheduled)) == 1


async def test_one_that_fails_may_be_set_anew_to_another_time() -> None:
    async def does(handler: Any) -> None:
        if Handler.retries == [0, 1]:
            await handler.ctx.storage.set_alarm(LATER)
        elif len(Handler.retries) < 4:
            raise ZeroDivisionError

    assert await run(does, 5, 3) is not None
    assert await run(does, 5, 3, 500, 3) is None
    assert Handler.retries == [0, 1, 0, 1]
    assert Handler.scheduled[0] == Handler.scheduled[1] < Handler.scheduled[2]
    assert Handler.scheduled[2] == Handler.scheduled[3]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_of_its_own_is_a_failure() -> None:
    async def does(_: Any) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    assert await run(does, 5, 3, 5, 10, 20, 40, 80) is None
    assert Handler.retries == [0, 1, 2, 3, 4, 5, 6]


async def test_no_alarm_is_set_to_2190_or_later() -> None:
    async def does(handler: Any) -> None:
        storage = handler.ctx.storage
        first = datetime.datetime(2190, 1, 1, tzinfo=datetime.UTC)
        await storage.set_alarm(first - datetime.timedelta(milliseconds=1))
        with pytest.raises(ArgumentValueError, match="after 2189; pass an earlier time"):
            storage.set_alarm(first)
        assert await storage.get_alarm() == first - datetime.timedelta(milliseconds=1)

    assert await run(does) is not None


class Strange(BaseException):
    """Neither an Exception nor anybody's cancellation."""


@pytest.mark.parametrize(
    "failure",
    [Strange(), BaseExceptionGroup("several", [Strange(), ValueError()])],
    ids=["alone", "in a group"],
)
async def test_whatever_it_raises_is_a_failure(failure: BaseException) -> None:
    async def fail(handler: Any) -> None:
        raise failure

    await run(fail, 5, 5)
    assert Handler.retries == [0, 1]


async def test_a_time_before_now_means_now_however_it_is_given() -> None:
    clock = ManualClock()
    second = datetime.timedelta(seconds=1)
    given = (-second, clock.now - second, int((clock.now - second).timestamp() * 1000))
    for index, when in enumerate(given):
        Handler.retries = []

        async def again(handler: Any) -> None: ...

        Handler.does = staticmethod(again)  # type: ignore[assignment] - replaced on purpose
        async with Runtime(clock=clock) as runtime:
            handler = runtime.namespace(Handler).get_by_name(str(index))
            await handler.arm_at(when)
            await clock.advance(0)
            assert Handler.retries == [0]
