"""Objects through their stubs: what works, and what each mistake is told."""

from __future__ import annotations

import errno
import os
import pathlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from durable_storage import (
    ArgumentTypeError,
    ArgumentValueError,
    ConcurrencyError,
    DurableObject,
    DurableStorageError,
    History,
    Limits,
    ObjectResetError,
    OverloadedError,
    Runtime,
    RuntimeInUseError,
)
from durable_storage.testing import ManualClock, evict_durable_object, run_in_durable_object

pytestmark = pytest.mark.anyio

OFF = History(enabled=False)


class Disk:
    """Counts confirmations; can hold them and fail them."""

    def __init__(self) -> None:
        self.confirmations = 0
        self.open = threading.Event()
        self.open.set()
        self.fail = False

    def before(self, operation: str, path: str) -> None:
        if operation == "fdatasync" and path.endswith(".sqlite-wal") and "registry" not in path:
            self.confirmations += 1
            assert self.open.wait(30)
            if self.fail:
                raise OSError(errno.EIO, "the disk is gone")


class Counter(DurableObject):
    async def increment(self, by: int = 1) -> int:
        value: int = await self.ctx.storage.get("value", 0)
        self.ctx.storage.put("value", value + by)
        return value + by

    async def value(self) -> int:
        value: int = await self.ctx.storage.get("value", 0)
        return value

    def now(self) -> int:
        value: int = self.ctx.storage.kv.get("value", 0)
        return value

    async def fail(self) -> None:
        self.ctx.storage.put("value", -1)
        raise ValueError("own")

    async def abort(self) -> None:
        self.ctx.storage.put("value", -2)
        self.ctx.abort("enough")

    async def _private(self) -> None: ...


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_a_method_that_does_not_exist_is_an_attribute_error() -> None:
    async with Runtime(history=OFF) as runtime:
        counter: Any = runtime.namespace(Counter).get_by_name("a")
        with pytest.raises(AttributeError, match="Counter has no method 'missing'"):
            counter.missing
        with pytest.raises(AttributeError, match="public methods"):
            counter._private
        with pytest.raises(AttributeError, match="public methods"):
            counter.ctx
        with pytest.raises(AttributeError, match="no settable"):
            counter.value = 1


async def test_a_method_that_is_not_async_is_awaited_all_the_same() -> None:
    async with Runtime(history=OFF) as runtime:
        counter: Any = runtime.namespace(Counter).get_by_name("a")
        await counter.increment(3)
        assert await counter.now() == 3


async def test_wrong_arguments_are_a_type_error_and_change_nothing() -> None:
    async with Runtime(history=OFF) as runtime:
        counter: Any = runtime.namespace(Counter).get_by_name("a")
        for _ in range(2):
            with pytest.raises(TypeError, match="unexpected keyword"):
                await counter.increment(wrong=1)
        assert await counter.value() == 0


async def test_an_exception_reaches_the_caller_and_keeps_what_was_written() -> None:
    async with Runtime(history=OFF) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        with pytest.raises(ValueError, match="own"):
            await counter.fail()
        assert await counter.value() == -1


async def test_an_abort_drops_what_was_written_and_names_its_reason() -> None:
    async with Runtime(history=OFF) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        await counter.increment()
        with pytest.raises(ObjectResetError, match="enough") as caught:
            await counter.abort()
        assert not caught.value.retryable
        assert await counter.value() == 1


async def test_an_object_whose_constructor_fails_is_tried_again_by_the_next_call() -> None:
    attempts: list[int] = []

    class Fragile(DurableObject):
        def __init__(self, ctx: Any, env: Any) -> None:
            super().__init__(ctx, env)
            attempts.append(1)
            if len(attempts) == 1:
                raise LookupError("no configuration")

        async def ping(self) -> str:
            return "pong"

    async with Runtime(history=OFF) as runtime:
        fragile = runtime.namespace(Fragile).get_by_name("a")
        with pytest.raises(ObjectResetError, match="no configuration") as caught:
            await fragile.ping()
        assert isinstance(caught.value.__cause__, LookupError)
        assert await fragile.ping() == "pong"


