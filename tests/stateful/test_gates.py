"""The gates alone, with storage and a disk that are played, against a plain model of who may run.

Events are called, told what to do next, and cancelled, in any order; the disk confirms late or refuses;
sections fail, are aborted, or last too long. After each of these the model says which code has run, in
which order, what is committed, and what each caller was told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from durable_storage import ObjectResetError, OverloadedError
from durable_storage.errors import ObjectDead
from durable_storage.gates.critical import CriticalSection, OpenSection
from durable_storage.gates.deadlines import Deadlines
from durable_storage.gates.delivery import deliver
from durable_storage.gates.life import Life
from durable_storage.gates.loop import Loop
from durable_storage.testing import ManualClock

SECTION_SECONDS = 30.0
QUEUE_MAX = 4
DEPTH_MAX = 3
CALM_TURNS = 12


class Failure(Exception):
    """What an event's code fails with by itself."""


# -- the real gates, with what they need played


@dataclass(eq=False)
class Actor:
    """Code that does what it is told: an event, or a section that nobody awaits."""

    number: int
    letters: list[str] = field(default_factory=list)
    bell: anyio.Event | None = None
    scope: anyio.CancelScope | None = None
    told: str = ""
    """What its caller was told, once it was."""

    async def next(self) -> str:
        while not self.letters:
            self.bell = anyio.Event()
            await self.bell.wait()
        return self.letters.pop(0)

    def tell(self, letter: str) -> None:
        self.letters.append(letter)
        assert self.bell is not None
        self.bell.set()


class Backing:
    """Storage without a disk: numbers that are pending, then committed."""

    withhold = True

    def __init__(self, committed: list[int]) -> None:
        self.committed = committed
        self.marks: list[int] = []
        self.pending: list[int] = []
        self.held = False

    def commit(self) -> bool | None:
        if not self.pending:
            return None
        self.committed += self.pending
        self.pending = []
        return True

    def discard(self) -> None:
        self.pending = []

    def hold(self, held: bool) -> None:
        self.held = held


