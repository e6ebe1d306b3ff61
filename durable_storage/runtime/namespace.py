"""Namespaces, and the stubs through which their objects are called."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from threading import get_ident
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast, final

from ..errors import ArgumentTypeError, ArgumentValueError
from ..gates.event import EVENT, Frame, drive
from ..gates.loop import RETURNED
from ..gates.ready import Failed, awaited
from ..ids import (
    DurableObjectId,
    Jurisdiction,
    LocationHint,
    check_jurisdiction,
    check_location_hint,
    id_from_name,
    id_from_string,
    new_unique_id,
)
from ..object import DurableObject
from .registry import NamespaceRecord
from .resident import TICKS, Evicted

if TYPE_CHECKING:
    from .resident import Resident
    from .runtime import Runtime

__all__ = ["DurableObjectNamespace", "Stub"]

O = TypeVar("O", bound=DurableObject)  # noqa: E741 - the object's class


@final
class DurableObjectNamespace(Generic[O]):
    """The objects of one class. ``Runtime.namespace()`` makes it.

    Attributes:
        name: what the runtime calls it.
        cls: the class of its objects.
    """

    def __init__(
        self,
        runtime: Runtime,
        cls: type[O],
        record: NamespaceRecord,
        residents: dict[str, Resident],
        jurisdiction: Jurisdiction | None = None,
        whole: DurableObjectNamespace[O] | None = None,
    ) -> None:
        self._runtime = runtime
        self.cls = cls
        # That of a jurisdiction follows the whole one, whose record changes with the directory.
        self._whole = whole or self
        self._own_record = record
        self._residents = residents
        self._jurisdiction: Jurisdiction | None = jurisdiction

    @property
    def record(self) -> NamespaceRecord:
        """What the registry knows of it."""
        return self._whole._own_record

    @record.setter
    def record(self, record: NamespaceRecord) -> None:
        self._whole._own_record = record

    @property
    def name(self) -> str:
        """What the runtime calls it."""
        return self.record.name

    def __repr__(self) -> str:
        return f"<DurableObjectNamespace {self.name} of {self.cls.__name__}>"

    def id_from_name(self, name: str) -> DurableObjectId:
        """The id of the object called ``name``; always the same."""
        return id_from_name(self.record.unique_key, name, self._jurisdiction)

    def id_from_string(self, hex: str) -> DurableObjectId:
        """The id that ``str(id)`` wrote.

        Raises:
            ArgumentValueError: not 64 hex digits, or the id of another namespace.
        """
        return id_from_string(self.record.unique_key, hex, self._jurisdiction)

    def new_unique_id(self, *, jurisdiction: Jurisdiction | None = None) -> DurableObjectId:
        """The id of an object that does not exist yet.

        Raises:
            ArgumentValueError: there is no such jurisdiction, or this is the sub-namespace of
                another.
        """
        own = self._jurisdiction
        if jurisdiction is None:
            jurisdiction = own
        elif check_jurisdiction(jurisdiction) != own and own is not None:
            raise ArgumentValueError(
                f"new_unique_id(jurisdiction={jurisdiction!r}) of the sub-namespace of {own!r}; "
                "call it on the whole namespace, or leave the jurisdiction out"
            )
        return new_unique_id(self.record.unique_key, jurisdiction)

    def get(self, id: DurableObjectId, *, location_hint: LocationHint | None = None) -> O:
        """The stub of an object: its public methods become coroutine functions.

        Args:
            id: an id of this namespace.
            location_hint: recorded when the object is first made; it moves nothing here.
        """
        if not isinstance(id, DurableObjectId):
            raise ArgumentTypeError(
                f"get() takes a DurableObjectId, got {type(id).__name__}; for a name use "
                "get_by_name()"
            )
        check_location_hint(location_hint)
        id_from_string(self.record.unique_key, str(id), self._jurisdiction)
        return cast("O", Stub(self, id, location_hint))

    def get_by_name(self, name: str, *, location_hint: LocationHint | None = None) -> O:
        """The stub of the object called ``name``."""
        check_location_hint(location_hint)
        return cast("O", Stub(self, self.id_from_name(name), location_hint))

    def jurisdiction(self, name: Jurisdiction) -> DurableObjectNamespace[O]:
        """The sub-namespace of a jurisdiction: ids of its own, distinct from all others.

        Raises:
            ArgumentValueError: there is no such jurisdiction.
        """
        if check_jurisdiction(name) is None:
            raise ArgumentTypeError("jurisdiction() takes a str, got None")
        return DurableObjectNamespace(
            self._runtime, self.cls, self.record, self._residents, name, self._whole
        )

    async def list_ids(self) -> AsyncIterator[DurableObjectId]:
        """Every object that was ever used, in order of id."""
        for number, record in enumerate(self._runtime.registry.iterate_objects(self.record.number)):
            if not number % 64:
                await self._runtime.loop.give_way()
            if self._jurisdiction is None or record.jurisdiction == self._jurisdiction:
                yield DurableObjectId(
                    record.id,
                    name=record.name,
                    jurisdiction=cast("Jurisdiction | None", record.jurisdiction),
                )


_OWN = frozenset({"ctx", "env"})
# Any, because what is compared with it would else become one of unknown types.
_COROUTINE: Any = CoroutineType


@final
class Stub:
    """How an object is called from outside: every public method is a coroutine function."""

    def __init__(
        self,
        namespace: DurableObjectNamespace[Any],
        object_id: DurableObjectId,
        location_hint: LocationHint | None,
    ) -> None:
        self.__dict__["_stub"] = (namespace, object_id, location_hint)

    @property
    def id(self) -> DurableObjectId:
        """The object's id."""
        return cast("DurableObjectId", self.__dict__["_stub"][1])

    @property
    def name(self) -> str | None:
        """The name its id was made from."""
        return self.id.name

    def __repr__(self) -> str:
        namespace, object_id, _ = self.__dict__["_stub"]
        return f"<stub of {namespace.cls.__name__} {object_id.name or object_id!s}>"

    def __copy__(self) -> Stub:
        return self

    def __deepcopy__(self, memo: object) -> Stub:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a stub cannot be pickled; store its id or name, and ask a namespace for a stub of it"
        )

    def __setattr__(self, attribute: str, value: object) -> None:
        raise AttributeError(
            f"a stub has no settable attributes; set {attribute!r} inside a method of the object"
        )

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        namespace: DurableObjectNamespace[Any]
        namespace, object_id, hint = self.__dict__["_stub"]
        cls = namespace.cls
        if method.startswith("_") or method in _OWN:
            raise AttributeError(
                f"{cls.__name__}.{method} is not callable from outside: a stub has the object's "
                "public methods, .id and .name"
            )
        if not _is_method(cls, method):
            raise AttributeError(f"{cls.__name__} has no method {method!r}")
        call = _method(namespace, object_id, hint, method)
        self.__dict__[method] = call
        return call


