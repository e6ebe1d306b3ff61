"""Cleanup: sessions that delete themselves when nobody has used them for half an hour.

    python examples/cleanup.py [DIRECTORY] [SECONDS]

Every use moves the alarm. When it runs, ``delete_all()`` removes everything the object has stored,
at once and as one; the next use of the same name starts from nothing.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime, timedelta
from typing import Any

from durable_storage import DurableObject, Runtime

LIFETIME = timedelta(minutes=30)


class Session(DurableObject):
    async def set(self, key: str, value: Any, lifetime: timedelta = LIFETIME) -> None:
        self.ctx.storage.put(key, value)
        self._touch(lifetime)

    async def get(self, key: str, lifetime: timedelta = LIFETIME) -> Any:
        value = await self.ctx.storage.get(key)
        if value is not None:
            self._touch(lifetime)
        return value

    async def expires(self) -> datetime | None:
        return await self.ctx.storage.get_alarm()

    async def end(self) -> None:
        await self.ctx.storage.delete_all(delete_alarm=True)

    def _touch(self, lifetime: timedelta) -> None:
        self.ctx.storage.set_alarm(lifetime)

    async def alarm(self) -> None:
        await self.ctx.storage.delete_all()


async def main(directory: str = "./data", seconds: str = "2") -> None:
    lifetime = timedelta(seconds=float(seconds))
    async with Runtime(directory) as runtime:
        session = runtime.namespace(Session).get_by_name("c0ffee")
        await session.set("user", "ada", lifetime)
        print("user:", await session.get("user", lifetime))
        print("expires:", await session.expires())
        await asyncio.sleep(lifetime.total_seconds() + 0.5)
        print("user after that:", await session.get("user", lifetime))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
