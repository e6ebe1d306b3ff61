"""Reaching into objects from a test: their instance, their alarm, their eviction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from ..errors import ArgumentTypeError, ConcurrencyError
from ..ids import DurableObjectId
from ..object import DurableObject
from ..runtime.namespace import DurableObjectNamespace, Stub
from ..runtime.runtime import Runtime
from ..state import DurableObjectState

__all__ = [
    "evict_all_durable_objects",
    "evict_durable_object",
    "list_durable_object_ids",
    "run_durable_object_alarm",
    "run_in_durable_object",
]

T = TypeVar("T")
O = TypeVar("O", bound=DurableObject)  # noqa: E741 - the object's class


def native(value: object) -> object:
    """What an object of `durable_storage.workers` stands for; anything else is itself."""
    return getattr(value, "_native", value)


def _parts(
    stub: object, operation: str
) -> tuple[Runtime, DurableObjectNamespace[Any], DurableObjectId]:
    stub = native(stub)
    if not isinstance(stub, Stub):
        raise ArgumentTypeError(f"{operation} takes a stub, got {type(stub).__name__}")
    namespace, object_id, _ = stub.__dict__["_stub"]
    return namespace._runtime, namespace, object_id


@overload
async def run_in_durable_object(
    stub: O, callback: Callable[[O, DurableObjectState], Awaitable[T]]
) -> T: ...
@overload
async def run_in_durable_object(stub: O, callback: Callable[[O, DurableObjectState], T]) -> T: ...
async def run_in_durable_object(stub: Any, callback: Callable[[Any, Any], Any]) -> Any:
    """Run ``callback(instance, state)`` as an event of the object and give its result.

    Args:
        stub: the object's stub.
        callback: sync or async.
    """
    if not callable(callback):
        raise ArgumentTypeError(
            f"run_in_durable_object() takes a callback, got {type(callback).__name__}"
        )
    runtime, namespace, object_id = _parts(stub, "run_in_durable_object()")
    resident = await runtime.open_object(namespace, object_id)
    return await resident.deliver(lambda instance: callback(instance, instance.ctx))


async def run_durable_object_alarm(stub: object) -> bool:
    """Run the object's alarm now, whenever it is due; False when none is set."""
    runtime, namespace, object_id = _parts(stub, "run_durable_object_alarm()")
    resident = await runtime.open_object(namespace, object_id)
    ran, _ = await resident.run_alarm(early=True)
    return ran


async def evict_durable_object(stub: object) -> None:
    """Close the object as if it had been idle: its instance goes, its storage stays.

    Raises:
        ConcurrencyError: an event of it is under way.
    """
    runtime, namespace, object_id = _parts(stub, "evict_durable_object()")
    if not await runtime.evict(namespace, object_id):
        raise ConcurrencyError(
            f"evict_durable_object(): an event of {namespace.cls.__name__} "
            f"{object_id.name or object_id!s} is under way; await it first"
        )


async def evict_all_durable_objects(runtime: Runtime) -> int:
    """Close every object that is idle; how many were."""
    if not isinstance(runtime, Runtime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(
            f"evict_all_durable_objects() takes a Runtime, got {type(runtime).__name__}"
        )
    return await runtime.evict_all()


async def list_durable_object_ids(
    namespace: DurableObjectNamespace[Any],
) -> list[DurableObjectId]:
    """The ids of every object of the namespace that was ever used."""
    known = native(namespace)
    if not isinstance(known, DurableObjectNamespace):
        raise ArgumentTypeError(
            f"list_durable_object_ids() takes a namespace, got {type(namespace).__name__}"
        )
    return [each async for each in known.list_ids()]
