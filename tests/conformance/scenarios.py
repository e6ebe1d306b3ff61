"""Runs recorded concurrency scenarios: ``python -m tests.conformance.scenarios DIR``.

A scenario is several events on one or more objects; what is compared is the order of everything:
the trace that the steps leave, the results and the order in which they arrived, what is stored at
the end, and how often every object was constructed.

External waits are real ones, of the recorded length. Many scenarios run side by side; one that
does not come out as recorded gets more chances, alone and much slower, so that a busy machine is
not taken for a wrong order.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from durable_storage import (
    DurableObject,
    DurableObjectState,
    History,
    ObjectResetError,
    Runtime,
)

from . import report
from .opslang import same_error, show
from .report import Backend, Difference, Result
from .timeline import Timeline

Step = Sequence[Any]
Scenario = dict[str, Any]

SIDE_BY_SIDE: Final = 12
CHANCES_SLOWNESS: Final = (3.0, 10.0)

# Accepted differences that no rule below covers, by name: none.
SKIPPED_NAMES: Final[dict[str, str]] = {}


class Error(Exception):
    """What a recorded step throws."""


class Unsupported(Exception):
    """The recording uses a step that this interpreter does not know."""


def as_json(value: Any) -> str:
    """Return ``value`` as JavaScript prints it: no spaces, and whole numbers without a fraction."""
    return json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False)


def plain(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


# --- one scenario -------------------------------------------------------------------------


@dataclass
class Line:
    """One line of the trace; ``error`` is what it tells about, if it tells of an error."""

    event: str
    text: str
    error: BaseException | None = None


@dataclass(frozen=True)
class Context:
    """Where a step runs: in which event, and in which transaction."""

    event: str
    txn: Any = None
    dying: bool = False

    def inside(self, txn: Any) -> Context:
        return Context(self.event, txn, self.dying)


@dataclass
class ScenarioRun:
    """A scenario while it runs, and what it has shown so far."""

    scenario: Scenario
    prefix: str
    namespace: Any
    timeline: Timeline
    trace: list[Line] = field(default_factory=list)
    constructed: dict[str, int] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    storage: dict[str, Any] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    over: bool = False

    def stub(self, name: str) -> Any:
        return self.namespace.get_by_name(self.prefix + name)

    async def sleep(self, milliseconds: float) -> None:
        await self.timeline.sleep(milliseconds)

    async def play(self) -> None:
        """Deliver every event and look at what remains."""
        starts: dict[float, list[dict[str, Any]]] = {}
        for event in self.scenario["events"]:
            starts.setdefault(event.get("start_ms", 0), []).append(event)

        async with anyio.create_task_group() as tasks:

            async def deliver_later(start_ms: float, events: list[dict[str, Any]]) -> None:
                if start_ms:
                    await self.sleep(start_ms)
                for event in events:
                    # One after the other, so that they arrive in order on every event loop.
                    await tasks.start(self.deliver, event)

            for start_ms, events in starts.items():
                tasks.start_soon(deliver_later, start_ms, events)
        await self.sleep(self.scenario.get("settle_ms", 60))
        self.over = True
        for name in self.scenario["expect"]["storage"]:
            self.storage[name] = await self.stub(name).dump()

    async def deliver(
        self, event: dict[str, Any], *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        task_status.started()
        try:
            result: Any = await self.stub(event.get("obj", "main")).deliver(
                event["id"], event["steps"]
            )
        except Exception as exc:
            result = exc
        self.results[event["id"]] = result
        self.done.append(event["id"])


class Env:
    """What the objects of a run share: scenarios by the prefix of their objects' names."""

    def __init__(self) -> None:
        self.runs: dict[str, ScenarioRun] = {}


