"""Traces and metrics of a runtime through OpenTelemetry.

Needs the extra ``otel``::

    async with Runtime("./data") as runtime:
        instrument(runtime)

The parts of an object that is observed (its storage, its gates) become instances of subclasses that
measure. Others pay nothing. ``docs/guides/monitoring.md`` lists every span, metric and attribute.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any, Final, final

from opentelemetry import metrics, trace
from opentelemetry.trace import Span

from .. import __version__
from ..database.cursor import SqlStorageCursor
from ..errors import ArgumentTypeError, ConcurrencyError
from ..gates.life import Life
from ..gates.loop import Signal
from ..gates.output_gate import OutputGate
from ..ids import DurableObjectId
from ..runtime.runtime import Runtime
from ..state import DurableObjectState

__all__ = ["instrument"]

SCOPE: Final = "durable_storage"

# From a finished operation in memory to a request that waits for a busy disk.
BUCKETS: Final = (
    0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
)  # fmt: skip


def instrument(
    runtime: Runtime,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    *,
    count_rows: bool = False,
) -> None:
    """Trace and measure every object of ``runtime`` from now on.

    Objects that are open already are measured from when they are next opened, and methods of a stub
    that were used already stay as they are: call it as soon as the runtime is made.

    Args:
        runtime: what is observed.
        tracer_provider: default the application's.
        meter_provider: default the application's.
        count_rows: also count rows read and written. Exact counts are not free: SQLite runs every
            read a second time.

    Raises:
        ConcurrencyError: the runtime is instrumented already.
    """
    if not isinstance(runtime, Runtime):
        raise ArgumentTypeError(f"instrument() takes a Runtime, got {type(runtime).__name__}")
    if any(isinstance(observer, _Telemetry) for observer in runtime.observers):
        raise ConcurrencyError("the runtime is instrumented already")
    library = __version__
    runtime.observers.append(
        _Telemetry(
            runtime,
            trace.get_tracer(SCOPE, library, tracer_provider),
            metrics.get_meter(SCOPE, library, meter_provider),
            count_rows=count_rows,
        )
    )


@final
class _Telemetry:
    """The observer of one runtime."""

    def __init__(
        self, runtime: Runtime, tracer: trace.Tracer, meter: metrics.Meter, *, count_rows: bool
    ) -> None:
        self.tracer = tracer
        self.count_rows = count_rows
        self._classes: dict[str, _Measured] = {}

        def seconds(name: str, description: str) -> metrics.Histogram:
            return meter.create_histogram(
                name, "s", description, explicit_bucket_boundaries_advisory=BUCKETS
            )

        self.calls = seconds("durable_storage.call.duration", "Calls through stubs, gates included")
        self.alarms = seconds("durable_storage.alarm.duration", "Runs of alarm handlers")
        self.operations = seconds("durable_storage.operation.duration", "Operations on storage")
        self.waits = seconds("durable_storage.gate.wait.duration", "Waits at gates")
        self.resets = meter.create_counter(
            "durable_storage.resets", "{reset}", "Objects that were reset"
        )
        self.rows_read = meter.create_counter("durable_storage.rows.read", "{row}", "Rows read")
        self.rows_written = meter.create_counter(
            "durable_storage.rows.written", "{row}", "Rows written, index entries included"
        )

        def open_objects(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            return () if runtime.closing else (metrics.Observation(runtime.open_objects),)

        meter.create_observable_gauge(
            "durable_storage.objects.open", [open_objects], "{object}", "Objects that are open"
        )

    @contextmanager
    def measured(
        self,
        histogram: metrics.Histogram,
        name: str,
        labels: dict[str, str],
        details: dict[str, Any],
    ) -> Generator[Span, None, None]:
        """A span, and its duration in a histogram; ``details`` go on the span alone."""
        started = time.perf_counter()
        failure: BaseException | None = None
        with self.tracer.start_as_current_span(
            f"durable_storage.{name}", attributes={**labels, **details}
        ) as span:
            try:
                yield span
            except BaseException as exc:
                failure = exc
                if not isinstance(exc, Exception):
                    span.set_attribute("error.type", type(exc).__qualname__)
                raise
            finally:
                if failure is not None:
                    labels = {**labels, "error.type": type(failure).__qualname__}
                histogram.record(time.perf_counter() - started, labels)
                del failure

    # -- the observer ---------------------------------------------------------------------

    def call(
        self,
        class_name: str,
        object_id: DurableObjectId,
        method: str,
        call: Callable[..., Coroutine[Any, Any, Any]],
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        labels = {"durable_storage.class": class_name, "durable_storage.method": method}
        details = {"durable_storage.object.id": str(object_id)}
        if object_id.name is not None:
            details["durable_storage.object.name"] = object_id.name
        measured_class = self._class(class_name)

        async def traced(*args: Any, **kwargs: Any) -> Any:
            try:
                with self.measured(self.calls, "call", labels, details):
                    return await call(*args, **kwargs)
            finally:
                measured_class.count_rows()

        traced.__name__, traced.__qualname__ = call.__name__, call.__qualname__
        return traced

    async def alarm(
        self, class_name: str, life: Life, retry_count: int, run: Callable[[], Awaitable[None]]
    ) -> None:
        labels = {"durable_storage.class": class_name}
        details = {
            "durable_storage.object": life.name,
            "durable_storage.alarm.retry_count": retry_count,
        }
        try:
            with self.measured(self.alarms, "alarm", labels, details):
                await run()
        finally:
            self._class(class_name).count_rows()

    def began(self, class_name: str, life: Life, state: DurableObjectState) -> None:
        self._class(class_name).adopt(life, state)

    def _class(self, class_name: str) -> _Measured:
        measured = self._classes.get(class_name)
        if measured is None:
            measured = self._classes[class_name] = _Measured(self, class_name)
        return measured


@final
class _Measured:
    """What measures the objects of one class: a subclass of each of their parts.

    The subclasses have no slots of their own, so an instance of the base can be made one of theirs.
    """

    def __init__(self, telemetry: _Telemetry, class_name: str) -> None:
        self._telemetry = telemetry
        self._labels = {"durable_storage.class": class_name}
        self._kinds: dict[type, Any] = {}
        self._cursor: Any = None
        # Rows of results that nobody reads any more, to be counted where no statement is running.
        self._uncounted: deque[Callable[[], tuple[int, int]]] = deque()

    def adopt(self, life: Life, state: DurableObjectState) -> None:
        """Measure a life from now on."""
        storage = state.storage
        self._become(life, {"commit": self._commit, "enter": self._enter})
        self._become(life.gate, {"signal_of": self._signal_of})
        self._become(
            storage,
            {
                name: self._operation(name, "storage")
                for name in ("get", "put", "delete", "list", "delete_all")
            },
        )
        self._become(
            storage.kv,
            {name: self._operation(name, "kv") for name in ("get", "put", "delete", "list")},
        )
        self._become(storage.sql, {"exec": self._exec})
        self._measure_confirm(life.gate)
        self._count_resets(life)

    def _become(self, part: object, methods: dict[str, Callable[[Any], Any]]) -> None:
        base = type(part)
        kind = self._kinds.get(base)
        if kind is None:
            own: dict[str, Any] = {"__slots__": (), "__module__": base.__module__}
            for name, make in methods.items():
                original = getattr(base, name, None)
                if original is not None:
                    own[name] = make(original)
            kind = self._kinds[base] = type(base.__name__, (base,), own)
        part.__class__ = kind

    def _measure(self, operation: str, details: dict[str, Any]) -> Any:
        return self._telemetry.measured(
            self._telemetry.operations,
            operation,
            {**self._labels, "durable_storage.operation": operation},
            details,
        )

    # -- storage --------------------------------------------------------------------------

    def _operation(self, name: str, api: str) -> Callable[[Any], Any]:
        details = {"durable_storage.api": api}

        def make(original: Any) -> Any:
            def operation(part: Any, *args: Any, **kwargs: Any) -> Any:
                with self._measure(name, details):
                    return original(part, *args, **kwargs)

            return operation

        return make

    def _exec(self, original: Any) -> Any:
        def execute(part: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            self.count_rows()
            details = {"db.system.name": "sqlite", "db.query.text": str(query)}
            with self._measure("exec", details):
                cursor = original(part, query, *args, **kwargs)
            if self._telemetry.count_rows:
                cursor.__class__ = self._counted_cursor()
            return cursor

        return execute

    def _counted_cursor(self) -> Any:
        if self._cursor is None:
            uncounted = self._uncounted

            def dropped(cursor: SqlStorageCursor[Any]) -> None:
                uncounted.append(cursor.account())

            self._cursor = type(
                "SqlStorageCursor", (SqlStorageCursor,), {"__slots__": (), "__del__": dropped}
            )
        return self._cursor

    def count_rows(self) -> None:
        """Count what was read and written by statements whose results are gone."""
        uncounted = self._uncounted
        while uncounted:
            counts = uncounted.popleft()
            # Of a database that was closed, or a table that is gone, nothing can be known.
            with suppress(Exception):
                read, written = counts()
                if read:
                    self._telemetry.rows_read.add(read, self._labels)
                if written:
                    self._telemetry.rows_written.add(written, self._labels)

    # -- commits and gates ----------------------------------------------------------------

    def _commit(self, original: Any) -> Any:
        def commit(life: Life) -> None:
            self.count_rows()
            with self._measure("commit", {"durable_storage.object": life.name}) as span:
                original(life)
                if life.broken is not None:
                    span.set_status(trace.StatusCode.ERROR, str(life.broken))

        return commit

    def _measure_confirm(self, gate: OutputGate) -> None:
        confirm = gate._confirm  # pyright: ignore[reportPrivateUsage]
        start = gate._start_confirming  # pyright: ignore[reportPrivateUsage]

        def measured_confirm() -> None:
            with self._measure("confirm", {}):
                confirm()

        gate._confirm = measured_confirm  # pyright: ignore[reportPrivateUsage]
        if start is None:
            return

        def measured_start(done: Callable[[BaseException | None], None]) -> None:
            started = time.perf_counter()
            labels = {**self._labels, "durable_storage.operation": "confirm"}
            span = self._telemetry.tracer.start_span("durable_storage.confirm", attributes=labels)

            def finished(error: BaseException | None) -> None:
                if error is not None:
                    span.record_exception(error)
                    span.set_status(trace.StatusCode.ERROR, str(error))
                    labels["error.type"] = type(error).__qualname__
                span.end()
                self._telemetry.operations.record(time.perf_counter() - started, labels)
                done(error)

            start(finished)

        gate._start_confirming = measured_start  # pyright: ignore[reportPrivateUsage]

    def _enter(self, original: Any) -> Any:
        async def enter(life: Life, up: Any) -> None:
            with self._wait("input"):
                await original(life, up)

        return enter

    def _signal_of(self, original: Any) -> Any:
        def signal_of(gate: OutputGate, number: int) -> Signal:
            return _MeasuredSignal(original(gate, number), self)

        return signal_of

    def _wait(self, gate: str) -> Any:
        return self._telemetry.measured(
            self._telemetry.waits,
            "gate.wait",
            {**self._labels, "durable_storage.gate": gate},
            {},
        )

    def _count_resets(self, life: Life) -> None:
        on_broken = life.on_broken

        def counted(life: Life) -> None:
            self._telemetry.resets.add(1, self._labels)
            on_broken(life)

        life.on_broken = counted


@final
class _MeasuredSignal:
    """What an answer waits for at the output gate, and how long it waits."""

    def __init__(self, signal: Signal, measured: _Measured) -> None:
        self._signal = signal
        self._measured = measured

    def set(self) -> Any:
        return self._signal.set()

    def is_set(self) -> bool:
        return self._signal.is_set()

    async def wait(self) -> Any:
        with self._measured._wait("output"):  # pyright: ignore[reportPrivateUsage]
            return await self._signal.wait()
