"""One object over its lives: its open file, its present life, and what happens between lives."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import final

from ..errors import DurableStorageError, ObjectResetError
from ..gates.deadlines import Deadlines
from ..gates.input_gate import Waiter
from ..gates.life import Life
from ..gates.loop import Loop, Signal
from ..history import fold_what_is_left, is_at_rest
from ..log import STORAGE, log_reset
from .alarm_slot import AlarmIndex
from .object_file import LogRefusedError, ObjectFile, Prepared, prepare
from .session import Session
from .settings import Settings

__all__ = ["Host"]

# Fold the log when it has grown to about this much.
FOLD_AT_BYTES = 4 * 1024**2
# When it has grown to so many times that, events wait, whether most of it is archived or not.
WAIT_AT_FOLDS = 4
# Look once in so many confirmations how much of the log is in use, if nobody else does.
# With writes of 2 MB it is folded at 12 MB then.
LOOK_EVERY = 4
# A restore is done by whoever calls, or after so long if nobody does.
LOOK_AFTER_MS = 1000
# For so many passes who comes late waits behind who waited; a crowd that never ends would for ever.
LATE_ROUNDS_MAX = 1000


@final
class Host:
    """See the module.

    What a crash, a restore or a broken life left to do before the next life is a worker's work:
    `preparation` has it done, `start` would do it at once.

    Args:
        name: how messages name the object.
        on_broken: called when the present life has ended by a reset.
        before_confirm: made durable before each confirmation of the object's own file.

    Attributes:
        life: the present life, or None before the first and after a reset.
        session: its storage.
        restore_requested: the next life must start from a freshly opened file.
    """

    def __init__(
        self,
        loop: Loop,
        name: str,
        path: str,
        settings: Settings,
        deadlines: Deadlines,
        *,
        alarm_index: AlarmIndex | None = None,
        on_broken: Callable[[Life], None] | None = None,
        before_confirm: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self.name = name
        self._path = path
        self._settings = settings
        self._deadlines = deadlines
        self._alarm_index = alarm_index
        self._on_broken = on_broken
        self._before_confirm = before_confirm
        self._file: ObjectFile | None = None
        # A file that is still to be closed before it may be opened anew.
        self._left: ObjectFile | None = None
        self._prepared: Prepared | BaseException | None = None
        self._preparing: Signal | None = None
        self._late: Signal | None = None
        self._callers = 0
        self._previous: Life | None = None
        self._suspect = False
        self._restored = False
        self._fold_wanted = False
        self._caught_up: Signal | None = None
        self._folded: Signal | None = None
        self._fold_at_bytes = FOLD_AT_BYTES
        self._not_looked = 0
        self._closed = False
        self.restore_requested: bool = False
        self.life: Life | None = None
        self.session: Session | None = None

    @property
    def file(self) -> ObjectFile:
        """The open file.

        Raises:
            DatabaseFileError: it cannot be opened.
        """
        if self._file is None:
            settings = self._settings
            self._close_left()
            prepared = self._prepared
            if isinstance(prepared, BaseException):
                raise prepared  # to everybody who waited
            self._prepared = None
            file = ObjectFile(
                self._path,
                limits=settings.limits,
                clock=settings.clock,
                history=settings.history,
                faults=settings.faults,
                before_confirm=self._before_confirm,
                prepared=prepared,
            )
            self._restored = self._restored or file.restored
            try:
                file.claim_serializer(settings.serializer.name)
                if self._suspect:
                    # After a failed sync the system may show data that the disk does not hold.
                    # Folding writes it anew, and fails again if the disk still refuses.
                    file.fold()
                    self._suspect = False
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._file

    def start(self) -> Life:
        """Begin a new life from what the file holds.

        Raises:
            DatabaseFileError: the file cannot be opened.
            ObjectResetError: the disk still refuses what the last life left, or the object was
                closed.
        """
        settings = self._settings
        if self._closed:
            raise ObjectResetError(f"{self.name} was closed", retryable=False)
        try:
            file = self.file
        except BaseException as exc:
            self._loop.call_soon(self._tell_idle)
            if isinstance(exc, OSError):
                raise ObjectResetError(f"{self.name} cannot start: {exc}") from exc
            raise
        confirms = settings.durability != "os"
        session = Session(
            file.database,
            settings.serializer,
            settings.limits,
            self._alarm_index,
            committing=None if confirms or file.log is None else file.log.committing,
        )
        session.alarm.complete_index(restored=self._restored)
        self._restored = False
        life = session.life = Life(
            self._loop,
            self.name,
            session,
            self._deadlines,
            confirm=file.confirm,
            immediate=not confirms,
            nesting_max=settings.limits.nesting_depth,
            queue=(
                settings.limits.queued_events,
                settings.limits.queued_seconds,
                settings.clock.monotonic,
            ),
            on_broken=self._broken,
            on_confirmed=self._confirmed,
        )
        self.life, self.session = life, session
        previous, self._previous = self._previous, None
        if previous is not None and previous.gate.confirmed < previous.gate.committed:
            # What this life reads may still be unconfirmed; its answers must wait for that too.
            life.gate.commit()
        return life

    def _broken(self, life: Life) -> None:
        if self.life is not life:
            return
        # A file that is being folded is not another life's to write: its log may be behind.
        if life.storage_failed or self.restore_requested or self._folded is not None:
            self._suspect = life.gate.failure is not None
            self._left, self._file = self._file, None
            self._restored = self._restored or self.restore_requested
            self._look_soon()
        if self._on_broken is not None:
            self._on_broken(life)
        self._previous = life
        self.life = self.session = None
        log_reset(self.name, life.broken)

    def _look_soon(self) -> None:
        """Have a restore done although nobody calls: it may bring back an alarm that is due."""
        if self.restore_requested and self._alarm_index is not None:
            with contextlib.suppress(DurableStorageError, OSError):
                self._alarm_index.earlier(self._settings.clock.time_ms() + LOOK_AFTER_MS)
        self.restore_requested = False

    def _close_left(self) -> None:
        file, self._left = self._left, None
        if file is not None:
            try:
                file.close()
            except (DurableStorageError, OSError) as exc:
                STORAGE.warning("%s: its file was not closed cleanly", self.name, exc_info=exc)

    # -- between lives --------------------------------------------------------------------

    @property
    def preparing(self) -> bool:
        """Whether a worker is at it, or somebody waits."""
        return bool(self._callers) or (self._preparing is not None and not self._preparing.is_set())

    def preparation(self) -> Awaitable[None] | None:
        """What to wait for before `start` is called; None if that takes no time, or was done."""
        if self._preparing is not None and not self.preparing:
            self._settle()
        signal = self._preparing
        if signal is None:
            history = self._settings.history.enabled
            if (
                self.life is not None
                or self._file is not None
                or self._prepared is not None
                or self._closed
                or (self._left is None and is_at_rest(self._path, history=history))
            ):
                return None
            signal = self._loop.signal()
            self._loop.run_in_thread(self._prepare, self._let_in)
            self._preparing = signal
        elif signal.is_set():
            # Who waited so far comes first.
            if self._late is None:
                self._late = self._loop.signal()
            signal = self._late
        return self._wait(signal)

    async def _wait(self, signal: Signal) -> None:
        self._callers += 1
        try:
            await signal.wait()
        except BaseException:
            self._callers -= 1
            self._tell_idle()
            raise
        # What follows, in this step, is the next life.
        self._callers -= 1

    def _tell_idle(self) -> None:
        if self.life is None and not self.preparing:
            for callback in tuple(self._loop.on_idle):
                callback()

    def _settle(self) -> None:
        """Everybody who waited has come."""
        self._preparing = None
        if isinstance(self._prepared, BaseException):
            self._prepared = None

    def _prepare(self) -> None:
        settings = self._settings
        self._close_left()
        prepared = prepare(
            self._path, clock=settings.clock, history=settings.history, faults=settings.faults
        )
        try:
            if not settings.history.enabled:
                fold_what_is_left(self._path)
        except BaseException:
            prepared.close()
            raise
        self._prepared = prepared

    def _let_in(self, error: BaseException | None) -> None:
        if error is not None:
            self._prepared = error
        signal = self._preparing
        assert signal is not None
        signal.set()
        self._tell_idle()
        self._loop.call_soon(lambda: self._let_late_in(signal, LATE_ROUNDS_MAX))

    def _let_late_in(self, signal: Signal, rounds: int) -> None:
        if self._preparing is not signal:
            return  # nobody was late, and more was to be prepared since
        late, self._late = self._late, None
        if late is not None:
            late.set()
        if (late is not None or self._callers) and rounds:
            self._loop.call_soon(lambda: self._let_late_in(signal, rounds - 1))
        else:
            self._settle()
            self._tell_idle()

    # -- folding --------------------------------------------------------------------------

    def _confirmed(self) -> None:
        if self.session is not None and self.life is not None:
            self.session.alarm.confirmed(self.life.gate.confirmed)
        file = self._file
        if file is None:
            return
        if self._caught_up is not None:
            if self._is_longer(file, WAIT_AT_FOLDS * self._fold_at_bytes):
                self._caught_up.set()
        elif not self._fold_wanted and self._is_longer(file, self._fold_at_bytes):
            life = self.life
            if life is not None and life.broken is None:
                self._fold_wanted = True

                async def run() -> None:
                    try:
                        await self._fold(life, file)
                    finally:
                        self._fold_wanted = False

                self._loop.spawn(run)

    def _is_longer(self, file: ObjectFile, limit_bytes: int) -> bool:
        """Whether the log has grown beyond a size; may be told a few confirmations late.

        How much of it is in use takes three reads, which a commit log has just done. The size of
        the file would take one call, but a file system that keeps fine times (Linux 6.13) then
        writes the inode with the next commit: a fifth of the time that a durable write takes.
        """
        if self._settings.durability != "os":
            if file.log is not None:
                return file.log.seen_bytes > limit_bytes
            self._not_looked += 1
            if self._not_looked < LOOK_EVERY:
                return False
            self._not_looked = 0
        return file.database.wal_size_bytes > limit_bytes

    async def _catch_up(self, file: ObjectFile) -> None:
        """Have most of the log archived while events go on, and not while the gate is closed."""
        if file.log is not None:
            loop = self._loop
            caught_up = self._caught_up = loop.signal()
            file.log.catch_up(lambda: loop.call_soon_threadsafe(caught_up.set))
            await caught_up.wait()
            self._caught_up = None

    async def _fold(self, life: Life, file: ObjectFile) -> None:
        loop = self._loop
        await self._catch_up(file)
        root = life.root
        if life.broken is None and not root.open:
            waiter = Waiter(loop, root, critical=True)
            root.critical_waiters.append(waiter)
            await waiter.wait(loop)
        if life.broken is not None or self._file is not file:
            root.wake_next()
            return
        section = root.enter()
        folding = life.folding = threading.Event()
        folded = self._folded = loop.signal()
        life.backing.hold(True)
        done = loop.signal()
        started = False
        try:
            if life.pending:
                life.commit()
            errors: list[BaseException] = []
            refused = False

            def job() -> None:
                nonlocal refused
                try:
                    refused = not file.fold()
                finally:
                    folding.set()

            def finish(error: BaseException | None) -> None:
                if error is not None:
                    errors.append(error)
                done.set()

            if life.broken is None:
                loop.run_in_thread(job, finish)
                started = True
                await done.wait()
            self._fold_at_bytes = FOLD_AT_BYTES
            if errors and isinstance(errors[0], LogRefusedError):
                life.confirm_failed(errors[0])
            elif (refused or errors) and self._file is file:
                # A disk that refuses, or an outside reader, is asked again later, not at every
                # commit.
                self._fold_at_bytes = 2 * max(FOLD_AT_BYTES, file.database.wal_size_bytes)
                STORAGE.warning(
                    "%s: its log could not be folded; it grows on, and that is tried again later",
                    self.name, exc_info=errors[0] if errors else None,
                )  # fmt: skip
        finally:
            if started and not done.is_set():
                life.break_(ObjectResetError(f"{self.name} was reset: its fold was cancelled"))
            folding.set()
            folded.set()
            self._folded = None
            life.folding = None
            section.finish()
            if life.broken is None:
                life.backing.hold(False)
            root.wake_next()
            # A runtime that is closing, or that needs room, may wait for the end of the fold.
            life.tell_idle()

    # -- the end --------------------------------------------------------------------------

    async def close(self) -> None:
        """Confirm everything, end the present life and close the file.

        Raises:
            ObjectResetError: the last writes could not be confirmed.
        """
        while self._preparing is not None and not self._preparing.is_set():
            await self._preparing.wait()  # somebody else may have it done once more
        if isinstance(self._prepared, Prepared) and self._prepared.restored:
            # Nobody came, and the index of alarms has to learn what the restore brought back.
            with contextlib.suppress(DurableStorageError, OSError):
                self.start()
        self._closed = True
        self._look_soon()
        if self._caught_up is not None:
            self._caught_up.set()
        loop = self._loop
        life = self.life
        failure: BaseException | None = None
        if life is not None and life.broken is None:
            if life.pending:
                life.commit()
            if life.broken is None and life.gate.confirmed < life.gate.committed:
                try:
                    await life.gate.wait(life.gate.committed)
                except (OSError, DurableStorageError) as exc:
                    failure = exc
            if self._folded is not None:
                await self._folded.wait()
        if life is not None and life.broken is None:
            life.on_broken = _nothing
            life.break_(ObjectResetError(f"{self.name} was closed"))
        self.life = self.session = None
        file, self._file = self._file, None
        prepared, self._prepared = self._prepared, None
        unused = prepared if isinstance(prepared, Prepared) else None
        if file is not None or unused is not None or self._left is not None:
            done = loop.signal()
            errors: list[BaseException] = []

            def close() -> None:
                self._close_left()
                for each in (file, unused):
                    if each is not None:
                        each.close()

            def finish(error: BaseException | None) -> None:
                if error is not None:
                    errors.append(error)
                done.set()

            loop.run_in_thread(close, finish)
            await done.wait()
            if errors and failure is None:
                failure = errors[0]
        if failure is not None:
            raise ObjectResetError(
                f"{self.name} could not be closed cleanly: {failure}"
            ) from failure


def _nothing(life: Life) -> None:
    pass
