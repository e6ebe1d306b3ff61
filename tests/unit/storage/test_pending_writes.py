"""What an event has written and the table has not got yet: how much that is, and that it can be undone."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_storage import DurableObjectState, History
from durable_storage.storage import kv_buffer

pytestmark = pytest.mark.anyio

BOUND_BYTES = 100_000
LARGE = b"x" * (BOUND_BYTES // 10)


@pytest.fixture
async def ctx(tmp_path: pathlib.Path) -> AsyncIterator[DurableObjectState]:
    off = History(enabled=False)
    async with DurableObjectState.open(tmp_path / "object.sqlite", history=off) as ctx:
        await ctx.run_event(ctx.storage.kv.put, "first", 0)
        yield ctx


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_buffer, "DIRTY_MAX_BYTES", BOUND_BYTES)


def pending_bytes(ctx: DurableObjectState) -> int:
    dirty: dict[str, Any] = ctx.storage._session.kv.dirty
    return sum(
        len(key) + len(stored.encode() if isinstance(stored, str) else stored)
        for key, stored in dirty.items()
    )


@pytest.mark.parametrize("value", [LARGE, LARGE.decode(), [LARGE], "\N{EURO SIGN}" * 3_000])
async def test_large_writes_of_one_event_do_not_pile_up(
    ctx: DurableObjectState, value: object
) -> None:
    pending: list[int] = []

    async def event() -> None:
        for number in range(50):
            ctx.storage.kv.put(f"sync {number}", value)
            ctx.storage.put(f"async {number}", value, no_cache=True)
            pending.append(pending_bytes(ctx))

    await ctx.run_event(event)
    assert BOUND_BYTES // 4 < max(pending) <= BOUND_BYTES
    assert await ctx.run_event(ctx.storage.kv.get, "sync 0") == value
    assert await ctx.run_event(ctx.storage.kv.get, "async 49") == value


async def test_writes_over_and_over_and_deletes_leave_no_debt(ctx: DurableObjectState) -> None:
    kv = ctx.storage.kv

    async def large() -> None:
        for _ in range(25):
            kv.put("key", LARGE)
            kv.put("other", LARGE)
            kv.delete("other")

    async def small() -> int:
        for number in range(200):
            kv.put(f"key {number}", number)
        return len(ctx.storage._session.kv.dirty)

    await ctx.run_event(large)
    for _ in range(BOUND_BYTES // len(LARGE) - 1):
        await ctx.run_event(kv.put, "one pair, which is committed by itself", LARGE)
    # A whole event, and nothing of it was flushed early.
    assert await ctx.run_event(small) == 200


async def test_what_was_flushed_early_is_rolled_back_with_the_rest(ctx: DurableObjectState) -> None:
    kv = ctx.storage.kv

    def write(round_: int) -> None:
        for number in range(25):
            kv.put(f"key {number}", LARGE + bytes([round_]))

    def read() -> set[int]:
        found = [kv.get(f"key {number}") for number in range(25)]
        listed = [value for _, value in kv.list(prefix="key")]
        assert found == listed
        return {value[-1] for value in found}

    def fails(round_: int) -> None:
        write(round_)
        raise KeyError

    async def event() -> None:
        write(1)
        with pytest.raises(KeyError):
            ctx.storage.transaction_sync(lambda: fails(2))
        assert read() == {1}

        def outer() -> None:
            write(3)
            with pytest.raises(KeyError):
                ctx.storage.transaction_sync(lambda: fails(4))
            assert read() == {3}

        ctx.storage.transaction_sync(outer)
        assert read() == {3}
        async with ctx.storage.transaction() as transaction:
            write(5)
            transaction.rollback()
        assert read() == {3}

    await ctx.run_event(event)
    assert await ctx.run_event(read) == {3}
