"""MessagePack, extended to the types of Python that it lacks.

What MessagePack has is written plainly: ``None``, ``bool``, ``int`` of up to 64 bits, ``float``,
``str``, ``bytes``, ``list``, ``dict``. The other types use its extension codes (``_Code``), in one
of two ways:

* a *scalar* is an extension that holds the whole value: text for dates, times, decimals and
  enum members, big-endian two's complement for integers and spans, 16 bytes for a UUID;
* a *container* is an array whose first element is an extension that says what the array is.
  So nesting stays MessagePack's own, bounded in depth and linear in size, and reading needs no
  recursion of ours.

Invariants: what ``dumps`` accepts, ``loads`` gives back equal and of the same types (but
``bytearray`` and ``memoryview``, which come back as ``bytes``). ``loads`` of any bytes whatever
runs no code that they name, ends, and needs memory in proportion to them.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, TypeVar, cast, final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack  # pyright: ignore[reportMissingTypeStubs] - it has none

from ..errors import ArgumentTypeError, ArgumentValueError, DataCloneError
from .refusal import (
    Parts,
    RefusedError,
    cannot_store,
    check_text,
    description,
    element,
    item,
    keys_and_entries,
    refusal,
    shortened,
    unreadable,
)

__all__ = ["MsgpackSerializer", "loads_many"]

_Registered = TypeVar("_Registered", bound=type)


@final
class _Code(enum.IntEnum):
    """MessagePack extension codes. They are in files: never change or reuse one."""

    INT = 1
    TUPLE = 2
    SET = 3
    FROZENSET = 4
    DATETIME = 5
    DATE = 6
    TIME = 7
    TIMEDELTA = 8
    DECIMAL = 9
    UUID = 10
    ENUM = 11
    DATACLASS = 12


# The boundary to msgpack, which has no types of its own.
_ext: Callable[[int, bytes], object] = cast(Any, msgpack).ExtType
_new_packer: Callable[..., Any] = cast(Any, msgpack).Packer
_unpack: Callable[..., Any] = cast(Any, msgpack).unpackb

_PACKER_KEPT_MAX_BYTES = 262_144
"""A packer keeps its buffer; one that grew larger than this is not kept."""

_BETWEEN: bytes = b"\xcb\x41" + secrets.token_bytes(7)
"""A number that stands between values that are decoded together; no damaged value can guess it."""
_BETWEEN_VALUE: float = _unpack(_BETWEEN)

_NATIVE_TYPES = (bool, int, float, str, bytes, list, dict)
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+\-]{1,32}(?:/[A-Za-z0-9_+\-]{1,32}){0,3}")


def _int_to_bytes(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)


def _int_from_bytes(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _moment_to_bytes(moment: datetime | time) -> bytes:
    """Return ISO 8601 text, with a zone's key or the second fold in brackets (RFC 9557)."""
    zone = moment.tzinfo
    key = zone.key if type(zone) is ZoneInfo else None
    if key is not None and _ZONE_KEY.fullmatch(key):
        text = f"{moment.replace(tzinfo=None).isoformat()}[{key}]"
    elif zone is not None and moment.utcoffset() is None:
        raise RefusedError(
            f"has a tzinfo of the type {type(zone).__qualname__} that tells no offset; "
            "use zoneinfo.ZoneInfo or datetime.timezone"
        )
    else:
        text = moment.isoformat()
    return (text + "[fold=1]" if moment.fold else text).encode()


_Moment = TypeVar("_Moment", datetime, time)


def _moment_from_bytes(parse: Callable[[str], _Moment], data: bytes) -> _Moment:
    text = data.decode("ascii")
    fold = text.endswith("[fold=1]")
    text = text.removesuffix("[fold=1]")
    text, bracket, key = text.partition("[")
    moment = parse(text)
    if moment.tzinfo is UTC and not text.endswith("+00:00"):
        # fromisoformat() takes an offset of less than a second for none.
        moment = moment.replace(tzinfo=_tiny_offset(text[-16:]))
    if bracket:
        moment = moment.replace(tzinfo=_zone(key.removesuffix("]")))
    return moment.replace(fold=1) if fold else moment


