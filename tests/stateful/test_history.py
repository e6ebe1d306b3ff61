"""An object that goes back and forth in its history, against a model with a copy at each bookmark.

The copies are of everything: keys, rows of tables that come and go, the alarm. Whatever was done
in between (folding, pruning, eviction, a restart, another restore), a bookmark inside the
retention leads to its copy, and the bookmark that undoes that leads back.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import anyio.from_thread
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from durable_storage import BookmarkError, DurableObject, History, ObjectResetError, Runtime
from durable_storage.history import commit_log
from durable_storage.storage import host
from durable_storage.testing import ManualClock, evict_durable_object

from ..crash.history.workload import shrink_constants

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
RETENTION_SECONDS = 60
HOUR_MS = 3_600_000
TABLES = ("t", "u")
keys = st.sampled_from(["a", "b", "c"])
tables = st.sampled_from(TABLES)
marks = st.integers(0, 1000)


@dataclass
class Content:
    kv: dict[str, int] = field(default_factory=dict)
    tables: dict[str, dict[int, str]] = field(default_factory=dict)
    alarm: int | None = None


class Book(DurableObject):
    async def alarm(self) -> None:
        raise AssertionError("no alarm is due")

    async def put(self, key: str, value: int | None) -> None:
        if value is None:
            self.ctx.storage.delete(key)
        else:
            self.ctx.storage.put(key, value)

    async def write(self, table: str, number: int, text: str, rows: int) -> None:
        sql = self.ctx.storage.sql
        sql.exec(f"CREATE TABLE IF NOT EXISTS {table}(a INTEGER PRIMARY KEY, b)")
        for row in range(number, number + rows):
            sql.exec(f"INSERT OR REPLACE INTO {table} VALUES(?, ?)", row, text)

    async def erase(self, table: str, below: int) -> None:
        self.ctx.storage.sql.exec(f"DELETE FROM {table} WHERE a < ?", below)

    async def drop(self, table: str) -> None:
        self.ctx.storage.sql.exec(f"DROP TABLE {table}")

    async def set_alarm(self, when_ms: int | None) -> None:
        if when_ms is None:
            self.ctx.storage.delete_alarm()
        else:
            self.ctx.storage.set_alarm(when_ms)

    async def delete_all(self) -> None:
        await self.ctx.storage.delete_all()

    async def read(self) -> Content:
        storage = self.ctx.storage
        found = Content(dict(storage.kv.list()))
        names = storage.sql.exec(
            "SELECT name FROM sqlite_master WHERE name NOT LIKE '#_%' ESCAPE '#'"
        )
        for (name,) in names.raw():
            found.tables[name] = dict(storage.sql.exec(f"SELECT a, b FROM {name}").raw())
        alarm = await storage.get_alarm()
        found.alarm = None if alarm is None else round(alarm.timestamp() * 1000)
        return found

    async def bookmark(self) -> str:
        return await self.ctx.storage.get_current_bookmark()

    async def restore(self, bookmark: str, undo: list[str]) -> None:
        undo.append(await self.ctx.storage.on_next_session_restore_bookmark(bookmark))
        self.ctx.storage.put("never committed", 1)
        self.ctx.abort("to restore")


class HistoryMachine(RuleBasedStateMachine):
    backend = "asyncio"

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self._path = self._stack.enter_context(
            tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-crash-")
        )
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        shrink_constants(patch)
        patch.setattr(host, "FOLD_AT_BYTES", 30 * 4120)
        # At once instead of in the background, so that a failure can be repeated.
        patch.setattr(commit_log, "start_in_background", lambda work: work())
        self._portal = self._stack.enter_context(
            anyio.from_thread.start_blocking_portal(self.backend)
        )
        self.clock: ManualClock = self._portal.call(ManualClock)
        self.start_ms = self.clock.time_ms()
        self.model = Content()
        self.copies: dict[str, tuple[Content, int]] = {}
        self.undo: str | None = None
        self._start()

    def _start(self) -> None:
        async def start() -> Runtime:
            return await Runtime(
                self._path,
                clock=self.clock,
                idle_timeout=1e9,
                history=History(
                    retention=timedelta(seconds=RETENTION_SECONDS), segment_size_bytes=4096
                ),
            ).__aenter__()

        self.runtime: Runtime = self._portal.call(start)
        self.books = self._portal.call(self.runtime.namespace, Book)

    def _call(self, method: str, *arguments: Any) -> Any:
        async def call() -> Any:
            return await getattr(self.books.get_by_name("book"), method)(*arguments)

        return self._portal.call(call)

    def teardown(self) -> None:
        try:
            self._portal.call(self.runtime.close)
        finally:
            self._stack.close()

    # -- writing

    @rule(key=keys, value=st.none() | st.integers(0, 9))
    def put(self, key: str, value: int | None) -> None:
        self._call("put", key, value)
        self.model.kv.pop(key, None)
        if value is not None:
            self.model.kv[key] = value

    @rule(
        table=tables, number=st.integers(0, 50), size=st.integers(0, 3000), rows=st.integers(1, 40)
    )
    def write(self, table: str, number: int, size: int, rows: int) -> None:
        text = str(number % 10) * size
        self._call("write", table, number, text, rows)
        self.model.tables.setdefault(table, {}).update(
            dict.fromkeys(range(number, number + rows), text)
        )

    @precondition(lambda self: self.model.tables)
    @rule(table=tables, below=st.integers(0, 90))
    def erase(self, table: str, below: int) -> None:
        if table in self.model.tables:
            self._call("erase", table, below)
            rows = self.model.tables[table]
            self.model.tables[table] = {row: rows[row] for row in rows if row >= below}

    @precondition(lambda self: self.model.tables)
    @rule(table=tables)
    def drop(self, table: str) -> None:
        if table in self.model.tables:
            self._call("drop", table)
            del self.model.tables[table]

    @rule(hours=st.none() | st.integers(1000, 1010))
    def set_alarm(self, hours: int | None) -> None:
        self.model.alarm = None if hours is None else self.start_ms + hours * HOUR_MS
        self._call("set_alarm", self.model.alarm)

    @rule()
    def delete_all(self) -> None:
        self._call("delete_all")
        self.model = Content(alarm=self.model.alarm)

    # -- the way of things

    @rule(seconds=st.integers(0, 20))
    def pass_time(self, seconds: int) -> None:
        self._portal.call(lambda: self.clock.advance(seconds=seconds))

    @rule()
    def fold(self) -> None:
        self._call("bookmark")

        async def fold() -> None:
            resident = self.books._residents[str(self.books.id_from_name("book"))]
            own = resident.host
            assert isinstance(own, host.Host)
            assert own.life is not None
            await own._fold(own.life, own.file)

        self._portal.call(fold)

    @rule()
    def evict(self) -> None:
        self._portal.call(lambda: evict_durable_object(self.books.get_by_name("book")))

    @rule()
    def restart(self) -> None:
        self._portal.call(self.runtime.close)
        self._start()

    # -- going back

    @rule()
    def bookmark(self) -> None:
        bookmark = self._call("bookmark")
        assert all(earlier <= bookmark for earlier in self.copies if earlier != self.undo)
        self.copies[bookmark] = copy.deepcopy(self.model), self.clock.time_ms()

    @precondition(lambda self: self.copies)
    @rule(number=marks)
    def restore(self, number: int) -> None:
        self._restore(sorted(self.copies)[number % len(self.copies)])

    @precondition(lambda self: self.undo is not None)
    @rule()
    def undo_the_restore(self) -> None:
        assert self.undo is not None
        self._restore(self.undo)

    def _restore(self, bookmark: str) -> None:
        wanted, made_ms = self.copies[bookmark]
        undo: list[str] = []
        now = self.clock.time_ms()
        refused: BookmarkError | None = None
        try:
            self._call("restore", bookmark, undo)
        except BookmarkError as error:
            refused = error
        except ObjectResetError:
            pass
        if refused is not None:
            assert "was pruned" in str(refused), refused
            assert made_ms <= now - RETENTION_SECONDS * 1000
            return
        self.undo = undo[0]
        self.copies[self.undo] = copy.deepcopy(self.model), now
        self.model = copy.deepcopy(wanted)

    # -- what is always so

    @invariant()
    def the_content_is_that_of_the_model(self) -> None:
        assert self._call("read") == self.model

    @invariant()
    def the_index_is_never_later_than_the_alarm(self) -> None:
        digits = str(self.books.id_from_name("book"))
        number = self.books.record.number
        indexed = self._portal.call(self.runtime.registry.alarm_get, number, digits)
        if self.model.alarm is not None:
            assert indexed is not None
            assert indexed <= self.model.alarm


def _machine(backend: str) -> Any:
    machine: Any = type(f"On{backend}", (HistoryMachine,), {"backend": backend})
    return machine.TestCase


TestHistoryOnAsyncio = _machine("asyncio")
TestHistoryOnTrio = _machine("trio")
