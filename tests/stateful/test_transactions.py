"""An event is cancelled inside a transaction: nothing of the transaction stays, and nothing hangs."""

from __future__ import annotations

import pathlib
from typing import Any

import anyio
import pytest

from durable_storage import DurableObject, Runtime
from durable_storage.testing import evict_durable_object


class Account(DurableObject):
    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self.inside = anyio.Event()

    async def prepare(self) -> None:
        self.ctx.storage.put("a", 1)
        self.ctx.storage.sql.exec("CREATE TABLE t(a)")

    async def read(self) -> tuple[int, int]:
        count = self.ctx.storage.sql.exec("SELECT count(*) AS n FROM t").one()["n"]
        return await self.ctx.storage.get("a"), count

    async def bump(self) -> int:
        value = await self.ctx.storage.get("a") + 1
        self.ctx.storage.put("a", value)
        return value

    def _write(self) -> None:
        self.ctx.storage.put("a", 100)
        self.ctx.storage.sql.exec("INSERT INTO t VALUES (1)")
        self.inside.set()

    async def callback(self) -> None:
        async def body() -> None:
            self._write()
            await anyio.sleep_forever()

        await self.ctx.storage.transaction(body)

    async def context(self) -> None:
        async with self.ctx.storage.transaction():
            self._write()
            await anyio.sleep_forever()

    async def nested(self) -> None:
        async with self.ctx.storage.transaction():
            self.ctx.storage.put("a", 50)
            async with self.ctx.storage.transaction():
                self._write()
                await anyio.sleep_forever()

    async def savepoint(self) -> None:
        async with self.ctx.storage.transaction():
            with self.ctx.storage.transaction_sync():
                self._write()
            await anyio.sleep_forever()


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["callback", "context", "nested", "savepoint"])
@pytest.mark.parametrize("others", [0, 3])
async def test_a_cancelled_transaction_is_rolled_back_and_others_go_on(
    method: str, others: int, tmp_path: pathlib.Path
) -> None:
    bumped: list[int] = []
    with anyio.fail_after(60):
        async with Runtime(tmp_path) as runtime:
            account = runtime.namespace(Account).get_by_name("a")
            await account.prepare()
            instance = _instance(account)

            async def bump() -> None:
                bumped.append(await account.bump())

            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:

                    async def cancel() -> None:
                        await instance.inside.wait()
                        for _ in range(others):
                            group.start_soon(bump)
                        await anyio.lowlevel.checkpoint()
                        assert not bumped
                        scope.cancel()

                    group.start_soon(cancel)
                    await getattr(account, method)()
                assert scope.cancelled_caught
            assert sorted(bumped) == list(range(2, 2 + others))
            assert await account.read() == (1 + others, 0)
            await evict_durable_object(account)
            assert await account.read() == (1 + others, 0)


def _instance(stub: Any) -> Any:
    namespace, object_id, _ = stub.__dict__["_stub"]
    return namespace._residents[str(object_id)].instance
