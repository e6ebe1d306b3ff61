"""The fault injector, and with it how the library behaves when its disk fails."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from durable_storage import DurableObjectNamespace, History, ObjectResetError, Runtime
from durable_storage.errors import ArgumentTypeError, ArgumentValueError, DatabaseFileError
from durable_storage.testing import (
    FaultInjector,
    ManualClock,
    evict_durable_object,
    runtime_for_test,
)

from .samples import Counter, Marker, Reminder, Shop

pytest_plugins = ["durable_storage.pytest_plugin"]
pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["history", "no history"])
def durable_options(request: pytest.FixtureRequest) -> dict[str, object]:
    return {"history": History(enabled=request.param)}


@pytest.fixture
def counter(durable_runtime: Runtime) -> Counter:
    return durable_runtime.namespace(Counter).get_by_name("main")


async def test_the_nth_commit_fails_and_only_that(
    counter: Counter, durable_faults: FaultInjector
) -> None:
    await counter.increment()
    fault = durable_faults.fail("commit", nth=2)
    assert await counter.increment() == 2
    assert fault.happened == 0
    with pytest.raises(ObjectResetError):
        await counter.increment()
    assert fault.happened == 1
    assert await counter.increment() == 3


async def test_a_failed_sync_resets_the_object_and_withholds_its_answer(
    counter: Counter, durable_faults: FaultInjector
) -> None:
    await counter.increment()
    durable_faults.fail("fdatasync", path="*.sqlite-wal", error=errno.EIO)
    with pytest.raises(ObjectResetError, match="could not be made durable"):
        await counter.increment()
    assert await counter.value() in (1, 2)


async def test_an_error_of_ones_own_is_raised_as_it_is(
    counter: Counter, durable_faults: FaultInjector
) -> None:
    mine = OSError(errno.EROFS, "mine")
    durable_faults.fail("open", error=mine)
    with pytest.raises(DatabaseFileError) as caught:
        await counter.increment()
    assert caught.value.__cause__ is mine
    assert await counter.increment() == 1


async def test_operations_are_counted(counter: Counter, durable_faults: FaultInjector) -> None:
    await counter.increment()
    before = durable_faults.count("fdatasync", path="*/Counter-*")
    for _ in range(5):
        await counter.increment()
    assert durable_faults.count("fdatasync", path="*/Counter-*") == before + 5
    assert durable_faults.count("commit") == 6
    assert durable_faults.announced[-1].operation == "fdatasync"


async def test_one_sync_serves_many_events(counter: Counter, durable_faults: FaultInjector) -> None:
    await counter.increment()
    before = durable_faults.count("fdatasync", path="*/Counter-*-wal")
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(counter.increment)
    assert await counter.value() == 51
    assert durable_faults.count("fdatasync", path="*/Counter-*-wal") <= before + 3


async def test_a_full_disk_refuses_writes_until_there_is_room(
    counter: Counter, durable_faults: FaultInjector
) -> None:
    await counter.increment()
    fault = durable_faults.fill_disk(after_bytes=100_000)
    with pytest.raises(ObjectResetError, match="No space left"):  # noqa: PT012
        for _ in range(100):
            await counter.fill(20_000)
    assert fault.happened >= 1
    durable_faults.clear()
    assert await counter.increment() == 2


async def test_a_delay_changes_nothing_else(
    counter: Counter, durable_faults: FaultInjector
) -> None:
    fault = durable_faults.delay("fdatasync", seconds=0, times=3)
    assert await counter.increment() == 1
    assert fault.happened >= 1


async def test_a_held_sync_withholds_the_answer(
    counter: Counter, durable_faults: FaultInjector
) -> None:
    await counter.increment()
    with durable_faults.hold("fdatasync", path="*.sqlite-wal") as held:
        async with anyio.create_task_group() as group:
            answers: list[int] = []

            async def call() -> None:
                answers.append(await counter.increment())

            group.start_soon(call)
            await held.reached()
            assert answers == []
            with pytest.raises(AssertionError, match="not confirmed"):
                durable_faults.assert_confirmed(counter)
            held.release()
        assert answers == [2]
        durable_faults.assert_confirmed(counter)


async def test_a_power_loss_keeps_what_was_answered(
    durable_runtime: Runtime, counter: Counter, durable_faults: FaultInjector
) -> None:
    for value in range(1, 4):
        assert await counter.increment() == value
        await durable_faults.crash(durable_runtime)
        assert await counter.value() == value


async def test_a_power_loss_drops_what_was_not_synced(
    durable_runtime: Runtime, counter: Counter, durable_faults: FaultInjector
) -> None:
    assert await counter.increment() == 1
    durable_faults.lose_power("fdatasync", path="*/Counter-*.sqlite-wal")
    with pytest.raises(ObjectResetError):
        await counter.increment()
    assert durable_faults.power_is_lost
    await durable_faults.crash(durable_runtime)
    assert await counter.value() == 1
    assert await counter.increment() == 2


@pytest.mark.parametrize("operation", ["open", "write", "fsync", "fdatasync", "commit"])
async def test_a_power_loss_at_any_operation_keeps_what_was_answered(
    durable_runtime: Runtime, counter: Counter, durable_faults: FaultInjector, operation: str
) -> None:
    answered = 0
    for nth in (1, 2, 3):
        durable_faults.lose_power(operation, nth=nth)  # type: ignore[arg-type]
        for _ in range(nth + 1):
            try:
                answered = await counter.increment()
            except (ObjectResetError, DatabaseFileError):
                break
        with contextlib.suppress(ObjectResetError):
            await durable_runtime.evict_all()
        await durable_faults.crash(durable_runtime)
        assert answered <= await counter.value() <= answered + 1
        answered = await counter.value()


async def test_a_power_loss_after_eviction_and_reopening_keeps_everything(
    durable_runtime: Runtime, counter: Counter, durable_faults: FaultInjector
) -> None:
    await counter.increment()
    await durable_runtime.evict_all()
    await counter.increment()
    await durable_faults.crash(durable_runtime)
    assert await counter.value() == 2


@pytest.mark.parametrize("restored", [False, True], ids=["reopened", "restored"])
async def test_a_power_loss_keeps_the_bookmarks_of_a_session_that_had_found_a_closed_file(
    durable_clock: ManualClock, restored: bool
) -> None:
    faults = FaultInjector()
    async with runtime_for_test(
        {"durability": "disk"}, faults=faults, clock=durable_clock
    ) as runtime:
        marker = runtime.namespace(Marker).get_by_name("m")
        first = await marker.increment()
        await marker.increment()
        if restored:
            await marker.go_back(first)
        await evict_durable_object(marker)
        bookmarks = [await marker.increment() for _ in range(3)]
        newest = await marker.value()
        await faults.crash(runtime)
        for ago, bookmark in enumerate(reversed(bookmarks)):
            await marker.go_back(bookmark)
            await evict_durable_object(marker)
            assert await marker.value() == newest - ago


async def test_power_losses_in_a_row_take_nothing_that_the_first_has_left(
    durable_runtime: Runtime, counter: Counter, durable_faults: FaultInjector
) -> None:
    assert await counter.increment() == 1
    await durable_faults.crash(durable_runtime)
    assert await counter.value() == 1
    await durable_runtime.evict_all()
    await durable_faults.crash(durable_runtime)
    left = _files_of_objects(durable_runtime)
    await durable_faults.crash(durable_runtime)
    assert _files_of_objects(durable_runtime) == left
    assert await counter.value() == 1


def _files_of_objects(runtime: Runtime) -> dict[Path, bytes]:
    found = Path(runtime.path).glob("Counter-*/**/*")
    return {path: path.read_bytes() for path in found if path.is_file()}


async def test_a_power_loss_brings_back_no_part_of_a_wal_that_was_folded_and_removed(
    durable_runtime: Runtime, counter: Counter, durable_faults: FaultInjector
) -> None:
    await counter.fill(60_000)
    await durable_runtime.evict_all()
    assert await counter.increment() == 1
    durable_faults.fail("fdatasync", path="*/Counter-*-wal")
    # It frees pages that the WAL knows nothing of as far as it was synced.
    with pytest.raises(ObjectResetError):
        await counter.fill(5_000)
    await durable_faults.crash(durable_runtime)
    assert await counter.increment() == 2
    await durable_runtime.evict_all()
    assert _integrity(durable_runtime) == [("ok",)]


def _integrity(runtime: Runtime) -> list[tuple[str]]:
    (path,) = Path(runtime.path).glob("Counter-*/*/*/*.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall()


async def test_a_power_loss_takes_nothing_that_was_there_before_the_injector(
    tmp_path: Path, durable_clock: ManualClock
) -> None:
    async with Runtime(tmp_path, clock=durable_clock) as runtime:
        assert await runtime.namespace(Counter).get_by_name("c").increment() == 1
    faults = FaultInjector()
    async with Runtime(tmp_path, clock=durable_clock, faults=faults) as runtime:
        await faults.crash(runtime)
        assert await runtime.namespace(Counter).get_by_name("c").value() == 1


async def test_a_power_loss_leaves_the_time_of_modification_that_was_synced(
    durable_runtime: Runtime, durable_faults: FaultInjector
) -> None:
    path = Path(durable_runtime.path) / "file"
    durable_faults.before("open", str(path))
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    durable_faults.before("fsync", str(path))
    durable_faults.before("fsync", str(path.parent))
    path.write_bytes(b"two")
    os.utime(path, ns=(2, 2))
    durable_faults.before("fdatasync", str(path))  # which promises no times
    path.write_bytes(b"three")
    await durable_faults.crash(durable_runtime)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mtime_ns == 1


async def test_events_under_way_are_reset_by_a_crash(
    durable_runtime: Runtime, counter: Counter, durable_faults: FaultInjector
) -> None:
    await counter.increment()
    outcomes: list[object] = []

    async def call() -> None:
        try:
            outcomes.append(await counter.increment())
        except ObjectResetError as exc:
            outcomes.append(type(exc))

    with durable_faults.hold("fdatasync", path="*.sqlite-wal") as held:
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await held.reached()
            durable_faults.lose_power()
            held.release()
            await durable_faults.crash(durable_runtime)
    assert outcomes == [ObjectResetError]
    assert await counter.value() == 1


async def test_the_clock_and_alarms_go_on_after_a_crash(
    durable_runtime: Runtime, durable_clock: ManualClock, durable_faults: FaultInjector
) -> None:
    reminder = durable_runtime.namespace(Reminder).get_by_name("r")
    await reminder.remind(60)
    await durable_faults.crash(durable_runtime)
    await durable_clock.advance(61)
    assert await reminder.rung()


# -- the seeded bugs


async def test_a_mail_sent_before_its_order_is_durable_is_found(
    durable_clock: ManualClock,
) -> None:
    faults = FaultInjector()
    shops: list[DurableObjectNamespace[Shop]] = []

    def send(mail: str) -> None:
        faults.assert_confirmed(shops[0].get_by_name("s"))

    async with Runtime(faults=faults, clock=durable_clock, env=send) as runtime:
        shops.append(runtime.namespace(Shop))
        shop = shops[0].get_by_name("s")
        await shop.order("tea")
        with pytest.raises(AssertionError, match="before it was durable"):
            await shop.order_early("coffee")


async def test_an_answer_that_does_not_wait_for_its_write_is_found(
    durable_runtime: Runtime, durable_faults: FaultInjector
) -> None:
    durable_runtime.env = print
    shop = durable_runtime.namespace(Shop).get_by_name("s")
    assert await durable_faults.assert_withheld(shop.order_confirmed("tea")) == "ordered tea"
    with pytest.raises(AssertionError, match="released"):
        await durable_faults.assert_withheld(shop.order_unconfirmed("tea"))


async def test_a_reminder_kept_in_memory_is_found_lost(
    durable_runtime: Runtime, durable_clock: ManualClock, durable_faults: FaultInjector
) -> None:
    reminders = durable_runtime.namespace(Reminder)
    for method, rings in (("remind", True), ("remind_in_memory", False)):
        reminder = reminders.get_by_name(method)
        if method == "remind":
            await reminder.remind(3600)
        else:
            await reminder.remind_in_memory(durable_clock, 3600)
        await durable_faults.crash(durable_runtime)
        await durable_clock.advance(2 * 3600)
        assert await reminder.rung() is rings


# -- how it is used wrongly


async def test_wrong_arguments_are_refused(durable_faults: FaultInjector) -> None:
    with pytest.raises(ArgumentValueError, match="unknown operation"):
        durable_faults.fail("sync")  # type: ignore[arg-type]
    with pytest.raises(ArgumentValueError, match="count from 1"):
        durable_faults.fail("commit", nth=0)
    with pytest.raises(ArgumentValueError, match="hold"):
        durable_faults.hold("commit")  # type: ignore[arg-type]
    with pytest.raises(ArgumentValueError, match="negative"):
        durable_faults.fill_disk(-1)
    with pytest.raises(ArgumentTypeError, match="assert_confirmed"):
        durable_faults.assert_confirmed(object())


async def test_without_durability_nothing_passes_for_confirmed(
    durable_clock: ManualClock,
) -> None:
    faults = FaultInjector()
    async with Runtime(durability="os", faults=faults, clock=durable_clock) as runtime:
        counter = runtime.namespace(Counter).get_by_name("c")
        with pytest.raises(AssertionError, match="durability"):
            await faults.assert_withheld(counter.increment())
        with pytest.raises(AssertionError, match="durability"):
            faults.assert_confirmed(runtime)


async def test_an_error_of_the_call_passes_through_assert_withheld(
    durable_runtime: Runtime, durable_faults: FaultInjector
) -> None:
    counter = durable_runtime.namespace(Counter).get_by_name("c")
    await counter.increment()
    durable_faults.fail("commit")
    with pytest.raises(ObjectResetError):
        await durable_faults.assert_withheld(counter.increment())


@pytest.mark.parametrize(
    "ask",
    [
        lambda faults: faults.fail("commit", nth=1.5),
        lambda faults: faults.fail("commit", nth=True),
        lambda faults: faults.fail("commit", times=1.5),
        lambda faults: faults.fail("commit", times="all"),
        lambda faults: faults.fail("commit", error="EIO"),
        lambda faults: faults.fail("commit", error=False),
        lambda faults: faults.fail("commit", path=b"*"),
        lambda faults: faults.delay("commit", seconds="1"),
        lambda faults: faults.fill_disk("1"),
        lambda faults: faults.fill_disk(0.5),
        lambda faults: faults.lose_power("commit", nth="1"),
    ],
)
def test_what_is_no_number_error_or_pattern_is_refused(ask: Callable[[Any], object]) -> None:
    with pytest.raises(ArgumentTypeError):
        ask(FaultInjector())


@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan])
def test_a_delay_is_finite_and_not_negative(seconds: float) -> None:
    with pytest.raises(ArgumentValueError, match="finite time"):
        FaultInjector().delay("commit", seconds=seconds)


async def test_a_runtime_takes_no_other_injector() -> None:
    with pytest.raises(ArgumentTypeError, match="FaultInjector"):
        Runtime(faults=0)  # type: ignore[arg-type] - refusing it is the point
