"""The library without ``async``: for scripts, notebooks, Flask and Django.

An event loop runs in a thread of its own, and objects live there exactly as they do under the
asynchronous `durable_storage.Runtime`. Every call made here is handed to that thread, and the
calling thread waits for the answer: gates, order, confirmation and errors are the same.

Any number of threads may call at once. The loop's own thread may not, because it would wait for
itself: code of objects uses ``self.ctx`` and ``self.env``, which are asynchronous as ever.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    final,
    overload,
)

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from .clock import Clock
from .errors import ArgumentTypeError, ArgumentValueError, ConcurrencyError, DurableStorageError
from .gates.ready import awaited
from .history import History
from .ids import DurableObjectId, Jurisdiction, LocationHint
from .limits import Limits
from .object import DurableObject
from .runtime.migrations import Migration
from .runtime.namespace import DurableObjectNamespace
from .runtime.runtime import Runtime as AsyncRuntime
from .runtime.runtime import RuntimeOptions
from .serializers import Serializer
from .state import DurableObjectState
from .storage.settings import Durability

if TYPE_CHECKING:
    from .runtime.snapshots import RuntimeSnapshot

__all__ = ["Namespace", "Runtime", "State", "StateOptions", "Stub", "call", "open"]

T = TypeVar("T")
P = ParamSpec("P")
O = TypeVar("O", bound=DurableObject)  # noqa: E741 - the object's class

Backend = Literal["asyncio", "trio"]
"""Which event loop the thread runs."""

_IDS_AT_ONCE = 500


@final
class _Failed:
    """What a call raised, brought over without ending the loop if it is a ``BaseException``."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return await awaited(function(*args, **kwargs))
    except anyio.get_cancelled_exc_class():
        raise
    except BaseException as exc:
        return _Failed(exc)


@final
class _LoopThread(Generic[T]):
    """A thread with an event loop in which ``manager`` is entered.

    Args:
        manager: entered when the thread starts, left when it ends.
        backend: the event loop.
        what: names it in messages.
    """

    def __init__(self, manager: AbstractAsyncContextManager[T], backend: str, what: str) -> None:
        if backend not in ("asyncio", "trio"):
            raise ArgumentValueError(f'backend is "asyncio" or "trio", got {backend!r}')
        self._manager = manager
        self._backend = backend
        self._what = what
        self._portal: BlockingPortal | None = None
        self._thread_id: int | None = None
        self._process_id: int | None = None
        self._stack = contextlib.ExitStack()
        # Held while the state changes between new, open and closed.
        self._changing = threading.Lock()
        self._entered = False

    def start(self) -> T:
        """Start the thread and enter the manager in it."""
        with self._changing:
            if self._entered:
                raise DurableStorageError(f"{self._what} can be entered once; make another one")
            self._entered = True
            self._process_id = os.getpid()
            with contextlib.ExitStack() as stack:
                portal = stack.enter_context(
                    start_blocking_portal(self._backend, name="durable_storage.sync")
                )
                self._thread_id = portal.call(threading.get_ident)
                self._portal = portal
                try:
                    result = cast("T", self.run(self._manager.__aenter__))
                except BaseException:
                    self._portal = None
                    raise
                self._stack = stack.pop_all()
            return result

    def stop(self, *exception: Any) -> None:
        """Leave the manager and end the thread; what other threads have under way is finished.

        In a process that was forked meanwhile it does nothing: the thread is the parent's, and so
        is what it owns.
        """
        if self.forked:
            return
        if self.inside:
            self._refuse_inside("leaving " + self._what)
        with self._changing:
            if self._portal is None:
                return
            with self._stack:
                try:
                    self.run(self._manager.__aexit__, *exception)
                finally:
                    self._portal = None

    @property
    def inside(self) -> bool:
        """Whether the calling thread is the loop's."""
        return self._portal is not None and threading.get_ident() == self._thread_id

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that started the thread."""
        return self._process_id is not None and self._process_id != os.getpid()

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function, sync or async, in the loop's thread and give its result."""
        if self.forked:
            # No thread survives a fork: the call would wait for ever.
            raise ConcurrencyError(
                f"{self._what} was opened by the process {self._process_id}, and this is a fork of "
                "it, without its event loop; open it after the fork, with a directory of its own"
            )
        portal = self._portal
        if portal is None:
            raise DurableStorageError(
                f"{self._what} is not open: use it inside `with {self._what}(...)`"
            )
        if self.inside:
            self._refuse_inside("a call of durable_storage.sync")

        async def task() -> Any:
            return await _outcome(function, *args, **kwargs)

        try:
            future = portal.start_task_soon(task)
        except RuntimeError as exc:
            raise DurableStorageError(f"{self._what} was closed") from exc
        try:
            result = future.result()
        except CancelledError as exc:
            raise DurableStorageError(f"{self._what} was closed before the call was done") from exc
        except BaseException:
            # A KeyboardInterrupt while waiting: the call is cancelled as an awaited one would be.
            future.cancel()
            raise
        if type(result) is _Failed:
            raise result.error
        return result

    def _refuse_inside(self, operation: str) -> NoReturn:
        raise ConcurrencyError(
            f"{operation} was made in the event loop's own thread, which would wait for itself; "
            "code of objects uses self.ctx and self.env, and awaits"
        )


