"""What a crash or a restore left to do is done beside the event loop, before an object's next life."""

from __future__ import annotations

import contextlib
import datetime
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from durable_storage import (
    DatabaseFileError,
    DurableObject,
    DurableObjectState,
    History,
    ObjectResetError,
    Runtime,
)
from durable_storage.history import CommitLog, is_at_rest, recovery
from durable_storage.runtime.resident import Resident
from durable_storage.storage import host, object_file
from durable_storage.storage.object_file import Prepared
from durable_storage.testing import FaultInjector, evict_durable_object

pytestmark = pytest.mark.anyio


class Page(DurableObject):
    async def write(self, text: str) -> str:
        self.ctx.storage.kv.put("text", text)
        return await self.ctx.storage.get_current_bookmark()

    async def note(self, number: int) -> None:
        seen = self.ctx.storage.kv.get("seen", [])
        self.ctx.storage.kv.put("seen", [*seen, number])

    async def seen(self) -> list[int]:
        return list(self.ctx.storage.kv.get("seen", []))

    async def read(self) -> str:
        return str(self.ctx.storage.kv.get("text"))

    async def wake_at(self, due: datetime.datetime | None) -> None:
        if due is None:
            await self.ctx.storage.delete_alarm()
        else:
            await self.ctx.storage.set_alarm(due)

    async def alarm(self) -> None:
        raise AssertionError("it is due much later")

    async def restore(self, bookmark: str) -> None:
        await self.ctx.storage.on_next_session_restore_bookmark(bookmark)
        self.ctx.abort("to restore")


