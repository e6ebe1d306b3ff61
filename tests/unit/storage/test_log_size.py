"""The log of an object is folded before it grows long, however rarely its size is looked at."""

from __future__ import annotations

import itertools
import pathlib

import pytest

from durable_storage import DurableObjectState, History
from durable_storage.storage import host

pytestmark = pytest.mark.anyio

FOLD_AT_BYTES = 64 * 1024


@pytest.mark.parametrize("value_bytes", [10, 20_000])
@pytest.mark.parametrize("history", [History(), History(enabled=False)], ids=["log", "no log"])
async def test_the_log_is_folded_again_and_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, history: History, value_bytes: int
) -> None:
    monkeypatch.setattr(host, "FOLD_AT_BYTES", FOLD_AT_BYTES)
    path = tmp_path / "object.sqlite"
    sizes: list[int] = []
    async with DurableObjectState.open(path, history=history) as ctx:
        database = ctx.storage._session.database
        for number in range(400):
            value = number.to_bytes(4, "big") + b"x" * value_bytes
            await ctx.run_event(ctx.storage.kv.put, "key", value)
            sizes.append(database.wal_size_bytes)
    grown = [after - before for before, after in itertools.pairwise(sizes)]
    # Two commits more: one while the fold is under way, one that it begins the log with.
    # With a commit log, events go on while it is archived, and wait when that takes too long.
    begun_at = FOLD_AT_BYTES * (host.WAIT_AT_FOLDS if history.enabled else 1)
    most = begun_at + (host.LOOK_EVERY + 2) * max(grown)
    assert max(sizes) <= most
    assert sum(growth < 0 for growth in grown) >= sum(each for each in grown if each > 0) // most
