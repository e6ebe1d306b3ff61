"""Values on their way into SQLite: what may be bound, and as what."""

from __future__ import annotations

from typing import Final

from ..errors import ArgumentTypeError, ArgumentValueError

__all__ = ["PLAIN_TYPES", "explain", "plain"]

# Types that ``sqlite3`` binds as they are, with no adapter looked up but for bytes.
PLAIN_TYPES: Final = frozenset({type(None), int, float, str, bytes})
_INTEGER_MIN: Final = -(2**63)
_INTEGER_MAX: Final = 2**63 - 1


def plain(bindings: tuple[object, ...]) -> tuple[object, ...]:
    """Return the bindings with every value of a plain type.

    Raises:
        ArgumentTypeError: a value is of a type that SQLite has no storage for.
    """
    return tuple(_plain(value, position) for position, value in enumerate(bindings, 1))


def _plain(value: object, position: int) -> object:
    if type(value) in PLAIN_TYPES:
        return value
    # Subclasses: bool, IntEnum and the like.
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)  # what str() makes of an enum's member is its name
    try:
        view = memoryview(value)  # type: ignore[arg-type]  # asks whether it is bytes-like
    except TypeError:
        pass
    else:
        return view.tobytes()
    raise ArgumentTypeError(
        f"exec() binding {position} is of type {type(value).__name__}; SQL takes None, bool, int,"
        " float, str and bytes-like objects"
    )


def explain(bindings: tuple[object, ...]) -> ArgumentValueError | None:
    """Return what is wrong with plain bindings that ``sqlite3`` could not convert."""
    for position, value in enumerate(bindings, 1):
        if isinstance(value, int) and not _INTEGER_MIN <= value <= _INTEGER_MAX:
            return ArgumentValueError(
                f"exec() binding {position} is {value}; SQLite's integers have 64 bits"
                f" ({_INTEGER_MIN} to {_INTEGER_MAX})"
            )
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                return ArgumentValueError(
                    f"exec() binding {position} has a lone surrogate at index {error.start}; it"
                    " cannot be stored as UTF-8"
                )
    return None
