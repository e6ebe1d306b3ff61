"""Whether operations stay cheap as an object's data grows."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from durable_storage import DurableObjectState

from ..harness import Bench, Run
from ..peers import OURS, RAW, SELECT, UPSERT, connect, filled

MIB = 1024**2
VALUE_BYTES = 16 * 1024
# Operations of one event.
BATCH = 50

Work = Callable[[DurableObjectState, int, int, int], None]


def _key(number: int) -> str:
    return f"key-{number:08}"


def _scattered(number: int, keys: int) -> str:
    # A multiplicative generator: every key comes, neighbours in time are far apart.
    return _key(number * 2_654_435_761 % keys)


def _read(ctx: DurableObjectState, keys: int, count: int, salt: int) -> None:
    buffer, get = ctx.storage.kv._buffer, ctx.storage.kv.get
    buffer._fresh.clear()
    buffer._aged.clear()
    for number in range(count):
        get(_scattered(salt * count + number, keys))


def _write(ctx: DurableObjectState, keys: int, count: int, salt: int) -> None:
    put = ctx.storage.kv.put
    for number in range(count):
        put(_scattered(salt * count + number, keys), salt + number)


def _overwrite(ctx: DurableObjectState, keys: int, count: int, salt: int) -> None:
    put = ctx.storage.kv.put
    for number in range(count):
        put(_scattered(salt * count + number, keys), _value(salt + number))


def _list(ctx: DurableObjectState, keys: int, count: int, salt: int) -> None:
    listing = ctx.storage.kv.list
    for number in range(count):
        for _ in listing(start=_scattered(salt * count + number, keys), limit=10):
            pass


def _value(salt: int) -> bytes:
    return salt.to_bytes(8, "big") * (VALUE_BYTES // 8)


def at(keys: int, work: Work, value: Callable[[int], Any], batch: int = BATCH) -> Any:
    """``work`` on a store with so many keys, ``batch`` operations an event."""

    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        def some(ctx: DurableObjectState, start: int, stop: int) -> None:
            for number in range(start, stop):
                ctx.storage.kv.put(_key(number), value(number))

        async def fill(ctx: DurableObjectState) -> None:
            for start in range(0, keys, 1000):
                await ctx.run_event(some, ctx, start, min(start + 1000, keys))

        async with filled(folder, fill) as ctx:

            async def run(count: int, salt: int) -> None:
                for part in range(count):
                    await ctx.run_event(work, ctx, keys, batch, salt * 1000 + part)

            yield run

    return contender


def raw_at(keys: int, *, write: bool) -> Any:
    """The same with raw ``sqlite3``, values of 16 KiB."""

    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        with closing(connect(folder / "raw.db")) as connection:
            execute = connection.execute
            execute("BEGIN")
            for number in range(keys):
                execute(UPSERT, (_key(number), _value(number)))
            execute("COMMIT")

            def run(count: int, salt: int) -> None:
                for part in range(count):
                    start = (salt * 1000 + part) * BATCH
                    if write:
                        execute("BEGIN")
                        for number in range(start, start + BATCH):
                            execute(UPSERT, (_scattered(number, keys), _value(number)))
                        execute("COMMIT")
                    else:
                        for number in range(start, start + BATCH):
                            execute(SELECT, (_scattered(number, keys),)).fetchone()[0]

            yield run

    return contender


async def growth(bench: Bench) -> None:
    """Cost of an operation by the number of keys and by the size of the data."""
    sizes = [10**3, 10**4, 10**5, *([10**6] if bench.long else [])]
    # Of the puts each is an event: several would change as many pages more as there are more keys.
    for what, work, batch in (
        ("get uncached", _read, BATCH),
        ("put, each an event", _write, 1),
        ("list of 10", _list, BATCH),
    ):
        await bench.compare(
            f"{what}, by number of keys",
            {f"{size:,} keys": at(size, work, int, batch) for size in sizes},
            base=f"{sizes[0]:,} keys",
            divide=batch,
            # No faster than the logarithm of the number of keys.
            goals={f"{size:,} keys": math.log(size) / math.log(sizes[0]) for size in sizes[1:]},
            rounds=None if bench.long else 9,
        )
    for volume in (1, 16, *((256, 1024) if bench.long else (64,))):
        keys = volume * MIB // VALUE_BYTES
        for what, work in (("get uncached", _read), ("put", _overwrite)):
            await bench.compare(
                f"{what} 16 KiB of {volume} MiB",
                {OURS: at(keys, work, _value), RAW: raw_at(keys, write=work is _overwrite)},
                base=RAW,
                divide=BATCH,
                rounds=None if bench.long else 7,
            )
