"""A runtime belongs to one process, one thread and one event loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from durable_storage import ConcurrencyError, DurableObject, Runtime


class Counter(DurableObject):
    async def add(self) -> int:
        count: int = self.ctx.storage.kv.get("count", 0) + 1
        self.ctx.storage.kv.put("count", count)
        return count

    async def read(self) -> int:
        return int(self.ctx.storage.kv.get("count", 0))


FORK = """
import asyncio, os, sys
from durable_storage import ConcurrencyError, Runtime
from tests.unit.runtime.test_loops import Counter

loop = asyncio.new_event_loop()
runtime = loop.run_until_complete(Runtime(sys.argv[1]).__aenter__())
counter = runtime.namespace(Counter).get_by_name("a")
assert loop.run_until_complete(counter.add()) == 1
child = os.fork()
if child == 0:
    async def use():
        try:
            await counter.add()
        except ConcurrencyError as error:
            print("forked process" in str(error), flush=True)
        await runtime.close()
    asyncio.run(use())
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
for _ in range(20):
    loop.run_until_complete(counter.add())
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_ends_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(tmp_path)],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    assert told == "True\n"

    async def read() -> int:
        async with Runtime(tmp_path) as runtime:
            return await runtime.namespace(Counter).get_by_name("a").read()

    assert asyncio.run(read()) == 21


def test_another_loop_of_the_same_thread_is_refused() -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        runtime = first.run_until_complete(Runtime().__aenter__())
        counter = runtime.namespace(Counter).get_by_name("a")
        assert first.run_until_complete(counter.add()) == 1
        another = runtime.namespace(Counter).get_by_name("b")
        for refused in (another.add, another.read, runtime.close):
            with pytest.raises(ConcurrencyError, match="another event loop"):
                second.run_until_complete(refused())
        assert first.run_until_complete(counter.add()) == 2
        first.run_until_complete(runtime.close())
    finally:
        first.close()
        second.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with CPython 3.12")
def test_a_loop_that_starts_tasks_eagerly_is_refused() -> None:
    async def main() -> None:
        factory: Any = getattr(asyncio, "eager_task_factory")
        asyncio.get_running_loop().set_task_factory(factory)
        with pytest.raises(ConcurrencyError, match="eager"):
            async with Runtime():
                pass

    asyncio.run(main())
