"""The default store of the legacy backend: ordered, atomic, durable, off the event loop."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import anyio
import pytest

from durable_storage.errors import DatabaseFileError, DurableStorageError
from durable_storage.storage import kv_backend
from durable_storage.storage.kv_backend import KvBackend, PartialDeleteError, SqliteKvBackend

from .kv_contract import check_contract

pytestmark = pytest.mark.anyio


class Faults:
    """Fails or observes the file operations of a store."""

    def __init__(self) -> None:
        self.fail: dict[str, OSError] = {}
        self.seen: list[tuple[str, int]] = []

    def before(self, operation: str, path: str) -> None:
        self.seen.append((operation, threading.get_ident()))
        if operation in self.fail:
            raise self.fail[operation]


async def test_the_default_store_keeps_the_contract(tmp_path: Path) -> None:
    backend: KvBackend = SqliteKvBackend(tmp_path / "object.sqlite")
    await check_contract(backend)
    await backend.close()


async def test_what_a_batch_wrote_is_there_after_reopening(tmp_path: Path) -> None:
    backend = SqliteKvBackend(tmp_path / "object.sqlite")
    await backend.batch({"a": b"1", "b": b"2"}, set())
    await backend.close()
    await backend.close()
    backend = SqliteKvBackend(tmp_path / "object.sqlite")
    assert await backend.list() == [("a", b"1"), ("b", b"2")]
    await backend.close()


async def test_nothing_touches_the_disk_on_the_event_loop(tmp_path: Path) -> None:
    faults = Faults()
    backend = SqliteKvBackend(tmp_path / "object.sqlite", faults=faults)
    assert os.listdir(tmp_path) == []
    await backend.batch({"a": b"1"}, set())
    await backend.list()
    await backend.close()
    assert {"open", "commit", "fdatasync"} <= {operation for operation, _ in faults.seen}
    assert threading.get_ident() not in {thread for _, thread in faults.seen}


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    backend = SqliteKvBackend(tmp_path / "object.sqlite")
    await backend.close()
    with pytest.raises(DurableStorageError, match="is closed"):
        await backend.get(["a"])
    assert os.listdir(tmp_path) == []


async def test_a_store_that_cannot_be_opened_says_so_at_the_first_call(tmp_path: Path) -> None:
    backend = SqliteKvBackend(tmp_path / "missing" / "object.sqlite")
    with pytest.raises(DatabaseFileError):
        await backend.get(["a"])
    await backend.close()


async def test_a_failed_commit_leaves_nothing_of_the_batch(tmp_path: Path) -> None:
    faults = Faults()
    backend = SqliteKvBackend(tmp_path / "object.sqlite", faults=faults)
    await backend.batch({"a": b"1"}, set())
    faults.fail["commit"] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        await backend.batch({"a": b"2", "b": b"2"}, {"a"})
    with pytest.raises(OSError, match="No space left"):
        await backend.delete_all()
    faults.fail.clear()
    assert await backend.list() == [("a", b"1")]
    await backend.batch({"b": b"3"}, set())
    assert await backend.list() == [("a", b"1"), ("b", b"3")]
    await backend.close()


async def test_after_a_failed_fdatasync_no_batch_is_acknowledged(tmp_path: Path) -> None:
    faults = Faults()
    backend = SqliteKvBackend(tmp_path / "object.sqlite", faults=faults)
    await backend.batch({"a": b"1"}, set())
    faults.fail["fdatasync"] = OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="Input/output"):
        await backend.batch({"a": b"2"}, set())
    faults.fail.clear()
    with pytest.raises(OSError):
        await backend.batch({"a": b"3"}, set())
    await backend.close()


async def test_the_place_of_the_file_is_synced_before_a_batch_is_durable(tmp_path: Path) -> None:
    faults = Faults()
    order: list[str] = []

    def before_confirm() -> None:
        order.append("folders")
        assert "fdatasync" not in [operation for operation, _ in faults.seen]

    backend = SqliteKvBackend(
        tmp_path / "object.sqlite", faults=faults, before_confirm=before_confirm
    )
    await backend.batch({"a": b"1"}, set())
    assert order == ["folders"]
    await backend.close()


async def test_overlapping_calls_take_turns_in_order(tmp_path: Path) -> None:
    backend = SqliteKvBackend(tmp_path / "object.sqlite")
    seen: list[dict[str, bytes]] = []

    async def write(number: int) -> None:
        await backend.batch({"a": str(number).encode()}, set())

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(write, number)
    async with anyio.create_task_group() as group:

        async def read() -> None:
            seen.append(await backend.get(["a"]))

        for _ in range(20):
            group.start_soon(read)
    assert len(seen) == 20
    assert len({value["a"] for value in seen}) == 1
    await backend.close()


async def test_a_batch_keeps_what_it_was_given_when_called(tmp_path: Path) -> None:
    backend = SqliteKvBackend(tmp_path / "object.sqlite")
    puts, deletes = {"a": b"1"}, {"b"}
    async with anyio.create_task_group() as group:
        async with backend._turn:
            group.start_soon(backend.batch, puts, deletes)
            while not backend._turn.statistics().tasks_waiting:
                await anyio.lowlevel.checkpoint()
        puts["c"] = b"2"
    assert await backend.list() == [("a", b"1")]
    await backend.close()


async def test_a_cancelled_batch_happens_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    backend = SqliteKvBackend(tmp_path / "object.sqlite")
    await backend.batch({}, set())
    for steps in range(6):
        async with anyio.create_task_group() as group:
            group.start_soon(backend.batch, {f"{steps}a": b"1", f"{steps}b": b"2"}, set())
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert len(await backend.list(prefix=str(steps))) in (0, 2)
    await backend.close()


async def test_many_stores_share_a_few_threads(tmp_path: Path) -> None:
    busy = most = 0
    counting = threading.Lock()

    def before_confirm() -> None:
        nonlocal busy, most
        with counting:
            busy += 1
            most = max(most, busy)
        os.fsync(folder)
        with counting:
            busy -= 1

    folder = os.open(tmp_path, os.O_RDONLY)
    backends = [
        SqliteKvBackend(tmp_path / f"{number}.sqlite", before_confirm=before_confirm)
        for number in range(40)
    ]
    async with anyio.create_task_group() as group:
        for backend in backends:
            group.start_soon(backend.batch, {"a": b"1"}, set())
    assert 0 < most <= kv_backend._THREADS
    os.close(folder)
    for backend in backends:
        await backend.close()


async def test_the_write_ahead_log_is_folded_when_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_backend, "_WAL_SIZE_MAX_BYTES", 100_000)
    backend = SqliteKvBackend(tmp_path / "object.sqlite")
    for number in range(30):
        await backend.batch({f"{number}": bytes(20_000)}, set())
    assert (tmp_path / "object.sqlite-wal").stat().st_size < 250_000
    assert len(await backend.list()) == 30
    await backend.close()


async def test_a_partial_delete_says_how_much_is_left() -> None:
    assert PartialDeleteError("deleted 3 of 5 keys; delete again", remaining=2).remaining == 2
    assert PartialDeleteError("the store stopped").remaining is None
