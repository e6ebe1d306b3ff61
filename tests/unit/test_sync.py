from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from durable_storage import (
    ConcurrencyError,
    DatabaseFileError,
    DurableObject,
    DurableObjectState,
    DurableStorageError,
    RuntimeInUseError,
    sync,
)


class Counter(DurableObject):
    async def increment(self, by: int = 1) -> int:
        value: int = await self.ctx.storage.get("value", 0)
        self.ctx.storage.put("value", value + by)
        return value + by

    def plain(self) -> str:
        return "plain"

    async def fail(self) -> None:
        raise LookupError("nothing there")

    async def exit(self) -> None:
        raise SystemExit(3)

    async def abort(self) -> None:
        self.ctx.abort("on purpose")

    async def call_back(self) -> object:
        return self.env.counter.increment()

    async def wait(self) -> None:
        self.env.waiting.set()
        await self.env.forever()


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_stub_is_called_like_a_plain_object(backend: Any) -> None:
    with sync.Runtime(backend=backend) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        assert counter.increment() == 1
        assert counter.increment(by=2) == 3
        assert counter.plain() == "plain"
        assert counter.name == "a"


def test_what_was_written_is_there_the_next_time(tmp_path: Path) -> None:
    for expected in (1, 2):
        with sync.Runtime(tmp_path / "data") as runtime:
            assert runtime.namespace(Counter).get_by_name("a").increment() == expected
            assert runtime.path == str(tmp_path / "data")


def test_call_is_a_method_call_with_types() -> None:
    with sync.Runtime() as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        value: int = sync.call(counter, Counter.increment, by=4)
        text: str = sync.call(counter, Counter.plain)
        assert (value, text) == (4, "plain")


def test_many_threads_share_one_runtime(backend: Any) -> None:
    with sync.Runtime(backend=backend) as runtime, ThreadPoolExecutor(8) as threads:
        counter = runtime.namespace(Counter).get_by_name("a")
        values = list(threads.map(lambda _: counter.increment(), range(80)))
    assert sorted(values) == list(range(1, 81))


def test_errors_pass_through(backend: Any) -> None:
    with sync.Runtime(backend=backend) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        with pytest.raises(LookupError, match="nothing there"):
            counter.fail()
        with pytest.raises(DurableStorageError, match="on purpose"):
            counter.abort()
        with pytest.raises(AttributeError):
            _ = counter.nothing
        with pytest.raises(AttributeError):
            counter.value = 1
        assert counter.increment() == 1


def test_an_exit_in_an_object_reaches_the_caller_and_ends_nothing_else(backend: Any) -> None:
    with sync.Runtime(backend=backend) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        with pytest.raises(SystemExit):
            counter.exit()
        assert runtime.namespace(Counter).get_by_name("b").increment() == 1


def test_a_call_from_the_loops_own_thread_is_refused(backend: Any) -> None:
    with sync.Runtime(backend=backend) as runtime:
        counters = runtime.namespace(Counter)
        runtime.env.counter = counters.get_by_name("b")
        with pytest.raises(ConcurrencyError, match="wait for itself"):
            counters.get_by_name("a").call_back()


def test_a_closed_runtime_and_one_not_entered_say_so(tmp_path: Path) -> None:
    runtime = sync.Runtime(tmp_path)
    with pytest.raises(DurableStorageError, match="inside `with"):
        runtime.namespace(Counter)
    with runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        runtime.close()
        runtime.close()
    with pytest.raises(DurableStorageError, match="not open"):
        counter.increment()
    with pytest.raises(DurableStorageError, match="entered once"), runtime:
        pass


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    with sync.Runtime(tmp_path):
        with pytest.raises(RuntimeInUseError), sync.Runtime(tmp_path):
            pass
    with sync.Runtime(tmp_path):
        pass


def test_a_keyboard_interrupt_cancels_the_call(backend: Any, monkeypatch: Any) -> None:
    import anyio

    with sync.Runtime(backend=backend) as runtime:
        runtime.env.waiting = threading.Event()
        cancelled = threading.Event()

        async def forever() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        runtime.env.forever = forever
        real = sync.BlockingPortal.start_task_soon

        def start(self: Any, function: Any, *args: Any) -> Any:
            future = real(self, function, *args)

            def result() -> Any:
                runtime.env.waiting.wait()
                raise KeyboardInterrupt

            future.result = result
            return future

        counter = runtime.namespace(Counter).get_by_name("a")
        monkeypatch.setattr(sync.BlockingPortal, "start_task_soon", start)
        with pytest.raises(KeyboardInterrupt):
            counter.wait()
        monkeypatch.undo()
        assert cancelled.wait(10)


