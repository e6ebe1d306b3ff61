"""What eager operations return: an awaitable that is already done, or one that must wait."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterator
from types import CoroutineType
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast, final

from .loop import Loop, Signal

__all__ = ["READY", "Eager", "Failed", "Later", "Ready", "awaited"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Eager(Protocol[T_co]):
    """The result of an operation that was carried out by the call; may be awaited or dropped."""

    def __await__(self) -> Generator[Any, Any, T_co]: ...


@final
class Ready(Generic[T]):
    """A finished result. Awaiting it does not suspend."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, Any, T]:
        return self._value
        yield


@final
class Failed:
    """A finished failure. Awaiting it raises, and does not suspend."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        raise self._error
        yield


class _ReadyNone:
    __slots__ = ()
    _exhausted: Iterator[Any] = iter(())

    def __await__(self) -> Iterator[Any]:
        # An exhausted iterator makes `await` give None without building a generator.
        return self._exhausted


async def awaited(result: Any) -> Any:
    """What a callback gave: itself, or what awaiting it gives."""
    if type(result) is CoroutineType or isinstance(result, Awaitable):
        return cast("Any", await result)
    return result


READY: Eager[None] = cast("Eager[None]", _ReadyNone())


@final
class Later(Generic[T]):
    """The result of an operation that waits its turn behind a gate; done even if dropped."""

    __slots__ = ("_error", "_signal", "_value")

    def __init__(self, loop: Loop) -> None:
        self._signal: Signal = loop.signal()
        self._value: T | None = None
        self._error: BaseException | None = None

    def finish(self, value: T | None, error: BaseException | None) -> None:
        """Give the result, or what the operation failed with."""
        self._value = value
        self._error = error
        self._signal.set()

    def __await__(self) -> Generator[Any, Any, T]:
        if not self._signal.is_set():
            yield from self._signal.wait().__await__()
        if self._error is not None:
            raise self._error
        return cast("T", self._value)
