"""Calls of stubs: what their first step leaves behind, and from where they may come."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from durable_storage import ConcurrencyError, DurableObject, History, Runtime, outgoing

pytestmark = pytest.mark.anyio


class Answer:
    """Something that can be asked for whether it is still there."""


class Caller(DurableObject):
    calls = 0

    async def nothing(self) -> int:
        type(self).calls += 1
        return 1

    async def answer(self) -> Answer:
        return Answer()

    async def wait(self, value: int) -> int:
        await anyio.lowlevel.checkpoint()
        return value

    async def fail(self) -> None:
        raise KeyError("first step")

    async def send(self, callback: Callable[[], Awaitable[Any]]) -> tuple[str, Any]:
        return "sent", await outgoing(callback)


@pytest.fixture
async def callers(tmp_path: Path) -> AsyncIterator[Any]:
    async with Runtime(tmp_path, history=History(enabled=False)) as runtime:
        yield runtime.namespace(Caller)


async def use(stub: Any) -> None:
    """Call every method often enough that the stub knows the object."""
    for _ in range(3):
        await stub.nothing()
        await stub.answer()
        await stub.wait(0)
        with pytest.raises(KeyError):
            await stub.fail()
        await stub.send(anyio.lowlevel.checkpoint)


@pytest.mark.parametrize("open_", [True, False], ids=["open", "not open yet"])
async def test_a_call_from_another_thread_is_refused_before_it_starts(
    callers: Any, anyio_backend: str, open_: bool
) -> None:
    stub = callers.get_by_name("a")
    if open_:
        await use(stub)
    before = Caller.calls

    async def call() -> None:
        with pytest.raises(ConcurrencyError, match="a stub of Caller was used from another thread"):
            await stub.nothing()

    # The thread has the caller's context, and a loop of its own.
    await anyio.to_thread.run_sync(functools.partial(anyio.run, call, backend=anyio_backend))
    assert Caller.calls == before
    assert await stub.nothing() == 1


async def test_a_call_made_while_a_first_step_sends_something_is_a_call_from_outside(
    callers: Any,
) -> None:
    stub, other = callers.get_by_name("a"), callers.get_by_name("b")
    await use(stub)
    await use(other)
    assert await stub.send(other.nothing) == ("sent", 1)
    assert await stub.send(lambda: other.wait(2)) == ("sent", 2)
    assert await stub.send(lambda: other.send(stub.nothing)) == ("sent", ("sent", 1))
    with pytest.raises(KeyError, match="first step"):
        await stub.send(other.fail)
    assert await stub.nothing() == 1


async def test_calls_that_wait_keep_their_own_steps(callers: Any) -> None:
    stub = callers.get_by_name("a")
    await use(stub)
    results: list[int] = []

    async def call(number: int) -> None:
        results.append(await stub.wait(number))
        with pytest.raises(KeyError):
            await stub.fail()
        results.append(await stub.wait(-number))

    async with anyio.create_task_group() as group:
        for number in range(1, 20):
            group.start_soon(call, number)
    assert sorted(results) == [n for n in range(-19, 20) if n]


async def test_an_answer_is_not_kept(callers: Any) -> None:
    stub = callers.get_by_name("a")
    await use(stub)
    kept = weakref.ref(await stub.answer())
    gc.collect()
    assert kept() is None
