"""Doing the next steps of long work in threads while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Final, TypeVar

__all__ = ["ahead"]

# Each holds one piece of work in memory.
WORKERS: Final = 2

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield the results of a function that releases the interpreter's lock, in order.

    A few are computed ahead. A single one is computed here and now.
    """
    rest = iter(items)
    first = list(zip(range(2), rest, strict=False))
    if len(first) < 2:
        for _, item in first:
            yield function(item)
        return
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            for item in chain((item for _, item in first), rest):
                pending.append(pool.submit(function, item))
                if len(pending) > WORKERS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
