"""What is refused through ``ctx.storage``, with a clear error and nothing changed."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from durable_storage import (
    ConcurrencyError,
    DurableObjectState,
    DurableStorageError,
    LimitExceededError,
    Limits,
    ObjectResetError,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("bad", ["\ud800", "k" * 3_000_000, 5])
async def test_a_bad_key_among_many_leaves_the_others_undeleted(tmp_path: Path, bad: Any) -> None:
    async with DurableObjectState.open(tmp_path / "a.sqlite") as ctx:
        ctx.storage.put("a", 1)
        with pytest.raises(DurableStorageError, match="key"):
            ctx.storage.delete(["a", bad])
        assert await ctx.storage.get("a") == 1
        with pytest.raises(DurableStorageError, match="key"):
            ctx.storage.get(["a", bad])


async def test_a_key_over_the_limit_is_refused_in_words(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "a.sqlite") as ctx:
        with pytest.raises(LimitExceededError, match="2097152"):
            ctx.storage.delete(["k" * 3_000_000])


@pytest.mark.parametrize("bound", ["start", "start_after", "end", "prefix"])
async def test_a_bound_with_a_lone_surrogate_is_refused_at_the_call(
    tmp_path: Path, bound: str
) -> None:
    async with DurableObjectState.open(tmp_path / "a.sqlite") as ctx:
        for listing in (ctx.storage.list, ctx.storage.kv.list):
            with pytest.raises(ValueError, match=f"{bound} has a lone surrogate"):
                listing(**{bound: "\ud800"})  # type: ignore[arg-type] - refusing it is the point


@pytest.mark.parametrize("key", [[], {}, None, 5, b"a"])
async def test_a_key_of_another_type_is_refused_by_the_library(tmp_path: Path, key: Any) -> None:
    async with DurableObjectState.open(tmp_path / "a.sqlite") as ctx:
        kv = ctx.storage.kv
        calls: list[Callable[[], object]] = [
            lambda: kv.get(key),
            lambda: kv.put(key, 1),
            lambda: kv.delete(key),
        ]
        for call in calls:
            with pytest.raises(DurableStorageError, match="takes a str as key"):
                call()


async def test_what_cannot_be_called_is_refused_before_anything_runs(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "a.sqlite") as ctx:
        storage: Any = ctx.storage
        with pytest.raises(DurableStorageError, match="takes a callable, got int"):
            storage.transaction(5)
        storage.sql.exec("CREATE TABLE t(a)")
        with pytest.raises(DurableStorageError, match="row_type, got int"):
            storage.sql.exec("INSERT INTO t VALUES (1)", row_type=5)
        assert storage.sql.exec("SELECT * FROM t").to_array() == []


async def test_reads_and_transactions_are_refused_to_another_thread(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "a.sqlite") as ctx:
        storage = ctx.storage
        calls: list[Callable[[], object]] = [
            lambda: storage.kv.get("not cached"),
            lambda: storage.transaction(lambda: None),
            storage.sync,
        ]
        refused: list[Callable[[], object]] = []

        def elsewhere() -> None:
            for call in calls:
                try:
                    call()
                except ConcurrencyError:
                    refused.append(call)

        def event() -> None:
            # Joined inside the event, which is the current one all the time.
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

        await ctx.run_event(event)
        assert refused == calls


async def test_everything_is_refused_after_close_and_nothing_is_opened_anew(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.sqlite"
    async with DurableObjectState.open(path) as ctx:
        ctx.storage.put("a", 1)
    storage = ctx.storage

    async def block() -> None:
        async with storage.transaction():
            pass

    with pytest.raises(ObjectResetError, match="was closed"):
        await ctx.run_event(lambda: storage.kv.get("a"))
    with pytest.raises(ObjectResetError, match="was closed"):
        await block()
    calls: list[Callable[[], object]] = [
        lambda: storage.kv.get("a"),
        lambda: storage.get("a"),
        lambda: storage.put("a", 2),
        lambda: storage.transaction(lambda: None),
        lambda: storage.sync(),
        lambda: ctx.block_concurrency_while(lambda: None),
        lambda: ctx.wait_until(block()),
    ]
    for call in calls:
        with pytest.raises(ObjectResetError, match="was closed"):
            call()
    async with DurableObjectState.open(path) as again:
        assert await again.storage.get("a") == 1


async def test_the_smallest_patterns_and_functions_do_not_stop_delete_all(tmp_path: Path) -> None:
    limits = Limits(like_pattern_size_max_bytes=1, function_arguments=1)
    async with DurableObjectState.open(tmp_path / "a.sqlite", limits=limits) as ctx:
        ctx.storage.put("a", 1)
        sql = ctx.storage.sql
        sql.exec(
            "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a);"
            "INSERT INTO t(a) VALUES (1); CREATE INDEX i ON t(a); ANALYZE;"
            "CREATE VIRTUAL TABLE f USING fts5(text); CREATE VIEW v AS SELECT * FROM t"
        )
        await ctx.storage.delete_all()
        assert sql.exec("SELECT name FROM sqlite_master").to_array() == []


async def test_no_other_thread_uses_the_state(tmp_path: Path, anyio_backend_name: str) -> None:
    async def code() -> int:
        return 1

    async with DurableObjectState.open(tmp_path / "object.sqlite") as ctx:

        async def run_event() -> None:
            await ctx.run_event(code)

        async def gather() -> None:
            await ctx.gather()

        async def wait_until() -> None:
            ctx.wait_until(code())

        async def abort() -> None:
            ctx.abort()

        for use in (run_event, gather, wait_until, abort):
            with pytest.raises(ConcurrencyError, match="another thread"):
                await anyio.to_thread.run_sync(
                    lambda use=use: anyio.run(use, backend=anyio_backend_name)
                )
        assert await ctx.run_event(code) == 1


async def test_an_abort_outside_every_event_is_an_error_like_any_other(
    tmp_path: Path,
) -> None:
    async with DurableObjectState.open(tmp_path / "object.sqlite") as ctx:
        ctx.storage.put("key", 1)
        for _ in range(2):
            with pytest.raises(ObjectResetError, match="enough"):
                ctx.abort("enough")
        assert await ctx.run_event(lambda: ctx.storage.kv.get("key")) is None


async def test_branches_that_a_dead_object_refuses_are_closed(tmp_path: Path) -> None:
    ran: list[int] = []

    async def code(number: int) -> None:
        ran.append(number)

    branches = [code(0), code(1)]
    async with DurableObjectState.open(tmp_path / "object.sqlite") as ctx:

        async def event() -> None:
            try:
                ctx.abort()
            finally:
                await ctx.gather(*branches)

        with pytest.raises(ObjectResetError):
            await ctx.run_event(event)
    assert not ran
    assert [inspect.getcoroutinestate(branch) for branch in branches] == [inspect.CORO_CLOSED] * 2
