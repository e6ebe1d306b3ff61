"""What a runtime and its namespaces refuse, as errors of the library."""

from __future__ import annotations

import datetime
import types
from typing import Any

import pytest

from durable_storage import (
    ArgumentTypeError,
    ArgumentValueError,
    DurableObject,
    DurableObjectState,
    JsonSerializer,
    Runtime,
)

pytestmark = pytest.mark.anyio

CONFIGURATION = {
    "durable_objects": {"bindings": [{"name": "COUNTERS", "class_name": "Counter"}]},
    "migrations": [{"tag": "v1", "new_sqlite_classes": ["Counter"]}],
}


class Counter(DurableObject):
    async def increment(self) -> int:
        value: int = await self.ctx.storage.get("value", 0)
        self.ctx.storage.put("value", value + 1)
        return value + 1

    async def environment(self) -> Any:
        return self.env


@pytest.mark.parametrize(
    "given",
    [
        {"limits": 0},
        {"limits": False},
        {"serializer": 0},
        {"serializer": JsonSerializer},
        {"clock": ""},
        {"history": False},
        {"history": datetime.timedelta(days=1)},
        {"migrations": None},
        {"migrations": "v1"},
        {"migrations": [5]},
        {"migrations": 5},
    ],
    ids=repr,
)
async def test_a_runtime_refuses_a_setting_of_another_type(given: dict[str, Any]) -> None:
    with pytest.raises(ArgumentTypeError):
        Runtime(**given)


async def test_an_idle_timeout_may_be_as_long_as_one_likes() -> None:
    async with Runtime(idle_timeout=10**400) as runtime:
        assert await runtime.namespace(Counter).get_by_name("one").increment() == 1


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
async def test_a_namespace_refuses_a_name_that_names_nothing(name: str) -> None:
    async with Runtime() as runtime:
        with pytest.raises(ArgumentValueError, match="namespace's name"):
            runtime.namespace(Counter, name=name)


@pytest.mark.parametrize("name", [0, False, 5, b"name", []], ids=repr)
async def test_a_namespace_refuses_a_name_that_is_no_text(name: Any) -> None:
    async with Runtime() as runtime:
        with pytest.raises(ArgumentTypeError, match="namespace's name"):
            runtime.namespace(Counter, name=name)


async def test_ids_are_read_by_the_name_that_the_contract_gives_the_argument() -> None:
    async with Runtime() as runtime:
        counters = runtime.namespace(Counter)
        one = counters.id_from_name(name="one")
        assert counters.id_from_string(hex=str(one)) == one


async def test_a_new_id_takes_no_jurisdiction_that_there_is_not() -> None:
    async with Runtime() as runtime:
        counters = runtime.namespace(Counter)
        for wrong in ("", "mars"):
            with pytest.raises(ArgumentValueError, match="unknown jurisdiction"):
                counters.new_unique_id(jurisdiction=wrong)  # type: ignore[arg-type] - refusing it is the point
        with pytest.raises(ArgumentTypeError, match="jurisdiction takes a str"):
            counters.new_unique_id(jurisdiction=0)  # type: ignore[arg-type] - refusing it is the point
        with pytest.raises(ArgumentValueError, match="sub-namespace of 'eu'"):
            counters.jurisdiction("eu").new_unique_id(jurisdiction="fedramp")


async def test_namespaces_are_on_the_runtimes_own_env_under_their_names() -> None:
    async with Runtime() as runtime:
        runtime.env.Second = "mine"
        first = runtime.namespace(Counter)
        runtime.namespace(Counter, name="Second")
        assert runtime.env.Counter is first
        assert runtime.env.Second == "mine"
        assert (await first.get_by_name("one").environment()).Counter is first


async def test_an_env_of_the_applications_is_left_as_it_is() -> None:
    env = types.SimpleNamespace()
    async with Runtime(env=env) as runtime:
        runtime.namespace(Counter)
        assert vars(env) == {}


@pytest.mark.parametrize("config", [5, None, b"wrangler.toml", []], ids=repr)
async def test_a_configuration_is_a_path_or_a_mapping(config: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="a path or a mapping"):
        Runtime.from_wrangler(config, classes=[Counter])


@pytest.mark.parametrize("classes", [5, None, "Counter", [5], [int], {"Counter": int}], ids=repr)
async def test_bindings_take_classes_of_objects(classes: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="classes="):
        Runtime.from_wrangler(CONFIGURATION, classes=classes)


@pytest.mark.parametrize("path", [5, None, b"file", True, []], ids=repr)
async def test_a_state_is_opened_at_a_path(path: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="takes a str or a path"):
        DurableObjectState.open(path)


async def test_a_path_without_a_name_or_with_a_nul_is_refused() -> None:
    for path in ("", "a\0b"):
        with pytest.raises(ArgumentValueError):
            DurableObjectState.open(path)
        with pytest.raises(ArgumentValueError):
            async with Runtime(path):
                pass