class Worker:
    """Takes the place of what prepares files, and lets it go on when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self._genuine: Callable[..., Prepared] = object_file.prepare
        monkeypatch.setattr(host, "prepare", self._prepare)

    def _prepare(self, path: str, **settings: Any) -> Prepared:
        self.threads.append(threading.get_ident())
        self.go_on.wait(60)
        return self._genuine(path, **settings)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


def resident(stub: Any) -> Resident:
    namespace, object_id, _ = stub.__dict__["_stub"]
    found: Resident = namespace._residents[str(object_id)]
    return found


@contextlib.asynccontextmanager
async def crashed(path: Path, *, history: bool = True) -> Any:
    """A runtime that has come back after a loss of power, and an object that has not."""
    faults = FaultInjector()
    async with Runtime(path, faults=faults, history=History(enabled=history)) as runtime:
        page = runtime.namespace(Page).get_by_name("home")
        if history:
            await page.write("before")
        else:
            await page.note(0)
        await faults.crash(runtime)
        yield runtime, page, faults


async def until(worker: Worker) -> None:
    while not worker.threads:
        await anyio.lowlevel.checkpoint()


async def test_after_a_crash_a_worker_brings_file_and_log_together(
    tmp_path: Path, worker: Worker
) -> None:
    async with crashed(tmp_path) as (_, page, _):
        worker.threads.clear()
        assert await page.read() == "before"
        assert worker.threads
        assert threading.get_ident() not in worker.threads


async def test_a_restore_is_done_by_a_worker(tmp_path: Path, worker: Worker) -> None:
    async with Runtime(tmp_path) as runtime:
        page = runtime.namespace(Page).get_by_name("home")
        first = await page.write("first")
        await page.write("second")
        with pytest.raises(ObjectResetError):
            await page.restore(first)
        assert await page.read() == "first"
        assert worker.threads
        assert threading.get_ident() not in worker.threads


async def test_what_was_closed_or_is_new_is_opened_at_once(tmp_path: Path, worker: Worker) -> None:
    for _ in range(2):
        async with Runtime(tmp_path) as runtime:
            page = runtime.namespace(Page).get_by_name("home")
            for text in ("a" * 10, "b" * 500_000):
                await page.write(text)
                await evict_durable_object(page)
                assert await page.read() == text
    assert not worker.threads


async def test_without_history_a_worker_folds_what_is_left(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded: list[int] = []
    genuine = recovery.fold_what_is_left

    def noted(path: str) -> None:
        folded.append(threading.get_ident())
        genuine(path)
        assert not Path(f"{path}-wal").exists()

    monkeypatch.setattr(host, "fold_what_is_left", noted)
    async with crashed(tmp_path, history=False) as (_, page, _):
        assert await page.seen() == [0]
    assert folded
    assert threading.get_ident() not in folded


async def test_calls_that_come_meanwhile_are_delivered_in_their_order(
    tmp_path: Path, worker: Worker, anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio":
        # It wakes tasks in an order of its own; that none is lost is what is left to see.
        order: Callable[[list[int]], list[int]] = sorted
    else:
        order = list
    async with crashed(tmp_path) as (_, page, _):
        worker.threads.clear()
        worker.go_on.clear()
        async with anyio.create_task_group() as group:
            for number in range(400):
                group.start_soon(page.note, number)
                await anyio.lowlevel.checkpoint()
                if number == 100:
                    worker.go_on.set()
        assert order(await page.seen()) == list(range(400))


async def test_a_caller_that_is_cancelled_meanwhile_leaves_nothing_behind(
    tmp_path: Path, worker: Worker
) -> None:
    async with crashed(tmp_path) as (_, page, _):
        worker.threads.clear()
        worker.go_on.clear()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(page.write, "never")
                await until(worker)
                scope.cancel()
        assert not resident(page).idle
        worker.go_on.set()
        assert await page.read() == "before"
        await evict_durable_object(page)
        assert await page.read() == "before"


async def test_a_runtime_that_closes_meanwhile_waits_and_closes_the_log(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[CommitLog] = []
    closed: list[CommitLog] = []
    genuine_open, genuine_close = CommitLog.open, CommitLog.close

    def open_(path: str, **settings: Any) -> CommitLog:
        opened.append(genuine_open(path, **settings))
        return opened[-1]

    def close(log: CommitLog) -> None:
        closed.append(log)
        genuine_close(log)

    monkeypatch.setattr(CommitLog, "open", open_)
    monkeypatch.setattr(CommitLog, "close", close)
    async with crashed(tmp_path) as (_, page, _):
        worker.threads.clear()
        worker.go_on.clear()
        opened.clear()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(page.read)
                await until(worker)
                scope.cancel()
        worker.go_on.set()
    assert len(opened) == 1
    assert opened[0] in closed
    async with Runtime(tmp_path) as runtime:
        assert await runtime.namespace(Page).get_by_name("home").read() == "before"


async def test_an_error_is_told_to_who_waited_and_the_next_tries_again(
    tmp_path: Path, worker: Worker
) -> None:
    async with crashed(tmp_path) as (_, page, faults):
        faults.fail("fdatasync", times=1, error=errno.EIO, path="*.segment")
        with pytest.raises(ObjectResetError, match="cannot start"):
            await page.read()
        assert await page.read() == "before"


async def test_everybody_who_waited_is_told_and_nothing_is_tried_again_meanwhile(
    tmp_path: Path, worker: Worker
) -> None:
    async with crashed(tmp_path) as (_, page, faults):
        worker.threads.clear()
        worker.go_on.clear()
        faults.fail("fdatasync", times=1, error=errno.EIO, path="*.segment")
        refused: list[str] = []

        async def call() -> None:
            try:
                await page.read()
            except ObjectResetError as error:
                refused.append(str(error))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(call)
            await until(worker)
            worker.go_on.set()
        assert len(refused) == 5
        assert len(worker.threads) == 1
        assert await page.read() == "before"


@pytest.mark.parametrize("clients", [1, 30])
async def test_calls_go_straight_to_an_object_that_has_come_back(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch, clients: int
) -> None:
    # Also while a crowd never ends, in the end.
    monkeypatch.setattr(host, "LATE_ROUNDS_MAX", 16)
    async with crashed(tmp_path) as (_, page, _):

        async def client() -> None:
            for _ in range(200):
                await page.read()

        async with anyio.create_task_group() as group:
            for _ in range(clients):
                group.start_soon(client)
        await page.read()
        assert resident(page).life is not None


async def test_an_alarm_that_a_restore_brought_back_is_known_although_nobody_came(
    tmp_path: Path, worker: Worker
) -> None:
    due = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
    async with Runtime(tmp_path) as runtime:
        page = runtime.namespace(Page).get_by_name("home")
        await page.wake_at(due)
        bookmark = await page.write("first")
        await page.wake_at(None)
        with pytest.raises(ObjectResetError):
            await page.restore(bookmark)
        worker.go_on.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(page.read)
            await until(worker)
            group.cancel_scope.cancel()
        worker.go_on.set()
    async with Runtime(tmp_path) as runtime:
        (record,) = runtime.registry.alarms_all()
        assert record.due_ms == due.timestamp() * 1000


async def test_what_is_prepared_is_given_back_if_folding_it_fails(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crashed(tmp_path, history=False) as (_, page, _):

        def refuse(path: str) -> None:
            raise OSError(errno.EMFILE, "Too many open files", path)

        with monkeypatch.context() as patch:
            patch.setattr(host, "fold_what_is_left", refuse)
            with pytest.raises(ObjectResetError, match="Too many open files"):
                await page.seen()
        assert await page.seen() == [0]


def names_of_the_object(directory: Path) -> tuple[Path, Path]:
    """Its file, and a second name of it."""
    (path,) = (path for path in directory.rglob("*.sqlite") if path.name != "registry.sqlite")
    link = directory / "link.sqlite"
    link.hardlink_to(path)
    return path, link


async def test_a_file_that_is_being_prepared_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing, go_on = threading.Event(), threading.Event()
    genuine = CommitLog.open

    def open_(path: str, **settings: Any) -> CommitLog:
        preparing.set()
        go_on.wait(60)
        return genuine(path, **settings)

    async with crashed(tmp_path) as (_, page, _), anyio.create_task_group() as group:
        names = names_of_the_object(tmp_path)
        monkeypatch.setattr(CommitLog, "open", open_)
        group.start_soon(page.read)
        while not preparing.is_set():
            await anyio.lowlevel.checkpoint()
        try:
            for name in names:
                with pytest.raises(DatabaseFileError, match="open in this process already"):
                    async with DurableObjectState.open(name):
                        pass
        finally:
            go_on.set()
        assert await page.read() == "before"


def test_a_path_that_leads_nowhere_is_not_at_rest(tmp_path: Path) -> None:
    # Whoever prepares it is told what is wrong with it.
    (tmp_path / "file").write_bytes(b"")
    for name in ("file/a.sqlite", "a" * 300 + ".sqlite"):
        assert not is_at_rest(str(tmp_path / name), history=True)
