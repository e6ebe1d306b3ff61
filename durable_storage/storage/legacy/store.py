"""One object's store over its lives: what is committed, and how it reaches the backend.

Invariants:

* ``pending`` holds what is committed and in no batch; ``flying`` what the running batch brings.
  Together with the backend they are the object's committed state; a reader looks in that order.
* One batch runs at a time, and commits reach the backend in their order.
* After any failure nothing of the backend is trusted: it is closed, and `load` opens it anew.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Final, final

from ...database.connection import MISSING, Missing, Stored
from ...errors import ArgumentTypeError, DatabaseFileError, ObjectResetError
from ...gates.loop import Loop, Signal
from ..alarm_slot import ALARM_KEYS
from ..kv_backend import KvBackend, PartialDeleteError
from ..session import DEFAULT_SERIALIZER, SERIALIZER_KEY
from .layer import META, USER, Known, Layer, Range, Unknown

__all__ = ["Store"]

# Keys that one step of a deletion of everything takes, values of up to 128 KiB with them.
DELETE_PAGE: Final = 64

_METHODS: Final = ("get", "list", "batch", "delete_all", "close")


@final
class Store:
    """See the module.

    Args:
        name: how messages name the object.
        open_backend: gives the backend, opened anew.
        before_batch: blocks until what the batch depends on is durable; None if the backend sees
            to it.
        serializer: the name of the serializer that values are encoded with.

    Attributes:
        loaded: whether the backend is open, and nothing of it has failed.
    """

    def __init__(
        self,
        loop: Loop,
        name: str,
        open_backend: Callable[[], KvBackend],
        before_batch: Callable[[], None] | None,
        serializer: str,
    ) -> None:
        self._loop = loop
        self._name = name
        self._open_backend = open_backend
        self._before_batch = before_batch
        self._serializer = serializer
        self._record_serializer = False
        self._backend: KvBackend | None = None
        self._pending = Layer()
        self._flying = Layer()
        self._meta: dict[str, Stored] = {}
        self._waiting: list[Callable[[BaseException | None], None]] = []
        self._running = False
        self._idle: Signal | None = None
        self._room: Signal | None = None
        self.loaded: bool = False

    # -- the backend ----------------------------------------------------------------------

    @property
    def backend(self) -> KvBackend:
        """The open backend."""
        assert self._backend is not None
        return self._backend

    async def load(self) -> None:
        """Open the backend, anew if something failed, and read the metadata.

        Raises:
            DatabaseFileError: its values were written with another serializer.
            Exception: what the backend failed with.
        """
        await self.wait_idle()
        await self.close()
        self._backend = _checked(self._open_backend())
        keys = [META + key for key in (*ALARM_KEYS, SERIALIZER_KEY)]
        found = await self._backend.get(keys)
        self._meta = {key[1:]: _decoded(key, value) for key, value in found.items()}
        recorded = self._meta.get(SERIALIZER_KEY, DEFAULT_SERIALIZER)
        if recorded != self._serializer:
            if SERIALIZER_KEY in self._meta or await self._backend.list(prefix=USER, limit=1):
                raise DatabaseFileError(
                    f"{self._name} holds values of the serializer {recorded!r} and was opened with "
                    f"{self._serializer!r}; open it with {recorded!r}, or copy its values into a "
                    "new object"
                )
            self._record_serializer = True
        self.loaded = True

    async def close(self) -> None:
        """Close the backend if it is open, whatever that says: everything confirmed is durable."""
        self.loaded = False
        backend, self._backend = self._backend, None
        if backend is not None:
            with contextlib.suppress(Exception):
                await backend.close()

    async def read(self, keys: Sequence[str]) -> dict[str, bytes]:
        """What the backend holds of the object's ``keys``."""
        found = await self.backend.get([USER + key for key in keys])
        return {key[1:]: value for key, value in found.items()}

    async def read_range(self, wanted: Range, limit: int | None) -> list[tuple[str, bytes]]:
        """The pairs that the backend holds in a range."""
        pairs = await self.backend.list(
            start=None if wanted.start is None else USER + wanted.start,
            start_after=None if wanted.start_after is None else USER + wanted.start_after,
            end=None if wanted.end is None else USER + wanted.end,
            prefix=USER + (wanted.prefix or ""),
            reverse=wanted.reverse,
            limit=limit,
        )
        return [(key[1:], value) for key, value in pairs]

    # -- what is committed ----------------------------------------------------------------

    def find(self, key: str) -> Known | Unknown:
        """What is known of a key that the backend may not hold yet."""
        found = self._pending.find(key)
        return self._flying.find(key) if isinstance(found, Unknown) else found

    def within(self, wanted: Range) -> dict[str, Known]:
        """What is known of a range's keys that the backend may not hold yet."""
        return self._pending.within(wanted, self._flying.within(wanted, {}))

    @property
    def cleared(self) -> bool:
        """Whether everything that the backend holds of the object is deleted."""
        return self._pending.cleared or self._flying.cleared

    def meta(self, key: str) -> Stored | Missing:
        """The committed metadata under a key."""
        return self._meta.get(key, MISSING)

    @property
    def unflushed_bytes(self) -> int:
        """The size of what the backend may not hold yet."""
        return self._pending.size_bytes + self._flying.size_bytes

    @property
    def busy(self) -> bool:
        """Whether something is committed that the backend may not hold yet."""
        return bool(self._pending) or bool(self._flying)

    def commit(self, layer: Layer) -> None:
        """Make a layer part of the committed state."""
        if layer.cleared and SERIALIZER_KEY in self._meta:
            self._record_serializer = True
        if self._record_serializer:
            self._record_serializer = False
            layer.write(META + SERIALIZER_KEY, self._serializer.encode())
        for key, value in layer.entries.items():
            if key.startswith(META):
                if value is None:
                    self._meta.pop(key[1:], None)
                else:
                    self._meta[key[1:]] = _decoded(key, value)
        self._pending.absorb(layer)

    # -- flushing -------------------------------------------------------------------------

    def flush(self, done: Callable[[BaseException | None], None]) -> None:
        """Call ``done`` when the backend holds everything committed so far, or has failed."""
        self._waiting.append(done)
        if not self._running:
            self._running = True
            self._loop.spawn(self._run)

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            error: BaseException | None = None
            try:
                await self._flush_pending()
            except BaseException as exc:
                error = exc
                self.loaded = False
                self._pending = Layer()
                waiting += self._waiting
                self._waiting = []
            self._flying = Layer()
            self._tell_room()
            if error is not None and not isinstance(error, Exception):
                self._end_run()
                self._tell(waiting, ObjectResetError(f"{self._name}: a batch was cancelled"))
                raise error
            self._tell(waiting, error)
        self._end_run()

    def _tell(
        self,
        waiting: list[Callable[[BaseException | None], None]],
        error: BaseException | None,
    ) -> None:
        for done in waiting:
            done(error)

    def _end_run(self) -> None:
        self._running = False
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.set()

    async def wait_idle(self) -> None:
        """Return when no batch is under way."""
        while self._running:
            if self._idle is None:
                self._idle = self._loop.signal()
            await self._idle.wait()

    async def wait_room(self, unflushed_max_bytes: int) -> None:
        """Return when no more than so much is committed and not yet held by the backend."""
        while self.unflushed_bytes > unflushed_max_bytes:
            if self._room is None:
                self._room = self._loop.signal()
            await self._room.wait()

    def _tell_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set()

    async def _flush_pending(self) -> None:
        layer = self._flying = self._pending
        self._pending = Layer()
        # The layer itself brings the serializer's name again.
        keeps_metadata = bool(self._meta.keys() - {SERIALIZER_KEY})
        for signal in layer.after:
            await signal.wait()
        if not layer:
            return
        backend = self.backend
        if self._before_batch is not None:
            await self._in_thread(self._before_batch)
        if layer.cleared:
            if keeps_metadata:
                await self._delete_pages(backend)
            else:
                await backend.delete_all()
        puts = {key: value for key, value in layer.entries.items() if value is not None}
        deletes = {key for key, value in layer.entries.items() if value is None}
        if puts or deletes:
            await backend.batch(puts, deletes)

    async def _delete_pages(self, backend: KvBackend) -> None:
        """Delete every key of the object and none of its metadata."""
        keys: list[str] = []
        while True:
            after = keys[-1] if keys else None
            page = await backend.list(prefix=USER, start_after=after, limit=DELETE_PAGE)
            keys += [key for key, _ in page]
            if len(page) < DELETE_PAGE:
                break
        for first in range(0, len(keys), DELETE_PAGE):
            try:
                await backend.batch({}, keys[first : first + DELETE_PAGE])
            except Exception as exc:
                left = len(keys) - first
                raise PartialDeleteError(
                    f"delete_all() stopped part-way: {left} of {len(keys)} keys are left; call it "
                    f"again ({exc})",
                    remaining=left,
                ) from exc

    async def _in_thread(self, job: Callable[[], None]) -> None:
        done = self._loop.signal()
        errors: list[BaseException] = []

        def finish(error: BaseException | None) -> None:
            if error is not None:
                errors.append(error)
            done.set()

        self._loop.run_in_thread(job, finish)
        await done.wait()
        if errors:
            raise errors[0]


def _checked(backend: KvBackend) -> KvBackend:
    missing = [name for name in _METHODS if not callable(getattr(backend, name, None))]
    if not missing:
        return backend
    if inspect.iscoroutine(backend):
        backend.close()
    raise ArgumentTypeError(
        f"kv_backend gave {type(backend).__name__}, which is no KvBackend: it has no "
        f"{', '.join(f'{name}()' for name in missing)}"
    )


def _decoded(stored_key: str, value: bytes) -> Stored:
    text = value.decode()
    return text if stored_key == META + SERIALIZER_KEY else int(text)
