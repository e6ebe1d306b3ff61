"""The pytest plugin, as a project meets it that has only installed the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]

OBJECTS = """
from datetime import timedelta
from durable_storage import DurableObject

class Counter(DurableObject):
    async def increment(self):
        value = await self.ctx.storage.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        return value

    async def remind(self):
        self.ctx.storage.set_alarm(timedelta(days=1))

    async def alarm(self):
        await self.increment()
"""

ANYIO_TEST = """
import pytest
from objects import Counter

@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

@pytest.fixture
def counter(durable_runtime):
    return durable_runtime.namespace(Counter).get_by_name("main")

@pytest.fixture
async def warm(counter):
    await counter.increment()
    return counter

@pytest.mark.anyio
async def test_first(warm):
    assert await warm.increment() == 2

@pytest.mark.anyio
async def test_second_finds_nothing_of_the_first(counter):
    assert await counter.increment() == 1

@pytest.mark.anyio
async def test_alarms_run_when_the_clock_is_moved(counter, durable_clock, durable_runtime):
    assert durable_runtime.clock is durable_clock
    await counter.remind()
    await durable_clock.advance(24 * 3600)
    assert await counter.increment() == 2
"""

ASYNCIO_TEST = """
import pytest
from objects import Counter

@pytest.fixture
def counter(durable_runtime):
    return durable_runtime.namespace(Counter).get_by_name("main")

MARK
async def test_first(counter, durable_clock):
    await counter.remind()
    await durable_clock.advance(seconds=24 * 3600)
    assert await counter.increment() == 2
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(objects=OBJECTS)
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    # Where the package is installed, the plugin is there without being named.
    return project.runpytest_subprocess(
        "-W", "error", "-p", "durable_storage.pytest_plugin", *options
    )


def mode(name: str) -> tuple[str, ...]:
    return ("-o", f"asyncio_mode={name}", "-o", "asyncio_default_fixture_loop_scope=function")


def test_the_runtime_is_there_for_anyio_tests_on_both_loops(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=ANYIO_TEST)
    run(project, "-p", "no:asyncio").assert_outcomes(passed=6)


@pytest.mark.skipif(
    importlib.util.find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed"
)
class TestWithPytestAsyncio:
    def test_it_is_there_in_strict_mode(self, project: pytest.Pytester) -> None:
        project.makepyfile(test_it=ASYNCIO_TEST.replace("MARK", "@pytest.mark.asyncio"))
        run(project, *mode("strict")).assert_outcomes(passed=1)

    def test_it_is_there_in_auto_mode(self, project: pytest.Pytester) -> None:
        project.makepyfile(test_it=ASYNCIO_TEST.replace("MARK", ""))
        run(project, *mode("auto")).assert_outcomes(passed=1)

    @pytest.mark.parametrize("name", ["strict", "auto"])
    def test_async_fixtures_may_use_it(self, project: pytest.Pytester, name: str) -> None:
        project.makepyfile(
            test_it="""
            import pytest, pytest_asyncio
            from objects import Counter

            @pytest_asyncio.fixture
            async def counter(durable_runtime):
                counter = durable_runtime.namespace(Counter).get_by_name("main")
                await counter.increment()
                return counter

            @pytest.mark.asyncio
            async def test_it(counter):
                assert await counter.increment() == 2
            """
        )
        run(project, *mode(name)).assert_outcomes(passed=1)

    @pytest.mark.parametrize("name", ["strict", "auto"])
    @pytest.mark.parametrize("default", ["function", "session"])
    def test_it_is_on_the_loop_of_the_test(
        self, project: pytest.Pytester, name: str, default: str
    ) -> None:
        project.makepyfile(
            test_it="""
            import pytest
            from objects import Counter

            async def count(runtime):
                assert await runtime.namespace(Counter).get_by_name("main").increment() == 1

            @pytest.mark.asyncio
            async def test_default(durable_runtime):
                await count(durable_runtime)

            @pytest.mark.asyncio(loop_scope="function")
            async def test_function(durable_runtime):
                await count(durable_runtime)

            @pytest.mark.asyncio(loop_scope="module")
            async def test_module(durable_runtime):
                await count(durable_runtime)

            @pytest.mark.asyncio(loop_scope="session")
            class TestAll:
                async def test_session(self, durable_runtime):
                    await count(durable_runtime)
            """
        )
        options = (*mode(name), "-o", f"asyncio_default_test_loop_scope={default}")
        run(project, *options).assert_outcomes(passed=4)

    def test_anyio_tests_work_beside_its_strict_mode(self, project: pytest.Pytester) -> None:
        project.makepyfile(test_it=ANYIO_TEST)
        run(project, *mode("strict")).assert_outcomes(passed=6)


