"""A class written for Cloudflare, unmodified, method by method."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_storage import DurableObjectState, History, ObjectResetError, Runtime, workers
from durable_storage.testing import (
    FaultInjector,
    ManualClock,
    evict_durable_object,
    list_durable_object_ids,
    run_durable_object_alarm,
    run_in_durable_object,
)
from durable_storage.workers import bindings

with workers.installed():
    vault = importlib.import_module("tests.unit.workers.vault")

CHECKS = sorted(name for name in vars(vault.Vault) if name.startswith("check_"))

pytestmark = pytest.mark.anyio


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with Runtime(
        durability="os", clock=ManualClock(), history=History(enabled=False)
    ) as runtime:
        yield runtime


@pytest.fixture
def env(runtime: Runtime) -> workers.Env:
    return workers.bind(
        runtime,
        VAULT=vault.Vault,
        PLAIN=vault.Plain,
        OLDER=vault.Older,
        TICKER=vault.Ticker,
        SECRET="s3cret",
    )


def clock_of(runtime: Runtime) -> ManualClock:
    clock = runtime.clock
    assert isinstance(clock, ManualClock)
    return clock


@pytest.mark.parametrize("check", CHECKS)
async def test_a_class_written_for_cloudflare_runs_unmodified(env: Any, check: str) -> None:
    await getattr(env.VAULT.getByName("main"), check)()


def test_the_class_has_enough_to_say() -> None:
    assert len(CHECKS) >= 29
    assert "durable_storage" not in inspect.getsource(vault)


@pytest.mark.parametrize("check", ["check_put_get", "check_sql_rows", "check_transaction"])
async def test_the_class_runs_on_the_runtime_itself(runtime: Runtime, check: str) -> None:
    stub = runtime.namespace(vault.Vault).get_by_name("main")
    await getattr(stub, check)()
    response = await stub.fetch("http://vault/health")
    assert await response.text() == "alive"


def test_the_modules_are_there_only_as_long_as_they_are_asked_for() -> None:
    before = {name: sys.modules.get(name) for name in ("workers", "js", "pyodide.ffi")}
    with workers.installed(clock=ManualClock()) as module:
        assert sys.modules["workers"] is module is workers
        js, ffi = importlib.import_module("js"), importlib.import_module("pyodide.ffi")
        assert ffi.to_js({"a": (1, 2)}, dict_converter=js.Object.fromEntries) == {"a": [1, 2]}
        assert js.Object.fromEntries([["a", 1]]).a == 1
        assert js.JSON.parse(js.JSON.stringify({"a": 1})) == {"a": 1}
        assert js.Date.new(1000).timestamp() == 1
    assert {name: sys.modules.get(name) for name in before} == before


def test_a_clock_that_is_none_is_refused_and_nothing_is_installed() -> None:
    before = sys.modules.get("workers")
    with pytest.raises(TypeError, match="Clock"), workers.installed(clock=0):  # type: ignore[arg-type] - refusing it is the point
        pass
    assert sys.modules.get("workers") is before


async def test_the_class_runs_on_a_state_opened_alone(tmp_path: Any) -> None:
    async with DurableObjectState.open(
        tmp_path / "vault.sqlite", name="main", history=History(enabled=False)
    ) as ctx:
        opened = await ctx.run_event(lambda: vault.Vault(ctx, {}))
        for check in ("check_put_get", "check_alarm", "check_sql_rows", "check_id"):
            await ctx.run_event(getattr(opened, check))


async def test_a_call_passes_copies(env: Any) -> None:
    stub = env.VAULT.get(env.VAULT.idFromName("main"))
    assert await stub.echo("hello") == "hello"
    assert await stub.echo(True) is True
    sent = {"key": ["value"]}
    answer = await stub.describe(sent)
    assert answer["received"]["key"] == answer.received.key == ["value"]
    answer.received.key.append("more")
    assert sent == {"key": ["value"]}
    with pytest.raises(TypeError, match="tuple"):
        await stub.echo((1, 2))


async def test_a_stub_knows_its_id_and_name(env: Any) -> None:
    object_id = env.VAULT.idFromName("main")
    stub = env.VAULT.get(object_id)
    assert stub.id.toString() == object_id.toString()
    assert stub.name == "main"
    assert object_id.equals(env.VAULT.id_from_name("main"))
    assert not object_id.equals(env.VAULT.idFromName("other"))


async def test_fetch_takes_a_url_or_a_request(env: Any) -> None:
    stub = env.VAULT.getByName("main")
    assert await (await stub.fetch("http://vault/health")).text() == "alive"
    missing = await stub.fetch(workers.Request("http://vault/nowhere"))
    assert (missing.status, missing.ok) == (404, False)
    echoed = await stub.fetch("http://vault/echo", method="POST", body="ping")
    assert await echoed.json() == {"method": "POST", "body": "ping"}
    assert echoed.headers["Content-Type"] == "application/json"


async def test_an_older_class_without_super_init_and_with_on_fetch_works(env: Any) -> None:
    response = await env.PLAIN.getByName("x").fetch("http://plain/")
    assert await response.text() == "GET x"


async def test_handlers_with_the_prefix_of_before_take_what_they_name(
    runtime: Runtime, env: Any
) -> None:
    stub = env.OLDER.getByName("x")
    answer = await stub.fetch("http://older/", method="POST")
    assert await answer.text() == "None"
    await clock_of(runtime).advance(seconds=600)
    assert await (await stub.fetch("http://older/")).text() == "0"


async def test_env_can_be_imported_before_anything_is_bound(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bindings, "_latest", [])
    imported: Any = workers.env
    with pytest.raises(AttributeError, match=r"bind\(\)"):
        _ = imported.VAULT
    workers.bind(runtime, VAULT=vault.Vault)
    assert await imported.VAULT.getByName("main").echo(1) == 1
    assert workers.Env(imported).VAULT.idFromName("a").equals(imported.VAULT.idFromName("a"))


async def test_a_global_that_is_missing_is_an_error_when_it_is_used(env: Any) -> None:
    with pytest.raises(NotImplementedError, match=r"js\.WebSocketPair"):
        await env.VAULT.getByName("main").connect()
    with workers.installed():
        js, ffi = importlib.import_module("js"), importlib.import_module("pyodide.ffi")
        with pytest.raises(NotImplementedError, match=r"js\.setTimeout"):
            js.setTimeout(print, 1)
        with pytest.raises(NotImplementedError, match=r"pyodide\.ffi\.destroy_proxies"):
            ffi.destroy_proxies([])
        assert not isinstance([], ffi.JsArray)
        assert not hasattr(ffi, "__wrapped__")
        with pytest.raises(NotImplementedError, match="await it"):
            ffi.run_sync(None)
        assert workers.import_from_javascript("cloudflare:workers").env is workers.env
        with pytest.raises(ImportError, match="cloudflare:sockets"):
            workers.import_from_javascript("cloudflare:sockets")


async def test_abort_is_no_exception_inside_and_resets_the_object(env: Any) -> None:
    stub = env.VAULT.getByName("main")
    with pytest.raises(ObjectResetError, match="stop here"):
        await stub.stop()
    assert await stub.read("lost") is None


async def test_wait_until_finishes_after_the_answer(env: Any) -> None:
    stub = env.VAULT.getByName("main")
    await stub.later("k")
    assert await stub.read("k") == "done"


async def test_an_alarm_is_told_about_its_retries(runtime: Runtime) -> None:
    clock = clock_of(runtime)
    env: Any = workers.bind(runtime, TICKER=vault.Ticker)
    stub = env.TICKER.getByName("t")
    await stub.start()
    await clock.advance(seconds=301)
    await clock.advance(seconds=60)
    assert await stub.seen() == [[0, False], [1, True]]


async def test_variables_and_item_access_pass_through_env(env: Any) -> None:
    assert env.SECRET == env["SECRET"] == "s3cret"
    with pytest.raises(AttributeError):
        _ = env.NOTHING
    assert workers.env.SECRET == "s3cret"


async def test_names_in_snake_case_work_too(runtime: Runtime) -> None:
    stub = runtime.namespace(vault.Vault).get_by_name("main")

    async def look(instance: Any, state: Any) -> None:
        assert await instance.ctx.storage.get_alarm() is None
        assert instance.ctx.storage.sql.database_size == instance.ctx.storage.sql.databaseSize
        assert instance.ctx.id.to_string() == instance.ctx.id.toString()
        with pytest.raises(AttributeError):
            _ = instance.ctx.storage.no_such_name

    await run_in_durable_object(stub, look)


async def test_the_testing_kit_takes_what_env_gives() -> None:
    faults = FaultInjector()
    async with Runtime(clock=ManualClock(), faults=faults) as runtime:
        bound: Any = workers.bind(runtime, TICKER=vault.Ticker)
        stub = bound.TICKER.getByName("t")
        await stub.start()
        digits: Any = await run_in_durable_object(stub, lambda instance, _: instance.ctx.id)
        assert digits.toString() == stub.id.toString()
        faults.assert_confirmed(stub)
        assert await run_durable_object_alarm(stub)
        await evict_durable_object(stub)
        assert [each.name for each in await list_durable_object_ids(bound.TICKER)] == ["t"]
        assert await stub.seen() == [[0, False]]


async def test_the_entrypoint_and_its_background_work(env: Any) -> None:
    kept: list[str] = []

    class Default(workers.WorkerEntrypoint):
        async def fetch(self, request: workers.Request) -> Any:
            async def note() -> None:
                kept.append(request.url)

            self.ctx.waitUntil(note())
            return await self.env.VAULT.getByName("main").fetch("http://vault/health")

    worker: Any = workers.entrypoint(Default, env)
    response = await worker.fetch("http://site/")
    assert await response.text() == "alive"
    await worker.ctx.settled()
    assert kept == ["http://site/"]
