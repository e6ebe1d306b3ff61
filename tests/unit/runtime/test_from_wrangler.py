from __future__ import annotations

import pathlib
from typing import Any

import pytest

from durable_storage import ArgumentValueError, DurableObject, MigrationError, Runtime

PROJECT = pathlib.Path(__file__).parent / "wrangler"


class Counter(DurableObject):
    async def increment(self) -> int:
        value: int = await self.ctx.storage.get("value", 0)
        await self.ctx.storage.put("value", value + 1)
        return value + 1


def configuration(**more: Any) -> dict[str, Any]:
    return {
        "name": "shop",
        "durable_objects": {"bindings": [{"name": "COUNTER", "class_name": "Counter"}]},
        "migrations": [{"tag": "v1", "new_sqlite_classes": ["Counter"]}],
        "vars": {"GREETING": "hello"},
        **more,
    }


@pytest.mark.anyio
async def test_bindings_and_vars_become_attributes_of_env() -> None:
    async with Runtime.from_wrangler(configuration(), classes=[Counter]) as runtime:
        assert runtime.env.GREETING == "hello"
        assert await runtime.env.COUNTER.get_by_name("a").increment() == 1


@pytest.mark.anyio
async def test_a_renamed_class_keeps_its_objects(tmp_path: pathlib.Path) -> None:
    async with Runtime.from_wrangler(configuration(), classes=[Counter], path=tmp_path) as runtime:
        await runtime.env.COUNTER.get_by_name("a").increment()
        object_id = runtime.env.COUNTER.id_from_name("a")
    renamed = configuration(
        durable_objects={"bindings": [{"name": "COUNTER", "class_name": "Tally"}]},
        migrations=[
            {"tag": "v1", "new_sqlite_classes": ["Counter"]},
            {"tag": "v2", "renamed_classes": [{"from": "Counter", "to": "Tally"}]},
        ],
    )
    async with Runtime.from_wrangler(renamed, classes={"Tally": Counter}, path=tmp_path) as runtime:
        assert runtime.env.COUNTER.id_from_name("a") == object_id
        assert await runtime.env.COUNTER.get_by_name("a").increment() == 2


def test_a_binding_of_a_class_that_is_not_given_is_refused() -> None:
    with pytest.raises(ArgumentValueError, match="names the class 'Counter'"):
        Runtime.from_wrangler(configuration(), classes=[])


@pytest.mark.anyio
async def test_deleting_a_bound_class_is_refused_and_changes_nothing(
    tmp_path: pathlib.Path,
) -> None:
    async with Runtime.from_wrangler(configuration(), classes=[Counter], path=tmp_path) as runtime:
        await runtime.env.COUNTER.get_by_name("a").increment()
    deleted = configuration(
        migrations=[
            {"tag": "v1", "new_sqlite_classes": ["Counter"]},
            {"tag": "v2", "deleted_classes": ["Counter"]},
        ]
    )
    with pytest.raises(MigrationError, match="Counter"):
        async with Runtime.from_wrangler(deleted, classes=[Counter], path=tmp_path):
            pass
    async with Runtime.from_wrangler(configuration(), classes=[Counter], path=tmp_path) as runtime:
        assert await runtime.env.COUNTER.get_by_name("a").increment() == 2


@pytest.mark.parametrize("file", ["wrangler.toml", "wrangler.jsonc"])
@pytest.mark.anyio
async def test_the_sample_project_runs_from_either_file(file: str) -> None:
    config = PROJECT / file
    if not config.exists():
        (config,) = PROJECT.rglob(file)

    class Any_(DurableObject):
        async def ping(self) -> str:
            return "pong"

    from durable_storage.runtime.wrangler import read_wrangler

    names = read_wrangler(config).class_names
    classes = dict.fromkeys(names, Any_)
    async with Runtime.from_wrangler(config, classes=classes) as runtime:
        for binding in read_wrangler(config).bindings:
            namespace = getattr(runtime.env, binding.name)
            assert namespace.name == binding.class_name
