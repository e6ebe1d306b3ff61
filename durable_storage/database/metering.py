"""Rows read and written, from SQLite's own program for a statement.

The original runtime counts inside a patched SQLite; Python's module tells nothing of the kind. But
EXPLAIN shows the program, and some things about a run are known: the rows it returned, the rows
it changed, the entries of the tables it scanned and the instructions it executed. How often every
branch was taken is then a solution of linear equations: what flows into an instruction flows out
of it. Where they leave a choice, the least surprising run is taken: the one with the fewest
misses, conflicts and rejected rows.

The rules for what counts are in the recorded findings of the original runtime: positioning on the
first entry, each lookup of a rowid, each step to another entry, each entry that a seek in an index
lands on; each row and each index entry inserted, each row deleted, each write to a virtual table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from .program import START, Op, Program, Weights
from .simplex import minimise

__all__ = ["Entries", "Observation", "analyse", "scanned_roots"]

Entries = Callable[[int], int | None]
"""How many entries the table or index with a root page has, ``None`` when that is not known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What is known about a run.

    Attributes:
        rows: how often a row was produced, one that is not read yet included.
        finished: the program ran to its end.
        changes: rows inserted, updated and deleted, those of triggers included; ``None`` when
            not known.
        steps: instructions executed; ``None`` when not known.
        delivered: how many of the rows were read, when a read was observed.
    """

    rows: int
    finished: bool
    changes: int | None
    steps: int | None
    delivered: int


class Equation(NamedTuple):
    """A sum of unknowns and its value."""

    sum: Weights
    value: float


class Bound(NamedTuple):
    """What a sum of unknowns is at most, and how surprising every one less would be."""

    sum: Weights
    most: float
    surprise: float


_STARTS: Final = frozenset({"Rewind", "Last", "Sort", "SorterSort"})
_SEEKS: Final = frozenset({"SeekGE", "SeekGT", "SeekLE", "SeekLT"})
_STEPS: Final = frozenset({"Next", "Prev", "SorterNext"})
_LOOPS: Final = _STEPS | {"VNext"}
_RANGE_TESTS: Final = frozenset({"IdxGT", "IdxGE", "IdxLT", "IdxLE"})
_COMPARES: Final = frozenset({"Gt", "Ge", "Lt", "Le", "Ne", "Eq", "If", "IfNot"})
_NULL_TESTS: Final = frozenset({"IsNull", "NotNull"})
# What ends a loop over a table before its last entry.
_LEAVES: Final = _RANGE_TESTS | _COMPARES | {"DecrJumpZero", "IfNotZero", "Goto"}
_RUN_OTHERS: Final = frozenset({"VOpen", "VFilter", "VUpdate", "ParseSchema"})

_COUNTS_CHANGE: Final = 1  # OPFLAG_NCHANGE, in P5 of Insert and IdxInsert and in P2 of Delete
_IS_NO_OP: Final = 64  # OPFLAG_ISNOOP: an Insert that only tells hooks of a table without rowid
_IS_UPDATE: Final = 4  # OPFLAG_ISUPDATE, in the same places

_MANY: Final = 10_000.0
_UNKNOWNS_MAX: Final = 200
_BRANCHINGS_MAX: Final = 40
_HALF: Final = 0.5 - 1e-5  # how far from a half a whole number is, rounding errors included


def analyse(program: Program, seen: Observation, entries: Entries) -> tuple[int, int]:
    """Return the rows read and written by the likeliest run that agrees with what was seen."""
    if program.unknowns > _UNKNOWNS_MAX:
        return _estimate(program, seen)
    certain = list(_flow(program, seen))
    cost = _surprises(program)
    for bound in (*_coroutines(program), *_bounds(program)):
        slack = len(cost)
        cost.append(bound.surprise)
        certain.append(Equation({**bound.sum, slack: 1.0}, bound.most))
    known = list(_known(program, seen, entries))
    # What is known may contradict the program, as when a table was changed meanwhile. Then the
    # least certain goes first.
    solution = _solve(cost, certain + known)
    while solution is None and known:
        known.pop()
        solution = _solve(cost, certain + known)
    if solution is None:
        return 0, 0
    reads, more_reads = _reads(program, entries)
    writes, more_writes = _writes(program, seen)
    return (
        more_reads + round(sum(factor * solution[x] for x, factor in reads.items())),
        more_writes + round(sum(factor * solution[x] for x, factor in writes.items())),
    )


def _estimate(program: Program, seen: Observation) -> tuple[int, int]:
    """Return the counts of a program as long as that of an INSERT of hundreds of rows.

    Every row is taken to be read once, or to be written to the table and all of its indexes.
    """
    writes, more = _writes(program, seen)
    return seen.rows, more or int(sum(writes.values())) * (seen.changes or 0)


def _solve(cost: list[float], equations: list[Equation]) -> list[float] | None:
    """Return the least surprising solution in whole numbers, by branch and bound."""
    pending: list[list[Equation]] = [[]]
    best: list[float] | None = None
    best_cost = float("inf")
    for _ in range(_BRANCHINGS_MAX):
        if not pending:
            break
        bounds = pending.pop()
        slack = len(cost) + len(bounds)
        solution = minimise([*cost, *[0.0] * len(bounds)], equations + bounds)
        if solution is None:
            continue
        total = sum(c * x for c, x in zip(cost, solution, strict=False))
        if total >= best_cost - 1e-6:
            continue
        part = next((x for x in range(len(cost)) if abs(solution[x] % 1.0 - 0.5) < _HALF), None)
        if part is None:
            best, best_cost = solution, total
            continue
        whole = float(int(solution[part]))
        pending.append([*bounds, Equation({part: 1.0, slack: -1.0}, whole + 1.0)])
        pending.append([*bounds, Equation({part: 1.0, slack: 1.0}, whole)])
    return best


def _add(total: Weights, weights: Weights, factor: float = 1.0) -> Weights:
    for unknown, weight in weights.items():
        total[unknown] = total.get(unknown, 0.0) + factor * weight
    return total


# ---- what counts


def _reads(program: Program, entries: Entries) -> tuple[Weights, int]:
    reads: Weights = {}
    more = 0
    for i, op in enumerate(program.ops):
        name = op.name
        if name in _STARTS or name in ("NotExists", "SeekRowid", "VNext"):
            _add(reads, program.count(i))
        elif name in _SEEKS:
            _add(reads, program.falls(i) if program.is_index(i, op.p1) else program.count(i))
        elif name in _STEPS:
            _add(reads, program.jumps(i))
        elif name == "Count":
            root = program.root(i, op.p1)
            more += (root and entries(root)) or 0
    return reads, more


def _writes(program: Program, seen: Observation) -> tuple[Weights, int]:
    writes: Weights = {}
    more = 0
    for i, op in enumerate(program.ops):
        if op.name == "VUpdate":
            _add(writes, program.count(i))
        elif program.is_temporary(i, op.p1) or (op.name == "Insert" and op.p5 & _IS_NO_OP):
            continue
        elif op.name in ("Insert", "IdxInsert") or (op.name == "Delete" and op.p2 & _COUNTS_CHANGE):
            _add(writes, program.count(i))
        elif op.name == "Clear" and op.p3:
            more += seen.changes or 0
    return writes, more


# ---- what is certain


def _flow(program: Program, seen: Observation) -> Iterator[Equation]:
    """Yield that what comes in goes out, at every instruction."""
    calls = [i for i, op in enumerate(program.ops) if op.name == "Program"]
    for start, call in zip(program.starts, [None, *calls], strict=False):
        entry = program.entered(start, [START])
        if call is None:
            yield Equation(entry, 1.0)
        else:
            yield Equation(_add(entry, program.count(call), -1.0), 0.0)
    for i, op in enumerate(program.ops):
        balance = _add(program.count(i), program.leaving(i), -1.0)
        if any(balance.values()):
            yield Equation(balance, 0.0)
        if op.name == "Gosub":  # returns as often as it calls
            returns = [k for k in program.sources(i + 1) if program.ops[k].name == "Return"]
            yield Equation(_add(program.entered(i + 1, returns), program.count(i), -1.0), 0.0)
        # A run that is not finished stands at a row.
        elif (op.name == "ResultRow" and seen.finished) or (
            op.name == "Halt" and not seen.finished
        ):
            yield Equation(program.jumps(i), 0.0)


def _coroutines(program: Program) -> Iterator[Bound]:
    """Yield that a coroutine goes on as often as it gave a row, or less when nobody asks."""
    for i, op in enumerate(program.ops):
        if op.name == "InitCoroutine":
            place = program.base[i] + op.p3
        elif op.name == "Yield" and program.produces(i, op.p1):
            place = i + 1
        else:
            continue
        askers = [k for k in program.sources(place) if k != i and program.ops[k].name == "Yield"]
        yield Bound(_add(program.entered(place, askers), program.count(i), -1.0), 0.0, 50.0)


def _bounds(program: Program) -> Iterator[Bound]:
    """Yield what the program's order says about its branches."""
    for i, op in enumerate(program.ops):
        start = program.base[i] + op.p2
        if op.name in _LOOPS and start <= i:
            # Nothing goes round that was not entered.
            again = program.jumps(i)
            for k in range(start, i + 1):
                outside = [source for source in program.sources(k) if not start <= source <= i]
                _add(again, program.entered(k, outside), -_MANY)
            yield Bound(again, 0.0, 0.0)
        elif op.name == "Once" and program.base[i] == 0:
            # Goes on the first time and jumps every other time.
            yield Bound(program.falls(i), 1.0, 0.0)
            yield Bound(_add(program.jumps(i), program.falls(i), -_MANY), 0.0, 0.0)
        elif op.name == "DecrJumpZero":
            limits = [
                k
                for k, other in enumerate(program.ops)
                if (other.name, other.p2) == ("Integer", op.p1)
                and other.p1 > 0
                and program.base[k] == program.base[i]
            ]
            if len(limits) == 1:
                most = program.ops[limits[0]].p1 - 1
                yield Bound(_add(program.falls(i), program.count(limits[0]), -most), 0.0, 0.0)


