"""What the storage of the legacy backend answers: keys, lists, transactions, alarms, refusals."""

from __future__ import annotations

import datetime
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from durable_storage import (
    ArgumentTypeError,
    ArgumentValueError,
    DataCloneError,
    JsonSerializer,
    LimitExceededError,
    Limits,
    Migration,
    ObjectResetError,
    Runtime,
    TransactionError,
)
from durable_storage.storage.kv_backend import PartialDeleteError
from durable_storage.testing import (
    ManualClock,
    evict_durable_object,
    run_durable_object_alarm,
)

from .slow_store import Call, Player, SlowStore, opened, settle, until

pytestmark = pytest.mark.anyio

HOUR = datetime.timedelta(hours=1)


# --- keys ---------------------------------------------------------------------------------


async def test_values_outlive_the_runtime(tmp_path: Path) -> None:
    async def write(player: Player) -> None:
        player.storage.put({"a": [1, {2}], "b": None, "c": b"\0"})

    async def read(player: Player) -> Any:
        return await player.storage.get(["c", "a", "b", "missing"])

    async with Runtime(tmp_path) as runtime:
        await runtime.namespace(Player, storage="kv").get_by_name("one").play(write)
    async with Runtime(tmp_path) as runtime:
        stub = runtime.namespace(Player, storage="kv").get_by_name("one")
        assert await stub.play(read) == {"a": [1, {2}], "b": None, "c": b"\0"}


async def test_what_was_written_or_read_is_not_asked_for_again() -> None:
    store = SlowStore()
    store.data = {"ustored": b"\x07"}

    async def reads(player: Player) -> Any:
        player.storage.put("written", 1)
        player.storage.delete("deleted")
        keys = ("written", "stored", "missing", "deleted")
        return [await player.storage.get(key) for key in keys]

    async with opened(store) as stub:
        assert await stub.play(reads) == [1, 7, None, None]
        asked = [keys for operation, keys in store.calls if operation == "get"]
        assert sorted(asked) == [["udeleted"], ["umissing"], ["ustored"]]
        assert await stub.play(reads) == [1, 7, None, None]
        assert [keys for operation, keys in store.calls if operation == "get"] == asked


async def test_no_cache_keeps_a_value_out_of_memory() -> None:
    store = SlowStore()

    async def reads(player: Player, *, no_cache: bool) -> Any:
        return await player.storage.get("key", no_cache=no_cache)

    async def writes(player: Player) -> None:
        player.storage.put("key", 1)
        player.storage.put("key", 2, no_cache=True)

    async with opened(store) as stub:
        await stub.play(writes)
        for number in (1, 2, 3):
            assert await stub.play(lambda player: reads(player, no_cache=True)) == 2
            assert store.count("get") == number
        for _ in range(3):
            assert await stub.play(lambda player: reads(player, no_cache=False)) == 2
        assert store.count("get") == 4


async def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    store = SlowStore()
    store.data = {f"u{key}": b"\x01" for key in "abc"}

    async def reads(player: Player) -> None:
        for key in "abcba":
            await player.storage.get(key)

    async with opened(store, limits=Limits(cache_size_max_bytes=400)) as stub:
        await stub.play(reads)
    asked = [keys for operation, keys in store.calls if operation == "get"]
    assert asked == [["ua"], ["ub"], ["uc"], ["ua"]]


async def test_every_get_gives_a_copy_of_its_own() -> None:
    store = SlowStore()
    value = [1]

    async def changes(player: Player) -> None:
        player.storage.put("key", value)
        value.append(2)
        for _ in range(2):
            got = await player.storage.get("key")
            assert got == [1]
            got.append(3)

    async with opened(store) as stub:
        await stub.play(changes)


async def test_a_read_that_was_overtaken_by_a_write_is_not_remembered() -> None:
    store = SlowStore()
    store.data = {"ukey": b"\x01"}
    store.held = {"get"}

    async def overtaken(player: Player) -> Any:
        return await player.storage.get("key", allow_concurrency=True)

    async def writes(player: Player) -> None:
        player.storage.put("key", 2, no_cache=True)

    async with opened(store) as stub, anyio.create_task_group() as group:
        call = Call.start(group, stub.play, overtaken)
        await until(lambda: store.waiting == ["get"])
        await stub.play(writes)
        store.release()
        await call.end()
        assert await stub.play(overtaken) == 2


