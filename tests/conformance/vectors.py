"""Runs recorded single-object cases: ``python -m tests.conformance.vectors DIR [--backend trio]``.

Every case gets a new object of one generic class. The driver cuts the steps of a case into
events at the steps that only the outside can do (``restart``, ``endEvent``, ``waitAlarm``,
``parallelEvents``) and where an event dies; a `Player` inside the object performs the steps of one
event and keeps what lives as long as the instance: cursors, iterators, variables, transactions.

Every step has a slot, a dict that is filled when its outcome is known. A step has two halves, as
the storage's operations do: what happens at the call, and what awaiting it gives. That is how
steps that are issued without being awaited, or inside a synchronous transaction, are the same
code as all others.
"""

from __future__ import annotations

import copy
import math
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final

import anyio
import anyio.lowlevel

from durable_storage import (
    AlarmInvocationInfo,
    DurableObject,
    DurableObjectState,
    DurableObjectTransaction,
    DurableStorageError,
    History,
    LimitExceededError,
    MsgpackSerializer,
    ObjectResetError,
    PickleSerializer,
    Runtime,
    SqlError,
)
from durable_storage.testing import ManualClock, evict_durable_object

from ..unit.database.rig import built_with
from . import report
from .opslang import (
    EPOCH,
    NEAR_NOW,
    UNDEFINED,
    Outcome,
    Unsupported,
    UseResults,
    date_from_ms,
    decode,
    decode_arguments,
    difference,
    ms_from_date,
    show,
)
from .report import Backend, Difference, Result
from .timeline import Timeline

Step = Mapping[str, Any]
Case = dict[str, Any]
Finish = Callable[[], Awaitable[None]]
Scope = tuple[DurableObjectTransaction, ...]

# --- what is skipped ----------------------------------------------------------------------

SKIPPED_TAGS: Final[dict[str, str]] = {
    "js-only": "coercions and argument mistakes of JavaScript without a meaning in Python",
    "engine-quirk": "an accident of the original engine that we improve on",
}
if not hasattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE"):
    SKIPPED_TAGS["defensive-mode"] = "needs SQLITE_DBCONFIG_DEFENSIVE, which CPython 3.12 can set"
if sqlite3.sqlite_version_info < (3, 46):
    SKIPPED_TAGS["sqlite-newer"] = f"needs SQLite 3.46; this one is {sqlite3.sqlite_version}"

# Patterns of names, so that a case recorded for the same reason elsewhere is skipped too.
SKIPPED_NAMES: Final[dict[str, str]] = {
    r"^coalescing/bookmarks/creates-metadata-table": (
        "bookmarks come from the commit log beside the database and leave no table in it"
    ),
}

if not built_with("ENABLE_UPDATE_DELETE_LIMIT"):
    SKIPPED_NAMES["update-order-limit"] = "needs SQLite with ENABLE_UPDATE_DELETE_LIMIT"


# Where a count differs, the rest of such a case must still be as recorded.
PLANNER_TAG: Final = "metering-planner"
PLANNER: Final = (
    "what SQLite reads depends on its version's plan, and Python cannot see it read; the counts "
    "are an estimate there"
)


