"""A disk that fails on request, and that can lose power.

The fault model. The library announces every operation on its own files before it does it: ``open``,
``write``, ``truncate``, ``rename``, ``unlink``, ``fsync``, ``fdatasync``, and the ``commit`` of an
object's database. The injector may let it pass, delay it, hold it, or make it fail.

What a loss of power leaves: of every file the content at its last ``fsync`` or ``fdatasync`` and
the time of modification at its last ``fsync``, which alone promises it; of every directory the
names at its last ``fsync``. That is the worst that a disk may do; a real one often keeps more.
SQLite is trusted to sync what it folds into a database's main file.
"""

from __future__ import annotations

import errno as errors
import fnmatch
import math
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar, cast, final, get_args

import anyio
import anyio.lowlevel

from ..errors import ArgumentTypeError, ArgumentValueError
from ..gates.loop import Loop
from ..runtime.namespace import Stub
from ..runtime.resident import Resident
from ..runtime.runtime import Runtime
from ..runtime.snapshots import RuntimeSnapshot, SavedFile, write_directory
from .objects import native

__all__ = ["Announced", "Fault", "FaultInjector", "Hold", "Operation"]

T = TypeVar("T")

Operation = Literal["open", "write", "truncate", "rename", "unlink", "fsync", "fdatasync", "commit"]
_OPERATIONS: Final[tuple[str, ...]] = get_args(Operation)
_BLOCKING: Final = ("fsync", "fdatasync")

_OBJECT_WAL: Final = re.compile(r"[0-9a-f]{64}\.sqlite-wal")
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_SETTLE_TURNS: Final = 64


class Announced(NamedTuple):
    """One operation that the library announced."""

    operation: str
    path: str


@final
@dataclass(eq=False)
class Fault:
    """A fault that was asked for.

    Attributes:
        happened: how often it has struck.
    """

    operations: tuple[str, ...]
    path: str | None
    nth: int
    times: float
    strike: Callable[[str], object] = field(repr=False)
    happened: int = 0
    seen: int = field(default=0, repr=False)

    def matches(self, announced: Announced) -> bool:
        """Whether this operation is one of those that it counts."""
        return announced.operation in self.operations and (
            self.path is None or fnmatch.fnmatch(announced.path, self.path)
        )