class Actor(DurableObject):
    """An object that performs the steps of its scenario."""

    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        full_name = ctx.id.name
        assert full_name is not None
        prefix, _, self._name = full_name.rpartition("/")
        self._run: ScenarioRun = env.runs[prefix + "/"]
        self._memory: dict[str, Any] = {}
        self._life = 0
        run = self._run
        if run.over:
            return
        self._life = run.constructed[self._name] = run.constructed.get(self._name, 0) + 1
        context = Context("@" + self._name)
        self._log(context, f"ctor#{self._life}")
        self._construct(run.scenario.get("ctor", {}).get(self._name, ()), context)

    # -- called from outside ---------------------------------------------------------------

    async def deliver(self, event: str, steps: Sequence[Step]) -> Any:
        return await self._all(steps, Context(event))

    async def dump(self) -> dict[str, Any]:
        storage = self.ctx.storage
        tables: dict[str, Any] = {}
        for row in storage.sql.exec(
            "SELECT name FROM sqlite_master WHERE type = 'table' "
            "AND name NOT LIKE '\\_cf\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        ).to_array():
            name = row["name"]
            tables[name] = [
                list(line) for line in storage.sql.exec(f'SELECT * FROM "{name}"').raw()
            ]
        return {"kv": await storage.list(), "sql": tables, "mem": self._memory}

    # -- steps -----------------------------------------------------------------------------

    def _log(self, context: Context, text: str, error: BaseException | None = None) -> None:
        # A dead event's cleanup runs in Python, where it can do no harm; the original drops it.
        if not context.dying:
            self._run.trace.append(Line(context.event, text, error))

    def _construct(self, steps: Sequence[Step], context: Context) -> None:
        """Perform the steps of a constructor: asynchronous ones start and are not awaited."""
        for op, *arguments in steps:
            match op, arguments:
                case "if_ctor_n", [life, inner]:
                    if self._life == life:
                        self._construct(inner, context)
                case (("bcw" | "bcw_nowait"), [inner]):
                    self._critical_section(inner, context)
                case (("txn" | "txn_nowait"), [inner]):
                    self.ctx.storage.transaction(self._in_transaction(inner, context))
                case (("put" | "put_nowait"), [key, value]):
                    self.ctx.storage.put(key, value)
                case (("delete" | "delete_nowait"), [key]):
                    self.ctx.storage.delete(key)
                case "spawn", [inner]:
                    self._spawn(inner, context)
                case _:
                    self._now([op, *arguments], context)

    def _now(self, step: Step, context: Context) -> Any:
        """Perform a step that does not wait."""
        op, *arguments = step
        storage = self.ctx.storage
        match op, arguments:
            case "log", [text]:
                self._log(context, text)
                return text
            case "kvput", [key, value]:
                storage.kv.put(key, value)
                return None
            case "kvget", [key]:
                value = storage.kv.get(key)
                self._log(context, f"{key}={as_json(value)}")
                return value
            case "kvincr", [key]:
                value = (storage.kv.get(key) or 0) + 1
                storage.kv.put(key, value)
                return value
            case "kvdelete", [key]:
                return storage.kv.delete(key)
            case "sql", [query, *bindings]:
                rows = storage.sql.exec(query, *bindings).to_array()
                if rows:
                    self._log(context, "rows=" + as_json(rows))
                return rows or None
            case "memset", [key, value]:
                self._memory[key] = value
                return value
            case "memincr", [key]:
                self._memory[key] = self._memory.get(key, 0) + 1
                return self._memory[key]
            case "memget", [key]:
                value = self._memory.get(key)
                self._log(context, f"mem {key}={as_json(value)}")
                return value
            case "txnsync", [inner]:
                return storage.transaction_sync(lambda: self._all_now(inner, context))
            case "trysync", [inner, *handler]:
                try:
                    return self._all_now(inner, context)
                except Exception as exc:
                    self._caught(context, exc)
                    return self._all_now(handler[0], context) if handler else None
            case "rollback", []:
                return context.txn.rollback()
            case "throw", [message]:
                raise Error(message)
            case "return", [value]:
                return value
            case "return", []:
                return None
            case "abort", [*reason]:
                self.ctx.abort(*reason)
            case "if_ctor_n", [life, inner]:
                return self._all_now(inner, context) if self._life == life else None
            case _:
                self._run.unsupported.append(f"step {op} with {len(arguments)} arguments")
                raise Unsupported(op)

    def _all_now(self, steps: Sequence[Step], context: Context) -> Any:
        result = None
        for step in steps:
            result = self._now(step, context)
        return result

    async def _all(self, steps: Sequence[Step], context: Context) -> Any:
        result = None
        for step in steps:
            result = await self._step(step, context)
        return result

    async def _step(self, step: Step, context: Context) -> Any:
        op, *arguments = step
        storage = self.ctx.storage
        match op, arguments:
            case "get", [key]:
                value = await storage.get(key)
                self._log(context, f"{key}={as_json(value)}")
                return value
            case "put", [key, value]:
                await storage.put(key, value)
                return None
            case "put_nowait", [key, value]:
                storage.put(key, value)
                return None
            case "delete", [key]:
                return await storage.delete(key)
            case "delete_nowait", [key]:
                storage.delete(key)
                return None
            case "list", []:
                values = await storage.list()
                self._log(context, "list=" + as_json(values))
                return values
            case "incr", [key]:
                value = (await storage.get(key) or 0) + 1
                await storage.put(key, value)
                return value
            case "incr_nowait", [key]:
                value = (await storage.get(key) or 0) + 1
                storage.put(key, value)
                return value
            case "incr_slow", [key, milliseconds]:
                value = (await storage.get(key) or 0) + 1
                await self._run.sleep(milliseconds)
                await storage.put(key, value)
                return value
            case "sleep", [milliseconds]:
                await self._run.sleep(milliseconds)
                return None
            case "bcw", [inner]:
                return await self._critical_section(inner, context)
            case "bcw_nowait", [inner]:
                self._critical_section(inner, context)
                return None
            case "txn", [inner]:
                return await storage.transaction(self._in_transaction(inner, context))
            case "txn_nowait", [inner]:
                self._transaction_nowait(inner, context)
                return None
            case "tput", [key, value]:
                await context.txn.put(key, value)
                return None
            case "tget", [key]:
                value = await context.txn.get(key)
                self._log(context, f"{key}={as_json(value)}")
                return value
            case "rollback", []:
                done = context.txn.rollback()
                return await done if hasattr(done, "__await__") else done
            case "try", [inner, *handler]:
                try:
                    return await self._all(inner, context)
                except Exception as exc:
                    self._caught(context, exc)
                return await self._all(handler[0], context) if handler and handler[0] else None
            case "finally", [inner, cleanup]:
                return await self._finally(inner, cleanup, context)
            case "parallel", [branches]:
                return await self._parallel(branches, context)
            case "spawn", [inner]:
                self._spawn(inner, context)
                return None
            case "call_other", [name, inner]:
                return await self._run.stub(name).deliver(f"{context.event}>{name}", inner)
            case "sync", []:
                await storage.sync()
                return None
            case "delall", []:
                await storage.delete_all()
                return None
            case (("nest_bcw" | "nest_txn"), [depth]):
                return await self._nest(op, depth)
            case "if_ctor_n", [life, inner]:
                return await self._all(inner, context) if self._life == life else None
            case _:
                return self._now(step, context)

    def _caught(self, context: Context, exc: Exception) -> None:
        if isinstance(exc, Unsupported):
            raise exc
        self._log(context, f"caught:{exc}", exc)

    def _critical_section(self, steps: Sequence[Step], context: Context) -> Any:
        return self.ctx.block_concurrency_while(lambda: self._all(steps, context))

    def _in_transaction(
        self, steps: Sequence[Step], context: Context
    ) -> Callable[[Any], Awaitable[Any]]:
        return lambda txn: self._all(steps, context.inside(txn))

    def _transaction_nowait(self, steps: Sequence[Step], context: Context) -> None:
        handle = self.ctx.storage.transaction(self._in_transaction(steps, context))

        async def watch() -> None:
            try:
                await handle
            except Exception as exc:
                self._log(context, f"txnfail:{exc}", exc)

        self.ctx.wait_until(watch())

    def _spawn(self, steps: Sequence[Step], context: Context) -> None:
        async def background() -> None:
            try:
                await self._all(steps, context)
            except Exception as exc:
                self._log(context, f"spawnfail:{exc}", exc)

        self.ctx.wait_until(background())

    async def _finally(
        self, steps: Sequence[Step], cleanup: Sequence[Step], context: Context
    ) -> Any:
        try:
            result = await self._all(steps, context)
        except Exception:
            await self._all(cleanup, context)
            raise
        except BaseException:
            # The event is being killed. Its cleanup runs, unlike the original's.
            await self._all(cleanup, Context(context.event, context.txn, dying=True))
            raise
        await self._all(cleanup, context)
        return result

    async def _parallel(self, branches: Sequence[Sequence[Step]], context: Context) -> list[Any]:
        """Run branches together as ``Promise.all`` does: one that fails does not end the others."""
        if not any(throws(branch) for branch in branches):
            return list(await self.ctx.gather(*(self._all(steps, context) for steps in branches)))
        results: list[Any] = [None] * len(branches)
        failures: list[Exception] = []
        over = anyio.Event()

        async def branch(number: int) -> None:
            try:
                results[number] = await self._all(branches[number], context)
            except Exception as exc:
                failures.append(exc)
                over.set()

        async def together() -> None:
            try:
                await self.ctx.gather(*map(branch, range(len(branches))))
            finally:
                over.set()

        self.ctx.wait_until(together())
        await over.wait()
        if failures:
            raise failures[0]
        return results

    async def _nest(self, op: str, depth: int) -> str:
        if depth == 0:
            self.ctx.storage.put("deep", 1)
            return "bottom"
        if op == "nest_bcw":
            return await self.ctx.block_concurrency_while(lambda: self._nest(op, depth - 1))
        return await self.ctx.storage.transaction(lambda _: self._nest(op, depth - 1))


def throws(steps: Any) -> bool:
    """Tell whether a step in ``steps``, or in a step of them, throws."""
    if not isinstance(steps, list):
        return False
    return steps[:1] == ["throw"] or any(throws(step) for step in steps)


# --- judging ------------------------------------------------------------------------------


def judged(run: ScenarioRun) -> Result:
    scenario = run.scenario
    result = Result(scenario["name"], scenario["suite"], "passed")
    if run.unsupported:
        result.verdict, result.reason = "failed", "not understood: " + "; ".join(run.unsupported)
        return result
    result.differences = list(differences(run))
    if result.differences:
        result.verdict = "failed"
    return result


def differences(run: ScenarioRun) -> Iterable[Difference]:
    expect = run.scenario["expect"]
    races = racing_keys(run.scenario)

    if not same_trace(run, expect["trace"], expect.get("trace_ticks"), races):
        yield Difference(
            "trace",
            as_json(expect["trace"]),
            as_json([[line.event, line.text] for line in run.trace]),
        )
    for event, answer in expect["results"].items():
        got = run.results.get(event, "no answer")
        if not same_result(answer, got, bool(races)):
            yield Difference(f"result of {event}", as_json(answer), show(got))
    if not same_order(expect["done"], run.done, expect.get("done_ticks", {})):
        yield Difference("order of results", as_json(expect["done"]), as_json(run.done))
    for name, answer in expect["storage"].items():
        stored = plain(run.storage[name])
        if not same_storage(answer, stored, races):
            yield Difference(f"storage of {name}", as_json(answer), show(stored))
    if expect["ctors"] != run.constructed:
        yield Difference("constructed", as_json(expect["ctors"]), as_json(run.constructed))


def same_trace(
    run: ScenarioRun,
    expected: Sequence[tuple[str, str]],
    ticks: Sequence[int] | None,
    races: frozenset[str],
) -> bool:
    """Tell whether the lines are the recorded ones, in an order that the recording allows.

    The order within one object is compared exactly. Different objects run side by side, so
    that their lines are ordered only where the recording has time between them.
    """
    if len(expected) != len(run.trace):
        return False

    def alike(wanted: tuple[str, str], line: Line) -> bool:
        return wanted[0] == line.event and same_line(wanted[1], line, races)

    if all(itertools.starmap(alike, zip(expected, run.trace, strict=True))):
        return True
    if ticks is None:
        return False
    owners = {event["id"]: event.get("obj", "main") for event in run.scenario["events"]}

    def owner(event: str) -> str:
        if event.startswith("@"):
            return event[1:]
        return event.rpartition(">")[2] if ">" in event else owners.get(event, event)

    places: dict[str, list[int]] = {}
    for place, line in enumerate(run.trace):
        places.setdefault(owner(line.event), []).append(place)
    order: list[int] = []  # the place in our trace of every expected line
    for wanted in expected:
        own = places.get(owner(wanted[0]))
        if not own or not alike((wanted[0], wanted[1]), run.trace[own[0]]):
            return False
        order.append(own.pop(0))
    return all(
        order[early] < order[late]
        for early in range(len(order))
        for late in range(early + 1, len(order))
        if ticks[late] - ticks[early] >= 2
    )


def same_line(expected: str, line: Line, races: frozenset[str]) -> bool:
    if expected == line.text:
        return True
    if line.error is not None:
        mark, _, message = expected.partition(":")
        return line.text.startswith(mark + ":") and same_error({"message": message}, line.error)
    key, _, value = expected.partition("=")
    ours, _, got = line.text.partition("=")
    if key != ours:
        return False
    if key in races:
        return at_least(value, got)
    if key in ("list", "rows"):
        try:
            return same_values(json.loads(value), json.loads(got), races)
        except ValueError:
            return False
    return False


def same_result(answer: Mapping[str, Any], got: Any, race: bool) -> bool:
    if "ok" in answer:
        if isinstance(got, BaseException):
            return False
        value = plain(got)
        return bool(value == answer["ok"]) or (race and at_least(answer["ok"], value))
    if not isinstance(got, Exception):
        return False
    message = re.sub(r"^\w*Error: ", "", answer["error"])
    reset = isinstance(got, ObjectResetError)
    if (
        message.startswith("Durable Object was reset and rolled back")
        or message == "internal error"
    ):
        # The original resets without marking its error; a real reason beats an internal error.
        return reset and same_error(
            {"message": message, "messageLoose": "internal" in message}, got
        )
    return reset == bool(answer.get("durableObjectReset")) and same_error({"message": message}, got)


def same_order(expected: Sequence[str], got: Sequence[str], ticks: Mapping[str, int]) -> bool:
    """Tell whether results arrived in order; those at about the same time have none."""
    if sorted(expected) != sorted(got):
        return False
    place = {event: number for number, event in enumerate(got)}
    return all(
        place[early] < place[late]
        for early, late in itertools.permutations(expected, 2)
        if ticks.get(late, 0) - ticks.get(early, 0) >= 2
    )


def same_storage(answer: Mapping[str, Any], stored: Any, races: frozenset[str]) -> bool:
    return bool(
        isinstance(stored, dict)
        and same_values(answer["kv"], stored["kv"], races)
        and answer["sql"] == stored["sql"]
        and answer["mem"] == stored["mem"]
    )


def same_values(expected: Any, got: Any, races: frozenset[str]) -> bool:
    if expected == got:
        return True
    if not races or not isinstance(expected, dict) or not isinstance(got, dict):
        return False
    return expected.keys() == got.keys() and all(
        at_least(value, got[key]) if key in races else value == got[key]
        for key, value in expected.items()
    )


def at_least(expected: Any, got: Any) -> bool:
    """Tell whether a counter lost no more updates than the recorded one."""
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        return all(a == b or at_least(a, b) for a, b in zip(expected, got, strict=True))
    try:
        return int(got) >= int(expected)
    except (TypeError, ValueError):
        return False


def racing_keys(scenario: Scenario) -> frozenset[str]:
    """Return the keys that branches of one event increment together without waiting.

    The original loses updates there, because awaiting a storage operation lets the other
    branch run. Ours does not yield for a finished operation, so that the counter may be higher.
    """
    racing: set[str] = set()

    def incremented(steps: Any) -> set[str]:
        found: set[str] = set()
        for step in steps:
            if step[0] in ("incr", "incr_nowait"):
                found.add(step[1])
            for part in parts(step):
                found |= incremented(part)
        return found

    def parts(step: Step) -> list[Sequence[Step]]:
        if step[0] == "parallel":
            return list(step[1])
        return [
            part
            for part in step[1:]
            if isinstance(part, list) and part and isinstance(part[0], list)
        ]

    def visit(steps: Sequence[Step]) -> None:
        for step in steps:
            if step[0] == "parallel":
                branches = [incremented(branch) for branch in step[1]]
                for one, other in itertools.combinations(branches, 2):
                    racing.update(one & other)
            for part in parts(step):
                visit(part)

    for event in scenario["events"]:
        visit(event["steps"])
    return frozenset(racing)


# --- running many -------------------------------------------------------------------------


async def run_scenarios(scenarios: Sequence[Scenario]) -> list[Result]:
    """Run scenarios side by side in one runtime, and again alone what did not come out."""
    results: dict[int, Result] = {}
    env = Env()
    count = itertools.count()
    async with Runtime(env=env, history=History(enabled=False), durability="os") as runtime:
        namespace = runtime.namespace(Actor)

        async def run_one(number: int, slowness: float) -> None:
            scenario = scenarios[number]
            prefix = f"{scenario['name']} {next(count)}/"
            run = ScenarioRun(scenario, prefix, namespace, Timeline(slowness))
            env.runs[prefix] = run
            try:
                with anyio.fail_after(15 * slowness):
                    async with run.timeline.running():
                        await run.play()
                results[number] = judged(run)
            except TimeoutError:
                results[number] = failure(scenario, f"did not finish: {run}")
            except Exception as exc:
                results[number] = failure(scenario, f"the run broke: {show(exc)}")

        limiter = anyio.Semaphore(SIDE_BY_SIDE)

        async def run_limited(number: int) -> None:
            async with limiter:
                await run_one(number, 1.0)

        async with anyio.create_task_group() as tasks:
            for number, scenario in enumerate(scenarios):
                reason = skip_reason(scenario)
                if reason is not None:
                    results[number] = Result(scenario["name"], scenario["suite"], "skipped", reason)
                    continue
                tasks.start_soon(run_limited, number)
        for slowness in CHANCES_SLOWNESS:
            for number, result in sorted(results.items()):
                if result.verdict == "failed" and not result.reason:
                    await run_one(number, slowness)
    return [results[number] for number in range(len(scenarios))]


def skip_reason(scenario: Scenario) -> str | None:
    for pattern, reason in SKIPPED_NAMES.items():
        if re.search(pattern, scenario["name"]):
            return reason
    return None


def failure(scenario: Scenario, reason: str) -> Result:
    return Result(scenario["name"], scenario["suite"], "failed", reason)


def run(cases: list[Scenario], backend: Backend) -> list[Result]:
    """Run scenarios on an event loop of their own."""
    for case in cases:
        # One file is one scenario here: the suite is the first word of its name.
        case["suite"] = case["name"].partition("-")[0]
    return anyio.run(run_scenarios, cases, backend=backend)


if __name__ == "__main__":
    report.main("Run recorded concurrency scenarios against the library.", "events", run)
