"""Values as a Python Worker sees them: what JavaScript's objects, maps and arrays become."""

from __future__ import annotations

import datetime
import inspect
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast, final

from ..errors import ArgumentTypeError
from ..gates.ready import Eager

__all__ = ["JsArray", "JsDict", "JsMap", "from_js", "milliseconds", "options_of", "to_js"]

T = TypeVar("T")
U = TypeVar("U")


class JsDict(dict[str, Any]):
    """A ``dict`` whose keys are attributes too: ``row["name"]`` and ``row.name``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def to_py(self, **_options: object) -> JsDict:
        """Return the same value: it is a Python object already."""
        return self


class JsMap(JsDict):
    """What ``get([...])`` and ``list()`` give: a `JsDict` in key order, like a ``Map``."""

    @property
    def size(self) -> int:
        """How many entries there are."""
        return len(self)

    def has(self, key: str) -> bool:
        """Whether there is an entry for ``key``."""
        return key in self

    def entries(self) -> Iterator[list[Any]]:
        """The entries as lists of key and value."""
        return ([key, value] for key, value in self.items())


class JsArray(list[Any]):
    """A ``list`` that also answers to ``length`` and ``to_py()``."""

    @property
    def length(self) -> int:
        """How many elements there are."""
        return len(self)

    def to_py(self, **_options: object) -> JsArray:
        """Return the same value: it is a Python object already."""
        return self


def to_js(value: Any, *, tuples: bool = False) -> Any:
    """A copy of ``value`` as it arrives behind a call to the runtime or to another object.

    Args:
        value: what is sent; objects that are neither containers nor times pass as they are.
        tuples: make tuples into lists, as ``pyodide.ffi.to_js`` does, instead of refusing them.

    Raises:
        ArgumentTypeError: it holds a tuple, a ``bytearray`` or something awaitable.
    """
    if isinstance(value, dict):
        pairs = cast("dict[object, Any]", value)
        return {
            key if isinstance(key, str) else _key(key): to_js(each, tuples=tuples)
            for key, each in pairs.items()
        }
    if isinstance(value, list) or (tuples and isinstance(value, tuple)):
        return [to_js(each, tuples=tuples) for each in cast("list[Any]", value)]
    if isinstance(value, (set, frozenset)):
        return {to_js(each, tuples=tuples) for each in cast("set[Any]", value)}
    if isinstance(value, datetime.datetime):
        # A Date is a moment in milliseconds; a naive datetime is local time.
        return datetime.datetime.fromtimestamp(
            math.floor(value.timestamp() * 1000) / 1000, tz=datetime.UTC
        )
    if isinstance(value, memoryview):
        return cast("memoryview[int]", value).tobytes()
    if isinstance(value, (tuple, bytearray)):
        raise ArgumentTypeError(f"{type(cast('object', value))} cannot be sent over RPC.")
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise ArgumentTypeError(f"Awaitable {type(value)} cannot be sent over RPC.")
    return value


def from_js(value: Any) -> Any:
    """What the receiver of ``to_js(value)`` sees: objects as `JsDict`, dates as local times."""
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return JsDict({key: from_js(each) for key, each in pairs.items()})
    if isinstance(value, list):
        return JsArray([from_js(each) for each in cast("Iterable[Any]", value)])
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return datetime.datetime.fromtimestamp(value.timestamp())
    return value


def _key(key: object) -> str:
    if key is None:
        return "null"
    return str(key).lower() if isinstance(key, bool) else str(key)


def milliseconds(when: object, operation: str) -> int:
    """Milliseconds since the epoch of a ``datetime`` (naive: local time), a ``Date`` or a number.

    Raises:
        ArgumentTypeError: it is none of them.
    """
    if isinstance(when, datetime.datetime):
        return math.floor(when.timestamp() * 1000)
    get_time = getattr(when, "getTime", None)
    number = get_time() if callable(get_time) else when
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ArgumentTypeError(
            f"{operation} takes a datetime or a number of milliseconds since the epoch, got "
            f"{type(when).__name__}"
        )
    if not math.isfinite(number):
        raise ArgumentTypeError("The value cannot be converted because it is not a valid Date.")
    return int(number)


_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_UNDERSCORE = re.compile(r"_([a-z0-9])")


def options_of(given: object, more: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """The keyword arguments that an options object means; unknown names are ignored, as there.

    Args:
        given: the positional options object, or None.
        more: options given as keywords.
        known: the names, in snake_case, that the operation takes.
    """
    if given is None:
        pairs: dict[str, Any] = {}
    elif isinstance(given, Mapping):
        pairs = {str(key): value for key, value in cast("Mapping[object, Any]", given).items()}
    else:
        raise ArgumentTypeError(f"options are a dict, got {type(given).__name__}")
    pairs.update(more)
    named = {_CAPITAL.sub(r"_\1", key).lower(): value for key, value in pairs.items()}
    return {key: named[key] for key in known if named.get(key) is not None}


class Named:
    """Makes every camelCase name of a class answer to its snake_case spelling too."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        camel = _UNDERSCORE.sub(lambda found: found[1].upper(), name)
        if name.startswith("_") or camel == name or not hasattr(type(self), camel):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self, camel)


@final
class Mapped(Generic[T]):
    """The awaitable of an operation that is done, with its result translated."""

    __slots__ = ("_awaitable", "_translate")

    def __init__(self, awaitable: Eager[U], translate: Callable[[U], T]) -> None:
        self._awaitable: Eager[Any] = awaitable
        self._translate: Callable[[Any], T] = translate

    def __await__(self) -> Generator[Any, Any, T]:
        return self._translate((yield from self._awaitable.__await__()))
