"""Spans and metrics of an instrumented runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from durable_storage import (
    ArgumentTypeError,
    ConcurrencyError,
    DurableObject,
    ObjectResetError,
    Runtime,
)
from durable_storage.gates.life import Life
from durable_storage.integrations.otel import instrument
from durable_storage.storage.storage import DurableObjectStorage
from durable_storage.testing import FaultInjector, ManualClock, evict_durable_object

pytestmark = pytest.mark.anyio


class Ledger(DurableObject):
    async def set(self, value: int) -> int:
        self.ctx.storage.put("value", value)
        return await self.ctx.storage.get("value", 0)

    async def sync_set(self) -> None:
        self.ctx.storage.kv.put("a", 1)
        self.ctx.storage.kv.get("a")
        self.ctx.storage.kv.delete("a")

    async def rows(self) -> list[int]:
        sql = self.ctx.storage.sql
        sql.exec("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY)")
        sql.exec("INSERT INTO t VALUES (1), (2), (3)")
        return [row["id"] for row in sql.exec("SELECT id FROM t")]

    async def fail(self) -> None:
        raise ValueError("own")

    async def abort(self) -> None:
        self.ctx.abort("enough")

    async def read(self) -> int:
        return await self.ctx.storage.get("value", 0)

    async def alone(self, started: anyio.Event, release: anyio.Event) -> None:
        async def hold() -> None:
            started.set()
            await release.wait()

        await self.ctx.block_concurrency_while(hold)

    async def later(self) -> None:
        self.ctx.storage.set_alarm(timedelta(minutes=1))

    async def alarm(self) -> None:
        await self.rows()

    async def is_measured(self) -> bool:
        assert isinstance(self.ctx.storage, DurableObjectStorage)
        return type(self.ctx.storage) is not DurableObjectStorage


class Collected:
    """Where spans and metrics go."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def spans(self, name: str) -> list[ReadableSpan]:
        return [
            span
            for span in self.exporter.get_finished_spans()
            if span.name == f"durable_storage.{name}"
        ]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Attributes, and the count of a histogram or the value of another metric."""
        data = self.reader.get_metrics_data()
        return [
            (dict(point.attributes or {}), getattr(point, "count", getattr(point, "value", None)))
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"durable_storage.{name}"
            for point in metric.data.data_points
        ]

    def total(self, name: str, **attributes: str) -> int:
        wanted = {f"durable_storage.{key}": value for key, value in attributes.items()}
        return sum(value for found, value in self.points(name) if wanted.items() <= found.items())


@pytest.fixture
def collected() -> Iterable[Collected]:
    collected = Collected()
    yield collected
    collected.meters.shutdown()
    collected.tracers.shutdown()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def faults() -> FaultInjector:
    return FaultInjector()


@pytest.fixture
async def runtime(
    collected: Collected, clock: ManualClock, faults: FaultInjector, tmp_path: Path
) -> AsyncIterator[Runtime]:
    async with Runtime(tmp_path, clock=clock, faults=faults, idle_timeout=1e6) as runtime:
        instrument(runtime, collected.tracers, collected.meters, count_rows=True)
        yield runtime


async def test_a_call_and_what_it_does_is_one_trace(runtime: Runtime, collected: Collected) -> None:
    ledger = runtime.namespace(Ledger).get_by_name("a")
    assert await ledger.set(5) == 5
    (call,) = collected.spans("call")
    assert dict(call.attributes or {}) == {
        "durable_storage.class": "Ledger",
        "durable_storage.method": "set",
        "durable_storage.object.id": str(ledger.id),  # type: ignore[attr-defined] - a stub has an id
        "durable_storage.object.name": "a",
    }
    for name in ("put", "get", "gate.wait"):
        (span,) = collected.spans(name)
        assert span.parent is not None
        assert span.parent.span_id == call.context.span_id
    assert len(collected.spans("commit")) == 1
    assert len(collected.spans("confirm")) == 1
    assert (collected.spans("gate.wait")[0].attributes or {})["durable_storage.gate"] == "output"


async def test_every_operation_is_counted(runtime: Runtime, collected: Collected) -> None:
    ledger = runtime.namespace(Ledger).get_by_name("a")
    await ledger.set(1)
    await ledger.sync_set()
    assert await ledger.rows() == [1, 2, 3]
    counts = {
        attributes["durable_storage.operation"]: count
        for attributes, count in collected.points("operation.duration")
    }
    assert counts.pop("commit") >= 3
    assert counts.pop("confirm") >= 1
    assert counts == {"put": 2, "get": 2, "delete": 1, "exec": 3}
    assert collected.total("call.duration", method="rows") == 1
    assert collected.total("objects.open") == 1


async def test_sql_is_shown_without_its_bindings(runtime: Runtime, collected: Collected) -> None:
    await runtime.namespace(Ledger).get_by_name("a").rows()
    last = collected.spans("exec")[-1].attributes or {}
    assert last["db.query.text"] == "SELECT id FROM t"
    assert last["db.system.name"] == "sqlite"


async def test_rows_read_and_written_are_counted(runtime: Runtime, collected: Collected) -> None:
    ledger = runtime.namespace(Ledger).get_by_name("a")
    await ledger.rows()
    written = collected.total("rows.written")
    assert collected.total("rows.read") >= 3
    assert 3 <= written <= 5


async def test_rows_are_not_counted_unless_that_is_asked_for(
    collected: Collected, tmp_path: Path
) -> None:
    async with Runtime(tmp_path) as runtime:
        instrument(runtime, collected.tracers, collected.meters)
        await runtime.namespace(Ledger).get_by_name("a").rows()
    assert collected.points("rows.read") == []
    assert len(collected.spans("exec")) == 3


async def test_failures_carry_their_type(runtime: Runtime, collected: Collected) -> None:
    ledger = runtime.namespace(Ledger).get_by_name("a")
    with pytest.raises(ValueError, match="own"):
        await ledger.fail()
    (call,) = collected.spans("call")
    assert call.status.status_code.name == "ERROR"
    ((attributes, count),) = collected.points("call.duration")
    assert (attributes["error.type"], count) == ("ValueError", 1)


async def test_resets_are_counted_and_closing_is_none(
    runtime: Runtime, collected: Collected
) -> None:
    ledger = runtime.namespace(Ledger).get_by_name("a")
    await ledger.set(1)
    await evict_durable_object(ledger)
    assert collected.points("resets") == []
    with pytest.raises(ObjectResetError):
        await ledger.abort()
    assert collected.total("resets") == 1
    # The next life is measured too.
    assert await ledger.read() == 1
    assert await ledger.is_measured()


async def test_a_disk_that_refuses_is_seen(
    runtime: Runtime, collected: Collected, faults: FaultInjector
) -> None:
    ledger = runtime.namespace(Ledger).get_by_name("a")
    faults.fail("fdatasync", path="*.sqlite-wal")
    with pytest.raises(ObjectResetError):
        await ledger.set(1)
    (confirm,) = collected.spans("confirm")
    assert confirm.status.status_code.name == "ERROR"
    assert collected.total("resets") == 1


async def test_waits_at_the_input_gate_are_measured(runtime: Runtime, collected: Collected) -> None:
    ledger = runtime.namespace(Ledger).get_by_name("a")
    started, release = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(ledger.alone, started, release)
        await started.wait()
        group.start_soon(ledger.read)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        release.set()
    assert collected.total("gate.wait.duration", gate="input") == 1


async def test_alarms_are_traces_of_their_own(
    runtime: Runtime, collected: Collected, clock: ManualClock
) -> None:
    await runtime.namespace(Ledger).get_by_name("a").later()
    await clock.advance(timedelta(minutes=1))
    (alarm,) = collected.spans("alarm")
    assert alarm.parent is None
    assert (alarm.attributes or {})["durable_storage.alarm.retry_count"] == 0
    (*_, exec_) = collected.spans("exec")
    assert exec_.parent is not None
    assert exec_.parent.span_id == alarm.context.span_id
    assert collected.total("alarm.duration", **{"class": "Ledger"}) == 1


async def test_the_legacy_backend_is_measured_too(
    runtime: Runtime, collected: Collected, faults: FaultInjector
) -> None:
    ledger = runtime.namespace(Ledger, storage="kv").get_by_name("a")
    assert await ledger.set(5) == 5
    assert len(collected.spans("put")) == len(collected.spans("get")) == 1
    assert len(collected.spans("confirm")) == 1
    with pytest.raises(Exception, match="new_sqlite_classes"):
        await ledger.rows()


async def test_what_was_open_before_stays_as_it_was_until_it_is_opened_anew(
    collected: Collected, tmp_path: Path
) -> None:
    async with Runtime(tmp_path) as runtime:
        ledgers = runtime.namespace(Ledger)
        assert not await ledgers.get_by_name("a").is_measured()
        instrument(runtime, collected.tracers, collected.meters)
        assert not await ledgers.get_by_name("a").is_measured()
        await evict_durable_object(ledgers.get_by_name("a"))
        assert await ledgers.get_by_name("a").is_measured()
    assert Life.commit.__qualname__ == "Life.commit"


async def test_a_runtime_is_instrumented_once(runtime: Runtime) -> None:
    with pytest.raises(ConcurrencyError, match="already"):
        instrument(runtime)
    with pytest.raises(ArgumentTypeError, match="got str"):
        instrument("./data")  # type: ignore[arg-type] - refusing it is the point


async def test_without_an_sdk_it_costs_little_and_breaks_nothing(tmp_path: Path) -> None:
    async with Runtime(tmp_path) as runtime:
        instrument(runtime)
        ledger = runtime.namespace(Ledger).get_by_name("a")
        assert await ledger.set(5) == 5
        assert await ledger.rows() == [1, 2, 3]