async def test_delete_tells_what_was_there_and_deletes_when_it_is_called() -> None:
    store = SlowStore()
    store.data = {f"u{key}": b"\x01" for key in "abc"}

    async def deletes(player: Player) -> Any:
        storage = player.storage
        first = storage.delete("a")
        assert await storage.get("a") is None
        assert await first is True
        assert await storage.delete("a") is False
        assert await storage.delete("missing") is False
        assert await storage.delete([]) == 0
        assert await storage.delete(["a", "b", "b", "c", "d"]) == 2
        storage.put("e", 1)
        assert await storage.delete("e") is True
        storage.delete("never awaited")
        return await storage.list()

    async with opened(store) as stub:
        assert await stub.play(deletes) == {}
    assert store.keys == {}


async def test_a_deletion_waits_on_its_way_for_what_it_was_asked() -> None:
    store = SlowStore()
    store.data = {"ukey": b"\x01"}
    store.held = {"get"}

    async def deletes(player: Player) -> Any:
        return await player.storage.delete("key", allow_concurrency=True)

    async with opened(store) as stub, anyio.create_task_group() as group:
        call = Call.start(group, stub.play, deletes)
        await until(lambda: store.waiting == ["get"])
        await settle()
        assert store.waiting == ["get"]
        store.release()
        assert await call.end() is True
    assert [operation for operation, _ in store.calls if operation != "open"] == ["get", "batch"]


async def test_a_list_sees_what_the_store_does_not_hold_yet() -> None:
    store = SlowStore()
    store.data = {f"u{key}": b"\x01" for key in "bdfh"}
    store.held = {"batch"}

    async def lists(player: Player) -> Any:
        storage = player.storage
        storage.put({"a": 2, "d": 2, "e": 2, "z": 2}, allow_unconfirmed=True)
        storage.delete(["b", "h"], allow_unconfirmed=True)
        return [
            await storage.list(),
            await storage.list(limit=2),
            await storage.list(reverse=True, limit=2),
            await storage.list(start="d", end="f"),
            await storage.list(start_after="d", limit=1),
            await storage.list(prefix="d"),
            list(await storage.list(reverse=True)),
            await storage.list(prefix="none"),
        ]

    async with opened(store) as stub:
        assert await stub.play(lists) == [
            {"a": 2, "d": 2, "e": 2, "f": 1, "z": 2},
            {"a": 2, "d": 2},
            {"z": 2, "f": 1},
            {"d": 2, "e": 2},
            {"e": 2},
            {"d": 2},
            ["z", "f", "e", "d", "a"],
            {},
        ]


async def test_limits_are_those_of_the_legacy_backend() -> None:
    store = SlowStore()

    async def exceeds(player: Player) -> None:
        storage = player.storage
        keys = r"^Keys cannot be larger than 2048 bytes\.\n"
        values = r"^Values cannot be larger than 131072 bytes\.\n"
        for operation in (storage.get, storage.delete, lambda key: storage.put(key, 1)):
            with pytest.raises(LimitExceededError, match=keys):
                operation("é" * 1025)
        with pytest.raises(LimitExceededError, match=keys):
            storage.get(["k" * 2049])
        with pytest.raises(LimitExceededError, match=values):
            storage.put({"fits": 1, "does not": b"x" * 131_072})
        with pytest.raises(LimitExceededError, match="128"):
            storage.put({str(number): 1 for number in range(129)})
        with pytest.raises(LimitExceededError, match="128"):
            storage.get([str(number) for number in range(129)])
        with pytest.raises(DataCloneError):
            storage.put({"fits": 1, "does not": object()})
        with pytest.raises(ArgumentValueError, match="surrogate"):
            storage.put("\ud800", 1)
        with pytest.raises(ArgumentTypeError, match="key"):
            storage.put(1, 1)
        with pytest.raises(ArgumentTypeError, match="value"):
            storage.put("key")
        storage.put("k" * 2048, b"x" * 131_060)
        assert [len(key) for key in await storage.list()] == [2048]

    async with opened(store) as stub:
        await stub.play(exceeds)