class World:
    """One object: its lives, its storage, and a disk that confirms when it is told to."""

    def __init__(self) -> None:
        self.loop = Loop.running()
        self.clock = ManualClock()
        self.deadlines = Deadlines(self.loop, self.clock, SECTION_SECONDS)
        self.committed: list[int] = []
        self.done: list[tuple[int, str]] = []
        self.problems: list[str] = []
        self.lives: list[Life] = []
        self.confirmed: list[int] = []
        """Of each life's gate, how many of the committed numbers the disk is known to hold."""
        self.confirming: list[tuple[int, int, Callable[[BaseException | None], None]]] = []
        self.written = 0
        self.actors: dict[int, Actor] = {}
        self.inside: list[Actor] = []
        self.group = anyio.create_task_group()

    def life(self) -> Life:
        if self.lives and self.lives[-1].broken is None:
            return self.lives[-1]
        index = len(self.lives)

        def start(done: Callable[[BaseException | None], None]) -> None:
            self.confirming.append((index, len(self.committed), done))

        life = Life(
            self.loop,
            "object",
            Backing(self.committed),
            self.deadlines,
            confirm=lambda: None,
            immediate=False,
            nesting_max=DEPTH_MAX + 1,
            queue=(QUEUE_MAX, float("inf"), self.clock.monotonic),
            on_broken=lambda _: None,
            start_confirming=start,
        )
        previous = self.lives[-1] if self.lives else None
        self.inside = []
        self.lives.append(life)
        self.confirmed.append(len(self.committed))
        gate = None if previous is None else previous.gate
        if gate is not None and gate.failure is None and gate.confirmed < gate.committed:
            # As an object's host does: what this life reads is not confirmed yet.
            self.confirmed[index] = self.confirmed[index - 1]
            life.gate.commit()
        return life

    # -- code of the object

    def note(self, actor: Actor, what: str, life: Life) -> None:
        if life.broken is not None:
            # On trio, code runs on to its next checkpoint; storage is closed to it.
            if not self.loop.is_trio:
                self.problems.append(f"{actor.number} did {what} in a life that has ended")
            return
        self.done.append((actor.number, what))
        if self.inside and self.inside[-1] is not actor:
            self.problems.append(f"{actor.number} did {what} inside another's section")

    async def event(self, actor: Actor, life: Life) -> None:
        self.note(actor, "begin", life)
        await self.obey(actor, life)

    async def obey(self, actor: Actor, life: Life) -> None:
        while True:
            letter = await actor.next()
            self.note(actor, letter, life)
            if letter in ("leave", "end"):
                return
            if letter in ("write", "write and end"):
                self.write(life)
                if letter == "write and end":
                    return
            elif letter == "fail":
                raise Failure
            elif letter == "abort":
                life.break_(ObjectResetError("aborted"))
                raise ObjectDead("aborted")
            elif letter.startswith("drop"):
                self.drop(life, int(letter.split()[1]))
            else:
                try:
                    await self.block(actor, life, letter)
                except Failure:
                    assert letter != "section"

    def write(self, life: Life) -> None:
        assert life.admit("write()")
        self.written += 1
        backing: Any = life.backing
        backing.pending.append(self.written)
        life.wrote(True)

    async def block(self, actor: Actor, life: Life, kind: str) -> None:
        if kind == "section":
            await CriticalSection(life, lambda: self.section(actor, life), resets=True)
        elif kind == "transaction":
            await CriticalSection(life, lambda: self.transaction(actor, life), resets=False)
        else:
            opened = OpenSection(life)
            await opened.enter()
            try:
                await self.transaction(actor, life)
            finally:
                opened.leave()
            if life.broken is not None:
                raise ObjectDead(str(life.broken))

    async def section(self, actor: Actor, life: Life) -> None:
        inside = self.inside
        inside.append(actor)
        try:
            await self.obey(actor, life)
        finally:
            if life.broken is None:
                inside.pop()

    async def transaction(self, actor: Actor, life: Life) -> None:
        backing: Any = life.backing
        backing.marks.append(len(backing.pending))
        life.explicit += 1
        try:
            await self.section(actor, life)
        except BaseException:
            self.leave(life, keep=False)
            raise
        self.leave(life, keep=True)

    def leave(self, life: Life, *, keep: bool) -> None:
        backing: Any = life.backing
        if life.broken is not None:
            return
        life.explicit -= 1
        mark = backing.marks.pop()
        if not keep:
            del backing.pending[mark:]
        if not life.explicit and keep:
            life.commit()
        elif not life.explicit:
            life.pending = False

    def drop(self, life: Life, number: int) -> None:
        actor = self.actors[number] = Actor(number)

        async def body() -> None:
            self.inside.append(actor)
            self.note(actor, "begin", life)
            try:
                await self.obey(actor, life)
            finally:
                if life.broken is None:
                    self.inside.remove(actor)

        CriticalSection(life, body, resets=False)

    # -- from outside

    async def call(self, actor: Actor) -> None:
        with anyio.CancelScope() as actor.scope:
            try:
                await deliver(self.loop, self.life, lambda life: self.event(actor, life))
            except ObjectResetError:
                actor.told = "reset"
            except OverloadedError:
                actor.told = "overloaded"
            except Failure:
                actor.told = "failed"
            else:
                actor.told = "answered"
        if actor.scope.cancelled_caught:
            actor.told = "cancelled"

    async def settle(self) -> None:
        """Return once nothing more happens by itself; no thread is at work here."""
        calm, before = 0, self._seen()
        while calm < CALM_TURNS:
            await anyio.lowlevel.checkpoint()
            now = self._seen()
            calm = calm + 1 if now == before else 0
            before = now

    def _seen(self) -> tuple[Any, ...]:
        told = tuple(actor.told for actor in self.actors.values())
        return len(self.done), len(self.committed), len(self.confirming), len(self.lives), told


# -- the model


@dataclass(eq=False)
class Node:
    """A scope: the object, or a section that is open."""

    parent: Node | None = None
    child: Node | None = None
    sections: list[tuple[str, int]] = field(default_factory=list)
    waiting: list[tuple[str, int]] = field(default_factory=list)