# ---- what is known


def _known(program: Program, seen: Observation, entries: Entries) -> Iterator[Equation]:
    """Yield what is known of this run, the most certain first."""
    rows: Weights = {}
    changes: Weights = {}
    steps: Weights = {}
    for i, op in enumerate(program.ops):
        _add(steps, program.count(i))
        if op.name == "ResultRow":
            _add(rows, program.count(i))
        elif _counts_change(op):
            _add(changes, program.count(i))
    # The statements that a virtual table or the reading of the schema runs are counted too.
    nested = any(op.name in _RUN_OTHERS for op in program.ops)
    yield Equation(rows, float(seen.rows))
    if changes and seen.changes is not None and not nested:
        yield Equation(changes, float(seen.changes))
    yield from _scans(program, seen, entries)
    if seen.steps is not None and not nested:
        yield Equation(steps, float(seen.steps))
    yield from _temporary_scans(program)


def _counts_change(op: Op) -> bool:
    if op.name == "Insert" and op.p5 & _IS_NO_OP:
        return False
    flags = op.p5 if op.name in ("Insert", "IdxInsert") else op.p2 if op.name == "Delete" else 0
    return bool(flags & _COUNTS_CHANGE)


def scanned_roots(program: Program) -> list[int]:
    """Return the root pages whose number of entries matters."""
    roots = {
        program.root(i, op.p1)
        for i, op in enumerate(program.ops)
        if op.name in ("Rewind", "Last", "Count")
    }
    return sorted(root for root in roots if root is not None)


