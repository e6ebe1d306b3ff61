"""Random use of an object against a model that keeps a full copy at each bookmark."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from durable_storage.errors import BookmarkError

from ...crash.history.workload import RETENTION_MS, Workload, shrink_constants

STEPS = 250


@pytest.mark.parametrize("seed", range(6))
def test_every_bookmark_inside_the_retention_holds_what_it_held(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_constants(monkeypatch)
    workload = Workload(os.fspath(tmp_path), seed)
    chance = random.Random(seed)
    checked = pruned = 0

    def check() -> None:
        nonlocal checked, pruned
        session, known = workload.session, workload.known
        assert session is not None
        cutoff = workload.clock.now_ms - RETENTION_MS
        for bookmark, (state, time_ms) in known.bookmarks.items():
            try:
                assert session.exported(bookmark) == state
                checked += 1
            except BookmarkError as error:
                if time_ms >= cutoff or "was pruned" not in str(error):
                    raise
                pruned += 1
        marks = list(known.bookmarks)
        assert marks == sorted(marks)
        verification = session.log.verify()
        assert verification.sound, verification.damages

    step = workload._step

    def checked_step() -> None:
        step()
        if chance.random() < 0.05:
            check()

    monkeypatch.setattr(workload, "_step", checked_step)
    workload.run(monkeypatch, STEPS)
    assert checked > 10
    assert pruned > 0
