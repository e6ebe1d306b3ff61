"""The disk refuses one operation after the other: the caller hears of it, and nothing else is lost.

    python -m tests.crash.io_errors --all     every announced operation and every system call

Two instruments. The fault seam makes this package's own operations fail, each in turn, once or until
the disk is well again. ``strace`` makes system calls fail, and so reaches what SQLite does as well.

Every step of the workload leaves the same number in a key, a twin key and a row. So whatever failed
and whenever: the rows are those of all acknowledged steps and of none that was never tried, and the
keys name the newest row.
"""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio

from durable_storage import DurableObject, DurableStorageError, History, Runtime
from durable_storage.storage import host
from durable_storage.testing import evict_durable_object

from .images import MEMORY, ROOT
from .tracing import MISSING, available, python

HISTORY = History(segment_size_bytes=4096)
SYSTEM_CALLS = ("pwrite64", "fdatasync", "fsync", "openat", "ftruncate", "rename", "unlink")
STEPS_MAX = 60
# What a caller may see: an error of the library, or what the disk said to the object itself.
Refusals = (DurableStorageError, OSError)


class Ledger(DurableObject):
    """Writes each number three times."""

    async def alarm(self) -> None:
        self.ctx.storage.kv.put("ran", self.ctx.storage.kv.get("ran", 0) + 1)

    def _note(self, number: int) -> None:
        storage = self.ctx.storage
        storage.sql.exec("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")
        storage.sql.exec("INSERT INTO t VALUES (?, ?)", number, "x" * 2500)
        storage.put("step", number)
        storage.put("twin", number)

    async def note(self, number: int) -> None:
        self._note(number)

    async def note_in_transaction(self, number: int) -> None:
        async def work(txn: Any) -> None:
            self._note(number)

        await self.ctx.storage.transaction(work)

    async def note_with_alarm(self, number: int) -> None:
        self.ctx.storage.set_alarm(4_000_000_000_000 - number)
        self._note(number)

    async def bookmark(self) -> str:
        return await self.ctx.storage.get_current_bookmark()

    async def restore(self, bookmark: str) -> None:
        await self.ctx.storage.on_next_session_restore_bookmark(bookmark)

    async def read(self) -> tuple[int, int, list[int]]:
        storage = self.ctx.storage
        rows: list[int] = []
        if storage.sql.exec("SELECT count(*) AS n FROM sqlite_master WHERE name='t'").one()["n"]:
            rows = [row[0] for row in storage.sql.exec("SELECT a FROM t ORDER BY a").raw()]
        return storage.kv.get("step", 0), storage.kv.get("twin", 0), rows


