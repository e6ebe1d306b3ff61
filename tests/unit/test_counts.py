"""What operations cost in things that can be counted: syncs, statements, calls, blocks of memory.

A benchmark tells how fast something is on one machine; these bounds hold on every machine, and
fail when a hot path gains a statement, a sync or a layer.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from durable_storage import DurableObject, DurableObjectState, History, Runtime

pytestmark = pytest.mark.anyio

OFF = History(enabled=False)
TOGETHER = 1000


class CountFaults:
    """A seam for faults that makes none, and counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def before(self, operation: str, path: str) -> None:
        if path.endswith("-wal") or operation == "commit":
            self.counts[operation] += 1


class Cell(DurableObject):
    async def increment(self) -> int:
        value = await self.ctx.storage.get("value", 0)
        self.ctx.storage.put("value", value + 1)
        return int(value) + 1

    async def read(self) -> object:
        return await self.ctx.storage.get("value")

    async def nothing(self) -> None:
        pass


# -- syncs --------------------------------------------------------------------------------


async def _syncs(tmp_path: Path, history: History, work: Callable[[Any], Any]) -> int:
    faults = CountFaults()
    async with Runtime(tmp_path, history=history, faults=faults) as runtime:
        cell = runtime.namespace(Cell).get_by_name("cell")
        await cell.increment()
        faults.counts.clear()
        await work(cell)
        return faults.counts["fdatasync"]


@pytest.mark.parametrize("history", [OFF, History()], ids=["no history", "history"])
async def test_a_thousand_increments_together_share_their_syncs(
    tmp_path: Path, history: History
) -> None:
    async def work(cell: Any) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(TOGETHER):
                group.start_soon(cell.increment)

    assert 1 <= await _syncs(tmp_path, history, work) <= 30


@pytest.mark.parametrize("history", [OFF, History()], ids=["no history", "history"])
async def test_increments_one_after_the_other_take_one_sync_each(
    tmp_path: Path, history: History
) -> None:
    async def work(cell: Any) -> None:
        for _ in range(20):
            await cell.increment()

    assert await _syncs(tmp_path, history, work) == 20


async def test_reads_take_no_sync(tmp_path: Path) -> None:
    async def work(cell: Any) -> None:
        for _ in range(20):
            await cell.read()

    assert await _syncs(tmp_path, OFF, work) == 0


# -- statements ---------------------------------------------------------------------------


@contextmanager
def statements(ctx: DurableObjectState) -> Iterator[Counter[str]]:
    """The statements that SQLite runs meanwhile, by their first word."""
    counts: Counter[str] = Counter()
    connection = ctx.storage._session.database._connection

    def trace(sql: str) -> None:
        counts[sql.rpartition("*/")[2].split(None, 1)[0]] += 1

    connection.set_trace_callback(trace)
    try:
        yield counts
    finally:
        connection.set_trace_callback(None)


@contextmanager
def _profiled(count: Callable[[Any, str, Any], None]) -> Iterator[None]:
    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(previous)


@pytest.fixture
async def ctx(tmp_path: Path, anyio_backend: object) -> Any:
    opened = DurableObjectState.open(tmp_path / "object.sqlite", history=OFF)
    async with opened as ctx:

        def fill() -> None:
            for number in range(100):
                ctx.storage.kv.put(f"key-{number:02}", {"number": number})
            ctx.storage.kv.put("int", 1)
            ctx.storage.sql.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, value)")
            ctx.storage.sql.exec("INSERT INTO t VALUES(1, 1)")

        await ctx.run_event(fill)
        # The first transaction after the first confirmation changes how the file is synced.
        await ctx.run_event(ctx.storage.kv.put, "int", 2)
        await ctx.run_event(ctx.storage.sql.exec, "UPDATE t SET value=2")
        yield ctx


async def test_a_cached_get_takes_no_statement(ctx: DurableObjectState) -> None:
    def event() -> None:
        for _ in range(10):
            ctx.storage.kv.get("int")
            ctx.storage.kv.get("key-00")
            ctx.storage.kv.get("missing")

    await ctx.run_event(event)
    with statements(ctx) as counts:
        await ctx.run_event(event)
    assert counts == {}


async def test_an_uncached_get_takes_one_statement(ctx: DurableObjectState) -> None:
    async def event() -> None:
        for number in range(10):
            await ctx.storage.get(f"missing-{number}", no_cache=True)

    with statements(ctx) as counts:
        await ctx.run_event(event)
    assert counts == {"SELECT": 10}


async def test_the_puts_of_an_event_take_one_statement_for_each_key(
    ctx: DurableObjectState,
) -> None:
    def event() -> None:
        for number in range(100):
            ctx.storage.kv.put(f"key-{number:02}", -number)

    with statements(ctx) as counts:
        await ctx.run_event(event)
    assert counts == {"BEGIN": 1, "INSERT": 100, "COMMIT": 1}


async def test_puts_of_one_key_take_one_statement(ctx: DurableObjectState) -> None:
    def event() -> None:
        for number in range(100):
            ctx.storage.kv.put("int", number)

    with statements(ctx) as counts:
        await ctx.run_event(event)
    assert counts == {"INSERT": 1}


async def test_a_listing_takes_one_statement(ctx: DurableObjectState) -> None:
    async def event() -> None:
        assert len(await ctx.storage.list(prefix="key-")) == 100
        assert len(list(ctx.storage.kv.list(prefix="key-"))) == 100

    with statements(ctx) as counts:
        await ctx.run_event(event)
    assert counts == {"SELECT": 2}


