"""``ctx``: the state of one object, with or without a runtime around it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, NoReturn, TypeVar, cast, final, overload

import anyio

from .clock import Clock, SystemClock
from .errors import (
    ArgumentTypeError,
    ArgumentValueError,
    DatabaseFileError,
    ObjectDead,
    ObjectResetError,
)
from .gates.critical import CriticalSection
from .gates.deadlines import Deadlines
from .gates.delivery import deliver
from .gates.life import Life
from .gates.loop import Loop
from .gates.ready import Eager, awaited, uncalled
from .history import History
from .ids import DurableObjectId, id_from_name
from .limits import Limits
from .serializers import MsgpackSerializer, Serializer
from .storage.host import Host
from .storage.legacy.host import AnyHost, LegacyHost
from .storage.legacy.storage import LegacyStorage
from .storage.settings import Durability, Settings
from .storage.storage import DurableObjectStorage

__all__ = ["DurableObjectState"]

T = TypeVar("T")

ABORTED = "Application called abort() to reset Durable Object."


@final
class DurableObjectState:
    """The state of one object: its id, its storage and its gates.

    The runtime gives one to each object's constructor; `open` gives one without a runtime.

    Attributes:
        id: the object's id.
        storage: its private storage.
        props: what the runtime was given for it; empty unless set.
        clock: what tells the runtime the time; beyond Cloudflare's API.
        serializer: how its values are encoded; beyond Cloudflare's API.
    """

    __slots__ = ("_host", "_life", "_loop", "clock", "id", "props", "serializer", "storage")

    def __init__(
        self,
        object_id: DurableObjectId,
        host: AnyHost,
        life: Life,
        storage: DurableObjectStorage,
        loop: Loop,
        settings: Settings,
        props: Any = None,
    ) -> None:
        self.id: DurableObjectId = object_id
        self.storage: DurableObjectStorage = storage
        self.clock: Clock = settings.clock
        self.serializer: Serializer = settings.serializer
        self.props: Any = {} if props is None else props
        self._host = host
        self._life = life
        self._loop = loop

    @staticmethod
    def open(
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        durability: Durability = "disk",
        limits: Limits | None = None,
        serializer: Serializer | None = None,
        clock: Clock | None = None,
        history: History | None = None,
        props: Any = None,
    ) -> AbstractAsyncContextManager[DurableObjectState]:
        """Open one object's file without a runtime.

        Args:
            path: the SQLite file; made if missing. Its log lies beside it.
            name: the object's name; default the file's name without its ending.
            durability: ``"disk"``: answers leave once their writes are on stable storage;
                ``"os"``: once they are committed to the operating system.
            limits: see `Limits`.
            serializer: how KV values are encoded; default MessagePack.
            clock: default the system's.
            history: the commit log's settings; ``History(enabled=False)`` for none.
            props: given as ``ctx.props``.

        Raises:
            DatabaseFileError: the file is no database, is in use, or cannot be written.
        """
        settings = Settings(
            durability=durability,
            limits=Limits() if limits is None else limits,
            serializer=MsgpackSerializer() if serializer is None else serializer,
            clock=SystemClock() if clock is None else clock,
            history=History() if history is None else history,
        )
        text = text_path(path, "open() takes")
        if not text or "\0" in text:
            raise ArgumentValueError(f"open() takes the path of a file, got {text!r}")
        if name is None:
            name = os.path.splitext(os.path.basename(text))[0]
        # SQLite keeps its other files beside the file itself, and not beside a link to it.
        return _Opened(os.path.realpath(text), name, settings, props)

    # -- events ---------------------------------------------------------------------------

    @overload
    async def run_event(
        self, callback: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any
    ) -> T: ...
    @overload
    async def run_event(self, callback: Callable[..., T], *args: Any, **kwargs: Any) -> T: ...
    async def run_event(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Deliver one event: run ``callback`` when the input gate lets it, withhold its answer.

        Args:
            callback: sync or async; called with the other arguments.
            *args: positional arguments of the callback.
            **kwargs: keyword arguments of the callback.

        Returns:
            What the callback returned, once everything it could have seen is confirmed.

        Raises:
            ObjectResetError: the object was reset before the answer could be given.
            OverloadedError: too many events wait.
        """

        async def code(_: Life) -> Any:
            return await awaited(callback(*args, **kwargs))

        # Nothing is prepared beside: whoever opens an object alone need not wait to do so.
        return await deliver(self._loop, self._present, code)

    def _present(self) -> Life:
        """The life that an event is delivered to; a new one after a reset."""
        life = self._life
        if life.broken is not None:
            life = self._host.life or self._host.start()
            session: Any = self._host.session
            assert session is not None
            self._life = life
            self.storage._rebind(session, _bookmarks(self._host))  # pyright: ignore[reportPrivateUsage]
        return life

    @overload
    def block_concurrency_while(self, callback: Callable[[], Awaitable[T]]) -> Eager[T]: ...
    @overload
    def block_concurrency_while(self, callback: Callable[[], T]) -> Eager[T]: ...
    def block_concurrency_while(self, callback: Callable[[], Any]) -> Eager[Any]:
        """Run ``callback`` with no other event delivered to the object.

        It may be left un-awaited in a constructor. A failure of it, or 30 s, resets the object.

        Raises:
            ConcurrencyError: nested more than 64 deep.
        """
        if not callable(callback):
            raise ArgumentTypeError(
                "block_concurrency_while() takes a callable, got "
                f"{type(callback).__name__}{uncalled(callback)}"
            )

        async def body() -> Any:
            return await awaited(callback())

        return CriticalSection(self._life, body, resets=True)

    async def gather(self, *branches: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run branches of this event side by side, each of their steps gated, started in order.

        The first failure cancels the others and is raised. Beyond Cloudflare's API: JavaScript's
        ``Promise.all`` needs nothing of the kind, a Python task group cannot be held at a gate.
        """
        life = self._life
        results: list[Any] = [None] * len(branches)

        async def run(index: int) -> None:
            results[index] = await life.branch(places[index], branches[index], up)

        try:
            life.admission("gather()")
            up = self._loop.current
            places = [life.place() for _ in branches]
            async with anyio.create_task_group() as group:
                for index in range(len(branches)):
                    group.start_soon(run, index)
                if up is None:
                    life.here().wake_next()
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            # Those that were never begun: gather() was refused, or cancelled at once.
            for branch in branches:
                branch.close()
        return results

    def wait_until(self, awaitable: Awaitable[object]) -> None:
        """Keep the object alive until ``awaitable`` is done; its failure is its own affair.

        A coroutine is run as background work whose every step passes the input gate.
        """
        if not isinstance(awaitable, Awaitable):
            raise ArgumentTypeError(
                f"wait_until() takes an awaitable, got {type(awaitable).__name__}"
            )
        try:
            self._life.admission("wait_until()")
        except BaseException:
            if isinstance(awaitable, Coroutine):
                cast("Coroutine[Any, Any, object]", awaitable).close()
            raise

        async def run() -> object:
            return await awaitable

        self._life.keep(
            cast("Coroutine[Any, Any, object]", awaitable)
            if isinstance(awaitable, Coroutine)
            else run()
        )

    def abort(self, reason: str | None = None, *, retry_alarm: bool = True) -> NoReturn:
        """Reset the object: uncommitted writes are dropped, withheld results become errors.

        Args:
            reason: what callers are told.
            retry_alarm: whether an alarm event that calls this is tried again.

        Raises:
            ObjectDead: always, in an event; the code of a dead object does not go on.
            ObjectResetError: always, outside every event.
            ConcurrencyError: called from another thread; nothing was reset.
        """
        self._life.admission("abort()")
        message = ABORTED if reason is None else str(reason)
        self._life.break_(Aborted(message, retry_alarm=retry_alarm))
        self._life.admission("abort()")
        raise AssertionError("a life that was broken admits somebody")


def _first(failures: BaseException) -> BaseException:
    while isinstance(failures, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", failures)
        failures = group.exceptions[0]
    return failures


class Aborted(ObjectResetError):  # noqa: N818 - what happened, not a mistake
    """The object's own code called ``ctx.abort()``."""

    def __init__(self, message: str, *, retry_alarm: bool = True) -> None:
        super().__init__(message, retryable=False)
        self.retry_alarm = retry_alarm


class _HostBookmarks:
    """The commit log of a host's file; a requested restore makes the next life open it anew."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def current_bookmark(self) -> str:
        log = self._host.file.log
        assert log is not None
        return log.current_bookmark()

    def bookmark_for_time(self, time_ms: int) -> str:
        log = self._host.file.log
        assert log is not None
        return log.bookmark_for_time(time_ms)

    def request_restore(self, bookmark: str) -> str:
        log = self._host.file.log
        assert log is not None
        try:
            undo = log.request_restore(bookmark)
        except OSError as exc:
            # Whether the request is on the disk is not known. Nothing more may be answered before
            # the file is opened anew: a restore that happens later would take it back.
            life = self._host.life
            assert life is not None
            error = ObjectResetError(f"{life.name} was reset: the restore may not happen ({exc})")
            error.__cause__ = exc
            life.storage_failed = True
            life.break_(error)
            raise ObjectDead(str(error)) from exc
        self._host.restore_requested = True
        return undo


def _bookmarks(host: AnyHost) -> _HostBookmarks | None:
    if isinstance(host, LegacyHost) or host.file.log is None:
        return None
    return _HostBookmarks(host)


def new_state(
    object_id: DurableObjectId,
    host: AnyHost,
    settings: Settings,
    loop: Loop,
    *,
    alarm_handler: bool,
    props: Any = None,
) -> DurableObjectState:
    """Begin a life of ``host`` and give the state that its object works with."""
    life = host.start()
    assert host.session is not None
    now_ms = settings.clock.time_ms
    if isinstance(host, LegacyHost):
        legacy = LegacyStorage(host.session, now_ms, alarm_handler=alarm_handler)
        # The same surface; what it lacks raises. Only the namespace's backend tells them apart.
        storage = cast("DurableObjectStorage", legacy)
    else:
        storage = DurableObjectStorage(
            host.session,
            settings.limits,
            now_ms,
            _bookmarks(host),
            alarm_handler=alarm_handler,
        )
    return DurableObjectState(object_id, host, life, storage, loop, settings, props)


def text_path(path: str | os.PathLike[str], subject: str) -> str:
    """A path as text; ``subject`` begins the message of the error that it is none."""
    try:
        text: object = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise ArgumentTypeError(f"{subject} a str or a path, got {type(path).__name__}")
    return text


@final
class _Opened:
    """The context manager of `DurableObjectState.open`."""

    def __init__(self, path: str, name: str, settings: Settings, props: Any) -> None:
        self._path = path
        self._name = name
        self._settings = settings
        self._props = props
        self._host: Host | None = None
        self._deadlines: Deadlines | None = None

    async def __aenter__(self) -> DurableObjectState:
        settings, name = self._settings, self._name
        loop = Loop.running()
        self._deadlines = Deadlines(loop, settings.clock, settings.limits.critical_section_seconds)
        self._host = Host(loop, name, self._path, settings, self._deadlines)
        try:
            return new_state(
                id_from_name("durable_storage", name),
                self._host,
                settings,
                loop,
                alarm_handler=False,
                props=self._props,
            )
        except ObjectResetError as exc:
            # What an object of a runtime is told; here nobody could call again.
            raise DatabaseFileError(
                f"{self._path!r} or its history cannot be opened: {exc.__cause__}"
            ) from exc.__cause__

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._host is not None
        assert self._deadlines is not None
        with anyio.CancelScope(shield=True):
            await self._host.close()
        self._deadlines.close()
