"""What the library reports through ``logging``."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Literal

import anyio
import pytest

from durable_storage import DurableObject, DurableObjectState, ObjectResetError, Runtime
from durable_storage.testing import FaultInjector, ManualClock, evict_durable_object

pytestmark = pytest.mark.anyio


class Worker(DurableObject):
    async def write(self) -> None:
        self.ctx.storage.put("value", 1)

    async def abort(self) -> None:
        self.ctx.abort("enough")

    async def later(self, kind: str) -> None:
        self.ctx.storage.put("kind", kind)
        self.ctx.storage.set_alarm(timedelta(0))

    async def background(self) -> None:
        async def work() -> None:
            raise ConnectionError("nobody listens")

        self.ctx.wait_until(work())

    async def fill(self) -> None:
        self.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS big(data)")
        self.ctx.storage.sql.exec("INSERT INTO big VALUES (zeroblob(1800000))")

    async def alarm(self) -> None:
        if await self.ctx.storage.get("kind") == "raise":
            raise ConnectionError("the other side is down")
        self.ctx.abort("never again", retry_alarm=False)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [
        f"{record.levelname} {record.getMessage()}"
        for record in caplog.records
        if record.name == f"durable_storage.{name}"
    ]


@pytest.mark.parametrize("storage", ["sqlite", "kv"])
async def test_objects_tell_when_they_open_and_close_and_why_they_are_reset(
    storage: Literal["sqlite", "kv"],
    tmp_path: Path,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "durable_storage")
    async with Runtime(tmp_path, clock=clock) as runtime:
        worker = runtime.namespace(Worker, storage=storage).get_by_name("ada")
        await worker.write()
        with pytest.raises(ObjectResetError):
            await worker.abort()
        await evict_durable_object(worker)
    assert lines(caplog, "objects") == [
        "DEBUG Worker 'ada': opened",
        "WARNING Worker 'ada': reset: enough",
        "DEBUG Worker 'ada': closed",
    ]


async def test_a_reset_is_told_with_its_cause(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults = FaultInjector()
    async with Runtime(tmp_path, clock=clock, faults=faults) as runtime:
        worker = runtime.namespace(Worker).get_by_name("ada")
        faults.fail("fdatasync", path="*.sqlite-wal")
        with pytest.raises(ObjectResetError):
            await worker.write()
    (record,) = [r for r in caplog.records if r.name == "durable_storage.objects"]
    assert "could not be made durable" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)


async def test_a_failing_alarm_is_told_each_time_and_when_it_is_given_up(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime(tmp_path, clock=clock) as runtime:
        workers = runtime.namespace(Worker)
        await workers.get_by_name("ada").later("raise")
        await clock.advance(timedelta(minutes=10))
        told = lines(caplog, "alarms")
        assert len(told) == 7
        assert told[0].startswith(
            "WARNING Worker 'ada': the alarm failed (try 1); it is tried again at 20"
        )
        assert told[6] == "ERROR Worker 'ada': the alarm was given up after 7 tries"
        assert all(r.exc_info and r.exc_info[0] is ConnectionError for r in caplog.records)
        caplog.clear()
        await workers.get_by_name("grace").later("abort")
        await clock.advance(timedelta(minutes=10))
        assert lines(caplog, "alarms") == [
            "ERROR Worker 'grace': the alarm was given up after 1 tries"
        ]


async def test_background_work_that_fails_is_told(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime(tmp_path, clock=clock) as runtime:
        await runtime.namespace(Worker).get_by_name("ada").background()
    assert lines(caplog, "objects") == ["ERROR Worker 'ada': background work failed"]


async def test_a_log_that_cannot_be_folded_is_told(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults = FaultInjector()
    async with Runtime(tmp_path, clock=clock, faults=faults) as runtime:
        worker = runtime.namespace(Worker).get_by_name("ada")
        await worker.write()
        fault = faults.fail("write", path="*-history*", times=math.inf)
        with anyio.fail_after(60):
            while not lines(caplog, "storage"):
                await worker.fill()
                await anyio.sleep(0.01)
        assert fault.happened
        faults.clear()
    assert lines(caplog, "storage")[0] == (
        "WARNING Worker 'ada': its log could not be folded; it grows on, and that is tried again later"
    )


async def test_an_object_without_a_runtime_tells_of_its_resets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        with pytest.raises(ObjectResetError):
            await ctx.run_event(ctx.abort, "enough")
    assert lines(caplog, "objects") == ["WARNING room: reset: enough"]


def test_by_default_nothing_is_printed() -> None:
    program = (
        "import durable_storage, logging\n"
        "logging.getLogger('durable_storage.objects').error('unseen')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b""
