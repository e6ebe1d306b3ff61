"""Awaited gets of cached values: what one leaves in the cache, and how large that gets."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import AsyncIterator

import pytest

from durable_storage import DurableObjectState, History, Limits

pytestmark = pytest.mark.anyio

CACHE_BYTES = 100_000


@pytest.fixture
async def ctx(tmp_path: pathlib.Path) -> AsyncIterator[DurableObjectState]:
    limits = Limits(cache_size_max_bytes=CACHE_BYTES)
    path = tmp_path / "object.sqlite"
    off = History(enabled=False)
    async with DurableObjectState.open(path, limits=limits, history=off) as ctx:
        yield ctx


@pytest.mark.parametrize("value", [1, "text", b"bytes", None, True, 2**70, 0.5])
async def test_a_value_reads_the_same_before_and_after_it_was_awaited(
    ctx: DurableObjectState, value: object
) -> None:
    storage = ctx.storage

    async def event() -> None:
        storage.kv.put("key", value)
        assert storage.kv.get("key") is value
        first = storage.get("key")
        assert await first == value
        assert await first == value
        assert await storage.get("key", "default") == value
        assert storage.kv.get("key", "default") is value
        assert await storage.get("key", no_cache=True) == value
        assert await storage.get(["key"]) == {"key": value}
        assert dict(storage.kv.list()) == {"key": value}

    await ctx.run_event(event)


async def test_a_result_that_was_not_awaited_yet_is_of_its_time(ctx: DurableObjectState) -> None:
    storage = ctx.storage

    async def event() -> None:
        storage.put("key", 1)
        await storage.get("key")
        old = storage.get("key")
        storage.put("key", 2)
        assert (await old, await storage.get("key"), storage.kv.get("key")) == (1, 2, 2)

        def undone() -> None:
            storage.kv.put("key", 3)
            raise KeyError

        with pytest.raises(KeyError):
            storage.transaction_sync(undone)
        assert await storage.get("key") == 2
        await storage.delete("key")
        assert await storage.get("key") is None
        assert await storage.get("key", 4) == 4

    await ctx.run_event(event)


async def test_inside_a_section_what_was_awaited_before_is_read_as_a_value(
    ctx: DurableObjectState,
) -> None:
    storage = ctx.storage

    async def event() -> None:
        storage.put("key", 1)
        await storage.get("key")
        async with storage.transaction() as transaction:
            assert await transaction.get("key") == 1
            assert await storage.get("key") == 1
            assert storage.kv.get("key") == 1

    await ctx.run_event(event)


async def test_values_that_stay_in_use_do_not_outgrow_the_cache(ctx: DurableObjectState) -> None:
    storage = ctx.storage
    keys = [f"key-{number:02}" for number in range(40)]
    size_bytes = 5_000

    async def event() -> None:
        for key in keys:
            storage.kv.put(key, key + "x" * size_bytes)
        for _ in range(5):
            for key in keys:
                # What is read often is read here again and again, whichever half holds it.
                for often in keys[:8]:
                    assert storage.kv.get(often) is not None
                assert await storage.get(key) is not None

    await ctx.run_event(event)
    buffer = storage._session.kv
    cached = {**buffer._aged, **buffer._fresh}
    values = {
        id(each): each for each in (getattr(entry, "value", entry) for entry in cached.values())
    }
    assert sum(map(sys.getsizeof, values.values())) <= CACHE_BYTES
    assert set(keys[:8]) <= set(cached)
