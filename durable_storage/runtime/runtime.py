"""The runtime: a data directory, every object in it, and the alarms."""

from __future__ import annotations

import datetime
import os
import sys
import types
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack, cast, final

import anyio

from ..clock import Clock, SystemClock, busy
from ..database.faults import Faults
from ..errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ConcurrencyError,
    DurableStorageError,
    ObjectResetError,
)
from ..gates.deadlines import Deadlines
from ..gates.life import Life
from ..gates.loop import Loop, Signal
from ..gates.outgoing import current_frame
from ..history import History
from ..ids import DurableObjectId, LocationHint, id_from_string
from ..limits import Limits
from ..log import OBJECTS
from ..object import DurableObject
from ..serializers import MsgpackSerializer, Serializer
from ..storage.host import Host
from ..storage.kv_backend import KvBackend, SqliteKvBackend
from ..storage.legacy.host import AnyHost, LegacyHost
from ..storage.settings import Durability, Settings
from .alarms import TRY_AGAIN_MS, AlarmScheduler, ObjectAlarms
from .descriptors import places
from .directory import DataDirectory
from .migrations import Migration, apply_migrations, remove_deleted
from .namespace import DurableObjectNamespace
from .observer import Observer
from .registry import NamespaceNumber, NamespaceRecord, Registry
from .resident import Evicted, Resident
from .room import Room, Turns
from .snapshots import RuntimeSnapshot, read_directory, write_directory
from .wrangler import read_wrangler

__all__ = ["Runtime", "RuntimeOptions"]

O = TypeVar("O", bound=DurableObject)  # noqa: E741 - the object's class

SHUTDOWN_SECONDS = 10.0


class RuntimeOptions(TypedDict, total=False):
    """The arguments of `Runtime` that do not come from a Wrangler configuration."""

    durability: Durability
    limits: Limits | None
    serializer: Serializer | None
    clock: Clock | None
    idle_timeout: float
    max_open_objects: int
    history: History | None
    kv_backend: Callable[[str, str], KvBackend] | None
    faults: Faults | None