@final
class FaultInjector:
    """Makes file operations of a runtime fail: ``Runtime(faults=FaultInjector())``.

    With pytest, the fixture ``durable_faults`` is the injector of ``durable_runtime``.

    Operations are counted from the moment a fault is asked for, and ``path`` is a pattern of
    ``fnmatch``, for example ``"*-wal"``. Several faults may be open at a time.

    Attributes:
        announced: every operation so far, in order.
    """

    def __init__(self) -> None:
        self.announced: list[Announced] = []
        self._faults: list[Fault] = []
        self._guard = threading.Lock()
        self._disk = _Disk()
        self._power_lost = False
        self._image: RuntimeSnapshot | None = None

    # -- the seam

    def before(self, operation: str, path: str) -> None:
        """Called by the library before it does ``operation``."""
        announced = Announced(operation, os.path.abspath(path))
        with self._guard:
            self._require_power()
            self.announced.append(announced)
            due: list[Fault] = []
            for fault in self._faults:
                if fault.matches(announced):
                    fault.seen += 1
                    if fault.nth <= fault.seen < fault.nth + fault.times:
                        due.append(fault)
        for fault in due:
            fault.happened += 1
            if fault.strike(announced.path) is False:
                fault.happened -= 1
        with self._guard:
            self._require_power()
            self._disk.note(announced)

    @property
    def power_is_lost(self) -> bool:
        """Whether the power is lost and `crash` has not been called since."""
        return self._power_lost

    def _require_power(self) -> None:
        if self._power_lost:
            raise OSError(errors.EIO, "the power is lost; crash() opens the runtime again")

    # -- asking for faults

    def fail(
        self,
        operation: Operation,
        *,
        nth: int = 1,
        times: float = 1,
        error: OSError | int = errors.EIO,
        path: str | None = None,
    ) -> Fault:
        """Make the ``nth`` operation from now fail, and those after it until it were ``times``.

        Args:
            operation: which operation.
            nth: 1 for the next one.
            times: how many fail; ``math.inf`` for all from then on.
            error: what it fails with, an ``OSError`` or its number.
            path: only operations on files whose path matches.
        """
        if isinstance(error, bool) or not isinstance(error, (OSError, int)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(
                f"error is an OSError or its number, got {type(error).__name__}"
            )

        def strike(at: str) -> None:
            raise OSError(error, os.strerror(error), at) if isinstance(error, int) else error

        return self._ask((operation,), nth, times, path, strike)

    def delay(
        self,
        operation: Operation,
        *,
        seconds: float,
        nth: int = 1,
        times: float = 1,
        path: str | None = None,
    ) -> Fault:
        """Make the ``nth`` operation from now take longer, in real time; see also `hold`."""
        _check_number("seconds", seconds)
        if not 0 <= seconds < math.inf:
            raise ArgumentValueError(f"delay() takes a finite time, got {seconds} seconds")
        return self._ask((operation,), nth, times, path, lambda _: time.sleep(seconds))

    def fill_disk(self, after_bytes: int = 0, *, path: str | None = None) -> Fault:
        """Let files grow by ``after_bytes`` more; then creating, writing and committing fail.

        The operation that finds the disk full is refused with ``ENOSPC``, as is every later one
        until `clear`. The growth is that of every directory in which something was announced.
        """
        _check_number("after_bytes", after_bytes, whole=True)
        if after_bytes < 0:
            raise ArgumentValueError(f"fill_disk() takes no negative size, got {after_bytes}")
        limit = self._disk.used_bytes() + after_bytes

        def strike(at: str) -> bool:
            if self._disk.used_bytes() < limit:
                return False
            if self.announced[-1].operation == "open" and os.path.exists(at):
                return False
            raise OSError(errors.ENOSPC, os.strerror(errors.ENOSPC), at)

        return self._ask(("commit", "write", "open"), 1, math.inf, path, strike)

    def hold(
        self, operation: Literal["fsync", "fdatasync"], *, nth: int = 1, path: str | None = None
    ) -> Hold:
        """Make the ``nth`` operation from now wait until the test lets it go on.

        ``with faults.hold("fdatasync") as held:``, then ``await held.reached()`` and
        ``held.release()``; leaving the block releases it too. For operations that the library does
        in threads.
        """
        if operation not in _BLOCKING:
            raise ArgumentValueError(
                f"hold() takes one of {', '.join(_BLOCKING)}, got {operation!r}: other operations "
                "run on the event loop, which nothing may stop"
            )
        return Hold(self, operation, nth, path)

    def lose_power(
        self, operation: Operation | None = None, *, nth: int = 1, path: str | None = None
    ) -> None:
        """Lose the power now, or right before the ``nth`` operation from now.

        From then on every operation fails, until `crash` opens the runtime again.
        """
        if operation is None:
            with self._guard:
                self._cut()
            return

        def strike(_: str) -> None:
            with self._guard:
                self._cut()

        self._ask((operation,), nth, 1, path, strike)

    def clear(self) -> None:
        """Forget every fault that was asked for; the disk works again."""
        with self._guard:
            self._faults.clear()

    def _ask(
        self,
        operations: tuple[str, ...],
        nth: int,
        times: float,
        path: str | None,
        strike: Callable[[str], object],
    ) -> Fault:
        for operation in operations:
            if operation not in _OPERATIONS:
                raise ArgumentValueError(
                    f"unknown operation {operation!r}; known are {', '.join(_OPERATIONS)}"
                )
        _check_number("nth", nth, whole=True)
        _check_number("times", times, whole=times != math.inf)
        if path is not None and not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(f"path is a pattern, got {type(path).__name__}")
        if nth < 1 or times < 1:
            raise ArgumentValueError(f"nth and times count from 1, got {nth} and {times}")
        fault = Fault(operations, path, nth, times, strike)
        with self._guard:
            self._faults.append(fault)
        return fault

    def _drop(self, fault: Fault) -> None:
        with self._guard:
            if fault in self._faults:
                self._faults.remove(fault)

    # -- what happened

    def count(self, operation: Operation, *, path: str | None = None) -> int:
        """How many operations of this kind were announced so far."""
        counted = Fault((operation,), path, 1, math.inf, lambda _: None)
        with self._guard:
            return sum(map(counted.matches, self.announced))

    # -- crashing

    def _cut(self) -> None:
        if not self._power_lost:
            self._power_lost = True
            self._image = self._disk.durable()

    async def crash(self, runtime: Runtime) -> None:
        """Lose the power, unless it is lost already, and open the runtime again on what is left.

        Everything that was not synced is gone. Events under way fail with `ObjectResetError`;
        namespaces and stubs stay valid. Faults that were asked for are forgotten.
        """
        with self._guard:
            self._cut()
            image = self._image
            self._faults.clear()
        assert image is not None
        left = _below(runtime.path, image)

        def power_on(path: str) -> None:
            # Closing has tried to write, and failed; what SQLite itself wrote is undone here.
            write_directory(path, left)
            with self._guard:
                self._power_lost = False
                self._image = None
                self._disk = _Disk()

        await runtime._offline("crash()", power_on, abandon=True)  # pyright: ignore[reportPrivateUsage]

    # -- assertions

    async def assert_withheld(self, call: Awaitable[T]) -> T:
        """Await ``call`` and check that its result came only after its writes were synced.

        The sync of an object's log is held up meanwhile: a result that does not wait for it is
        out too early. Gives the result.

        Raises:
            AssertionError: the result was released before its confirm, or no write was confirmed.
        """
        outcome: list[tuple[Any, BaseException | None]] = []
        early = never = False
        with self.hold("fdatasync", path="*.sqlite-wal") as held:
            held.only = _OBJECT_WAL
            async with anyio.create_task_group() as group:
                ended = anyio.Event()

                async def run() -> None:
                    try:
                        outcome.append((await call, None))
                    except Exception as exc:
                        outcome.append((None, exc))
                    ended.set()
                    held.notice()

                group.start_soon(run)
                await held.reached_or_noticed()
                if not ended.is_set():
                    for _ in range(_SETTLE_TURNS):
                        await anyio.lowlevel.checkpoint()
                early = ended.is_set()
                never = not held.is_reached
                held.release()
        result, error = outcome[0]
        if error is not None:
            raise error
        if early:
            raise AssertionError(
                "the result was released and nothing was confirmed: the call wrote nothing, or "
                'with allow_unconfirmed=True, or its runtime has durability="os"'
                if never
                else "the result was released before its confirm: what it told is lost when the "
                "power fails now"
            )
        return cast("T", result)

    def assert_confirmed(self, target: object) -> None:
        """Check that everything written so far is on stable storage.

        To be called where something leaves the process: in the double of a mailer, of a queue, of
        another service.

        Args:
            target: a stub, or the runtime for all of its objects.

        Raises:
            AssertionError: an object has written something that a loss of power would undo.
        """
        for resident in _residents(target):
            life, session = resident.host.life, resident.host.session
            if life is None or session is None:
                continue
            gate = life.gate
            if life.pending:
                what = "what its event wrote is not even committed"
            elif gate.immediate and gate.committed:
                what = 'durability="os" confirms nothing; use durability="disk"'
            elif gate.confirmed < gate.committed:
                what = f"{gate.committed - gate.confirmed} of its commits are not confirmed"
            else:
                continue
            raise AssertionError(
                f"{life.name} told something before it was durable: {what}; "
                "await ctx.storage.sync() first"
            )


@final
class Hold:
    """One operation that waits. ``FaultInjector.hold`` makes it."""

    def __init__(self, faults: FaultInjector, operation: str, nth: int, path: str | None) -> None:
        self._injector = faults
        self._loop = Loop.running()
        self._go = threading.Event()
        self._reached = anyio.Event()
        self._noticed = anyio.Event()
        self.only: re.Pattern[str] | None = None
        self._fault = faults._ask((operation,), nth, math.inf, path, self._wait)  # pyright: ignore[reportPrivateUsage]
        # A quick disk is synced on the event loop itself, which must not wait.
        self._confirm_seconds = self._loop.confirm_seconds
        self._loop.confirm_seconds = math.inf

    def _wait(self, path: str) -> bool:
        if self._go.is_set() or (
            self.only is not None and not self.only.fullmatch(os.path.basename(path))
        ):
            return False
        if threading.get_ident() == self._loop.thread_id:
            # Nobody could release it.
            return False
        self._loop.call_soon_threadsafe(self._reach)
        return self._go.wait()

    def _reach(self) -> None:
        self._reached.set()
        self._noticed.set()

    @property
    def is_reached(self) -> bool:
        """Whether the operation has come."""
        return self._reached.is_set()

    async def reached(self) -> None:
        """Return once the operation has come and waits."""
        await self._reached.wait()

    def notice(self) -> None:
        """Wake `reached_or_noticed`."""
        self._noticed.set()

    async def reached_or_noticed(self) -> None:
        """Return once the operation has come, or `notice` was called."""
        await self._noticed.wait()

    def release(self) -> None:
        """Let it go on, and every later one too."""
        if not self._go.is_set():
            self._go.set()
            self._loop.confirm_seconds = self._confirm_seconds
            self._injector._drop(self._fault)  # pyright: ignore[reportPrivateUsage]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _check_number(name: str, number: object, *, whole: bool = False) -> None:
    if isinstance(number, bool) or not isinstance(number, int if whole else (int, float)):
        kind = "an int" if whole else "a number"
        raise ArgumentTypeError(f"{name} is {kind}, got {type(number).__name__}")


# -- what the disk holds ------------------------------------------------------------------


class _Synced(NamedTuple):
    """What of a file is durable."""

    content: bytes = b""
    modified_ns: int | None = None
    """None if the file's times were never synced: it may have any."""


class _Disk:
    """What of each file and directory is durable. See the module."""

    def __init__(self) -> None:
        # By inode.
        self._files: dict[int, _Synced] = {}
        # By directory: the names when it was last synced. A file that was unlinked since then is
        # kept as what is durable of it, for its number may be used again.
        self._names: dict[str, dict[str, int | _Synced]] = {}

    def note(self, announced: Announced) -> None:
        """Note an operation that is about to be done."""
        operation, path = announced
        if operation == "commit":
            return
        self._see(path if os.path.isdir(path) else os.path.dirname(path))
        if operation in ("fsync", "fdatasync"):
            if os.path.isdir(path):
                self._names[path] = dict(_inodes(path))
            elif os.path.exists(path):
                status = os.stat(path)
                before = self._files.get(status.st_ino, _Synced())
                modified_ns = status.st_mtime_ns if operation == "fsync" else before.modified_ns
                self._files[status.st_ino] = _Synced(_read(path), modified_ns)
        elif operation in ("unlink", "rename") and os.path.isfile(path):
            self._forget(path, os.stat(path).st_ino)

    def _see(self, directory: str) -> None:
        # What was there before the first operation in it was made durable by somebody else. So was
        # all that is below, where perhaps nothing is ever announced.
        if directory in self._names:
            return
        for each, _, _ in os.walk(directory):
            if each in self._names:
                continue
            names = _inodes(each)
            self._names[each] = dict(names)
            for name, inode in names.items():
                path = os.path.join(each, name)
                if inode not in self._files and os.path.isfile(path):
                    self._files[inode] = _Synced(_read(path), os.stat(path).st_mtime_ns)

    def _forget(self, path: str, inode: int) -> None:
        synced = self._synced(path, inode)
        for names in self._names.values():
            for name, held in names.items():
                if held == inode:
                    names[name] = synced

    def _synced(self, path: str, inode: int) -> _Synced:
        synced = self._files.get(inode, _Synced())
        if synced.content.startswith(_SQLITE_MAGIC) and _inode(path) == inode:
            # Only folding changes the main file, and SQLite syncs it then.
            synced = synced._replace(content=_read(path))
        return synced

    def used_bytes(self) -> int:
        """The size of everything in the directories that are known."""
        return sum(
            entry.stat().st_size
            for directory in list(self._names)
            if os.path.isdir(directory)
            for entry in os.scandir(directory)
            if entry.is_file()
        )

    def durable(self) -> RuntimeSnapshot:
        """What a loss of power would leave now, with absolute paths."""
        files: list[SavedFile] = []
        folders: list[str] = []
        for directory in sorted(self._names):
            # A folder above that nothing was announced in was made, and synced, by the runtime.
            if os.path.dirname(directory) not in self._names:
                self._collect(directory, files, folders)
        return RuntimeSnapshot(tuple(files), tuple(folders))

    def _collect(self, directory: str, files: list[SavedFile], folders: list[str]) -> None:
        folders.append(directory)
        for name, held in sorted(self._names.get(directory, {}).items()):
            path = os.path.join(directory, name)
            if path in self._names or (isinstance(held, int) and os.path.isdir(path)):
                self._collect(path, files, folders)
            elif not name.endswith(("-shm", "owner.lock")):
                if name.endswith("-wal") and isinstance(held, int) and _inode(path) != held:
                    # SQLite has folded and removed it, having synced more of it than is known here.
                    continue
                synced = held if isinstance(held, _Synced) else self._synced(path, held)
                files.append(SavedFile(path, synced.content, synced.modified_ns))


def _inode(path: str) -> int | None:
    return os.stat(path).st_ino if os.path.isfile(path) else None


def _inodes(directory: str) -> dict[str, int]:
    with os.scandir(directory) as entries:
        return {entry.name: entry.inode() for entry in entries}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _below(root: str, image: RuntimeSnapshot) -> RuntimeSnapshot:
    root = os.path.abspath(root)

    def inside(path: str) -> bool:
        return path != root and os.path.commonpath([root, path]) == root

    return RuntimeSnapshot(
        tuple(
            SavedFile(os.path.relpath(file.path, root), file.content, file.modified_ns)
            for file in image.files
            if inside(file.path)
        ),
        tuple(os.path.relpath(folder, root) for folder in image.folders if inside(folder)),
    )


def _residents(target: object) -> list[Resident]:
    target = native(target)
    if isinstance(target, Runtime):
        return target._all_residents()  # pyright: ignore[reportPrivateUsage]
    if isinstance(target, Stub):
        namespace, object_id, _ = target.__dict__["_stub"]
        resident = namespace._residents.get(str(object_id))
        return [] if resident is None else [resident]
    raise ArgumentTypeError(
        f"assert_confirmed() takes a stub or a Runtime, got {type(target).__name__}"
    )
