"""The library under its own tool: whatever was answered survives every loss of power."""

from __future__ import annotations

import contextlib
import random
from datetime import timedelta
from typing import Any

import pytest

from durable_storage import DurableObject, History, ObjectResetError, SqlError
from durable_storage.errors import DatabaseFileError
from durable_storage.testing import FaultInjector, evict_durable_object, runtime_for_test

pytestmark = pytest.mark.anyio

OPERATIONS: list[Any] = [
    "open",
    "write",
    "truncate",
    "rename",
    "unlink",
    "fsync",
    "fdatasync",
    "commit",
]


class Ledger(DurableObject):
    async def add(self) -> int:
        value = await self.ctx.storage.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        return value

    async def add_row(self) -> int:
        sql = self.ctx.storage.sql
        sql.exec("CREATE TABLE IF NOT EXISTS row (v)")
        value = await self.add()
        sql.exec("INSERT INTO row VALUES (?)", value)
        return value

    async def add_row_in_a_transaction(self) -> int:
        async with self.ctx.storage.transaction():
            return await self.add_row()

    async def remind(self) -> None:
        self.ctx.storage.set_alarm(timedelta(days=1))

    async def alarm(self) -> None:
        await self.add()

    async def state(self) -> tuple[int, list[int], bool]:
        rows: list[int] = []
        with contextlib.suppress(SqlError):  # no table yet
            rows = [row["v"] for row in self.ctx.storage.sql.exec("SELECT v FROM row")]
        storage = self.ctx.storage
        return await storage.get("value", 0), rows, await storage.get_alarm() is not None


@pytest.mark.parametrize("history", [True, False], ids=["history", "no history"])
@pytest.mark.parametrize("seed", range(12))
async def test_what_was_answered_survives_faults_and_power_losses(seed: int, history: bool) -> None:
    chance = random.Random(seed)
    faults = FaultInjector()
    options = {"durability": "disk", "history": History(enabled=history)}
    async with runtime_for_test(options, faults=faults) as runtime:
        ledger = runtime.namespace(Ledger).get_by_name("l")
        calls = [ledger.add, ledger.add_row, ledger.add_row_in_a_transaction]
        answered, reminded = 0, False
        for _ in range(4):
            kind = chance.random()
            if kind < 0.6:
                faults.lose_power(chance.choice(OPERATIONS), nth=chance.randint(1, 12))
            elif kind < 0.9:
                faults.fail(chance.choice(OPERATIONS), nth=chance.randint(1, 12))
            possible = answered
            for _ in range(chance.randint(1, 12)):
                with contextlib.suppress(ObjectResetError, DatabaseFileError):
                    step = chance.random()
                    if step < 0.7:
                        possible += 1
                        answered = await chance.choice(calls)()
                    elif step < 0.85:
                        await evict_durable_object(ledger)
                    else:
                        await ledger.remind()
                        reminded = True
            await faults.crash(runtime)
            value, rows, alarm = await ledger.state()
            assert answered <= value <= possible
            assert all(row <= value for row in rows)
            assert alarm or not reminded
            answered = value
        await runtime.clock.advance(timedelta(days=2))  # type: ignore[attr-defined]
        assert not reminded or (await ledger.state())[0] > answered
