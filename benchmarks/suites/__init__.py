"""The suites by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from ..harness import Bench
from .durable import durable, new_objects
from .kv import async_kv, kv, listing
from .sql import sql, transactions
from .stubs import stubs

SUITES: Mapping[str, Callable[[Bench], Awaitable[None]]] = {
    "kv": kv,
    "async-kv": async_kv,
    "list": listing,
    "sql": sql,
    "transactions": transactions,
    "stubs": stubs,
    "durable": durable,
    "new-objects": new_objects,
}