async def test_a_constructor_that_forgets_its_base_is_told_so() -> None:
    class Forgetful(DurableObject):
        def __init__(self, ctx: Any, env: Any) -> None:
            pass

        async def ping(self) -> str:
            return "pong"

    async with Runtime(history=OFF) as runtime:
        with pytest.raises(ObjectResetError, match=r"super\(\).__init__\(ctx, env\)"):
            await runtime.namespace(Forgetful).get_by_name("a").ping()


async def test_a_callback_that_never_returns_is_ended_by_the_limit() -> None:
    clock = ManualClock()

    class Stuck(DurableObject):
        async def stick(self) -> None:
            await self.ctx.block_concurrency_while(anyio.sleep_forever)

        async def ping(self) -> str:
            return "pong"

    async with Runtime(clock=clock, history=OFF) as runtime:
        stuck = runtime.namespace(Stuck).get_by_name("a")
        errors: list[BaseException] = []

        async def call() -> None:
            try:
                await stuck.stick()
            except ObjectResetError as exc:
                errors.append(exc)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            await clock.advance(29)
            assert not errors
            await clock.advance(2)
            await until(lambda: bool(errors))
        assert "waited for too long" in str(errors[0])
        assert await stuck.ping() == "pong"


async def test_a_ring_of_calls_inside_a_critical_section_is_refused_by_both_names() -> None:
    class Node(DurableObject):
        async def enter(self) -> Any:
            return await self.ctx.block_concurrency_while(self._ask)

        async def _ask(self) -> Any:
            return await self.env.nodes.get_by_name("b").back()

        async def back(self) -> Any:
            return await self.env.nodes.get_by_name("a").ping()

        async def ping(self) -> str:
            return "pong"

    class Env:
        nodes: Any = None

    env = Env()
    async with Runtime(env=env, history=OFF) as runtime:
        env.nodes = runtime.namespace(Node)
        with pytest.raises(ObjectResetError, match=r"'b'.*'a'") as caught:
            await env.nodes.get_by_name("a").enter()
        assert isinstance(caught.value.__cause__, ConcurrencyError)


async def test_two_sections_that_call_each_other_do_not_wait_for_ever() -> None:
    class Node(DurableObject):
        async def enter(self, other: str, ready: anyio.Event, go: anyio.Event) -> Any:
            async def section() -> Any:
                ready.set()
                await go.wait()
                return await self.env.nodes.get_by_name(other).ping()

            return await self.ctx.storage.transaction(section)

        async def ping(self) -> str:
            return "pong"

    class Env:
        nodes: Any = None

    env = Env()
    async with Runtime(env=env, history=OFF) as runtime:
        env.nodes = runtime.namespace(Node)
        outcomes: list[Any] = []
        ready = (anyio.Event(), anyio.Event())
        go = anyio.Event()

        async def call(name: str, other: str, mine: anyio.Event) -> None:
            try:
                outcomes.append(await env.nodes.get_by_name(name).enter(other, mine, go))
            except ConcurrencyError as exc:
                outcomes.append(exc)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(call, "a", "b", ready[0])
                group.start_soon(call, "b", "a", ready[1])
                await ready[0].wait()
                await ready[1].wait()
                go.set()
        assert sorted(type(each).__name__ for each in outcomes) == ["ConcurrencyError", "str"]


async def test_a_stub_is_refused_after_its_runtime_was_closed() -> None:
    async with Runtime(history=OFF) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        await counter.increment()
    with pytest.raises(DurableStorageError, match="after its runtime was closed"):
        await counter.increment()


async def test_a_runtime_used_before_it_is_entered_says_so() -> None:
    with pytest.raises(DurableStorageError, match="async with"):
        Runtime().namespace(Counter)


