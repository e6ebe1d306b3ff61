"""Reading and writing keys: the same on the object's storage and on a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from ...errors import ArgumentTypeError, ArgumentValueError, LimitExceededError
from ...gates.ready import READY, Eager, Ready
from ...limits import Limits
from ..kv_buffer import check_key
from ..ranges import check_range
from .layer import Known, Range, Unknown
from .reading import Postponed, Queued
from .session import LegacySession, View

__all__ = ["VALUE_MISSING", "delete", "eager", "get", "list_", "put"]

T = TypeVar("T")

VALUE_MISSING: Final = object()


def eager(session: LegacySession, operation: str, function: Callable[[bool], Eager[T]]) -> Eager[T]:
    """Run an operation now, or when a step of the caller's scope may run.

    Args:
        session: the storage it works on.
        operation: what messages call it.
        function: does it; told whether a driven step does.
    """
    life = session.life
    scope = life.admission(operation)
    if scope is None:
        return function(True)
    if scope.open:
        return function(False)
    return Queued(life.later(scope, function))


def _eager_read(
    session: LegacySession,
    operation: str,
    read: Callable[[bool], Eager[T]],
    known: Callable[[], bool],
    *,
    locked: bool,
) -> Eager[T]:
    """Run a read now, or when it is awaited and the input gate is closed for others.

    Args:
        session: the storage it works on.
        operation: what messages call it.
        read: does it; told whether awaiting it must close the gate.
        known: whether it need not wait for the store.
        locked: whether the gate must be closed from the read to the code that goes on with it.
    """
    life = session.life
    scope = life.admission(operation)
    if not locked or scope is None:
        return eager(session, operation, lambda _: read(locked))
    # A child task. Between its call and its wait, and between its turn and its resumption, others
    # may run.
    if scope.open and known():
        return read(False)
    in_section = Postponed(life, lambda: read(False), locked=True)
    return in_section if scope.open else Queued(life.later(scope, lambda _: in_section))


def get(
    session: LegacySession,
    view: View,
    key: object,
    default: Any,
    *,
    allow_concurrency: bool,
    no_cache: bool,
) -> Eager[Any]:
    """See ``DurableObjectStorage.get``."""
    loads = session.serializer.loads
    limits = session.limits
    if isinstance(key, str):
        names = [_key(key, "get()", limits)]

        def give(found: Mapping[str, Known]) -> Any:
            value = found.get(names[0])
            return default if value is None else loads(value)

    else:
        names = sorted(set(_keys(key, "get()", limits)))

        def give(found: Mapping[str, Known]) -> Any:
            values = [(name, found.get(name)) for name in names]
            return {name: loads(value) for name, value in values if value is not None}

    def read(locked: bool) -> Eager[Any]:
        states = {name: view.find(name, touch=not no_cache) for name in names}
        known = {name: each for name, each in states.items() if not isinstance(each, Unknown)}
        if len(known) == len(states):
            return Ready(give(known))
        return session.read(
            [name for name in states if name not in known],
            lambda found: give({**known, **found}),
            locked=locked,
            cache=not no_cache,
        )

    def known() -> bool:
        return not any(isinstance(view.find(name, touch=False), Unknown) for name in names)

    return _eager_read(session, "get()", read, known, locked=not allow_concurrency)


def list_(
    session: LegacySession,
    view: View,
    *,
    start: str | None,
    start_after: str | None,
    end: str | None,
    prefix: str | None,
    reverse: bool,
    limit: int | None,
    allow_concurrency: bool,
) -> Eager[dict[str, Any]]:
    """See ``DurableObjectStorage.list``."""
    check_range("list()", start, start_after, end, prefix, limit)
    for bound in (start, start_after, end, prefix):
        if bound is not None:
            _utf8_size(bound)
    wanted = Range(start, start_after, end, prefix, reverse, limit)
    loads = session.serializer.loads

    def give(stored: list[tuple[str, bytes]], newer: Mapping[str, Known]) -> dict[str, Any]:
        return {key: loads(value) for key, value in wanted.merged(stored, newer).items()}

    def read(locked: bool) -> Eager[dict[str, Any]]:
        newer = view.within(wanted)
        if view.cleared:
            return Ready(give([], newer))
        # Each newer entry may stand for one of the backend's.
        count = None if limit is None else limit + len(newer)

        async def work() -> dict[str, Any]:
            return give(await session.store.read_range(wanted, count), newer)

        return session.wait(work, locked=locked)

    return _eager_read(session, "list()", read, lambda: view.cleared, locked=not allow_concurrency)


def put(
    session: LegacySession,
    view: View,
    key: object,
    value: object,
    *,
    allow_concurrency: bool,
    allow_unconfirmed: bool,
    no_cache: bool,
) -> Eager[None]:
    """See ``DurableObjectStorage.put``."""
    limits = session.limits
    pairs: list[tuple[str, bytes]] = []
    for name, each in _pairs(key, value, limits):
        encoded = session.serializer.dumps(each)
        if len(encoded) > limits.legacy_value_size_max_bytes:
            raise _too_large(
                "Values",
                limits.legacy_value_size_max_bytes,
                f"put() of {name[:40]!r} is {len(encoded)} bytes; split it over several keys",
            )
        pairs.append((name, encoded))

    def run(driven: bool) -> Eager[None]:
        for pair in pairs:
            view.write(*pair, cache=not no_cache)
        if pairs:
            view.wrote(driven, withhold=not allow_unconfirmed)
        if view is not session or session.unflushed_bytes <= session.unflushed_max_bytes:
            return READY
        return Postponed(
            session.life,
            lambda: session.store.wait_room(session.unflushed_max_bytes),
            locked=not allow_concurrency,
        )

    return eager(session, "put()", run)


def delete(
    session: LegacySession,
    view: View,
    key: object,
    *,
    allow_concurrency: bool,
    allow_unconfirmed: bool,
    no_cache: bool,
) -> Eager[Any]:
    """See ``DurableObjectStorage.delete``."""
    limits = session.limits
    one = isinstance(key, str)
    names = [_key(key, "delete()", limits)] if one else _keys(key, "delete()", limits)

    def give(count: int) -> Any:
        return bool(count) if one else count

    def run(driven: bool) -> Eager[Any]:
        states = {name: view.find(name) for name in names}
        unknown = [name for name, each in states.items() if isinstance(each, Unknown)]
        present = sum(isinstance(each, bytes) for each in states.values())
        # Asked before the deletion, which waits for the answer on its way to the backend.
        reading = None
        if unknown:
            reading = session.read(
                unknown,
                lambda found: give(present + len(found)),
                locked=not allow_concurrency,
                cache=False,
            )
        gone = [name for name, each in states.items() if each is not None]
        for name in gone:
            view.write(name, None, cache=not no_cache)
        if gone:
            view.wrote(driven, withhold=not allow_unconfirmed, reading=reading)
        return Ready(give(present)) if reading is None else reading

    return eager(session, "delete()", run)


# -- arguments ----------------------------------------------------------------------------


def _too_large(what: str, limit: int, found: str) -> LimitExceededError:
    # The message is the original's to the letter; what was found is beside it.
    error = LimitExceededError(f"{what} cannot be larger than {limit} bytes.")
    error.add_note(found)
    return error


def _utf8_size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise ArgumentValueError(
            f"the key has a lone surrogate at position {exc.start}, which UTF-8 cannot hold"
        ) from exc


def _key(key: object, operation: str, limits: Limits) -> str:
    name = check_key(key, operation)
    size = _utf8_size(name)
    if size > limits.legacy_key_size_max_bytes:
        raise _too_large(
            "Keys",
            limits.legacy_key_size_max_bytes,
            f"{operation} was given one of {size} bytes",
        )
    return name


def _keys(keys: object, operation: str, limits: Limits) -> list[str]:
    if isinstance(keys, (bytes, bytearray)) or not isinstance(keys, Iterable):
        raise ArgumentTypeError(
            f"{operation} takes a str or an iterable of str, got {type(keys).__name__}"
        )
    names = [_key(key, operation, limits) for key in cast("Iterable[object]", keys)]
    _count(len(names), operation, "keys", limits)
    return names


def _pairs(key: object, value: object, limits: Limits) -> list[tuple[str, object]]:
    if isinstance(key, Mapping):
        if value is not VALUE_MISSING:
            raise ArgumentTypeError("put() takes a mapping alone, or a key and a value")
        entries = cast("Mapping[object, object]", key)
        _count(len(entries), "put()", "pairs", limits)
        return [(_key(k, "put()", limits), v) for k, v in entries.items()]
    name = _key(key, "put()", limits)
    if value is VALUE_MISSING:
        raise ArgumentTypeError("put() of a key takes a value too")
    return [(name, value)]


def _count(count: int, operation: str, what: str, limits: Limits) -> None:
    if count > limits.keys_per_call:
        raise LimitExceededError(
            f"{operation} of {count} {what}; one call may hold {limits.keys_per_call}"
        )