def test_ids_are_listed(tmp_path: Path) -> None:
    with sync.Runtime(tmp_path) as runtime:
        counters = runtime.namespace(Counter, name="Things")
        for name in ("a", "b"):
            counters.get_by_name(name).increment()
        assert {each.name for each in counters.list_ids()} == {"a", "b"}
        found = counters.get(counters.id_from_string(str(counters.id_from_name("a"))))
        assert found.increment() == 2
        assert counters.name == "Things"
        assert counters.jurisdiction("eu").get_by_name("a").increment() == 1
        assert counters.get(counters.new_unique_id()).increment() == 1


def test_asynchronous_code_runs_on_the_loop(backend: Any) -> None:
    async def both(runtime: sync.Runtime) -> list[int]:
        counters = runtime.asynchronous.namespace(Counter)
        return [await counters.get_by_name("a").increment() for _ in range(2)]

    with sync.Runtime(backend=backend) as runtime:
        assert runtime.run(both, runtime) == [1, 2]
        assert runtime.run(lambda: 5) == 5


def test_a_snapshot_is_restored() -> None:
    with sync.Runtime() as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        counter.increment()
        snapshot = runtime.snapshot()
        counter.increment()
        runtime.restore(snapshot)
        assert counter.increment() == 2


def test_a_runtime_is_made_from_a_wrangler_configuration(tmp_path: Path) -> None:
    config = {
        "durable_objects": {"bindings": [{"name": "COUNTERS", "class_name": "Counter"}]},
        "migrations": [{"tag": "v1", "new_sqlite_classes": ["Counter"]}],
    }
    with sync.Runtime.from_wrangler(config, classes=[Counter], path=tmp_path) as runtime:
        assert runtime.env.COUNTERS.name == "Counter"
        assert runtime.namespace(Counter).get_by_name("a").increment() == 1


def test_one_file_is_opened_without_a_runtime(tmp_path: Path, backend: Any) -> None:
    path = tmp_path / "room.sqlite"
    with sync.open(path, backend=backend) as room:
        room.sql("CREATE TABLE line(text TEXT)")
        room.sql("INSERT INTO line VALUES (?)", "hello")
        assert room.sql("SELECT text FROM line") == [{"text": "hello"}]
        room.put("topic", {"of": ["lists"]})
        with pytest.raises(DatabaseFileError), sync.open(path, backend=backend):
            pass
    with sync.open(path, backend=backend, name="hall") as room:
        assert room.get("topic") == {"of": ["lists"]}
        assert room.delete("topic")
        assert room.get("topic", 0) == 0
        assert room.id.name == "hall"


def test_an_event_of_an_opened_file_is_given_its_state(tmp_path: Path, backend: Any) -> None:
    def transfer(ctx: DurableObjectState, amount: int) -> int:
        with ctx.storage.transaction_sync():
            ctx.storage.kv.put("a", ctx.storage.kv.get("a", 10) - amount)
            ctx.storage.kv.put("b", ctx.storage.kv.get("b", 0) + amount)
        return amount

    async def bookmark(ctx: DurableObjectState) -> str:
        return await ctx.storage.get_current_bookmark()

    with sync.open(tmp_path / "bank.sqlite", backend=backend) as bank:
        before = bank.run_event(bookmark)
        assert bank.run_event(transfer, 3) == 3
        assert (bank.get("a"), bank.get("b")) == (7, 3)
        assert before < bank.run_event(bookmark)


def test_an_unknown_event_loop_is_refused() -> None:
    with pytest.raises(ValueError, match="asyncio"):
        sync.Runtime(backend="curio")  # type: ignore[arg-type]


FORKS = """
import os, sys
from durable_storage import DurableObject, sync

class Counter(DurableObject):
    async def increment(self):
        value = await self.ctx.storage.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        return value

with sync.Runtime(sys.argv[1], backend=sys.argv[2]) as runtime:
    counter = runtime.namespace(Counter).get_by_name("a")
    counter.increment()
    child = os.fork()
    if not child:
        try:
            counter.increment()
        except Exception as exc:
            print(type(exc).__name__, exc, flush=True)
        sys.exit(3)  # leaves the runtime, which is the parent's
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), counter.increment())
"""


def test_a_fork_is_told_that_it_has_no_runtime_and_ends(tmp_path: Path, backend: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, tmp_path, backend], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told, last = done.stdout.splitlines()
    assert told.startswith("ConcurrencyError sync.Runtime was opened by the process ")
    assert "open it after the fork" in told
    assert last == "3 2"
