"""The suites by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from ..harness import Bench
from . import durable, growth, history, hold, kv, memory, sql, stubs

SUITES: Mapping[str, Callable[[Bench], Awaitable[None]]] = {
    "kv": kv.kv,
    "async-kv": kv.async_kv,
    "list": kv.listing,
    "sql": sql.sql,
    "transactions": sql.transactions,
    "stubs": stubs.stubs,
    "durable": durable.durable,
    "new-objects": durable.new_objects,
    "history": history.history,
    "restore": history.restore,
    "memory": memory.memory,
    "capacity": memory.capacity,
    "growth": growth.growth,
    "hold": hold.hold,
}
