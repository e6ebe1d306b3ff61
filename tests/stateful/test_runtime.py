"""A runtime whose objects are evicted, reset, restarted and refused by the disk, against a model."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio.from_thread
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from durable_storage import DurableObject, History, ObjectResetError, Runtime
from durable_storage.testing import (
    ManualClock,
    evict_all_durable_objects,
    evict_durable_object,
    list_durable_object_ids,
)

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
NAMES = ("a", "b", "c", "d")
OPEN_MAX = 2
names = st.sampled_from(NAMES)


class Counter(DurableObject):
    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self.calls = 0

    async def alarm(self) -> None:
        self.ctx.storage.kv.put("ran", self.ctx.storage.kv.get("ran", 0) + 1)

    async def bump(self, end: str) -> int:
        self.calls += 1
        value = self.ctx.storage.kv.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        if end == "raise":
            raise ZeroDivisionError
        if end == "abort":
            self.ctx.abort("on purpose")
        return value

    async def read(self) -> tuple[int, int, bool]:
        kv = self.ctx.storage.kv
        alarm = await self.ctx.storage.get_alarm()
        return kv.get("value", 0), kv.get("ran", 0), alarm is not None

    async def set_alarm(self, seconds: int) -> None:
        self.ctx.storage.set_alarm(int(self.env.time_ms()) + seconds * 1000)

    async def delete_alarm(self) -> None:
        self.ctx.storage.delete_alarm()

    async def remember(self) -> int:
        self.calls += 1
        return self.calls

    async def move(self, other: str, namespace: Any) -> None:
        """Give one to another object, which must hold it before this one says so."""
        await namespace.get_by_name(other).bump("return")
        self.ctx.storage.put("value", self.ctx.storage.kv.get("value", 0) + 1)


class Disk:
    """Refuses the next sync of an object's log when it is told to."""

    def __init__(self) -> None:
        self.refusing = False
        self.refused = 0
        self._lock = threading.Lock()

    def before(self, operation: str, path: str) -> None:
        with self._lock:
            wanted = operation == "fdatasync" and path.endswith(".sqlite-wal")
            if not self.refusing or not wanted or "registry" in path:
                return
            self.refusing = False
            self.refused += 1
        raise OSError(errno.EIO, "refused")


@dataclass
class Expected:
    value: int = 0
    ran: int = 0
    due: float | None = None