async def test_a_query_takes_one_statement_and_a_write_a_transaction(
    ctx: DurableObjectState,
) -> None:
    def read() -> None:
        ctx.storage.sql.exec("SELECT value FROM t WHERE id=?", 1).one()

    def write() -> None:
        ctx.storage.sql.exec("UPDATE t SET value=value+1")

    with statements(ctx) as counts:
        await ctx.run_event(read)
    assert counts == {"SELECT": 1}
    with statements(ctx) as counts:
        await ctx.run_event(write)
    assert counts == {"BEGIN": 1, "UPDATE": 1, "COMMIT": 1}


async def test_transaction_sync_takes_two_statements_more(ctx: DurableObjectState) -> None:
    def write() -> None:
        ctx.storage.transaction_sync(lambda: ctx.storage.sql.exec("UPDATE t SET value=value+1"))

    with statements(ctx) as counts:
        await ctx.run_event(write)
    assert counts == {"BEGIN": 1, "SAVEPOINT": 1, "UPDATE": 1, "RELEASE": 1, "COMMIT": 1}


# -- calls --------------------------------------------------------------------------------

# One of the calls of a get, and two of a query, ask which thread it is.
CALLS_MAX = {"get int": 3, "get dict": 4, "put int": 11, "put dict": 18, "query": 10, "update": 5}
# Of a stub, one asks which thread it is, and one steps into a generator that saves an exception.
# trio opens a scope for each event, through which it can be cancelled.
STUB_CALLS_MAX = {"asyncio": 13, "trio": 97}


def calls(operation: Callable[[], object]) -> int:
    """How many functions, of Python and of C, one operation calls."""
    operation()
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    with _profiled(profile):
        operation()
    # The last one switches profiling off.
    return count - 1


async def test_hot_operations_call_few_functions(ctx: DurableObjectState) -> None:
    kv, sql = ctx.storage.kv, ctx.storage.sql
    counted: dict[str, int] = {}

    def event() -> None:
        counted["nothing"] = calls(lambda: None)
        counted["get int"] = calls(lambda: kv.get("int"))
        counted["get dict"] = calls(lambda: kv.get("key-00"))
        counted["put int"] = calls(lambda: kv.put("int", 5))
        counted["put dict"] = calls(lambda: kv.put("key-00", {"number": 5}))
        counted["query"] = calls(lambda: sql.exec("SELECT value FROM t WHERE id=?", 1).one())
        counted["update"] = calls(lambda: sql.exec("UPDATE t SET value=?", 1))

    await ctx.run_event(event)
    nothing = counted.pop("nothing")
    counted = {name: count - nothing for name, count in counted.items()}
    for name, most in CALLS_MAX.items():
        assert counted[name] <= most, f"{name}: {counted[name]} calls, {most} allowed"


async def test_a_call_of_a_stub_calls_few_functions(tmp_path: Path, anyio_backend: str) -> None:
    async with Runtime(tmp_path, history=OFF) as runtime:
        cell = runtime.namespace(Cell).get_by_name("cell")
        for _ in range(3):
            await cell.nothing()
        counts: list[int] = []

        def profile(frame: Any, event: str, argument: Any) -> None:
            if event in ("call", "c_call"):
                counts[-1] += 1

        # Once in sixteen calls it is looked whether others should run.
        for _ in range(2):
            counts.append(0)
            with _profiled(profile):
                await cell.nothing()
    assert min(counts) <= STUB_CALLS_MAX[anyio_backend], counts


# -- memory -------------------------------------------------------------------------------


def kept_blocks(operation: Callable[[], object], times: int) -> int:
    """How many blocks of memory are in use afterwards that were not before."""
    for _ in range(times):
        operation()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(times):
        operation()
    gc.collect()
    return sys.getallocatedblocks() - before


async def test_an_open_object_keeps_few_prepared_statements(tmp_path: Path) -> None:
    # Each takes two kilobytes that no count of blocks shows.
    def prepared() -> int:
        return sum(type(each).__name__ == "Statement" for each in gc.get_objects())

    before = prepared()
    async with DurableObjectState.open(tmp_path / "object.sqlite", history=OFF) as ctx:
        for number in range(3):
            await ctx.run_event(ctx.storage.put, "value", number)
        assert 1 <= prepared() - before <= 10


async def test_hot_operations_keep_no_memory(ctx: DurableObjectState) -> None:
    kv, sql = ctx.storage.kv, ctx.storage.sql
    kept: dict[str, int] = {}

    def event() -> None:
        kept["get"] = kept_blocks(lambda: kv.get("key-00"), 1000)
        kept["put"] = kept_blocks(lambda: kv.put("key-00", {"number": 5}), 1000)
        kept["query"] = kept_blocks(
            lambda: sql.exec("SELECT value FROM t WHERE id=?", 1).one(), 1000
        )
        kept["unread query"] = kept_blocks(lambda: sql.exec("SELECT value FROM t"), 1000)
        kept["update"] = kept_blocks(lambda: sql.exec("UPDATE t SET value=?", 1), 1000)

    await ctx.run_event(event)
    assert {name: count for name, count in kept.items() if count > 50} == {}


async def test_calls_of_a_stub_keep_no_memory(tmp_path: Path) -> None:
    async with Runtime(tmp_path, history=OFF, durability="os") as runtime:
        cell = runtime.namespace(Cell).get_by_name("cell")

        async def calls() -> int:
            for _ in range(500):
                await cell.nothing()
                await cell.increment()
            gc.collect()
            return sys.getallocatedblocks()

        for _ in range(3):
            await calls()
        before = await calls()
        assert await calls() - before <= 50
