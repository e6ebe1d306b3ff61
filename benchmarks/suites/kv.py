"""Keys and values: ``storage.kv``, ``storage`` and listings."""

from __future__ import annotations

import shelve
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgpack

from durable_storage import DurableObjectState

from ..harness import Bench, Run
from ..peers import OURS, RAW, SELECT, UNTUNED, UPSERT, connect, filled, module, ours, zodb

# Reads are counted in sweeps over all of them.
KEYS = [f"key-{number:05}" for number in range(1000)]
# Writes share transactions of this many.
BATCH = 100

Make = Callable[[int], Any]


def an_int(salt: int) -> Any:
    return salt


def a_dict(salt: int) -> Any:
    return {"id": salt, "name": "Ada Lovelace", "tags": ["a", "b"], "active": True}


def _encode(value: Any) -> Any:
    return value if type(value) is int else msgpack.packb(value)


def _decode(stored: Any) -> Any:
    return stored if type(stored) is int else msgpack.unpackb(stored)


# -- reading ------------------------------------------------------------------------------


def our_get(make: Make, *, cached: bool) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        def fill(ctx: DurableObjectState) -> None:
            for number, key in enumerate(KEYS):
                ctx.storage.kv.put(key, make(number))

        async with filled(folder, lambda ctx: ctx.run_event(fill, ctx)) as ctx:
            kv = ctx.storage.kv
            # Opened again, the cache is empty.
            await ctx.run_event(lambda: [kv.get(key) for key in KEYS])

            def batch(count: int) -> None:
                get = kv.get
                for _ in range(count):
                    for key in KEYS:
                        get(key)

            def uncached(count: int) -> None:
                # The cache is emptied, as often as every key has been read once.
                forget, get = _forgetting(ctx), kv.get
                for _ in range(count):
                    forget()
                    for key in KEYS:
                        get(key)

            def run(count: int, salt: int) -> Any:
                return ctx.run_event(batch if cached else uncached, count)

            yield run

    return contender


def _forgetting(ctx: DurableObjectState) -> Callable[[], None]:
    buffer = ctx.storage.kv._buffer

    def forget() -> None:
        buffer._fresh.clear()
        buffer._aged.clear()

    return forget


def raw_get(make: Make, *, tuned: bool = True) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        with closing(connect(folder / "raw.db", tuned=tuned)) as connection:
            connection.execute("BEGIN")
            connection.executemany(UPSERT, ((k, _encode(make(n))) for n, k in enumerate(KEYS)))
            connection.execute("COMMIT")
            plain = type(make(0)) is int

            def run(count: int, salt: int) -> None:
                execute, unpack = connection.execute, msgpack.unpackb
                for _ in range(count):
                    if plain:
                        for key in KEYS:
                            execute(SELECT, (key,)).fetchone()[0]
                    else:
                        for key in KEYS:
                            unpack(execute(SELECT, (key,)).fetchone()[0])

            yield run

    return contender


def mapping(open_: Callable[[Path], Any], make: Make, *, write: bool = False) -> Any:
    """A peer that is a ``dict`` to its users."""

    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        store, commit, close = open_(folder)
        for number, key in enumerate(KEYS):
            store[key] = make(number)
        commit()

        def read(count: int, salt: int) -> None:
            for _ in range(count):
                for key in KEYS:
                    store[key]

        def change(count: int, salt: int) -> None:
            for start in range(0, count, BATCH):
                for number in range(start, min(start + BATCH, count)):
                    store[KEYS[number % len(KEYS)]] = make(salt + number)
                commit()

        yield change if write else read
        close()

    return contender


def _nothing() -> None:
    pass


def open_dict(folder: Path) -> Any:
    return {}, _nothing, _nothing


def open_shelve(folder: Path) -> Any:
    store = shelve.open(str(folder / "shelf"))  # noqa: SIM115 - whoever asked closes it
    return store, store.sync, store.close


def open_sqlitedict(folder: Path) -> Any:
    store = module("sqlitedict").SqliteDict(str(folder / "dict.db"), autocommit=False)
    return store, store.commit, store.close


def open_diskcache(folder: Path) -> Any:
    store = module("diskcache").Cache(str(folder / "cache"))
    return store, _nothing, store.close


def open_zodb(folder: Path) -> Any:
    database, connection, tree, transaction = zodb(folder)

    def close() -> None:
        connection.close()
        database.close()

    return tree, transaction.commit, close


