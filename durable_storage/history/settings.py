"""What an application chooses about point-in-time recovery."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, final

from ..errors import ArgumentTypeError, ArgumentValueError

__all__ = ["History"]

SEGMENT_SIZE_MIN_BYTES: Final = 4096


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Settings of the commit log that point-in-time recovery reads.

    Raises:
        ArgumentTypeError: a field has the wrong type.
        ArgumentValueError: ``retention`` is not positive, or a segment would hold less than 4096
            bytes.
    """

    retention: timedelta = timedelta(days=30)
    """How far back every moment stays restorable. At most an eighth more is kept."""
    enabled: bool = True
    """Without history nothing is logged, and bookmarks are refused."""
    segment_size_bytes: int = 8 * 1024**2
    """The size at which a file of the log is finished and the next one begun."""

    def __post_init__(self) -> None:
        _check("retention", self.retention, timedelta)
        _check("enabled", self.enabled, bool)
        _check("segment_size_bytes", self.segment_size_bytes, int)
        if self.retention <= timedelta(0):
            raise ArgumentValueError(f"History(retention=) must be positive, got {self.retention}")
        if self.segment_size_bytes < SEGMENT_SIZE_MIN_BYTES:
            raise ArgumentValueError(
                f"History(segment_size_bytes=) must be at least {SEGMENT_SIZE_MIN_BYTES}, "
                f"got {self.segment_size_bytes}"
            )

    @property
    def retention_ms(self) -> int:
        """``retention`` in whole milliseconds, at least one."""
        return max(1, self.retention // timedelta(milliseconds=1))


def _check(field: str, value: object, kind: type) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ArgumentTypeError(
            f"History({field}=) takes a {kind.__name__}, got {type(value).__name__}"
        )
