"""What a stub offers of its object's class, and what it does not."""

from __future__ import annotations

import abc
import copy
import inspect
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from durable_storage import DurableObject, Runtime

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
        copied = copy.copy(stub)
        assert await copied.hello() == await stub.hello()
        assert copied.id == stub.id  # type: ignore[attr-defined] - a stub has an id


class Tireless(DurableObject):
    """Whose calls never have to wait for anything."""

    async def look(self) -> int:
        return 0

    async def write(self) -> None:
        self.ctx.storage.kv.put("seen", self.ctx.storage.kv.get("seen") is None)

    async def put(self, value: str) -> None:
        self.ctx.storage.kv.put("value", value)

    async def look_at(self, other: Any, until: list[bool]) -> None:
        await make_calls(other.look, until)


async def make_calls(call: Callable[[], Any], until: list[bool]) -> None:
    for _ in range(200_000):
        if until:
            return
        await call()
    raise AssertionError("nobody else was let run")


@pytest.mark.parametrize("method", ["look", "write", "look_at"])
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