async def test_what_needs_sqlite_says_how_to_get_it_before_it_looks_at_anything_else() -> None:
    async def refused(player: Player) -> None:
        storage: Any = player.storage
        operations: list[Callable[[], object]] = [
            lambda: storage.sql.exec(1, 2, row_type=3),
            lambda: storage.sql.database_size,
            lambda: storage.kv.get(),
            lambda: storage.kv.put("a", object()),
            lambda: storage.kv.delete(1),
            lambda: storage.kv.list(start=1),
            lambda: storage.transaction_sync(None),
            lambda: storage.get_current_bookmark(),
            lambda: storage.get_bookmark_for_time("soon"),
            lambda: storage.on_next_session_restore_bookmark(1),
        ]
        for operation in operations:
            with pytest.raises(TransactionError, match="new_sqlite_classes"):
                operation()

    async with opened(SlowStore()) as stub:
        await stub.play(refused)


async def test_another_serializer_is_refused() -> None:
    store = SlowStore()

    async def list_all(player: Player) -> Any:
        return await player.storage.list()

    async with opened(store) as stub:
        await stub.increment()
    async with opened(store, serializer=JsonSerializer()) as stub:
        with pytest.raises(
            ObjectResetError, match="serializer 'msgpack' and was opened with 'json'"
        ):
            await stub.increment()
    other = SlowStore()
    async with opened(other, serializer=JsonSerializer()) as stub:
        await stub.increment()
        assert await stub.play(list_all) == {"n": 1}
        await stub.play(lambda player: player.storage.delete_all())
        assert await stub.increment() == 1
    async with opened(other) as stub:
        with pytest.raises(
            ObjectResetError, match="serializer 'json' and was opened with 'msgpack'"
        ):
            await stub.increment()
    async with opened(other, serializer=JsonSerializer()) as stub:
        assert await stub.increment() == 2


# --- delete_all ---------------------------------------------------------------------------


async def test_delete_all_is_seen_at_once_and_keeps_the_alarm() -> None:
    store = SlowStore()
    store.data = {f"u{number:03}": b"\x01" for number in range(150)}

    async def deletes(player: Player) -> None:
        storage = player.storage
        storage.set_alarm(HOUR)
        storage.put("new", 1)
        deleting = storage.delete_all()
        storage.put("newer", 2)
        assert await storage.list() == {"newer": 2}
        assert await storage.get("000") is None
        assert await storage.delete("000") is False
        await deleting
        assert await storage.list() == {"newer": 2}
        assert await storage.get_alarm() is not None

    async with opened(store) as stub:
        await stub.play(deletes)
        assert store.count("delete_all") == 0
        assert set(store.data) == {"unewer", "malarm"}


async def test_delete_all_may_take_the_alarm_along() -> None:
    store = SlowStore()

    async def sets(player: Player) -> None:
        player.storage.set_alarm(HOUR)

    async def deletes(player: Player) -> None:
        await player.storage.delete_all(delete_alarm=True)
        assert await player.storage.get_alarm() is None

    async with opened(store) as stub:
        await stub.increment()
        await stub.play(sets)
        await stub.play(deletes)
    assert store.data == {}
    assert store.count("delete_all") == 1


async def test_a_delete_all_that_fails_part_way_says_what_is_left() -> None:
    store = SlowStore()

    async def writes(player: Player) -> None:
        player.storage.put({f"{number:03}": 1 for number in range(100)})

    async def deletes(player: Player) -> None:
        await player.storage.delete_all()

    async def counts(player: Player) -> int:
        return len(await player.storage.list())

    async with opened(store) as stub:
        await stub.play(writes)
        store.delete_all_leaves = 3
        with pytest.raises(ObjectResetError, match="3 keys are left") as caught:
            await stub.play(deletes)
        assert isinstance(caught.value.__cause__, PartialDeleteError)
        assert caught.value.__cause__.remaining == 3
        assert await stub.play(counts) == 3
        store.delete_all_leaves = 0
        await stub.play(deletes)
        assert await stub.play(counts) == 0


