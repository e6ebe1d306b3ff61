"""One object of the legacy backend over its lives: its store, and its present life."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

from ...errors import DatabaseFileError, DurableStorageError, ObjectResetError
from ...gates.deadlines import Deadlines
from ...gates.input_gate import Scope
from ...gates.life import Life
from ...gates.loop import Loop, Signal
from ...log import log_reset
from ..alarm_slot import AlarmIndex
from ..host import Host
from ..kv_backend import KvBackend
from ..settings import Settings
from .session import LegacySession
from .store import Store

__all__ = ["AnyHost", "LegacyHost"]


@final
class LegacyHost:
    """See the module. It has what the runtime uses of `Host`.

    A life that finds the store not loaded begins with its input gate closed until it is.

    Args:
        name: how messages name the object.
        open_backend: gives the object's backend, opened anew.
        before_batch: see `Store`.
        on_broken: called when the present life has ended by a reset.

    Attributes:
        life: the present life, or None before the first and after a reset.
        session: its storage.
    """

    def __init__(
        self,
        loop: Loop,
        name: str,
        open_backend: Callable[[], KvBackend],
        settings: Settings,
        deadlines: Deadlines,
        *,
        alarm_index: AlarmIndex | None = None,
        before_batch: Callable[[], None] | None = None,
        on_broken: Callable[[Life], None] | None = None,
    ) -> None:
        self._loop = loop
        self.name = name
        self._settings = settings
        self._deadlines = deadlines
        self._alarm_index = alarm_index
        self._on_broken = on_broken
        self._store = Store(loop, name, open_backend, before_batch, settings.serializer.name)
        self._loading: Signal | None = None
        self.life: Life | None = None
        self.session: LegacySession | None = None

    @property
    def preparing(self) -> bool:
        """As `Host.preparing`."""
        return False

    def preparation(self) -> None:
        """As `Host.preparation`: a life begins at once, with its gate closed."""

    def start(self) -> Life:
        """Begin a new life from what the store holds, or will hold."""
        settings = self._settings
        store = self._store
        session = LegacySession(store, settings.serializer, settings.limits, self._alarm_index)
        life = session.life = Life(
            self._loop,
            self.name,
            session,
            self._deadlines,
            confirm=_nothing,
            start_confirming=store.flush,
            # What is committed is only in memory: every durability means waiting for the store.
            immediate=False,
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
        if store.busy:
            # What this life reads may still be unconfirmed; its answers must wait for that too.
            life.gate.commit()
        if not store.loaded:
            section = life.root.enter()
            before = self._loading
            loaded = self._loading = self._loop.signal()
            self._loop.spawn(lambda: self._load(life, session, section, before, loaded))
        return life

    async def _load(
        self,
        life: Life,
        session: LegacySession,
        section: Scope,
        before: Signal | None,
        loaded: Signal,
    ) -> None:
        try:
            if before is not None:
                await before.wait()
            if not self._store.loaded:
                await self._store.load()
            if life.broken is None:
                session.alarm.complete_index()
        except Exception as exc:
            if life.broken is None:
                life.storage_failed = True
                life.break_(self._cannot_start(exc))
        finally:
            section.finish()
            life.root.wake_next()
            loaded.set()

    def _cannot_start(self, exc: Exception) -> ObjectResetError:
        error = ObjectResetError(
            f"{self.name} cannot start: {exc}", retryable=not isinstance(exc, DatabaseFileError)
        )
        error.__cause__ = exc
        return error

    def _broken(self, life: Life) -> None:
        if self.life is not life:
            return
        if self._on_broken is not None:
            self._on_broken(life)
        self.life = self.session = None
        log_reset(self.name, life.broken)

    def _confirmed(self) -> None:
        # Of an earlier life: its alarm may have been replaced since.
        if self.session is not None and self.life is not None:
            self.session.alarm.confirmed(self.life.gate.confirmed)

    async def close(self) -> None:
        """Confirm everything, end the present life and close the store.

        Raises:
            ObjectResetError: the last writes could not be confirmed.
        """
        life = self.life
        failure: BaseException | None = None
        if self._loading is not None:
            await self._loading.wait()
        if life is not None and life.broken is None:
            if life.pending:
                life.commit()
            if life.broken is None and life.gate.confirmed < life.gate.committed:
                try:
                    await life.gate.wait(life.gate.committed)
                except Exception as exc:
                    failure = exc
        if life is not None and life.broken is None:
            life.on_broken = _ignore
            life.break_(ObjectResetError(f"{self.name} was closed"))
        self.life = self.session = None
        # What a life that was reset had committed.
        await self._store.wait_idle()
        await self._store.close()
        if failure is not None:
            raise ObjectResetError(
                f"{self.name} could not be closed cleanly: {failure}"
            ) from failure


AnyHost: TypeAlias = Host | LegacyHost


def _nothing() -> None:
    raise DurableStorageError("the legacy backend confirms by its store")


def _ignore(life: Life) -> None:
    pass
