"""The documented limits, each of which an application may lower or raise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import final

from .errors import ArgumentTypeError, ArgumentValueError

__all__ = ["Limits"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one object. The defaults are those of Cloudflare's page "Durable Objects: Limits".

    SQLite's own compiled-in ceilings still apply when a field is raised above them.

    Raises:
        ArgumentTypeError: a field is not an ``int`` (or, for seconds, a number).
        ArgumentValueError: a field is not positive.
    """

    columns: int = 100
    """Columns of a table, an index, a result set, ORDER BY or GROUP BY."""
    parameters: int = 100
    """Bound parameters of a statement (the highest index)."""
    statement_size_max_bytes: int = 100_000
    """Length of the SQL text of one ``exec``, in UTF-8."""
    function_arguments: int = 32
    """Arguments of a function in SQL."""
    like_pattern_size_max_bytes: int = 50
    """Length of the pattern of LIKE and GLOB, in UTF-8."""
    value_size_max_bytes: int = 2_097_152
    """A string, a BLOB, a row; a key and its value together."""
    database_size_max_bytes: int = 10 * 1024**3
    """An object's database."""
    compound_select_terms: int = 5
    """SELECTs joined by UNION, INTERSECT and EXCEPT."""
    expression_depth: int = 100
    """Levels of an expression in SQL."""
    trigger_depth: int = 10
    """Triggers that set off each other."""
    keys_per_call: int = 128
    """Keys of one ``get()``, ``put()`` or ``delete()``."""
    legacy_key_size_max_bytes: int = 2048
    """A key, on the legacy backend."""
    legacy_value_size_max_bytes: int = 131_072
    """A value, on the legacy backend."""
    nesting_depth: int = 64
    """Critical sections and transactions inside each other."""
    critical_section_seconds: float = 30.0
    """How long ``block_concurrency_while()`` may last before the object is reset."""
    alarm_seconds: float = 900.0
    """How long one try of an alarm's handler may last before the object is reset."""
    queued_events: int = 10_000
    """Events that may wait for one object before new ones are refused."""
    queued_seconds: float = 60.0
    """How long the oldest waiting event may have waited before new ones are refused."""
    cache_size_max_bytes: int = 16 * 1024**2
    """Memory for the KV read cache of one object."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kinds = (int, float) if field.name.endswith("_seconds") else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ArgumentTypeError(
                    f"Limits({field.name}=) takes a positive number, got {type(value).__name__}"
                )
            if not value > 0:
                raise ArgumentValueError(f"Limits({field.name}=) must be positive, got {value!r}")