@final
class Runtime:
    """Owns a data directory, as `durable_storage.Runtime` does, for code that is not async.

    ``with sync.Runtime("./data") as runtime:``. Thread-safe.

    Args:
        path: the data directory; made if missing. None: a temporary one, removed at the end.
        env: given to every object's constructor; default an empty namespace.
        migrations: the classes' migrations; applied once, in order.
        backend: the event loop that objects run on, ``"asyncio"`` or ``"trio"``.
        **options: the other arguments of `durable_storage.Runtime`.

    Raises:
        RuntimeInUseError: (on entering) the directory has another owner.
        MigrationError: (on entering) a migration cannot be applied; nothing was changed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        env: Any = None,
        migrations: Sequence[Migration] = (),
        backend: Backend = "asyncio",
        **options: Unpack[RuntimeOptions],
    ) -> None:
        self._begin(AsyncRuntime(path, env=env, migrations=migrations, **options), backend)

    def _begin(self, runtime: AsyncRuntime, backend: Backend) -> None:
        self._runtime = runtime
        self._thread = _LoopThread(runtime, backend, "sync.Runtime")

    @classmethod
    def from_wrangler(
        cls,
        config: str | os.PathLike[str] | Mapping[str, Any],
        *,
        classes: Mapping[str, type[DurableObject]] | Iterable[type[DurableObject]],
        path: str | os.PathLike[str] | None = None,
        environment: str | None = None,
        env: Any = None,
        backend: Backend = "asyncio",
        **options: Unpack[RuntimeOptions],
    ) -> Runtime:
        """A runtime as a Wrangler configuration describes it.

        See `durable_storage.Runtime.from_wrangler`.

        Args:
            config: the configuration, or where it is.
            classes: the classes that bindings name.
            path: as for `Runtime`.
            environment: a name under ``env`` of the configuration.
            env: gets the bindings as attributes. They are asynchronous: they are for objects.
            backend: as for `Runtime`.
            **options: the other arguments of `durable_storage.Runtime`.
        """
        made = cls.__new__(cls)
        made._begin(
            AsyncRuntime.from_wrangler(
                config, classes=classes, path=path, environment=environment, env=env, **options
            ),
            backend,
        )
        return made

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.stop(kind, error, traceback)

    def close(self) -> None:
        """Let what is under way finish, confirm everything, close everything. Idempotent.

        Raises:
            ObjectResetError: an object's last writes could not be confirmed.
        """
        self._thread.stop(None, None, None)

    @property
    def env(self) -> Any:
        """What every object's constructor is given."""
        return self._runtime.env

    @property
    def path(self) -> str:
        """The data directory."""
        return self._runtime.path

    @property
    def open_objects(self) -> int:
        """How many objects are open now."""
        return self._runtime.open_objects

    @property
    def asynchronous(self) -> AsyncRuntime:
        """The runtime itself, to be used by functions that `run` is given, and nowhere else."""
        return self._runtime

    def namespace(
        self,
        cls: type[O],
        *,
        name: str | None = None,
        storage: Literal["sqlite", "kv"] = "sqlite",
    ) -> Namespace[O]:
        """The namespace of the objects of ``cls``, made if it is new.

        Args:
            cls: a subclass of `DurableObject`.
            name: default the class's name.
            storage: ``"kv"`` for the legacy backend.

        Raises:
            MigrationError: it exists with the other backend, or was deleted or renamed.
        """
        found = self._thread.run(self._runtime.namespace, cls, name=name, storage=storage)
        return Namespace(self._thread, found)

    @overload
    def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...
    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function in the event loop's thread and give its result.

        For what is better written asynchronously, such as many calls at once; it uses
        `asynchronous`.

        Args:
            function: sync or async.
            *args: its positional arguments.
            **kwargs: its keyword arguments.
        """
        return self._thread.run(function, *args, **kwargs)

    def snapshot(self) -> RuntimeSnapshot:
        """Everything that is stored now, to be given to `restore`; for tests.

        Raises:
            ConcurrencyError: an event is under way.
        """
        return cast("RuntimeSnapshot", self._thread.run(self._runtime.snapshot))

    def restore(self, snapshot: RuntimeSnapshot, *, abandon: bool = False) -> None:
        """Replace everything that is stored by ``snapshot``; for tests.

        Args:
            snapshot: what `snapshot` gave.
            abandon: reset events that are under way, instead of refusing to go on.

        Raises:
            ConcurrencyError: an event is under way.
        """
        self._thread.run(self._runtime.restore, snapshot, abandon=abandon)


@final
class Namespace(Generic[O]):
    """The objects of one class. ``Runtime.namespace()`` makes it. Thread-safe."""

    def __init__(self, thread: _LoopThread[Any], namespace: DurableObjectNamespace[O]) -> None:
        self._thread = thread
        self._namespace = namespace

    def __repr__(self) -> str:
        return f"<sync.Namespace {self.name} of {self.cls.__name__}>"

    @property
    def name(self) -> str:
        """What the runtime calls it."""
        return self._namespace.name

    @property
    def cls(self) -> type[O]:
        """The class of its objects."""
        return self._namespace.cls

    def id_from_name(self, name: str) -> DurableObjectId:
        """The id of the object called ``name``; always the same."""
        return self._namespace.id_from_name(name)

    def id_from_string(self, hex: str) -> DurableObjectId:
        """The id that ``str(id)`` wrote.

        Raises:
            ArgumentValueError: not 64 hex digits, or the id of another namespace.
        """
        return self._namespace.id_from_string(hex)

    def new_unique_id(self, *, jurisdiction: Jurisdiction | None = None) -> DurableObjectId:
        """The id of an object that does not exist yet."""
        return self._namespace.new_unique_id(jurisdiction=jurisdiction)

    def get(self, id: DurableObjectId, *, location_hint: LocationHint | None = None) -> Stub[O]:
        """The stub of an object: its public methods become plain functions.

        Args:
            id: an id of this namespace.
            location_hint: recorded when the object is first made; it moves nothing here.
        """
        return Stub(self._thread, self._namespace.get(id, location_hint=location_hint), self.cls)

    def get_by_name(self, name: str, *, location_hint: LocationHint | None = None) -> Stub[O]:
        """The stub of the object called ``name``."""
        stub = self._namespace.get_by_name(name, location_hint=location_hint)
        return Stub(self._thread, stub, self.cls)

    def jurisdiction(self, name: Jurisdiction) -> Namespace[O]:
        """The sub-namespace of a jurisdiction: ids of its own, distinct from all others."""
        return Namespace(self._thread, self._namespace.jurisdiction(name))

    def list_ids(self) -> Iterator[DurableObjectId]:
        """Every object that was ever used, in order of id, read some hundreds at a time."""
        ids = self._namespace.list_ids()

        async def some() -> list[DurableObjectId]:
            found: list[DurableObjectId] = []
            async for each in ids:
                found.append(each)
                if len(found) == _IDS_AT_ONCE:
                    break
            return found

        while batch := cast("list[DurableObjectId]", self._thread.run(some)):
            yield from batch


@final
class Stub(Generic[O]):
    """How an object is called from outside: every public method is a function that waits.

    Type checkers cannot turn the coroutine functions of a class into plain ones, so what a method
    of a stub takes and gives is not checked; `call` is the same with types.
    """

    def __init__(self, thread: _LoopThread[Any], stub: O, cls: type[O]) -> None:
        self.__dict__["_sync_stub"] = (thread, stub, cls)

    @property
    def id(self) -> DurableObjectId:
        """The object's id."""
        return cast("DurableObjectId", self.__dict__["_sync_stub"][1].id)

    @property
    def name(self) -> str | None:
        """The name its id was made from."""
        return self.id.name

    def __repr__(self) -> str:
        return f"<sync {self.__dict__['_sync_stub'][1]!r}>"

    def __setattr__(self, attribute: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a stub has no settable attributes; set {attribute!r} inside a method of the object"
        )

    def __getattr__(self, method: str) -> Callable[..., Any]:
        thread: _LoopThread[Any]
        thread, stub, cls = self.__dict__["_sync_stub"]
        function = getattr(stub, method)

        def run(*args: Any, **kwargs: Any) -> Any:
            return thread.run(function, *args, **kwargs)

        run.__name__ = method
        run.__qualname__ = f"{cls.__name__}.{method}"
        self.__dict__[method] = run
        return run


