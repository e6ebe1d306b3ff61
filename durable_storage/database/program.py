"""SQLite's program for a statement as a graph, read from what EXPLAIN lists.

Instructions are the nodes; how often each way between them was taken are the unknowns of the
metering. Where an instruction has one way in and one way out, both are the same unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, final

__all__ = ["END", "START", "Op", "Program", "Weights"]

Weights = dict[int, float]
"""A sum of unknowns: the factor of each."""

START: Final = -1
END: Final = -2

# Instructions that may jump to P2 and otherwise go on. (Opcodes of SQLite 3.40 to 3.50.)
_BRANCHES: Final = frozenset(
    name
    for group in (
        "MustBeInt Once If IfNot IsType IsNull NotNull IfNullRow Ne Eq Gt Le Lt Ge ElseEq SeekLT",
        "SeekLE SeekGE SeekGT IfNoHope NoConflict NotFound Found SeekRowid NotExists Last",
        "IfSmaller IfSizeBetween IfEmpty SorterSort Sort Rewind SorterNext Prev Next IdxLE IdxGT",
        "IdxLT IdxGE RowSetRead RowSetTest FkIfZero IfPos IfNotZero DecrJumpZero IncrVacuum",
        "VFilter VNext Filter SeekScan SorterCompare VInitIn Program",
    )
    for name in group.split()
)
_TEMPORARY: Final = frozenset(
    {"OpenEphemeral", "OpenAutoindex", "SorterOpen", "OpenPseudo", "OpenDup"}
)
_OPENS: Final = _TEMPORARY | {"OpenRead", "OpenWrite", "ReopenIdx"}
_RANGE_TESTS: Final = frozenset({"IdxGT", "IdxGE", "IdxLT", "IdxLE"})
_SEEKS_EQUAL: Final = 2  # P5 of OpenRead and OpenWrite: OPFLAG_SEEKEQ
_ROOT_IN_REGISTER: Final = 16  # OPFLAG_P2ISREG


class Op(NamedTuple):
    """One instruction, as a row of EXPLAIN."""

    address: int
    name: str
    p1: int
    p2: int
    p3: int
    p4: object
    p5: int
    comment: object


class Way(NamedTuple):
    """From one instruction to another, by a jump or by going on."""

    source: int
    target: int
    jump: bool


@final
class Program:
    """The program of one statement, with the triggers it runs.

    Attributes:
        ops: all instructions. The sub-programs of triggers follow the main program.
        base: for every instruction, where its (sub-)program begins.
        starts: where each (sub-)program begins, the main program first.
        unknowns: how many unknowns there are.
    """

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops: Final = ops
        self.starts: Final = [i for i, op in enumerate(ops) if op.address == 0]
        self.base: Final = [max(s for s in self.starts if s <= i) for i in range(len(ops))]
        self._by_register: defaultdict[tuple[int, str, int], list[int]] = defaultdict(list)
        for i, op in enumerate(ops):
            self._by_register[self.base[i], op.name, op.p1].append(i)
        self._cursors: dict[tuple[int, int], Op] = {}
        for i, op in enumerate(ops):
            if op.name in _OPENS:
                self._cursors.setdefault((self.base[i], op.p1), op)
        self._ways = [Way(START, start, jump=False) for start in self.starts]
        for i, op in enumerate(ops):
            self._ways += [Way(i, target, jump) for target, jump in self._targets(i, op)]
        self._into: defaultdict[int, list[int]] = defaultdict(list)
        self._out: defaultdict[int, list[int]] = defaultdict(list)
        for number, way in enumerate(self._ways):
            self._out[way.source].append(number)
            self._into[way.target].append(number)
        self._unknown = self._merge()
        self.unknowns: Final = max(self._unknown, default=-1) + 1

    # ---- how often, in unknowns

    def count(self, i: int) -> Weights:
        """Return how often an instruction was executed."""
        return self._sum(self._into[i])

    def jumps(self, i: int) -> Weights:
        """Return how often an instruction jumped."""
        return self._sum(n for n in self._out[i] if self._ways[n].jump)

    def falls(self, i: int) -> Weights:
        """Return how often an instruction went on to the next."""
        return self._sum(n for n in self._out[i] if not self._ways[n].jump)

    def leaving(self, i: int) -> Weights:
        """Return how often an instruction was left, either way."""
        return self._sum(self._out[i])

    def entered(self, i: int, sources: Iterable[int]) -> Weights:
        """Return how often an instruction was reached from one of these."""
        wanted = set(sources)
        return self._sum(n for n in self._into[i] if self._ways[n].source in wanted)

    def sources(self, i: int) -> list[int]:
        """Return the instructions from which this one is reached."""
        return [self._ways[n].source for n in self._into[i]]

    def targets(self, i: int) -> list[int]:
        """Return the instructions that are reached from this one."""
        return [self._ways[n].target for n in self._out[i]]

    def _sum(self, ways: Iterable[int]) -> Weights:
        total: Weights = {}
        for way in ways:
            unknown = self._unknown[way]
            total[unknown] = total.get(unknown, 0.0) + 1.0
        return total

    def _merge(self) -> list[int]:
        """Number the unknowns of the ways."""
        leader = list(range(len(self._ways)))

        def find(way: int) -> int:
            while leader[way] != way:
                way = leader[way]
            return way

        for i in range(len(self.ops)):
            if len(self._into[i]) == len(self._out[i]) == 1:
                leader[find(self._out[i][0])] = find(self._into[i][0])
        numbers: dict[int, int] = {}
        return [numbers.setdefault(find(way), len(numbers)) for way in range(len(self._ways))]

    # ---- cursors

    def is_temporary(self, i: int, cursor: int) -> bool:
        """Return whether a cursor is on a sorter or a table of this run only."""
        opened = self._cursors.get((self.base[i], cursor))
        return opened is not None and opened.name in _TEMPORARY

    def root(self, i: int, cursor: int) -> int | None:
        """Return the root page of what a cursor is on, if that is known."""
        opened = self._cursors.get((self.base[i], cursor))
        if opened is None or opened.name in _TEMPORARY or opened.p5 & _ROOT_IN_REGISTER:
            return None
        return opened.p2

    def is_index(self, i: int, cursor: int) -> bool:
        """Return whether a cursor is on an index (or a table without rowid)."""
        opened = self._cursors.get((self.base[i], cursor))
        return opened is not None and str(opened.p4).startswith("k(")

    # ---- ways

    def _targets(self, i: int, op: Op) -> Iterator[tuple[int, bool]]:
        base = self.base[i]
        name = op.name
        if name == "Halt":
            yield END, True
        elif name in ("Goto", "Gosub"):
            yield base + op.p2, True
        elif name in ("Init", "InitCoroutine"):
            yield base + op.p2 if op.p2 else i + 1, True
        elif name == "Jump":
            for address in sorted({op.p1, op.p2, op.p3}):
                yield base + address, True
        elif name == "Return":
            calls = self._find(i, "Gosub", op.p1)
            for call in calls:
                yield call + 1, True
            if op.p3 or not calls:
                yield i + 1, False
        elif name == "EndCoroutine":
            for user in self._find(i, "Yield", op.p1):
                if not self.produces(user, op.p1):
                    yield base + self.ops[user].p2, True
        elif name == "Yield":
            # The producer goes on after the consumer's Yield and the other way round.
            produces = self.produces(i, op.p1)
            if not produces:
                entry = self._coroutine(i, op.p1)
                yield (i + 1 if entry is None else entry), True
            for other in self._find(i, "Yield", op.p1):
                if self.produces(other, op.p1) != produces:
                    yield other + 1, True
        else:
            # After a seek by equality the test that follows for the end of the range is skipped.
            skips = self._seeks_equal(i, op) and self.ops[i + 1].name in _RANGE_TESTS
            yield i + (2 if skips else 1), False
            if name in _BRANCHES and op.p2 > 0:
                yield base + op.p2, True
            if name == "ResultRow":
                yield END, True

    def produces(self, i: int, register: int) -> bool:
        """Return whether a Yield is inside the coroutine of the register."""
        entry = self._coroutine(i, register)
        ends = self._find(i, "EndCoroutine", register)
        return entry is not None and bool(ends) and entry <= i <= ends[-1]

    def _coroutine(self, i: int, register: int) -> int | None:
        """Return where the coroutine of a register begins."""
        inits = self._find(i, "InitCoroutine", register)
        return self.base[i] + self.ops[inits[0]].p3 if inits else None

    def _find(self, i: int, name: str, register: int) -> list[int]:
        """Return the instructions of this name and register in the same (sub-)program."""
        return self._by_register[self.base[i], name, register]

    def _seeks_equal(self, i: int, op: Op) -> bool:
        opened = self._cursors.get((self.base[i], op.p1))
        return (
            op.name in ("SeekGE", "SeekLE")
            and opened is not None
            and opened.name not in _TEMPORARY
            and bool(opened.p5 & _SEEKS_EQUAL)
        )
