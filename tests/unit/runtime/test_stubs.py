"""What a stub offers of its object's class, and what it does not."""

from __future__ import annotations

import abc
import copy
import inspect
from collections.abc import Generator
from typing import Any

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
