"""Batch processing with alarms: items are queued at once, and handled together five seconds later.

    python examples/batch_processing.py [DIRECTORY]

The alarm is part of the same commit as the item that sets it. So every item that was accepted is
processed, also when the process is killed before the alarm is due: the next start runs it.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Any

from durable_storage import AlarmInvocationInfo, DurableObject, DurableObjectState, Runtime

WAIT = timedelta(seconds=5)


class Batcher(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("""
            CREATE TABLE IF NOT EXISTS items(id INTEGER PRIMARY KEY, item TEXT NOT NULL);
            CREATE TABLE IF NOT EXISTS batches(number INTEGER PRIMARY KEY, items INT, retries INT);
        """)

    async def add(self, item: str) -> None:
        storage = self.ctx.storage
        storage.sql.exec("INSERT INTO items(item) VALUES (?)", item)
        # The first item of a batch starts the clock; the others join.
        if await storage.get_alarm() is None:
            storage.set_alarm(WAIT)

    async def alarm(self, alarm_info: AlarmInvocationInfo) -> None:
        items = self.ctx.storage.sql.exec("SELECT id, item FROM items ORDER BY id").to_array()
        if not items:
            return
        await self._send([row["item"] for row in items])
        # Items that came in while it was sent have higher ids, and have set an alarm of their own.
        self.ctx.storage.sql.exec("DELETE FROM items WHERE id <= ?", items[-1]["id"])
        self.ctx.storage.sql.exec(
            "INSERT INTO batches(items, retries) VALUES (?, ?)",
            len(items), alarm_info.retry_count,
        )  # fmt: skip

    async def _send(self, items: list[str]) -> None:
        """Where a real program calls another service; if this raises, the alarm runs again."""
        print(f"sending {len(items)} items: {', '.join(items)}")

    async def waiting(self) -> int:
        return int(self.ctx.storage.sql.exec("SELECT count(*) AS n FROM items").one()["n"])

    async def batches(self) -> list[dict[str, int]]:
        return self.ctx.storage.sql.exec("SELECT * FROM batches ORDER BY number").to_array()


async def main(directory: str = "./data") -> None:
    async with Runtime(directory) as runtime:
        batcher = runtime.namespace(Batcher).get_by_name("mail")
        for name in ("ada", "grace", "edsger"):
            await batcher.add(name)
        print(f"{await batcher.waiting()} items wait for their alarm; kill it, and run it again")
        await asyncio.sleep(WAIT.total_seconds() + 1)
        print(f"batches so far: {len(await batcher.batches())}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