def _scans(program: Program, seen: Observation, entries: Entries) -> Iterator[Equation]:
    """Yield how often the loops over whole tables and sorters go round."""
    ops = program.ops
    for i, op in enumerate(ops):
        step = _step_of(program, i) if op.name in _STARTS else None
        if step is None or _leaves_early(program, step, seen):
            continue
        again = program.jumps(step)
        if op.name == "SorterSort":
            inserts = _named(program, i, "SorterInsert")
            yield Equation(_add(_add(again, program.falls(i)), inserts, -1.0), 0.0)
            continue
        count = _entries_before(program, i, seen, entries)
        if count == 0:
            yield Equation(program.falls(i), 0.0)
        elif count is not None:
            yield Equation(program.jumps(i), 0.0)
            yield Equation(_add(again, program.falls(i), 1.0 - count), 0.0)


def _step_of(program: Program, i: int) -> int | None:
    """Return the instruction that goes to the next entry of a scan, if there is only one."""
    steps = [
        k
        for k, step in enumerate(program.ops)
        if step.name in _STEPS
        and step.p1 == program.ops[i].p1
        and program.base[k] == program.base[i]
    ]
    return steps[0] if len(steps) == 1 else None


def _leaves_early(program: Program, step: int, seen: Observation) -> bool:
    body = range(program.base[step] + program.ops[step].p2, step + 1)
    for k in body:
        name = program.ops[k].name
        if name in _LEAVES and any(target not in body for target in program.targets(k)):
            return True
        if not seen.finished and name in ("ResultRow", "Yield", "Gosub"):
            return True
    return False


