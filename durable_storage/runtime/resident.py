"""One open object of a runtime: its host, its present instance, and the events delivered to it."""

from __future__ import annotations

import datetime
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

from ..errors import ArgumentTypeError, BookmarkError, DurableStorageError, ObjectResetError
from ..gates.deadlines import Deadlines
from ..gates.delivery import deliver
from ..gates.life import Life, told
from ..gates.loop import Loop
from ..gates.ready import awaited
from ..history import RestoreGivenUpError
from ..ids import DurableObjectId
from ..log import ALARMS
from ..object import DurableObject
from ..state import Aborted, DurableObjectState, new_state
from ..storage.alarm_slot import LATEST_MS, from_ms
from ..storage.legacy.host import AnyHost
from ..storage.settings import Settings
from .alarms import RETRIES_MAX, retry_delay_ms

if TYPE_CHECKING:
    from ..storage.legacy.session import LegacySession
    from ..storage.session import Session
    from .observer import Observer

__all__ = ["TICKS", "AlarmInvocationInfo", "Evicted", "Resident"]

T = TypeVar("T")

ALARM_TIMED_OUT = "Alarm exceeded its allowed execution time."


@final
class Ticks:
    """Counts the calls of all objects, so that the one called longest ago is known."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now: int = 1


TICKS = Ticks()


class Evicted(Exception):  # noqa: N818 - a message between layers
    """The object was closed before the event reached it: open it anew and deliver it there."""


@final
@dataclass(frozen=True, slots=True)
class AlarmInvocationInfo:
    """What an alarm handler is told.

    Attributes:
        retry_count: how many counted tries of this alarm failed before.
        is_retry: whether this is such a try.
        scheduled_time: when the alarm was due, in UTC.
    """

    retry_count: int
    is_retry: bool
    scheduled_time: datetime.datetime


@final
class Resident:
    """An open object. See the module.

    Attributes:
        used: the tick of its last call.
        looked: what `used` was at the last look for idle objects.
        idle_since: monotonic seconds of the look that first found it unused.
        life: the present life, once calls may go straight to its instance; else None.
        evicted: it is being closed, or is; its place is another's.
    """

    __slots__ = (
        "_alarm_handler",
        "_alarms_running",
        "_booting",
        "_cls",
        "_env",
        "_id",
        "_kept_out",
        "_loop",
        "_observers",
        "_settings",
        "_told",
        "_untold",
        "evicted",
        "host",
        "idle_since",
        "instance",
        "life",
        "looked",
        "used",
    )

    def __init__(
        self,
        cls: type[DurableObject],
        object_id: DurableObjectId,
        env: Any,
        host: AnyHost,
        settings: Settings,
        loop: Loop,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._observers = observers
        self._cls = cls
        self._id = object_id
        self._env = env
        self.host: AnyHost = host
        self._settings = settings
        self._loop = loop
        self._alarm_handler = callable(getattr(cls, "alarm", None))
        self._alarms_running = 0
        self._booting: DurableObjectState | None = None
        self.instance: Any = None
        self.life: Life | None = None
        self.evicted: bool = False
        self._kept_out = False
        # Why a restore was given up: what a caller was told, and what none was told yet.
        self._told: BaseException | None = None
        self._untold: DurableStorageError | None = None
        TICKS.now += 1
        self.used: int = TICKS.now
        self.looked: int = 0
        self.idle_since: float = 0.0

    def present(self) -> Life:
        """The life that events are delivered to; begins one after a reset.

        Raises:
            Evicted: there will be none.
        """
        if self.evicted:
            raise Evicted
        life = self.host.life
        if life is None:
            self.forget()
            self._booting = new_state(
                self._id,
                self.host,
                self._settings,
                self._loop,
                alarm_handler=self._alarm_handler,
            )
            life = self.host.life
            assert life is not None
            self._told = None
            for observer in self._observers:
                observer.began(self._cls.__name__, life, self._booting)
        elif self.life is None:
            self._admit(life)
        return life

    def _admit(self, life: Life) -> None:
        # From now on calls go straight to the instance: not before those that wait for it.
        if self.instance is not None and not (
            self._kept_out or self._untold is not None or self.host.preparing
        ):
            self.life = life

    def keep_out(self) -> None:
        """Have every call ask for the object from now on."""
        self.life = None
        self._kept_out = True

    def forget(self) -> None:
        """Let go of an instance whose life has ended."""
        self.life = self.instance = None

    @property
    def idle(self) -> bool:
        """Whether nothing of it is under way."""
        life = self.host.life
        return not (self._alarms_running or self.host.preparing) and (
            life is None
            or (
                not life.events
                and not life.background
                and life.root.open
                and not life.root.waiters
                and not life.root.critical_waiters
                and life.folding is None
            )
        )

    def code(self, life: Life, method: Callable[[Any], Any]) -> Coroutine[Any, Any, Any]:
        """The coroutine of an event that calls ``method(instance)``."""
        instance = self.instance
        if instance is None:
            return self._boot(life, method)
        return _called(method, instance)

    async def _boot(self, life: Life, method: Callable[[Any], Any]) -> Any:
        state, self._booting = self._booting, None
        if state is None:
            # Another event is constructing it; this one was delivered while its constructor's
            # critical section had not begun yet. It cannot be: construction is one step.
            raise AssertionError("two events construct one object")
        frame = self._loop.current
        assert frame is not None
        try:
            instance = self._cls(state, self._env)
            if getattr(instance, "ctx", None) is None:
                raise ArgumentTypeError(
                    f"{self._cls.__name__}.__init__ did not call super().__init__(ctx, env)"
                )
        except BaseException as exc:
            life.break_(_construction_failed(self._cls, exc))
            raise
        self.instance = instance
        self._admit(life)
        sections, frame.sections = frame.sections, None
        for section in sections or ():
            await section
        return await awaited(method(instance))

    async def deliver(self, method: Callable[[Any], Any]) -> Any:
        """Deliver one event to the object. See ``gates.delivery.deliver``.

        Raises:
            Evicted: it was not delivered.
        """
        untold, self._untold = self._untold, None
        if untold is not None:
            raise untold
        TICKS.now += 1
        self.used = TICKS.now
        try:
            # As _deliver; each call of a function more costs a stub's.
            return await deliver(
                self._loop, self.present, lambda life: self.code(life, method), self._ready
            )
        except DurableStorageError as exc:
            reason = self._given_up(exc)
            if reason is not None:
                self._told = reason
                if self._untold is not None and self._given_up(self._untold) is reason:
                    self._untold = None
            raise

    async def _deliver(self, method: Callable[[Any], Any]) -> Any:
        TICKS.now += 1
        self.used = TICKS.now
        return await deliver(
            self._loop, self.present, lambda life: self.code(life, method), self._ready
        )

    def _ready(self) -> Awaitable[None] | None:
        if self.evicted:
            raise Evicted
        return self.host.preparation()

    def _given_up(self, exc: DurableStorageError) -> BaseException | None:
        """Why a restore was given up, if that is why no life could begin."""
        if self.host.life is not None:
            return None
        if isinstance(exc, BookmarkError):
            return exc
        return exc.__cause__ if isinstance(exc.__cause__, RestoreGivenUpError) else None

    # -- alarms ---------------------------------------------------------------------------

    async def run_alarm(
        self, deadlines: Deadlines | None = None, *, early: bool = False
    ) -> tuple[bool, int | None]:
        """Run the alarm if it is due, or ``early``: (whether it ran, when to look again).

        The second is None when the object's storage has told the index itself.

        Args:
            deadlines: limit the time of the handler; an expired one is a counted failure.
            early: run it whenever it is due.
        """
        attempt = _AlarmAttempt(LATEST_MS if early else self._settings.clock.time_ms())
        attempt.deadlines = deadlines
        # Between the handler's end and the note that it failed nothing else is under way.
        self._alarms_running += 1
        try:
            await self._try_alarm(attempt)
        except DurableStorageError as exc:
            # Whoever calls next is told what became of the restore that was asked for.
            reason = self._given_up(exc)
            if reason is not None and reason is not self._told:
                self._untold = exc
            raise
        finally:
            self._alarms_running -= 1
            if self.idle:
                for callback in tuple(self._loop.on_idle):
                    callback()
        return attempt.started, attempt.again_ms

    async def _try_alarm(self, attempt: _AlarmAttempt) -> None:
        try:
            await self._deliver(lambda instance: self._alarm_event(instance, attempt))
        except ObjectResetError as exc:
            if attempt.due_ms is None or not attempt.started:
                raise
            reset = exc
            counted = attempt.expired or not reset.retryable
            cause: BaseException = reset
            while cause.__cause__ is not None and not isinstance(cause, Aborted):
                cause = cause.__cause__
            drop = not getattr(reset, "retry_alarm", getattr(cause, "retry_alarm", True))
            await self._deliver(
                lambda _: self._alarm_failed(attempt, reset, counted=counted, drop=drop)
            )

    async def _alarm_event(self, instance: Any, attempt: _AlarmAttempt) -> None:
        session = self._session()
        alarm = session.alarm
        due = alarm.due_ms()
        if due is None:
            return
        if due > attempt.now_ms:
            attempt.again_ms = due
            return
        found = alarm.begin_run()
        assert found is not None
        attempt.due_ms, attempt.retries = found
        attempt.started = True
        scheduled = alarm.scheduled_ms()
        assert scheduled is not None
        info = AlarmInvocationInfo(attempt.retries, attempt.retries > 0, from_ms(scheduled))
        try:
            with attempt.limited(session.life):
                await self._call_alarm(instance, info)
        except BaseException as exc:
            replaced = alarm.replaced
            alarm.end_run()
            if session.life.broken is not None or not self._loop.own_failure(exc):
                raise
            if not replaced:
                self._note_failure(session, attempt, exc, counted=True, drop=False)
            return
        replaced = alarm.replaced
        alarm.end_run()
        # A handler may have swallowed its object's end: the dead life's storage is another's now.
        if not replaced and session.life.broken is None:
            session.begin()
            alarm.clear()
            session.withhold = True
            session.life.wrote(True)

    async def _call_alarm(self, instance: Any, info: AlarmInvocationInfo) -> None:
        run: Callable[[], Awaitable[None]] = functools.partial(_call_alarm, instance, info)
        life = self._session().life
        for observer in self._observers:
            run = functools.partial(observer.alarm, self._cls.__name__, life, info.retry_count, run)
        await run()

    async def _alarm_failed(
        self, attempt: _AlarmAttempt, error: BaseException, *, counted: bool, drop: bool
    ) -> None:
        session = self._session()
        due = session.alarm.due_ms()
        if due == attempt.due_ms:
            self._note_failure(session, attempt, error, counted=counted, drop=drop)
        elif due is not None:
            attempt.again_ms = due

    def _note_failure(
        self,
        session: Session | LegacySession,
        attempt: _AlarmAttempt,
        error: BaseException,
        *,
        counted: bool,
        drop: bool,
    ) -> None:
        retries = attempt.retries + 1 if counted else attempt.retries
        session.begin()
        if drop or retries > RETRIES_MAX:
            session.alarm.clear()
            ALARMS.error(
                "%s: the alarm was given up after %d tries",
                self.host.name, attempt.retries + 1, exc_info=error,
            )  # fmt: skip
        else:
            delay = retry_delay_ms(max(retries, 1))
            again_at = self._settings.clock.time_ms() + delay
            session.alarm.retry_at(again_at, retries)
            ALARMS.warning(
                "%s: the alarm failed (try %d); it is tried again at %s",
                self.host.name, attempt.retries + 1, from_ms(again_at).isoformat(), exc_info=error,
            )  # fmt: skip
        session.withhold = True
        session.life.wrote(True)

    def _session(self) -> Session | LegacySession:
        session = self.host.session
        assert session is not None
        return session


# eq=False: an attempt is the key of its own deadline.
@final
@dataclass(slots=True, eq=False)
class _AlarmAttempt:
    now_ms: int
    due_ms: int | None = None
    retries: int = 0
    started: bool = False
    again_ms: int | None = None
    deadlines: Deadlines | None = None
    expired: bool = False

    @contextmanager
    def limited(self, life: Life) -> Generator[None, None, None]:
        """Reset the object when what is done inside lasts longer than a handler may."""

        def expire() -> None:
            self.expired = life.broken is None
            life.break_(ObjectResetError(f"{life.name} was reset: {ALARM_TIMED_OUT}"), calls=True)

        deadlines = self.deadlines
        if deadlines is None:
            yield
            return
        deadlines.start(self, expire)
        try:
            yield
        finally:
            deadlines.end(self)


async def _call_alarm(instance: Any, info: AlarmInvocationInfo) -> None:
    handler = instance.alarm
    try:
        inspect.signature(handler).bind(info)
    except TypeError:
        await awaited(handler())
    else:
        await awaited(handler(info))


async def _called(method: Callable[[Any], Any], instance: Any) -> Any:
    # Called here, because an ordinary function does all its work when it is called.
    return await awaited(method(instance))


def _construction_failed(cls: type, exc: BaseException) -> BaseException:
    if not isinstance(exc, Exception):
        return exc
    message = told(exc)
    if isinstance(exc, AttributeError) and exc.name in ("ctx", "env") and isinstance(exc.obj, cls):
        message += (
            f"; {cls.__name__}.__init__ has to call super().__init__(ctx, env) before it uses it"
        )
    error = ObjectResetError(message, retryable=False)
    error.__cause__ = exc
    return error
