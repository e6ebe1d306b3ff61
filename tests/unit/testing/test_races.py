"""The race finder: which races it finds, and that it invents none."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from durable_storage import DurableObject, Runtime
from durable_storage.errors import ArgumentTypeError, ArgumentValueError
from durable_storage.testing import find_races, shuffled

from .samples import Account

pytest_plugins = ["durable_storage.pytest_plugin"]
pytestmark = pytest.mark.anyio

SEEDS = 60


class Page(DurableObject):
    """Counts visits, with a wait in the middle."""

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self.order: list[int] = []

    async def visit(self) -> None:
        visits = await self.ctx.storage.get("visits", 0)
        await anyio.lowlevel.checkpoint()
        self.ctx.storage.put("visits", visits + 1)

    async def visit_blocked(self) -> None:
        await self.ctx.block_concurrency_while(self.visit)

    async def visit_quick(self) -> None:
        visits = await self.ctx.storage.get("visits", 0)
        self.ctx.storage.put("visits", visits + 1)

    async def visit_quick_in_a_child(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.visit_quick)

    async def visits(self) -> int:
        return await self.ctx.storage.get("visits", 0)

    async def note(self, number: int) -> None:
        self.order.append(number)

    async def noted(self) -> list[int]:
        return self.order


async def visited_by(runtime: Runtime, *methods: str) -> int:
    page = runtime.namespace(Page).get_by_name("p")
    async with anyio.create_task_group() as group:
        for method in methods:
            group.start_soon(getattr(page, method))
    return await page.visits()


# -- what it finds


async def test_a_lost_update_through_a_child_task_is_found() -> None:
    @find_races(seeds=SEEDS)
    async def check(runtime: Runtime) -> None:
        account = runtime.namespace(Account).get_by_name("a")
        assert await account.deposit_all([1, 2]) == 3

    with pytest.raises(AssertionError) as caught:
        await check()
    assert "found with seed" in "".join(caught.value.__notes__)


async def test_a_wait_between_read_and_write_is_found() -> None:
    @find_races(seeds=SEEDS)
    async def check(runtime: Runtime) -> None:
        assert await visited_by(runtime, "visit", "visit") == 2

    with pytest.raises(AssertionError):
        await check()


async def test_an_order_that_nobody_promised_is_found() -> None:
    @find_races(seeds=SEEDS)
    async def check(runtime: Runtime) -> None:
        page = runtime.namespace(Page).get_by_name("p")
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(page.note, number)
        assert await page.noted() == [0, 1, 2]

    with pytest.raises(AssertionError):
        await check()


# -- what it does not find, because the gates forbid it


async def test_a_correct_object_passes() -> None:
    @find_races(seeds=SEEDS)
    async def check(runtime: Runtime) -> None:
        account = runtime.namespace(Account).get_by_name("a")
        assert await account.deposit_each([1, 2]) == 3
        assert await visited_by(runtime, *["visit_quick"] * 4) == 4
        assert await visited_by(runtime, *["visit_blocked"] * 3) == 7

    await check()


async def test_events_do_not_race_with_a_child_task_that_stands_at_storage() -> None:
    @find_races(seeds=SEEDS)
    async def check(runtime: Runtime) -> None:
        methods = ["visit_quick_in_a_child", "visit_quick"] * 2
        assert await visited_by(runtime, *methods) == 4

    await check()


# -- seeds


async def orders(seed: int) -> list[int]:
    async with shuffled(seed) as runtime:
        page = runtime.namespace(Page).get_by_name("p")
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(page.note, number)
        return await page.noted()


async def test_a_seed_always_gives_the_same_order() -> None:
    found = [await orders(seed) for seed in range(8)]
    assert [await orders(seed) for seed in range(8)] == found
    assert len({tuple(order) for order in found}) > 3


async def test_a_single_seed_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[object] = []

    async def check(runtime: Runtime) -> None:
        runs.append(runtime)

    await find_races(seed=7)(check)()
    assert len(runs) == 1
    await find_races(seeds=3)(check)()
    assert len(runs) == 4
    monkeypatch.setenv("DURABLE_STORAGE_SEED", "2")
    await find_races(seeds=3)(check)()
    assert len(runs) == 5


async def test_a_chosen_seed_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    @find_races
    async def test(runtime: Runtime) -> None: ...

    monkeypatch.setenv("DURABLE_STORAGE_SEED", "first")
    with pytest.raises(ArgumentValueError, match="DURABLE_STORAGE_SEED"):
        await test()


async def test_every_seed_starts_with_an_empty_runtime() -> None:
    @find_races(seeds=3)
    async def check(runtime: Runtime) -> None:
        assert await visited_by(runtime, "visit_quick") == 1

    await check()


async def test_nothing_stays_behind(capsys: pytest.CaptureFixture[str]) -> None:
    @find_races(seed=3)
    async def check(runtime: Runtime) -> None:
        raise ValueError("seen")

    with pytest.raises(ValueError, match="seen"):
        await check()
    assert "DURABLE_STORAGE_SEED=3" in capsys.readouterr().out
    async with Runtime(durability="os") as runtime:
        assert await visited_by(runtime, "visit_quick", "visit_quick") == 2


@find_races
async def test_the_decorator_leaves_fixtures_to_pytest(
    runtime: Runtime, tmp_path: Any, capsys: Any
) -> None:
    assert tmp_path.exists()
    assert isinstance(runtime, Runtime)


async def test_options_reach_the_runtime() -> None:
    @find_races(seeds=2, env={"limit": 3})
    async def check(runtime: Runtime) -> None:
        assert runtime.env == {"limit": 3}

    await check()


async def test_wrong_use_is_refused() -> None:
    def sync(runtime: Runtime) -> None: ...

    async def without() -> None: ...

    async def fine(runtime: Runtime) -> None: ...

    wrong: list[Callable[[], object]] = [
        lambda: find_races(sync),  # type: ignore[type-var, arg-type]
        lambda: find_races(without),  # type: ignore[arg-type]
        lambda: find_races(seeds="5")(fine),  # type: ignore[call-overload] - refusing it is the point
        lambda: find_races(seeds=True)(fine),
        lambda: find_races(seed=0.5)(fine),  # type: ignore[call-overload] - refusing it is the point
    ]
    for use in wrong:
        with pytest.raises(ArgumentTypeError):
            use()
    with pytest.raises(ArgumentValueError):
        find_races(seeds=0)(fine)
    assert list(inspect.signature(find_races(fine)).parameters) == []
