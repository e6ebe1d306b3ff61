"""An object's one alarm: where its time is kept and how it stays in step with the index.

The object's metadata is the truth. The index of whoever runs alarms (``AlarmIndex``) is never later
than it: it hears of an earlier alarm before the commit, of a later one or none once the commit is
confirmed, because a commit that a power loss undoes brings the earlier alarm back.
"""

from __future__ import annotations

import datetime
import math
from typing import Final, Protocol, final

from ..database.connection import MISSING, Missing, Stored
from ..errors import ArgumentTypeError, ArgumentValueError

__all__ = ["AlarmIndex", "AlarmSlot", "Metadata", "from_ms", "to_ms"]

EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# Cloudflare: "This API doesn't support dates after 2189."
LATEST_MS: Final = 6_942_585_600_000
# As milliseconds, every time before March 1973; as seconds, every time until the year 5138.
SECONDS_MAX: Final = 100_000_000_000

ALARM_KEY: Final = "alarm"
RETRY_KEY: Final = "alarm_retry"
SCHEDULED_KEY: Final = "alarm_scheduled"
# Everything that an alarm keeps in its object's metadata.
ALARM_KEYS: Final = (ALARM_KEY, RETRY_KEY, SCHEDULED_KEY)


class AlarmIndex(Protocol):
    """Whoever runs the alarms of many objects.

    Attributes:
        complete: false after a crash, when it may lack an alarm that nobody was told of.
    """

    @property
    def complete(self) -> bool:
        """False after a crash, when it may lack an alarm that nobody was told of."""
        ...

    def earlier(self, due_ms: int) -> None:
        """An alarm will be set to this time, which is earlier than the index has; called first."""

    def changed(self, due_ms: int | None) -> None:
        """The alarm is set to this time, or is gone; called once that is confirmed."""


class Metadata(Protocol):
    """Where an object keeps what is not its own data."""

    def meta_get(self, key: str) -> Stored | Missing:
        """The value of ``key``, or ``MISSING``."""
        ...

    def meta_put(self, key: str, value: Stored) -> None:
        """Store a value, within the open transaction."""

    def meta_delete(self, key: str) -> None:
        """Remove a value, within the open transaction."""


def from_ms(milliseconds: int) -> datetime.datetime:
    """The UTC time that is so many milliseconds after the epoch."""
    return EPOCH + datetime.timedelta(milliseconds=milliseconds)


def to_ms(when: datetime.datetime, operation: str) -> int:
    """Milliseconds since the epoch, fractions dropped.

    Raises:
        ArgumentValueError: the time is naive.
    """
    if when.tzinfo is None or when.utcoffset() is None:
        raise ArgumentValueError(
            f"{operation} takes an aware datetime, got the naive {when.isoformat()}; pass one with "
            "a tzinfo, for example datetime.now(timezone.utc)"
        )
    return math.floor((when - EPOCH) / datetime.timedelta(milliseconds=1))


def alarm_time(when: object, now_ms: int, operation: str = "set_alarm()") -> int:
    """The time at which an alarm set to ``when`` is due, in milliseconds since the epoch.

    Raises:
        ArgumentTypeError: ``when`` is no time.
        ArgumentValueError: it is one that cannot be meant.
    """
    if isinstance(when, datetime.datetime):
        due = to_ms(when, operation)
    elif isinstance(when, datetime.timedelta):
        due = now_ms + math.floor(when / datetime.timedelta(milliseconds=1))
    elif isinstance(when, int) and not isinstance(when, bool):
        due = when
        if 0 < due < SECONDS_MAX:
            raise ArgumentValueError(
                f"{operation} takes milliseconds since the epoch, and {when} can only be seconds; "
                "multiply by 1000, or pass an aware datetime or a timedelta"
            )
    elif isinstance(when, float):
        raise ArgumentValueError(
            f"{operation} takes an aware datetime, a timedelta, or an int of milliseconds since "
            f"the epoch, got the float {when!r}; pass int(...)"
        )
    else:
        raise ArgumentTypeError(
            f"{operation} takes an aware datetime, a timedelta, or an int of milliseconds since "
            f"the epoch, got {type(when).__name__}"
        )
    if due <= 0:
        raise ArgumentValueError(
            f"{operation} cannot be called with an alarm time <= 0; pass an aware datetime, a "
            "timedelta from now, or milliseconds since the epoch"
        )
    if due >= LATEST_MS:
        raise ArgumentValueError(
            f"{operation} doesn't support dates after 2189; pass an earlier time, as an aware "
            "datetime, a timedelta from now, or milliseconds since the epoch"
        )
    return max(due, now_ms)