async def test_a_delete_all_beside_an_alarm_that_fails_part_way_says_what_is_left() -> None:
    store = SlowStore()
    store.data = {f"u{number:03}": b"\x01" for number in range(100)} | {"malarm": b"9999999999999"}
    batch = store.batch
    remaining = 1

    async def failing(puts: Any, deletes: Any) -> None:
        nonlocal remaining
        if not remaining:
            raise OSError("full")
        remaining -= 1
        await batch(puts, deletes)

    async def deletes(player: Player) -> None:
        await player.storage.delete_all()

    async def counts(player: Player) -> int:
        return len(await player.storage.list())

    async with opened(store) as stub:
        store.batch = failing  # type: ignore[method-assign]
        with pytest.raises(ObjectResetError, match="36 of 100 keys are left") as caught:
            await stub.play(deletes)
        assert isinstance(caught.value.__cause__, PartialDeleteError)
        assert await stub.play(counts) == 36
        remaining = 10
        await stub.play(deletes)
    assert set(store.data) == {"malarm"}


# --- transactions -------------------------------------------------------------------------


async def test_only_what_goes_through_txn_takes_part_in_a_transaction() -> None:
    store = SlowStore()
    store.data = {"ua": b"\x01", "ub": b"\x01"}

    async def fails(player: Player) -> Any:
        storage = player.storage

        async def body(txn: Any) -> None:
            txn.put({"a": 2, "c": 2})
            assert await txn.delete("b") is True
            assert await txn.delete("b") is False
            assert await txn.get(["a", "b", "c"]) == {"a": 2, "c": 2}
            assert await txn.list() == {"a": 2, "c": 2}
            assert await storage.list() == {"a": 1, "b": 1}
            storage.put("outside", 3)
            assert await txn.get("outside") == 3
            raise ValueError("undo")

        with pytest.raises(ValueError, match="undo"):
            await storage.transaction(body)
        return await storage.list()

    async with opened(store) as stub:
        assert await stub.play(fails) == {"a": 1, "b": 1, "outside": 3}


async def test_a_transaction_reaches_the_store_in_one_batch() -> None:
    store = SlowStore()

    async def transaction(player: Player) -> Any:
        async with player.storage.transaction() as txn:
            txn.put("a", 1)
            assert await txn.get("missing") is None
            txn.put("b", 2)
            txn.set_alarm(HOUR)
            assert await player.storage.get_alarm() is None
            assert await txn.get_alarm() is not None
        assert await player.storage.get_alarm() is not None
        return await player.storage.list()

    async with opened(store) as stub:
        assert await stub.play(transaction) == {"a": 1, "b": 2}
    batches = [keys for operation, keys in store.calls if operation == "batch"]
    assert [sorted(keys) for keys in batches] == [["malarm", "ua", "ub"]]


async def test_no_other_event_runs_during_a_transaction_that_reads() -> None:
    store = SlowStore()
    order: list[str] = []

    async def transaction(player: Player) -> None:
        async with player.storage.transaction() as txn:
            order.append("begun")
            await txn.get("key")
            await anyio.lowlevel.checkpoint()
            order.append("ends")

    async def other(player: Player) -> None:
        order.append("other")

    async with opened(store) as stub, anyio.create_task_group() as group:
        await stub.play(other)
        store.held = {"get"}
        first = Call.start(group, stub.play, transaction)
        await until(lambda: store.waiting == ["get"])
        second = Call.start(group, stub.play, other)
        await settle()
        store.release()
        await first.end()
        await second.end()
    assert order == ["other", "begun", "ends", "other"]


