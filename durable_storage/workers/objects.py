"""The base classes of Workers, and the ``ctx`` they are given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Never, TypeVar, cast, final

from ..errors import ArgumentTypeError, ObjectDead
from ..gates.loop import Loop, Signal
from ..gates.outgoing import current_frame
from ..object import DurableObject as NativeObject
from ..runtime.resident import AlarmInvocationInfo as NativeAlarmInfo
from ..state import DurableObjectState
from .bindings import DurableObjectId, Env, request_of, wrapped
from .storage import DurableObjectStorage
from .values import Named, options_of
from .web import Request

__all__ = [
    "AlarmInvocationInfo",
    "DurableObject",
    "DurableObjectAbort",
    "DurableObjectContext",
    "ExecutionContext",
    "WorkerEntrypoint",
    "WorkflowEntrypoint",
    "entrypoint",
    "handler",
    "waitUntil",
]

T = TypeVar("T")
W = TypeVar("W", bound="WorkerEntrypoint")


class DurableObjectAbort(ObjectDead):
    """Raised by ``ctx.abort()``: a ``BaseException``, so that ``except Exception`` cannot go on."""


@final
class DurableObjectContext(Named):
    """``ctx`` of an object.

    Attributes:
        id: the object's id.
        storage: its storage.
        props: what the runtime was given for it.
    """

    __slots__ = ("_ctx", "id", "props", "storage")

    def __init__(self, ctx: DurableObjectState) -> None:
        self._ctx = ctx
        # There, every class may set an alarm, with or without a handler.
        ctx.storage._alarm_handler = True  # pyright: ignore[reportPrivateUsage]
        self.id: DurableObjectId = DurableObjectId(ctx.id)
        self.storage: DurableObjectStorage = DurableObjectStorage(ctx.storage)
        self.props: Any = ctx.props

    def blockConcurrencyWhile(self, callback: Callable[[], Any]) -> Awaitable[Any]:  # noqa: N802
        """Run ``callback`` with no other event delivered to the object."""
        return self._ctx.block_concurrency_while(callback)

    def waitUntil(self, awaitable: Awaitable[object]) -> None:  # noqa: N802
        """Keep the object alive until ``awaitable`` is done."""
        self._ctx.wait_until(awaitable)

    def abort(self, reason: str | None = None, options: Any = None, /, **more: Any) -> Never:
        """Reset the object.

        Raises:
            DurableObjectAbort: always.
        """
        known = options_of(options, more, "retry_alarm")
        try:
            self._ctx.abort(reason, **known)
        except ObjectDead as exc:
            raise DurableObjectAbort(str(exc)) from None
        raise AssertionError("abort() returned")

    def getWebSockets(self, tag: str | None = None) -> list[object]:  # noqa: N802
        """The WebSockets of the object: there are none here."""
        return []

    def acceptWebSocket(self, *_arguments: object) -> Never:  # noqa: N802
        """Refused: WebSockets are not stood in for.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("durable_storage.workers does not stand in for WebSockets")


