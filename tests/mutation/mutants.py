"""What is taken away from the package, and the tests that must miss it."""

from __future__ import annotations

from dataclasses import dataclass

IMAGES = "tests/crash/test_images.py::test_a_crash_anywhere_leaves_what_was_answered_and_nothing_half_done"


@dataclass(frozen=True)
class Mutant:
    """One change of one file, by exact text."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    """Tests of which at least one fails with the change."""


MUTANTS = (
    Mutant(
        "fdatasync before release",
        "database/wal.py",
        "        _fdatasync(descriptor)\n",
        "",
        (f"{IMAGES}[kv]", f"{IMAGES}[sql]"),
    ),
    Mutant(
        "directory fsync",
        "database/wal.py",
        "            _sync_directory(directory)\n            self.confirmed_once = True\n",
        "            self.confirmed_once = True\n",
        (f"{IMAGES}[creation]",),
    ),
    Mutant(
        "fsync before checkpoint",
        "database/configure.py",
        '"synchronous", _NORMAL if normal else _OFF)',
        '"synchronous", _OFF)',
        (f"{IMAGES}[archive]", f"{IMAGES}[kv]"),
    ),
    Mutant(
        "sync of the commit log before checkpoint",
        "history/commit_log.py",
        "hurried=not self.closing)\n                self._log.sync()\n",
        "hurried=not self.closing)\n",
        (f"{IMAGES}[archive]", f"{IMAGES}[kv]"),
    ),
    Mutant(
        "gate re-check on resume",
        "gates/event.py",
        "            if life.broken is None and not frame.place.open:\n",
        "            if False:\n",
        ("tests/stateful/test_events.py", "tests/conformance/test_scenarios.py"),
    ),
    Mutant(
        "rollback on cancellation",
        "storage/transaction.py",
        "        except BaseException:\n            txn._end(keep=False)",
        "        except Exception:\n            txn._end(keep=False)",
        ("tests/stateful/test_transactions.py", "tests/stateful/test_events.py"),
    ),
    Mutant(
        "rollback on cancellation, in the form of a context",
        "storage/transaction.py",
        "            txn._end(keep=error is None)",
        "            txn._end(keep=not isinstance(error, Exception))",
        ("tests/stateful/test_transactions.py",),
    ),
    Mutant(
        "cache invalidation on rollback",
        "storage/kv_buffer.py",
        "        for key in self._levels.pop():\n            self._evict(key)\n",
        "        self._levels.pop()\n",
        ("tests/stateful/test_storage.py",),
    ),
    Mutant(
        "index before commit for earlier alarms",
        "storage/alarm_slot.py",
        "                self._index.earlier(due)\n                self._indexed_ms = due\n",
        "                pass\n",
        (f"{IMAGES}[alarms]",),
    ),
    Mutant(
        "index of a later alarm only once it is confirmed",
        "storage/alarm_slot.py",
        "            self._owed = number, self._indexed_ms\n",
        "            if self._index is not None:\n"
        "                self._index.changed(self._indexed_ms)\n",
        (f"{IMAGES}[alarms]",),
    ),
    Mutant(
        "names of objects durable before their first answer",
        "runtime/runtime.py",
        "        self.registry.flush(durable=True)\n",
        "",
        (f"{IMAGES}[creation]",),
    ),
    Mutant(
        "reset when a restore may or may not have been asked for",
        "state.py",
        "            life.storage_failed = True\n            life.break_(error)\n",
        "            raise\n",
        ("tests/crash/test_io_errors.py",),
    ),
)