async def test_a_rolled_back_transaction_changes_nothing_and_takes_no_more() -> None:
    store = SlowStore()

    async def rolls_back(player: Player) -> Any:
        kept: list[Any] = []

        async def body(txn: Any) -> str:
            txn.put("a", 1)
            txn.set_alarm(HOUR)
            txn.rollback()
            txn.rollback()
            for operation in (lambda: txn.get("a"), lambda: txn.put("a", 1), txn.list):
                with pytest.raises(TransactionError, match="on rolled back transaction"):
                    operation()
            kept.append(txn)
            return "returned"

        assert await player.storage.transaction(body) == "returned"
        await player.storage.transaction(kept.append)
        with pytest.raises(TransactionError, match="already committed"):
            kept[1].put("a", 1)
        with pytest.raises(TransactionError, match="already committed"):
            kept[1].rollback()
        assert await player.storage.get_alarm() is None
        return await player.storage.list()

    async with opened(store) as stub:
        assert await stub.play(rolls_back) == {}
    assert store.data == {}


async def test_a_nested_transaction_is_a_part_of_the_one_around_it() -> None:
    store = SlowStore()

    async def outer_fails(player: Player) -> None:
        storage = player.storage
        async with storage.transaction() as outer:
            outer.put("a", 1)
            async with storage.transaction() as inner:
                assert await inner.get("a") == 1
                inner.put("b", 2)
                with pytest.raises(TransactionError, match="nested transaction is still"):
                    outer.rollback()
            assert await outer.list() == {"a": 1, "b": 2}
            raise ValueError("outer")

    async def inner_fails(player: Player) -> None:
        async with player.storage.transaction() as inner:
            inner.put("a", 2)
            inner.set_alarm(HOUR)
            raise ValueError("inner")

    async def inner_succeeds(player: Player) -> Any:
        storage = player.storage
        async with storage.transaction() as outer:
            outer.put("a", 1)
            with pytest.raises(ValueError, match="inner"):
                await inner_fails(player)
            async with storage.transaction() as inner:
                inner.put("c", 3)
        assert await storage.get_alarm() is None
        return await storage.list()

    async with opened(store) as stub:
        with pytest.raises(ValueError, match="outer"):
            await stub.play(outer_fails)
        assert await stub.play(lambda player: player.storage.list()) == {}
        assert await stub.play(inner_succeeds) == {"a": 1, "c": 3}


async def test_delete_all_is_refused_during_a_transaction() -> None:
    async def deletes(player: Player) -> None:
        async with player.storage.transaction() as txn:
            for target in (txn, player.storage):
                with pytest.raises(TransactionError, match="within a transaction"):
                    target.delete_all()

    async with opened(SlowStore()) as stub:
        await stub.play(deletes)


async def test_a_cancelled_transaction_rolls_back() -> None:
    store = SlowStore()

    async def transaction(player: Player) -> None:
        async with player.storage.transaction() as txn:
            txn.put("a", 1)
            await txn.get("missing")

    async with opened(store) as stub, anyio.create_task_group() as group:
        store.held = {"get"}
        call = Call.start(group, stub.play, transaction)
        await until(lambda: store.waiting == ["get"])
        call.scope.cancel()
        await settle()
        store.release()
        assert await stub.increment() == 1
    assert store.keys == {"n": b"\x01"}


# --- alarms -------------------------------------------------------------------------------


async def test_an_alarm_is_kept_by_the_store_and_hidden_from_the_object() -> None:
    store = SlowStore()
    clock = ManualClock()

    async def sets(player: Player) -> None:
        await player.storage.set_alarm(HOUR)
        assert await player.storage.list() == {}
        assert await player.storage.get("malarm") is None

    async with opened(store, clock=clock) as stub:
        await stub.play(sets)
        await evict_durable_object(stub)
        assert list(store.data) == ["malarm"]
        await clock.advance(HOUR)
        alarms = stub.__dict__["_stub"][0]._runtime.env.alarms
        await until(lambda: len(alarms) == 1)
        await until(lambda: store.data == {})
        assert alarms[0].retry_count == 0