def _is_method(cls: type, name: str) -> bool:
    # Not by getattr() alone: a class also answers for its metaclass, as type.mro does.
    if not any(name in vars(base) for base in cls.__mro__):
        return False
    found = getattr(cls, name)
    return callable(found) and not isinstance(found, type)


def _method(
    namespace: DurableObjectNamespace[Any],
    object_id: DurableObjectId,
    hint: LocationHint | None,
    method: str,
) -> Callable[..., Coroutine[Any, Any, Any]]:
    runtime = namespace._runtime  # pyright: ignore[reportPrivateUsage]
    residents = namespace._residents  # pyright: ignore[reportPrivateUsage]
    digits = str(object_id)
    loop = runtime.loop
    make = object.__new__
    ticks = TICKS
    # Bound once: looking a method up in each call costs more than calling it (5 % of a stub call).
    get_event, set_event = EVENT.get, EVENT.set
    known: Resident | None = None

    async def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal known
        if known is None or (life := known.life) is None:
            known = residents.get(digits)
            return await deliver(args, kwargs)
        root = life.root
        outer = get_event()
        if (
            loop.current is not None
            or root.child is not None
            or root.promised is not None
            or (
                outer is not None and not (outer.ended and (outer.life is life or outer.life.quiet))
            )
            or get_ident() != loop.thread_id
        ):
            return await deliver(args, kwargs)
        # A call from outside to an object that is awake and open: its first step is run here, and
        # most events end in it.
        known.used = ticks.now = tick = ticks.now + 1
        function = getattr(known.instance, method)
        coroutine = function(*args, **kwargs) if args or kwargs else function()
        if type(coroutine) is not _COROUTINE:
            # The instance has put something else in the place of its class's method.
            frame = Frame(life, root, None)
            return await life.resume(frame, drive(frame, awaited(coroutine)))
        # Frame(life, root, None), without the cost of a call (5 % of a stub call), and without the
        # tuple that one assignment of five would make (3 %).
        frame = make(Frame)
        frame.life = life
        frame.base = root
        frame.up = None
        frame.sections = None
        frame.ended = False
        step = loop.first_step
        loop.current = frame
        set_event(frame)
        try:
            yielded = step(coroutine)
        except BaseException as exc:
            loop.current = None
            loop.renew()
            set_event(None)
            return await life.resume(frame, Failed(exc))
        loop.current = None
        if yielded is not RETURNED:
            # What `step` is bound to waits for the coroutine now, and lives as long as this call.
            loop.renew()
            return await life.resume(frame, drive(frame, coroutine, yielded))
        result, loop.returned = loop.returned, None
        gate = life.gate
        if (
            life.pending
            or gate.confirmed < gate.withheld
            or root.waiters
            or root.critical_waiters
            or frame.sections is not None
            or life.broken is not None
        ):
            set_event(None)
            await life.answer(frame)
        else:
            # Instead of setting None, which costs a seventh of a call.
            frame.ended = True
            if not tick & 15:
                await loop.give_way(16)
        return result

    async def deliver(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loop.check_thread(f"a stub of {namespace.cls.__name__}")
        while True:
            resident = residents.get(digits)
            if resident is None or runtime.closing:
                resident = await runtime.open_object(namespace, object_id, hint)
            try:
                return await resident.deliver(
                    lambda instance: getattr(instance, method)(*args, **kwargs)
                )
            except Evicted:
                # It was idle while the caller waited for its own output gate.
                continue

    async def call_any(*args: Any, **kwargs: Any) -> Any:
        return await deliver(args, kwargs)

    # Elsewhere the result of the call itself may have to be awaited, or a scope be opened first.
    plain = inspect.iscoroutinefunction(getattr(namespace.cls, method)) and not loop.is_trio
    chosen: Callable[..., Coroutine[Any, Any, Any]] = call if plain else call_any
    chosen.__name__ = method
    chosen.__qualname__ = f"{namespace.cls.__name__}.{method}"
    for observer in runtime.observers:
        chosen = observer.call(namespace.cls.__name__, object_id, method, chosen)
    return chosen
