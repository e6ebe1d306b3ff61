"""The options of ``list()``, checked once for every store."""

from __future__ import annotations

from ..errors import ArgumentTypeError, ArgumentValueError
from .kv_buffer import check_key, utf8_size

__all__ = ["check_range"]


def check_range(
    operation: str,
    start: str | None,
    start_after: str | None,
    end: str | None,
    prefix: str | None,
    limit: int | None,
) -> None:
    """Check the options of a listing.

    Raises:
        ArgumentTypeError: an option has the wrong type, or both starts are given.
        ArgumentValueError: the limit is not positive, or a bound has a lone surrogate.
    """
    if start is not None and start_after is not None:
        raise ArgumentTypeError(
            f"{operation} cannot be called with both start and start_after values."
        )
    for name, bound in (
        ("start", start),
        ("start_after", start_after),
        ("end", end),
        ("prefix", prefix),
    ):
        if bound is not None:
            utf8_size(check_key(bound, f"{operation} {name}="), name)
    if limit is not None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise ArgumentTypeError(
                f"{operation} takes an int as limit, got {type(limit).__name__}"
            )
        if limit <= 0:
            raise ArgumentValueError(f"List limit must be positive, got {limit}.")