@final
class AlarmInvocationInfo(Named):
    """What ``alarm()`` is told."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeAlarmInfo) -> None:
        self._native = native

    @property
    def isRetry(self) -> bool:  # noqa: N802
        """Whether the alarm has failed before."""
        return self._native.is_retry

    @property
    def retryCount(self) -> int:  # noqa: N802
        """How often it has failed."""
        return self._native.retry_count

    @property
    def scheduledTime(self) -> int:  # noqa: N802
        """When it was due, in milliseconds since the epoch."""
        return round(self._native.scheduled_time.timestamp() * 1000)


@final
class ExecutionContext(Named):
    """``ctx`` of a `WorkerEntrypoint`."""

    def __init__(self) -> None:
        self.props: dict[str, Any] = {}
        self._kept: list[Signal] = []
        self._errors: list[BaseException] = []

    def waitUntil(self, awaitable: Awaitable[object]) -> None:  # noqa: N802
        """Run ``awaitable`` in the background; see `settled`."""
        loop = Loop.running()
        done = loop.signal()
        self._kept.append(done)

        async def run() -> None:
            try:
                await awaitable
            except Exception as exc:
                self._errors.append(exc)
            finally:
                done.set()

        loop.spawn(run)

    def passThroughOnException(self) -> None:  # noqa: N802
        """Accepted, and without effect."""

    async def settled(self) -> None:
        """Return when everything given to ``waitUntil`` is done.

        Raises:
            Exception: the first failure of it.
        """
        while self._kept:
            await self._kept.pop(0).wait()
        if self._errors:
            raise self._errors.pop(0)


# -- translating a class ------------------------------------------------------------------


def _context(ctx: Any) -> Any:
    return DurableObjectContext(ctx) if isinstance(ctx, DurableObjectState) else ctx


def _translate(cls: type) -> None:
    """Make the methods that ``cls`` itself defines see translated arguments."""
    own = vars(cls)
    for name, translate in (("__init__", _init), ("alarm", _alarm), ("fetch", _fetch)):
        function = own.get(name)
        if inspect.isfunction(function):
            setattr(cls, name, translate(function))
    # Before there were classes for the Worker itself, handlers had this prefix.
    for name, translate in (("alarm", _alarm), ("fetch", _fetch)):
        function = own.get(f"on_{name}")
        if inspect.isfunction(function) and name not in own:
            setattr(cls, name, translate(_legacy(function)))


def _init(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def init(self: Any, ctx: Any, env: Any, *arguments: Any, **options: Any) -> None:
        # There, a class need not call super().__init__().
        if "ctx" not in vars(self):
            self.ctx = _context(ctx)
        if "env" not in vars(self):
            self.env = Env(env)
        function(self, _context(ctx), Env(env), *arguments, **options)

    return init


def _alarm(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def alarm(self: Any, *arguments: Any) -> Any:
        told = [
            AlarmInvocationInfo(each) if isinstance(each, NativeAlarmInfo) else each
            for each in arguments
        ]
        return function(self, *told)

    return alarm


def _fetch(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def fetch(self: Any, input: Any, /, *arguments: Any, **options: Any) -> Any:
        if isinstance(input, str):
            return function(self, request_of(input, arguments, options))
        return function(self, input, *map(wrapped, arguments), **options)

    return fetch


def _legacy(handler: Callable[..., Any]) -> Callable[..., Any]:
    parameters = inspect.signature(handler).parameters.values()
    more = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    taken = None if more else len(parameters) - 1

    def call(self: Any, event: Any = None) -> Any:
        return handler(self, *(event, self.env, self.ctx)[:taken])

    return call


# -- base classes ----------------------------------------------------------------------------


class DurableObject(NativeObject):
    """Base class of objects written for Cloudflare's Python Workers.

    It is a `durable_storage.DurableObject`, so runtimes, namespaces and the testing kit take it.

    Attributes:
        ctx: the object's state, under Cloudflare's names.
        env: the runtime's ``env``, under Cloudflare's names.
    """

    ctx: Any
    env: Any
    # A class that is called TestSomething is no test of pytest.
    __test__ = False

    def __init__(self, ctx: Any, env: Any) -> None:
        self.ctx = _context(ctx)
        self.env = Env(env)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _translate(cls)

    async def alarm(self, alarm_info: Any = None) -> None:
        """Stands for a missing handler: there, an alarm may be set all the same."""
        raise AttributeError(f"{type(self).__name__} has no alarm() handler")


class WorkerEntrypoint:
    """Base class of the Worker itself. `entrypoint` makes one in a test.

    Attributes:
        ctx: the `ExecutionContext`.
        env: the bindings.
    """

    ctx: Any
    env: Any

    def __init__(self, ctx: Any, env: Any) -> None:
        self.ctx = ctx
        self.env = Env(env)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _translate(cls)


class WorkflowEntrypoint(WorkerEntrypoint):
    """There so that modules which define workflows can be imported; workflows are not run."""


def entrypoint(cls: type[W], env: Any) -> W:
    """A Worker of the class ``cls``, to call ``fetch`` and other methods of."""
    return cls(ExecutionContext(), env)


def handler(function: Callable[..., T]) -> Callable[..., T]:
    """Mark a global handler, such as ``on_fetch(request, env, ctx)``: its ``env`` is translated."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> T:
        given = [Env(each) if index == 1 else each for index, each in enumerate(arguments)]
        if given and isinstance(given[0], str):
            given[0] = Request(given[0])
        return function(*given, **options)

    return call


def waitUntil(awaitable: Awaitable[object]) -> None:  # noqa: N802
    """Keep the object whose event is running alive until ``awaitable`` is done."""
    frame = current_frame(Loop.running())
    if frame is None:
        raise ArgumentTypeError("waitUntil() was called outside every event")

    async def run() -> object:
        return await awaitable

    frame.life.keep(
        cast("Coroutine[Any, Any, object]", awaitable)
        if isinstance(awaitable, Coroutine)
        else run()
    )
