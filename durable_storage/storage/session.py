"""The storage of one life of an object: its open file, what is buffered, and how turns commit.

Invariants:

* A transaction is open in the database exactly while ``open`` is set; the life then owes a commit,
  or an explicit transaction of the open critical section does.
* ``depth`` counts the savepoints (and the explicit transaction) that are open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, final

from ..database.connection import MISSING, Database
from ..errors import DurableStorageError, ObjectResetError, SqlError
from ..gates.life import Life
from ..limits import Limits
from ..serializers import Serializer
from ..serializers.foreign import checked
from .alarm_slot import ALARM_KEYS, AlarmIndex, AlarmSlot
from .kv_buffer import KvBuffer

__all__ = ["Session"]

T = TypeVar("T")

SERIALIZER_KEY = "serializer"
DEFAULT_SERIALIZER = "msgpack"

CONSTRAINTS_VIOLATED = (
    "Durable Object was reset and rolled back to its last known good state because the "
    "application left the database in a state where constraints were violated: "
)


@final
class Session:
    """See the module. It is the `Backing` of its ``life``.

    Args:
        committing: called before each commit.

    Attributes:
        withhold: whether something of the current turn must be waited for by answers.
    """

    __slots__ = (
        "_committing",
        "_record_serializer",
        "_serializer_name",
        "alarm",
        "database",
        "depth",
        "kv",
        "life",
        "occupant",
        "open",
        "withhold",
    )

    life: Life

    def __init__(
        self,
        database: Database,
        serializer: Serializer,
        limits: Limits,
        alarm_index: AlarmIndex | None,
        *,
        committing: Callable[[], None] | None = None,
    ) -> None:
        self.database: Database = database
        self.open: bool = False
        self.depth: int = 0
        # What stands at each depth: a block that was abandoned must not end its successor.
        self.occupant: dict[int, object] = {}
        self.withhold: bool = False
        self._committing = committing
        self.kv: KvBuffer = KvBuffer(database, checked(serializer), limits, self._begin_kv)
        self._serializer_name = serializer.name
        # Absent, the name is the default's: most objects then need no metadata at all.
        self._record_serializer = (
            serializer.name != DEFAULT_SERIALIZER and database.meta_get(SERIALIZER_KEY) is MISSING
        )
        self.alarm: AlarmSlot = AlarmSlot(database, alarm_index)

    # -- the implicit transaction ---------------------------------------------------------

    def begin(self) -> None:
        """Open the implicit transaction unless a transaction is open."""
        if not self.open:
            self.database.begin()
            self.open = True

    def _begin_kv(self) -> None:
        self.begin()
        if self._record_serializer:
            self._record_serializer = False
            self.database.meta_put(SERIALIZER_KEY, self._serializer_name)

    def before_sql_write(self) -> None:
        """Called by the database before the first statement of a script that may write."""
        if not self.open:
            self.database.begin()
            self.open = True
        self.withhold = True

    def commit(self) -> bool | None:
        """See `Backing.commit`."""
        withhold, self.withhold = self.withhold, False
        if self.depth and not self.life.explicit:
            self._abandon_savepoints()
        try:
            if not (self.open or self.kv.dirty):
                return None
            if self._committing is not None:
                self._committing()
            if not (self.open or self._record_serializer) and self.kv.flush_and_commit_one():
                return withhold
            self.kv.flush()
            self.alarm.before_commit()
            self.database.commit()
        except SqlError as exc:
            raise self._reset(exc) from exc
        self.open = False
        if self.database.committed_nothing:
            return None
        gate = self.life.gate
        self.alarm.after_commit(gate.committed + 1)
        if gate.immediate:
            self.alarm.confirmed(gate.committed + 1)
        return withhold

    def _abandon_savepoints(self) -> None:
        # The code suspended inside transaction_sync(): others will write now, and must not be
        # rolled back with it. Its block raises when it is left.
        while self.depth:
            self.leave_savepoint(self.depth - 1, keep=False)

    def _reset(self, exc: SqlError) -> ObjectResetError:
        if exc.sqlite_errorname is not None and exc.sqlite_errorname.startswith(
            "SQLITE_CONSTRAINT"
        ):
            return ObjectResetError(f"{CONSTRAINTS_VIOLATED}{exc}", retryable=False)
        return ObjectResetError(
            f"the object was reset to its last committed state because a commit failed: {exc}"
        )

    def discard(self) -> None:
        """See `Backing.discard`."""
        self.open = False
        self.depth = 0
        self.withhold = False
        self.kv.close()
        self.alarm.forget()
        self.alarm.end_run()
        try:
            self.database.rollback()
        except DurableStorageError:
            # The connection is of no use any more; whoever opens the next life opens a new one.
            self.database.close()

    def hold(self, held: bool) -> None:
        """See `Backing.hold`."""
        self.kv.hold(held)

    def delete_all(self, *, delete_alarm: bool) -> None:
        """Drop everything, in a transaction that is then open; the caller commits it."""
        due = self.alarm.due_ms()
        if self.open:
            self.open = False
            self.database.rollback()
        self.kv.forget()
        self.alarm.forget()
        self._record_serializer = self._serializer_name != DEFAULT_SERIALIZER
        self.begin()
        if delete_alarm or due is None:
            # Also when it was deleted in the turn that has just been dropped.
            self.alarm.clear()
        self.database.delete_all(keep=() if delete_alarm else ALARM_KEYS)
        if not delete_alarm and due is not None and due != self.alarm.due_ms():
            # It was set in the turn that has just been dropped.
            self.alarm.set(due)

    def check_transaction(self) -> None:
        """After any SQL error: if SQLite ended the transaction itself, the object breaks."""
        if self.open and not self.database.in_transaction:
            self.life.break_(
                ObjectResetError(
                    "the object was reset to its last committed state because a statement rolled "
                    "the whole transaction back"
                )
            )

    # -- savepoints -----------------------------------------------------------------------

    def savepoint(self, callback: Callable[[], T]) -> T:
        """Run ``callback`` in a savepoint of the open or implicit transaction."""
        depth = self.enter_savepoint()
        try:
            result = callback()
        except BaseException:
            self.leave_savepoint(depth, keep=False)
            raise
        self.leave_savepoint(depth, keep=True)
        return result

    def enter_savepoint(self) -> int:
        """Open a savepoint; its depth, for `leave_savepoint`."""
        self.begin()
        self.kv.push()
        self.alarm.push()
        depth = self.depth
        self.database.savepoint(depth)
        self.depth = depth + 1
        self.occupant[depth] = object()
        return depth

    def leave_savepoint(self, depth: int, *, keep: bool) -> None:
        """Keep or undo what was done since `enter_savepoint` gave ``depth``."""
        if not self.open or self.depth != depth + 1:
            # The object broke inside, or the savepoint was abandoned: it is gone already.
            return
        if keep:
            self.kv.release()
            self.alarm.release()
            self.database.release(depth)
        else:
            self.kv.rollback()
            self.alarm.rollback()
            self.database.rollback_to(depth)
        self.depth = depth

    # -- explicit transactions ------------------------------------------------------------

    def enter_transaction(self) -> int:
        """Begin an explicit transaction, or a savepoint inside one."""
        if self.life.explicit:
            depth = self.enter_savepoint()
        else:
            depth = 0
            self.database.begin()
            self.open = True
            self.kv.push()
            self.alarm.push()
            self.depth = 1
        self.life.explicit += 1
        return depth

    def leave_transaction(self, depth: int, *, keep: bool) -> None:
        """End what `enter_transaction` began.

        Raises:
            ObjectResetError: the commit failed; the life is broken.
        """
        life = self.life
        if life.broken is not None:
            return
        life.explicit -= 1
        if life.explicit:
            self.leave_savepoint(depth, keep=keep)
            return
        if keep:
            self.kv.release()
            self.alarm.release()
            self.depth = 0
            life.pending = True
            life.commit()
            return
        self.kv.rollback()
        self.alarm.rollback()
        self.depth = 0
        self.withhold = False
        life.pending = False
        self.open = False
        self.database.rollback()
