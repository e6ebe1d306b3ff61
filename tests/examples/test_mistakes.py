"""Mistakes that a newcomer makes, and that what they are told says what to do."""

from __future__ import annotations

import asyncio
import datetime
import gc
import operator
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable_storage import (
    DataCloneError,
    DurableObject,
    DurableStorageError,
    JsonSerializer,
    MsgpackSerializer,
    ObjectResetError,
    PickleSerializer,
    Runtime,
    RuntimeInUseError,
    Serializer,
    SqlError,
)
from durable_storage.testing import run_in_durable_object

pytestmark = pytest.mark.anyio

NOT_AWAITED = re.escape("write `await ctx.storage.get(...)`, or use ctx.storage.kv")


class Counter(DurableObject):
    async def increment(self) -> int:
        value = await self.ctx.storage.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        return value

    def value(self) -> int:
        return self.ctx.storage.kv.get("value", 0)


class Forgetful(DurableObject):
    def __init__(self, ctx: Any, env: Any) -> None:
        pass

    async def call(self) -> None: ...


class TooEarly(DurableObject):
    def __init__(self, ctx: Any, env: Any) -> None:
        self.ctx.storage.sql.exec("SELECT 1")
        super().__init__(ctx, env)

    async def call(self) -> None: ...


class OtherMistake(DurableObject):
    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self.cxt.storage.sql.exec("SELECT 1")  # type: ignore[attr-defined] - the mistake

    async def call(self) -> None: ...


@pytest.fixture
async def counter() -> Any:
    async with Runtime() as runtime:
        yield runtime.namespace(Counter).get_by_name("a")


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Forgetful, "Forgetful.__init__ did not call super().__init__(ctx, env)"),
        (TooEarly, "TooEarly.__init__ has to call super().__init__(ctx, env) before it uses it"),
        (OtherMistake, "'OtherMistake' object has no attribute 'cxt'"),
    ],
)
async def test_a_constructor_that_forgets_its_base_class_is_told_so(cls: Any, told: str) -> None:
    async with Runtime() as runtime:
        with pytest.raises(ObjectResetError) as caught:
            await runtime.namespace(cls).get_by_name("a").call()
    assert told in str(caught.value)
    assert ("super" in str(caught.value)) == (cls is not OtherMistake)
    assert not caught.value.retryable


async def test_a_method_that_is_not_async_is_called_like_any_other(counter: Any) -> None:
    await counter.increment()
    assert await counter.value() == 1


USES: list[Callable[[Any], object]] = [
    bool,
    len,
    list,
    int,
    float,
    lambda result: f"{result:>5}",
    lambda result: result + 1,
    lambda result: 1 + result,
    lambda result: "the value is " + result,
    lambda result: result - 1,
    lambda result: result["key"],
    lambda result: "key" in result,
    lambda result: result == 1,
    lambda result: result != 1,
    lambda result: result < 1,
    lambda result: [1, 2][result],
    operator.neg,
    pickle.dumps,
]


@pytest.mark.parametrize("use", USES)
async def test_a_result_of_storage_that_is_used_without_await_says_so(
    counter: Any, use: Callable[[Any], object]
) -> None:
    def code(_: Any, ctx: Any) -> None:
        ctx.storage.put("value", 1)
        for result in (
            ctx.storage.get("value"),
            ctx.storage.put("value", 1),
            ctx.storage.get(["value"]),
        ):
            with pytest.raises(TypeError, match=NOT_AWAITED):
                use(result)
            assert "not awaited" in repr(result)

    await run_in_durable_object(counter, code)


async def test_a_method_of_a_result_that_was_not_awaited_is_missed_in_words(counter: Any) -> None:
    def code(_: Any, ctx: Any) -> None:
        with pytest.raises(AttributeError, match=r"result that was not awaited.*append"):
            ctx.storage.get("list").append(1)

    await run_in_durable_object(counter, code)


async def test_results_of_storage_can_still_be_gathered_and_told_apart(counter: Any) -> None:
    async def code(_: Any, ctx: Any) -> None:
        ctx.storage.put({"a": 1, "b": 2})
        assert await asyncio.gather(ctx.storage.get("a"), ctx.storage.get("b")) == [1, 2]
        first, second = ctx.storage.get("a"), ctx.storage.get("b")
        assert first == first
        assert len({first, second}) == 2

    await run_in_durable_object(counter, code)


async def test_a_stub_called_without_await_warns_and_calls_nothing(counter: Any) -> None:
    def forgets() -> None:
        counter.increment()
        gc.collect()

    with pytest.warns(RuntimeWarning, match=r"'Counter.increment' was never awaited"):
        forgets()
    assert await counter.value() == 0


@pytest.mark.parametrize("serializer", [MsgpackSerializer(), JsonSerializer(), PickleSerializer()])
async def test_a_result_or_coroutine_is_not_stored_in_place_of_its_value(
    serializer: Serializer,
) -> None:
    async with Runtime(serializer=serializer) as runtime:
        counter: Any = runtime.namespace(Counter).get_by_name("a")

        def code(instance: Counter, ctx: Any) -> None:
            coroutine = instance.increment()
            for value in (ctx.storage.get("other"), [ctx.storage.get("other")], coroutine):
                with pytest.raises(DataCloneError, match="await"):
                    ctx.storage.put("value", value)
            coroutine.close()

        await run_in_durable_object(counter, code)
        assert await counter.value() == 0


async def test_a_value_that_cannot_be_stored_says_where_and_what_to_do(counter: Any) -> None:
    def code(_: Any, ctx: Any) -> None:
        with pytest.raises(DataCloneError) as caught:
            ctx.storage.put("value", {"steps": ["load", object()]})
        assert 'value["steps"][1] cannot be stored' in str(caught.value)
        assert "convert it, or store it as a dataclass that is registered" in str(caught.value)

    await run_in_durable_object(counter, code)


async def test_begin_in_sql_names_the_two_kinds_of_transaction(counter: Any) -> None:
    def code(_: Any, ctx: Any) -> None:
        with pytest.raises(
            SqlError, match=r"use storage.transaction\(\) or storage.transaction_sync"
        ):
            ctx.storage.sql.exec("BEGIN")

    await run_in_durable_object(counter, code)


async def test_a_coroutine_in_place_of_a_function_is_refused_in_words(counter: Any) -> None:
    def code(instance: Counter, ctx: Any) -> None:
        for takes_function in (
            ctx.block_concurrency_while,
            ctx.storage.transaction,
            ctx.storage.transaction_sync,
        ):
            with pytest.raises(TypeError, match="pass the function itself, without calling it"):
                takes_function(instance.increment())

    await run_in_durable_object(counter, code)


async def test_a_second_process_is_told_who_owns_the_directory(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from durable_storage import Runtime\n"
        "async def main():\n"
        "    async with Runtime(sys.argv[1]): print('open', flush=True); sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220 - it is waited for at once
        [sys.executable, "-c", program, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        with pytest.raises(RuntimeInUseError) as caught:
            async with Runtime(tmp_path):
                pass
        owner.communicate()
    assert f"pid {owner.pid}" in str(caught.value)
    assert "close that runtime first, or use another directory" in str(caught.value)


async def test_a_time_outside_of_history_is_told_as_a_date(counter: Any) -> None:
    async def code(_: Any, ctx: Any) -> None:
        with pytest.raises(DurableStorageError, match=r"2001-02-03T00:00:00.000Z is before"):
            await ctx.storage.get_bookmark_for_time(
                datetime.datetime(2001, 2, 3, tzinfo=datetime.UTC)
            )

    await run_in_durable_object(counter, code)