def without_counts(case: Case) -> Case:
    """The case without the uses that ask for counts."""

    def strip(step: Step, outcome: Any) -> tuple[Any, Any]:
        step, outcome = dict(step), dict(outcome)
        if "use" in step and isinstance(outcome.get("value"), list):
            kept = [
                (use, answer)
                for use, answer in zip(step["use"], outcome["value"], strict=True)
                if use not in ("rowsRead", "rowsWritten")
            ]
            step["use"] = [use for use, _ in kept]
            outcome["value"] = [answer for _, answer in kept]
        if "steps" in step and "steps" in outcome:
            step["steps"], outcome["steps"] = strip_all(step["steps"], outcome["steps"])
        if "variants" in outcome:
            del outcome["variants"]
        return step, outcome

    def strip_all(steps: Sequence[Step], outcomes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        pairs = [strip(step, outcome) for step, outcome in zip(steps, outcomes, strict=True)]
        return [step for step, _ in pairs], [outcome for _, outcome in pairs]

    steps, outcomes = strip_all(case["steps"], case["expect"]["steps"])
    return {
        **case,
        "name": f"{case['name']} without counts",
        "steps": steps,
        "expect": {**case["expect"], "steps": outcomes},
    }


def skip_reason(case: Case) -> str | None:
    for tag in case.get("tags", ()):
        if tag in SKIPPED_TAGS:
            return f"{tag}: {SKIPPED_TAGS[tag]}"
    for pattern, reason in SKIPPED_NAMES.items():
        if re.search(pattern, case["name"]):
            return reason
    return None


# --- one case -----------------------------------------------------------------------------

# fmt: off
KNOWN_KEYS: Final = frozenset([
    "op", "args", "use", "as", "name", "steps", "throw", "return", "rollback", "syncCallback",
    "asyncCallback", "afterAwait", "then", "ms", "reason", "message", "count", "timeoutMs",
    "staggerMs", "events", "project", "onError", "depth", "txn", "key", "value", "on",
    "note", "doc", "comment",
])
# fmt: on
OUTSIDE: Final = frozenset(["restart", "endEvent", "waitAlarm", "parallelEvents"])

OPTIONS: Final[dict[str, dict[str, str]]] = {
    "get": {"allowConcurrency": "allow_concurrency", "noCache": "no_cache"},
    "put": {
        "allowConcurrency": "allow_concurrency",
        "allowUnconfirmed": "allow_unconfirmed",
        "noCache": "no_cache",
    },
    "list": {
        "start": "start",
        "startAfter": "start_after",
        "end": "end",
        "prefix": "prefix",
        "reverse": "reverse",
        "limit": "limit",
        "allowConcurrency": "allow_concurrency",
        "noCache": "no_cache",
    },
    "setAlarm": {
        "allowConcurrency": "allow_concurrency",
        "allowUnconfirmed": "allow_unconfirmed",
    },
}
OPTIONS["delete"] = OPTIONS["put"]
KV_LIST_OPTIONS: Final = {
    name: python
    for name, python in OPTIONS["list"].items()
    if name not in ("allowConcurrency", "noCache")
}

# How many arguments come before the options.
POSITIONAL: Final = {
    "get": 1,
    "delete": 1,
    "setAlarm": 1,
    "list": 0,
    "deleteAll": 0,
    "getAlarm": 0,
    "deleteAlarm": 0,
    "sync": 0,
    "getCurrentBookmark": 0,
    "getBookmarkForTime": 1,
    "onNextSessionRestoreBookmark": 1,
    "rollback": 0,
}

# What the storage and a transaction both offer.
TAKING_PART: Final = frozenset(
    ["get", "put", "delete", "list", "setAlarm", "getAlarm", "deleteAlarm"]
)

END: Final = object()

# Events that are delivered at the same time wait for real, and so may be late.
PARALLEL: Final = "parallelEvents"
CHANCES_SLOWNESS: Final = (4.0, 12.0)

# Below this a number of milliseconds could be meant as seconds, which the library refuses.
PLAUSIBLE_MS: Final = 10**11


class Error(Exception):
    """What a recorded step throws."""


def slot_of(slots: list[Outcome], number: int) -> Outcome:
    if number == len(slots):
        slots.append({"pending": True})
    return slots[number]


def snake_case(name: str) -> str:
    return re.sub("[A-Z]", lambda match: "_" + match[0].lower(), name)


def bare(error: BaseException) -> BaseException:
    """Return ``error`` without the frames it passed, which would keep cursors alive."""
    error.__context__ = None
    return error.with_traceback(None)


class CaseRun:
    """What a case needs while it runs, and what it has answered so far."""

    def __init__(self, case: Case, base_ms: int, clock: ManualClock, slowness: float) -> None:
        self.case = case
        self.timeline = Timeline(slowness)
        self.base_ms = base_ms
        self.clock = clock
        self.slots: list[Outcome] = [{"pending": True} for _ in case["steps"]]
        self.starts: list[list[Outcome]] = []
        self.alarms: list[Outcome] = []
        self.alarms_done = 0
        self.unsupported: list[str] = []
        self.finished = False

    def decode(self, value: Any) -> Any:
        return decode(value, self.base_ms)


class Player:
    """Performs the steps of a case inside one instance of its object."""

    def __init__(self, ctx: DurableObjectState, run: CaseRun) -> None:
        self.ctx = ctx
        self.storage = ctx.storage
        self.run = run
        self.cursors: dict[str, Any] = {}
        self.iterators: dict[str, Any] = {}
        self.variables: dict[str, Any] = {}
        self.transactions: dict[str, DurableObjectTransaction] = {}
        self.database_size: int | None = None
        self.handlers: dict[str, Callable[[Step, Scope, Outcome], Any]] = {
            "sql.exec": self.sql_exec,
            "sql.databaseSize": self.sql_database_size,
            "cursor": self.cursor,
            "kv.list": self.kv_list,
            "iter": self.iterator,
            "transactionSync": self.transaction_sync,
            "transaction": self.transaction,
            "unawaited": self.unawaited,
            "blockConcurrencyWhile": self.block_concurrency_while,
            "tick": self.tick,
            "abort": self.abort,
            "throwFromHandler": self.throw_from_handler,
            "let": self.let,
            "mutate": self.mutate,
            "putVar": lambda step, _, __: self.storage.put(
                step["key"], self.variables[step["name"]]
            ),
            "kvPutVar": lambda step, _, __: self.storage.kv.put(
                step["key"], self.variables[step["name"]]
            ),
            "getVar": self.get_variable,
            "kvGetVar": self.kv_get_variable,
            "hasMethod": self.has_method,
            "bookmarkOrder": self.bookmark_order,
            "transactionSyncRaw": lambda step, _, __: self.storage.transaction_sync(
                *self.arguments(step)
            ),
            "transactionRaw": lambda step, _, __: self.storage.transaction(*self.arguments(step)),
        }

    # -- running steps ---------------------------------------------------------------------

    # A list of slots is filled as far as its steps are reached; it may be there already.

    async def perform_all(
        self, steps: Sequence[Step], slots: list[Outcome], scope: Scope = ()
    ) -> None:
        for number, step in enumerate(steps):
            slot = slot_of(slots, number)
            finish = self.start(step, slot, scope)
            if finish is not None:
                await finish()
            self.propagate(step, slot)

    def start_all(
        self, steps: Sequence[Step], slots: list[Outcome], scope: Scope = ()
    ) -> list[Finish]:
        finishes: list[Finish] = []
        for number, step in enumerate(steps):
            slot = slot_of(slots, number)
            finish = self.start(step, slot, scope)
            if finish is not None:
                finishes.append(finish)
            self.propagate(step, slot)
        return finishes

    def propagate(self, step: Step, slot: Outcome) -> None:
        if step.get("onError") == "propagate" and "error" in slot:
            raise slot["error"]

    def start(self, step: Step, slot: Outcome, scope: Scope) -> Finish | None:
        """Make the call of a step; what is left to await, if anything."""
        try:
            unknown = set(step) - KNOWN_KEYS
            if unknown:
                raise Unsupported(f"{step['op']} with {', '.join(sorted(unknown))}")
            result = self.call(step, scope, slot)
        except Exception as exc:
            self.fail(slot, exc)
            return None
        if not hasattr(result, "__await__") and not callable(result):
            self.succeed(step, slot, result)
            return None

        async def finish() -> None:
            try:
                awaitable = result() if callable(result) else result
                self.succeed(step, slot, await awaitable)
            except Exception as exc:
                self.fail(slot, exc)

        return finish

    def succeed(self, step: Step, slot: Outcome, value: Any) -> None:
        slot.pop("pending", None)
        if step["op"] in ("getAlarm", "txn.getAlarm") and value is not None:
            value = ms_from_date(value)
        slot["value"] = self.projected(step, value)

    def fail(self, slot: Outcome, exc: Exception) -> None:
        if isinstance(exc, ObjectResetError):
            raise exc  # not a step's error: the event is over
        if isinstance(exc, Unsupported):
            self.run.unsupported.append(str(exc))
        slot.pop("pending", None)
        slot["error"] = bare(exc)

    def projected(self, step: Step, value: Any) -> Any:
        kind = step.get("project")
        if kind is None or kind == "nowDelta":
            return value  # the expectation counts from the start of the case as well
        if kind == "nearNow":
            near = isinstance(value, int) and abs(value - self.run.clock.time_ms()) <= 5000
            return NEAR_NOW if near else value
        if kind == "typeof":
            return type_of(value)
        if kind in ("length", "size"):
            return len(value)
        if kind == "keys":
            return [pair[0] for pair in value] if isinstance(value, list) else list(value)
        raise Unsupported(f"project {kind}")

    def call(self, step: Step, scope: Scope, slot: Outcome) -> Any:
        """Return a step's value, an awaitable of it, or a function that gives the awaitable."""
        op: str = step["op"]
        if op in self.handlers:
            return self.handlers[op](step, scope, slot)
        if op.startswith("kv."):
            return self.kv_call(op[3:], step)
        if op.startswith("txn."):
            return self.storage_call(self.transaction_of(step, scope), op[4:], step)
        return self.storage_call(self.taking_part(op, scope), op, step)

    def taking_part(self, op: str, scope: Scope) -> Any:
        """Return what a step on the storage is performed on.

        The original's local build keeps the legacy backend in SQLite, where whatever is done during
        a transaction is a part of it. Documented, and here, is that only what goes through ``txn``
        is; so those steps go through the innermost transaction that is still open.
        """
        if self.run.case.get("backend") == "kv" and op in TAKING_PART:
            for txn in reversed(scope):
                if getattr(txn, "_state", None) == "open":
                    return txn
        return self.storage

    def arguments(self, step: Step) -> list[Any]:
        return decode_arguments(step.get("args", []), self.run.base_ms)

    def nested(self, slot: Outcome, part: str = "steps") -> list[Outcome]:
        slots: list[Outcome] = []
        slot[part] = slots
        return slots

    def returned(self, step: Step) -> Any:
        if "throw" in step:
            raise Error(step["throw"])
        return self.run.decode(step["return"]) if "return" in step else UNDEFINED

    # -- storage, its transactions, and the synchronous keys and values ---------------------

    def transaction_of(self, step: Step, scope: Scope) -> DurableObjectTransaction:
        if "txn" in step:
            return self.transactions[step["txn"]]
        return scope[-1 - step.get("depth", 0)]

    def storage_call(self, target: Any, op: str, step: Step) -> Any:
        arguments = self.arguments(step)
        if op == "put":
            positional = self.put_arguments(step, arguments)
        elif op in POSITIONAL:
            positional = arguments[: POSITIONAL[op]]
        else:
            raise Unsupported(f"op {step['op']}")
        rest = arguments[len(positional) :]
        while positional and positional[-1] is UNDEFINED:
            positional.pop()
        keywords = keyword_arguments(OPTIONS.get(op, {}), rest)
        if op == "get" and positional and isinstance(positional[0], str):
            keywords["default"] = UNDEFINED
        if op == "setAlarm" and positional:
            positional[0] = alarm_time(positional[0])
        if op == "getBookmarkForTime" and positional:
            positional[0] = bookmark_time(positional[0])
        if (
            op == "deleteAll"
            and self.run.case.get("deleteAllDeletesAlarm")
            and target is self.storage
        ):
            keywords["delete_alarm"] = True
        return getattr(target, snake_case(op))(*positional, **keywords)

    def put_arguments(self, step: Step, arguments: list[Any]) -> list[Any]:
        """Return key and value, or the entries; ``undefined`` as a value is no entry."""
        if not arguments or not isinstance(arguments[0], dict):
            return arguments[:2]
        written = step["args"][0]
        missing = [key for key, value in written.items() if value == {"$undefined": True}]
        entries = {key: value for key, value in arguments[0].items() if key not in missing}
        return [entries]

    def kv_call(self, op: str, step: Step) -> Any:
        arguments = self.arguments(step)
        if op not in ("get", "put", "delete"):
            raise Unsupported(f"op {step['op']}")
        if op == "put":
            # The synchronous put stores undefined; None is the nearest that we have.
            arguments = [None if item is UNDEFINED else item for item in arguments[:2]]
        keywords = {"default": UNDEFINED} if op == "get" else {}
        return getattr(self.storage.kv, op)(*arguments[: 2 if op == "put" else 1], **keywords)

    def kv_list(self, step: Step, _: Scope, __: Outcome) -> Any:
        pairs = self.storage.kv.list(**keyword_arguments(KV_LIST_OPTIONS, self.arguments(step)))
        iterator = Listing(pairs)
        if "as" in step:
            self.iterators[step["as"]] = iterator
        elif "use" not in step:
            return [list(pair) for pair in iterator]
        return self.used(iterator, step, use_iterator)

    def iterator(self, step: Step, _: Scope, __: Outcome) -> UseResults:
        return self.used(self.iterators[step["name"]], step, use_iterator)

    # -- SQL -------------------------------------------------------------------------------

    def sql_exec(self, step: Step, _: Scope, __: Outcome) -> UseResults:
        arguments = self.arguments(step)
        cursor = self.storage.sql.exec(*arguments[:1], *map(binding, arguments[1:]))
        if "as" in step:
            self.cursors[step["as"]] = cursor
        return self.used(cursor, step, use_cursor)

    def cursor(self, step: Step, _: Scope, __: Outcome) -> UseResults:
        return self.used(self.cursors[step["name"]], step, use_cursor)

    def used(self, thing: Any, step: Step, use: Callable[[Any, Any], Any]) -> UseResults:
        results = UseResults()
        for entry in step.get("use", ()):
            slot: Outcome = {}
            try:
                slot["value"] = use(thing, entry)
            except Exception as exc:
                self.fail(slot, exc)
            results.append(slot)
        return results

    def sql_database_size(self, _: Step, __: Scope, ___: Outcome) -> dict[str, Any]:
        size: int = self.storage.sql.database_size
        previous, self.database_size = self.database_size, size
        if previous is None:
            compared = "none"
        elif size == previous:
            compared = "same"
        else:
            compared = "grew" if size > previous else "shrank"
        return {"positive": size > 0, "pageMultiple": size % 4096 == 0, "vsPrev": compared}

    # -- transactions and critical sections --------------------------------------------------

    def transaction_sync(self, step: Step, scope: Scope, slot: Outcome) -> Any:
        slots = self.nested(slot)
        late: list[Finish] = []

        def callback() -> Any:
            for number, inner in enumerate(step.get("steps", ())):
                inner_slot = slot_of(slots, number)
                finish = self.start(inner, inner_slot, scope)
                if finish is not None:
                    late.append(finish)
                self.propagate(inner, inner_slot)
            return self.returned(step)

        async def async_callback() -> Any:
            result = callback()
            after = self.nested(slot, "afterAwait")
            await anyio.lowlevel.checkpoint()
            await self.perform_all(step.get("afterAwait", ()), after, scope)
            return result

        def outcome() -> Any:
            return self.storage.transaction_sync(
                async_callback if step.get("asyncCallback") else callback
            )

        try:
            value = outcome()
        except Exception as exc:
            error: Exception | None = exc
            value = None
        else:
            error = None
        if not late:
            if error is not None:
                raise error
            return value

        async def finish() -> Any:
            for one in late:
                await one()
            if error is not None:
                raise error
            return value

        if error is not None:
            self.fail(slot, error)  # known now, whatever its steps answer later
        return finish

    def transaction(self, step: Step, scope: Scope, slot: Outcome) -> Any:
        slots = self.nested(slot)
        late: list[Finish] = []

        def opened(txn: DurableObjectTransaction) -> Scope:
            if "as" in step:
                self.transactions[step["as"]] = txn
            return (*scope, txn)

        async def callback(txn: DurableObjectTransaction) -> Any:
            await self.perform_all(step.get("steps", ()), slots, opened(txn))
            if step.get("rollback"):
                rolled_back: Any = txn.rollback()
                if hasattr(rolled_back, "__await__"):
                    await rolled_back
            return self.returned(step)

        def sync_callback(txn: DurableObjectTransaction) -> Any:
            late.extend(self.start_all(step.get("steps", ()), slots, opened(txn)))
            if step.get("rollback"):
                txn.rollback()
            return self.returned(step)

        handle = self.storage.transaction(sync_callback if step.get("syncCallback") else callback)

        async def finish() -> Any:
            try:
                return await handle
            finally:
                for one in late:
                    await one()

        return finish

    def block_concurrency_while(self, step: Step, scope: Scope, slot: Outcome) -> Any:
        slots = self.nested(slot)

        async def callback() -> Any:
            await self.perform_all(step.get("steps", ()), slots, scope)
            return self.returned(step)

        return self.ctx.block_concurrency_while(callback)

    # -- the event itself --------------------------------------------------------------------

    def unawaited(self, step: Step, scope: Scope, slot: Outcome) -> Any:
        finishes = self.start_all(step["steps"], self.nested(slot), scope)
        then = step.get("then")
        if then == "abort":
            self.ctx.abort("aborted by case")
        if then not in (None, "throw"):
            raise Unsupported(f"unawaited then {then}")

        async def finish() -> bool:
            if then == "throw":
                raise HandlerFailed("handler failed")
            for one in finishes:
                await one()
            return True

        return finish

    def tick(self, step: Step, _: Scope, __: Outcome) -> Any:
        async def wait() -> bool:
            await self.run.timeline.sleep(step.get("ms", 1))
            return True

        return wait

    def abort(self, step: Step, _: Scope, __: Outcome) -> None:
        if "reason" in step:
            self.ctx.abort(step["reason"])
        self.ctx.abort()

    def throw_from_handler(self, step: Step, _: Scope, __: Outcome) -> None:
        raise HandlerFailed(step.get("message", "handler failed"))

    # -- live values, and probes -------------------------------------------------------------

    def let(self, step: Step, _: Scope, __: Outcome) -> bool:
        self.variables[step["name"]] = self.run.decode(step["value"])
        return True

    def mutate(self, step: Step, _: Scope, __: Outcome) -> bool:
        self.variables[step["name"]][step["key"]] = self.run.decode(step["value"])
        return True

    def get_variable(self, step: Step, _: Scope, __: Outcome) -> Any:
        reading = self.storage.get(step["key"], UNDEFINED)

        async def finish() -> Any:
            value = self.variables[step["name"]] = await reading
            return copy.deepcopy(value)

        return finish

    def kv_get_variable(self, step: Step, _: Scope, __: Outcome) -> Any:
        value = self.variables[step["name"]] = self.storage.kv.get(step["key"], UNDEFINED)
        return copy.deepcopy(value)

    def has_method(self, step: Step, _: Scope, __: Outcome) -> str:
        target: Any = self.ctx if step.get("on") == "ctx" else self.storage
        for part in step["name"].split("."):
            if not hasattr(target, snake_case(part)):
                return "undefined"
            target = getattr(target, snake_case(part))
        return "function" if callable(target) else "object"

    def bookmark_order(self, step: Step, _: Scope, __: Outcome) -> Any:
        async def finish() -> bool:
            first = await self.storage.get_current_bookmark()
            self.storage.put("bookmarkOrder", first)
            await self.storage.sync()
            return first < await self.storage.get_current_bookmark()

        return finish


class HandlerFailed(BaseException):
    """Carries an exception out of the event, past the steps that catch errors."""


class Listing:
    """An iterator that raises again what it raised, as the original's; Python's end with it."""

    def __init__(self, pairs: Iterator[Any]) -> None:
        self._pairs = pairs
        self._error: Exception | None = None

    def __iter__(self) -> Listing:
        return self

    def __next__(self) -> Any:
        if self._error is not None:
            raise self._error
        try:
            return next(self._pairs)
        except StopIteration:
            raise
        except Exception as exc:
            self._error = bare(exc)
            raise


def keyword_arguments(known: Mapping[str, str], rest: Sequence[Any]) -> dict[str, Any]:
    """Return the options of a call as keywords; JavaScript ignores those it does not know."""
    keywords: dict[str, Any] = {}
    for options in rest:
        if not isinstance(options, dict):
            continue
        for name, value in options.items():
            if name in known and value is not UNDEFINED and value is not None:
                if isinstance(value, float) and math.isfinite(value):
                    value = math.trunc(value)  # a number that is converted to an integer there
                keywords[known[name]] = value
    return keywords


def type_of(value: Any) -> str:
    if value is UNDEFINED:
        return "undefined"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "object"


def binding(value: Any) -> Any:
    """Return a binding as the original bound it: every number is a REAL."""
    if value is UNDEFINED:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def alarm_time(value: Any) -> Any:
    """Return a recorded alarm time as this API takes it.

    JavaScript drops fractions of a millisecond. Here a small number is refused, since it can
    only be a mistake for seconds, so it is passed as the moment it stands for.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value
    whole = int(value)
    return date_from_ms(whole) if 0 < whole < PLAUSIBLE_MS else whole


def bookmark_time(value: Any) -> Any:
    if isinstance(value, int | float) and math.isfinite(value):
        return EPOCH + timedelta(milliseconds=value)
    return value


def stepped(iterator: Any) -> dict[str, Any]:
    value = next(iterator, END)
    if value is END:
        return {"done": True}
    return {"done": False, "value": list(value) if isinstance(value, tuple) else value}


def taken(iterator: Any, count: int) -> list[Any]:
    items: list[Any] = []
    for item in iterator:
        items.append(list(item) if isinstance(item, tuple) else item)
        if len(items) >= count:
            break
    return items


def use_cursor(cursor: Any, entry: Any) -> Any:
    match entry:
        case "toArray":
            return cursor.to_array()
        case "one":
            return cursor.one()
        case "iter":
            return list(cursor)
        case "raw" | "rawToArray":
            return [list(row) for row in cursor.raw()]
        case "next" | "iterNext":
            return stepped(cursor)
        case "rawNext":
            return stepped(cursor.raw())
        case {"take": int(count)}:
            return taken(cursor, count)
        case {"rawTake": int(count)}:
            return taken(cursor.raw(), count)
        case "columnNames":
            return list(cursor.column_names)
        case "rowsRead":
            return cursor.rows_read
        case "rowsWritten":
            return cursor.rows_written
        case _:
            raise Unsupported(f"use {entry!r} of a cursor")


def use_iterator(iterator: Any, entry: Any) -> Any:
    match entry:
        case "next":
            return stepped(iterator)
        case "rest":
            return [list(pair) for pair in iterator]
        case {"take": int(count)}:
            return taken(iterator, count)
        case _:
            raise Unsupported(f"use {entry!r} of an iterator")


# --- objects ------------------------------------------------------------------------------


class Env:
    """What the objects of a run share: the cases that are running, by the name of the object."""

    def __init__(self) -> None:
        self.runs: dict[str, CaseRun] = {}


class SilentObject(DurableObject):
    """An object that performs what its case asks for, and has no alarm handler."""

    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        name = ctx.id.name
        assert name is not None
        self._run: CaseRun = env.runs[name]
        self._player = Player(ctx, self._run)
        steps = self._run.case.get("onStart")
        if steps is not None and not self._run.finished:
            slots: list[Outcome] = []
            self._run.starts.append(slots)

            async def start() -> None:
                await self._player.perform_all(steps, slots)

            ctx.block_concurrency_while(start)

    async def play(self, steps: Sequence[Step], slots: list[Outcome]) -> None:
        """Perform the steps of one event."""
        try:
            await self._player.perform_all(steps, slots)
        except HandlerFailed as exc:
            raise Error(str(exc)) from None


class AlarmedObject(SilentObject):
    """The same with an alarm handler."""

    async def alarm(self, alarm_info: AlarmInvocationInfo) -> None:
        run = self._run
        if run.finished:
            return
        slots: list[Outcome] = []
        number = len(run.alarms)
        run.alarms.append(
            {
                "isRetry": alarm_info.is_retry,
                "retryCount": alarm_info.retry_count,
                "scheduledTime": ms_from_date(alarm_info.scheduled_time),
                "steps": slots,
            }
        )
        try:
            await self._player.perform_all(run.case.get("alarmSteps", ()), slots)
        finally:
            run.alarms_done += 1
        if number < run.case.get("alarmThrows", 0):
            raise Error("alarm failed")


# --- the driver ---------------------------------------------------------------------------


class Driver:
    """Delivers the events of one case and does what only the outside can."""

    def __init__(self, run: CaseRun, stub: Any) -> None:
        self.run = run
        self.stub = stub

    async def drive(self) -> BaseException | None:
        """Run the whole case; the error of the last event, which no step reports."""
        steps, slots = self.run.case["steps"], self.run.slots
        number = 0
        while True:
            end = number
            while end < len(steps) and steps[end]["op"] not in OUTSIDE:
                end += 1
            try:
                await self.stub.play(steps[number:end], slots[number:end])
                error: Exception | None = None
            except Exception as exc:
                error = exc
            if error is not None:
                died = next((i for i in range(number, end) if "pending" in slots[i]), None)
                if died is not None:
                    slots[died]["eventError"] = error
                    number = died + 1
                    continue
            if end == len(steps):
                return error
            await self.outside(steps[end], slots[end], error)
            number = end + 1

    async def outside(self, step: Step, slot: Outcome, error: Exception | None) -> None:
        slot.pop("pending", None)
        if error is not None:
            slot["error"] = error
        if step["op"] == "endEvent":
            value: Any = "ok"
        elif step["op"] == "restart":
            await evict_durable_object(self.stub)
            value = "ok"
        elif step["op"] == "waitAlarm":
            value = await self.wait_alarm(step.get("count", 1), step.get("timeoutMs", 3000))
        else:
            slot["events"] = await self.parallel_events(step)
            value = "ok"
        if error is None:
            slot["value"] = value

    async def wait_alarm(self, count: int, timeout_ms: int) -> int:
        run = self.run
        await run.clock.advance(0)
        for _ in range(0, timeout_ms, 50):
            if run.alarms_done >= count:
                break
            await run.clock.advance(timedelta(milliseconds=50))
        await anyio.sleep(0.002)
        await run.clock.advance(0)
        return run.alarms_done

    async def parallel_events(self, step: Step) -> list[Outcome]:
        outcomes: list[Outcome] = []

        async def deliver(number: int, steps: Sequence[Step], outcome: Outcome) -> None:
            await self.run.timeline.sleep(number * step.get("staggerMs", 25))
            try:
                await self.stub.play(steps, outcome["steps"])
            except Exception as exc:
                outcome["error"] = exc
            outcome["delivered"] = "error" not in outcome

        async with anyio.create_task_group() as tasks:
            for number, event in enumerate(step["events"]):
                outcomes.append({"steps": []})
                tasks.start_soon(deliver, number, event["steps"], outcomes[-1])
        return outcomes


class Session:
    """The runtimes that cases share; each case has an object of its own."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.env = Env()
        self.runtimes: dict[tuple[bool, bool], Runtime] = {}
        self.stack = AsyncExitStack()
        self.count = 0

    async def __aenter__(self) -> Session:
        await self.stack.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.stack.__aexit__(*exc_info)

    async def runtime(self, case: Case) -> Runtime:
        """Return a runtime with what the case needs: a history, a serializer that knows cycles."""
        steps = repr(case["steps"])
        needs = bookmarks, cycles = "ookmark" in steps, "$cycle" in steps
        if needs not in self.runtimes:
            self.runtimes[needs] = await self.stack.enter_async_context(
                Runtime(
                    env=self.env,
                    durability="os",
                    clock=self.clock,
                    history=History() if bookmarks else History(enabled=False),
                    serializer=PickleSerializer() if cycles else MsgpackSerializer(),
                )
            )
        return self.runtimes[needs]

    async def run_case(self, case: Case, slowness: float = 1.0) -> Result:
        backend = case.get("backend", "sqlite")
        if backend not in ("sqlite", "kv"):
            return failure(case, f"unknown backend {backend}")
        cls = AlarmedObject if case.get("alarmHandler", True) else SilentObject
        runtime = await self.runtime(case)
        storage = "sqlite" if backend == "sqlite" else "kv"
        namespace = runtime.namespace(cls, name=f"{cls.__name__}-{storage}", storage=storage)
        self.count += 1
        name = f"{case['name']} {self.count}"
        run = self.env.runs[name] = CaseRun(case, self.clock.time_ms(), self.clock, slowness)
        last_error: BaseException | None = None
        try:
            with anyio.fail_after(20):
                async with run.timeline.running():
                    last_error = await Driver(run, namespace.get_by_name(name)).drive()
        except TimeoutError:
            return failure(case, "did not finish within 20 s")
        except Exception as exc:
            return failure(case, f"the run broke: {show(exc)}")
        finally:
            run.finished = True
        try:
            return judged(run, last_error)
        except Exception as exc:
            return failure(case, f"the expectation is not understood: {show(exc)}")


def failure(case: Case, reason: str) -> Result:
    return Result(case["name"], case["suite"], "failed", reason)


# --- judging ------------------------------------------------------------------------------


def judged(run: CaseRun, last_error: BaseException | None) -> Result:
    case = run.case
    result = Result(case["name"], case["suite"], "passed")
    if run.unsupported:
        result.verdict, result.reason = "failed", "not understood: " + "; ".join(run.unsupported)
        return result
    found = list(differences(run))
    if "limit-differs-from-docs" in case.get("tags", ()):
        if not found:
            result.verdict = "failed"
            result.reason = "the documented limit was not enforced"
            return result
        number, where = found[0]
        if number is not None and stopped_by_limit(case, number, run.slots[number]):
            return result
        found = [(number, where)]
    if last_error is not None and not isinstance(last_error, DurableStorageError | Error):
        found.append((None, Difference("after the last step", "no error", show(last_error))))
    if found:
        result.verdict = "failed"
        result.differences = [where for _, where in found]
    return result


def differences(run: CaseRun) -> list[tuple[int | None, Difference]]:
    """Return what is not as recorded, with the number of the step where it is one's."""
    found: list[tuple[int | None, Difference]] = []
    expect = run.case.get("expect", {})

    def compare(
        label: str,
        steps: Sequence[Step],
        expected: Sequence[Outcome],
        got: Sequence[Outcome],
        numbered: bool = False,
    ) -> None:
        if len(expected) != len(got):
            found.append((None, Difference(label, f"{len(expected)}", f"{len(got)}")))
            return
        for number, (step, answer, ours) in enumerate(zip(steps, expected, got, strict=True)):
            why = difference(step, answer, ours, run.base_ms)
            if why is not None:
                where = f"{label}[{number}] {show(dict(step), 300)}: {why}"
                found.append(
                    (
                        number if numbered else None,
                        Difference(where, show(answer), show(ours)),
                    )
                )

    if "steps" not in expect:
        return [(None, Difference("steps", "recorded outcomes", "the case has none"))]
    compare("steps", run.case["steps"], expect["steps"], run.slots, numbered=True)
    if "starts" in expect:
        if len(expect["starts"]) != len(run.starts):
            found.append(
                (None, Difference("starts", f"{len(expect['starts'])}", f"{len(run.starts)}"))
            )
        for number, (answer, ours) in enumerate(zip(expect["starts"], run.starts, strict=False)):
            compare(f"starts[{number}]", run.case["onStart"], answer, ours)
    if "alarms" in expect:
        if len(expect["alarms"]) != len(run.alarms):
            found.append((None, Difference("alarms", show(expect["alarms"]), show(run.alarms))))
        for number, (answer, ours) in enumerate(zip(expect["alarms"], run.alarms, strict=False)):
            for key in ("isRetry", "retryCount"):
                if key in answer and answer[key] != ours[key]:
                    where = f"alarms[{number}].{key}"
                    found.append((None, Difference(where, show(answer[key]), show(ours[key]))))
            if "scheduledTime" in answer and not same_scheduled_time(run, answer, ours):
                where = f"alarms[{number}].scheduledTime"
                found.append(
                    (
                        None,
                        Difference(
                            where, show(answer["scheduledTime"]), show(ours["scheduledTime"])
                        ),
                    )
                )
            compare(
                f"alarms[{number}].steps",
                run.case.get("alarmSteps", ()),
                answer.get("steps", ()),
                ours["steps"],
            )
    return found


def same_scheduled_time(run: CaseRun, answer: Outcome, ours: Outcome) -> bool:
    wanted = decode(answer["scheduledTime"], run.base_ms, expected=True)
    if wanted is NEAR_NOW:
        return bool(abs(ours["scheduledTime"] - run.clock.time_ms()) <= 10_000)
    return bool(wanted == ours["scheduledTime"])


def stopped_by_limit(case: Case, number: int, got: Outcome) -> bool:
    """Tell whether the library refused, for a limit, what the original let pass."""
    limits: tuple[type[Exception], ...] = (LimitExceededError, SqlError)
    if case["steps"][number]["op"] == "transactionSync":
        limits = (DurableStorageError,)  # documented as not offered by the legacy backend
    elif "error" in case["expect"]["steps"][number]:
        return False

    def refused(outcome: Any) -> bool:
        if not isinstance(outcome, dict):
            return False
        inner = [*outcome.get("steps", ()), *outcome.get("events", ())]
        value = outcome.get("value")
        if isinstance(value, UseResults):
            inner.extend(value)
        return isinstance(outcome.get("error"), limits) or any(map(refused, inner))

    return refused(got)


# --- running many -------------------------------------------------------------------------


async def run_cases(cases: Sequence[Case]) -> list[Result]:
    """Run cases one after the other; the ones of a suite share a runtime."""
    results: list[Result] = []
    suites: dict[str, list[Case]] = {}
    for case in cases:
        suites.setdefault(case["suite"], []).append(case)
    for members in suites.values():
        waiting = list(members)
        while waiting:
            async with Session() as session:
                while waiting:
                    case = waiting.pop(0)
                    reason = skip_reason(case)
                    if reason is not None:
                        results.append(Result(case["name"], case["suite"], "skipped", reason))
                        continue
                    result = await session.run_case(case)
                    for slowness in CHANCES_SLOWNESS:
                        # A busy machine is not taken for a wrong order.
                        if result.verdict == "failed" and PARALLEL in repr(case["steps"]):
                            result = await session.run_case(case, slowness)
                    if result.verdict == "failed" and PLANNER_TAG in case.get("tags", ()):
                        uncounted = await session.run_case(without_counts(case))
                        if uncounted.verdict == "passed":
                            result = Result(
                                case["name"], case["suite"], "skipped", f"{PLANNER_TAG}: {PLANNER}"
                            )
                    results.append(result)
                    if results[-1].reason.startswith("did not finish"):
                        break  # what it left behind is not the next case's concern
    return results


def run(cases: list[Case], backend: Backend) -> list[Result]:
    """Run cases on an event loop of their own."""
    return anyio.run(run_cases, cases, backend=backend)


if __name__ == "__main__":
    report.main("Run recorded single-object cases against the library.", "steps", run)
