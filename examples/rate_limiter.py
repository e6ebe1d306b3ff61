"""Rate limiter: a token bucket for every client, one object each.

    python examples/rate_limiter.py [DIRECTORY]

A bucket holds ten tokens, and gets one back every half second. How full it is follows from the
time of the last call, so nothing has to run in between. A bucket that is full again is deleted
by its alarm: a client that does not come back leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta

from durable_storage import DurableObject, Runtime

CAPACITY = 10
SECONDS_PER_TOKEN = 0.5


class RateLimiter(DurableObject):
    async def take(self) -> float:
        """Take a token: 0.0, or without one the seconds until there is one again."""
        storage = self.ctx.storage
        now = time.time()
        # The moment at which the bucket is full again: all there is to know of it.
        full_at = max(storage.kv.get("full_at", 0.0), now)
        excess = full_at + SECONDS_PER_TOKEN - now - CAPACITY * SECONDS_PER_TOKEN
        if excess > 1e-9:
            return excess
        full_at += SECONDS_PER_TOKEN
        # A power cut may make it forget the last tokens, so the answer need not wait for the disk.
        storage.put("full_at", full_at, allow_unconfirmed=True)
        storage.set_alarm(timedelta(seconds=full_at - now), allow_unconfirmed=True)
        return 0.0

    async def alarm(self) -> None:
        await self.ctx.storage.delete_all()


async def main(directory: str = "./data") -> None:
    async with Runtime(directory) as runtime:
        limiter = runtime.namespace(RateLimiter).get_by_name("203.0.113.7")
        for call in range(1, 16):
            while wait := await limiter.take():
                print(f"call {call} has to wait {wait:.2f} s")
                await asyncio.sleep(wait)
            print(f"call {call} passes")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
