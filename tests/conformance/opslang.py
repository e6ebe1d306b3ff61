"""The language of the recorded vectors: values, outcomes, and when two outcomes agree.

A recording holds JSON with ``$``-marked objects for what JSON lacks. ``decode`` turns it into
Python values, once for arguments and once (``expected=True``) for results; comparing is then
a comparison of Python values, with the rules of the language: one kind of number, mappings
that ignore the order of keys unless they were a ``Map``, sets without order, and "nothing" for
``undefined``.

What only JavaScript has is stored as a stand-in, a tuple that starts with the kind, so that the
rest of a case still shows that values come back as they went in.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from durable_storage import (
    DataCloneError,
    DurableStorageError,
    LimitExceededError,
    ObjectResetError,
    SqlError,
    TransactionError,
)

Json = Any
Outcome = dict[str, Any]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Undefined:
    """JavaScript's ``undefined``: a missing key, or no result."""

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = Undefined()


class Unsupported(Exception):
    """The recording uses a word that this interpreter does not know."""


class Instance:
    """An object of a class of the application, which no serializer knows."""

    def __init__(self) -> None:
        self.x = 1
        self.y = "two"


@dataclass(frozen=True)
class LongString:
    """A long string of a result: only its measures are recorded."""

    utf16_length: int
    utf8_length: int
    sha256: str

    def matches(self, got: object) -> bool:
        if not isinstance(got, str):
            return False
        data = got.encode("utf-8", "surrogatepass")
        return (
            len(data) == self.utf8_length
            and len(got.encode("utf-16-le", "surrogatepass")) // 2 == self.utf16_length
            and hashlib.sha256(data).hexdigest() == self.sha256
        )


@dataclass(frozen=True)
class LongBytes:
    """A long byte string of a result: only its measures are recorded."""

    length: int
    sha256: str

    def matches(self, got: object) -> bool:
        return (
            isinstance(got, bytes)
            and len(got) == self.length
            and hashlib.sha256(got).hexdigest() == self.sha256
        )


class NearNow:
    """A time within a few seconds of the clock."""

    def __repr__(self) -> str:
        return "near now"


NEAR_NOW: Final = NearNow()


class OrderedMap(dict[Any, Any]):
    """A mapping of a result in which the order of keys counts."""


class BigInt(int):
    """An integer of a result that has to come back exactly."""


class UseResults(list[Outcome]):
    """One outcome for each thing done with a cursor or an iterator."""


# --- values -------------------------------------------------------------------------------


def date_from_ms(ms: object) -> object:
    """Return an aware datetime, or a stand-in for a date that Python cannot express."""
    if isinstance(ms, int | float):
        try:
            return EPOCH + timedelta(milliseconds=ms)
        except OverflowError:
            pass
    return ("date", ms)


def ms_from_date(when: datetime) -> int:
    return (when - EPOCH) // timedelta(milliseconds=1)


