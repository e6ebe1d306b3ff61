"""The registry: an index that survives crashes, and is rebuilt from the files where it did not."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_storage.errors import (
    ArgumentValueError,
    DatabaseFileError,
    MigrationError,
    SqlError,
)
from durable_storage.runtime import registry as registry_module
from durable_storage.runtime.directory import DataDirectory
from durable_storage.runtime.registry import (
    AlarmRecord,
    NamespaceNumber,
    NamespaceRecord,
    ObjectFacts,
    Registry,
)


def object_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    registry = Registry(path)
    yield registry
    registry.close()


class CountingSync:
    def __init__(self) -> None:
        self.calls = 0
        self.error: OSError | None = None

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> CountingSync:
    counting = CountingSync()
    monkeypatch.setattr(registry_module, "_fdatasync", counting)
    return counting


# ---------------------------------------------------------------- opening


def test_the_file_is_readable_by_its_owner_alone(registry: Registry, path: Path) -> None:
    for file in (path, Path(f"{path}-wal")):
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o600


def test_only_a_close_makes_a_clean_start(path: Path) -> None:
    first = Registry(path)
    assert not first.clean_start
    first.close()
    first.close()
    second = Registry(path)
    assert second.clean_start
    copy = path.with_name("copy.sqlite")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    crashed = Registry(copy)  # what a killed owner leaves behind
    assert not crashed.clean_start
    crashed.close()
    second.close()


def test_a_closed_registry_says_so(path: Path) -> None:
    registry = Registry(path)
    registry.close()
    with pytest.raises(SqlError):
        registry.namespaces()


@pytest.mark.parametrize("content", [b"x" * 5000, b"SQLite format 3\0" + b"\1" * 5000])
def test_a_damaged_file_is_refused_with_advice(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DatabaseFileError, match="move it away"):
        Registry(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(DatabaseFileError, match="not a registry"):
        Registry(path)


def test_a_newer_format_is_refused(path: Path) -> None:
    Registry(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(DatabaseFileError, match="format 99"):
        Registry(path)


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DatabaseFileError):
        Registry(path)


# ---------------------------------------------------------------- namespaces


def test_a_used_class_is_created_as_sqlite_and_found_again(path: Path) -> None:
    registry = Registry(path)
    created = registry.ensure_namespace("Counter", now_ms=7)
    assert (created.name, created.unique_key, created.backend) == ("Counter", "Counter", "sqlite")
    assert (created.class_name, created.created_ms, created.declared_by) == ("Counter", 7, None)
    assert registry.ensure_namespace("Counter") == created
    assert registry.ensure_namespace("Legacy", "kv").backend == "kv"
    registry.close()
    registry = Registry(path)
    assert registry.ensure_namespace("Counter") == created
    assert [record.name for record in registry.namespaces()] == ["Counter", "Legacy"]
    assert registry.namespace(created.number) == created
    assert registry.namespace(NamespaceNumber(99)) is None
    registry.close()


def test_the_backend_of_an_existing_class_never_changes(registry: Registry) -> None:
    registry.ensure_namespace("Legacy", "kv")
    with pytest.raises(MigrationError, match="'kv' backend"):
        registry.ensure_namespace("Legacy", "sqlite")
    assert registry.ensure_namespace("Legacy").backend == "kv"


def test_the_class_that_is_used_is_recorded(registry: Registry) -> None:
    registry.ensure_namespace("rooms", class_name="Room")
    assert registry.ensure_namespace("rooms", class_name="ChatRoom").class_name == "ChatRoom"
    found = registry.find_namespace("rooms")
    assert found is not None
    assert found.class_name == "ChatRoom"


def test_an_empty_name_is_refused(registry: Registry) -> None:
    with pytest.raises(ArgumentValueError):
        registry.ensure_namespace("")


def test_a_name_that_was_taken_away_is_not_quietly_created_again(registry: Registry) -> None:
    namespace = registry.ensure_namespace("Old")
    registry.delete_namespace(namespace.number, reason="was deleted by migration 'v2'")
    with pytest.raises(
        MigrationError, match=r"'Old' was deleted by migration 'v2'.*new_sqlite_classes"
    ):
        registry.ensure_namespace("Old")


def test_a_key_is_never_used_twice(registry: Registry) -> None:
    first = registry.ensure_namespace("Counter")
    registry.delete_namespace(first.number, reason="was deleted")
    second = registry.create_namespace("Counter", "sqlite")
    assert second.unique_key == "Counter~2"
    assert second.folder != first.folder
    registry.rename_namespace(second.number, "Tally", reason="was renamed")
    third = registry.create_namespace("Counter", "sqlite")
    assert third.unique_key == "Counter~3"
    tally = registry.find_namespace("Tally")
    assert tally is not None
    assert (tally.number, tally.unique_key, tally.folder) == (
        second.number,
        "Counter~2",
        second.folder,
    )


def test_a_transaction_that_raises_changes_nothing(registry: Registry) -> None:
    before = registry.namespaces()
    with pytest.raises(RuntimeError), registry.transaction():  # noqa: PT012
        registry.ensure_namespace("Counter")
        registry.record_migration("v1", "{}")
        raise RuntimeError
    assert registry.namespaces() == before
    assert registry.applied_tags() == []
    registry.ensure_namespace("Counter")


# ---------------------------------------------------------------- objects


def test_objects_are_listed_page_by_page_in_order_of_id(registry: Registry) -> None:
    counter = registry.ensure_namespace("Counter").number
    other = registry.ensure_namespace("Other").number
    ids = sorted(object_id(number) for number in range(25))
    for number in reversed(ids):
        registry.register_object(counter, number)
    registry.register_object(other, object_id(100))
    assert [record.id for record in registry.objects(counter, limit=10)] == ids[:10]
    assert [record.id for record in registry.objects(counter, after=ids[9], limit=10)] == ids[10:20]
    assert [record.id for record in registry.iterate_objects(counter, page=7)] == ids
    assert registry.count_objects(counter) == 25


def test_facts_about_an_object_are_added_and_never_erased(registry: Registry) -> None:
    counter = registry.ensure_namespace("Counter").number
    one = object_id(1)
    registry.register_object(counter, one, created_ms=5)
    registry.register_object(counter, one, name="x", location_hint="weur", created_ms=9)
    registry.flush()
    registry.register_object(counter, one, created_ms=11, jurisdiction="eu")
    registry.register_object(counter, one, location_hint="enam")
    record = registry.object(counter, one)
    assert record is not None
    assert (record.name, record.created_ms) == ("x", 5)
    assert (record.location_hint, record.jurisdiction) == ("weur", "eu")
    assert registry.object(counter, object_id(2)) is None


def test_registering_touches_no_disk_until_a_flush(registry: Registry, syncs: CountingSync) -> None:
    counter = registry.ensure_namespace("Counter").number
    before = syncs.calls
    registry.register_object(counter, object_id(1))
    registry.flush()
    assert registry.count_objects(counter) == 1
    assert syncs.calls == before


def test_a_long_buffer_is_written_by_itself(
    registry: Registry, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "_BUFFER_MAX_ENTRIES", 10)
    counter = registry.ensure_namespace("Counter").number
    for number in range(25):
        registry.register_object(counter, object_id(number))
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT count(*) FROM object").fetchone()[0] == 20
    reader.close()


def test_a_forgotten_object_takes_its_alarm_along(registry: Registry) -> None:
    counter = registry.ensure_namespace("Counter").number
    registry.register_object(counter, object_id(1))
    registry.alarm_set(counter, object_id(1), 5)
    registry.flush()
    registry.forget_object(counter, object_id(1))
    assert registry.object(counter, object_id(1)) is None
    assert registry.next_due() is None


# ---------------------------------------------------------------- alarms


def test_alarms_come_in_order_of_time(registry: Registry) -> None:
    counter = registry.ensure_namespace("Counter").number
    assert registry.next_due() is None
    for number, due in enumerate((30, 10, 20)):
        registry.alarm_set(counter, object_id(number), due)
    assert registry.next_due() == 10
    assert [record.due_ms for record in registry.alarms_due(20)] == [10, 20]
    assert registry.alarms_due(9) == []
    assert [record.due_ms for record in registry.alarms_due(99, limit=1)] == [10]
    registry.alarm_set(counter, object_id(1), 40)
    registry.alarm_clear(counter, object_id(2))
    registry.alarm_clear(counter, object_id(9))
    assert registry.alarms_due(99) == [
        AlarmRecord(30, counter, object_id(0)),
        AlarmRecord(40, counter, object_id(1)),
    ]
    assert registry.alarm_get(counter, object_id(1)) == 40
    assert registry.alarm_get(counter, object_id(2)) is None
    assert registry.count_alarms() == 2


def test_all_alarms_are_read_page_by_page(registry: Registry) -> None:
    for name in ("A", "B", "C"):
        namespace = registry.ensure_namespace(name).number
        for number in range(7):
            registry.alarm_set(namespace, object_id(number), number + 1)
    alarms = list(registry.alarms_all(page=4))
    assert len(alarms) == len(set(alarms)) == 21


def test_a_durable_alarm_is_on_disk_when_the_call_returns(
    registry: Registry, path: Path, syncs: CountingSync
) -> None:
    counter = registry.ensure_namespace("Counter").number
    before = syncs.calls
    registry.alarm_set(counter, object_id(1), 5, durable=True)
    assert syncs.calls == before + 1
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT due_ms FROM alarm").fetchall() == [(5,)]
    reader.close()
    registry.flush(durable=True)
    assert syncs.calls == before + 1, "nothing was written since"


def test_a_batch_costs_one_fdatasync(registry: Registry, syncs: CountingSync) -> None:
    counter = registry.ensure_namespace("Counter").number
    before = syncs.calls
    with registry.batch(), registry.batch():
        for number in range(100):
            registry.alarm_set(counter, object_id(number), 5, durable=True)
        assert syncs.calls == before
    assert syncs.calls == before + 1
    assert registry.count_alarms() == 100
    registry.alarm_clear(counter, object_id(1), durable=True)
    assert syncs.calls == before + 2


def test_what_was_committed_survives_a_killed_process(tmp_path: Path, path: Path) -> None:
    code = (
        "import os, sys; from durable_storage.runtime.registry import Registry\n"
        "registry = Registry(sys.argv[1]); number = registry.ensure_namespace('Counter').number\n"
        "registry.alarm_set(number, '11' * 32, 1, durable=True)\n"
        "registry.register_object(number, '22' * 32, name='x'); registry.flush()\n"
        "registry.alarm_set(number, '33' * 32, 3)\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    registry = Registry(path)
    assert not registry.clean_start
    counter = registry.ensure_namespace("Counter").number
    assert [alarm.id for alarm in registry.alarms_all()] == ["11" * 32]
    assert [record.name for record in registry.objects(counter)] == ["x"]
    registry.close()


def test_after_a_failed_fdatasync_everything_is_written_anew_before_it_is_called_durable(
    registry: Registry, syncs: CountingSync
) -> None:
    counter = registry.ensure_namespace("Counter").number
    syncs.error = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output"):
        registry.alarm_set(counter, object_id(1), 5, durable=True)
    syncs.error = None
    synced = syncs.calls
    registry.alarm_set(counter, object_id(1), 6, durable=True)
    # The same pages of the WAL are not synced again: they are folded into the file.
    assert syncs.calls == synced
    assert os.path.getsize(f"{registry._path}-wal") == 0
    registry.alarm_set(counter, object_id(1), 7, durable=True)
    assert syncs.calls == synced + 1


def test_what_cannot_be_written_stays_in_the_buffer(registry: Registry, path: Path) -> None:
    counter = registry.ensure_namespace("Counter").number
    registry._connection.execute("PRAGMA query_only=1")
    registry.register_object(counter, object_id(1), name="x")
    registry.alarm_set(counter, object_id(1), 5)
    with pytest.raises(SqlError) as caught:
        registry.flush()
    assert caught.value.sqlite_errorname == "SQLITE_READONLY"
    registry.alarm_set(counter, object_id(1), 6)
    registry._connection.execute("PRAGMA query_only=0")
    assert registry.alarm_get(counter, object_id(1)) == 6
    record = registry.object(counter, object_id(1))
    assert record is not None
    assert record.name == "x"


def test_two_threads_lose_nothing(registry: Registry) -> None:
    namespaces = [registry.ensure_namespace(name).number for name in ("A", "B", "C")]
    failures: list[BaseException] = []

    def work(namespace: NamespaceNumber, durable: bool) -> None:
        try:
            for number in range(200):
                registry.register_object(namespace, object_id(number))
                registry.alarm_set(namespace, object_id(number), number + 1, durable=durable)
                if number % 50 == 0:
                    registry.alarms_due(10)
                if number % 20 == 0:
                    registry.ensure_namespace(f"N{number}")
        except BaseException as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=work, args=(namespace, durable))
        for namespace, durable in zip(namespaces, (True, False, True), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert registry.count_alarms() == 600
    assert [registry.count_objects(namespace) for namespace in namespaces] == [200, 200, 200]


# ---------------------------------------------------------------- rescan


def test_what_another_thread_has_taken_and_not_committed_is_still_to_be_made_durable(
    registry: Registry, syncs: CountingSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = registry.ensure_namespace("Room", "sqlite", class_name="Room", now_ms=1).number
    write = registry_module._write
    taken, go_on = threading.Event(), threading.Event()
    written: list[str] = []

    def slow_write(*arguments: Any) -> None:
        taken.set()
        go_on.wait()
        write(*arguments)
        written.append("alarm")

    monkeypatch.setattr(registry_module, "_write", slow_write)
    assert registry._settled()
    registry.alarm_set(namespace, object_id(1), 5)
    assert not registry._settled()
    other = threading.Thread(target=registry.flush)
    other.start()
    taken.wait()
    assert not registry._settled()
    go_on.set()
    calls = syncs.calls
    registry.flush(durable=True)
    assert (written, syncs.calls) == (["alarm"], calls + 1)
    registry.flush(durable=True)
    assert syncs.calls == calls + 1
    other.join()


def test_a_rescan_finds_the_objects_that_the_index_lost(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    registry = Registry(directory.registry_path)
    counter = registry.ensure_namespace("Counter")
    other = registry.ensure_namespace("Other")
    known, lost, gone = object_id(1), object_id(2), object_id(3)
    for number in (known, lost):
        Path(directory.prepare(counter.folder, number)).write_bytes(b"")
    Path(directory.prepare(other.folder, lost)).write_bytes(b"")
    registry.register_object(counter.number, known, name="known")
    registry.register_object(counter.number, gone)
    registry.alarm_set(counter.number, gone, 5)
    asked: list[str] = []

    def read(namespace: NamespaceRecord, path: str) -> ObjectFacts:
        asked.append(path)
        return ObjectFacts(name="found", jurisdiction="eu", alarm_ms=77)

    assert registry.rescan(directory, namespace=counter.number, read=read) == 1
    assert asked == [directory.object_path(counter.folder, lost)]
    names = {record.id: record.name for record in registry.objects(counter.number)}
    assert names == {known: "known", lost: "found"}
    assert registry.alarms_due(99) == [AlarmRecord(77, counter.number, lost)]
    assert registry.objects(other.number) == []
    assert registry.rescan(directory) == 1
    assert [record.name for record in registry.objects(other.number)] == [None]
    registry.close()
    directory.release()


def test_a_lost_registry_is_filled_from_the_files(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    registry = Registry(directory.registry_path)
    folder = registry.ensure_namespace("Counter").folder
    Path(directory.prepare(folder, object_id(1))).write_bytes(b"")
    registry.close()
    os.unlink(directory.registry_path)
    registry = Registry(directory.registry_path)
    assert not registry.clean_start
    namespace = registry.ensure_namespace("Counter")
    assert registry.rescan(directory) == 1
    assert [record.id for record in registry.objects(namespace.number)] == [object_id(1)]
    registry.close()
    directory.release()
