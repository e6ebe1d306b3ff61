"""Objects of which the application's code fails in unusual ways."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import pytest

from durable_storage import DurableObject, DurableObjectState, ObjectResetError, Runtime

pytestmark = pytest.mark.anyio


class MuteError(Exception):
    def __str__(self) -> str:
        raise AttributeError("no text")


class Fragile(DurableObject):
    fails = False

    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        if Fragile.fails:
            raise MuteError
        self.seen: list[str] = []

    async def count(self) -> int:
        count: int = self.ctx.storage.kv.get("count", 0) + 1
        self.ctx.storage.kv.put("count", count)
        return count

    async def call_each_other(self, mine: Any, other: Any, times: int) -> None:
        self.ctx.storage.put("times", times)
        if times:
            await other.call_each_other(other, mine, times - 1)

    async def block(self) -> None:
        async def fail() -> None:
            raise MuteError

        await self.ctx.block_concurrency_while(fail)

    def write_and_fail(self) -> None:
        self.ctx.storage.put("written", True)
        raise LookupError

    def block_and_drop(self) -> None:
        async def see() -> None:
            self.seen.append("section")

        self.ctx.block_concurrency_while(see)

    async def keep(self, text: str) -> None:
        self.seen.append(text)

    def wait_until_and_fail(self) -> None:
        self.ctx.wait_until(self.keep("background"))
        raise LookupError

    async def read(self) -> tuple[list[str], Any]:
        return self.seen, await self.ctx.storage.get("written")

    async def call(self, other: Any, method: str) -> None:
        with contextlib.suppress(LookupError):
            await getattr(other, method)()


async def test_an_object_survives_calls_that_use_up_the_stack() -> None:
    reset = 0
    async with Runtime(durability="os") as runtime:
        namespace = runtime.namespace(Fragile)
        a, b = namespace.get_by_name("a"), namespace.get_by_name("b")
        for times in range(40, 140):
            try:
                await a.call_each_other(a, b, times)
            except (RecursionError, ObjectResetError):
                reset += 1
            with anyio.fail_after(30):
                assert await a.count() > 0
                assert await b.count() > 0
    assert reset


async def test_an_error_without_a_text_resets_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Runtime() as runtime:
        namespace = runtime.namespace(Fragile)
        stub = namespace.get_by_name("a")
        with pytest.raises(ObjectResetError, match="MuteError"):
            await stub.block()
        assert await stub.count() == 1
        monkeypatch.setattr(Fragile, "fails", True)
        with pytest.raises(ObjectResetError, match="MuteError"):
            await namespace.get_by_name("b").count()
        monkeypatch.setattr(Fragile, "fails", False)
        assert await namespace.get_by_name("b").count() == 1


@pytest.mark.parametrize("through_another", [False, True])
async def test_an_ordinary_method_runs_inside_its_event(through_another: bool) -> None:
    async with Runtime() as runtime:
        namespace = runtime.namespace(Fragile)
        stub, other = namespace.get_by_name("a"), namespace.get_by_name("b")
        await stub.read()
        for method in ("write_and_fail", "block_and_drop", "wait_until_and_fail"):
            if through_another:
                await other.call(stub, method)
            else:
                with contextlib.suppress(LookupError):
                    await getattr(stub, method)()
        await anyio.wait_all_tasks_blocked()
        assert await stub.read() == (["section", "background"], True)
