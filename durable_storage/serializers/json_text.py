"""JSON, for data that other programs read."""

from __future__ import annotations

import json
import math
from typing import Any, cast, final

from .refusal import (
    DEPTH_PROMISED,
    Parts,
    RefusedError,
    cannot_store,
    check_text,
    description,
    entry,
    item,
    keys_and_entries,
    refusal,
    unreadable,
)

__all__ = ["JsonSerializer"]

_JSON_INT_BITS_MAX = 14_000
"""Python reads and writes integers of up to 4300 decimal digits."""


_LEAF_TYPES = frozenset({bool, int, float, str})


@final
class JsonSerializer:
    """JSON text, for data that other programs read.

    It stores what JSON can give back as it was: ``None``, ``bool``, ``int``, finite ``float``,
    ``str``, ``list``, and ``dict`` with keys of ``str``. Everything else is refused, where the
    module ``json`` would quietly write something else: tuples, other keys, ``nan``, subclasses.
    """

    @property
    def name(self) -> str:
        """The name recorded in each object."""
        return "json"

    def __init__(self) -> None:
        self._encode = json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode
        self._decode = json.JSONDecoder(parse_constant=_no_constant).decode

    def __repr__(self) -> str:
        return "JsonSerializer()"

    def dumps(self, value: object, /) -> bytes:
        """Return ``value`` as JSON in UTF-8.

        Raises:
            DataCloneError: JSON does not have the type of a part of it.
        """
        try:
            data = self._encode(value).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            error = refusal(value, _parts_of) or cannot_store("value", f"is refused: {exc}")
            raise error from exc
        if not _comes_back(value):
            raise refusal(value, _parts_of) or cannot_store("value", "would change its type")
        return data

    def loads(self, data: bytes, /) -> Any:
        """Return the value that ``dumps`` made into ``data``.

        Raises:
            DataCloneError: the bytes are not JSON in UTF-8.
        """
        try:
            return self._decode(str(data, "utf-8"))
        except (ValueError, RecursionError) as exc:
            raise unreadable("JsonSerializer", exc) from exc


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _comes_back(value: object) -> bool:
    """Return whether JSON gives ``value`` back as it was; it is known not to be cyclic."""
    level = [value]
    for _ in range(DEPTH_PROMISED + 1):
        if not level:
            return True
        parts: list[object] = []
        for part in level:
            kind = type(part)
            if kind is list:
                parts += cast(list[object], part)
            elif kind is dict:
                whole = cast(dict[object, object], part)
                for key in whole:
                    if type(key) is not str:
                        return False
                parts += whole.values()
            elif part is not None and kind not in _LEAF_TYPES:
                return False
        level = parts
    return not level


def _parts_of(value: object) -> Parts:
    kind = type(value)
    if kind is str:
        check_text(cast(str, value))
    elif kind is list:
        return ((item(index), part) for index, part in enumerate(cast(list[object], value)))
    elif kind is dict:
        whole = cast(dict[object, object], value)
        for index, key in enumerate(whole):
            if type(key) is not str:
                raise RefusedError(
                    f"has the key {entry(key)[1][1:-1]} of the type {type(key).__name__} at "
                    f"position {index}; the keys of JSON are str"
                )
        return keys_and_entries(whole)
    elif kind is float:
        if not math.isfinite(cast(float, value)):
            raise RefusedError(f"is {value!r}, which JSON does not have")
    elif kind is int:
        if cast(int, value).bit_length() > _JSON_INT_BITS_MAX:
            raise RefusedError(f"is an int of more than {_JSON_INT_BITS_MAX} bits")
    elif value is not None and kind is not bool:
        raise RefusedError(
            f"{description(value)}, which JSON does not have; MsgpackSerializer stores more types"
        )
    return ()
