"""What a stub offers of its object's class, and what it does not."""

from __future__ import annotations

import abc
import contextlib
import copy
import inspect
import pickle
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest

from durable_storage import DurableObject, DurableObjectState, Runtime

pytestmark = pytest.mark.anyio


class Awaitable:
    """Something to await that is no coroutine."""

    def __await__(self) -> Generator[Any, Any, str]:
        yield from anyio.lowlevel.checkpoint().__await__()
        return "awaited"


class Base(DurableObject, abc.ABC):
    kind = "base"

    class Nested:
        pass

    async def hello(self) -> str:
        return "base"

    def plain(self, value: object) -> object:
        return value

    @staticmethod
    async def static(value: object) -> object:
        return value

    @classmethod
    async def of_class(cls) -> str:
        return cls.__name__

    @property
    def shown(self) -> Any:
        return lambda: 1

    async def replaced(self) -> object:
        return "method"

    async def replaced_by_awaitable(self) -> object:
        return "method"


class Mixin:
    async def hello(self) -> str:
        return "mixin before " + await super().hello()  # type: ignore[misc] - of the class it is mixed into


class Whole(Mixin, Base):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.of_instance = lambda: 1
        self.replaced = lambda: "attribute"  # type: ignore[assignment, method-assign, return-value] - replaced on purpose
        self.replaced_by_awaitable = Awaitable  # type: ignore[assignment, method-assign] - replaced on purpose


async def test_inherited_static_and_class_methods_are_called() -> None:
    async with Runtime() as runtime:
        stub: Any = runtime.namespace(Whole).get_by_name("one")
        assert await stub.hello() == "mixin before base"
        assert await stub.plain(value=4) == 4
        assert await stub.static(5) == 5
        assert await stub.of_class() == "Whole"
        assert inspect.iscoroutinefunction(stub.plain)


@pytest.mark.parametrize(
    "name", ["mro", "register", "Nested", "kind", "shown", "of_instance", "ctx", "env", "_hidden"]
)
async def test_what_is_no_method_of_the_class_is_no_attribute(name: str) -> None:
    async with Runtime() as runtime:
        stub = runtime.namespace(Whole).get_by_name("one")
        with pytest.raises(AttributeError):
            getattr(stub, name)


async def test_an_attribute_of_the_instance_stands_in_for_its_method_at_every_call() -> None:
    async with Runtime() as runtime:
        stub: Any = runtime.namespace(Whole).get_by_name("one")
        for _ in range(3):
            assert await stub.replaced() == "attribute"
            assert await stub.replaced_by_awaitable() == "awaited"


async def test_a_copy_of_a_stub_is_a_stub_of_the_same_object() -> None:
    async with Runtime() as runtime:
        stub = runtime.namespace(Whole).get_by_name("one")
        for copied in (copy.copy(stub), copy.deepcopy([stub])[0]):
            assert await copied.hello() == await stub.hello()
            assert copied.id == stub.id  # type: ignore[attr-defined] - a stub has an id
        with pytest.raises(TypeError, match="store its id"):
            pickle.dumps(stub)


class Tireless(DurableObject):
    """Whose calls never have to wait for anything."""

    async def look(self) -> int:
        return 0

    async def write(self) -> None:
        self.ctx.storage.kv.put("seen", self.ctx.storage.kv.get("seen") is None)

    async def fail(self) -> None:
        raise LookupError

    async def put(self, value: str) -> None:
        self.ctx.storage.kv.put("value", value)

    async def look_at(self, other: Any, until: list[bool]) -> None:
        await make_calls(other.look, until)

    async def sync(self, until: list[bool]) -> None:
        async def write() -> None:
            await self.write()
            await self.ctx.storage.sync()

        await make_calls(write, until)

    async def transact(self, until: list[bool]) -> None:
        async def write() -> None:
            async with self.ctx.storage.transaction():
                await self.write()

        await make_calls(write, until)

    async def block(self, until: list[bool]) -> None:
        await make_calls(lambda: self.ctx.block_concurrency_while(self.look), until)


async def make_calls(call: Callable[[], Any], until: list[bool]) -> None:
    for _ in range(200_000):
        if until:
            return
        with contextlib.suppress(LookupError):
            await call()
    raise AssertionError("nobody else was let run")


@pytest.mark.parametrize(
    "method", ["look", "write", "fail", "look_at", "sync", "transact", "block"]
)
async def test_a_task_that_only_makes_calls_lets_others_run(tmp_path: Path, method: str) -> None:
    seen: list[bool] = []

    async def other() -> None:
        seen.append(True)

    async with Runtime(tmp_path, durability="os") as runtime:
        namespace = runtime.namespace(Tireless)
        stub, called = namespace.get_by_name("a"), namespace.get_by_name("b")
        await stub.look()
        await called.look()
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            if method == "look_at":
                await stub.look_at(called, seen)
            elif method in ("sync", "transact", "block"):
                await getattr(stub, method)(seen)
            else:
                await make_calls(getattr(stub, method), seen)


def largest_log(directory: Path) -> int:
    return max(path.stat().st_size for path in directory.rglob("*-wal"))


async def test_a_log_is_folded_beside_calls_that_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    async with Runtime(tmp_path, durability="os") as runtime:
        stub = runtime.namespace(Tireless).get_by_name("a")
        for number in range(600):
            await stub.put(f"{number:10}" * 10_000)
        assert 0 < largest_log(tmp_path) < 32 * 1024**2


class Opened(DurableObject):
    passes = 0
    order: ClassVar[list[tuple[str | None, int]]] = []

    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        self.order.append((ctx.id.name, Opened.passes))

    async def call(self, number: int, calls: list[int]) -> None:
        calls.append(number)


async def test_a_crowd_of_objects_is_opened_one_by_one_and_others_run_between() -> None:
    async def count() -> None:
        while True:
            Opened.passes += 1
            await anyio.lowlevel.checkpoint()

    calls: dict[str, list[int]] = {str(number): [] for number in range(40)}
    Opened.order.clear()
    async with Runtime() as runtime, anyio.create_task_group() as group:
        namespace = runtime.namespace(Opened)
        group.start_soon(count)
        async with anyio.create_task_group() as callers:
            for number in range(3):
                for name, made in calls.items():
                    callers.start_soon(namespace.get_by_name(name).call, number, made)
        group.cancel_scope.cancel()
    names, passes = zip(*Opened.order, strict=True)
    assert sorted(names) == sorted(calls)
    assert len(set(passes)) > len(passes) / 2
    assert all(sorted(made) == [0, 1, 2] for made in calls.values())


async def test_who_gives_up_waiting_for_an_object_to_be_opened_holds_up_nobody() -> None:
    async with Runtime() as runtime:
        namespace = runtime.namespace(Tireless)
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(namespace.get_by_name(str(number)).look)
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            assert await namespace.get_by_name("other").look() == 0
            assert await namespace.get_by_name("19").look() == 0
