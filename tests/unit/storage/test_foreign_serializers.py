"""Serializers of the application's own: what storage makes of their mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from durable_storage import (
    ArgumentTypeError,
    ArgumentValueError,
    DataCloneError,
    DurableObject,
    Runtime,
)

pytestmark = pytest.mark.anyio


class Spelled:
    """Lists of numbers as text; what it refuses, it refuses in ways of its own."""

    name: Any = "spelled"

    def dumps(self, value: Any, /) -> Any:
        if value == ["text"]:
            return "text"
        return bytearray(",".join(str(int(each)) for each in value), "ascii")

    def loads(self, data: bytes, /) -> list[int]:
        return [int(each) for each in data.decode().split(",")]


class Keeper(DurableObject):
    async def keep(self, value: object) -> object:
        self.ctx.storage.put("key", value)
        return await self.ctx.storage.get("key")

    async def kept(self) -> object:
        return await self.ctx.storage.get("key", no_cache=True)


@pytest.mark.parametrize("storage", ["sqlite", "kv"])
async def test_what_it_cannot_write_is_refused_and_nothing_changes(storage: Any) -> None:
    async with Runtime(serializer=Spelled()) as runtime:
        keeper = runtime.namespace(Keeper, storage=storage).get_by_name("one")
        assert await keeper.keep([1, 2]) == [1, 2]
        with pytest.raises(DataCloneError, match="'spelled': invalid literal") as refused:
            await keeper.keep(["word"])
        assert isinstance(refused.value.__cause__, ValueError)
        with pytest.raises(DataCloneError, match="became str and not bytes"):
            await keeper.keep(["text"])
        assert await keeper.kept() == [1, 2]


@pytest.mark.parametrize("storage", ["sqlite", "kv"])
async def test_what_it_cannot_read_back_is_an_error_of_the_library(storage: Any) -> None:
    async with Runtime(serializer=Spelled()) as runtime:
        keeper = runtime.namespace(Keeper, storage=storage).get_by_name("one")
        with pytest.raises(DataCloneError, match="not a value that spelled wrote"):
            await keeper.keep([])


@pytest.mark.parametrize(("name", "error"), [("", ArgumentValueError), (5, ArgumentTypeError)])
def test_it_has_a_name(name: object, error: type[Exception]) -> None:
    nameless = Spelled()
    nameless.name = name
    with pytest.raises(error, match="serializer's name"):
        Runtime(serializer=nameless)