async def test_a_failed_alarm_is_tried_again_and_may_be_replaced_by_its_handler() -> None:
    store = SlowStore()
    clock = ManualClock()

    async def sets(player: Player) -> None:
        await player.storage.set_alarm(HOUR)

    async def fails(player: Player) -> None:
        assert await player.storage.get_alarm() is None
        raise ValueError("again")

    async def replaces(player: Player) -> None:
        player.storage.set_alarm(HOUR)
        assert await player.storage.get_alarm() is not None

    async def alarm(player: Player) -> Any:
        return await player.storage.get_alarm()

    async with opened(store, clock=clock) as stub:
        env = stub.__dict__["_stub"][0]._runtime.env
        await stub.play(sets)
        env.on_alarm = fails
        assert await run_durable_object_alarm(stub)
        assert set(store.data) == {"malarm", "malarm_retry", "malarm_scheduled"}
        await evict_durable_object(stub)
        env.on_alarm = replaces
        assert await run_durable_object_alarm(stub)
        assert [(info.retry_count, info.is_retry) for info in env.alarms] == [(0, False), (1, True)]
        assert set(store.data) == {"malarm"}
        assert await stub.play(alarm) - clock.now == HOUR


async def test_a_deleted_alarm_does_not_run() -> None:
    store = SlowStore()

    async def sets_and_deletes(player: Player) -> None:
        player.storage.set_alarm(HOUR)
        player.storage.delete_alarm()
        player.storage.delete_alarm()

    async with opened(store) as stub:
        await stub.play(sets_and_deletes)
        assert not await run_durable_object_alarm(stub)
    assert store.data == {}


async def test_an_alarm_survives_a_crash_of_the_store() -> None:
    store = SlowStore()

    async def sets(player: Player, hours: int) -> None:
        player.storage.set_alarm(hours * HOUR)

    async def alarm(player: Player) -> Any:
        return await player.storage.get_alarm()

    clock = ManualClock()
    async with opened(store, clock=clock) as stub:
        await stub.play(lambda player: sets(player, 2))
        store.failing["batch"] = OSError("down")
        with pytest.raises(ObjectResetError):
            await stub.play(lambda player: sets(player, 1))
        store.failing.clear()
        assert await stub.play(alarm) - clock.now == 2 * HOUR


async def test_what_an_ended_life_confirms_does_not_delay_the_alarm_of_the_next() -> None:
    store = SlowStore()
    clock = ManualClock()

    async def sets(player: Player, hours: int) -> None:
        player.storage.set_alarm(hours * HOUR)

    async def aborts(player: Player) -> None:
        player.ctx.abort()

    async with opened(store, clock=clock) as stub, anyio.create_task_group() as group:
        store.held = {"batch"}
        later = Call.start(group, stub.play, lambda player: sets(player, 3))
        await until(lambda: store.waiting == ["batch"])
        with pytest.raises(ObjectResetError):
            await stub.play(aborts)
        sooner = Call.start(group, stub.play, lambda player: sets(player, 1))
        await settle()
        store.release()
        await later.end()
        await sooner.end()
        alarms = stub.__dict__["_stub"][0]._runtime.env.alarms
        await clock.advance(HOUR)
        await until(lambda: len(alarms) == 1)


# --- the default store --------------------------------------------------------------------


class FailingDisk:
    """Fails the sync of the object's own file, once it is told to."""

    failing = False

    def before(self, operation: str, path: str) -> None:
        if self.failing and operation == "fdatasync" and "registry" not in path:
            raise OSError(errno.EIO, "injected")


async def test_a_disk_that_fails_under_the_default_store_loses_nothing_acknowledged(
    tmp_path: Path,
) -> None:
    disk = FailingDisk()
    async with Runtime(tmp_path, faults=disk) as runtime:
        stub: Any = runtime.namespace(Player, storage="kv").get_by_name("one")
        for number in (1, 2, 3):
            assert await stub.increment() == number
        disk.failing = True
        with pytest.raises(ObjectResetError, match="injected"):
            await stub.increment()
        disk.failing = False
        assert await stub.increment() in (4, 5)
        last = await stub.increment()
    async with Runtime(tmp_path) as runtime:
        stub = runtime.namespace(Player, storage="kv").get_by_name("one")
        assert await stub.increment() == last + 1