class RuntimeMachine(RuleBasedStateMachine):
    backend = "asyncio"

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self._path = self._stack.enter_context(
            tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-crash-")
        )
        self._portal = self._stack.enter_context(
            anyio.from_thread.start_blocking_portal(self.backend)
        )
        self.clock: ManualClock = self._portal.call(ManualClock)
        self.disk = Disk()
        self.now = 0.0
        self.model = {name: Expected() for name in NAMES}
        self.used: set[str] = set()
        self._start()

    def _start(self) -> None:
        async def start() -> Runtime:
            return await Runtime(
                self._path,
                env=self.clock,
                clock=self.clock,
                faults=self.disk,
                max_open_objects=OPEN_MAX,
                idle_timeout=10,
                history=History(segment_size_bytes=4096),
            ).__aenter__()

        self.runtime: Runtime = self._portal.call(start)
        self.counters = self._portal.call(self.runtime.namespace, Counter)

    def _call(self, name: str, method: str, *arguments: Any) -> Any:
        self.used.add(name)

        async def call() -> Any:
            return await getattr(self.counters.get_by_name(name), method)(*arguments)

        return self._portal.call(call)

    def teardown(self) -> None:
        self.disk.refusing = False
        try:
            self._portal.call(self.runtime.close)
        finally:
            self._stack.close()

    # -- what is done

    @rule(name=names, end=st.sampled_from(["return", "return", "raise", "abort"]))
    def bump(self, name: str, end: str) -> None:
        expected = self.model[name]
        try:
            value = self._call(name, "bump", end)
        except ZeroDivisionError:
            assert end == "raise"
            expected.value += 1
        except ObjectResetError:
            assert end == "abort"
        else:
            assert end == "return"
            expected.value += 1
            assert value == expected.value

    @rule(name=names)
    def bump_while_the_disk_refuses(self, name: str) -> None:
        expected = self.model[name]
        self.disk.refusing = True
        try:
            self._call(name, "bump", "return")
        except ObjectResetError:
            self.disk.refusing = False
            value, ran, alarm = self._call(name, "read")
            assert value in (expected.value, expected.value + 1)
            assert (ran, alarm) == (expected.ran, expected.due is not None)
            expected.value = value
        else:
            # The refused sync, if there was one, was of a file that was closed to make room.
            self.disk.refusing = False
            expected.value += 1

    @rule(name=names, other=names)
    def move(self, name: str, other: str) -> None:
        if name != other:
            self._call(name, "move", other, self.counters)
            self.used.add(other)
            self.model[name].value += 1
            self.model[other].value += 1

    @rule(name=names)
    def read(self, name: str) -> None:
        expected = self.model[name]
        found = self._call(name, "read")
        assert found == (expected.value, expected.ran, expected.due is not None)

    @rule(name=names, seconds=st.integers(1, 30))
    def set_alarm(self, name: str, seconds: int) -> None:
        self._call(name, "set_alarm", seconds)
        self.model[name].due = self.now + seconds

    @rule(name=names)
    def delete_alarm(self, name: str) -> None:
        self._call(name, "delete_alarm")
        self.model[name].due = None

    @rule(seconds=st.integers(1, 40))
    def pass_time(self, seconds: int) -> None:
        self._portal.call(lambda: self.clock.advance(seconds=seconds))
        self.now += seconds
        for expected in self.model.values():
            if expected.due is not None and expected.due <= self.now:
                expected.due = None
                expected.ran += 1

    @rule(name=names)
    def evict(self, name: str) -> None:
        self.used.add(name)
        self._portal.call(lambda: evict_durable_object(self.counters.get_by_name(name)))
        # Memory is gone, storage is not.
        assert self._call(name, "remember") == 1

    @rule()
    def evict_all(self) -> None:
        self._portal.call(evict_all_durable_objects, self.runtime)
        assert self.runtime.open_objects == 0

    @precondition(lambda self: self.used)
    @rule()
    def restart(self) -> None:
        self._portal.call(self.runtime.close)
        self._start()

    # -- what is always so

    @invariant()
    def few_objects_are_open(self) -> None:
        # A call of an object to another may go above it, until what is closed for it is closed.
        assert self._portal.call(self._settled) <= OPEN_MAX + 1

    async def _settled(self) -> int:
        while self.runtime._changing:
            await next(iter(self.runtime._changing.values())).wait()
        return self.runtime.open_objects

    @invariant()
    def the_index_is_never_later_than_the_alarm(self) -> None:
        self._portal.call(self._look_at_the_index)

    async def _look_at_the_index(self) -> None:
        start = self.clock.time_ms() - self.now * 1000
        number = self.counters.record.number
        for name, expected in self.model.items():
            if expected.due is not None:
                digits = str(self.counters.id_from_name(name))
                indexed = self.runtime.registry.alarm_get(number, digits)
                assert indexed is not None
                assert indexed <= start + expected.due * 1000

    @rule()
    def list(self) -> None:
        found: list[Any] = self._portal.call(list_durable_object_ids, self.counters)
        wanted = {name for name in self.used if self.model[name] != Expected()}
        assert wanted <= {each.name for each in found} <= self.used


def _machine(backend: str) -> Callable[[], None]:
    return type(f"On{backend}", (RuntimeMachine,), {"backend": backend}).TestCase


TestRuntimeOnAsyncio = _machine("asyncio")
TestRuntimeOnTrio = _machine("trio")