@final
class AlarmSlot:
    """The alarm of one open object.

    Attributes:
        running: an alarm event is under way; `get` answers None until a new alarm is set.
    """

    def __init__(self, metadata: Metadata, index: AlarmIndex | None) -> None:
        self._metadata = metadata
        self._index = index
        self._known = False
        self._due_ms: int | None = None
        # What the alarm was set to, of one that failed and is due again later.
        self._scheduled_ms: int | None = None
        self._changed = False
        self._indexed_ms: int | None = None
        # What the index has to hear once the commit of this number is confirmed.
        self._owed: tuple[int, int | None] | None = None
        self.running: bool = False
        self._set_while_running = False
        # What `_set_while_running` was when each open savepoint was entered.
        self._levels: list[bool] = []

    def due_ms(self) -> int | None:
        """When the alarm is due, as the storage holds it: after a failure, for the next try."""
        if not self._known:
            stored = self._metadata.meta_get(ALARM_KEY)
            self._due_ms = stored if isinstance(stored, int) else None
            self._scheduled_ms = None
            if self._due_ms is not None:
                scheduled = self._metadata.meta_get(SCHEDULED_KEY)
                self._scheduled_ms = scheduled if isinstance(scheduled, int) else None
            self._known = True
            if not self._changed:
                self._indexed_ms = self._due_ms
        return self._due_ms

    def scheduled_ms(self) -> int | None:
        """The time that the alarm was set to; tries after a failure do not change it."""
        due = self.due_ms()
        return due if self._scheduled_ms is None else self._scheduled_ms

    def get(self) -> int | None:
        """What ``get_alarm()`` answers: in the alarm's own handler, only a newly set one."""
        if self.running and not self._set_while_running:
            return None
        return self.scheduled_ms()

    def set(self, due_ms: int) -> None:
        """Set the alarm, within the open transaction."""
        self.due_ms()
        self._metadata.meta_put(ALARM_KEY, due_ms)
        self._forget_failures()
        self._due_ms = due_ms
        self._changed = True
        self._set_while_running = True

    def clear(self) -> None:
        """Remove the alarm, within the open transaction."""
        if self.due_ms() is None:
            return
        self._metadata.meta_delete(ALARM_KEY)
        self._forget_failures()
        self._due_ms = None
        self._changed = True

    def _forget_failures(self) -> None:
        if self._metadata.meta_get(RETRY_KEY) is not MISSING:
            self._metadata.meta_delete(RETRY_KEY)
            self._metadata.meta_delete(SCHEDULED_KEY)
        self._scheduled_ms = None

    def exists(self) -> bool:
        """Whether an alarm is set."""
        return self.due_ms() is not None

    # -- the handler ----------------------------------------------------------------------

    def begin_run(self) -> tuple[int, int] | None:
        """(time due, counted retries) of the alarm that is to run, or None; `get` is then None."""
        due = self.due_ms()
        if due is None:
            return None
        retries = self._metadata.meta_get(RETRY_KEY)
        self.running = True
        self._set_while_running = False
        return due, retries if isinstance(retries, int) else 0

    @property
    def replaced(self) -> bool:
        """Whether the handler has set an alarm of its own."""
        return self._set_while_running

    def end_run(self) -> None:
        """The handler has ended."""
        self.running = False
        self._set_while_running = False

    def retry_at(self, due_ms: int, retries: int) -> None:
        """Note the next try of a failed alarm, within the open transaction."""
        scheduled = self.scheduled_ms()
        if scheduled is not None:
            self._metadata.meta_put(SCHEDULED_KEY, scheduled)
        self._metadata.meta_put(ALARM_KEY, due_ms)
        self._metadata.meta_put(RETRY_KEY, retries)
        self._scheduled_ms = scheduled
        self._due_ms = due_ms
        self._known = True
        self._changed = True

    # -- transactions ---------------------------------------------------------------------

    def push(self) -> None:
        """Start to note what is set, because it may be rolled back."""
        self._levels.append(self._set_while_running)

    def release(self) -> None:
        """Keep what was set since the matching `push`."""
        self._levels.pop()

    def rollback(self) -> None:
        """Forget what was set since the matching `push`; what was set before stays set."""
        self._set_while_running = self._levels.pop()
        self.forget()

    def forget(self) -> None:
        """Something was rolled back: read the truth again when it is asked for."""
        self._known = False

    def before_commit(self) -> None:
        """Tell the index of an alarm that is earlier than it knows."""
        if self._changed and self._index is not None:
            due = self.due_ms()
            if due is not None and (self._indexed_ms is None or due < self._indexed_ms):
                self._index.earlier(due)
                self._indexed_ms = due

    def after_commit(self, number: int) -> None:
        """The commit that will be confirmed as ``number`` was made."""
        if self._changed:
            self._changed = False
            self._indexed_ms = self.due_ms()
            self._owed = number, self._indexed_ms

    def confirmed(self, number: int) -> None:
        """Every commit up to ``number`` is confirmed."""
        owed = self._owed
        if owed is not None and owed[0] <= number:
            self._owed = None
            if self._index is not None:
                self._index.changed(owed[1])

    def complete_index(self, *, restored: bool = False) -> None:
        """After a crash or a restore, see to it that the index knows of the alarm, or of none."""
        if self._index is None or (self._index.complete and not restored):
            return
        due = self.due_ms()
        if due is not None:
            self._index.earlier(due)
        if restored:
            self._index.changed(due)