@overload
def call(
    stub: Stub[O],
    method: Callable[Concatenate[O, P], Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T: ...
@overload
def call(
    stub: Stub[O], method: Callable[Concatenate[O, P], T], /, *args: P.args, **kwargs: P.kwargs
) -> T: ...
def call(stub: Stub[Any], method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a method of an object, with types: ``call(counter, Counter.increment, 2)``.

    Args:
        stub: the object.
        method: a public method of its class.
        *args: its positional arguments.
        **kwargs: its keyword arguments.
    """
    if not isinstance(cast("object", stub), Stub):
        raise ArgumentTypeError(f"call() takes a sync.Stub, got {type(stub).__name__}")
    if not callable(method):
        raise ArgumentTypeError(f"call() takes a method, got {type(method).__name__}")
    return getattr(stub, method.__name__)(*args, **kwargs)


class StateOptions(TypedDict, total=False):
    """The arguments of `open`, as of `DurableObjectState.open`, apart from the path."""

    name: str | None
    durability: Durability
    limits: Limits | None
    serializer: Serializer | None
    clock: Clock | None
    history: History | None
    props: Any


@contextlib.contextmanager
def open(  # noqa: A001 - it reads sync.open()
    path: str | os.PathLike[str],
    *,
    backend: Backend = "asyncio",
    **options: Unpack[StateOptions],
) -> Generator[State]:
    """Open one object's file without a runtime: ``with sync.open("room.sqlite") as room:``.

    Args:
        path: the SQLite file; made if missing.
        backend: the event loop it is used on.
        **options: the other arguments of `DurableObjectState.open`.

    Raises:
        DatabaseFileError: the file is no database, is in use, or cannot be written.
    """
    thread = _LoopThread(DurableObjectState.open(path, **options), backend, "sync.open")
    state = thread.start()
    try:
        yield State(thread, state)
    finally:
        thread.stop(None, None, None)


@final
class State:
    """One object's file, opened by `open`. Thread-safe."""

    def __init__(self, thread: _LoopThread[DurableObjectState], state: DurableObjectState) -> None:
        self._thread = thread
        self._state = state

    @property
    def id(self) -> DurableObjectId:
        """The object's id."""
        return self._state.id

    @overload
    def run_event(
        self,
        callback: Callable[Concatenate[DurableObjectState, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...
    @overload
    def run_event(
        self,
        callback: Callable[Concatenate[DurableObjectState, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...
    def run_event(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Deliver one event: ``callback(ctx, …)`` runs in the loop's thread, gated.

        Args:
            callback: sync or async; its first argument is the `DurableObjectState`, which is to be
                used in the callback only.
            *args: further positional arguments.
            **kwargs: keyword arguments.

        Returns:
            What the callback returned, once everything it could have seen is confirmed.
        """
        return self._thread.run(self._state.run_event, callback, self._state, *args, **kwargs)

    def sql(self, query: str, *bindings: object) -> list[dict[str, Any]]:
        """Run SQL as one event and give all rows, once what it wrote is confirmed.

        Args:
            query: one or more statements; the bindings belong to the last.
            *bindings: values of its parameters.
        """
        return self.run_event(lambda ctx: ctx.storage.sql.exec(query, *bindings).to_array())

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or ``default``."""
        return self.run_event(lambda ctx: ctx.storage.kv.get(key, default))

    def put(self, key: str, value: object) -> None:
        """Store ``value`` under ``key``; returns once that is confirmed."""
        self.run_event(lambda ctx: ctx.storage.kv.put(key, value))

    def delete(self, key: str) -> bool:
        """Delete ``key``: whether it was there."""
        return self.run_event(lambda ctx: ctx.storage.kv.delete(key))
