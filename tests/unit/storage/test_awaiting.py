"""Results of storage operations: awaited again, or never."""

from __future__ import annotations

import gc
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from durable_storage import ConcurrencyError, DurableObject, DurableObjectState, Runtime

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ctx(tmp_path: pathlib.Path) -> AsyncIterator[DurableObjectState]:
    async with DurableObjectState.open(tmp_path / "object.sqlite") as state:
        yield state


@pytest.mark.parametrize(
    "section",
    [lambda ctx: ctx.block_concurrency_while, lambda ctx: ctx.storage.transaction],
    ids=["block_concurrency_while", "transaction"],
)
@pytest.mark.parametrize("inside", [True, False], ids=["in an event", "outside"])
async def test_a_critical_section_runs_once_and_tells_its_result_again(
    ctx: DurableObjectState, section: Callable[[DurableObjectState], Any], inside: bool
) -> None:
    runs: list[None] = []

    async def body() -> int:
        runs.append(None)
        await anyio.lowlevel.checkpoint()
        return len(runs)

    async def use() -> None:
        with anyio.fail_after(30):
            asked = section(ctx)(body)
            assert [await asked, await asked, await asked] == [1, 1, 1]

    await (ctx.run_event(use) if inside else use())


async def test_a_transaction_that_failed_tells_its_failure_again(ctx: DurableObjectState) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    asked = ctx.storage.transaction(fail)
    with anyio.fail_after(30):
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await asked


async def test_several_tasks_may_await_one_critical_section(ctx: DurableObjectState) -> None:
    results: list[int] = []

    async def body() -> int:
        await anyio.lowlevel.checkpoint()
        return 7

    asked = ctx.block_concurrency_while(body)

    async def wait() -> None:
        results.append(await asked)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait)
    assert results == [7, 7, 7]


async def test_who_awaits_a_transaction_that_another_task_was_cancelled_in_is_told_so(
    ctx: DurableObjectState,
) -> None:
    began = anyio.Event()

    async def body() -> None:
        began.set()
        await anyio.sleep_forever()

    asked: list[Any] = []
    failures: list[BaseException] = []

    async def first() -> None:
        asked.append(ctx.storage.transaction(body))
        await asked[0]

    async def second() -> None:
        await began.wait()
        try:
            await asked[0]
        except ConcurrencyError as exc:
            failures.append(exc)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(second)
            async with anyio.create_task_group() as running:
                running.start_soon(first)
                await began.wait()
                await anyio.lowlevel.checkpoint()
                running.cancel_scope.cancel()
    assert len(failures) == 1


async def test_a_sync_may_be_awaited_again_or_dropped(ctx: DurableObjectState) -> None:
    async def use() -> None:
        ctx.storage.put("key", 1)
        asked = ctx.storage.sync()
        await asked
        ctx.storage.put("key", 2)
        await asked
        ctx.storage.put("key", 3)
        ctx.storage.sync()
        gc.collect()

    await ctx.run_event(use)
    assert await ctx.storage.get("key") == 3


class Legacy(DurableObject):
    async def use(self) -> None:
        storage = self.ctx.storage
        for each in (storage.put("key", 1), storage.sync(), storage.get("key"), storage.list()):
            assert await each == await each
        storage.put("key", 2)
        storage.sync()
        storage.get("other")
        gc.collect()


async def test_results_of_the_legacy_backend_may_be_awaited_again_or_dropped() -> None:
    async with Runtime() as runtime:
        await runtime.namespace(Legacy, storage="kv").get_by_name("one").use()
