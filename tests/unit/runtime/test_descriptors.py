from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import anyio, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
from durable_storage import DurableObject, Runtime

class Counter(DurableObject):
    async def increment(self):
        value = await self.ctx.storage.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        return value

async def main():
    async with Runtime(durability="os") as runtime:
        counters = runtime.namespace(Counter)
        async with anyio.create_task_group() as group:
            for number in range(120):
                group.start_soon(counters.get_by_name(str(number)).increment)
        print(runtime.open_objects)

anyio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits there")
def test_no_more_objects_are_open_than_there_are_descriptors_for() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 24
