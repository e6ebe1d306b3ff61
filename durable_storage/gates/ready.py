"""What eager operations return: an awaitable that is already done, or one that must wait."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Generator, Iterator
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, cast, final

from ..errors import ArgumentTypeError
from .loop import Loop, Signal

__all__ = ["READY", "Eager", "Failed", "Later", "Ready", "awaited", "uncalled"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Eager(Protocol[T_co]):
    """The result of an operation that was carried out by the call; may be awaited or dropped."""

    def __await__(self) -> Generator[Any, Any, T_co]: ...


_NOT_AWAITED = (
    "the result of a storage operation was used before it was awaited; write "
    "`await ctx.storage.get(...)`, or use ctx.storage.kv, which needs no await"
)


class _Awaitable:
    """Says what to do to code that uses a result and has forgotten to await it.

    Such code would otherwise go on with an object that is true, is equal to nothing and can be
    pickled. Type checkers are not told of it: to them a result can only be awaited.
    """

    __slots__ = ()

    if not TYPE_CHECKING:

        def __repr__(self) -> str:
            return "<result of a storage operation, not awaited>"

        def __eq__(self, other: object) -> bool:
            return True if self is other else self._used(other)

        __hash__ = object.__hash__

        def _used(self, *_: object) -> NoReturn:
            raise ArgumentTypeError(_NOT_AWAITED)

        __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = _used
        __lt__ = __le__ = __gt__ = __ge__ = _used
        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _used
        __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _used
        __or__ = __ror__ = __and__ = __rand__ = __neg__ = _used
        __int__ = __float__ = __index__ = __format__ = __reduce_ex__ = _used


@final
class Ready(_Awaitable, Generic[T]):
    """A finished result. Awaiting it does not suspend."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value: T = value

    def __await__(self) -> Generator[Any, Any, T]:
        return self.value
        yield


@final
class Failed(_Awaitable):
    """A finished failure. Awaiting it raises, and does not suspend."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        raise self._error
        yield


class _ReadyNone(_Awaitable):
    __slots__ = ()
    _exhausted: Iterator[Any] = iter(())

    def __await__(self) -> Iterator[Any]:
        # An exhausted iterator makes `await` give None without building a generator.
        return self._exhausted


async def awaited(result: Any) -> Any:
    """What a callback gave: itself, or what awaiting it gives."""
    if type(result) is CoroutineType or inspect.isawaitable(result):
        return cast("Any", await result)
    return result


def uncalled(callback: object) -> str:
    """What to add to the refusal of a callback, when it is what calling it gave."""
    if isinstance(callback, Coroutine):
        callback.close()
        return "; pass the function itself, without calling it"
    return ""


READY: Eager[None] = cast("Eager[None]", _ReadyNone())


@final
class Pending(_Awaitable, Generic[T]):
    """A result that is waited for when it is awaited, each time anew."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait().__await__()


@final
class Later(_Awaitable, Generic[T]):
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


# What Python itself says of a result that was not awaited has this name in it. A `__getattr__`
# would say more, and would make every access to a slot slower.
for _kind in (Ready, Failed, _ReadyNone, Pending, Later):
    _kind.__name__ = "storage result that was not awaited"