def frozen(value: object) -> Any:
    """Return ``value`` as something that can be a key, for what JavaScript allows as one."""
    if isinstance(value, Mapping):
        return ("object", tuple((key, frozen(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("array", tuple(frozen(item) for item in value))
    if isinstance(value, set):
        return frozenset(value)
    return None if value is UNDEFINED else value


class _Decoder:
    def __init__(self, base_ms: int, expected: bool) -> None:
        self.base_ms = base_ms
        self.expected = expected
        self.marks: dict[str, Callable[[Any, list[Any]], Any]] = {
            "$bytes": lambda v, _: base64.b64decode(v),
            "$bytesRepeat": lambda v, _: bytes([v[0]]) * v[1],
            "$subview": lambda v, _: base64.b64decode(v["base64"])[v["from"] : v["to"]],
            "$typed": lambda v, _: base64.b64decode(v["base64"]),
            "$date": lambda v, _: date_from_ms(v),
            "$now": lambda v, _: self.base_ms + v,
            "$nowDate": lambda v, _: date_from_ms(self.base_ms + v),
            "$nearNow": lambda v, _: NEAR_NOW,
            "$map": self._map,
            "$set": lambda v, path: {frozen(self.decode(item, path)) for item in v},
            "$bigint": lambda v, _: BigInt(v) if self.expected else int(v),
            "$undefined": lambda v, path: UNDEFINED if self.expected or not path else None,
            "$num": lambda v, _: float(v),
            "$hole": lambda v, path: None,
            "$cycle": lambda v, path: path[v],
            "$obj": lambda v, path: self._object(v, path),
            "$boxed": lambda v, path: self.decode(v, path),
            "$repeat": lambda v, _: v[0] * v[1],
            "$concat": lambda v, path: "".join(self.decode(item, path) for item in v),
            "$join": lambda v, _: v[0].join(_filled(v[1], n) for n in range(v[2], v[3])),
            "$list": self._list,
            "$dict": lambda v, path: {
                _filled(v["key"], n): self.decode(v["value"], path)
                for n in range(v["from"], v["to"])
            },
            "$spread": lambda v, path: self.decode(v, path),
            "$shared": lambda v, path: [self.decode(v, path)] * 2,
            "$regexp": lambda v, _: ("regexp", *v),
            "$error": lambda v, _: ("error", v.get("name"), v.get("message")),
            "$function": lambda v, _: lambda: None,
            "$symbol": lambda v, _: object(),
            "$promise": lambda v, _: object(),
            "$instance": lambda v, _: Instance(),
            "$longString": lambda v, _: LongString(v["utf16Length"], v["utf8Length"], v["sha256"]),
            "$longBytes": lambda v, _: LongBytes(v["length"], v["sha256"]),
        }

    def decode(self, value: Json, path: list[Any]) -> Any:
        if isinstance(value, list):
            items: list[Any] = []
            inside = [*path, items]
            for item in value:
                if isinstance(item, dict) and list(item) == ["$spread"]:
                    items.extend(self.decode(item, inside))
                else:
                    items.append(self.decode(item, inside))
            return items
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((mark, content),) = value.items()
            if mark in self.marks:
                return self.marks[mark](content, path)
            if mark.startswith("$"):
                raise Unsupported(f"encoding {mark}")
        return self._object(list(value.items()), path)

    def _object(self, pairs: Sequence[tuple[str, Json]], path: list[Any]) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        inside = [*path, result]
        for key, item in pairs:
            result[key] = self.decode(item, inside)
        return result

    def _map(self, pairs: Sequence[tuple[Json, Json]], path: list[Any]) -> dict[Any, Any]:
        result: dict[Any, Any] = OrderedMap() if self.expected else {}
        inside = [*path, result]
        for key, item in pairs:
            result[frozen(self.decode(key, inside))] = self.decode(item, inside)
        return result

    def _list(self, content: Mapping[str, Any], path: list[Any]) -> list[Any]:
        numbers = range(content["from"], content["to"])
        template = content.get("template")
        if template is None:
            return list(numbers)
        return [_filled(template, n) for n in numbers]


def _filled(template: Any, number: int) -> Any:
    """Return ``template`` with every ``{i}`` replaced, also inside lists and objects."""
    if isinstance(template, str):
        return template.replace("{i}", str(number))
    if isinstance(template, list):
        return [_filled(item, number) for item in template]
    if isinstance(template, dict):
        return {_filled(key, number): _filled(item, number) for key, item in template.items()}
    return template


def decode(value: Json, base_ms: int = 0, *, expected: bool = False) -> Any:
    """Return the Python value of a recorded one; ``base_ms`` is when the case started."""
    return _Decoder(base_ms, expected).decode(value, [])


def decode_arguments(arguments: Json, base_ms: int = 0) -> list[Any]:
    """Return the arguments of a step; a top-level ``undefined`` stays ``UNDEFINED``."""
    decoder = _Decoder(base_ms, expected=False)
    result: list[Any] = []
    for argument in arguments:
        if isinstance(argument, dict) and list(argument) == ["$spread"]:
            result.extend(decoder.decode(argument, []))
        else:
            result.append(decoder.decode(argument, []))
    return result


def same(expected: Any, got: Any, seen: frozenset[tuple[int, int]] = frozenset()) -> bool:
    """Tell whether a decoded expectation and a result are one value.

    ``undefined`` agrees with ``None``; ``None`` does not agree with a missing value. Numbers are
    equal as JavaScript's only kind of number, a double, except where a big integer is expected.
    """
    if expected is UNDEFINED:
        return got is None or got is UNDEFINED
    if isinstance(expected, LongString | LongBytes):
        return expected.matches(got)
    if expected is NEAR_NOW or expected is None:
        return got is expected
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, BigInt):
        return isinstance(got, int) and expected == got
    if isinstance(expected, int | float):
        return isinstance(got, int | float) and _same_number(expected, got)
    if isinstance(expected, datetime):
        return isinstance(got, datetime) and expected == got
    pair = (id(expected), id(got))
    if pair in seen:
        return True  # a cycle: both sides came back to where they were
    seen = seen | {pair}
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or len(expected) != len(got):
            return False
        if isinstance(expected, OrderedMap):
            return all(
                same(key, got_key, seen) and same(item, got_item, seen)
                for (key, item), (got_key, got_item) in zip(
                    expected.items(), got.items(), strict=True
                )
            )
        return all(key in got and same(item, got[key], seen) for key, item in expected.items())
    if isinstance(expected, list | tuple):
        return (
            isinstance(got, type(expected))
            and len(expected) == len(got)
            and all(same(a, b, seen) for a, b in zip(expected, got, strict=True))
        )
    if isinstance(expected, set | frozenset):
        return (
            isinstance(got, set | frozenset)
            and len(expected) == len(got)
            and all(any(same(a, b, seen) for b in got) for a in expected)
        )
    return type(expected) is type(got) and bool(expected == got)


def _same_number(expected: float, got: float) -> bool:
    try:
        a, b = float(expected), float(got)
    except OverflowError:
        return expected == got
    return a == b or (math.isnan(a) and math.isnan(b))


# --- errors -------------------------------------------------------------------------------

_SQLITE_MESSAGE = re.compile(
    r"^(?P<text>.*?)(?: at offset \d+)?: (?P<code>SQLITE_[A-Z]+)(?:_[A-Z_]+)?(?: \(extended: .*\))?$",
    re.DOTALL,
)

# Raised by a mistake in the interpreter or the library, never a proper answer.
_ACCIDENTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    NotImplementedError,
    RecursionError,
    Unsupported,
    sqlite3.Error,
)

# The original's local build has no history; ours answers, or refuses the bookmark itself.
_NO_PITR: Final = "does not implement point-in-time recovery"

_ARGUMENT = (TypeError, ValueError)

# Where the library speaks to a Python programmer, its own words are compared by the class of the
# error and the words that it must name: (the recorded message, the classes, what to mention).
_OWN_WORDS: Final[tuple[tuple[str, tuple[type[BaseException], ...], str], ...]] = (
    (r"doesn't support dates after 2189", _ARGUMENT, r"2189"),
    (r"^setAlarm\(\) cannot be called with an alarm time <= 0", _ARGUMENT, r"set_alarm|alarm"),
    (r"must have an alarm\(\) handler", (DurableStorageError,), r"alarm"),
    (r"not a valid Date", _ARGUMENT, r""),
    (r"^Application called abort\(\)", (ObjectResetError,), r""),
    (r"^Cannot call deleteAll\(\) within a transaction", (TransactionError,), r"delete_all"),
    (r"both start and startAfter", _ARGUMENT, r"start_after"),
    (r"^List limit must be positive", _ARGUMENT, r"limit"),
    (r"^put\(\) called with undefined value", (TypeError,), r""),
    (r"^put\(\) may only be called with", (TypeError,), r""),
    (r"new_sqlite_classes", (DurableStorageError,), r"new_sqlite_classes"),
    (r"not backed by SQL", (DurableStorageError,), r"new_sqlite_classes"),
    (r"transaction that has already committed", (TransactionError,), r"commit"),
    (r"on rolled back transaction", (TransactionError,), r"rolled back"),
    (r"^Cannot roll back an outer transaction", (TransactionError,), r"outer|nested|inner"),
    (r"nested too deeply", (DurableStorageError,), r"nest|deep"),
    (r"^kv\.list\(\) iterator was invalidated", (DurableStorageError,), r"list\(\)|iterator"),
    (r"^SQLite query was canceled", (DurableStorageError,), r"deleted"),
    (r"^Wrong number of parameter bindings", (DurableStorageError,), r"binding|parameter"),
    (r"only the last statement can have parameters", (DurableStorageError,), r"last statement"),
    (r"^SQL code did not contain a statement", (DurableStorageError,), r"statement"),
    (r"got no results", (DurableStorageError,), r"no (result|row)"),
    (r"got multiple results", (DurableStorageError,), r"multiple|more than one"),
    (r"^To execute a transaction, please use", (DurableStorageError,), r"transaction_sync"),
    (r"could not be cloned", (DataCloneError,), r""),
    (_NO_PITR, (DurableStorageError,), r""),
    (r"^(Values|Keys) cannot be larger", (LimitExceededError,), r""),
    (r"^Maximum number of (keys|pairs)", (LimitExceededError,), r"128"),
)


def parse_sqlite(message: str) -> tuple[str, str] | None:
    """Return text and primary code of a message that SQLite spoke, without its byte offset."""
    match = _SQLITE_MESSAGE.match(message)
    return (match["text"], match["code"]) if match else None


def same_error(expected: Mapping[str, Any], got: BaseException) -> bool:
    """Tell whether the library refused for the recorded reason.

    Texts of SQLite are compared with their primary code, texts of the case exactly, and the
    library's own words by class and key words. A reset tells its reason itself or by its cause.
    """
    if isinstance(got, _ACCIDENTS):
        return False
    if expected.get("messageLoose"):
        return True
    voices = [str(got)]
    if isinstance(got, ObjectResetError) and got.__cause__ is not None:
        voices.append(str(got.__cause__))
    message: str = expected.get("message", "")
    if message in voices:
        return True
    sqlite = expected.get("sqlite") or _as_sqlite(message)
    if sqlite is not None:
        return _same_sqlite_error(sqlite, got, voices)
    if isinstance(got, ObjectResetError) and any(message in voice for voice in voices):
        return True
    return any(
        re.search(pattern, message)
        and isinstance(got, classes)
        and re.search(mention, str(got), re.IGNORECASE)
        for pattern, classes, mention in _OWN_WORDS
    )


def _as_sqlite(message: str) -> dict[str, str] | None:
    parsed = parse_sqlite(message)
    return {"text": parsed[0], "code": parsed[1]} if parsed else None


def _same_sqlite_error(
    expected: Mapping[str, Any], got: BaseException, voices: Sequence[str]
) -> bool:
    if expected["code"] == "SQLITE_TOOBIG" and isinstance(got, LimitExceededError):
        return True
    for voice in voices:
        parsed = parse_sqlite(voice)
        if parsed == (expected["text"], expected["code"]):
            return True
    # A commit that fails resets the object: the reason follows the original's long sentence.
    if isinstance(got, ObjectResetError):
        reason = expected["text"].rpartition("violated: ")[2]
        return any(reason in voice for voice in voices)
    return isinstance(got, SqlError) and (
        str(got) == expected["text"] and _primary(got.sqlite_errorname) == expected["code"]
    )


def _primary(errorname: str | None) -> str | None:
    return "_".join(errorname.split("_")[:2]) if errorname else None


# --- outcomes -----------------------------------------------------------------------------

_LOCAL_BOOKMARK = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{32}$")
_COMMENT_AFTER_LAST = re.compile(r"\S\s*;\s*(--[^\n]*|/\*.*?\*/)\s*$", re.DOTALL)


def difference(
    step: Mapping[str, Any], expected: Mapping[str, Any], got: Outcome, base_ms: int
) -> str | None:
    """Return what differs between a recorded outcome and ours, or None when they agree.

    Where two versions of the original answered differently, either answer is accepted.
    """
    answers = [expected, *(variant["outcome"] for variant in expected.get("variants", ()))]
    differences = [_difference(step, answer, got, base_ms) for answer in answers]
    return None if None in differences else differences[0]


def _difference(
    step: Mapping[str, Any], expected: Mapping[str, Any], got: Outcome, base_ms: int
) -> str | None:
    if expected.get("pending"):
        return None if "error" not in got else "the step had not been finished"
    for mark in ("eventError", "error"):
        if mark in expected:
            error = got.get("eventError") or got.get("error")
            if mark == "eventError" and "eventError" not in got:
                return "the event had died here"
            if error is None:
                return None if _accepted_success(step, expected[mark], got) else "no error"
            if not same_error(expected[mark], error):
                return "another error"
            break
    else:
        if "error" in got or "eventError" in got:
            if step.get("op") == "getCurrentBookmark" and "new_sqlite_classes" in show(got):
                return None  # the legacy backend has no bookmarks at all
            return "an error"
        if "value" in expected:
            if got.get("pending") and "value" not in got:
                return "the step was never finished"
            found = _value_difference(step, expected["value"], got.get("value"), base_ms)
            if found is not None:
                return found
    dead = "eventError" in got
    for part, steps in (
        ("steps", step.get("steps", ())),
        ("afterAwait", step.get("afterAwait", ())),
        ("events", step.get("events", ())),
    ):
        if part in expected:
            found = _list_difference(part, steps, expected[part], got.get(part), base_ms, dead)
            if found is not None:
                return found
    if "delivered" in expected and expected["delivered"] != got.get("delivered"):
        return "delivered or not"
    return None


def _list_difference(
    part: str,
    steps: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    got: Sequence[Outcome] | None,
    base_ms: int,
    dead: bool,
) -> str | None:
    if got is None:
        return f"{part}: number of outcomes"
    both = min(len(expected), len(got))
    # Steps at the end that an event never came to are recorded as pending, or not at all.
    if any(outcome != {"pending": True} for outcome in (*expected[both:], *got[both:])):
        return f"{part}: number of outcomes"
    for number, (answer, ours) in enumerate(zip(expected, got, strict=False)):
        if dead and ours.get("pending"):
            continue  # issued, and the event died before it was awaited
        step = steps[number] if number < len(steps) else {}
        found = difference(step, answer, ours, base_ms)
        if found is not None:
            return f"{part}[{number}]: {found}"
    return None


def _value_difference(
    step: Mapping[str, Any], expected: Json, got: Any, base_ms: int
) -> str | None:
    if isinstance(got, UseResults):
        if not isinstance(expected, list) or len(expected) != len(got):
            return "number of uses"
        for number, (answer, ours) in enumerate(zip(expected, got, strict=True)):
            broken = step.get("op") == "iter" and answer.get("error", {}).get("internal")
            if broken and "value" in ours:
                continue  # an internal error there; ours goes on with what is stored
            found = difference({}, answer, ours, base_ms)
            if found is not None:
                return f"use[{number}]: {found}"
        return None
    bookmark = step.get("op") == "getCurrentBookmark" and "project" not in step
    if bookmark and isinstance(expected, str):
        # The original's local build only counts; ours are real, and look the same.
        return None if isinstance(got, str) and _LOCAL_BOOKMARK.match(got) else "no bookmark"
    return None if same(decode(expected, base_ms, expected=True), got) else "another value"


def _accepted_success(step: Mapping[str, Any], expected: Mapping[str, Any], got: Outcome) -> bool:
    message = expected.get("message", "")
    if _NO_PITR in message:
        return isinstance(got.get("value"), str)
    if message.startswith("SQL code did not contain a statement") and step.get("args"):
        query = step["args"][0]
        return isinstance(query, str) and _COMMENT_AFTER_LAST.search(query) is not None
    return False


def show(outcome: Any, limit: int = 600) -> str:
    """Return a short text of an outcome for a report."""
    text = _plain(outcome)
    return text if len(text) <= limit else text[:limit] + " …"


def _plain(value: Any) -> str:
    if isinstance(value, BaseException):
        cause = value.__cause__
        return f"{type(value).__name__}({str(value)!r})" + (
            f" from {type(cause).__name__}({str(cause)!r})" if cause else ""
        )
    if isinstance(value, UseResults):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list) and any(isinstance(item, dict | BaseException) for item in value):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return repr(value)