MAPPINGS: dict[str, Callable[[Path], Any]] = {
    "diskcache": open_diskcache,
    "sqlitedict": open_sqlitedict,
    "shelve": open_shelve,
    "ZODB": open_zodb,
    "dict": open_dict,
}


def mappings(make: Make, *, write: bool = False) -> dict[str, Any]:
    return {name: mapping(open_, make, write=write) for name, open_ in MAPPINGS.items()}


# -- writing ------------------------------------------------------------------------------


def our_put(make: Make, *, hot: bool = False) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        async with ours(folder) as ctx:
            put = ctx.storage.kv.put

            def batch(start: int, stop: int, salt: int) -> None:
                for number in range(start, stop):
                    put(KEYS[0 if hot else number % len(KEYS)], make(salt + number))

            async def run(count: int, salt: int) -> None:
                for start in range(0, count, BATCH):
                    await ctx.run_event(batch, start, min(start + BATCH, count), salt)

            yield run

    return contender


def raw_put(make: Make, *, tuned: bool = True, hot: bool = False) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        with closing(connect(folder / "raw.db", tuned=tuned)) as connection:
            plain = type(make(0)) is int

            def run(count: int, salt: int) -> None:
                execute, pack = connection.execute, msgpack.packb
                for start in range(0, count, BATCH):
                    execute("BEGIN")
                    for number in range(start, min(start + BATCH, count)):
                        value = make(salt + number)
                        key = KEYS[0 if hot else number % len(KEYS)]
                        execute(UPSERT, (key, value if plain else pack(value)))
                    execute("COMMIT")

            yield run

    return contender


async def kv(bench: Bench) -> None:
    """``storage.kv``: get from the cache and past it, put."""
    await bench.compare(
        "get cached int",
        {
            OURS: our_get(an_int, cached=True),
            RAW: raw_get(an_int),
            UNTUNED: raw_get(an_int, tuned=False),
            **mappings(an_int),
        },
        base=RAW,
        divide=len(KEYS),
        goals={OURS: 0.08},
    )
    await bench.compare(
        "get cached dict",
        {OURS: our_get(a_dict, cached=True), RAW: raw_get(a_dict), **mappings(a_dict)},
        base=RAW,
        divide=len(KEYS),
        goals={OURS: 0.35},
    )
    await bench.compare(
        "get uncached int",
        {OURS: our_get(an_int, cached=False), RAW: raw_get(an_int)},
        base=RAW,
        divide=len(KEYS),
        goals={OURS: 1.2},
    )
    await bench.compare(
        "get uncached dict",
        {OURS: our_get(a_dict, cached=False), RAW: raw_get(a_dict)},
        base=RAW,
        divide=len(KEYS),
        goals={OURS: 1.2},
    )
    await bench.compare(
        f"put dict, {BATCH} a transaction",
        {
            OURS: our_put(a_dict),
            RAW: raw_put(a_dict),
            UNTUNED: raw_put(a_dict, tuned=False),
            **mappings(a_dict, write=True),
        },
        base=RAW,
        goals={OURS: 1.25},
    )
    await bench.compare(
        f"put int, {BATCH} a transaction",
        {OURS: our_put(an_int), RAW: raw_put(an_int)},
        base=RAW,
    )
    await bench.compare(
        f"put one hot key, {BATCH} a transaction",
        {OURS: our_put(an_int, hot=True), RAW: raw_put(an_int, hot=True)},
        base=RAW,
    )


# -- awaiting -----------------------------------------------------------------------------


@asynccontextmanager
async def our_async_get(folder: Path) -> AsyncIterator[Run]:
    async with ours(folder) as ctx:
        storage = ctx.storage

        async def fill() -> None:
            for number, key in enumerate(KEYS):
                await storage.put(key, number)

        await ctx.run_event(fill)

        async def batch(count: int) -> None:
            get = storage.get
            for _ in range(count):
                for key in KEYS:
                    await get(key)

        yield lambda count, salt: ctx.run_event(batch, count)


def our_async_put(make: Make) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        async with ours(folder) as ctx:
            put = ctx.storage.put

            async def batch(start: int, stop: int, salt: int) -> None:
                for number in range(start, stop):
                    await put(KEYS[number % len(KEYS)], make(salt + number))

            async def run(count: int, salt: int) -> None:
                for start in range(0, count, BATCH):
                    await ctx.run_event(batch, start, min(start + BATCH, count), salt)

            yield run

    return contender


