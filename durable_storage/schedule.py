"""Many named schedules in one object, on top of its one alarm.

The model: every schedule is a row of the ordinary table ``_schedules`` in the object's own
database, and the alarm is set to the earliest ``run_at`` among them. Rows and alarm change in the
same commit.

A run first notes in its row that it was begun, with a later time to try again, and commits that:
whatever the method then does to its object, the other schedules are not held up. When the method
returns, the row moves on to its next time (or is deleted) in the commit of the method's own writes.

Invariants:

* ``due_at`` is the regular time of the next run, ``run_at`` when it is tried: the two differ while
  a run has failed or is under way, and exactly then ``attempts`` is above zero.
* At the end of every method the alarm is no later than the earliest ``run_at``.
"""

from __future__ import annotations

import contextlib
import datetime
import zoneinfo
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, final

from .errors import ArgumentTypeError, ArgumentValueError
from .gates.ready import awaited
from .log import SCHEDULES
from .object import DurableObject
from .runtime.alarms import RETRIES_MAX, retry_delay_ms
from .storage.alarm_slot import LATEST_MS, alarm_time, from_ms

__all__ = ["Schedule", "Schedules"]

_MILLISECOND: Final = datetime.timedelta(milliseconds=1)
_NOTHING: Final[Any] = object()

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS _schedules(
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    timing TEXT NOT NULL,
    timezone TEXT,
    method TEXT NOT NULL,
    payload BLOB,
    due_at INTEGER NOT NULL,
    run_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""


@final
@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule as it is stored.

    Attributes:
        name: what it is called; one of a name per object.
        kind: ``"once"``, ``"every"`` or ``"cron"``.
        method: the method of the object that it calls.
        payload: the method's argument, or None.
        next_run: when it runs next, in UTC; after a failure, when it is tried again.
        attempts: tries of the present run that were begun and have not succeeded.
        interval: of ``every``; else None.
        expression: of ``cron``; else None.
        timezone: of ``cron``: the name of the zone its expression is read in; else None.
    """

    name: str
    kind: Literal["once", "every", "cron"]
    method: str
    payload: Any
    next_run: datetime.datetime
    attempts: int = 0
    interval: datetime.timedelta | None = None
    expression: str | None = None
    timezone: str | None = None


@final
@dataclass(slots=True)
class _Row:
    name: str
    kind: Literal["once", "every", "cron"]
    timing: str
    timezone: str | None
    method: str
    payload: bytes | None
    due_at: int
    run_at: int
    attempts: int


# Inside the class, "list" is its method.
_Rows: TypeAlias = list[_Row]


@final
class Schedules:
    """The named schedules of one object.

    Make one in the constructor, and run it by the alarm::

        class Monitor(DurableObject):
            def __init__(self, ctx, env):
                super().__init__(ctx, env)
                self.schedules = Schedules(self)

            async def start(self, url: str) -> None:
                self.schedules.every("check", timedelta(minutes=5), "check", url)

            async def check(self, url: str) -> None: ...

            async def alarm(self) -> None:
                await self.schedules.run_due()

    The object's alarm belongs to its schedules then; do not set it by other means.

    A schedule is known by its name. To define it again as it is changes nothing, so that a
    constructor or a method called often may do it; to define it otherwise replaces it.

    A due schedule runs at least once. A method that raises is tried again after 2, 4, 8, 16, 32 and
    64 seconds; then ``once`` is given up and the others wait for their next regular time. Other
    schedules are not held up by that. Runs that were missed, since the program was down or a run
    took long, are made up by a single one.
    """

    def __init__(self, instance: DurableObject) -> None:
        if not isinstance(instance, DurableObject):
            raise ArgumentTypeError(
                "Schedules() takes the object itself, Schedules(self), got "
                f"{type(instance).__name__}"
            )
        if getattr(instance, "ctx", None) is None:
            raise ArgumentTypeError(
                "Schedules(self) comes after super().__init__(ctx, env) in the constructor"
            )
        self._instance = instance
        self._storage = instance.ctx.storage
        self._clock = instance.ctx.clock
        self._serializer = instance.ctx.serializer
        # Names of the schedules whose methods run now: for one that is `once`, defining it again
        # asks for another run.
        self._running: set[str] = set()

    # -- defining -------------------------------------------------------------------------

    def once(
        self,
        name: str,
        when: datetime.datetime | datetime.timedelta | int,
        method: str,
        payload: Any = _NOTHING,
    ) -> Schedule:
        """Call a method once, and forget the schedule when that has succeeded.

        Args:
            name: the schedule's name.
            when: as for ``set_alarm``: an aware ``datetime``, a ``timedelta`` from now, or
                milliseconds since the epoch. To call again with an equal ``timedelta`` does not
                start the time anew; `cancel` first where that is meant.
            method: the name of a method of the object, called with the payload, or with nothing if
                there is none. It may be private.
            payload: anything that can be stored.

        Raises:
            ArgumentValueError: a time that cannot be meant, or no such method; nothing changed.
            DataCloneError: the payload cannot be stored; nothing changed.
        """
        due_at = alarm_time(when, self._clock.time_ms(), "once()")
        if isinstance(when, datetime.timedelta):
            timing = f"in {when // _MILLISECOND}"
        elif isinstance(when, datetime.datetime):
            timing = f"at {(when - from_ms(0)) // _MILLISECOND}"
        else:
            timing = f"at {when}"
        return self._define(name, "once", timing, None, method, payload, due_at)

    def every(
        self,
        name: str,
        interval: datetime.timedelta,
        method: str,
        payload: Any = _NOTHING,
        *,
        start: datetime.datetime | datetime.timedelta | int | None = None,
    ) -> Schedule:
        """Call a method at a fixed interval, in a rhythm that does not drift.

        Args:
            name: the schedule's name.
            interval: a millisecond or more.
            method: as for `once`.
            payload: as for `once`.
            start: the time of the first run, as for `once`; default one interval from now. It
                counts when the schedule is new or its interval has changed.

        Raises:
            ArgumentValueError: an interval that is too short, a time that cannot be meant, or no
                such method; nothing changed.
            DataCloneError: the payload cannot be stored; nothing changed.
        """
        if not isinstance(interval, datetime.timedelta):
            raise ArgumentTypeError(
                f"every() takes a timedelta as the interval, got {type(interval).__name__}"
            )
        if interval < _MILLISECOND:
            raise ArgumentValueError(
                f"every() takes an interval of a millisecond or more, got {interval}"
            )
        due_at = alarm_time(interval if start is None else start, self._clock.time_ms(), "every()")
        timing = str(interval // _MILLISECOND)
        return self._define(name, "every", timing, None, method, payload, due_at)

    def cron(
        self,
        name: str,
        expression: str,
        method: str,
        payload: Any = _NOTHING,
        *,
        tz: str | zoneinfo.ZoneInfo = "UTC",
    ) -> Schedule:
        """Call a method at the times of a cron expression. Needs the extra ``cron``.

        Where a zone changes its clocks, cron's own rule holds: a run whose time is skipped comes
        right after the gap, and one whose time is repeated comes once. An expression with ``*`` as
        its minutes or hours goes on at its real distance.

        Args:
            name: the schedule's name.
            expression: five fields (minute, hour, day of month, month, day of week), or six with
                the second in front.
            method: as for `once`.
            payload: as for `once`.
            tz: the name of the zone in which the expression is read, such as
                ``"Europe/Berlin"``, or its ``ZoneInfo``.

        Raises:
            ArgumentValueError: a malformed expression or one that never comes, an unknown zone, or
                no such method; nothing changed.
            DataCloneError: the payload cannot be stored; nothing changed.
        """
        if not isinstance(expression, str):
            raise ArgumentTypeError(
                f"cron() takes the expression as a str, got {type(expression).__name__}"
            )
        timing = " ".join(expression.split())
        timezone = _zone_name(tz)
        due_at = _next_cron(timing, timezone, self._clock.time_ms())
        if due_at is None:
            raise ArgumentValueError(f"the cron expression {timing!r} never comes")
        return self._define(name, "cron", timing, timezone, method, payload, due_at)

    def cancel(self, name: str) -> bool:
        """Forget a schedule; whether there was one. A run of it that has begun goes on."""
        _check_name(name)
        if not self._exists():
            return False
        deleted = self._storage.sql.exec(
            "DELETE FROM _schedules WHERE name = ? RETURNING name", name
        ).to_array()
        if deleted:
            self._set_alarm()
        return bool(deleted)

    def _define(
        self,
        name: str,
        kind: Literal["once", "every", "cron"],
        timing: str,
        timezone: str | None,
        method: str,
        payload: Any,
        due_at: int,
    ) -> Schedule:
        _check_name(name)
        if not isinstance(method, str):
            raise ArgumentTypeError(
                f"{kind}() takes the name of a method as a str, got {type(method).__name__}"
            )
        if not callable(getattr(self._instance, method, None)):
            raise ArgumentValueError(
                f"{type(self._instance).__name__} has no method {method!r}, which the schedule "
                f"{name!r} would call"
            )
        data = None if payload is _NOTHING else self._serializer.dumps(payload)
        row = _Row(name, kind, timing, timezone, method, data, due_at, due_at, 0)
        with self._storage.transaction_sync():
            self._storage.sql.exec(_TABLE)
            found = self._find(name)
            if (
                found is not None
                and (found.kind, found.timing, found.timezone) == (kind, timing, timezone)
                and not (kind == "once" and name in self._running)
            ):
                row.due_at, row.run_at = found.due_at, found.run_at
                row.attempts = found.attempts
            if row != found:
                self._put(row)
            self._set_alarm()
        return self._schedule(row)

    # -- looking --------------------------------------------------------------------------

    def get(self, name: str) -> Schedule | None:
        """The schedule of that name, or None."""
        _check_name(name)
        row = self._find(name) if self._exists() else None
        return None if row is None else self._schedule(row)

    def list(self) -> list[Schedule]:
        """Every schedule, in the order of the next runs."""
        return [] if not self._exists() else [self._schedule(row) for row in self._rows()]

    # -- running --------------------------------------------------------------------------

    async def run_due(self) -> int:
        """Run what is due, one after the other, and set the alarm to what comes next.

        This is what ``alarm`` of the object calls. Each schedule runs at most once a call. A method
        that raises is logged and tried again later; its exception does not arrive here.

        Returns:
            How many methods were called.
        """
        seen: set[str] = set()
        if self._exists():
            while (row := self._next_due(seen)) is not None:
                seen.add(row.name)
                await self._run(row)
        self._set_alarm()
        return len(seen)

    def _next_due(self, seen: set[str]) -> _Row | None:
        now_ms = self._clock.time_ms()
        for row in self._rows():
            if row.run_at > now_ms:
                return None
            if row.name not in seen and row.name not in self._running:
                return row
        return None

    async def _run(self, row: _Row) -> None:
        if row.attempts > RETRIES_MAX:
            # Its last try ended with a reset of the object, or of the process.
            self._give_up(row, None)
            return
        begun = _copy(row)
        begun.attempts += 1
        begun.run_at = self._clock.time_ms() + retry_delay_ms(min(begun.attempts, RETRIES_MAX))

        def begin() -> None:
            self._put(begun)
            self._set_alarm()

        # A transaction of its own: a reset by the method must not undo it.
        await self._storage.transaction(begin)
        error: Exception | None = None
        self._running.add(row.name)
        try:
            method = getattr(self._instance, row.method)
            if row.payload is None:
                await awaited(method())
            else:
                await awaited(method(self._serializer.loads(row.payload)))
        except Exception as exc:
            error = exc
        finally:
            self._running.discard(row.name)
        found = self._find(row.name) if self._exists() else None
        if found is None or (found.due_at, found.attempts) != (begun.due_at, begun.attempts):
            # It was cancelled or defined anew meanwhile.
            return
        if error is None:
            self._move_on(found)
        elif begun.attempts > RETRIES_MAX:
            self._give_up(found, error)
        else:
            found.run_at = self._clock.time_ms() + retry_delay_ms(begun.attempts)
            self._put(found)
            self._set_alarm()
            SCHEDULES.warning(
                "%s: the schedule %r failed (try %d); it is tried again at %s",
                self._label(), row.name, begun.attempts, from_ms(found.run_at).isoformat(),
                exc_info=error,
            )  # fmt: skip

    def _give_up(self, row: _Row, error: Exception | None) -> None:
        SCHEDULES.error(
            "%s: the schedule %r was given up after %d tries%s",
            self._label(), row.name, row.attempts,
            "" if row.kind == "once" else " until its next regular time",
            exc_info=error,
        )  # fmt: skip
        self._move_on(row)

    def _move_on(self, row: _Row) -> None:
        due_at = self._after(row, self._clock.time_ms())
        if due_at is None:
            self._storage.sql.exec("DELETE FROM _schedules WHERE name = ?", row.name)
        else:
            row.due_at = row.run_at = due_at
            row.attempts = 0
            self._put(row)
        self._set_alarm()

    def _after(self, row: _Row, now_ms: int) -> int | None:
        """The first regular time of a schedule after now, or None."""
        if row.kind == "once":
            return None
        if row.kind == "cron":
            return _next_cron(row.timing, row.timezone or "UTC", now_ms)
        interval = int(row.timing)
        due_at = row.due_at + max((now_ms - row.due_at) // interval + 1, 1) * interval
        return due_at if due_at < LATEST_MS else None

    # -- the table and the alarm ----------------------------------------------------------

    def _exists(self) -> bool:
        return bool(
            self._storage.sql.exec(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_schedules'"
            ).to_array()
        )

    def _rows(self) -> _Rows:
        return self._storage.sql.exec(
            "SELECT * FROM _schedules ORDER BY run_at, name", row_type=_Row
        ).to_array()

    def _find(self, name: str) -> _Row | None:
        rows = self._storage.sql.exec(
            "SELECT * FROM _schedules WHERE name = ?", name, row_type=_Row
        ).to_array()
        return rows[0] if rows else None

    def _put(self, row: _Row) -> None:
        self._storage.sql.exec(
            "INSERT OR REPLACE INTO _schedules VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row.name, row.kind, row.timing, row.timezone, row.method, row.payload,
            row.due_at, row.run_at, row.attempts,
        )  # fmt: skip

    def _set_alarm(self) -> None:
        first: int | None = None
        if self._exists():
            first = self._storage.sql.exec("SELECT min(run_at) AS first FROM _schedules").one()[
                "first"
            ]
        if first is None:
            self._storage.delete_alarm()
        else:
            self._storage.set_alarm(first)

    def _schedule(self, row: _Row) -> Schedule:
        return Schedule(
            name=row.name,
            kind=row.kind,
            method=row.method,
            payload=None if row.payload is None else self._serializer.loads(row.payload),
            next_run=from_ms(row.run_at),
            attempts=row.attempts,
            interval=int(row.timing) * _MILLISECOND if row.kind == "every" else None,
            expression=row.timing if row.kind == "cron" else None,
            timezone=row.timezone,
        )

    def _label(self) -> str:
        object_id = self._instance.ctx.id
        return f"{type(self._instance).__name__} {object_id.name or object_id!s}"


def _copy(row: _Row) -> _Row:
    return _Row(
        row.name, row.kind, row.timing, row.timezone, row.method, row.payload,
        row.due_at, row.run_at, row.attempts,
    )  # fmt: skip


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"the name of a schedule is a str, got {type(name).__name__}")


def _zone_name(tz: object) -> str:
    name = tz.key if isinstance(tz, zoneinfo.ZoneInfo) else tz
    if not isinstance(name, str):
        raise ArgumentTypeError(
            "cron() takes tz as the name of a zone or as a ZoneInfo with one, such as "
            f'"Europe/Berlin"; got {tz!r}'
        )
    _zone(name)
    return name


def _zone(name: str) -> datetime.tzinfo:
    if name == "UTC":
        return datetime.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as exc:
        raise ArgumentValueError(
            f'cron() does not know the zone {name!r}; pass a name such as "Europe/Berlin" '
            "(where the system has no zones, the package tzdata brings them)"
        ) from exc


def _next_cron(expression: str, timezone: str, now_ms: int) -> int | None:
    """The first time of the expression after ``now_ms``, or None."""
    try:
        import cronsim
    except ImportError as exc:
        raise ImportError(
            'Schedules.cron() needs cronsim: pip install "durable-storage[cron]"'
        ) from exc
    now = from_ms(now_ms)
    try:
        times = cronsim.CronSim(expression, now.astimezone(_zone(timezone)))
    except cronsim.CronSimError as exc:
        raise ArgumentValueError(f"the cron expression {expression!r}: {exc}") from exc
    with contextlib.suppress(OverflowError):
        # In the hour that a zone repeats, the first answer can be a time that has passed.
        for moment in times:
            if moment > now:
                due_at = (moment - from_ms(0)) // _MILLISECOND
                return due_at if due_at < LATEST_MS else None
    return None
