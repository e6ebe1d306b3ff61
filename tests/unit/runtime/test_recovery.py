"""Point-in-time recovery as an object uses it."""

from __future__ import annotations

import pathlib
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from durable_storage import (
    BookmarkError,
    DurableObject,
    History,
    ObjectResetError,
    Runtime,
    TransactionError,
)
from durable_storage.testing import ManualClock, evict_durable_object

pytestmark = pytest.mark.anyio


class Notes(DurableObject):
    async def put(self, key: str, value: Any) -> str:
        self.ctx.storage.put(key, value)
        return await self.ctx.storage.get_current_bookmark()

    async def write(self, key: str, value: Any) -> None:
        self.ctx.storage.put(key, value)

    async def get(self, key: str) -> Any:
        return await self.ctx.storage.get(key)

    async def dump(self) -> dict[str, Any]:
        return await self.ctx.storage.list()

    async def bookmark(self) -> str:
        return await self.ctx.storage.get_current_bookmark()

    async def bookmark_at(self, when: Any) -> str:
        return await self.ctx.storage.get_bookmark_for_time(when)

    async def restore(self, bookmark: str) -> None:
        self.env["undo"] = await self.ctx.storage.on_next_session_restore_bookmark(bookmark)
        self.ctx.storage.put("after", "lost with the abort")
        self.ctx.abort("restoring")

    async def request(self, bookmark: str) -> None:
        await self.ctx.storage.on_next_session_restore_bookmark(bookmark)

    async def wipe(self) -> None:
        await self.ctx.storage.delete_all(delete_alarm=True)

    async def remind(self, delay: timedelta | None) -> None:
        if delay is None:
            await self.ctx.storage.delete_alarm()
        else:
            await self.ctx.storage.set_alarm(delay)

    async def alarm(self) -> None:
        self.ctx.storage.put("rang", True)


async def restore(notes: Any, bookmark: str) -> None:
    with pytest.raises(ObjectResetError, match="restoring"):
        await notes.restore(bookmark)


async def test_a_restore_its_undo_and_the_undo_of_that(tmp_path: pathlib.Path) -> None:
    env: dict[str, str] = {}
    async with Runtime(tmp_path, env=env) as runtime:
        notes = runtime.namespace(Notes).get_by_name("a")
        first = await notes.put("k", 1)
        await notes.put("k", 2)
        await notes.wipe()
        await notes.put("other", 3)
        await restore(notes, first)
        assert await notes.dump() == {"k": 1}
        undo = env["undo"]
        assert first < undo < await notes.bookmark()
        await restore(notes, undo)
        assert await notes.dump() == {"other": 3}
        again = env["undo"]
    async with Runtime(tmp_path, env=env) as runtime:
        notes = runtime.namespace(Notes).get_by_name("a")
        assert await notes.dump() == {"other": 3}
        await restore(notes, again)
        assert await notes.dump() == {"k": 1}


async def test_a_restored_alarm_runs_and_a_removed_one_does_not() -> None:
    clock = ManualClock()
    async with Runtime(clock=clock, env={}) as runtime:
        notes = runtime.namespace(Notes).get_by_name("a")
        none = await notes.bookmark()
        await notes.remind(timedelta(hours=1))
        set_ = await notes.bookmark()
        await notes.remind(None)
        await restore(notes, set_)
        await clock.advance(timedelta(minutes=59))
        assert await notes.get("rang") is None
        await restore(notes, none)
        await clock.advance(timedelta(hours=2))
        assert await notes.get("rang") is None
        await restore(notes, set_)
        # The restore is made when the object next starts; its alarm is overdue by then.
        assert await notes.get("rang") is None
        await clock.advance(1)
        assert await notes.get("rang") is True


@pytest.mark.parametrize("history", [True, False])
async def test_the_alarm_of_a_restore_that_is_made_in_the_next_session_runs(
    tmp_path: pathlib.Path, history: bool
) -> None:
    clock = ManualClock()
    async with Runtime(tmp_path, clock=clock) as runtime:
        notes = runtime.namespace(Notes).get_by_name("a")
        await notes.remind(timedelta(hours=1))
        with_alarm = await notes.bookmark()
        await notes.remind(None)
        await notes.request(with_alarm)
    async with Runtime(tmp_path, clock=clock, history=History(enabled=history)) as runtime:
        notes = runtime.namespace(Notes).get_by_name("a")
        assert await notes.get("rang") is None
        await clock.advance(timedelta(hours=2))
        assert await notes.get("rang") is True


@pytest.mark.parametrize("durability", ["disk", "os"])
async def test_a_time_names_the_last_commit_at_or_before_it(
    durability: Literal["disk", "os"],
) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with Runtime(clock=clock, env={}, durability=durability) as runtime:
        notes = runtime.namespace(Notes).get_by_name("a")
        await notes.write("k", 1)
        await clock.advance(1)
        await notes.write("k", 2)
        await clock.advance(1)
        await restore(notes, await notes.bookmark_at(datetime(2026, 1, 1, 0, 0, 0, 500_000, UTC)))
        assert await notes.get("k") == 1
        with pytest.raises(BookmarkError, match="history begins"):
            await notes.bookmark_at(datetime(2020, 1, 1, tzinfo=UTC))
        with pytest.raises(BookmarkError, match="future"):
            await notes.bookmark_at(datetime(2027, 1, 1, tzinfo=UTC))
        with pytest.raises(ValueError, match="naive"):
            await notes.bookmark_at(datetime(2026, 1, 1))


async def test_bookmarks_that_are_none_change_nothing() -> None:
    async with Runtime(env={}) as runtime:
        notes = runtime.namespace(Notes).get_by_name("a")
        other = runtime.namespace(Notes).get_by_name("b")
        mine = await notes.put("k", 1)
        for bad in ("", "x", mine[:-1], mine.upper(), await other.put("k", 1)):
            with pytest.raises(BookmarkError):
                await notes.restore(bad)
        assert await notes.dump() == {"k": 1}


async def test_without_history_bookmarks_are_refused() -> None:
    async with Runtime(history=History(enabled=False), env={}) as runtime:
        with pytest.raises(TransactionError, match="history"):
            await runtime.namespace(Notes).get_by_name("a").bookmark()


class Bell(Notes):
    """Its alarm is heard outside."""

    async def alarm(self) -> None:
        self.env["rung"] += 1


@pytest.mark.parametrize("how", ["abort", "eviction", "end of the runtime"])
async def test_an_alarm_that_a_restore_brings_back_needs_no_call(
    tmp_path: pathlib.Path, how: str
) -> None:
    clock = ManualClock()
    env: dict[str, Any] = {"rung": 0}
    async with Runtime(tmp_path, clock=clock, env=env) as runtime:
        bell = runtime.namespace(Bell).get_by_name("b")
        await bell.remind(timedelta(seconds=60))
        bookmark = await bell.put("text", "armed")
        await bell.remind(None)
        if how == "abort":
            with pytest.raises(ObjectResetError):
                await bell.restore(bookmark)
        else:
            await bell.request(bookmark)
        if how != "end of the runtime":
            if how == "eviction":
                await evict_durable_object(bell)
            await clock.advance(seconds=59)
            assert env["rung"] == 0
            await clock.advance(seconds=2)
            assert env["rung"] == 1
    async with Runtime(tmp_path, clock=clock, env=env) as runtime:
        runtime.namespace(Bell)
        await clock.advance(seconds=120)
        assert env["rung"] == 1
