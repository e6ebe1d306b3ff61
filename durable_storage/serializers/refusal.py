"""Finding the part of a value that is to blame, once it is known that there is one.

The path is written as the Python expression that leads to the part: ``value["a"][3].x``, and
``list(value)[2]`` for a key or for an element of a set.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator

from ..errors import DataCloneError

__all__ = [
    "DEPTH_PROMISED",
    "NOT_AWAITED",
    "Parts",
    "RefusedError",
    "Step",
    "cannot_store",
    "check_text",
    "description",
    "element",
    "entry",
    "item",
    "keys_and_entries",
    "refusal",
    "shortened",
    "unreadable",
]

Step = tuple[str, str]
"""What is put before and after the path of the whole to make the path of the part."""

Parts = Iterable[tuple[Step, object]]

DEPTH_PROMISED = 500
"""Levels of nesting that every serializer takes."""

NOT_AWAITED = "is the result of a call that was not awaited; write `await` before it"

_SHOWN_MAX = 160


class RefusedError(Exception):
    """A part cannot be stored; its text says why, as the end of a sentence."""


def refusal(value: object, parts_of: Callable[[object], Parts]) -> DataCloneError | None:
    """Return the error that names the first part of ``value`` that is to blame, if any is.

    ``parts_of`` returns the parts of one value, and raises when that value is itself refused.
    """
    # Values that are being looked into, each with its path and the parts still to come.
    unfinished: list[tuple[object, str, Iterator[tuple[Step, object]]]] = []
    ancestors: dict[int, str] = {}
    # Holding on to what was seen keeps its ids from being used twice.
    seen: dict[int, object] = {}
    path, part = "value", value
    while True:
        if id(part) in ancestors:
            return cannot_store(path, f"refers back to {shortened(ancestors[id(part)])}")
        if len(unfinished) > DEPTH_PROMISED:
            return cannot_store(
                path, f"is nested too deeply; up to {DEPTH_PROMISED} levels are sure to fit"
            )
        if id(part) not in seen:
            seen[id(part)] = part
            try:
                parts = iter(parts_of(part))
            except Exception as exc:  # a tzinfo of the application may raise anything
                return cannot_store(path, str(exc) or f"raises {type(exc).__name__}")
            unfinished.append((part, path, parts))
            ancestors[id(part)] = path
        following = None
        while following is None:
            if not unfinished:
                return None
            whole, path, parts = unfinished[-1]
            following = next(parts, None)
            if following is None:
                unfinished.pop()
                del ancestors[id(whole)]
        (before, after), part = following
        path = before + path + after


def cannot_store(path: str, complaint: str) -> DataCloneError:
    """Return the error that says why the part at ``path`` cannot be stored."""
    return DataCloneError(f"{shortened(path)} cannot be stored: it {complaint}")


def shortened(text: str) -> str:
    """Return ``text``, without its middle if it is too long for a message."""
    if len(text) <= _SHOWN_MAX:
        return text
    half = _SHOWN_MAX // 2
    return f"{text[:half]} … {text[-half:]}"


def item(index: int) -> Step:
    """Return the step to an element of a sequence."""
    return "", f"[{index}]"


def element(index: int) -> Step:
    """Return the step to a key, or to an element of a set, which have no index of their own."""
    return "list(", f")[{index}]"


def entry(key: object) -> Step:
    """Return the step to what a dict holds under ``key``."""
    if type(key) is str:
        return "", f"[{json.dumps(key, ensure_ascii=False)}]"
    try:
        return "", f"[{key!r}]"
    except Exception:  # the repr of an application's class may raise anything
        return "", f"[<{type(key).__name__}>]"


def keys_and_entries(whole: dict[object, object]) -> Parts:
    """Yield the parts of a dict: first every key, then what it holds under each."""
    for index, key in enumerate(whole):
        yield element(index), key
    for key, part in whole.items():
        yield entry(key), part


def check_text(text: str) -> None:
    """Refuse text that holds half a surrogate pair: it is not Unicode and has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise RefusedError(
            f"contains the lone surrogate U+{ord(text[exc.start]):04X} at index {exc.start}, "
            "which UTF-8 cannot encode"
        ) from None


def description(part: object) -> str:
    """Return a complaint's beginning that names the type of ``part``."""
    if isinstance(part, Awaitable):
        raise RefusedError(NOT_AWAITED)
    kind = type(part)
    return f"is of the type {kind.__module__}.{kind.__qualname__}"


def unreadable(serializer: str, reason: object) -> DataCloneError:
    """Return the error for bytes that ``serializer`` cannot have written."""
    return DataCloneError(
        f"stored bytes are not a value that {serializer} wrote: {shortened(str(reason))}. They are "
        "damaged, or were written by something else"
    )
