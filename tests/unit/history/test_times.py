from __future__ import annotations

import random
from pathlib import Path

import pytest

from durable_storage.history import commit_log

from .rig import ManualTime, Session


@pytest.mark.parametrize("seed", range(4))
def test_every_time_answers_with_the_last_commit_at_or_before_it(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    clock = ManualTime()
    session = Session(tmp_path / "object.sqlite", clock)
    moments: dict[int, str] = {}
    for number in range(60):
        clock.now_ms += chance.choice([0, 1, 7, 100])
        session.run(f"CREATE TABLE t{number}(a)")
        session.confirm()
        moments[clock.now_ms] = session.content()
        kind = chance.random()
        if kind < 0.1:
            session.fold()
        elif kind < 0.15:
            session.close()
            session = Session(session.path, clock)
    for _ in range(30):
        time_ms = chance.randrange(min(moments), clock.now_ms + 1)
        expected = moments[max(moment for moment in moments if moment <= time_ms)]
        assert session.exported(session.log.bookmark_for_time(time_ms)) == expected
    session.close()


def test_times_survive_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualTime()
    session = Session(tmp_path / "object.sqlite", clock)
    moments = {}
    for number in range(10):
        clock.now_ms += commit_log.TIMES_WRITTEN_EVERY_MS
        session.run(f"CREATE TABLE t{number}(a)")
        session.confirm()
        moments[clock.now_ms] = session.content()
    session.crash()
    clock.now_ms += 1000
    session = Session(session.path, clock)
    for moment, state in moments.items():
        assert session.exported(session.log.bookmark_for_time(moment)) == state
    session.close()


def test_a_clock_that_goes_back_does_not_put_commits_out_of_order(tmp_path: Path) -> None:
    clock = ManualTime()
    session = Session(tmp_path / "object.sqlite", clock)
    for number in range(9):
        clock.now_ms += 100 if number % 3 else -150
        session.run(f"CREATE TABLE t{number}(a)")
        session.confirm()
        if number == 4:
            session.fold()
    session.close()
    session = Session(session.path, clock)
    times = [entry.time_ms for entry in session.log.timeline()]
    assert times == sorted(times)
    session.close()