async def test_many_objects_of_the_default_store_work_side_by_side(tmp_path: Path) -> None:
    async with Runtime(tmp_path, max_open_objects=5) as runtime:
        players = runtime.namespace(Player, storage="kv")
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for number in range(20):
                    for _ in range(3):
                        group.start_soon(players.get_by_name(str(number)).increment)
        stubs: list[Any] = [players.get_by_name(str(number)) for number in range(20)]
        assert [await stub.increment() for stub in stubs] == [7] * 20


async def test_objects_of_a_store_of_ones_own_are_told_apart() -> None:
    stores: dict[tuple[str, str], SlowStore] = {}

    def factory(namespace: str, object_id: str) -> SlowStore:
        return stores.setdefault((namespace, object_id), SlowStore())

    async with Runtime(kv_backend=factory) as runtime:
        for name in ("First", "Second"):
            namespace = runtime.namespace(Player, name=name, storage="kv")
            for object_name in ("a", "b"):
                assert await namespace.get_by_name(object_name).increment() == 1
        ids = {str(namespace.id_from_name(name)) for name in ("a", "b")}
    assert {namespace for namespace, _ in stores} == {"First", "Second"}
    assert {object_id for name, object_id in stores if name == "Second"} == ids
    assert all(store.keys == {"n": b"\x01"} for store in stores.values())


def test_a_factory_is_something_to_call() -> None:
    with pytest.raises(ArgumentTypeError, match="kv_backend"):
        Runtime(kv_backend=1)  # type: ignore[arg-type]


async def test_a_store_of_ones_own_follows_a_renamed_class_and_no_deleted_one(
    tmp_path: Path,
) -> None:
    stores: dict[tuple[str, str], SlowStore] = {}

    def backend(namespace: str, object_id: str) -> SlowStore:
        return stores.setdefault((namespace, object_id), SlowStore())

    steps = [
        Migration("v1", new_classes=["Old"]),
        Migration("v2", renamed_classes=[("Old", "New")]),
        Migration("v3", deleted_classes=["New"]),
        Migration("v4", new_classes=["Old", "New"]),
    ]

    async def write(player: Player) -> None:
        player.storage.put("k", 1)

    async def read(player: Player) -> Any:
        return await player.storage.get("k")

    async def found(name: str, applied: int, action: Any) -> Any:
        migrations = steps[:applied]
        async with Runtime(tmp_path, kv_backend=backend, migrations=migrations) as runtime:
            objects = runtime.namespace(Player, name=name, storage="kv")
            return await objects.get_by_name("a").play(action)

    await found("Old", 1, write)
    assert await found("New", 2, read) == 1
    assert await found("New", 4, read) is None
    assert await found("Old", 4, read) is None


async def give_no_store(namespace: str, object_id: str) -> SlowStore:
    return SlowStore()


@pytest.mark.parametrize(
    ("factory", "what"),
    [
        (lambda namespace, object_id: None, "NoneType"),
        (lambda namespace, object_id: {}, "dict.* no list.*batch.*delete_all.*close"),
        (lambda namespace, object_id: SlowStore, "missing 1 required"),
        (give_no_store, "coroutine"),
    ],
)
async def test_a_factory_that_gives_no_store_is_told(factory: Any, what: str) -> None:
    async with Runtime(kv_backend=factory) as runtime:
        stub = runtime.namespace(Player, storage="kv").get_by_name("a")
        for _ in range(2):
            with pytest.raises(ObjectResetError, match=f"cannot start: .*{what}"):
                await stub.play(lambda player: None)


def test_a_store_that_counts_what_is_left_need_not_write_it() -> None:
    assert str(PartialDeleteError("stopped", remaining=7)) == "stopped; 7 keys are left"
    assert str(PartialDeleteError("7 are left", remaining=7)) == "7 are left"
    assert str(PartialDeleteError("stopped")) == "stopped"