async def test_a_second_runtime_of_the_directory_is_refused(tmp_path: pathlib.Path) -> None:
    async with Runtime(tmp_path, history=OFF):
        with pytest.raises(RuntimeInUseError, match=str(os.getpid())):
            async with Runtime(tmp_path, history=OFF):
                pass
    async with Runtime(tmp_path, history=OFF):
        pass


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"idle_timeout": 0}, ArgumentValueError),
        ({"idle_timeout": "1"}, ArgumentTypeError),
        ({"max_open_objects": 0}, ArgumentValueError),
        ({"max_open_objects": 1.5}, ArgumentTypeError),
        ({"durability": "memory"}, ArgumentValueError),
    ],
)
async def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Runtime(**options)


async def test_bad_ids_hints_and_jurisdictions_are_refused() -> None:
    class Other(Counter):
        pass

    async with Runtime(history=OFF) as runtime:
        counters = runtime.namespace(Counter)
        others = runtime.namespace(Other)
        bad: Any
        for bad in ("", "zz" * 32, "ab" * 31):
            with pytest.raises(ValueError, match="64 hex digits"):
                counters.id_from_string(bad)
        with pytest.raises(ValueError, match="not valid for this namespace"):
            counters.id_from_string(str(others.id_from_name("a")))
        with pytest.raises(ValueError, match="not valid for this namespace"):
            counters.get(others.id_from_name("a"))
        bad = "moon"
        with pytest.raises(TypeError, match="get_by_name"):
            counters.get(bad)
        with pytest.raises(ValueError, match="unknown"):
            counters.jurisdiction(bad)
        with pytest.raises(ValueError, match="unknown"):
            counters.get_by_name("a", location_hint=bad)
        for hint in ("wnam", "apac-ne", "apac-se", "me"):
            hinted: Any = hint
            counters.get_by_name("a", location_hint=hinted)


async def test_jurisdictions_are_namespaces_of_their_own() -> None:
    async with Runtime(history=OFF) as runtime:
        counters = runtime.namespace(Counter)
        european = counters.jurisdiction("eu")
        await european.get_by_name("a").increment()
        assert await counters.get_by_name("a").value() == 0
        assert await european.get_by_name("a").value() == 1
        assert european.id_from_name("a").jurisdiction == "eu"
        listed = [each async for each in european.list_ids()]
        assert [each.name for each in listed] == ["a"]


async def test_every_used_object_is_listed_also_after_a_restart(tmp_path: pathlib.Path) -> None:
    async with Runtime(tmp_path, history=OFF) as runtime:
        for name in ("a", "b", "c"):
            await runtime.namespace(Counter).get_by_name(name).increment()
    async with Runtime(tmp_path, history=OFF) as runtime:
        names = {each.name async for each in runtime.namespace(Counter).list_ids()}
        assert names == {"a", "b", "c"}


class Busy(DurableObject):
    async def hold(self, wait: Callable[[], Awaitable[object]]) -> None:
        await self.ctx.block_concurrency_while(wait)

    async def ping(self) -> str:
        return "pong"


async def test_too_many_waiting_events_are_refused_at_once() -> None:
    async with Runtime(history=OFF, limits=Limits(queued_events=5)) as runtime:
        release = anyio.Event()
        busy = runtime.namespace(Busy).get_by_name("a")
        answers: list[str] = []

        async def ping() -> None:
            answers.append(await busy.ping())

        async with anyio.create_task_group() as group:
            group.start_soon(busy.hold, release.wait)
            await anyio.wait_all_tasks_blocked()
            for _ in range(5):
                group.start_soon(ping)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(OverloadedError, match="5 events wait") as caught:
                await busy.ping()
            assert caught.value.overloaded
            release.set()
        assert answers == ["pong"] * 5


async def test_callers_that_gave_up_waiting_take_nobody_elses_place() -> None:
    async with Runtime(history=OFF, limits=Limits(queued_events=5)) as runtime:
        release = anyio.Event()
        busy = runtime.namespace(Busy).get_by_name("a")
        answers: list[str] = []

        async def ping() -> None:
            answers.append(await busy.ping())

        async with anyio.create_task_group() as group:
            group.start_soon(busy.hold, release.wait)
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as impatient:
                for _ in range(4):
                    impatient.start_soon(ping)
                group.start_soon(ping)
                await anyio.wait_all_tasks_blocked()
                impatient.cancel_scope.cancel()
            for _ in range(4):
                group.start_soon(ping)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(OverloadedError, match="5 events wait"):
                await busy.ping()
            release.set()
        assert answers == ["pong"] * 5