@asynccontextmanager
async def aiosqlite_get(folder: Path) -> AsyncIterator[Run]:
    async with module("aiosqlite").connect(folder / "aio.db") as connection:
        await connection.execute("CREATE TABLE kv(key TEXT PRIMARY KEY, value) WITHOUT ROWID")
        await connection.executemany(UPSERT, [(key, n) for n, key in enumerate(KEYS)])
        await connection.commit()

        async def run(count: int, salt: int) -> None:
            for _ in range(count):
                for key in KEYS:
                    async with connection.execute(SELECT, (key,)) as cursor:
                        await cursor.fetchone()

        yield run


@asynccontextmanager
async def aiosqlite_put(folder: Path) -> AsyncIterator[Run]:
    async with module("aiosqlite").connect(folder / "aio.db") as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=NORMAL")
        await connection.execute("CREATE TABLE kv(key TEXT PRIMARY KEY, value) WITHOUT ROWID")

        async def run(count: int, salt: int) -> None:
            for start in range(0, count, BATCH):
                for number in range(start, min(start + BATCH, count)):
                    await connection.execute(
                        UPSERT, (KEYS[number % len(KEYS)], msgpack.packb(a_dict(salt + number)))
                    )
                await connection.commit()

        yield run


async def async_kv(bench: Bench) -> None:
    """``await storage.get()`` and ``put()``."""
    await bench.compare(
        "await get cached int",
        {OURS: our_async_get, RAW: raw_get(an_int), "aiosqlite": aiosqlite_get},
        base=RAW,
        divide=len(KEYS),
        goals={OURS: 0.2},
    )
    await bench.compare(
        f"await put dict, {BATCH} a transaction",
        {OURS: our_async_put(a_dict), RAW: raw_put(a_dict), "aiosqlite": aiosqlite_put},
        base=RAW,
        goals={OURS: 1.35},
    )
    await bench.compare(
        f"await put int, {BATCH} a transaction",
        {OURS: our_async_put(an_int), RAW: raw_put(an_int)},
        base=RAW,
    )


# -- listing ------------------------------------------------------------------------------

LISTED = 10_000


def our_list(make: Make, *, to_dict: bool) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        def fill(ctx: DurableObjectState) -> None:
            for number in range(LISTED):
                ctx.storage.kv.put(f"key-{number:05}", make(number))

        async with filled(folder, lambda ctx: ctx.run_event(fill, ctx)) as ctx:
            storage = ctx.storage

            def iterate(count: int) -> None:
                for _ in range(count):
                    for _key, _value in storage.kv.list():
                        pass

            async def as_dict(count: int) -> None:
                for _ in range(count):
                    await storage.list()

            yield lambda count, salt: ctx.run_event(as_dict if to_dict else iterate, count)

    return contender


def raw_list(make: Make, *, to_dict: bool) -> Any:
    @asynccontextmanager
    async def contender(folder: Path) -> AsyncIterator[Run]:
        with closing(connect(folder / "raw.db")) as connection:
            pack, unpack = msgpack.packb, msgpack.unpackb
            connection.execute("BEGIN")
            connection.executemany(UPSERT, ((f"key-{n:05}", pack(make(n))) for n in range(LISTED)))
            connection.execute("COMMIT")

            def run(count: int, salt: int) -> None:
                for _ in range(count):
                    rows = connection.execute("SELECT key, value FROM kv ORDER BY key")
                    if to_dict:
                        {key: unpack(value) for key, value in rows}
                    else:
                        for _key, stored in rows:
                            unpack(stored)

            yield run

    return contender


async def listing(bench: Bench) -> None:
    """10 000 pairs in key order. The raw peer stores every value as MessagePack."""
    for what, make, judged in (("dicts", a_dict, True), ("ints", an_int, False)):
        iterated = f"{OURS} iterate"
        await bench.compare(
            f"list 10 000 {what}",
            {
                iterated: our_list(make, to_dict=False),
                OURS: our_list(make, to_dict=True),
                f"{RAW} iterate": raw_list(make, to_dict=False),
                RAW: raw_list(make, to_dict=True),
            },
            base=RAW,
            goals={iterated: 0.8, OURS: 1.15} if judged else {},
        )
