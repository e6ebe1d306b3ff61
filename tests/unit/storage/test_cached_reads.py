"""Awaited gets of cached values: what one leaves in the cache, and how large that gets."""

from __future__ import annotations

import datetime
import pathlib
import random
import sys
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from decimal import Decimal

import pytest

from durable_storage import DurableObjectState, History, Limits, MsgpackSerializer
from durable_storage.serializers import Serializer
from durable_storage.storage.kv_buffer import ENTRY_OVERHEAD_BYTES, KvBuffer

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


class Compressing:
    """A serializer that stores less than what it gives back."""

    name = "compressing"

    def dumps(self, value: object) -> bytes:
        return zlib.compress(MsgpackSerializer().dumps(value), 1)

    def loads(self, data: bytes) -> object:
        return MsgpackSerializer().loads(zlib.decompress(data))


# Each in a size of its own, so that no two are one object.
LARGE: dict[str, Callable[[int], object]] = {
    "int": lambda number: 1 << 8 * (5_000 + number),
    "decimal": lambda number: Decimal("7" * (10_000 + number)),
    "bytes": lambda number: b"x" * (5_000 + number),
    "text": lambda number: "x" * (5_000 + number),
    "text with an umlaut": lambda number: (
        "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * (5_000 + number)
    ),
    "text with one wide character": lambda number: "\N{GRINNING FACE}" + "x" * (1_200 + number),
    "list": lambda number: [random.Random(number).randbytes(5_000 + number)],
}


def _held_bytes(buffer: KvBuffer) -> int:
    """What the cached values take, but for the largest: the one that fills a half goes in too."""
    entries = {**buffer._aged, **buffer._fresh}.values()
    values = {id(each): each for each in (getattr(entry, "value", entry) for entry in entries)}
    sizes = [sys.getsizeof(value) for value in values.values()]
    return sum(sizes) - max(sizes, default=0)


@pytest.mark.parametrize("serializer", [MsgpackSerializer(), Compressing()], ids=lambda s: s.name)
@pytest.mark.parametrize("kind", LARGE)
async def test_large_values_of_every_kind_keep_to_the_cache_limit(
    tmp_path: pathlib.Path, kind: str, serializer: Serializer
) -> None:
    limits = Limits(cache_size_max_bytes=CACHE_BYTES)
    async with DurableObjectState.open(
        tmp_path / "object.sqlite",
        limits=limits,
        serializer=serializer,
        history=History(enabled=False),
    ) as ctx:
        kv = ctx.storage.kv
        held: list[int] = []

        def look() -> None:
            held.append(_held_bytes(ctx.storage._session.kv))

        async def write() -> None:
            for number in range(60):
                kv.put(f"key {number}", LARGE[kind](number))
                look()

        async def read() -> None:
            # Longer and longer ways through them, so that each is met in either half.
            for reach in range(1, 60, 3):
                for number in range(reach):
                    assert await ctx.storage.get(f"key {number}") == LARGE[kind](number)
                    look()
                    assert kv.get(f"key {number // 2}") == LARGE[kind](number // 2)
                    look()

        await ctx.run_event(write)
        await ctx.run_event(read)
    assert CACHE_BYTES / 4 < max(held) <= CACHE_BYTES


@pytest.mark.parametrize("seed", range(3))
async def test_what_the_cache_holds_is_never_more_than_it_counts(
    tmp_path: pathlib.Path, seed: int
) -> None:
    chance = random.Random(seed)
    values: list[object] = [
        True,
        None,
        1,
        0.5,
        float("nan"),
        "text",
        "\N{EURO SIGN}",
        b"bytes",
        2**70,
        Decimal(1),
        Decimal("7" * 100),
        [1],
        {},
        datetime.date(2000, 1, 1),
        uuid.UUID(int=1),
    ]
    off = History(enabled=False)
    async with DurableObjectState.open(tmp_path / "object.sqlite", history=off) as ctx:
        buffer = ctx.storage._session.kv

        async def change() -> None:
            key = chance.choice(["a", "b", "\N{EURO SIGN}"])
            for _ in range(chance.randrange(20)):
                match chance.randrange(4):
                    case 0:
                        ctx.storage.kv.delete(key)
                    case 1:
                        ctx.storage.kv.get(key)
                    case 2:
                        await ctx.storage.get(key)
                    case _:
                        ctx.storage.kv.put(key, chance.choice(values))

        for _ in range(200):
            await ctx.run_event(change)
            # The least that the entries take, however often they were replaced.
            least = len(buffer._fresh) * ENTRY_OVERHEAD_BYTES
            assert least <= buffer._fresh_bytes
