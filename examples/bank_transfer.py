"""Bank transfer: money moves whole or not at all.

    python examples/bank_transfer.py [DIRECTORY]

``transaction_sync()`` undoes everything its block did when the block raises, here because the
database refuses a balance below zero. Where something else has to be waited for in between, as for
the fee here, ``transaction()`` does the same and keeps other calls out meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from durable_storage import DurableObject, DurableObjectState, Runtime, SqlError


class RefusedError(Exception):
    """The transfer was refused; nothing has changed."""


class Bank(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("""
            CREATE TABLE IF NOT EXISTS accounts(
                name TEXT PRIMARY KEY,
                cents INTEGER NOT NULL CHECK (cents >= 0)
            );
            CREATE TABLE IF NOT EXISTS transfers(
                source TEXT NOT NULL REFERENCES accounts,
                target TEXT NOT NULL REFERENCES accounts,
                cents INTEGER NOT NULL
            );
        """)

    async def open_account(self, name: str, cents: int = 0) -> None:
        self.sql.exec("INSERT INTO accounts VALUES (?, ?) ON CONFLICT DO NOTHING", name, cents)

    async def transfer(self, source: str, target: str, cents: int) -> None:
        try:
            with self.ctx.storage.transaction_sync():
                self._move(source, target, cents)
        except SqlError as exc:
            raise RefusedError(f"{cents} from {source} to {target}: {exc}") from exc

    async def transfer_with_fee(self, source: str, target: str, cents: int) -> int:
        try:
            async with self.ctx.storage.transaction():
                self._move(source, target, cents)
                fee = await fee_for(cents)
                self._move(source, "bank", fee)
        except SqlError as exc:
            raise RefusedError(f"{cents} and a fee from {source} to {target}: {exc}") from exc
        return fee

    def _move(self, source: str, target: str, cents: int) -> None:
        # First the record: it refuses accounts that do not exist.
        self.sql.exec("INSERT INTO transfers VALUES (?, ?, ?)", source, target, cents)
        self.sql.exec("UPDATE accounts SET cents = cents + ? WHERE name = ?", cents, target)
        self.sql.exec("UPDATE accounts SET cents = cents - ? WHERE name = ?", cents, source)

    async def balances(self) -> dict[str, int]:
        return dict(self.sql.exec("SELECT name, cents FROM accounts ORDER BY name").raw())


async def fee_for(cents: int) -> int:
    """Stands for a call to another service."""
    await asyncio.sleep(0.01)
    return max(1, cents // 100)


async def main(directory: str = "./data") -> None:
    async with Runtime(directory) as runtime:
        bank = runtime.namespace(Bank).get_by_name("example")
        await bank.open_account("ada", 10_000)
        await bank.open_account("grace")
        await bank.open_account("bank")
        for transfer, cents in ((bank.transfer, 500), (bank.transfer_with_fee, 1_000)):
            try:
                await transfer("ada", "grace", cents)
            except RefusedError as exc:
                print("refused:", exc)
        try:
            await bank.transfer("ada", "nobody", 1)
        except RefusedError as exc:
            print("refused:", exc)
        balances = await bank.balances()
        print(balances)
        assert sum(balances.values()) == 10_000


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
