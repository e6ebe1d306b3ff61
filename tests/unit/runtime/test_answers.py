"""When answers leave while others have something pending."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from durable_storage import DurableObject, History, Runtime

pytestmark = pytest.mark.anyio


class Room(DurableObject):
    async def write_in_a_child(self) -> None:
        async def work() -> None:
            await anyio.lowlevel.checkpoint()
            await self.ctx.storage.get("value")
            await self.ctx.storage.put("value", "child")

        async with anyio.create_task_group() as group:
            group.start_soon(work)

    async def hold(self, done: anyio.Event) -> None:
        await self.ctx.block_concurrency_while(done.wait)

    async def write(self) -> None:
        self.ctx.storage.put("value", "event")


async def test_an_answer_leaves_though_a_child_task_has_a_write_pending() -> None:
    async with Runtime(durability="os", history=History(enabled=False)) as runtime:
        room = runtime.namespace(Room).get_by_name("r")
        await room.write()
        done = anyio.Event()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(room.write_in_a_child)
                group.start_soon(room.hold, done)
                await anyio.wait_all_tasks_blocked()
                # Both the child's operation and this event now wait for the critical section.
                group.start_soon(room.write)
                await anyio.wait_all_tasks_blocked()
                done.set()