def _tiny_offset(text: str) -> timezone:
    found = re.fullmatch(r"([+-])00:00:00\.(\d{6})", text)
    if found is None:
        raise ValueError(f"{text!r} is not an offset as it is written here")
    return timezone(timedelta(microseconds=int(found[1] + found[2])))


def _zone(key: str) -> ZoneInfo:
    if not _ZONE_KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not the name of a time zone")
    try:
        return ZoneInfo(key)
    except (LookupError, OSError) as exc:
        raise DataCloneError(
            f"a stored time is in the time zone {key}, which this machine does not know; "
            "install the package tzdata"
        ) from exc


_SPAN_UNIT = timedelta(microseconds=1)

_SCALAR_ENCODERS: dict[type, tuple[_Code, Callable[[Any], bytes]]] = {
    int: (_Code.INT, _int_to_bytes),
    datetime: (_Code.DATETIME, _moment_to_bytes),
    date: (_Code.DATE, lambda value: value.isoformat().encode()),
    time: (_Code.TIME, _moment_to_bytes),
    timedelta: (_Code.TIMEDELTA, lambda value: _int_to_bytes(value // _SPAN_UNIT)),
    Decimal: (_Code.DECIMAL, lambda value: str(value).encode()),
    UUID: (_Code.UUID, lambda value: value.bytes),
}

_SCALAR_DECODERS: dict[int, Callable[[bytes], object]] = {
    _Code.INT: _int_from_bytes,
    _Code.DATETIME: lambda data: _moment_from_bytes(datetime.fromisoformat, data),
    _Code.DATE: lambda data: date.fromisoformat(data.decode("ascii")),
    _Code.TIME: lambda data: _moment_from_bytes(time.fromisoformat, data),
    _Code.TIMEDELTA: lambda data: timedelta(microseconds=_int_from_bytes(data)),
    _Code.DECIMAL: lambda data: Decimal(data.decode("ascii")),
    _Code.UUID: lambda data: UUID(bytes=data),
}

_CONTAINER_CODES: dict[type, _Code] = {
    tuple: _Code.TUPLE,
    set: _Code.SET,
    frozenset: _Code.FROZENSET,
}


def _scalar_encoder(code: _Code, to_bytes: Callable[[Any], bytes]) -> Callable[[Any], object]:
    return lambda value: _ext(code, to_bytes(value))


def _container_encoder(code: _Code) -> Callable[[Any], object]:
    mark = _ext(code, b"")
    return lambda value: [mark, *value]


_ENCODERS: dict[type, Callable[[Any], object]] = {
    **{kind: _scalar_encoder(*how) for kind, how in _SCALAR_ENCODERS.items()},
    **{kind: _container_encoder(code) for kind, code in _CONTAINER_CODES.items()},
}


@final
class MsgpackSerializer:
    """The default serializer: MessagePack, with extensions for the types that it lacks.

    It stores ``None``, ``bool``, ``int`` of any size, ``float``, ``str``, ``bytes``, ``list``,
    ``tuple``, ``dict`` with any keys, ``set``, ``frozenset``, ``datetime``, ``date``, ``time``,
    ``timedelta``, ``Decimal``, ``UUID``, and, once registered, members of enums and instances of
    dataclasses. All come back as the type they were; subclasses (an ``OrderedDict``, a
    ``NamedTuple``, another library's ``datetime``) are therefore refused rather than turned into
    their base. Only ``bytearray`` and ``memoryview`` come back as ``bytes``.

    A time keeps the key of its ``ZoneInfo``; of another ``tzinfo`` it keeps the offset. A part
    that is used twice is stored twice; one that contains itself is refused.

    A dataclass is restored as it was stored, without ``__init__`` and ``__post_init__``. Fields
    that the class has gained since then get their default; fields that it has lost are dropped.

    Example:
        >>> serializer = MsgpackSerializer()
        >>> @serializer.register
        ... @dataclasses.dataclass
        ... class Point:
        ...     x: int
        ...     y: int
        >>> serializer.loads(serializer.dumps({("a", 1): Point(1, 2)}))
        {('a', 1): Point(x=1, y=2)}
    """

    @property
    def name(self) -> str:
        """The name recorded in each object."""
        return "msgpack"

    def __init__(self) -> None:
        self._encoders = dict(_ENCODERS)
        self._fields: dict[type, tuple[str, ...]] = {}
        self._named: dict[str, type] = {}
        # Packers that nobody uses at the moment; a packer is not reentrant.
        self._idle: list[Callable[[object], bytes]] = []
        self._hook = self._decode_scalar

    def __repr__(self) -> str:
        return "MsgpackSerializer()"

    def register(self, cls: _Registered, name: str | None = None) -> _Registered:
        """Let members of an enum, or instances of a dataclass, be stored; returns ``cls``.

        Usable as a decorator. The name goes into the stored bytes: keep it when you rename the
        class. A class may be registered again under an older name to read what was stored
        under that one; the first name is the one written.

        Args:
            cls: an ``Enum`` or a dataclass; each subclass is registered by itself.
            name: what to call it in stored bytes; by default the name of the class.

        Raises:
            ArgumentTypeError: ``cls`` is neither, or its instances cannot be restored.
            ArgumentValueError: the name is not usable, or belongs to another class.
        """
        given = cast(object, cls)
        is_enum = isinstance(given, enum.EnumMeta)
        if not isinstance(given, type) or not (is_enum or dataclasses.is_dataclass(given)):
            raise ArgumentTypeError(f"register() takes an Enum or a dataclass, got {cls!r}")
        if not is_enum and cast(object, cls.__new__) is not object.__new__:
            raise ArgumentTypeError(
                f"register() cannot take {cls.__qualname__}: it has a __new__ of its own, and a "
                "stored dataclass is restored without calling its constructor"
            )
        name = cls.__name__ if name is None else name
        if not isinstance(cast(object, name), str):
            raise ArgumentTypeError(f"register(name=) takes a str, got {type(name).__name__}")
        if not name or "\0" in name or not name.isprintable():
            raise ArgumentValueError(
                f"register(name=) takes a printable name that is not empty, got {name!r}"
            )
        taken = self._named.get(name)
        # The same definition run again, as in a notebook, replaces what it defined before.
        if taken is not None and _definition(taken) != _definition(cls):
            raise ArgumentValueError(
                f"register(): the name {name!r} belongs to {taken.__module__}."
                f"{taken.__qualname__}; give {cls.__module__}.{cls.__qualname__} another by name="
            )
        self._named[name] = cls
        if cls not in self._encoders:
            self._encoders[cls] = (
                _enum_encoder(name, cls) if is_enum else self._dataclass_encoder(name, cls)
            )
        return cls

    def dumps(self, value: object, /) -> bytes:
        """Return ``value`` as MessagePack.

        Raises:
            DataCloneError: a part of it has a type that is not stored, refers back to a part
                that contains it, is nested too deeply, or is text that is not Unicode.
        """
        try:
            pack = self._idle.pop()
        except IndexError:
            # strict_types: subclasses and tuples go to the hook instead of losing their type.
            pack = _new_packer(default=self._encode, strict_types=True).pack
        try:
            data = pack(value)
        except Exception as exc:
            error = refusal(value, self._parts) or cannot_store("value", f"is refused: {exc}")
            raise error from exc
        if len(data) <= _PACKER_KEPT_MAX_BYTES:
            self._idle.append(pack)
        return data

    def loads(self, data: bytes, /) -> Any:
        """Return the value that ``dumps`` made into ``data``.

        Raises:
            DataCloneError: the bytes are damaged, hold a class that is not registered, or a time
                zone that this machine does not know.
        """
        try:
            try:
                return _unpack(data, ext_hook=self._hook, strict_map_key=False)
            except _ContainerFound:
                return _Decoding(self).run(data)
        except DataCloneError:
            raise
        except Exception as exc:
            raise unreadable("MsgpackSerializer", str(exc) or type(exc).__name__) from exc

    def _encode(self, value: object) -> object:
        encoder = self._encoders.get(type(value))
        if encoder is None:
            raise RefusedError(self._complaint(value))
        return encoder(value)

    def _dataclass_encoder(self, name: str, cls: type) -> Callable[[object], object]:
        mark = _ext(_Code.DATACLASS, name.encode())
        fields = tuple(field.name for field in dataclasses.fields(cls))
        self._fields[cls] = fields

        def encode(value: object) -> list[object]:
            flat: list[object] = [mark]
            for field in fields:
                flat += (field, getattr(value, field))
            return flat

        return encode

    def _decode_scalar(self, code: int, data: bytes) -> object:
        decoder = _SCALAR_DECODERS.get(code)
        if decoder is not None:
            return decoder(data)
        if code == _Code.ENUM:
            return self._enum_member(data)
        if code not in _BUILDERS:
            raise ValueError(f"extension code {code} is unknown")
        raise _ContainerFound

    def _enum_member(self, data: bytes) -> object:
        name, _, member = data.decode().partition("\0")
        cls = self._class_named(name)
        if not issubclass(cls, enum.Enum):
            raise DataCloneError(f"a stored member of the enum {name!r} is now a dataclass")
        if issubclass(cls, enum.Flag):
            return cls(int(member))
        if member not in cls.__members__:
            raise DataCloneError(
                f"a stored value is the member {shortened(member)!r} of the enum {name!r}, which "
                "has none so named any more; keep it, or an alias"
            )
        return cls[member]

    def _class_named(self, name: str) -> type:
        cls = self._named.get(name)
        if cls is None:
            raise DataCloneError(
                f"a stored value is of the class {shortened(name)!r}, which is not registered; "
                "call register(cls, name) of the serializer first"
            )
        return cls

    def build_dataclass(self, mark: bytes, flat: list[object]) -> object:
        """Return the instance whose fields and values alternate in ``flat``, after the mark."""
        name = mark.decode()
        cls = self._class_named(name)
        if cls not in self._fields:
            raise DataCloneError(f"a stored instance of {name!r} is now an enum")
        if len(flat) % 2 == 0:
            raise ValueError("a dataclass ends within a field")
        values = dict(zip(flat[1::2], flat[2::2], strict=True))
        restored: object = object.__new__(cast(type[object], cls))
        for field in dataclasses.fields(cls):
            if field.name in values:
                value = values[field.name]
            elif field.default is not dataclasses.MISSING:
                value = field.default
            elif field.default_factory is not dataclasses.MISSING:
                value = field.default_factory()
            else:
                raise DataCloneError(
                    f"a stored instance of {name!r} has no field {field.name!r}; give the field "
                    "a default"
                )
            object.__setattr__(restored, field.name, value)
        return restored

    def _parts(self, value: object) -> Parts:
        kind: type = type(value)
        if kind is str:
            check_text(cast(str, value))
        elif kind is list or kind is tuple:
            sequence = cast(Iterable[object], value)
            return ((item(index), part) for index, part in enumerate(sequence))
        elif kind is set or kind is frozenset:
            unordered = cast(Iterable[object], value)
            return ((element(index), part) for index, part in enumerate(unordered))
        elif kind is dict:
            return keys_and_entries(cast(dict[object, object], value))
        elif kind is memoryview:
            if not cast("memoryview[int]", value).c_contiguous:
                raise RefusedError("is a memoryview with gaps; store bytes(view)")
        elif kind in self._fields:
            fields = self._fields[kind]
            for field in fields:
                if not hasattr(value, field):
                    raise RefusedError(f"has no value for its field {field!r}")
            return ((("", f".{field}"), getattr(value, field)) for field in fields)
        elif value is not None and kind not in (bool, float, bytes, bytearray):
            self._encode(value)
        return ()

    def _complaint(self, value: object) -> str:
        kind = type(value)
        what = description(value)
        if isinstance(value, enum.Enum) or dataclasses.is_dataclass(value):
            return (
                f"{what}, which is not registered; call register({kind.__name__}) of the serializer"
            )
        for base in (*_ENCODERS, *_NATIVE_TYPES):
            if isinstance(value, base):
                return (
                    f"{what}, and only {base.__name__} itself comes back as it was; convert it to "
                    f"{base.__name__}"
                )
        return (
            f"{what}, which MsgpackSerializer does not store; convert it, or store it as a "
            "dataclass that is registered"
        )


def loads_many(serializer: MsgpackSerializer, encoded: list[bytes]) -> list[Any] | None:
    """Return what ``loads`` gives for each, or ``None`` when one of them may be damaged."""
    # One array, with a number after each value but the last: they are all where they should be
    # only if every value ends where its bytes end.
    size = 2 * len(encoded) - 1
    data = b"\xdd" + size.to_bytes(4, "big") + _BETWEEN.join(encoded)
    values: list[Any]
    try:
        try:
            values = _unpack(data, ext_hook=serializer._hook, strict_map_key=False)  # pyright: ignore[reportPrivateUsage] - one module
        except _ContainerFound:
            values = cast(Any, _Decoding(serializer).run(data))
        # A first value that is nothing but a container's mark takes the array for its own.
        if type(values) is list and values[1::2].count(_BETWEEN_VALUE) == len(encoded) - 1:
            return values[::2]
    except Exception:
        return None
    return None


def _definition(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _enum_encoder(name: str, cls: type) -> Callable[[Any], object]:
    # A member is known by its name: values may be anything, and may change. A flag's
    # combinations have no names.
    if issubclass(cls, enum.Flag):
        return lambda member: _ext(_Code.ENUM, f"{name}\0{member.value}".encode())
    return lambda member: _ext(_Code.ENUM, f"{name}\0{member.name}".encode())


class _ContainerFound(Exception):  # noqa: N818 - not an error
    """The bytes hold a container mark, so that arrays have to be looked at."""


@final
class _Mark:
    """The first element of an array that is another container than a list."""

    __slots__ = ("code", "data")

    def __init__(self, code: int, data: bytes) -> None:
        self.code = code
        self.data = data


_BUILDERS: dict[int, Callable[[MsgpackSerializer, bytes, list[object]], object]] = {
    _Code.TUPLE: lambda _, __, items: tuple(items[1:]),
    _Code.SET: lambda _, __, items: set(items[1:]),
    _Code.FROZENSET: lambda _, __, items: frozenset(items[1:]),
    _Code.DATACLASS: MsgpackSerializer.build_dataclass,
}


@final
class _Decoding:
    """One decoding of bytes that hold containers; msgpack calls it from the inside out."""

    def __init__(self, serializer: MsgpackSerializer) -> None:
        self._serializer = serializer
        self._decode_scalar = serializer._decode_scalar  # pyright: ignore[reportPrivateUsage] - one module
        # Marks seen and not yet consumed: more than none at the end is a mark out of place.
        self._marks = 0

    def run(self, data: bytes) -> object:
        value: object = _unpack(
            data, ext_hook=self._extension, list_hook=self._array, strict_map_key=False
        )
        if self._marks:
            raise ValueError("a container mark is not at the start of an array")
        return value

    def _extension(self, code: int, data: bytes) -> object:
        if code in _BUILDERS:
            self._marks += 1
            return _Mark(code, data)
        return self._decode_scalar(code, data)

    def _array(self, items: list[object]) -> object:
        if items and type(items[0]) is _Mark:
            mark = items[0]
            self._marks -= 1
            return _BUILDERS[mark.code](self._serializer, mark.data, items)
        return items