@dataclass(eq=False)
class Part:
    """What the model knows of an actor."""

    number: int
    is_event: bool
    place: Node
    state: str = "queued"
    """queued, idle, withheld or over."""
    blocks: list[str] = field(default_factory=list)
    begun: bool = False
    cancelled: bool = False
    allowed: tuple[str, ...] = ("",)
    """What its caller may have been told by now."""
    life: int = 0
    needs: int = 0
    how: str = ""


class GatesMachine(RuleBasedStateMachine):
    backend = "asyncio"

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self._portal = self._stack.enter_context(
            anyio.from_thread.start_blocking_portal(self.backend)
        )
        self.parts: dict[int, Part] = {}
        self.root = Node()
        self.done: list[tuple[int, str]] = []
        self.committed: list[int] = []
        self.overlays: list[list[int]] = []
        self.written = 0
        self.count = 0

    @initialize()
    def begin(self) -> None:
        self.world: World = self._portal.call(World)
        self._portal.start_task_soon(self._serve)
        self._portal.call(self.world.settle)

    async def _serve(self) -> None:
        async with self.world.group:
            await anyio.sleep_forever()

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self._portal.call(self._end)
        finally:
            self._stack.close()

    async def _end(self) -> None:
        world = self.world
        world.group.cancel_scope.cancel()
        world.deadlines.close()
        for life in world.lives:
            life.break_(ObjectResetError("the end"))
        await world.settle()
        for life in world.lives:
            assert not life.waiting
            assert not life.calling
            assert not life.events
            assert not life.background

    # -- what the model does

    def _perform(self, what: str, number: int) -> None:
        part = self.parts[number]
        part.state = "idle"
        if what == "cancelled":
            self._unwind(part)
            return
        self.done.append((number, what))
        if what == "begin":
            part.begun = True
            part.life = len(self.world.lives) - 1
            if not part.is_event:
                self._open(part, "dropped")
        elif what == "write" or what == "write and end":
            self.written += 1
            (self.overlays[-1] if self.overlays else self.committed).append(self.written)
            if what == "write and end":
                self._over(part, "answered")
        elif what in ("section", "transaction", "context"):
            self._open(part, what)
        elif what == "leave":
            self._close(part, keep=True)
        elif what == "end":
            self._over(part, "answered")
        elif what == "fail":
            self._fail(part)
        elif what == "abort":
            self._reset("aborted")
        elif what.startswith("drop"):
            dropped = self.parts[int(what.split()[1])] = Part(
                int(what.split()[1]), False, part.place
            )
            part.place.sections.append(("begin", dropped.number))
        if part.cancelled and part.state == "idle":
            part.state = "queued"
            part.place.waiting.append(("cancelled", number))
        self._drain(part.place)

    def _drain(self, place: Node) -> None:
        while place.child is None and (place.sections or place.waiting):
            self._perform(*(place.sections or place.waiting).pop(0))

    def _open(self, part: Part, kind: str) -> None:
        assert part.place.child is None
        part.place.child = Node(part.place)
        part.place = part.place.child
        part.blocks.append(kind)
        if kind in ("transaction", "context"):
            self.overlays.append([])

    def _close(self, part: Part, *, keep: bool) -> None:
        kind = part.blocks.pop()
        section, outer = part.place, part.place.parent
        assert outer is not None
        part.place, outer.child = outer, None
        for what, number in section.sections:
            self.parts[number].place = outer
            outer.sections.append((what, number))
        outer.waiting += section.waiting
        if kind in ("transaction", "context"):
            written = self.overlays.pop()
            if keep:
                (self.overlays[-1] if self.overlays else self.committed).extend(written)
        if kind == "dropped":
            part.state = "over"

    def _fail(self, part: Part) -> None:
        if not part.blocks:
            self._over(part, "failed")
        elif part.blocks[-1] == "section":
            self._reset("failed")
        else:
            self._close(part, keep=False)

    def _over(self, part: Part, how: str) -> None:
        """An event has ended; its caller is told once the disk has what it could have seen."""
        part.state, part.how = "withheld", how
        part.needs = len(self.committed)

    def _unwind(self, part: Part) -> None:
        while part.blocks:
            if part.blocks[-1] == "section":
                part.state, part.allowed = "over", ("cancelled",)
                self._reset("cancelled")
                return
            self._close(part, keep=False)
        if part.is_event:
            part.state, part.allowed = "over", ("cancelled",)
        self._drain(part.place)

    def _reset(self, why: str) -> None:
        again: list[int] = []
        for what, number in self.root.sections + self.root.waiting:
            part = self.parts[number]
            if what == "begin" and part.is_event and why == "cancelled":
                again.append(number)
        for part in self.parts.values():
            refused = part.state == "withheld" and why == "refused"
            if part.number not in again and (part.state in ("idle", "queued") or refused):
                part.state = "over"
                if part.is_event:
                    part.allowed = ("reset", "cancelled") if part.cancelled else ("reset",)
        self.overlays = []
        self.root = Node()
        if self.backend == "trio":
            # They are woken at once, and trio runs tasks that are woken at once in any order.
            again.sort(key=lambda number: self.world.done.index((number, "begin")))
        for number in again:
            self.parts[number].place = self.root
            self.root.waiting.append(("begin", number))
        self._drain(self.root)

    # -- what is done

    def _settle(self) -> None:
        self._portal.call(self.world.settle)

    @rule(count=st.integers(1, 3))
    def call(self, count: int) -> None:
        for _ in range(count):
            self.count += 1
            part = self.parts[self.count] = Part(self.count, True, self.root)
            self._portal.call(self._start, Actor(self.count))
            self._settle()
            if self.root.child is not None and len(self.root.waiting) >= QUEUE_MAX:
                part.state, part.allowed = "over", ("overloaded",)
            else:
                self.root.waiting.append(("begin", part.number))
                self._drain(self.root)

    async def _start(self, actor: Actor) -> None:
        self.world.actors[actor.number] = actor
        self.world.group.start_soon(self.world.call, actor)

    def _idle(self) -> list[Part]:
        return [part for part in self.parts.values() if part.state == "idle"]

    def _waiting(self) -> list[Part]:
        return [p for p in self.parts.values() if p.is_event and p.state in ("queued", "idle", "withheld")]  # fmt: skip

    @precondition(lambda self: self._idle())
    @rule(data=st.data())
    def tell(self, data: Any) -> None:
        part = data.draw(st.sampled_from(self._idle()))
        blocks = ["section", "transaction", "context", "transaction", "context", "drop"]
        if self._depth(part) >= DEPTH_MAX:
            blocks = []
        if part.blocks:
            # What ends the object's life ends what could happen in it, and so comes seldom.
            ends = ["leave"] * 6 + ["fail"] * 3 + ["abort"]
        else:
            ends = ["end", "write and end", "fail"]
        letters = ["write"] * 3 + blocks * (1 if part.blocks else 3) + ends
        letter = data.draw(st.sampled_from(letters))
        if letter == "drop":
            self.count += 1
            letter = f"drop {self.count}"
        self._portal.call(self.world.actors[part.number].tell, letter)
        self._settle()
        part.state = "queued"
        part.place.waiting.append((letter, part.number))
        self._drain(part.place)

    def _depth(self, part: Part) -> int:
        depth, place = 0, part.place
        while place.parent is not None:
            depth, place = depth + 1, place.parent
        return depth

    @precondition(lambda self: any(not p.cancelled for p in self._waiting()))
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        part = data.draw(st.sampled_from([p for p in self._waiting() if not p.cancelled]))
        self._portal.call(self._cancel, part.number)
        self._settle()
        part.cancelled = True
        place = part.place
        if part.state == "withheld":
            part.state, part.allowed = "over", ("cancelled",)
        elif not part.begun:
            self._leave_queue(part)
            part.state, part.allowed = "over", ("cancelled",)
        elif part.state == "idle":
            part.state = "queued"
            place.waiting.append(("cancelled", part.number))
        elif self.backend == "asyncio":
            # What it was told is not done: the cancellation takes its place at the gate.
            place.waiting = [
                ("cancelled", n) if n == part.number else (w, n) for w, n in place.waiting
            ]
        self._drain(place)

    @precondition(lambda self: self._holder() is not None and self._queued())
    @rule(data=st.data(), turns=st.integers(0, 4))
    def leave_while_one_who_waits_gives_up(self, data: Any, turns: int) -> None:
        """The promise may have been given to it, and may have been taken."""
        holder = self._holder()
        assert holder is not None
        number = data.draw(st.sampled_from(self._queued()))
        self._portal.call(self._leave_and_cancel, holder.number, number, turns)
        self._settle()
        part = self.parts[number]
        part.cancelled = True
        holder.state = "queued"
        begun = (number, "begin") in self.world.done
        if not begun:
            self._leave_queue(part)
            part.state, part.allowed = "over", ("cancelled",)
        holder.place.waiting.append(("leave", holder.number))
        self._drain(holder.place)
        if begun and self.world.actors[number].told == "cancelled" and part.state == "queued":
            # It was cancelled before somebody behind it opened a section.
            part.place.waiting.remove(("cancelled", number))
            part.state, part.allowed = "over", ("cancelled",)

    def _holder(self) -> Part | None:
        """Whoever is in the only open section, and may leave it."""
        found = [p for p in self._idle() if p.blocks and p.place.child is None]
        return found[0] if found and len(found[0].blocks) == 1 else None

    def _queued(self) -> list[int]:
        return [n for what, n in self.root.waiting if what == "begin"]

    def _leave_queue(self, part: Part) -> None:
        part.place.waiting.remove(("begin", part.number))

    async def _leave_and_cancel(self, holder: int, number: int, turns: int) -> None:
        self.world.actors[holder].tell("leave")
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        await self._cancel(number)

    async def _cancel(self, number: int) -> None:
        scope = self.world.actors[number].scope
        assert scope is not None
        scope.cancel()

    @precondition(lambda self: self.world.confirming)
    @rule()
    def confirm(self) -> None:
        self._portal.call(self._confirm)
        self._settle()

    async def _confirm(self) -> None:
        life, count, done = self.world.confirming.pop(0)
        self.world.confirmed[life] = count
        done(None)

    @precondition(
        lambda self: (
            len(self.world.confirming) == 1
            and self.world.confirming[0][0] == len(self.world.lives) - 1
            and self.world.lives[-1].broken is None
        )
    )
    @rule()
    def refuse(self) -> None:
        self._portal.call(self._refuse)
        self._settle()
        self._reset("refused")

    async def _refuse(self) -> None:
        _, _, done = self.world.confirming.pop(0)
        done(OSError("refused"))

    @rule()
    def let_time_pass(self) -> None:
        late = self.root.child is not None
        self._portal.call(lambda: self.world.clock.advance(seconds=SECTION_SECONDS + 1))
        self._settle()
        if late:
            self._reset("late")

    # -- what is always so

    @invariant()
    def the_gates_did_what_the_model_says(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        assert not world.problems, world.problems
        assert world.done == self.done
        assert world.committed == self.committed
        for part in self.parts.values():
            if part.is_event:
                self._compare(part, world.actors[part.number].told)

    def _compare(self, part: Part, told: str) -> None:
        if part.state == "withheld":
            if self.world.confirmed[part.life] >= part.needs:
                part.state, part.allowed = "over", (part.how,)
                if part.cancelled:
                    part.allowed = (part.how, "cancelled")
            elif part.cancelled:
                part.state, part.allowed = "over", ("cancelled",)
        assert told in part.allowed, f"{part} was told {told!r}"

    @invariant()
    def nothing_is_left_behind(self) -> None:
        if not hasattr(self, "world") or not self.world.lives:
            return
        life = self.world.lives[-1]
        if life.broken is None:
            assert life.root.promised is None
            assert (life.root.child is not None) == (self.root.child is not None)
            backing: Any = life.backing
            assert backing.held == (self.root.child is not None)
            assert life.explicit == len(self.overlays)


def _machine(backend: str) -> Callable[[], None]:
    return type(f"On{backend}", (GatesMachine,), {"backend": backend}).TestCase


TestGatesOnAsyncio = _machine("asyncio")
TestGatesOnTrio = _machine("trio")
