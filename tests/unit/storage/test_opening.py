"""What `DurableObjectState.open` refuses, and what it opens although something is in the way."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from durable_storage import (
    ArgumentTypeError,
    DatabaseFileError,
    DurableObjectState,
    History,
    LimitExceededError,
    Limits,
    Runtime,
    SqlError,
)
from durable_storage.errors import SqlLimitError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("setting", ["limits", "serializer", "history", "clock"])
@pytest.mark.parametrize("bad", [5, 0, "", dict])
async def test_a_setting_of_another_type_is_refused_before_there_is_a_file(
    tmp_path: Path, setting: str, bad: Any
) -> None:
    with pytest.raises(ArgumentTypeError, match=setting):
        DurableObjectState.open(tmp_path / "a.sqlite", **{setting: bad})
    if bad:
        with pytest.raises(ArgumentTypeError, match=setting):
            Runtime(tmp_path, **{setting: bad})
    assert not os.listdir(tmp_path)


HISTORIES = [History(), History(enabled=False)]


async def filled(path: Path, history: History | None = None) -> None:
    async with DurableObjectState.open(path, history=history) as ctx:
        ctx.storage.sql.exec("CREATE TABLE t(a)")
        ctx.storage.sql.exec("INSERT INTO t VALUES(zeroblob(30000))")


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


async def refused(path: Path, history: History, match: str) -> None:
    """The file cannot be opened, and trying changes nothing."""
    before = files(path.parent)
    for _ in range(2):
        with pytest.raises(DatabaseFileError, match=match):
            async with DurableObjectState.open(path, history=history):
                pass
    assert files(path.parent) == before


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("first", HISTORIES)
async def test_a_file_that_was_cut_off_is_refused(
    tmp_path: Path, first: History, history: History
) -> None:
    path = tmp_path / "a.sqlite"
    await filled(path, first)
    os.truncate(path, 5000)
    await refused(path, history, "cut off in the middle of a page")


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("first", HISTORIES)
async def test_a_file_of_a_newer_version_is_refused_with_its_history(
    tmp_path: Path, first: History, history: History
) -> None:
    path = tmp_path / "a.sqlite"
    await filled(path, first)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS _cf_METADATA(key PRIMARY KEY, value)")
    connection.execute("REPLACE INTO _cf_METADATA VALUES('schema', 2)")
    connection.close()
    await refused(path, history, "format version 2")


@pytest.mark.parametrize("history", HISTORIES)
async def test_a_directory_is_no_object(tmp_path: Path, history: History) -> None:
    await refused(tmp_path, history, "directory")


async def test_a_history_that_cannot_be_made_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"
    await filled(path, History(enabled=False))

    def refuse(path: str, mode: int = 0o777) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "mkdir", refuse)
    await refused(path, History(), r"a\.sqlite.* cannot be opened: .*Permission denied")


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("value", [1, 2, 10])
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
async def test_every_limit_can_be_lowered_to_almost_nothing(
    tmp_path: Path, field: str, value: int, history: History
) -> None:
    """What is within it works, and what is over it is refused in the library's own words."""
    limits = Limits(**{field: value})
    for _ in range(2):
        async with DurableObjectState.open(tmp_path / "a", limits=limits, history=history) as ctx:
            storage = ctx.storage
            steps: list[Callable[[], Any]] = [
                lambda: storage.put("k", True),
                lambda: storage.get("k"),
                lambda: storage.list(start="a", end="z", limit=3),
                lambda: storage.delete("k"),
                lambda: storage.sql.exec("SELECT 1 AS v").one()["v"],
                lambda: storage.sql.exec("CREATE TABLE t(a)").rows_written,
                lambda: storage.sql.exec("INSERT INTO t VALUES(NULL)").rows_written,
                lambda: storage.delete_all(),
                lambda: storage.sync(),
            ]
            refusals: set[type] = set()
            for step in steps:
                try:
                    result = step()
                    if inspect.isawaitable(result):
                        await result
                except (SqlError, LimitExceededError) as error:
                    refusals.add(type(error))
            if field not in REFUSING:
                assert not refusals


# The fields that leave no room for what the test does.
REFUSING = {"statement_size_max_bytes", "value_size_max_bytes", "database_size_max_bytes"}


@pytest.mark.parametrize(
    ("field", "value", "query", "bindings"),
    [
        ("parameters", 1, "SELECT ?, ?", (1, 2)),
        ("columns", 2, "SELECT 1, 2, 3", ()),
        ("function_arguments", 1, "SELECT max(1, 2)", ()),
        ("compound_select_terms", 1, "SELECT 1 UNION SELECT 2", ()),
        ("expression_depth", 2, "SELECT 1 + (2 + (3 + 4))", ()),
        ("like_pattern_size_max_bytes", 1, "SELECT 'abc' LIKE 'ab%'", ()),
        ("statement_size_max_bytes", 10, "SELECT 1234", ()),
        ("value_size_max_bytes", 100, "SELECT ?", ("x" * 101,)),
        ("value_size_max_bytes", 100, "SELECT zeroblob(101)", ()),
    ],
)
async def test_sql_over_a_limit_below_what_the_library_needs_is_refused_each_time(
    tmp_path: Path, field: str, value: int, query: str, bindings: tuple[Any, ...]
) -> None:
    limits = Limits(**{field: value})
    async with DurableObjectState.open(tmp_path / "a.sqlite", limits=limits) as ctx:
        ctx.storage.kv.put("k", 1)
        for _ in range(3):
            with pytest.raises(SqlLimitError):
                ctx.storage.sql.exec(query, *bindings)
            assert ctx.storage.kv.get("k") == 1


async def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    link = tmp_path / "link.sqlite"
    link.symlink_to(tmp_path / "data" / "real.sqlite")
    async with DurableObjectState.open(link) as ctx:
        await ctx.run_event(ctx.storage.put, "text", "first")
        bookmark = await ctx.run_event(ctx.storage.get_current_bookmark)
        await ctx.run_event(ctx.storage.put, "text", "second")
        await ctx.run_event(ctx.storage.on_next_session_restore_bookmark, bookmark)
    async with DurableObjectState.open(tmp_path / "data" / "real.sqlite") as ctx:
        assert await ctx.run_event(ctx.storage.get, "text") == "first"
    assert os.listdir(tmp_path / "data") != ["real.sqlite"]
    assert sorted(os.listdir(tmp_path)) == ["data", "link.sqlite"]


@pytest.mark.parametrize("history", HISTORIES)
async def test_a_second_opening_leaves_the_first_its_lock(tmp_path: Path, history: History) -> None:
    path = tmp_path / "a.sqlite"
    await filled(path, history)
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "try:\n"
        "    connection.execute('CREATE TABLE stranger(a)')\n"
        "except sqlite3.OperationalError as error:\n"
        "    print(error)\n"
        "connection.close()\n"
    )
    async with DurableObjectState.open(path, history=history) as ctx:
        with pytest.raises(DatabaseFileError, match="open in this process already"):
            async with DurableObjectState.open(path, history=history):
                pass
        # Closing any descriptor of the file would have dropped the lock of this process.
        done = await anyio.run_process([sys.executable, "-c", code, str(path)])
        assert done.stdout == b"database is locked\n"
        await ctx.run_event(ctx.storage.put, "text", "goes on")
    async with DurableObjectState.open(path, history=history) as ctx:
        assert await ctx.run_event(ctx.storage.get, "text") == "goes on"