class Account:
    """What a client knows of one object."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        self.attempted: set[int] = set()
        self.errors = 0

    def check(self, found: tuple[int, int, list[int]]) -> None:
        step, twin, rows = found
        assert step == twin == max(rows, default=0), f"half a commit: {found}"
        missing = self.acknowledged - set(rows)
        assert not missing, f"acknowledged and lost: {missing}"
        assert set(rows) <= self.attempted, f"never tried: {set(rows) - self.attempted}"


async def evict(stub: Any) -> None:
    """Evict an object once its log is not being folded."""
    namespace, object_id, _ = stub.__dict__["_stub"]
    resident = namespace._residents.get(str(object_id))
    while resident is not None and resident.host._folded is not None:
        await resident.host._folded.wait()
    await evict_durable_object(stub)


METHODS = ("note", "note_in_transaction", "note", "note_with_alarm", "note")


class Client:
    """Works through the steps, whatever the disk does."""

    def __init__(self) -> None:
        self.accounts = {"a": Account(), "b": Account()}
        self.number = 0
        self.errors = 0

    async def step(self, runtime: Runtime) -> None:
        ledgers = runtime.namespace(Ledger)
        self.number += 1
        number = self.number
        name = "ab"[number % 3 == 0]
        account, stub = self.accounts[name], ledgers.get_by_name(name)
        account.attempted.add(number)
        try:
            await getattr(stub, METHODS[number % len(METHODS)])(number)
        except Refusals:
            self.errors += 1
        else:
            account.acknowledged.add(number)
        if number % 7 == 0:
            try:
                await evict(stub)
            except Refusals:
                self.errors += 1
        if number % 11 == 0:
            await self._restore(stub, account)

    async def _restore(self, stub: Any, account: Account) -> None:
        """Go back to where the object is: a restore that loses nothing, whether it happens or not."""
        try:
            await stub.restore(await stub.bookmark())
            await evict(stub)
            account.check(await stub.read())
        except Refusals:
            self.errors += 1

    async def comes_back(self, runtime: Runtime) -> None:
        """With a disk that is well, every object answers after a few refusals at most."""
        ledgers = runtime.namespace(Ledger)
        for name, account in self.accounts.items():
            for attempt in range(4):
                try:
                    account.check(await ledgers.get_by_name(name).read())
                    self.number += 1
                    account.attempted.add(self.number)
                    await ledgers.get_by_name(name).note(self.number)
                    account.acknowledged.add(self.number)
                    break
                except Refusals:
                    if attempt == 3:
                        raise


class FailingDisk:
    """Fails the ``nth`` announced operation, or all from there on until it is ``well`` again."""

    def __init__(self, nth: int | None, *, lasting: bool, number: int) -> None:
        self.nth = nth
        self.lasting = lasting
        self.number = number
        self.well = False
        self.count = 0
        self.failed: list[str] = []
        self.kinds: Counter[str] = Counter()
        self._lock = threading.Lock()

    def before(self, operation: str, path: str) -> None:
        with self._lock:
            at, self.count = self.count, self.count + 1
            self.kinds[operation] += 1
            if self.nth is None or self.well or at < self.nth:
                return
            if at > self.nth and not self.lasting:
                return
            self.failed.append(f"{operation} {os.path.basename(path)}")
        raise OSError(self.number, os.strerror(self.number))


async def play(path: str, disk: FailingDisk, steps: int = 24) -> Client:
    """Work with a disk that fails; then let it be well, and see everything come back."""
    client = Client()
    try:
        async with Runtime(path, history=HISTORY, faults=disk) as runtime:
            for _ in range(steps):
                await client.step(runtime)
            disk.well = True
            await client.comes_back(runtime)
    except Refusals:
        client.errors += 1
    disk.well = True
    async with Runtime(path, history=HISTORY) as runtime:
        await client.comes_back(runtime)
    return client


def operations(path: str, backend: str) -> int:
    """How many operations the workload announces on a disk that is well."""
    disk = FailingDisk(None, lasting=False, number=0)
    client: Client = anyio.run(play, path, disk, backend=backend)
    assert client.errors == 0
    return disk.count


def announced(backend: str, *, every: int = 1, first: int = 0) -> Iterator[tuple[str, Client]]:
    """Fail each announced operation: once, with the disk full, and until the disk is well."""
    host.FOLD_AT_BYTES = 24 * 1024
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-crash-") as place:
        total = operations(os.path.join(place, "calm"), backend)
        for nth in range(first, total, every):
            for lasting, number in ((False, errno.EIO), (False, errno.ENOSPC), (True, errno.EIO)):
                disk = FailingDisk(nth, lasting=lasting, number=number)
                path = os.path.join(place, f"{nth}-{lasting}-{number}")
                try:
                    client = anyio.run(play, path, disk, backend=backend)
                except BaseException as error:
                    error.add_note(
                        f"operation {nth} of {total} failed with {errno.errorcode[number]}"
                        f"{' for long' if lasting else ''}: {disk.failed[:3]}, {backend}"
                    )
                    raise
                yield f"{nth} {disk.failed[:1]}", client


# -- system calls


async def work(path: str) -> None:
    """The traced process: report what was acknowledged, whatever fails."""
    client = Client()
    try:
        async with Runtime(path, history=HISTORY) as runtime:
            for _ in range(24):
                await client.step(runtime)
    except Refusals:
        client.errors += 1
    for name, account in client.accounts.items():
        print(name, sorted(account.acknowledged), sorted(account.attempted), client.errors, sep=";")


async def look(path: str, accounts: dict[str, Account]) -> None:
    client = Client()
    client.accounts = accounts
    client.number = 1000
    async with Runtime(path, history=HISTORY) as runtime:
        await client.comes_back(runtime)


def refuse(call: str, when: str, number: str, place: str, backend: str) -> int:
    """Run the workload with system calls that fail; how many errors its clients saw."""
    path = os.path.join(place, f"{call}-{when}-{number}")
    traced = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
    if call == "openat":
        # Only what is opened to be written to, or Python could not even start.
        traced += [each for name in _files(path) for each in ("-P", name)]
    traced += ["-e", f"inject={call}:error={number}:when={when}"]
    traced += python("tests.crash.io_errors", "--work", path, "--backend", backend)
    done = subprocess.run(
        traced, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600
    )
    where = f"{call} {when} fails with {number}, {backend}"
    assert done.returncode == 0, f"{where}: {done.stderr}"
    accounts: dict[str, Account] = {}
    errors = 0
    for line in done.stdout.splitlines():
        name, acknowledged, attempted, count = line.split(";")
        accounts[name] = account = Account()
        account.acknowledged = set(_numbers(acknowledged))
        account.attempted = set(_numbers(attempted))
        errors = int(count)
    try:
        anyio.run(look, path, accounts, backend=backend)
    except BaseException as error:
        error.add_note(where)
        raise
    return errors


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.strip("[]").split(",") if each.strip()]


def _files(path: str) -> list[str]:
    from durable_storage.ids import id_from_name
    from durable_storage.runtime.directory import namespace_folder

    names = [os.path.join(path, "registry.sqlite-wal")]
    for name in "ab":
        digits = str(id_from_name("Ledger", name))
        file = os.path.join(
            path, namespace_folder("Ledger"), digits[:2], digits[2:4], digits + ".sqlite"
        )
        names += [file, file + "-wal"]
    return names


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        host.FOLD_AT_BYTES = 24 * 1024
        anyio.run(work, options.work, backend=options.backend)
        return 0
    runs = heard = 0
    for _, client in announced(options.backend, every=options.every):
        runs += 1
        heard += client.errors > 0
    print(f"{runs} runs with an announced operation failing; in {heard} a caller saw an error")
    if not available():
        print(MISSING, file=sys.stderr)
        return 2
    runs = heard = 0
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-crash-") as place:
        for call in SYSTEM_CALLS:
            silent = 0
            for nth in range(1, 400, options.every):
                for when in (str(nth), f"{nth}+"):
                    for number in ("EIO", "ENOSPC") if call == "pwrite64" else ("EIO",):
                        errors = refuse(call, when, number, place, options.backend)
                        runs += 1
                        heard += errors > 0
                        silent = 0 if errors else silent + 1
                if silent > 8:  # there are no more calls to fail
                    break
    print(f"{runs} runs with a system call failing; in {heard} a caller saw an error; nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
