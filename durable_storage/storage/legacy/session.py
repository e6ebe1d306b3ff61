"""The storage of one life of an object of the legacy backend: its turn's writes, and its cache."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final

from ...database.connection import MISSING, Missing, Stored
from ...errors import ObjectResetError
from ...gates.life import Life
from ...limits import Limits
from ...serializers import Serializer
from ...serializers.foreign import checked
from ..alarm_slot import AlarmIndex, AlarmSlot
from .cache import Cache
from .layer import META, USER, Known, Layer, Range, Unknown
from .reading import Reading
from .store import Store

if TYPE_CHECKING:
    from .transaction import LegacyTransaction

__all__ = ["LegacySession", "View"]

T = TypeVar("T")


class View(Protocol):
    """What an operation works on: the object's state, or a transaction's view of it."""

    def find(self, key: str, *, touch: bool = True) -> Known | Unknown:
        """What is known of a key without asking the backend."""
        ...

    def within(self, wanted: Range) -> dict[str, Known]:
        """What lies over the backend's keys of a range."""
        ...

    @property
    def cleared(self) -> bool:
        """Whether nothing that the backend holds is there any more."""
        ...

    def write(self, key: str, value: Known, *, cache: bool) -> None:
        """Give a key a new value, or None to delete it."""
        ...

    def wrote(self, driven: bool, *, withhold: bool, reading: Reading[Any] | None = None) -> None:
        """Note that something was written, whose effect ``reading`` must not see."""
        ...


@final
class LegacySession:
    """See the module. It is the `Backing` of its ``life``, and the `Metadata` of its alarm.

    Attributes:
        withhold: whether something of the current turn must be waited for by answers.
        transactions: the open ones, the innermost last.
        unflushed_max_bytes: above this a ``put`` waits for the backend.
    """

    __slots__ = (
        "_buffer",
        "_cache",
        "_writes",
        "alarm",
        "life",
        "limits",
        "serializer",
        "store",
        "transactions",
        "unflushed_max_bytes",
        "withhold",
    )

    life: Life

    def __init__(
        self,
        store: Store,
        serializer: Serializer,
        limits: Limits,
        alarm_index: AlarmIndex | None,
    ) -> None:
        self.store: Store = store
        self.serializer: Serializer = checked(serializer)
        self.limits: Limits = limits
        self.withhold: bool = False
        self.transactions: list[LegacyTransaction] = []
        self.unflushed_max_bytes: int = limits.cache_size_max_bytes // 4
        self.alarm: AlarmSlot = AlarmSlot(self, alarm_index)
        self._buffer = Layer()
        self._cache = Cache(limits.cache_size_max_bytes)
        # Counts writes: what a read brings is remembered only if nothing was written meanwhile.
        self._writes = 0

    # -- turns ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Nothing has to be opened before a write."""

    def commit(self) -> bool | None:
        """See `Backing.commit`."""
        withhold, self.withhold = self.withhold, False
        if not self._buffer:
            return None
        self.alarm.before_commit()
        buffer, self._buffer = self._buffer, Layer()
        self.store.commit(buffer)
        self.alarm.after_commit(self.life.gate.committed + 1)
        return withhold

    def discard(self) -> None:
        """See `Backing.discard`."""
        self.withhold = False
        self.transactions.clear()
        self._buffer = Layer()
        self._cache.clear()
        self.alarm.forget()
        self.alarm.end_run()

    def hold(self, held: bool) -> None:
        """See `Backing.hold`; every access asks the gates anyway."""

    # -- the object's state ---------------------------------------------------------------

    def find(self, key: str, *, touch: bool = True) -> Known | Unknown:
        """See `View.find`."""
        for layer in (self._buffer, self.store):
            found = layer.find(key)
            if not isinstance(found, Unknown):
                return found
        return None if self.cleared else self._cache.find(key, touch=touch)

    def within(self, wanted: Range) -> dict[str, Known]:
        """See `View.within`."""
        return self._buffer.within(wanted, self.store.within(wanted))

    @property
    def cleared(self) -> bool:
        """See `View.cleared`."""
        return self._buffer.cleared or self.store.cleared

    @property
    def unflushed_bytes(self) -> int:
        """The size of what the backend may not hold yet."""
        return self._buffer.size_bytes + self.store.unflushed_bytes

    def write(self, key: str, value: Known, *, cache: bool) -> None:
        """See `View.write`."""
        self._writes += 1
        self._buffer.write(USER + key, value)
        if cache:
            self._cache.put(key, value)
        else:
            self._cache.drop(key)

    def wrote(self, driven: bool, *, withhold: bool, reading: Reading[Any] | None = None) -> None:
        """See `View.wrote`."""
        if reading is not None:
            self._buffer.after.append(reading.ended)
        self.withhold = self.withhold or withhold
        self.life.wrote(driven)

    def delete_all(self, *, delete_alarm: bool) -> None:
        """Delete every key, and the alarm if asked."""
        self._writes += 1
        self._cache.clear()
        self._buffer.clear()
        if delete_alarm:
            self.alarm.clear()

    def absorb(self, layer: Layer, *, withhold: bool) -> None:
        """Write all that a transaction wrote."""
        for stored_key, value in layer.entries.items():
            self.write(stored_key[1:], value, cache=True)
        self._buffer.after += layer.after
        self.wrote(True, withhold=withhold)

    # -- reading --------------------------------------------------------------------------

    def read(
        self,
        keys: list[str],
        give: Callable[[dict[str, bytes]], T],
        *,
        locked: bool,
        cache: bool,
    ) -> Reading[T]:
        """Ask the backend for keys of which nothing is known."""
        writes = self._writes

        async def work() -> T:
            found = await self.store.read(keys)
            if cache and self._writes == writes and self.life.broken is None:
                for key in keys:
                    self._cache.put(key, found.get(key))
            return give(found)

        return self.wait(work, locked=locked)

    def wait(self, work: Callable[[], Coroutine[Any, Any, T]], *, locked: bool) -> Reading[T]:
        """Start work on the store; if it fails, the object is reset.

        Args:
            work: makes the coroutine that does it.
            locked: whether the input gate is closed for others while code awaits it.
        """
        return Reading(self.life, work, self._failed, locked=locked)

    def _failed(self, exc: Exception) -> None:
        life = self.life
        if life.broken is None:
            self.store.loaded = False
            life.storage_failed = True
            reset = ObjectResetError(f"{life.name} was reset: its store failed: {exc}")
            reset.__cause__ = exc
            life.break_(reset)

    # -- metadata -------------------------------------------------------------------------

    def meta_get(self, key: str) -> Stored | Missing:
        """See `Metadata`."""
        entries = self._buffer.entries
        if META + key in entries:
            value = entries[META + key]
            return MISSING if value is None else int(value)
        return self.store.meta(key)

    def meta_put(self, key: str, value: Stored) -> None:
        """See `Metadata`."""
        self._buffer.write(META + key, str(value).encode())

    def meta_delete(self, key: str) -> None:
        """See `Metadata`."""
        self._buffer.write(META + key, None)
