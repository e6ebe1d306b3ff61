"""The gates over a store that really takes time: who waits for whom, and for how long."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from durable_storage import Limits, ObjectResetError

from .slow_store import Call, Player, SlowStore, opened, settle, until

pytestmark = pytest.mark.anyio


async def allow_concurrency(player: Player) -> int:
    return await player.increment(allow_concurrency=True)


# --- the input gate -----------------------------------------------------------------------


async def test_two_events_that_get_and_then_put_lose_no_update() -> None:
    store = SlowStore()
    store.held = {"get"}
    async with opened(store) as stub, anyio.create_task_group() as group:
        first = Call.start(group, stub.increment)
        second = Call.start(group, stub.increment)
        await until(lambda: store.waiting == ["get"])
        await settle()
        assert store.waiting == ["get"]  # the second event has not begun
        store.release()
        assert {await first.end(), await second.end()} == {1, 2}


async def test_with_allow_concurrency_an_update_may_be_lost() -> None:
    store = SlowStore()
    store.held = {"get"}
    async with opened(store) as stub, anyio.create_task_group() as group:
        first = Call.start(group, stub.play, allow_concurrency)
        second = Call.start(group, stub.play, allow_concurrency)
        await until(lambda: store.waiting == ["get", "get"])
        store.release()
        assert [await first.end(), await second.end()] == [1, 1]


async def test_many_events_of_child_tasks_lose_no_update_either() -> None:
    async def in_children(player: Player) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(player.increment)

    async def read(player: Player) -> Any:
        return await player.storage.get("n")

    store = SlowStore()
    # Nothing is remembered, so that every read has to wait.
    async with opened(store, limits=Limits(cache_size_max_bytes=8)) as stub:
        async with anyio.create_task_group() as group:
            for number in range(10):
                if number % 2:
                    group.start_soon(stub.play, in_children)
                else:
                    group.start_soon(stub.increment)
        assert await stub.play(read) == 10


async def test_a_resumed_wait_does_not_land_between_a_get_and_its_put() -> None:
    store = SlowStore()
    outside = anyio.Event()
    seen: list[str] = []

    async def waits_outside(player: Player) -> None:
        await outside.wait()
        seen.append("resumed")

    async def reads(player: Player) -> None:
        await player.storage.get("key")
        seen.append("read")

    async with opened(store) as stub, anyio.create_task_group() as group:
        waiting = Call.start(group, stub.play, waits_outside)
        await settle()
        store.held = {"get"}
        reading = Call.start(group, stub.play, reads)
        await until(lambda: store.waiting == ["get"])
        outside.set()
        await settle()
        assert seen == []
        store.release()
        await reading.end()
        await waiting.end()
    assert seen == ["read", "resumed"]


async def test_reads_that_are_called_together_wait_together() -> None:
    store = SlowStore()
    store.data = {"ua": b"\x01", "ub": b"\x02"}
    store.held = {"get"}

    async def both(player: Player) -> list[int]:
        reads = [player.storage.get("a"), player.storage.get("b")]
        return [await read for read in reads]

    async with opened(store) as stub, anyio.create_task_group() as group:
        call = Call.start(group, stub.play, both)
        await until(lambda: store.waiting == ["get", "get"])
        store.release()
        assert await call.end() == [1, 2]


async def test_a_child_task_sees_what_it_wrote_while_it_had_to_wait_its_turn() -> None:
    store = SlowStore()
    store.data = {"ukey": b"\x01"}
    entered, leave = anyio.Event(), anyio.Event()
    seen: list[Any] = []

    async def child(player: Player) -> None:
        await entered.wait()
        writing = player.storage.put("key", 2)
        reading = player.storage.get("key")
        leave.set()
        seen.append(await reading)
        await writing

    async def with_child(player: Player) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child, player)

    async def holds(player: Player) -> None:
        async with player.storage.transaction():
            entered.set()
            await leave.wait()
            assert await player.storage.get("key") == 1

    async with opened(store) as stub, anyio.create_task_group() as group:
        first = Call.start(group, stub.play, with_child)
        await settle()
        await Call.start(group, stub.play, holds).end()
        await first.end()
    assert seen == [2]


async def test_a_cancelled_read_leaves_the_gate_open_for_others() -> None:
    store = SlowStore()
    store.held = {"get"}
    async with opened(store) as stub, anyio.create_task_group() as group:
        first = Call.start(group, stub.increment)
        await until(lambda: store.waiting == ["get"])
        second = Call.start(group, stub.increment)
        first.scope.cancel()
        await until(lambda: len(store.waiting) == 2)
        store.release()
        assert await second.end() == 1
        assert not first.done


async def test_a_read_may_be_dropped() -> None:
    store = SlowStore()
    store.held = {"get"}

    async def drops(player: Player) -> str:
        player.storage.get("key")
        player.storage.list()
        return "done"

    async with opened(store) as stub:
        assert await stub.play(drops) == "done"
        store.release()
        assert await stub.increment() == 1


async def test_a_result_may_be_awaited_twice() -> None:
    store = SlowStore()
    store.data = {"ua": b"\x01"}

    async def twice(player: Player) -> list[int]:
        read = player.storage.get("a")
        return [await read, await read]

    async with opened(store) as stub:
        assert await stub.play(twice) == [1, 1]
    assert store.count("get") == 1


async def test_a_read_inside_64_critical_sections_is_not_one_too_many() -> None:
    store = SlowStore()

    async def nested(player: Player, depth: int = 64) -> Any:
        if not depth:
            return await player.storage.get("key", "missing")
        return await player.ctx.block_concurrency_while(lambda: nested(player, depth - 1))

    async with opened(store) as stub:
        assert await stub.play(nested) == "missing"


# --- the output gate ----------------------------------------------------------------------


async def test_a_slow_store_does_not_let_a_result_out_early() -> None:
    store = SlowStore()
    store.held = {"batch"}
    async with opened(store) as stub, anyio.create_task_group() as group:
        call = Call.start(group, stub.increment)
        await until(lambda: store.waiting == ["batch"])
        await settle()
        assert not call.done
        store.release()
        assert await call.end() == 1
        assert store.keys == {"n": b"\x01"}


async def test_who_has_read_an_unconfirmed_write_waits_for_it_too() -> None:
    store = SlowStore()

    async def reads(player: Player) -> Any:
        return await player.storage.get("n")

    async with opened(store) as stub, anyio.create_task_group() as group:
        store.held = {"batch"}
        writing = Call.start(group, stub.increment)
        await until(lambda: store.waiting == ["batch"])
        reading = Call.start(group, stub.play, reads)
        await settle()
        assert not writing.done
        assert not reading.done
        store.release()
        assert await reading.end() == 1


async def test_allow_unconfirmed_does_not_withhold_the_result() -> None:
    store = SlowStore()

    async def unconfirmed(player: Player) -> None:
        player.storage.put("a", 1, allow_unconfirmed=True)
        player.storage.delete("b", allow_unconfirmed=True)

    async with opened(store) as stub:
        store.held = {"batch"}
        with anyio.fail_after(60):
            await stub.play(unconfirmed)
        assert store.keys == {}
        store.release()
    assert store.keys == {"a": b"\x01"}


async def test_sync_waits_for_the_store() -> None:
    store = SlowStore()
    order: list[str] = []

    async def syncs(player: Player) -> None:
        player.storage.put("a", 1)
        await player.storage.sync()
        order.append("synced")

    async with opened(store) as stub, anyio.create_task_group() as group:
        store.held = {"batch"}
        call = Call.start(group, stub.play, syncs)
        await until(lambda: store.waiting == ["batch"])
        await settle()
        order.append("released")
        store.release()
        await call.end()
    assert order == ["released", "synced"]


async def test_cancelling_a_withheld_result_undoes_nothing() -> None:
    store = SlowStore()
    async with opened(store) as stub, anyio.create_task_group() as group:
        store.held = {"batch"}
        call = Call.start(group, stub.increment)
        await until(lambda: store.waiting == ["batch"])
        call.scope.cancel()
        await settle()
        store.release()
        assert await stub.increment() == 2
    assert store.keys == {"n": b"\x02"}


async def test_writes_are_coalesced_while_the_store_is_busy() -> None:
    store = SlowStore()

    async def writes(player: Player, value: int) -> None:
        for each in range(10):
            player.storage.put("key", each)
        player.storage.put("key", value)

    async with opened(store) as stub, anyio.create_task_group() as group:
        store.held = {"batch"}
        calls = [Call.start(group, stub.play, lambda player: writes(player, 100))]
        await until(lambda: store.waiting == ["batch"])
        for value in range(20):
            calls.append(
                Call.start(group, stub.play, lambda player, value=value: writes(player, value))
            )
        await settle()
        store.release()
        for call in calls:
            await call.end()
    assert store.count("batch") == 2
    assert list(store.keys) == ["key"]


async def test_a_put_waits_while_the_store_is_too_far_behind() -> None:
    store = SlowStore()
    order: list[str] = []

    async def writes(player: Player) -> None:
        await player.storage.put("a", b"x" * 200)
        order.append("first")
        await player.storage.put("b", b"x" * 200)
        order.append("second")

    async with opened(store, limits=Limits(cache_size_max_bytes=1000)) as stub:
        async with anyio.create_task_group() as group:
            store.held = {"batch"}
            call = Call.start(group, stub.play, writes)
            await until(lambda: store.waiting == ["batch"])
            await settle()
            assert order == ["first"]
            store.release()
            await call.end()
    assert order == ["first", "second"]
    assert set(store.keys) == {"a", "b"}


async def test_a_put_that_is_not_awaited_waits_for_nothing() -> None:
    store = SlowStore()

    async def writes(player: Player) -> None:
        for number in range(100):
            player.storage.put(str(number), b"x" * 200, allow_unconfirmed=True)

    async with opened(store, limits=Limits(cache_size_max_bytes=1000)) as stub:
        store.held = {"batch"}
        with anyio.fail_after(60):
            await stub.play(writes)
        store.release()
    assert len(store.keys) == 100


async def test_a_put_that_waits_may_be_cancelled_and_stands() -> None:
    store = SlowStore()

    async def writes(player: Player) -> None:
        await player.storage.put("a", b"x" * 300)

    async with opened(store, limits=Limits(cache_size_max_bytes=1000)) as stub:
        async with anyio.create_task_group() as group:
            store.held = {"batch"}
            call = Call.start(group, stub.play, writes)
            await until(lambda: store.waiting == ["batch"])
            call.scope.cancel()
            await settle()
            store.release()
        assert await stub.increment() == 1
    assert set(store.keys) == {"a", "n"}


async def test_a_call_to_another_object_leaves_only_when_the_store_has_what_it_could_tell() -> None:
    store = SlowStore()
    told: list[bytes | None] = []

    async def hears(player: Player) -> None:
        told.append(store.keys.get("told"))

    async def tells(player: Player) -> None:
        player.storage.put("told", 1)
        await player.env.other.play(hears)

    async with opened(store) as stub, anyio.create_task_group() as group:
        runtime = stub.__dict__["_stub"][0]._runtime
        runtime.env.other = runtime.namespace(Player, name="Other").get_by_name("other")
        store.held = {"batch"}
        call = Call.start(group, stub.play, tells)
        await until(lambda: store.waiting == ["batch"])
        await settle()
        assert told == []
        store.release()
        await call.end()
    assert told == [b"\x01"]


# --- failures -----------------------------------------------------------------------------


async def test_a_failing_store_breaks_the_gate_and_loses_nothing_acknowledged() -> None:
    store = SlowStore()
    async with opened(store) as stub:
        assert await stub.increment() == 1
        lives = Player.lives
        store.failing["batch"] = OSError("the store is down")
        with pytest.raises(ObjectResetError, match="the store is down") as caught:
            await stub.increment()
        assert caught.value.retryable
        assert isinstance(caught.value.__cause__, OSError)
        store.failing.clear()
        assert await stub.increment() == 2
        assert Player.lives == lives + 1
        assert (store.opened, store.closed) == (2, 1)
    assert store.keys == {"n": b"\x02"}


async def test_everybody_who_waits_for_a_failed_write_is_told() -> None:
    store = SlowStore()
    async with opened(store) as stub, anyio.create_task_group() as group:
        await stub.increment()
        store.held = {"batch"}
        calls = [Call.start(group, stub.increment) for _ in range(5)]
        await until(lambda: store.waiting == ["batch"])
        await settle()
        store.failing["batch"] = ConnectionError("lost")
        store.release()
        for call in calls:
            with pytest.raises(ObjectResetError, match="lost"):
                await call.end()
        store.failing.clear()
        assert await stub.increment() == 2


async def test_a_failing_read_resets_the_object_and_keeps_what_was_committed() -> None:
    store = SlowStore()

    async def writes_and_reads(player: Player) -> None:
        player.storage.put("a", 1)
        await player.storage.sync()
        with pytest.raises(ValueError, match="never"):  # no code of the dead object goes on
            await player.storage.get("missing")

    async with opened(store) as stub:
        store.failing["get"] = OSError("unreadable")
        with pytest.raises(ObjectResetError, match="its store failed: unreadable"):
            await stub.play(writes_and_reads)
        store.failing.clear()
        assert await stub.increment() == 1
        assert (store.opened, store.closed) == (2, 1)
    assert store.keys == {"a": b"\x01", "n": b"\x01"}


async def test_a_store_that_cannot_be_opened_is_asked_again_by_the_next_event() -> None:
    store = SlowStore()
    store.failing["open"] = OSError("not yet")
    async with opened(store) as stub:
        with pytest.raises(ObjectResetError, match="cannot start: not yet") as caught:
            await stub.increment()
        assert caught.value.retryable
        store.failing.clear()
        assert await stub.increment() == 1


async def test_an_abort_drops_what_is_not_committed_and_waits_for_what_is() -> None:
    store = SlowStore()

    async def aborts(player: Player) -> None:
        player.storage.put("dropped", 1)
        player.ctx.abort("enough")

    async def lists(player: Player) -> Any:
        return await player.storage.list()

    async with opened(store) as stub, anyio.create_task_group() as group:
        store.held = {"batch"}
        committed = Call.start(group, stub.increment)
        await until(lambda: store.waiting == ["batch"])
        with pytest.raises(ObjectResetError, match="enough"):
            await stub.play(aborts)
        listing = Call.start(group, stub.play, lists)
        await settle()
        assert not listing.done  # it has seen what the store does not hold yet
        store.release()
        assert await listing.end() == {"n": 1}
        assert await committed.end() == 1


async def test_closing_the_runtime_brings_everything_to_the_store_and_closes_it() -> None:
    store = SlowStore()

    async def unconfirmed(player: Player) -> None:
        player.storage.put("a", 1, allow_unconfirmed=True)

    async with opened(store) as stub:
        await stub.play(unconfirmed)
    assert store.keys == {"a": b"\x01"}
    assert (store.opened, store.closed) == (1, 1)