async def test_an_event_that_waited_too_long_makes_new_ones_refused() -> None:
    clock = ManualClock()
    limits = Limits(queued_seconds=5, critical_section_seconds=100)
    async with Runtime(history=OFF, limits=limits, clock=clock) as runtime:
        release = anyio.Event()
        busy = runtime.namespace(Busy).get_by_name("a")
        async with anyio.create_task_group() as group:
            group.start_soon(busy.hold, release.wait)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(busy.ping)
            await anyio.wait_all_tasks_blocked()
            await clock.advance(6)
            with pytest.raises(OverloadedError, match="has waited 6 s"):
                await busy.ping()
            release.set()


async def test_a_result_is_withheld_until_its_write_is_confirmed() -> None:
    disk = Disk()
    async with Runtime(history=OFF, faults=disk) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        await counter.increment()
        answers: list[int] = []

        async def increment() -> None:
            answers.append(await counter.increment())

        async def read() -> None:
            answers.append(await counter.value())

        disk.open.clear()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(increment)
                group.start_soon(increment)
                await anyio.wait_all_tasks_blocked()
                # A read that saw what is not confirmed waits as well.
                group.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                assert answers == []
                disk.open.set()
        finally:
            disk.open.set()
        assert sorted(answers) == [2, 3, 3]


async def test_a_failed_confirmation_resets_the_object_and_its_callers_know() -> None:
    disk = Disk()
    async with Runtime(history=OFF, faults=disk) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        await counter.increment()
        disk.fail = True
        with pytest.raises(ObjectResetError, match="could not be made durable") as caught:
            await counter.increment()
        assert isinstance(caught.value.__cause__, OSError)
        disk.fail = False
        assert await counter.increment() in (2, 3)


async def test_a_thousand_concurrent_increments_need_few_confirmations() -> None:
    disk = Disk()
    async with Runtime(history=OFF, faults=disk) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        await counter.increment()
        before = disk.confirmations
        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(counter.increment)
        assert await counter.value() == 1001
        assert disk.confirmations - before <= 30


async def test_more_objects_than_may_be_open_complete_and_give_back_what_they_took() -> None:
    objects, events, most = 1000, 10, 200
    async with Runtime(history=OFF, max_open_objects=most, durability="os") as runtime:
        counters = runtime.namespace(Counter)
        highest = 0

        async def call(name: str) -> None:
            nonlocal highest
            await counters.get_by_name(name).increment()
            highest = max(highest, runtime.open_objects)

        async with anyio.create_task_group() as group:
            for _ in range(events):
                for number in range(objects):
                    group.start_soon(call, f"c{number}")
        assert highest <= most
        for number in range(0, objects, 100):
            assert await counters.get_by_name(f"c{number}").value() == events


async def test_an_idle_object_is_closed_and_comes_back_with_its_data() -> None:
    clock = ManualClock()
    async with Runtime(history=OFF, clock=clock, idle_timeout=10) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        await counter.increment()
        assert runtime.open_objects == 1
        await clock.advance(30)
        assert runtime.open_objects == 0
        assert await counter.increment() == 2


async def test_background_work_keeps_the_object_open() -> None:
    clock = ManualClock()
    release = anyio.Event()

    class Worker(DurableObject):
        async def start(self) -> None:
            self.ctx.wait_until(self._work())

        async def _work(self) -> None:
            await release.wait()
            self.ctx.storage.put("done", True)

        async def done(self) -> Any:
            return await self.ctx.storage.get("done")

    async with Runtime(history=OFF, clock=clock, idle_timeout=1) as runtime:
        worker = runtime.namespace(Worker).get_by_name("a")
        await worker.start()
        await clock.advance(10)
        assert runtime.open_objects == 1
        with pytest.raises(ConcurrencyError, match="under way"):
            await evict_durable_object(worker)
        release.set()
        await until(lambda: not runtime._all_residents()[0].host.life.background)  # type: ignore[union-attr]
        assert await worker.done()


