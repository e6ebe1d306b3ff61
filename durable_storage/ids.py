"""Names, ids and places of objects.

An id is 32 bytes: 16 that tell the object (derived from its name, or random) and 16 that prove
which namespace it belongs to. The derivation is the one of workerd's local namespaces, so the
same namespace key and name give the same id there and here. A jurisdiction is a namespace
beside the plain one, under a key of its own; so the id of an object also tells its jurisdiction.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from functools import lru_cache
from typing import Literal, NoReturn, TypeVar, cast, final, get_args

from .errors import ArgumentTypeError, ArgumentValueError

__all__ = [
    "DurableObjectId",
    "Jurisdiction",
    "LocationHint",
    "check_jurisdiction",
    "check_location_hint",
    "id_from_name",
    "id_from_string",
    "new_unique_id",
]

Jurisdiction = Literal["eu", "fedramp", "fedramp-high"]
"""Where an object's data must stay. Recorded in its id; here it moves nothing."""

LocationHint = Literal[
    "wnam", "enam", "sam", "weur", "eeur", "apac", "apac-ne", "apac-se", "oc", "afr", "me"
]
"""Where an object's callers are expected to be. Recorded; here it moves nothing."""

_JURISDICTIONS: tuple[Jurisdiction, ...] = get_args(Jurisdiction)
_LOCATION_HINTS: tuple[LocationHint, ...] = get_args(LocationHint)

_Known = TypeVar("_Known", bound=str)

_HALF_BYTES = 16
_HEX_ID = re.compile(r"[0-9a-fA-F]{64}")


@final
class DurableObjectId:
    """The identity of one object: 64 hex digits, and the name if it was made from one.

    Ids are equal when their digits are; the name does not count. Namespaces make them
    (``id_from_name``, ``new_unique_id``, ``id_from_string``).
    """

    __slots__ = ("_hex", "_jurisdiction", "_name")

    _hex: str
    _name: str | None
    _jurisdiction: Jurisdiction | None

    def __init__(
        self, digits: str, *, name: str | None = None, jurisdiction: Jurisdiction | None = None
    ) -> None:
        if not _HEX_ID.fullmatch(digits):
            raise ArgumentValueError(f"an object id is 64 hex digits, got {_shown(digits)}")
        object.__setattr__(self, "_hex", digits.lower())
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_jurisdiction", jurisdiction)

    @property
    def name(self) -> str | None:
        """The name the id was made from; ``None`` for a unique id, or one read from digits."""
        return self._name

    @property
    def jurisdiction(self) -> Jurisdiction | None:
        """The jurisdiction the object belongs to, if any."""
        return self._jurisdiction

    def equals(self, other: object) -> bool:
        """Return whether ``other`` is the id of the same object."""
        return self == other

    def to_string(self) -> str:
        """Return the 64 lower-case hex digits."""
        return self._hex

    def __str__(self) -> str:
        return self._hex

    def __repr__(self) -> str:
        name = "" if self._name is None else f", name={self._name!r}"
        place = "" if self._jurisdiction is None else f", jurisdiction={self._jurisdiction!r}"
        return f"DurableObjectId({self._hex!r}{name}{place})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DurableObjectId) and self._hex == other._hex

    def __hash__(self) -> int:
        return hash(self._hex)

    def __setattr__(self, attribute: str, value: object) -> NoReturn:
        raise AttributeError(f"DurableObjectId is immutable; cannot set {attribute!r}")

    def __delattr__(self, attribute: str) -> NoReturn:
        raise AttributeError(f"DurableObjectId is immutable; cannot delete {attribute!r}")

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self._hex, self._name, self._jurisdiction)


def _restore(digits: str, name: str | None, jurisdiction: Jurisdiction | None) -> DurableObjectId:
    return DurableObjectId(digits, name=name, jurisdiction=jurisdiction)


def id_from_name(
    namespace_key: str, name: str, jurisdiction: Jurisdiction | None = None
) -> DurableObjectId:
    """Return the id of the object called ``name``; always the same for the same arguments.

    Raises:
        ArgumentTypeError: the name is not a ``str``.
        ArgumentValueError: the name cannot be written in UTF-8, or the jurisdiction is unknown.
    """
    if not isinstance(cast(object, name), str):
        raise ArgumentTypeError(f"an object's name is a str, got {type(name).__name__}")
    try:
        encoded = name.encode()
    except UnicodeEncodeError as exc:
        raise ArgumentValueError(
            f"an object's name cannot hold lone surrogates, got {_shown(name)}"
        ) from exc
    key = _key(namespace_key, check_jurisdiction(jurisdiction))
    return DurableObjectId(
        _signed(key, _digest(key, encoded)).hex(), name=name, jurisdiction=jurisdiction
    )