def _named(program: Program, i: int, *names: str) -> Weights:
    """Return how often instructions of these names were executed on the cursor of ``i``."""
    total: Weights = {}
    for k, op in enumerate(program.ops):
        if op.name in names and op.p1 == program.ops[i].p1 and program.base[k] == program.base[i]:
            _add(total, program.count(k))
    return total


def _entries_before(program: Program, i: int, seen: Observation, entries: Entries) -> int | None:
    """Return how many entries the table of a cursor had before the run, if that is known."""
    root = program.root(i, program.ops[i].p1)
    now = None if root is None else entries(root)
    if now is None:
        return None
    changed = {
        op.name
        for k, op in enumerate(program.ops)
        if program.root(k, op.p1) == root
        and _counts_change(op)
        and not (op.p2 if op.name == "Delete" else op.p5) & _IS_UPDATE
    }
    if not changed:
        return now
    if len(changed) > 1 or seen.changes is None or len(program.starts) > 1:
        return None
    return now + seen.changes if changed == {"Delete"} else now - seen.changes


def _temporary_scans(program: Program) -> Iterator[Equation]:
    """Yield that what was collected in this run is gone through once, with nothing twice in it."""
    for i, op in enumerate(program.ops):
        if op.name == "RowSetRead":
            yield Equation(_add(program.falls(i), _named(program, i, "RowSetAdd"), -1.0), 0.0)
        elif op.name == "Rewind" and program.is_temporary(i, op.p1):
            step = _step_of(program, i)
            inserts = _named(program, i, "IdxInsert", "Insert")
            if step is not None and inserts:
                rounds = _add(program.falls(i), program.jumps(step))
                yield Equation(_add(rounds, inserts, -1.0), 0.0)


# ---- what is likely


def _surprises(program: Program) -> list[float]:
    """Return how surprising each unknown is."""
    cost = [0.001] * program.unknowns
    for unlikely, surprise in _unlikely(program):
        for unknown in unlikely:
            cost[unknown] += surprise
    return cost


def _unlikely(program: Program) -> Iterable[tuple[Weights, float]]:
    ops = program.ops
    loops = [
        range(program.base[i] + op.p2, i + 1)
        for i, op in enumerate(ops)
        if op.name in _LOOPS and program.base[i] + op.p2 <= i
    ]
    for i, op in enumerate(ops):
        name = op.name
        if (name == "Halt" and op.p1) or name == "MustBeInt":  # an error
            yield program.jumps(i), 1000.0
        elif name == "Le" and ops[i + 1].name == "OpenWrite":
            # AUTOINCREMENT wrote a row, so that its sequence has to follow.
            yield program.jumps(i), 1000.0
        elif name == "NotNull" and ops[i + 1].name in ("HaltIfNull", "Halt", "NewRowid"):
            yield program.falls(i), 500.0
        elif name == "NoConflict":
            yield program.falls(i), 50.0
        elif name == "IsNull" and ops[i + 1].name == "IdxInsert":  # a partial index
            yield program.jumps(i), 2.0
        elif name in _STARTS or name in ("IsNull", "IfNullRow"):
            yield program.jumps(i), 100.0
        elif name in _SEEKS or name in ("SeekRowid", "NotExists", "NotFound"):
            yield program.jumps(i), 30.0
        elif name == "Once" or (name in _STEPS and _ends_by_test(program, i)):
            yield program.falls(i), 3.0
        elif name == "IfPos" and ops[i + 1].name == "NullRow":  # a left join without a match
            yield program.falls(i), 2.0
        elif name in _COMPARES or name in _NULL_TESTS:
            target = program.base[i] + op.p2
            if any(i in loop and target in loop for loop in loops):
                # The later a row is rejected, the more surprising.
                yield program.jumps(i), 1.0 + 0.001 * i


def _ends_by_test(program: Program, i: int) -> bool:
    """Return whether a loop has a test for the end of a range, which usually ends it."""
    base = program.base[i]
    return any(
        op.name in _RANGE_TESTS or op.name in ("Gt", "Ge")
        for op in program.ops[base + program.ops[i].p2 : i]
        if base + op.p2 == i + 1
    )
