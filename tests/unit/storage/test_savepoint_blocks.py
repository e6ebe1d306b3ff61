"""``with storage.transaction_sync():`` in code that does what it should not."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import anyio.lowlevel
import pytest

from durable_storage import DurableObject, History, Runtime, TransactionError

pytestmark = pytest.mark.anyio


class Blocks(DurableObject):
    async def awaits_inside(self) -> dict[str, Any]:
        storage = self.ctx.storage
        storage.put("before", 1)
        block = storage.transaction_sync()
        block.__enter__()
        storage.kv.put("inside", 1)
        await anyio.lowlevel.checkpoint()
        storage.kv.put("behind", 1)
        with pytest.raises(TransactionError, match="do not await inside"):
            block.__exit__(None, None, None)
        return await storage.list()

    async def abandons(self) -> dict[str, Any]:
        storage = self.ctx.storage
        block: Any = storage.transaction_sync()
        block.__enter__()
        storage.kv.put("abandoned", 1)
        await anyio.lowlevel.checkpoint()
        with storage.transaction_sync():
            storage.kv.put("kept", 1)
            del block
            gc.collect()
        return await storage.list()

    async def nests(self) -> dict[str, Any]:
        storage = self.ctx.storage
        with storage.transaction_sync():
            storage.kv.put("outer", 1)
            with contextlib.suppress(KeyError), storage.transaction_sync():
                storage.kv.put("inner", 1)
                raise KeyError
        return await storage.list()


async def test_a_block_left_by_an_await_is_undone_and_says_so() -> None:
    async with Runtime(history=History(enabled=False)) as runtime:
        found = await runtime.namespace(Blocks).get_by_name("a").awaits_inside()
        assert found == {"before": 1, "behind": 1}


async def test_an_abandoned_block_does_not_end_the_one_in_its_place() -> None:
    async with Runtime(history=History(enabled=False)) as runtime:
        assert await runtime.namespace(Blocks).get_by_name("a").abandons() == {"kept": 1}


async def test_a_failed_inner_block_leaves_the_outer_one() -> None:
    async with Runtime(history=History(enabled=False)) as runtime:
        assert await runtime.namespace(Blocks).get_by_name("a").nests() == {"outer": 1}
