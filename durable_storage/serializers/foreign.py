"""A serializer of the application's own, held to what storage asks of one."""

from __future__ import annotations

from typing import Any, cast, final

from ..errors import DataCloneError
from .json_text import JsonSerializer
from .messagepack import MsgpackSerializer
from .pickles import PickleSerializer
from .protocol import Serializer
from .refusal import cannot_store, unreadable

__all__ = ["checked"]


def checked(serializer: Serializer) -> Serializer:
    """Return ``serializer``, or what stands before it when its word cannot be taken."""
    if isinstance(serializer, (MsgpackSerializer, JsonSerializer, PickleSerializer)):
        return serializer
    return _Foreign(serializer)


@final
class _Foreign:
    """Whatever goes wrong in the application's serializer is a value that cannot be stored."""

    __slots__ = ("_dumps", "_loads", "name")

    def __init__(self, serializer: Serializer) -> None:
        self.name: str = serializer.name
        self._dumps = serializer.dumps
        self._loads = serializer.loads

    def dumps(self, value: object, /) -> bytes:
        try:
            data = cast("object", self._dumps(value))
        except DataCloneError:
            raise
        except Exception as exc:
            raise cannot_store(
                "value", f"was refused by the serializer {self.name!r}: {exc}"
            ) from exc
        if isinstance(data, bytes):
            return data
        if isinstance(data, bytearray):
            return bytes(data)
        raise cannot_store(
            "value",
            f"became {type(data).__name__} and not bytes in the serializer {self.name!r}",
        )

    def loads(self, data: bytes, /) -> Any:
        try:
            return self._loads(data)
        except DataCloneError:
            raise
        except Exception as exc:
            raise unreadable(self.name, exc) from exc
