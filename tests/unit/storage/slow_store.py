"""A store whose every call can be held back or made to fail, and a runtime over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from durable_storage import DurableObject, Runtime
from durable_storage.storage.kv_backend import PartialDeleteError

Body = Callable[["Player"], Awaitable[Any]]


class SlowStore:
    """A `KvBackend` in memory.

    Attributes:
        data: what it holds.
        held: operations that wait until `release`; a call that waits shows in ``waiting``.
        failing: what an operation raises, instead of having any effect.
        calls: every call that was carried out, in order: its operation and its keys.
    """

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.held: set[str] = set()
        self.waiting: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.calls: list[tuple[str, list[str]]] = []
        self.delete_all_leaves = 0
        self.opened = 0
        self.closed = 0
        self._released = anyio.Event()

    def __call__(self, namespace: str, object_id: str) -> SlowStore:
        """Open it: it is its own factory."""
        self.opened += 1
        return self

    def release(self, *operations: str) -> None:
        """Let held calls go on, of some operations or of all."""
        self.held -= set(operations or self.held)
        self._released.set()
        self._released = anyio.Event()

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _ in self.calls)

    @property
    def keys(self) -> dict[str, bytes]:
        """What it holds of the object's own keys."""
        return {key[1:]: value for key, value in self.data.items() if key.startswith("u")}

    async def _pass(self, operation: str, keys: Collection[str]) -> None:
        self.waiting.append(operation)
        try:
            while operation in self.held:
                await self._released.wait()
            await anyio.lowlevel.checkpoint()
        finally:
            self.waiting.remove(operation)
        if operation in self.failing:
            raise self.failing[operation]
        self.calls.append((operation, list(keys)))

    async def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        # Opening an object reads its metadata; only reads of its own keys are of interest.
        own = all(key.startswith("u") for key in keys)
        await self._pass("get" if own else "open", keys)
        return {key: self.data[key] for key in keys if key in self.data}

    async def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[str, bytes]]:
        await self._pass("list", ())
        pairs = [
            (key, value)
            for key, value in sorted(self.data.items(), reverse=reverse)
            if (start is None or key >= start)
            and (start_after is None or key > start_after)
            and (end is None or key < end)
            and (prefix is None or key.startswith(prefix))
        ]
        return pairs[:limit]

    async def batch(self, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        puts = dict(puts)
        assert not puts.keys() & set(deletes)
        await self._pass("batch", [*puts, *deletes])
        self.data.update(puts)
        for key in deletes:
            self.data.pop(key, None)

    async def delete_all(self) -> None:
        await self._pass("delete_all", ())
        left = dict(sorted(self.data.items())[: self.delete_all_leaves])
        self.data = left
        if left:
            raise PartialDeleteError(f"{len(left)} keys are left", remaining=len(left))

    async def close(self) -> None:
        self.closed += 1


class Player(DurableObject):
    """An object whose events do what the test says.

    Attributes:
        lives: how many instances there have been, of all objects.
    """

    lives = 0
    alarms: list[Any]

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self.storage = ctx.storage
        type(self).lives += 1

    async def play(self, body: Body) -> Any:
        return await body(self)

    async def increment(self, *, allow_concurrency: bool = False) -> int:
        value = await self.storage.get("n", 0, allow_concurrency=allow_concurrency)
        self.storage.put("n", value + 1)
        return int(value) + 1

    async def alarm(self, info: Any) -> None:
        self.env.alarms.append(info)
        body = self.env.on_alarm
        if body is not None:
            await body(self)


@asynccontextmanager
async def opened(store: SlowStore, **options: Any) -> AsyncIterator[Any]:
    """The stub of one object over ``store``."""
    async with Runtime(kv_backend=store, **options) as runtime:
        runtime.env.alarms = []
        runtime.env.on_alarm = None
        try:
            yield runtime.namespace(Player, storage="kv").get_by_name("one")
        finally:
            store.release()


async def until(condition: Callable[[], object]) -> None:
    """Let others run until the condition holds."""
    with anyio.fail_after(60):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def settle() -> None:
    """Let everything run that needs no more than the loop's turns."""
    for _ in range(60):
        await anyio.lowlevel.checkpoint()


class Call:
    """A call in the background, and how it ended."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: Exception | None = None
        self.done = False
        self.scope = anyio.CancelScope()

    @classmethod
    def start(cls, group: Any, function: Callable[..., Awaitable[Any]], *args: Any) -> Call:
        call = cls()

        async def run() -> None:
            with call.scope:
                try:
                    call.result = await function(*args)
                except Exception as exc:
                    call.error = exc
                call.done = True

        group.start_soon(run)
        return call

    async def end(self) -> Any:
        """Its result, once it has one."""
        await until(lambda: self.done)
        if self.error is not None:
            raise self.error
        return self.result
