"""Random programs of SQL, keys and values, transactions and alarms see what a plain model says."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable_storage import History, Limits, ObjectResetError, Runtime
from durable_storage.testing import evict_durable_object

from .programs import Interpreter, Programmed, Undone, programs

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


async def play(program: list[Any], cache_bytes: int, history: bool) -> None:
    interpreter = Interpreter()
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-crash-") as path:

        def start() -> Runtime:
            return Runtime(
                path,
                env=interpreter,
                limits=Limits(cache_size_max_bytes=cache_bytes),
                history=History(enabled=history),
                idle_timeout=3600,
            )

        runtime = await start().__aenter__()
        try:
            for (block, end), between in program:
                stub = runtime.namespace(Programmed).get_by_name("p")
                try:
                    await stub.event(block, end)
                except Undone:
                    assert end == "raise"
                except ObjectResetError:
                    assert end == "abort"
                if between == "evict":
                    await evict_durable_object(stub)
                elif between == "restart":
                    await runtime.close()
                    runtime = await start().__aenter__()
                    stub = runtime.namespace(Programmed).get_by_name("p")
                elif between == "fold":
                    _file(stub).fold()
                await stub.check()
        finally:
            await runtime.close()


def _file(stub: Any) -> Any:
    namespace, object_id, _ = stub.__dict__["_stub"]
    return namespace._residents[str(object_id)].host.file


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@example(
    program=[
        (
            (
                ([("set_alarm", 0), ("pause",), ("put", "a", 1, "sync"), ("delete_alarm",)]),
                "delete_all",
            ),
            "evict",
        )
    ],
    cache_bytes=200,
    history=False,
)
@given(program=programs, cache_bytes=st.sampled_from([200, 16 * 1024**2]), history=st.booleans())
def test_a_program_sees_what_the_model_says(
    backend: str, program: list[Any], cache_bytes: int, history: bool
) -> None:
    anyio.run(play, program, cache_bytes, history, backend=backend)
