"""Crash a runtime after every system call, in every way the disk allows, and look what is left.

    python -m tests.crash.images --all            every operation of every script, every variant
    python -m tests.crash.images --script alarms  only one script
    python -m tests.crash.images --every 7        every seventh operation

Each image is reopened with the library itself. Then must hold, for every subject of the script: its
state is the one of the last step whose answer had come, or of the step that was under way, never in
between; every bookmark that had been given out leads to its state; the index of alarms is no later
than the alarms; the history verifies; the files pass ``PRAGMA integrity_check``; and the object goes
on to work: it takes a write, and holds it when opened once more.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import anyio

from durable_storage import Runtime
from durable_storage.testing import ManualClock, evict_all_durable_objects, run_in_durable_object

from .replay import VARIANTS, Disk, Variant
from .scripts import (
    EMPTY,
    HISTORY,
    SCRIPTS,
    START,
    Thing,
    digest,
    make_everything_happen_often,
    state_of_file,
    whole_state,
)
from .tracing import MISSING, Operation, available, parse, python, record

ROOT = str(pathlib.Path(__file__).parents[2])
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
NOTHING = digest(EMPTY)


@dataclass
class Known:
    """What the world outside the process knows at some moment."""

    session: int = 0
    opened: bool = False
    now_ms: int = int(START.timestamp() * 1000)
    states: dict[str, Any] = field(default_factory=dict)
    """What each subject was after the last step whose answer had come."""
    possible: dict[str, Any] = field(default_factory=dict)
    """What the step that is under way makes of a subject."""
    bookmarks: list[tuple[str, str, str]] = field(default_factory=list)

    def take(self, mark: dict[str, Any], outcomes: dict[int, Any], number: int) -> None:
        self.now_ms = mark.get("now", self.now_ms)
        if "session" in mark:
            self.session, self.opened = mark["session"], False
        elif "opened" in mark:
            self.opened = True
        elif "begin" in mark:
            self.possible[mark["begin"]] = outcomes[number]
        elif "end" in mark:
            self.states[mark["end"]] = self.possible.pop(mark["end"])
        elif "bookmark" in mark:
            self.bookmarks.append((mark["bookmark"], mark["subject"], mark["value"]))


def outcomes_of(operations: list[Operation]) -> dict[int, Any]:
    """For the operation that marks the beginning of a step: what its subject was after it."""
    begun: dict[str, int] = {}
    outcomes: dict[int, Any] = {}
    for number, operation in enumerate(operations):
        mark = operation.mark or {}
        if "begin" in mark:
            begun[mark["begin"]] = number
        elif "state" in mark:
            outcomes[begun.pop(mark["state"])] = mark["value"]
    assert not begun, f"steps without an outcome: {begun}"
    return outcomes


def record_script(name: str, backend: str, place: str) -> list[Operation]:
    """Run a script under strace; its operations."""
    trace, root = os.path.join(place, "trace"), os.path.join(place, "live")
    os.mkdir(root)
    done = record(python("tests.crash.scripts", name, root, backend), trace, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    operations = parse(trace, root)
    assert operations[-1].mark == {"closed": True} | {"now": operations[-1].mark["now"]}
    os.unlink(trace)
    return operations


class Lost(AssertionError):
    """An image does not hold what it must."""


async def check(path: str, name: str, known: Known, chance: random.Random) -> None:
    """Reopen an image and compare it with what is known."""
    session = SCRIPTS[name][known.session]
    moment = datetime.datetime.fromtimestamp(known.now_ms / 1000, datetime.UTC)
    clock = ManualClock(moment)

    def runtime() -> Runtime:
        return Runtime(
            path, clock=clock, history=HISTORY, idle_timeout=3600, migrations=session.migrations
        )

    expected = _expected(name, known)
    async with runtime() as opened:
        index = {record.id: record.due_ms for record in opened.registry.alarms_all()}
        listed = _listed(opened)
        names = {each: opened.namespace(Thing, name=each) for each in session.namespaces}
        found: dict[str, dict[str, Any]] = {}
        for subject in expected:
            whole, _, slot = subject.partition("#")
            namespace, _, object_name = whole.partition("/")
            stub = names[namespace].get_by_name(object_name)
            if whole not in found:
                found[whole] = state = await whole_state(stub)
                due = state["alarm"]
                if digest(state) != known.states.get(whole):
                    # Nobody was told of it, so the index need not know before it is opened.
                    opened.registry.flush()
                    index[str(stub.id)] = opened.registry.alarm_get(
                        opened.registry.find_namespace(namespace).number, str(stub.id)
                    )
                if due is not None and not (index.get(str(stub.id)) or due + 1) <= due:
                    raise Lost(f"{whole}: the alarm is due at {due}, its index says {index}")
            _compare(subject, slot, found[whole], expected[subject])
            if whole not in listed and known.states.get(subject, NOTHING) != NOTHING:
                raise Lost(f"{whole} is not listed")
            _verify(stub)
        for bookmark, subject, value in chance.sample(
            known.bookmarks, min(2, len(known.bookmarks))
        ):
            _check_bookmark(names, subject, bookmark, value, path)
        await evict_all_durable_objects(opened)
        for subject in found:
            stub = names[subject.partition("/")[0]].get_by_name(subject.partition("/")[2])
            await run_in_durable_object(stub, lambda _, ctx: ctx.storage.kv.put("afterwards", 1))
        unlisted = found.keys() - _listed(opened)
        if unlisted:
            raise Lost(f"in use and not listed: {unlisted}")
    for database in _databases(path):
        state_of_file(database)
    async with runtime() as opened:
        for subject, before in found.items():
            namespace, _, object_name = subject.partition("/")
            stub = opened.namespace(Thing, name=namespace).get_by_name(object_name)
            before["kv"]["afterwards"] = 1
            if digest(await whole_state(stub)) != digest(before):
                raise Lost(f"{subject} was not kept after the crash")
    if session.migrations and known.session:
        left = [each for each in os.listdir(path) if each.startswith("B-")]
        if left:
            raise Lost(f"folders of a deleted class are left: {left}")


def _databases(path: str) -> list[str]:
    return [str(p) for p in pathlib.Path(path).rglob("*.sqlite") if p.name != "registry.sqlite"]


def _listed(runtime: Runtime) -> set[str]:
    return {
        f"{record.name}/{entry.name}"
        for record in runtime.registry.namespaces()
        for entry in runtime.registry.objects(record.number)
    }


def _expected(name: str, known: Known) -> dict[str, set[Any]]:
    """What each subject may be."""
    session = SCRIPTS[name][known.session]
    expected: dict[str, set[Any]] = {}
    for subject in {*known.states, *known.possible}:
        allowed = {known.states.get(subject, NOTHING if "#" not in subject else 0)}
        if subject in known.possible:
            allowed.add(known.possible[subject])
        namespace, _, rest = subject.partition("/")
        if namespace not in session.namespaces:
            if namespace == "A":  # it was renamed
                expected.setdefault(f"C/{rest}", set()).update(allowed)
            continue
        if name == "migration" and namespace == "C" and subject in known.states:
            expected[subject] = allowed
        else:
            expected.setdefault(subject, set()).update(allowed)
    if name == "migration" and known.session:
        for subject in {*known.states} & {*expected}:
            allowed = {known.states[subject]} | (
                {known.possible[subject]} if subject in known.possible else set()
            )
            expected[subject] = allowed
    return expected


def _compare(subject: str, slot: str, state: dict[str, Any], allowed: set[Any]) -> None:
    value: Any = digest(state)
    if slot:
        value = state["kv"].get(slot, 0)
        rows = dict(state["sql"].get("counts", []))
        if rows.get(slot, 0) != value:
            raise Lost(f"half of a commit of {subject} is there: {value}, {rows}")
    if value not in allowed:
        raise Lost(f"{subject} is {value}, allowed is {allowed}")


def _log(stub: Any) -> Any:
    namespace, object_id, _ = stub.__dict__["_stub"]
    return namespace._residents[str(object_id)].host.file.log


def _verify(stub: Any) -> None:
    log = _log(stub)
    if os.path.exists(log._layout.identity):
        verification = log.verify()
        if not verification.sound:
            raise Lost(f"the history is damaged: {verification.damages}")


def _check_bookmark(
    names: dict[str, Any], subject: str, bookmark: str, value: str, path: str
) -> None:
    namespace, _, object_name = subject.partition("/")
    exported = os.path.join(path, "exported")
    _log(names[namespace].get_by_name(object_name)).export(exported, bookmark)
    state = digest(state_of_file(exported))
    os.unlink(exported)
    if state != value:
        raise Lost(f"the bookmark {bookmark} leads to {state} instead of {value}")


@dataclass
class Result:
    operations: int = 0
    images: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)


def crash_everywhere(
    name: str,
    backend: str,
    *,
    every: int = 1,
    variants: tuple[Variant, ...] = VARIANTS,
    seed: int = 0,
    stop_at_first: bool = True,
    keep: bool = False,
) -> Result:
    """Record a script, then check the images of each prefix of its record."""
    result = Result()
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="durable-crash-") as place:
        operations = record_script(name, backend, place)
        outcomes = outcomes_of(operations)
        disk, known = Disk(operations), Known()
        interesting = 0
        for number, operation in enumerate(operations):
            if operation.mark is not None:
                known.take(operation.mark, outcomes, number)
            disk.play(operation)
            if operation.kind == "modified":
                continue
            result.operations += 1
            # An answer is where a promise begins, and a sync is where it becomes possible: every one
            # of them is looked at.
            promise = operation.mark is not None and "end" in operation.mark
            interesting += 1
            chosen = variants
            if not promise and interesting % every != seed % every:
                if operation.kind != "sync":
                    continue
                chosen = ("dropped",)
            for variant in chosen:
                chance = random.Random(f"{seed} {number} {variant}")
                path = os.path.join(place, "image")
                disk.build(path, variant, chance)
                copy = os.path.join(place, "copy")
                if keep:
                    shutil.copytree(path, copy)
                try:
                    anyio.run(check, path, name, known, chance, backend=backend)
                except BaseException as error:
                    error.add_note(f"script {name}, operation {number}, {variant}, seed {seed}")
                    result.failures.append(
                        f"{name} {number} {variant} after {_describe(operation)}: {error!r}"
                    )
                    if keep:
                        kept = tempfile.mkdtemp(prefix=f"image-{name}-{number}-{variant}-")
                        shutil.move(copy, os.path.join(kept, "data"))
                        print("kept", kept)
                    if stop_at_first:
                        raise
                finally:
                    shutil.rmtree(path, ignore_errors=True)
                    shutil.rmtree(copy, ignore_errors=True)
                result.images[variant] += 1
    return result


def _describe(operation: Operation) -> str:
    return f"{operation.kind} of {operation.node} {operation.name} {operation.mark or ''}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every operation of every script")
    parser.add_argument("--script", action="append", choices=sorted(SCRIPTS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="after a failure")
    parser.add_argument("--keep", action="store_true", help="keep the images that fail")
    options = parser.parse_args(arguments)
    if not available():
        print(MISSING, file=sys.stderr)
        return 2
    if not options.all and not options.script and options.every == 1:
        parser.error("give --all, --script or --every")
    make_everything_happen_often()
    total: collections.Counter[str] = collections.Counter()
    operations = failures = 0
    for name in options.script or SCRIPTS:
        began = time.monotonic()
        result = crash_everywhere(
            name,
            options.backend,
            every=options.every,
            seed=options.seed,
            stop_at_first=not options.go_on,
            keep=options.keep,
        )
        print(
            f"{name}: {result.operations} operations, {sum(result.images.values())} images, "
            f"{len(result.failures)} failures, {time.monotonic() - began:.0f} s",
            flush=True,
        )
        for failure in result.failures[:10]:
            print("  ", failure)
        total += result.images
        operations += result.operations
        failures += len(result.failures)
    kinds = ", ".join(f"{count} {variant}" for variant, count in total.items())
    print(f"{operations} operations, {sum(total.values())} images ({kinds}), {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