async def test_closing_waits_for_events_and_their_writes_are_there(
    tmp_path: pathlib.Path,
) -> None:
    release = anyio.Event()

    class Slow(DurableObject):
        async def work(self) -> str:
            await release.wait()
            self.ctx.storage.put("done", True)
            return "done"

        async def done(self) -> Any:
            return await self.ctx.storage.get("done")

    results: list[str] = []
    async with anyio.create_task_group() as group:
        async with Runtime(tmp_path, history=OFF) as runtime:
            slow = runtime.namespace(Slow).get_by_name("a")

            async def call() -> None:
                results.append(await slow.work())

            group.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(_set_later, release)
    assert results == ["done"]
    async with Runtime(tmp_path, history=OFF) as runtime:
        assert await runtime.namespace(Slow).get_by_name("a").done()


async def _set_later(event: anyio.Event) -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    event.set()


async def test_a_child_task_of_a_section_belongs_to_it() -> None:
    class Parent(DurableObject):
        async def run(self) -> dict[str, Any]:
            async def section() -> None:
                await anyio.lowlevel.checkpoint()
                async with anyio.create_task_group() as group:
                    group.start_soon(self._child, "first")
                    group.start_soon(self._child, "second")

            await self.ctx.block_concurrency_while(section)
            return await self.ctx.storage.list()

        async def _child(self, name: str) -> None:
            await anyio.lowlevel.checkpoint()
            self.ctx.storage.kv.put(name, 1)

    async with Runtime(history=OFF) as runtime:
        parent = runtime.namespace(Parent).get_by_name("a")
        for _ in range(2):
            with anyio.fail_after(60):
                assert await parent.run() == {"first": 1, "second": 1}


async def test_a_child_task_cannot_write_into_a_strangers_transaction() -> None:
    class Shared(DurableObject):
        async def transact(self, entered: anyio.Event, go: anyio.Event) -> Any:
            async with self.ctx.storage.transaction() as txn:
                entered.set()
                await go.wait()
                seen = await txn.list()
                txn.rollback()
            return seen

        async def spawn(self, entered: anyio.Event, refused: list[BaseException]) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(self._write, entered, refused)

        async def _write(self, entered: anyio.Event, refused: list[BaseException]) -> None:
            await entered.wait()
            try:
                self.ctx.storage.kv.put("sync", 1)
            except ConcurrencyError as exc:
                refused.append(exc)
            await self.ctx.storage.put("async", 1)

        async def dump(self) -> dict[str, Any]:
            return await self.ctx.storage.list()

    async with Runtime(history=OFF) as runtime:
        shared = runtime.namespace(Shared).get_by_name("a")
        entered, go = anyio.Event(), anyio.Event()
        refused: list[BaseException] = []
        seen: list[Any] = []

        async def transact() -> None:
            seen.append(await shared.transact(entered, go))

        async with anyio.create_task_group() as group:
            group.start_soon(shared.spawn, entered, refused)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(transact)
            await anyio.wait_all_tasks_blocked()
            go.set()
        assert seen == [{}]
        assert len(refused) == 1
        assert await shared.dump() == {"async": 1}