@final
class Runtime:
    """Owns a data directory, every object in it, and the scheduler of their alarms.

    Use it as an async context manager. One owner at a time: a second process, or a second runtime
    of this one, that opens the directory is refused.

    Args:
        path: the data directory; made if missing. None: a temporary one, removed at the end.
        env: given to every object's constructor; default an object of the runtime's own, on which
            `namespace` puts every namespace under its name.
        durability: ``"disk"``: an answer leaves once its writes are on stable storage; ``"os"``:
            once they are committed to the operating system, which survives a crash of the process
            but not a power loss.
        limits: see `Limits`.
        serializer: how KV values are encoded.
        clock: what time it is; tests give a manual one.
        idle_timeout: seconds after which an object that nobody uses is closed.
        max_open_objects: so many objects are open at most; the longest unused ones are closed.
            Fewer when the process may not have descriptors for so many (seven each).
        history: how far back every object can be restored.
        migrations: the classes' migrations; applied once, in order.
        kv_backend: gives the store of an object of a namespace with ``storage="kv"``, called with
            the namespace's name and the object's id as hex digits whenever the object is opened;
            default a SQLite file in the directory. The name is the one it was created with, which
            a rename keeps; a class created again after its deletion gets another. A migration that
            deletes a class removes nothing from a store of your own.

    Raises:
        RuntimeInUseError: the directory has another owner.
        MigrationError: a migration cannot be applied; nothing was changed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        env: Any = None,
        durability: Durability = "disk",
        limits: Limits | None = None,
        serializer: Serializer | None = None,
        clock: Clock | None = None,
        idle_timeout: float = 10.0,
        max_open_objects: int = 1000,
        history: History | None = None,
        migrations: Sequence[Migration] = (),
        kv_backend: Callable[[str, str], KvBackend] | None = None,
        faults: Faults | None = None,
    ) -> None:
        if isinstance(idle_timeout, bool) or not isinstance(idle_timeout, (int, float)):
            raise ArgumentTypeError(
                f"idle_timeout is a number of seconds, got {type(idle_timeout).__name__}"
            )
        if not idle_timeout > 0:
            raise ArgumentValueError(f"idle_timeout must be positive, got {idle_timeout}")
        if isinstance(max_open_objects, bool) or not isinstance(max_open_objects, int):
            raise ArgumentTypeError(
                f"max_open_objects is an int, got {type(max_open_objects).__name__}"
            )
        if max_open_objects < 1:
            raise ArgumentValueError(f"max_open_objects must be positive, got {max_open_objects}")
        if isinstance(migrations, (str, bytes)) or not isinstance(migrations, Sequence):
            raise ArgumentTypeError(
                f"migrations is a list of Migration, got {type(migrations).__name__}"
            )
        for migration in cast("Sequence[object]", migrations):
            if not isinstance(migration, Migration):
                raise ArgumentTypeError(
                    f"migrations is a list of Migration, got {type(migration).__name__} in it"
                )
        self._path = path
        self.observers: list[Observer] = []
        self._own_env = types.SimpleNamespace()
        self.env: Any = self._own_env if env is None else env
        self._settings = Settings(
            durability=durability,
            limits=Limits() if limits is None else limits,
            serializer=MsgpackSerializer() if serializer is None else serializer,
            clock=SystemClock() if clock is None else clock,
            history=History(retention=datetime.timedelta(days=30)) if history is None else history,
            faults=faults,
        )
        # An int may be too large for a float.
        self._idle_timeout = float(min(idle_timeout, sys.float_info.max))
        self._max_open = max_open_objects
        self._migrations = tuple(migrations)
        if kv_backend is not None and not callable(kv_backend):
            raise ArgumentTypeError(
                f"kv_backend is a callable that gives a KvBackend, got {type(kv_backend).__name__}"
            )
        self._kv_backend = kv_backend
        self._bindings: dict[str, tuple[str, type[DurableObject]]] = {}
        self._directory: DataDirectory | None = None
        self._registry: Registry | None = None
        self._namespaces: dict[NamespaceNumber, DurableObjectNamespace[Any]] = {}
        self._residents: dict[NamespaceNumber, dict[str, Resident]] = {}
        # Objects that are being opened or closed; whoever wants one of them waits for the signal.
        self._changing: dict[tuple[NamespaceNumber, str], Signal] = {}
        # Idle objects, the longest unused last, as they were when this was last used up.
        self._coldest: list[tuple[int, NamespaceNumber, str]] = []
        self._sweeper: anyio.CancelScope | None = None
        self._sweeping = False
        self.closing: bool = True
        self._ended = False
        # Set while the directory is being replaced; whoever opens an object waits for it.
        self._offline_until: Signal | None = None

    @classmethod
    def from_wrangler(
        cls,
        config: str | os.PathLike[str] | Mapping[str, Any],
        *,
        classes: Mapping[str, type[DurableObject]] | Iterable[type[DurableObject]],
        path: str | os.PathLike[str] | None = None,
        environment: str | None = None,
        env: Any = None,
        **options: Unpack[RuntimeOptions],
    ) -> Runtime:
        """A runtime as a Wrangler configuration describes it.

        Its bindings and ``vars`` become attributes of ``runtime.env`` when the runtime is entered,
        and its migrations are applied. ``.jsonc`` needs the extra ``wrangler``.

        Args:
            config: ``wrangler.toml``, ``.json`` or ``.jsonc``, a folder that has one, or what it
                says as a mapping.
            classes: the classes that bindings name, by name or as they are called.
            path: as for `Runtime`.
            environment: a name under ``env`` of the configuration; None for the top level.
            env: gets the attributes; default an empty namespace.
            **options: the other arguments of `Runtime`.

        Raises:
            ArgumentValueError: the configuration is malformed, or names a class that is not given.
            MigrationError: (on entering) a migration cannot be applied; nothing was changed.
        """
        read = read_wrangler(config, environment=environment)
        given = _classes_by_name(classes)
        runtime = cls(path, env=env, migrations=read.migrations, **options)
        for binding in read.bindings:
            if binding.class_name not in given:
                raise ArgumentValueError(
                    f"the binding {binding.name!r} names the class {binding.class_name!r}, which "
                    f"classes= does not have; it has {sorted(given)}"
                )
            runtime._bindings[binding.name] = (binding.class_name, given[binding.class_name])
        for name, value in read.vars.items():
            setattr(runtime.env, name, value)
        return runtime

    # -- life -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._directory is not None:
            raise DurableStorageError("a Runtime can be entered once; make another one")
        directory = self._directory = DataDirectory(self._path)
        try:
            loop = self._loop = Loop.running()
            self._turns = Turns(self._loop)
            self._room = Room(
                loop,
                self._settings.clock,
                places(self._max_open),
                self._settings.limits.queued_seconds,
                self._close_one_idle,
            )
            limits, clock = self._settings.limits, self._settings.clock
            self._deadlines = Deadlines(loop, clock, limits.critical_section_seconds)
            self._alarm_deadlines = Deadlines(loop, clock, limits.alarm_seconds)
            self._open_registry(directory)
            await self._alarms.load()
        except BaseException:
            if self._registry is not None:
                self._registry.close()
            directory.release()
            raise
        self.closing = False
        for name, (class_name, bound) in self._bindings.items():
            record = self.registry.find_namespace(class_name)
            backend = "sqlite" if record is None else record.backend
            setattr(self.env, name, self.namespace(bound, name=class_name, storage=backend))
        self._alarms.start()
        return self

    def _open_registry(self, directory: DataDirectory) -> None:
        settings = self._settings
        registry = self._registry = Registry(directory.registry_path, faults=settings.faults)
        apply_migrations(
            registry,
            self._migrations,
            bound=[class_name for class_name, _ in self._bindings.values()]
            if self._migrations
            else (),
            now_ms=settings.clock.time_ms(),
        )
        remove_deleted(registry, directory)
        self._alarms = AlarmScheduler(self._loop, settings.clock, registry, self._run_alarm)
        known, self._namespaces, self._residents = list(self._namespaces.values()), {}, {}
        for namespace in known:
            record = namespace.record
            record = namespace.record = registry.ensure_namespace(
                record.name,
                record.backend,
                class_name=record.class_name,
                now_ms=settings.clock.time_ms(),
            )
            self._namespaces[record.number] = namespace
            self._residents[record.number] = namespace._residents  # pyright: ignore[reportPrivateUsage]
            self._alarms.add_namespace(record.number)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()

    async def close(self) -> None:
        """Let what is under way finish, confirm everything, close everything.

        Events get ten seconds, of real time or of the runtime's clock, whichever pass first: a
        clock that is moved by hand may stand still by now. Those that last longer fail with
        `ObjectResetError`.

        Raises:
            ObjectResetError: an object's last writes could not be confirmed.
        """
        if self.closing or not self._loop.thread_id:
            return  # closed already, or all of it is the parent process's
        self._loop.check_thread("close()")
        self.closing = True
        failures: list[Exception] = []
        for resident in self._all_residents():
            # Calls from outside now come by open_object(), which refuses them.
            resident.keep_out()
        await self._finish_events()
        for resident in self._all_residents():
            life = resident.host.life
            if life is not None and not resident.idle:
                closing = f"{life.name} was reset: the runtime is closing"
                life.break_(ObjectResetError(closing, retryable=True), calls=True)
        self._ended = True
        async with anyio.create_task_group() as group:
            for number, residents in self._residents.items():
                for digits in list(residents):
                    group.start_soon(self._close_noting, number, digits, failures)
        while self._changing:
            await next(iter(self._changing.values())).wait()
        self._deadlines.close()
        self._alarm_deadlines.close()
        self._room.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        assert self._directory is not None
        try:
            self.registry.close()
        finally:
            self._directory.release()
        if failures:
            raise failures[0]

    async def _close_noting(
        self, number: NamespaceNumber, digits: str, failures: list[Exception]
    ) -> None:
        try:
            await self._close_object(number, digits)
        except Exception as exc:
            failures.append(exc)

    async def _finish_events(self) -> None:
        """Return when nothing is under way, or the time for that is over."""
        clock = self._settings.clock
        with anyio.move_on_after(SHUTDOWN_SECONDS):
            async with anyio.create_task_group() as group:

                async def give_up(deadline: float) -> None:
                    await clock.sleep_until(deadline)
                    group.cancel_scope.cancel()

                group.start_soon(give_up, clock.monotonic() + SHUTDOWN_SECONDS)
                await self._alarms.close()
                await self._quiet()
                group.cancel_scope.cancel()

    async def _quiet(self) -> None:
        """Return when nothing is under way in any object."""
        changed: list[Signal] = []

        def wake() -> None:
            changed[-1].set()

        while not all(resident.idle for resident in self._all_residents()):
            changed.append(self._loop.signal())
            self._loop.on_idle.add(wake)
            try:
                await changed[-1].wait()
            finally:
                self._loop.on_idle.discard(wake)

    def _all_residents(self) -> list[Resident]:
        return [
            resident for residents in self._residents.values() for resident in residents.values()
        ]

    def _each_resident(self) -> Iterator[tuple[NamespaceNumber, str, Resident]]:
        """Every object that is open, also while namespaces and objects come and go in between."""
        for number, residents in list(self._residents.items()):
            for digits, resident in list(residents.items()):
                if residents.get(digits) is resident:
                    yield number, digits, resident

    @property
    def registry(self) -> Registry:
        """The index of the directory."""
        assert self._registry is not None
        return self._registry

    @property
    def loop(self) -> Loop:
        """The event loop it runs on."""
        return self._loop

    @property
    def path(self) -> str:
        """The data directory."""
        if self._directory is None:
            raise DurableStorageError("the runtime has not been entered: `async with Runtime(...)`")
        return self._directory.path

    @property
    def open_objects(self) -> int:
        """How many objects are open now."""
        return self._room.taken

    @property
    def clock(self) -> Clock:
        """What tells it the time."""
        return self._settings.clock

    # -- the whole directory --------------------------------------------------------------

    async def snapshot(self) -> RuntimeSnapshot:
        """Everything that is stored now, to be given to `restore`.

        For tests with an expensive set-up. Every object is closed for it.

        Raises:
            ConcurrencyError: an event is under way.
        """
        taken: list[RuntimeSnapshot] = []
        await self._offline("snapshot()", lambda path: taken.append(read_directory(path)))
        return taken[0]

    async def restore(self, snapshot: RuntimeSnapshot, *, abandon: bool = False) -> None:
        """Replace everything that is stored by ``snapshot``, taken here or in another runtime.

        Namespaces and stubs stay valid; every object starts anew. The clock stays as it is.

        Args:
            snapshot: what `snapshot` gave.
            abandon: reset events that are under way, instead of refusing to go on.

        Raises:
            ConcurrencyError: an event, or another snapshot or restore, is under way.
            ArgumentTypeError: this is no snapshot; nothing was changed.
            OSError: the disk refused to hold it; nothing was changed.
        """
        if not isinstance(snapshot, RuntimeSnapshot):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(
                f"restore() takes a RuntimeSnapshot, got {type(snapshot).__name__}"
            )
        await self._offline(
            "restore()", lambda path: write_directory(path, snapshot), abandon=abandon
        )

    async def _offline(
        self, operation: str, work: Callable[[str], None], *, abandon: bool = False
    ) -> None:
        """Close everything, let ``work`` have the directory, and open what it left there."""
        if self.closing:
            raise DurableStorageError(f"{operation}: the runtime is not open")
        if self._offline_until is not None:
            raise ConcurrencyError(
                f"{operation}: another snapshot or restore is under way; await it first"
            )
        if not abandon:
            self._refuse_under_way(operation)
        offline = self._offline_until = self._loop.signal()
        try:
            with anyio.CancelScope(shield=True):
                if abandon:
                    self._break_all("was reset: its runtime was restored")
                await self._alarms.close()
                try:
                    await self._close_all(forgiving=abandon)
                    try:
                        self.registry.close()
                    except (DurableStorageError, OSError):
                        if not abandon:
                            raise
                    work(self.path)
                finally:
                    assert self._directory is not None
                    self._open_registry(self._directory)
                    await self._alarms.load()
                    self._alarms.start()
        finally:
            self._offline_until = None
            offline.set()

    async def _close_all(self, *, forgiving: bool) -> None:
        for number, residents in list(self._residents.items()):
            for digits in list(residents):
                try:
                    await self._close_object(number, digits)
                except DurableStorageError:
                    if not forgiving:
                        raise
        while self._changing:
            await next(iter(self._changing.values())).wait()

    def _refuse_under_way(self, operation: str) -> None:
        busy = [each.host.name for each in self._all_residents() if not each.idle]
        if busy:
            raise ConcurrencyError(
                f"{operation}: an event of {', '.join(sorted(busy)[:3])} is under way; "
                "await it first"
            )

    def _break_all(self, reason: str) -> None:
        for resident in self._all_residents():
            resident.keep_out()
            life = resident.host.life
            if life is not None:
                life.break_(ObjectResetError(f"{life.name} {reason}", retryable=True), calls=True)

    # -- namespaces -----------------------------------------------------------------------

    def namespace(
        self,
        cls: type[O],
        *,
        name: str | None = None,
        storage: Literal["sqlite", "kv"] = "sqlite",
    ) -> DurableObjectNamespace[O]:
        """The namespace of the objects of ``cls``, made if it is new.

        Args:
            cls: a subclass of `DurableObject`.
            name: default the class's name.
            storage: ``"kv"`` for the legacy backend.

        Raises:
            MigrationError: it exists with the other backend, or was deleted or renamed.
        """
        if not (isinstance(cls, type) and issubclass(cls, DurableObject)):
            raise ArgumentTypeError(f"namespace() takes a subclass of DurableObject, got {cls!r}")
        if storage not in ("sqlite", "kv"):
            raise ArgumentValueError(f'storage is "sqlite" or "kv", got {storage!r}')
        name = cls.__name__ if name is None else _checked_name(name)
        if self.closing:
            raise DurableStorageError(
                "the runtime is not open: use it inside `async with Runtime(...)`"
            )
        record = self.registry.ensure_namespace(
            name,
            storage,
            class_name=cls.__name__,
            now_ms=self._settings.clock.time_ms(),
        )
        known = self._namespaces.get(record.number)
        if known is not None:
            if known.cls is not cls:
                raise ArgumentValueError(
                    f"the namespace {record.name!r} is already in use for {known.cls!r}; give name="
                )
            return known
        residents = self._residents.setdefault(record.number, {})
        namespace = DurableObjectNamespace(self, cls, record, residents)
        self._namespaces[record.number] = namespace
        if (
            self.env is self._own_env
            and not self._bindings
            and not hasattr(self._own_env, record.name)
        ):
            setattr(self._own_env, record.name, namespace)
        self._alarms.add_namespace(record.number)
        return namespace

    # -- objects --------------------------------------------------------------------------

    async def open_object(
        self,
        namespace: DurableObjectNamespace[Any],
        object_id: DurableObjectId,
        hint: LocationHint | None = None,
    ) -> Resident:
        """The resident of an object, opened if it is not.

        Raises:
            DurableStorageError: the runtime is closing.
            OverloadedError: no room was made for it in time.
        """
        self._loop.check_thread(namespace.cls.__name__)
        while self._offline_until is not None and current_frame(self._loop) is None:
            await self._offline_until.wait()
        record = namespace.record
        residents = self._residents[record.number]
        digits = str(object_id)
        key = (record.number, digits)
        had_turn = False
        while True:
            # What is under way may still call; another runtime's objects may not once it is over.
            if self._ended or (self.closing and current_frame(self._loop) is None):
                raise DurableStorageError(
                    f"{namespace.cls.__name__} was called after its runtime was closed"
                )
            resident = residents.get(digits)
            if resident is not None:
                return resident
            changing = self._changing.get(key)
            if changing is not None:
                await changing.wait()
            elif self._turns.taken and not had_turn:
                await self._turns.wait(key)
                had_turn = True
            elif self._room.take(key, anyway=current_frame(self._loop) is not None):
                self._turns.take()
                try:
                    return self._open_now(namespace, object_id, hint)
                except BaseException:
                    self._room.give_back()
                    raise
            else:
                await self._room.wait(key)

    def _open_now(
        self,
        namespace: DurableObjectNamespace[Any],
        object_id: DurableObjectId,
        hint: LocationHint | None,
    ) -> Resident:
        record = namespace.record
        digits = str(object_id)
        assert self._directory is not None
        path = self._directory.prepare(record.folder, digits)
        settings = self._settings
        # After a crash a file may be there that the registry has not heard of.
        if not os.path.exists(path) or not (
            self.registry.clean_start or self.registry.object(record.number, digits)
        ):
            self.registry.register_object(
                record.number,
                digits,
                name=object_id.name,
                created_ms=settings.clock.time_ms(),
                location_hint=hint,
                jurisdiction=object_id.jurisdiction,
            )
            if settings.durability == "os":
                # Nothing is confirmed later, so this is when a crash must no longer lose it.
                self.registry.flush()
        label = f"{digits[:16]}…" if object_id.name is None else repr(object_id.name)
        name = f"{namespace.cls.__name__} {label}"
        host = self._host(record, digits, name, path, lambda _: resident.forget())
        resident = Resident(
            namespace.cls, object_id, self.env, host, settings, self._loop, self.observers
        )
        if self.closing:
            resident.keep_out()
        self._residents[record.number][digits] = resident
        self._start_sweeper()
        OBJECTS.debug("%s: opened", name)
        return resident

    def _host(
        self,
        record: NamespaceRecord,
        digits: str,
        name: str,
        path: str,
        on_broken: Callable[[Life], None],
    ) -> AnyHost:
        settings = self._settings
        alarm_index = ObjectAlarms(self._alarms, record.number, digits)
        if record.backend == "sqlite":
            return Host(
                self._loop,
                name,
                path,
                settings,
                self._deadlines,
                alarm_index=alarm_index,
                before_confirm=self._before_confirm,
                on_broken=on_broken,
            )
        remote = self._kv_backend

        def open_backend() -> KvBackend:
            if remote is not None:
                # Not the present name: a renamed class keeps its data.
                return remote(record.unique_key, digits)
            return SqliteKvBackend(
                path,
                limits=settings.limits,
                faults=settings.faults,
                before_confirm=self._before_confirm,
            )

        return LegacyHost(
            self._loop,
            name,
            open_backend,
            settings,
            self._deadlines,
            alarm_index=alarm_index,
            before_batch=None if remote is None else self._before_confirm,
            on_broken=on_broken,
        )

    def _before_confirm(self) -> None:
        # In a worker thread: what must not be on the disk later than the object's own commit.
        assert self._directory is not None
        if self._directory.unsynced:
            self._directory.sync_folders()
        self.registry.flush(durable=True)

    async def _close_object(self, number: NamespaceNumber, digits: str) -> None:
        if digits in self._residents[number]:
            await self._begin_close(number, digits)()

    def _begin_close(
        self, number: NamespaceNumber, digits: str
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        """Take an object out of use now; the result closes it."""
        resident = self._residents[number].pop(digits)
        # Stubs remember the resident, and call it directly while it has a life.
        resident.keep_out()
        resident.evicted = True
        key = (number, digits)
        done = self._changing[key] = self._loop.signal()

        async def close() -> None:
            try:
                with anyio.CancelScope(shield=True):
                    await resident.host.close()
                OBJECTS.debug("%s: closed", resident.host.name)
            finally:
                del self._changing[key]
                done.set()
                self._room.give_back()

        return close

    async def evict(
        self, namespace: DurableObjectNamespace[Any], object_id: DurableObjectId
    ) -> bool:
        """Close an object unless something of it is under way; whether it is closed."""
        number = namespace.record.number
        digits = str(object_id)
        changing = self._changing.get((number, digits))
        if changing is not None:
            await changing.wait()
        resident = self._residents[number].get(digits)
        if resident is None:
            return True
        if not resident.idle:
            return False
        await self._close_object(number, digits)
        return True

    async def evict_all(self) -> int:
        """Close every object of which nothing is under way; how many were closed."""
        closed = 0
        for number, digits, resident in self._each_resident():
            if resident.idle:
                await self._close_object(number, digits)
                closed += 1
        return closed

    def _close_one_idle(self) -> bool:
        sorted_now = False
        while True:
            while self._coldest:
                used, number, digits = self._coldest.pop()
                resident = self._residents.get(number, {}).get(digits)
                if resident is not None and resident.used == used and resident.idle:
                    self._loop.spawn(self._begin_close(number, digits))
                    return True
            if sorted_now:
                return False
            sorted_now = True
            self._coldest = sorted(
                (
                    (resident.used, number, digits)
                    for number, residents in self._residents.items()
                    for digits, resident in residents.items()
                    if resident.idle
                ),
                reverse=True,
            )

    # -- idle objects ---------------------------------------------------------------------

    def _start_sweeper(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.spawn(self._sweep)

    async def _sweep(self) -> None:
        clock = self._settings.clock
        try:
            with anyio.CancelScope() as self._sweeper:
                while self._room.taken and not self.closing:
                    await clock.sleep_until(clock.monotonic() + self._idle_timeout / 2)
                    with busy(clock):
                        await self._close_idle()
        finally:
            self._sweeping = False

    async def _close_idle(self) -> None:
        now = self._settings.clock.monotonic()
        for number, digits, resident in self._each_resident():
            if resident.used != resident.looked or not resident.idle:
                resident.looked = resident.used
                resident.idle_since = now
            elif now - resident.idle_since >= self._idle_timeout / 2:
                await self._close_object(number, digits)

    # -- alarms ---------------------------------------------------------------------------

    async def _run_alarm(self, number: NamespaceNumber, digits: str) -> int | None:
        namespace = self._namespaces[number]
        record = namespace.record
        known = self.registry.object(number, digits)
        object_id = id_from_string(record.unique_key, digits)
        if known is not None and known.name is not None:
            object_id = DurableObjectId(
                digits, name=known.name, jurisdiction=object_id.jurisdiction
            )
        resident = await self.open_object(namespace, object_id)
        try:
            _, again = await resident.run_alarm(self._alarm_deadlines)
        except Evicted:
            # The runtime is being closed or restored; the alarm is where it was.
            return self._settings.clock.time_ms() + TRY_AGAIN_MS
        return again


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"a namespace's name is a str, got {type(name).__name__}")
    if not name:
        raise ArgumentValueError("a namespace's name cannot be empty; leave name= out")
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise ArgumentValueError(
            f"a namespace's name cannot hold NUL or lone surrogates, got {name[:80]!r}"
        )
    return name


def _classes_by_name(classes: object) -> dict[str, type[DurableObject]]:
    found: dict[object, object] = {}
    if isinstance(classes, Mapping):
        found.update(cast("Mapping[object, object]", classes))
    elif isinstance(classes, Iterable) and not isinstance(classes, (str, bytes)):
        for each in cast("Iterable[object]", classes):
            found[getattr(each, "__name__", None)] = each
    else:
        raise ArgumentTypeError(
            f"classes= takes the classes, or a mapping of them by name, got {classes!r}"
        )
    for each in found.values():
        if not (isinstance(each, type) and issubclass(each, DurableObject)):
            raise ArgumentTypeError(f"classes= takes subclasses of DurableObject, got {each!r}")
    return cast("dict[str, type[DurableObject]]", found)
