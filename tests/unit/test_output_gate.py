"""The output gate by itself: who waits for a commit that changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from durable_storage.gates.loop import Loop
from durable_storage.gates.output_gate import OutputGate

pytestmark = pytest.mark.anyio

Finish = Callable[[BaseException | None], None]


def gate_and_confirmations() -> tuple[OutputGate, list[Finish]]:
    """A gate whose confirmations end when they are told to."""
    confirmations: list[Finish] = []

    def fail(error: BaseException) -> None:
        raise AssertionError from error

    gate = OutputGate(
        Loop.running(), lambda: None, fail, immediate=False, start=confirmations.append
    )
    return gate, confirmations


@pytest.mark.parametrize("waits_from", [0, 1, 2])
@pytest.mark.parametrize("commits", [1, 2, 3])
@pytest.mark.parametrize("skips_from", [0, 1, 2])
async def test_who_waits_for_a_commit_that_changes_nothing_is_released(
    commits: int, waits_from: int, skips_from: int
) -> None:
    gate, confirmations = gate_and_confirmations()
    for _ in range(commits):
        gate.commit()
    number = gate.committed + 1
    released: list[int] = []

    async def wait() -> None:
        await gate.wait(number)
        released.append(gate.confirmed)

    finished = 0
    async with anyio.create_task_group() as group:
        for step in range(10):
            if step == min(waits_from, skips_from):
                # As an answer does that ends before the commit of its turn.
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
            if step == skips_from:
                gate.skip()
            if finished < len(confirmations):
                assert not released
                confirmations[finished](None)
                finished += 1
            await anyio.wait_all_tasks_blocked()
        assert released
    assert gate.confirmed == gate.committed == number
    # Every commit but the first waits for the one before; nothing changed, so no more is confirmed,
    # unless who waits did not know yet whether it would.
    assert finished <= min(commits, 2) + 1