async def test_storage_is_refused_to_another_thread() -> None:
    class Threaded(DurableObject):
        async def run(self) -> list[str]:
            refused: list[str] = []

            def work() -> None:
                for operation in (
                    lambda: self.ctx.storage.kv.get("a"),
                    lambda: self.ctx.storage.get("a"),
                    lambda: self.ctx.storage.kv.put("a", 2),
                    lambda: self.ctx.storage.put("a", 2),
                    lambda: self.ctx.storage.sql.exec("SELECT 1"),
                ):
                    try:
                        operation()
                    except ConcurrencyError as exc:
                        refused.append(str(exc))

            self.ctx.storage.kv.put("a", 1)
            await anyio.to_thread.run_sync(work)
            return refused

        async def value(self) -> Any:
            return await self.ctx.storage.get("a")

    async with Runtime(history=OFF) as runtime:
        threaded = runtime.namespace(Threaded).get_by_name("a")
        refused = await threaded.run()
        assert len(refused) == 5
        assert all("another thread" in each for each in refused)
        assert await threaded.value() == 1


async def test_a_callback_runs_inside_the_object() -> None:
    async with Runtime(history=OFF) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        await counter.increment()
        value = await run_in_durable_object(
            counter, lambda instance, state: state.storage.kv.get("value")
        )
        assert value == 1


async def test_transactions_around_calls_to_each_other_are_refused() -> None:
    class Node(DurableObject):
        async def enter(self, other: str, ready: anyio.Event, go: anyio.Event) -> Any:
            async with self.ctx.storage.transaction():
                ready.set()
                await go.wait()
                return await self.env.nodes.get_by_name(other).ping()

        async def ping(self) -> str:
            return "pong"

    class Env:
        nodes: Any = None

    env = Env()
    async with Runtime(env=env, history=OFF) as runtime:
        env.nodes = runtime.namespace(Node)
        outcomes: list[Any] = []
        ready = (anyio.Event(), anyio.Event())
        go = anyio.Event()

        async def call(name: str, other: str, mine: anyio.Event) -> None:
            try:
                outcomes.append(await env.nodes.get_by_name(name).enter(other, mine, go))
            except ConcurrencyError as exc:
                outcomes.append(str(exc))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(call, "a", "b", ready[0])
                group.start_soon(call, "b", "a", ready[1])
                await ready[0].wait()
                await ready[1].wait()
                go.set()
        refused = [each for each in outcomes if each != "pong"]
        assert len(refused) == 1
        assert "'a'" in refused[0]
        assert "'b'" in refused[0]


async def test_a_section_that_times_out_names_the_call_that_waits_for_it() -> None:
    clock = ManualClock()

    class Node(DurableObject):
        async def enter(self) -> None:
            async with anyio.create_task_group() as group:
                done = anyio.Event()
                group.start_soon(self._ask, done)
                await anyio.lowlevel.checkpoint()
                await self.ctx.block_concurrency_while(done.wait)

        async def _ask(self, done: anyio.Event) -> None:
            await self.env.nodes.get_by_name("b").back()
            done.set()

        async def back(self) -> Any:
            await anyio.lowlevel.checkpoint()
            return await self.env.nodes.get_by_name("a").ping()

        async def ping(self) -> str:
            return "pong"

    class Env:
        nodes: Any = None

    env = Env()
    async with Runtime(env=env, clock=clock, history=OFF) as runtime:
        env.nodes = runtime.namespace(Node)
        errors: list[str] = []

        async def call() -> None:
            try:
                await env.nodes.get_by_name("a").enter()
            except ObjectResetError as exc:
                errors.append(str(exc))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            await clock.advance(31)
            await until(lambda: bool(errors))
        assert "waited for too long" in errors[0]
        assert "'a'" in errors[0]
        assert "'b'" in errors[0]


class Idle(DurableObject):
    """Its method touches no storage."""

    async def thread(self) -> int:
        return threading.get_ident()


async def test_an_object_runs_nothing_on_another_thread(anyio_backend_name: str) -> None:
    async with Runtime() as runtime:
        awake = runtime.namespace(Idle).get_by_name("awake")
        asleep = runtime.namespace(Idle).get_by_name("asleep")
        here = await awake.thread()
        for stub in (awake, asleep):
            with pytest.raises(ConcurrencyError, match="another thread"):
                await anyio.to_thread.run_sync(
                    lambda stub=stub: anyio.run(stub.thread, backend=anyio_backend_name)
                )
        assert await asleep.thread() == await awake.thread() == here