def test_a_sync_test_is_told_to_be_async(project: pytest.Pytester) -> None:
    project.makepyfile(test_it="def test_it(durable_runtime): pass")
    result = run(project, "-p", "no:asyncio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*durable_runtime is for async tests*"])


def test_options_can_be_overridden(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
        import pytest
        from durable_storage import JsonSerializer
        from objects import Counter

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.fixture
        def durable_options():
            return {"serializer": JsonSerializer(), "env": {"LIMIT": 3}}

        @pytest.mark.anyio
        async def test_it(durable_runtime):
            assert durable_runtime.env == {"LIMIT": 3}
            assert await durable_runtime.namespace(Counter).get_by_name("a").increment() == 1
        """
    )
    run(project, "-p", "no:asyncio").assert_outcomes(passed=1)


def test_what_a_test_leaves_behind_is_an_error(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
        import asyncio
        import pytest
        from durable_storage import DurableObject

        class Slow(DurableObject):
            async def leave(self):
                self.ctx.wait_until(asyncio.Event().wait())

            async def open_file(self):
                Slow.file = open(Slow.path)

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_background_work(durable_runtime):
            await durable_runtime.namespace(Slow).get_by_name("a").leave()

        @pytest.mark.anyio
        async def test_open_file(durable_runtime):
            Slow.path = durable_runtime.path + "/registry.sqlite"
            await durable_runtime.namespace(Slow).get_by_name("a").open_file()
        """
    )
    result = run(project, "-p", "no:asyncio", "-W", "ignore::ResourceWarning")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*the test left behind: 1 background task of Slow 'a' still running*",
            "*the test left behind: the open file registry.sqlite*",
        ]
    )


def test_the_setting_makes_import_workers_find_the_stand_in(project: pytest.Pytester) -> None:
    project.makepyfile(
        entry="""
        from workers import DurableObject, Response

        class Hello(DurableObject):
            async def fetch(self, request):
                return Response("hello " + self.ctx.id.name)
        """,
        test_it="""
        import pytest
        from entry import Hello
        from durable_storage.workers import bind

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_it(durable_runtime):
            env = bind(durable_runtime, HELLO=Hello)
            response = await env.HELLO.getByName("you").fetch("http://hello/")
            assert await response.text() == "hello you"
        """,
    )
    run(project, "-p", "no:asyncio", "-o", "durable_workers=true").assert_outcomes(passed=1)
    run(project, "-p", "no:asyncio", "--durable-workers").assert_outcomes(passed=1)
    run(project, "-p", "no:asyncio").assert_outcomes(errors=1)


def test_the_fixture_makes_import_workers_find_the_stand_in(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
        import sys

        def test_it(durable_workers, durable_clock):
            import js
            from workers import DurableObject
            assert DurableObject is durable_workers.DurableObject
            assert js.Date.now() == durable_clock.time_ms()

        def test_it_is_gone():
            assert "workers" not in sys.modules
        """
    )
    run(project, "-p", "no:asyncio").assert_outcomes(passed=2)


def test_a_race_is_reported_with_its_seed_and_replayed(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
        import anyio
        import pytest
        from durable_storage import DurableObject
        from durable_storage.testing import find_races

        class Racy(DurableObject):
            async def add(self):
                value = await self.ctx.storage.get("value", 0)
                self.ctx.storage.put("value", value + 1)

            async def add_two(self):
                async with anyio.create_task_group() as group:
                    group.start_soon(self.add)
                    group.start_soon(self.add)
                return await self.ctx.storage.get("value")

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        @find_races
        async def test_it(runtime, capsys):
            assert await runtime.namespace(Racy).get_by_name("a").add_two() == 2
        """
    )
    result = run(project, "-p", "no:asyncio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*found with seed 1: replay it with*"])
    run(project, "-p", "no:asyncio", "--durable-seed=1").assert_outcomes(failed=1)
    run(project, "-p", "no:asyncio", "--durable-seed=0").assert_outcomes(passed=1)
