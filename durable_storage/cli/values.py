"""Stored values, times and sizes as a terminal or JSON shows them."""

from __future__ import annotations

import base64
import datetime
import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, cast

from ..errors import DataCloneError
from ..serializers import JsonSerializer, MsgpackSerializer, Serializer
from .failures import WrongUse

__all__ = [
    "Decoder",
    "Undecoded",
    "as_json",
    "as_text",
    "counted",
    "milliseconds",
    "parse_moment",
    "printable",
    "size",
    "time_text",
]

SHOWN_CHARACTERS: Final = 100
_BOOKMARK: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{32}")
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_SECONDS_MAX: Final = 100_000_000_000


class Undecoded:
    """A stored value that is not decoded, and why."""

    def __init__(self, data: bytes, reason: str) -> None:
        self.data = data
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{len(self.data)} bytes, {self.reason}>"


class Decoder:
    """Decodes values as the serializer that wrote them would, short of running code.

    Args:
        serializer: the name that the object's metadata gives.
    """

    def __init__(self, serializer: str) -> None:
        self._name = serializer
        known: tuple[Serializer, ...] = (MsgpackSerializer(), JsonSerializer())
        self._serializer = next((each for each in known if each.name == serializer), None)

    @property
    def known(self) -> bool:
        """Whether values can be decoded."""
        return self._serializer is not None

    def decode(self, stored: object) -> object:
        """The value that the key-value table holds as ``stored``."""
        if not isinstance(stored, bytes):
            return stored
        if self._serializer is None:
            reason = (
                "a pickle, which is not loaded because that runs code"
                if self._name == "pickle"
                else f"written by the serializer {self._name!r}"
            )
            return Undecoded(stored, reason)
        try:
            return cast("object", self._serializer.loads(stored))
        except DataCloneError as exc:
            return Undecoded(stored, f"which {self._name} cannot decode: {exc}")


def printable(text: str) -> str:
    """``text`` with what would move a terminal's cursor, or worse, written as escapes."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def as_text(value: object) -> str:
    """A value as one line of limited length."""
    text = printable(repr(value))
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters)"


def as_json(value: object) -> Any:
    """A value as JSON can hold it; what it has no form for becomes an object of one key."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Undecoded):
        return {"$undecoded": value.reason, "$bytes": base64.b64encode(value.data).decode()}
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return {"$time": value.isoformat()}
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value)
        if all(isinstance(key, str) for key in pairs):
            return {cast("str", key): as_json(each) for key, each in pairs.items()}
        return {"$pairs": [[as_json(key), as_json(each)] for key, each in pairs.items()]}
    if isinstance(value, AbstractSet):
        return {"$set": [as_json(each) for each in cast("AbstractSet[object]", value)]}
    if isinstance(value, Sequence):
        return [as_json(each) for each in cast("Sequence[object]", value)]
    return {"$repr": repr(value)}


def size(count: int) -> str:
    """A number of bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{int(amount)} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def counted(number: int, one: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def time_text(time_ms: int | None) -> str:
    """A time in UTC, empty for none."""
    if time_ms is None:
        return ""
    try:
        when = _EPOCH + datetime.timedelta(milliseconds=time_ms)
    except OverflowError:
        return f"{time_ms} ms"
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(when: datetime.datetime) -> int:
    """Milliseconds since the epoch."""
    return math.floor((when - _EPOCH) / datetime.timedelta(milliseconds=1))


def parse_moment(text: str) -> str | int:
    """A bookmark as it is, or a time as milliseconds since the epoch.

    Raises:
        WrongUse: it is neither.
    """
    if _BOOKMARK.fullmatch(text):
        return text
    if text.isascii() and text.isdigit():
        if int(text) < _SECONDS_MAX:
            raise WrongUse(
                f"{text} can only be seconds; give milliseconds since the epoch, or a time such as "
                "2026-01-31T12:00:00Z"
            )
        return int(text)
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise WrongUse(
            f"{text!r} is neither a bookmark nor a time; a bookmark is one that `history` lists, "
            "and a time is written as 2026-01-31T12:00:00Z"
        ) from None
    if when.tzinfo is None:
        raise WrongUse(
            f"the time {text!r} names no time zone; write {when.isoformat()}Z for UTC, or an "
            "offset such as +02:00"
        )
    return milliseconds(when)
