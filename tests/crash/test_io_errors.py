"""A sample of the disk's refusals; all of them: ``python -m tests.crash.io_errors --all``."""

from __future__ import annotations

import errno
import pathlib

import pytest

from durable_storage.storage import host

from .io_errors import SYSTEM_CALLS, Account, FailingDisk, announced, play, refuse
from .tracing import MISSING, available


@pytest.fixture(autouse=True)
def fold_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "FOLD_AT_BYTES", 24 * 1024)


@pytest.mark.parametrize(("backend", "first"), [("asyncio", 0), ("trio", 9)])
def test_an_operation_that_fails_is_told_and_loses_nothing_acknowledged(
    backend: str, first: int
) -> None:
    clients = [client for _, client in announced(backend, every=19, first=first)]
    assert len(clients) > 40
    assert sum(client.errors > 0 for client in clients) > 10


@pytest.mark.skipif(not available(), reason=MISSING)
@pytest.mark.parametrize("call", SYSTEM_CALLS)
@pytest.mark.parametrize("when", ["7", "12+"])
def test_a_system_call_that_fails_loses_nothing_acknowledged(
    call: str, when: str, tmp_path: pathlib.Path
) -> None:
    backend = "trio" if "+" in when else "asyncio"
    refuse(call, when, "ENOSPC" if call == "pwrite64" else "EIO", str(tmp_path), backend)


@pytest.mark.anyio
async def test_a_failed_sync_is_an_error_for_whoever_waits_and_the_object_comes_back(
    tmp_path: pathlib.Path,
) -> None:
    disk = FailingDisk(None, lasting=False, number=errno.EIO)
    client = await play(str(tmp_path / "calm"), disk)
    assert client.errors == 0

    class OnlySyncs(FailingDisk):
        def before(self, operation: str, path: str) -> None:
            if operation == "fdatasync" and path.endswith(".sqlite-wal"):
                super().before(operation, path)

    client = await play(str(tmp_path / "sick"), OnlySyncs(3, lasting=False, number=errno.EIO))
    assert client.errors >= 1


def test_a_ledger_notices_what_is_lost_and_what_is_half_there() -> None:
    account = Account()
    account.attempted = {1, 2, 3}
    account.acknowledged = {1, 2}
    account.check((3, 3, [1, 2, 3]))
    for found in ((1, 1, [1]), (2, 1, [1, 2]), (4, 4, [1, 2, 4])):
        with pytest.raises(AssertionError):
            account.check(found)
