"""Objects with a bug each, and what they should have been. The documentation shows them too."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio

from durable_storage import DurableObject


class Account(DurableObject):
    async def deposit(self, amount: int) -> None:
        balance = await self.ctx.storage.get("balance", 0)
        await self.ctx.storage.put("balance", balance + amount)

    async def deposit_all(self, amounts: list[int]) -> int:
        # The bug: between get and put of one child task, another one may run.
        async with anyio.create_task_group() as group:
            for amount in amounts:
                group.start_soon(self.deposit, amount)
        return await self.balance()

    async def deposit_each(self, amounts: list[int]) -> int:
        for amount in amounts:
            await self.deposit(amount)
        return await self.balance()

    async def balance(self) -> int:
        return await self.ctx.storage.get("balance", 0)


class Shop(DurableObject):
    """``env`` is the function that sends mails."""

    def __init__(self, ctx: Any, env: Callable[[str], None]) -> None:
        super().__init__(ctx, env)
        self.send = env

    async def order_early(self, what: str) -> None:
        self.ctx.storage.put("order", what)
        # The bug: the mail leaves before the order is on the disk.
        self.send(f"thank you for ordering {what}")

    async def order(self, what: str) -> None:
        self.ctx.storage.put("order", what)
        await self.ctx.storage.sync()
        self.send(f"thank you for ordering {what}")

    async def order_unconfirmed(self, what: str) -> str:
        # The bug: the answer does not wait for this write.
        self.ctx.storage.put("order", what, allow_unconfirmed=True)
        return f"ordered {what}"

    async def order_confirmed(self, what: str) -> str:
        self.ctx.storage.put("order", what)
        return f"ordered {what}"


class Reminder(DurableObject):
    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self.due: float | None = None

    async def remind_in_memory(self, clock: Any, seconds: float) -> None:
        # The bug: nobody remembers this when the object is closed or the machine restarts.
        self.ctx.wait_until(self.ring_at(clock, clock.monotonic() + seconds))

    async def ring_at(self, clock: Any, deadline: float) -> None:
        await clock.sleep_until(deadline)
        await self.ring()

    async def remind(self, seconds: float) -> None:
        self.ctx.storage.set_alarm(timedelta(seconds=seconds))

    async def alarm(self) -> None:
        await self.ring()

    async def ring(self) -> None:
        self.ctx.storage.put("rung", True)

    async def rung(self) -> bool:
        return await self.ctx.storage.get("rung", False)


class Counter(DurableObject):
    async def increment(self) -> int:
        value = await self.ctx.storage.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        return value

    async def value(self) -> int:
        return await self.ctx.storage.get("value", 0)

    async def fill(self, size: int) -> None:
        self.ctx.storage.put("big", random.randbytes(size))


class Marker(DurableObject):
    """Counts, and tells the bookmark of each step."""

    async def increment(self) -> str:
        self.ctx.storage.put("value", await self.value() + 1)
        return await self.ctx.storage.get_current_bookmark()

    async def value(self) -> int:
        return await self.ctx.storage.get("value", 0)

    async def go_back(self, bookmark: str) -> None:
        await self.ctx.storage.on_next_session_restore_bookmark(bookmark)


class Daily(DurableObject):
    """Sets itself an alarm every day."""

    async def start(self) -> None:
        self.ctx.storage.set_alarm(timedelta(days=1))

    async def alarm(self) -> None:
        self.ctx.storage.put("days", await self.days() + 1)
        self.ctx.storage.set_alarm(timedelta(days=1))

    async def days(self) -> int:
        return await self.ctx.storage.get("days", 0)


class Flaky(DurableObject):
    """Its alarm fails twice."""

    async def start(self) -> None:
        self.ctx.storage.set_alarm(timedelta(minutes=1))

    async def alarm(self, alarm_info: Any) -> None:
        tries = await self.tries()
        self.ctx.storage.put("tries", [*tries, alarm_info.retry_count])
        if len(tries) < 2:
            raise RuntimeError("not yet")

    async def tries(self) -> list[int]:
        return await self.ctx.storage.get("tries", [])
