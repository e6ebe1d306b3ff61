"""``migrate()``: an object's schema follows a list of steps, each applied once."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_storage.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    MigrationError,
    SqlError,
)
from durable_storage.migrate import Step, migrate
from durable_storage.state import DurableObjectState
from durable_storage.storage.storage import DurableObjectStorage

pytestmark = pytest.mark.anyio

CREATE = "CREATE TABLE message (id INTEGER PRIMARY KEY, text TEXT)"
ADD = "ALTER TABLE message ADD COLUMN author TEXT; INSERT INTO message (text) VALUES ('hello')"


def fill(storage: DurableObjectStorage) -> None:
    storage.sql.exec("UPDATE message SET author = 'nobody'")


async def test_steps_are_applied_once_in_order(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        assert migrate(ctx.storage, [CREATE]) == 1
        assert migrate(ctx.storage, [CREATE]) == 0
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        assert migrate(ctx.storage, [CREATE, ADD, fill]) == 2
        assert migrate(ctx.storage, (CREATE, ADD, fill)) == 0
        rows = ctx.storage.sql.exec("SELECT text, author FROM message").to_array()
        assert rows == [{"text": "hello", "author": "nobody"}]


async def test_no_steps_write_nothing(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        assert migrate(ctx.storage, []) == 0
        assert ctx.storage.sql.exec("SELECT count(*) AS n FROM sqlite_master").one() == {"n": 0}


async def test_an_older_program_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        migrate(ctx.storage, [CREATE, ADD, fill])
        with pytest.raises(MigrationError, match=r"at step 3 .* knows only 2 steps"):
            migrate(ctx.storage, [CREATE, ADD])
        with pytest.raises(MigrationError):
            migrate(ctx.storage, [])
        assert migrate(ctx.storage, [CREATE, ADD, fill]) == 0


async def test_a_failing_step_is_undone_and_named_and_tried_again(tmp_path: Path) -> None:
    broken = "CREATE TABLE other (a); INSERT INTO nowhere VALUES (1)"
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        with pytest.raises(SqlError, match="nowhere") as caught:
            migrate(ctx.storage, [CREATE, broken, fill])
        assert caught.value.__notes__ == ["in step 2 of 3 of migrate()"]
        tables = ctx.storage.sql.exec("SELECT name FROM sqlite_master ORDER BY 1").to_array()
        assert tables == [{"name": "_schema_migrations"}, {"name": "message"}]
        assert migrate(ctx.storage, [CREATE, ADD]) == 1


async def test_a_failing_function_takes_its_writes_along(tmp_path: Path) -> None:
    def half(storage: DurableObjectStorage) -> None:
        storage.sql.exec("INSERT INTO message (text) VALUES ('half')")
        raise ValueError("stop")

    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        with pytest.raises(ValueError, match="stop"):
            migrate(ctx.storage, [CREATE, half])
        assert ctx.storage.sql.exec("SELECT * FROM message").to_array() == []


async def test_an_asynchronous_step_is_refused_and_not_recorded(tmp_path: Path) -> None:
    async def step(storage: DurableObjectStorage) -> None:
        raise AssertionError

    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        with pytest.raises(ArgumentTypeError, match="synchronous"):
            migrate(ctx.storage, [CREATE, step])
        assert migrate(ctx.storage, [CREATE, ADD]) == 1


async def test_it_runs_in_block_concurrency_while(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:

        async def prepare() -> int:
            return migrate(ctx.storage, [CREATE, ADD])

        assert await ctx.block_concurrency_while(prepare) == 2
        assert len(ctx.storage.sql.exec("SELECT * FROM message").to_array()) == 1


async def test_its_result_may_be_awaited(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        assert await migrate(ctx.storage, [CREATE]) == 1
        assert await ctx.block_concurrency_while(lambda: migrate(ctx.storage, [CREATE, ADD])) == 1
        applied = await ctx.run_event(lambda: migrate(ctx.storage, [CREATE, ADD, fill]))
        assert type(applied) is int


async def test_two_lists_in_one_object_have_a_table_each(tmp_path: Path) -> None:
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        assert migrate(ctx.storage, [CREATE]) == 1
        assert migrate(ctx.storage, ["CREATE TABLE log (a)"], table="_log_migrations") == 1
        assert migrate(ctx.storage, [CREATE]) == 0


@pytest.mark.parametrize("steps", [CREATE, None, [1], [CREATE, b"SELECT 1"]])
async def test_what_is_no_list_of_steps_is_refused(tmp_path: Path, steps: list[Step]) -> None:
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        with pytest.raises(ArgumentTypeError, match="migrate"):
            migrate(ctx.storage, steps)
        assert ctx.storage.sql.exec("SELECT count(*) AS n FROM sqlite_master").one() == {"n": 0}


@pytest.mark.parametrize("table", ["", "_cf_x", "_CF_x", "sqlite_x", "a b", "a;b", "1a", 'a"'])
async def test_what_is_no_table_name_is_refused(tmp_path: Path, table: str) -> None:
    async with DurableObjectState.open(tmp_path / "room.sqlite") as ctx:
        with pytest.raises(ArgumentValueError):
            migrate(ctx.storage, [CREATE], table=table)
