"""``Schedules``: many named times on an object's one alarm."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from durable_storage import (
    ArgumentTypeError,
    ArgumentValueError,
    DataCloneError,
    DurableObject,
    DurableObjectNamespace,
    DurableObjectState,
    Runtime,
)
from durable_storage.schedule import Schedule, Schedules
from durable_storage.testing import ManualClock, evict_durable_object, run_in_durable_object

pytestmark = pytest.mark.anyio

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

RUNS: list[tuple[str, Any, timedelta]] = []
"""Method, payload, and the time since START of every run; kept over lives of the objects."""


class Planner(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        self.schedules = Schedules(self)

    async def alarm(self) -> None:
        await self.schedules.run_due()

    def _note(self, method: str, payload: Any) -> None:
        RUNS.append((method, payload, self.env.now - START))
        self.ctx.storage.put("runs", self.ctx.storage.kv.get("runs", 0) + 1)

    async def beat(self, payload: Any = "nothing") -> None:
        self._note("beat", payload)

    def tick(self) -> None:
        self._note("tick", None)

    async def fail(self, payload: Any = None) -> None:
        self._note("fail", payload)
        raise ConnectionError("the other side is down")

    async def kill(self) -> None:
        self._note("kill", None)
        self.ctx.abort("enough")

    async def again(self) -> None:
        self._note("again", None)
        if len(RUNS) < 3:
            self.schedules.once("again", MINUTE, "again")

    async def cancel_itself(self) -> None:
        self._note("cancel_itself", None)
        self.schedules.cancel("self")

    async def forget_everything(self) -> None:
        self._note("forget_everything", None)
        self.ctx.storage.delete_all()


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def planners(
    clock: ManualClock, tmp_path: Path
) -> AsyncIterator[DurableObjectNamespace[Planner]]:
    async with Runtime(tmp_path / "data", clock=clock, env=clock, idle_timeout=1e6) as runtime:
        yield runtime.namespace(Planner)


async def do(planner: Planner, work: Any) -> Any:
    """Run ``work(schedules)`` as an event of the object."""
    return await run_in_durable_object(planner, lambda instance, _: work(instance.schedules))


def times(method: str) -> list[float]:
    """The minutes at which a method ran."""
    return [at / MINUTE for name, _, at in RUNS if name == method]


async def test_once_runs_at_its_time_with_its_payload_and_is_gone(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    made = await do(planner, lambda s: s.once("hello", MINUTE, "beat", {"to": "ada"}))
    assert made == Schedule("hello", "once", "beat", {"to": "ada"}, START + MINUTE)
    assert await do(planner, lambda s: s.get("hello")) == made
    await clock.advance(59)
    assert RUNS == []
    await clock.advance(1)
    assert RUNS == [("beat", {"to": "ada"}, MINUTE)]
    assert await do(planner, lambda s: s.list()) == []
    await clock.advance(timedelta(days=2))
    assert len(RUNS) == 1


async def test_a_payload_of_none_is_given_and_no_payload_is_not(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.once("a", MINUTE, "beat", None))
    await do(planner, lambda s: s.once("b", MINUTE, "beat"))
    await clock.advance(MINUTE)
    assert [payload for _, payload, _ in RUNS] == [None, "nothing"]


async def test_many_schedules_share_the_one_alarm(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.every("slow", 5 * MINUTE, "beat", "slow"))
    await do(planner, lambda s: s.every("fast", 2 * MINUTE, "beat", "fast"))
    await do(planner, lambda s: s.once("last", START + 3 * MINUTE, "tick"))
    await clock.advance(10 * MINUTE)
    assert [(payload, at / MINUTE) for _, payload, at in RUNS] == [
        ("fast", 2), (None, 3), ("fast", 4), ("slow", 5), ("fast", 6), ("fast", 8),
        ("fast", 10), ("slow", 10),
    ]  # fmt: skip
    assert [each.name for each in await do(planner, lambda s: s.list())] == ["fast", "slow"]


async def test_defining_a_schedule_again_as_it_is_changes_nothing(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    for _ in range(3):
        await do(planner, lambda s: s.every("heart", 5 * MINUTE, "beat"))
        await do(planner, lambda s: s.once("last", 4 * MINUTE, "tick"))
        await do(planner, lambda s: s.cron("hourly", "0 * * * *", "beat"))
        await clock.advance(MINUTE)
    assert {each.name: each.next_run for each in await do(planner, lambda s: s.list())} == {
        "last": START + 4 * MINUTE,
        "heart": START + 5 * MINUTE,
        "hourly": START + 60 * MINUTE,
    }


async def test_another_payload_keeps_the_time_and_another_time_replaces_it(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.every("heart", 5 * MINUTE, "beat", 1))
    await clock.advance(MINUTE)
    changed = await do(planner, lambda s: s.every("heart", 5 * MINUTE, "beat", 2))
    assert (changed.payload, changed.next_run) == (2, START + 5 * MINUTE)
    changed = await do(planner, lambda s: s.every("heart", 10 * MINUTE, "beat", 2))
    assert changed.next_run == START + 11 * MINUTE
    changed = await do(planner, lambda s: s.once("heart", timedelta(0), "beat", 3))
    assert changed.next_run == START + MINUTE
    await clock.advance(0)
    assert RUNS == [("beat", 3, MINUTE)]
    assert await do(planner, lambda s: s.list()) == []


async def test_cancelling_is_told_and_stops_the_runs(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    assert await do(planner, lambda s: s.cancel("heart")) is False
    await do(planner, lambda s: s.every("heart", MINUTE, "beat"))
    assert await do(planner, lambda s: s.cancel("heart")) is True
    assert await do(planner, lambda s: s.cancel("heart")) is False
    assert await do(planner, lambda s: s.get("heart")) is None
    await clock.advance(10 * MINUTE)
    assert RUNS == []
    alarm = await run_in_durable_object(planner, lambda _, ctx: ctx.storage.get_alarm())
    assert alarm is None


async def test_an_object_without_schedules_gets_no_table(
    planners: DurableObjectNamespace[Planner],
) -> None:
    planner = planners.get_by_name("a")
    assert await do(planner, lambda s: s.list()) == []
    assert await do(planner, lambda s: s.get("x")) is None
    size = await run_in_durable_object(planner, lambda _, ctx: ctx.storage.sql.database_size)
    tables = await run_in_durable_object(
        planner, lambda _, ctx: ctx.storage.sql.exec("SELECT name FROM sqlite_master").to_array()
    )
    assert tables == []
    assert size <= 4096


async def test_every_keeps_its_rhythm_and_makes_up_missed_runs_by_one(
    clock: ManualClock, tmp_path: Path
) -> None:
    async with Runtime(tmp_path, clock=clock, env=clock) as runtime:
        await do(
            runtime.namespace(Planner).get_by_name("a"),
            lambda s: s.every("heart", 10 * MINUTE, "beat", start=START + MINUTE),
        )
        await clock.advance(12 * MINUTE)
        assert times("beat") == [1, 11]
    await clock.advance(63 * MINUTE)  # while nothing runs: 21, 31, 41, 51, 61 and 71 pass
    async with Runtime(tmp_path, clock=clock, env=clock) as runtime:
        runtime.namespace(Planner)
        await clock.advance(0)
        assert times("beat") == [1, 11, 75]
        await clock.advance(6 * MINUTE)
        assert times("beat") == [1, 11, 75, 81]


async def test_schedules_outlive_eviction_and_reset(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.every("heart", 5 * MINUTE, "beat"))
    await evict_durable_object(planner)
    await clock.advance(5 * MINUTE)
    assert times("beat") == [5]


async def test_a_schedule_rolls_back_with_its_transaction(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")

    def work(instance: Planner, ctx: DurableObjectState) -> None:
        instance.schedules.every("kept", 5 * MINUTE, "beat", "kept")

        def inside() -> None:
            instance.schedules.every("dropped", MINUTE, "beat", "dropped")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            ctx.storage.transaction_sync(inside)

    await run_in_durable_object(planner, work)
    await clock.advance(5 * MINUTE)
    assert RUNS == [("beat", "kept", 5 * MINUTE)]


async def test_a_failing_once_is_tried_seven_times_then_given_up_and_logged(
    planners: DurableObjectNamespace[Planner],
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.once("mail", timedelta(0), "fail", "x"))
    await do(planner, lambda s: s.every("heart", MINUTE, "tick"))
    with caplog.at_level(logging.DEBUG, "durable_storage.schedules"):
        await clock.advance(timedelta(seconds=1))
        waiting = await do(planner, lambda s: s.get("mail"))
        assert waiting.attempts == 1
        assert timedelta(seconds=2) <= waiting.next_run - START <= timedelta(seconds=2.5)
        await clock.advance(10 * MINUTE)
    assert len(times("fail")) == 7
    assert times("tick") == list(range(1, 11))
    assert [each.name for each in await do(planner, lambda s: s.list())] == ["heart"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 6 + ["ERROR"]
    assert all("'mail'" in record.getMessage() for record in caplog.records)
    assert all(record.exc_info for record in caplog.records)


async def test_a_failing_regular_schedule_waits_for_its_next_time(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.every("poll", 60 * MINUTE, "fail"))
    await clock.advance(90 * MINUTE)
    assert len(times("fail")) == 7
    assert (await do(planner, lambda s: s.get("poll"))).next_run == START + 120 * MINUTE


async def test_a_method_that_resets_the_object_holds_up_nobody(
    planners: DurableObjectNamespace[Planner],
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.once("bomb", timedelta(0), "kill"))
    await do(planner, lambda s: s.every("heart", MINUTE, "tick"))
    await clock.advance(10 * MINUTE)
    assert len(times("kill")) == 7
    assert times("tick") == list(range(1, 11))
    assert await do(planner, lambda s: s.get("bomb")) is None
    # What the method wrote before it reset the object is gone.
    runs = await run_in_durable_object(planner, lambda _, ctx: ctx.storage.kv.get("runs"))
    assert runs == 10


async def test_a_method_may_schedule_itself_again_under_the_same_name(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.once("again", MINUTE, "again"))
    await clock.advance(10 * MINUTE)
    assert times("again") == [1, 2, 3]
    assert await do(planner, lambda s: s.list()) == []


async def test_a_method_may_cancel_itself(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.every("self", MINUTE, "cancel_itself"))
    await clock.advance(10 * MINUTE)
    assert times("cancel_itself") == [1]


async def test_a_method_may_delete_everything(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.every("self", MINUTE, "forget_everything"))
    await clock.advance(10 * MINUTE)
    assert times("forget_everything") == [1]
    assert await do(planner, lambda s: s.list()) == []


async def test_cron_runs_at_its_times_in_utc(
    planners: DurableObjectNamespace[Planner], clock: ManualClock
) -> None:
    planner = planners.get_by_name("a")
    made = await do(planner, lambda s: s.cron("report", "30  9 * * MON-FRI", "beat"))
    assert (made.expression, made.timezone) == ("30 9 * * MON-FRI", "UTC")
    # 1 March 2026 is a Sunday.
    await clock.advance(timedelta(days=7))
    assert [START + at for _, _, at in RUNS] == [
        datetime(2026, 3, day, 9, 30, tzinfo=UTC) for day in range(2, 7)
    ]


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("start", "expression", "expected"),
    [
        # Clocks go from 02:00 to 03:00: a time in the gap comes right after it.
        (datetime(2026, 3, 28, 12), "30 2 * * *", ["03-29 01:00", "03-30 00:30", "03-31 00:30"]),
        # Clocks go back from 03:00 to 02:00: a time that is there twice comes once.
        (datetime(2026, 10, 24, 12), "30 2 * * *", ["10-25 00:30", "10-26 01:30", "10-27 01:30"]),
        # Local noon stays noon.
        (datetime(2026, 3, 28, 6), "0 12 * * *", ["03-28 11:00", "03-29 10:00", "03-30 10:00"]),
        # What runs every hour or oftener keeps its real distance.
        (
            datetime(2026, 10, 25, 0),
            "*/30 * * * *",
            ["10-24 22:30", "10-24 23:00", "10-24 23:30", "10-25 00:00", "10-25 00:30",
             "10-25 01:00", "10-25 01:30", "10-25 02:00"],
        ),
    ],
)  # fmt: skip
async def test_cron_follows_the_clocks_of_its_zone(
    start: datetime, expression: str, expected: list[str], tmp_path: Path
) -> None:
    clock = ManualClock(start.replace(tzinfo=BERLIN).astimezone(UTC))
    async with Runtime(tmp_path, clock=clock, env=clock, idle_timeout=1e6) as runtime:
        planner = runtime.namespace(Planner).get_by_name("a")
        await do(planner, lambda s: s.cron("c", expression, "beat", tz="Europe/Berlin"))
        while len(RUNS) < len(expected):
            await clock.advance(30 * MINUTE)
        ran = [f"{START + at:%m-%d %H:%M}" for _, _, at in RUNS]
        assert ran == expected


async def test_a_cron_schedule_made_in_the_repeated_hour_is_not_due_in_the_past(
    tmp_path: Path,
) -> None:
    clock = ManualClock(datetime(2026, 10, 25, 1, 10, tzinfo=UTC))  # 02:10, the second one
    async with Runtime(tmp_path, clock=clock, env=clock) as runtime:
        planner = runtime.namespace(Planner).get_by_name("a")
        made = await do(planner, lambda s: s.cron("c", "30 2 * * *", "beat", tz=BERLIN))
        assert made.timezone == "Europe/Berlin"
        assert made.next_run == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (
            lambda s: s.once("n", datetime(2026, 1, 1), "beat"),
            ArgumentValueError,
            r"once\(\).*naive",
        ),
        (lambda s: s.once("n", 1_700_000_000, "beat"), ArgumentValueError, "seconds"),
        (lambda s: s.once("n", "soon", "beat"), ArgumentTypeError, "got str"),
        (lambda s: s.once("n", True, "beat"), ArgumentTypeError, "got bool"),
        (lambda s: s.once(5, MINUTE, "beat"), ArgumentTypeError, "name of a schedule"),
        (lambda s: s.once("n", MINUTE, "missing"), ArgumentValueError, "no method 'missing'"),
        (lambda s: s.once("n", MINUTE, "ctx"), ArgumentValueError, "no method 'ctx'"),
        (lambda s: s.once("n", MINUTE, s.cancel), ArgumentTypeError, "name of a method"),
        (lambda s: s.once("n", MINUTE, "beat", object()), DataCloneError, "object"),
        (lambda s: s.every("n", 5, "beat"), ArgumentTypeError, "timedelta"),
        (lambda s: s.every("n", timedelta(0), "beat"), ArgumentValueError, "millisecond"),
        (lambda s: s.every("n", -MINUTE, "beat"), ArgumentValueError, "millisecond"),
        (lambda s: s.every("n", timedelta(days=99999), "beat"), ArgumentValueError, "2189"),
        (lambda s: s.cron("n", "61 * * * *", "beat"), ArgumentValueError, "Bad minute"),
        (lambda s: s.cron("n", "* * *", "beat"), ArgumentValueError, "number of fields"),
        (lambda s: s.cron("n", "0 0 30 2 *", "beat"), ArgumentValueError, "Bad day"),
        (lambda s: s.cron("n", 5, "beat"), ArgumentTypeError, "as a str"),
        (lambda s: s.cron("n", "* * * * *", "beat", tz="Mars/Base"), ArgumentValueError, "Mars"),
        (lambda s: s.cron("n", "* * * * *", "beat", tz="../etc"), ArgumentValueError, "etc"),
        (lambda s: s.cron("n", "* * * * *", "beat", tz=UTC), ArgumentTypeError, "zone"),
    ],
)
async def test_a_mistake_is_told_and_the_schedule_stays_as_it_was(
    planners: DurableObjectNamespace[Planner], work: Any, error: type[Exception], message: str
) -> None:
    planner = planners.get_by_name("a")
    before = await do(planner, lambda s: s.every("n", MINUTE, "beat"))
    with pytest.raises(error, match=message):
        await do(planner, work)
    assert await do(planner, lambda s: s.list()) == [before]


async def test_schedules_are_made_of_the_object_after_its_base_class(
    clock: ManualClock,
) -> None:
    with pytest.raises(ArgumentTypeError, match=r"Schedules\(self\)"):
        Schedules(object())  # type: ignore[arg-type]

    class Early(DurableObject):
        def __init__(self, ctx: DurableObjectState, env: Any) -> None:
            self.schedules = Schedules(self)

    with pytest.raises(ArgumentTypeError, match="super"):
        Early(None, None)  # type: ignore[arg-type]


async def test_a_class_without_an_alarm_method_is_told_so(tmp_path: Path) -> None:
    class Silent(DurableObject):
        async def plan(self) -> None:
            Schedules(self).once("x", MINUTE, "plan")

        async def planned(self) -> list[Schedule]:
            return Schedules(self).list()

    async with Runtime(tmp_path) as runtime:
        silent = runtime.namespace(Silent).get_by_name("a")
        with pytest.raises(ArgumentTypeError, match=r"alarm\(\) handler"):
            await silent.plan()
        assert await silent.planned() == []


async def test_a_method_that_is_gone_counts_as_a_failure(
    planners: DurableObjectNamespace[Planner], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    planner = planners.get_by_name("a")
    await do(planner, lambda s: s.once("old", MINUTE, "beat"))
    await run_in_durable_object(
        planner,
        lambda _, ctx: ctx.storage.sql.exec("UPDATE _schedules SET method = 'renamed'") and None,
    )
    with caplog.at_level(logging.WARNING, "durable_storage.schedules"):
        await clock.advance(MINUTE)
    assert "renamed" in str(caplog.records[0].exc_info)
    assert (await do(planner, lambda s: s.get("old"))).attempts == 1
