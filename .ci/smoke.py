"""Try the installed package the way a first user would: store something, and find it again."""

import asyncio
import importlib.metadata
import tempfile
from pathlib import Path

import durable_storage
from durable_storage import DurableObject, DurableObjectState, Runtime


class Counter(DurableObject):
    async def increment(self, by: int = 1) -> int:
        value = await self.ctx.storage.get("value", 0)
        self.ctx.storage.put("value", value + by)
        return value + by


async def count(directory: str) -> int:
    async with Runtime(directory) as runtime:
        return await runtime.namespace(Counter).get_by_name("page-views").increment()


async def query(path: str) -> object:
    async with DurableObjectState.open(path) as ctx:
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS t(a)")
        ctx.storage.sql.exec("INSERT INTO t VALUES (?)", 5)
        return ctx.storage.sql.exec("SELECT sum(a) AS total FROM t").one()


def main() -> None:
    package = Path(durable_storage.__file__).parent
    assert "site-packages" in package.parts, f"tried {package}, not the installed package"
    assert (package / "py.typed").is_file()
    assert durable_storage.__version__ == importlib.metadata.version("durable-storage")
    for name in durable_storage.__all__:
        getattr(durable_storage, name)
    with tempfile.TemporaryDirectory() as directory:
        assert asyncio.run(count(directory)) == 1
        assert asyncio.run(count(directory)) == 2
        path = str(Path(directory) / "room.sqlite")
        assert asyncio.run(query(path)) == {"total": 5}
        assert asyncio.run(query(path)) == {"total": 10}
    print(f"durable_storage {durable_storage.__version__} works")


if __name__ == "__main__":
    main()
