"""Closing objects that nobody uses, while others make namespaces and open objects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from durable_storage import DurableObject, History, Runtime
from durable_storage.storage.host import Host
from durable_storage.testing import ManualClock

pytestmark = pytest.mark.anyio

OFF = History(enabled=False)


class Counter(DurableObject):
    async def increment(self) -> int:
        value: int = await self.ctx.storage.get("value", 0)
        self.ctx.storage.put("value", value + 1)
        return value + 1

    async def hold(self, entered: anyio.Event, release: anyio.Event) -> str:
        entered.set()
        await release.wait()
        return "done"


def while_closing(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[str], Awaitable[object]]
) -> list[str]:
    """Have something happen while an object is being closed; the names of those that were."""
    closed: list[str] = []
    close = Host.close

    async def slowly(host: Host) -> None:
        closed.append(host.name)
        await act(host.name)
        await close(host)

    monkeypatch.setattr(Host, "close", slowly)
    return closed


async def _evict_all(runtime: Runtime, clock: ManualClock) -> None:
    assert await runtime.evict_all() == 3


async def _sweep(runtime: Runtime, clock: ManualClock) -> None:
    await clock.advance(30)


async def _snapshot(runtime: Runtime, clock: ManualClock) -> None:
    await runtime.snapshot()


@pytest.mark.parametrize("way", [_evict_all, _sweep, _snapshot])
async def test_a_namespace_may_be_made_while_objects_are_closed(
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[Runtime, ManualClock], Awaitable[None]],
) -> None:
    clock = ManualClock()
    async with Runtime(history=OFF, clock=clock, idle_timeout=10) as runtime:

        async def add(name: str) -> None:
            if not runtime.closing:
                runtime.namespace(Counter, name=f"made as {name} was closed")
            await anyio.lowlevel.checkpoint()

        counters = runtime.namespace(Counter)
        for name in "ab":
            await counters.get_by_name(name).increment()
        await runtime.namespace(Counter, name="Other").get_by_name("c").increment()
        closed = while_closing(monkeypatch, add)
        await way(runtime, clock)
        assert closed == ["Counter 'a'", "Counter 'b'", "Counter 'c'"]
        assert runtime.open_objects == 0
        assert await counters.get_by_name("a").increment() == 2


@pytest.mark.parametrize("way", [_evict_all, _sweep])
async def test_an_object_that_comes_back_meanwhile_is_not_closed_for_its_predecessor(
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[Runtime, ManualClock], Awaitable[None]],
) -> None:
    clock = ManualClock()
    entered, release = anyio.Event(), anyio.Event()
    answers: list[str] = []
    async with (
        Runtime(history=OFF, clock=clock, idle_timeout=10) as runtime,
        anyio.create_task_group() as group,
    ):
        counters = runtime.namespace(Counter)

        async def use() -> None:
            answers.append(await counters.get_by_name("b").hold(entered, release))

        async def come_back(name: str) -> None:
            if name == "Counter 'a'":
                assert await runtime.evict(counters, counters.id_from_name("b"))
                group.start_soon(use)
                await entered.wait()

        for name in "abc":
            await counters.get_by_name(name).increment()
        closed = while_closing(monkeypatch, come_back)
        with anyio.fail_after(60):
            if way is _sweep:
                await clock.advance(10)
            else:
                assert await runtime.evict_all() == 2
        assert closed == ["Counter 'a'", "Counter 'b'", "Counter 'c'"]
        assert runtime.open_objects == 1
        release.set()
    assert answers == ["done"]