def new_unique_id(namespace_key: str, jurisdiction: Jurisdiction | None = None) -> DurableObjectId:
    """Return the id of an object that does not exist yet.

    Raises:
        ArgumentValueError: the jurisdiction is unknown.
    """
    key = _key(namespace_key, check_jurisdiction(jurisdiction))
    base = secrets.token_bytes(_HALF_BYTES)
    return DurableObjectId(_signed(key, base).hex(), jurisdiction=jurisdiction)


def id_from_string(
    namespace_key: str, digits: str, jurisdiction: Jurisdiction | None = None
) -> DurableObjectId:
    """Return the id that ``str(id)`` wrote; it has no name.

    Without a jurisdiction the ids of every jurisdiction of the namespace are taken; with one,
    only its own.

    Raises:
        ArgumentTypeError: ``digits`` is not a ``str``.
        ArgumentValueError: not 64 hex digits, the id of another namespace or jurisdiction, or
            the jurisdiction is unknown.
    """
    check_jurisdiction(jurisdiction)
    if not isinstance(cast(object, digits), str):
        raise ArgumentTypeError(f"id_from_string() takes a str, got {type(digits).__name__}")
    if not _HEX_ID.fullmatch(digits):
        raise ArgumentValueError(
            f"Invalid Durable Object ID: must be 64 hex digits, got {_shown(digits)}"
        )
    whole = bytes.fromhex(digits)
    found = _jurisdiction_of(namespace_key, whole)
    if found == "another namespace":
        raise ArgumentValueError(
            f"Durable Object ID is not valid for this namespace: {digits} was made by another one"
        )
    if jurisdiction is not None and found != jurisdiction:
        raise ArgumentValueError(
            f"Durable Object ID is not valid for the jurisdiction {jurisdiction!r}: {digits} "
            + ("has none" if found is None else f"belongs to {found!r}")
        )
    return DurableObjectId(digits, jurisdiction=found)


def check_jurisdiction(jurisdiction: object) -> Jurisdiction | None:
    """Return ``jurisdiction`` if there is one so called, or ``None``.

    Raises:
        ArgumentTypeError: it is neither a ``str`` nor ``None``.
        ArgumentValueError: there is none so called.
    """
    return _one_of(_JURISDICTIONS, jurisdiction, "jurisdiction")


def check_location_hint(hint: object) -> LocationHint | None:
    """Return ``hint`` if there is a location so called, or ``None``.

    Raises:
        ArgumentTypeError: it is neither a ``str`` nor ``None``.
        ArgumentValueError: there is none so called.
    """
    return _one_of(_LOCATION_HINTS, hint, "location_hint")


def _one_of(known: tuple[_Known, ...], given: object, argument: str) -> _Known | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise ArgumentTypeError(f"{argument} takes a str or None, got {type(given).__name__}")
    for candidate in known:
        if candidate == given:
            return candidate
    raise ArgumentValueError(f"unknown {argument} {_shown(given)}; known are {', '.join(known)}")


@lru_cache(maxsize=1024)
def _key(namespace_key: str, jurisdiction: Jurisdiction | None) -> bytes:
    # No namespace key holds a NUL, so no two of the texts below are the same.
    if "\0" in namespace_key:
        raise ArgumentValueError(f"a namespace's key cannot hold NUL, got {_shown(namespace_key)}")
    text = namespace_key if jurisdiction is None else f"{namespace_key}\0{jurisdiction}"
    return hashlib.sha256(text.encode()).digest()


def _digest(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")[:_HALF_BYTES]


def _signed(key: bytes, base: bytes) -> bytes:
    return base + _digest(key, base)


def _jurisdiction_of(
    namespace_key: str, whole: bytes
) -> Jurisdiction | Literal["another namespace"] | None:
    for jurisdiction in (None, *_JURISDICTIONS):
        expected = _signed(_key(namespace_key, jurisdiction), whole[:_HALF_BYTES])
        if hmac.compare_digest(whole, expected):
            return jurisdiction
    return "another namespace"


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}… ({len(text)} characters)"
