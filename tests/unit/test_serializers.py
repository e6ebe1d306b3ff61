from __future__ import annotations

import copy
import dataclasses
import enum
import json
import math
import threading
import uuid
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from durable_storage.errors import ArgumentTypeError, ArgumentValueError, DataCloneError
from durable_storage.serializers import (
    JsonSerializer,
    MsgpackSerializer,
    PickleSerializer,
    Serializer,
)
from durable_storage.serializers.messagepack import loads_many
from durable_storage.serializers.refusal import refusal


class Color(enum.Enum):
    RED = 1
    GREEN = (1, 2)
    CRIMSON = 1  # noqa: PIE796 - an alias


class Level(enum.IntEnum):
    LOW = 1


class Kind(enum.StrEnum):
    A = "a"


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: object
    y: object = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    part: str
    numbers: tuple[int, ...] = ()


@dataclass
class Guarded:
    """A class whose constructor must not run when a value is read."""

    given: dataclasses.InitVar[int]
    doubled: int = field(init=False)

    def __post_init__(self, given: int) -> None:
        self.doubled = given * 2


def new_serializer() -> MsgpackSerializer:
    made = MsgpackSerializer()
    for cls in (Color, Level, Kind, Permission, Point, Key, Guarded):
        made.register(cls)
    return made


SERIALIZER = new_serializer()


def round_trip(value: object) -> object:
    return SERIALIZER.loads(SERIALIZER.dumps(value))


def same(left: object, right: object) -> bool:
    """Return whether two values are equal, of the same types all through, and NaN is NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return math.copysign(1, left) == math.copysign(1, right) and (
            left == right or (math.isnan(left) and math.isnan(right))
        )
    if isinstance(left, Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return (
            len(left) == len(right)
            and all(map(same, left, right))
            and all(map(same, left.values(), right.values()))
        )
    if isinstance(left, (set, frozenset)):
        return left == right and sorted(map(_typed, left)) == sorted(map(_typed, right))
    if isinstance(left, (datetime, time)):
        return left == right and left.fold == right.fold and left.utcoffset() == right.utcoffset()
    if dataclasses.is_dataclass(left):
        return all(
            same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left)
        )
    return left == right


def _typed(part: object) -> str:
    """Return a text that is the same for what is equal and of the same types, in any order."""
    if isinstance(part, (frozenset, set)):
        return f"{type(part).__name__} {sorted(map(_typed, part))}"
    if type(part) is tuple:
        return f"tuple {list(map(_typed, part))}"
    return f"{type(part).__name__} {part!r}"


texts = st.text(st.characters(codec="utf-8"))
zones = st.one_of(
    st.just(UTC),
    st.timezones(),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
)
hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(allow_nan=False),
    texts,
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=zones, allow_imaginary=False),
    st.times(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.sampled_from([*Color, *Level, *Kind, *Permission, ~Permission(0), Permission(0)]),
)
keys = st.recursive(
    hashable_leaves,
    lambda inner: st.one_of(
        st.tuples(inner, inner),
        st.frozensets(inner, max_size=3),
        st.builds(Key, part=texts, numbers=st.tuples(st.integers())),
    ),
    max_leaves=4,
)
values = st.recursive(
    st.one_of(hashable_leaves, st.just(math.nan), st.just(Decimal("NaN"))),
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
        st.builds(Point, inner, inner),
    ),
    max_leaves=20,
)
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**2000), 2**2000),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)


# --- MessagePack ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "serializer", [MsgpackSerializer(), JsonSerializer(), PickleSerializer()], ids=repr
)
def test_every_serializer_has_the_protocol(serializer: object) -> None:
    assert isinstance(serializer, Serializer)
    assert serializer.name in ("msgpack", "json", "pickle")


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(values)
def test_values_come_back_equal_and_of_the_same_types(value: object) -> None:
    before = copy.deepcopy(value)
    assert same(round_trip(value), before)
    assert same(value, before)


@pytest.mark.parametrize(
    "value",
    [
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
        -(2**63),
        -(2**63) - 1,
        -(2**64),
        [1 << 100_000],
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
        5e-324,
        "",
        "\0",
        "größe 🎉",
        b"",
        [],
        (),
        {},
        set(),
        frozenset(),
        ((), [()], ([],)),
        {1: "int", "1": "str", b"1": "bytes", (1,): "tuple", None: "none", 1.5: "float"},
        {(1, (2, frozenset({3}))): [(), {()}]},
        {Key(part="a", numbers=(1,)): {Color.RED}},
        datetime.min,
        datetime.max,
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime(2026, 10, 25, 2, 30, fold=1),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")),
        datetime(2026, 10, 25, 2, 30, fold=0, tzinfo=ZoneInfo("Europe/Paris")),
        datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Paris")),
        datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=timezone(timedelta(hours=1, seconds=2))),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
        time(1, tzinfo=timezone(-timedelta(microseconds=999_999))),
        datetime(2026, 1, 1, tzinfo=ZoneInfo("Etc/GMT+5")),
        date.min,
        date.max,
        time(1, 2, 3, 4, fold=1),
        time(1, 2, tzinfo=ZoneInfo("America/Argentina/Buenos_Aires")),
        time(1, 2, tzinfo=UTC),
        timedelta.min,
        timedelta.max,
        timedelta.resolution,
        -timedelta.resolution,
        Decimal("1E+999999"),
        Decimal("-0.000"),
        Decimal("sNaN123"),
        Decimal("-Infinity"),
        Decimal("1" * 500 + ".5"),
        uuid.UUID(int=0),
        Color.GREEN,
        Color.CRIMSON,
        Level.LOW,
        Kind.A,
        Permission.READ | Permission.WRITE,
        Point(1, [Point(2, (3,))]),
        Guarded(21),
    ],
)
def test_edges_come_back_equal_and_of_the_same_types(value: object) -> None:
    assert same(round_trip(value), value)
    assert same(round_trip({"a": [value]}), {"a": [value]})


def test_a_time_keeps_its_zone_and_not_only_its_offset() -> None:
    moment = datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Paris"))
    assert round_trip(moment).tzinfo is moment.tzinfo
    assert round_trip(datetime(2026, 7, 1, tzinfo=UTC)).tzinfo is UTC


def test_a_tzinfo_of_another_kind_becomes_its_offset() -> None:
    class Own(tzinfo):
        def utcoffset(self, moment: datetime | None) -> timedelta:
            return timedelta(hours=3)

    moment = datetime(2026, 1, 1, tzinfo=Own())
    assert round_trip(moment) == moment
    assert round_trip(moment).tzinfo == timezone(timedelta(hours=3))


def test_bytes_like_values_come_back_as_bytes() -> None:
    assert round_trip([bytearray(b"ab"), memoryview(b"cd")]) == [b"ab", b"cd"]
    assert type(round_trip(bytearray(b"ab"))) is bytes


def test_what_messagepack_has_is_plain_messagepack() -> None:
    value = {"a": [1, -1.5, "x", b"y", None, True], "b": {"c": 2**64 - 1}}
    assert SERIALIZER.dumps(value) == msgpack.packb(value)
    assert SERIALIZER.loads(msgpack.packb(value)) == value


def test_a_part_used_twice_comes_back_as_two() -> None:
    shared = [1]
    first, second = round_trip([shared, shared])
    assert first == second == [1]
    assert first is not second


def test_every_read_gives_a_copy_of_its_own() -> None:
    data = SERIALIZER.dumps({"a": [1]})
    first = SERIALIZER.loads(data)
    first["a"].append(2)
    assert SERIALIZER.loads(data) == {"a": [1]}


@pytest.mark.parametrize("depth", [1, 400, 500])
@pytest.mark.parametrize(
    "wrap", [lambda x: [x], lambda x: (x,), lambda x: {"a": x}, lambda x: Point(x)]
)
def test_nesting_that_is_promised_is_stored(wrap, depth: int) -> None:
    value: object = "end"
    for _ in range(depth):
        value = wrap(value)
    data = SERIALIZER.dumps(value)
    assert SERIALIZER.dumps(SERIALIZER.loads(data)) == data


class _Stranger:
    pass


class _Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __hash__ = object.__hash__


class _BadZone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None


class _UnregisteredColor(enum.Enum):
    RED = 1


@dataclass
class _UnregisteredPoint:
    x: int


_Pair = namedtuple("_Pair", "a b")


def _unset() -> Point:
    point = Point(1)
    del point.x
    return point


def _cyclic_list() -> list:
    value: list = [1]
    value.append({"a": (value,)})
    return value


def _cyclic_dict() -> dict:
    value: dict = {}
    value["self"] = [value]
    return value


def _cyclic_point() -> Point:
    value = Point(None)
    value.y = [value]
    return value


def _deep(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path", "complaint"),
    [
        (_Stranger(), "value ", "_Stranger, which MsgpackSerializer does not store"),
        (_Rude(), "value ", "_Rude"),
        (print, "value ", "builtin_function_or_method"),
        (1j, "value ", "complex"),
        (_Stranger, "value ", "builtins.type"),
        ({"a": [0, 1, 2, Point(_Stranger())]}, 'value["a"][3].x ', "_Stranger"),
        ({"a": (0, {"b": print})}, 'value["a"][1]["b"] ', "builtin"),
        ({5: {b"k": print}}, "value[5][b'k'] ", "builtin"),
        ({(1, 2): print}, "value[(1, 2)] ", "builtin"),
        ({"a": 1, _Stranger(): 1}, "list(value)[1] ", "_Stranger"),
        ({"a": {_Rude(): 1}}, 'list(value["a"])[0] ', "_Rude"),
        ({"s": {_Stranger()}}, 'list(value["s"])[0] ', "_Stranger"),
        ([frozenset({(1, print)})], "list(value[0])[0][1] ", "builtin"),
        ("a\ud800", "value ", "lone surrogate U+D800 at index 1"),
        ({"a\udfff": 1}, "list(value)[0] ", "lone surrogate U+DFFF"),
        (["ok", {"x": "\ud800"}], 'value[1]["x"] ', "lone surrogate"),
        (_cyclic_list(), 'value[1]["a"][0] ', "refers back to value"),
        (_cyclic_dict(), 'value["self"][0] ', "refers back to value"),
        ({"k": [_cyclic_point()]}, 'value["k"][0].y[0] ', 'refers back to value["k"][0]'),
        (_deep(2000), "value[0]", "nested too deeply; up to 500 levels"),
        (_deep(100_000), "value[0]", "nested too deeply"),
        (OrderedDict(a=1), "value ", "convert it to dict"),
        ([defaultdict(list)], "value[0] ", "convert it to dict"),
        (_Pair(1, 2), "value ", "convert it to tuple"),
        (type("Text", (str,), {})("x"), "value ", "convert it to str"),
        (type("Number", (float,), {})(1), "value ", "convert it to float"),
        (type("Moment", (datetime,), {})(2026, 1, 1), "value ", "convert it to datetime"),
        (_UnregisteredColor.RED, "value ", "not registered; call register(_UnregisteredColor)"),
        ([_UnregisteredPoint(1)], "value[0] ", "not registered; call register(_UnregisteredPoint)"),
        ([_unset()], "value[0] ", "no value for its field 'x'"),
        (memoryview(b"abcd")[::2], "value ", "memoryview with gaps"),
        ([time(1, tzinfo=_BadZone())], "value[0] ", "tells no offset"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_path(value, path: str, complaint: str) -> None:
    for _ in range(2):
        with pytest.raises(DataCloneError) as caught:
            SERIALIZER.dumps(value)
        message = str(caught.value)
        assert message.startswith(path)
        assert " cannot be stored: it " in message
        assert complaint in message
        assert len(message) < 500
        # A refusal leaves nothing behind in the serializer.
        assert round_trip(["after", (1,)]) == ["after", (1,)]


@given(values, st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_bad_part_is_found_wherever_it_is(value: object, data: st.DataObject) -> None:
    bad = data.draw(st.sampled_from([_Stranger(), "\ud800", 1j]))
    holder = data.draw(
        st.sampled_from(
            [lambda a, b: [a, b], lambda a, b: {"a": a, 1: b}, lambda a, b: Point(a, (b,))]
        )
    )
    with pytest.raises(DataCloneError, match="cannot be stored"):
        SERIALIZER.dumps(holder(value, bad))


def test_a_part_shared_a_great_many_times_is_searched_once() -> None:
    shared: object = []
    for _ in range(100):
        shared = [shared, shared]
    # 2**100 paths lead into the shared part; none of them is to blame.
    error = refusal([shared, print], SERIALIZER._parts)
    assert error is not None
    assert str(error).startswith("value[1] ")


def test_serializers_may_be_used_from_many_threads() -> None:
    value = {"a": [(1, Color.RED), Point(2**70)] * 50}
    expected = SERIALIZER.dumps(value)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(100):
            if SERIALIZER.dumps(value) != expected or not same(SERIALIZER.loads(expected), value):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- registration -----------------------------------------------------------------------------


def test_register_works_as_a_decorator_and_returns_the_class() -> None:
    serializer = MsgpackSerializer()

    @serializer.register
    @dataclass
    class Local:
        a: int

    assert serializer.loads(serializer.dumps(Local(1))) == Local(1)


def test_registration_is_of_one_serializer() -> None:
    data = SERIALIZER.dumps(Point(1))
    with pytest.raises(DataCloneError, match="'Point', which is not registered"):
        MsgpackSerializer().loads(data)
    with pytest.raises(DataCloneError, match="'Color', which is not registered"):
        MsgpackSerializer().loads(SERIALIZER.dumps(Color.RED))


def test_a_renamed_class_reads_what_was_stored_under_its_old_name() -> None:
    before, after = MsgpackSerializer(), MsgpackSerializer()
    before.register(Point, "Old")
    after.register(Point, "New")
    after.register(Point, "Old")
    assert after.loads(before.dumps(Point(1))) == Point(1)
    assert b"New" in after.dumps(Point(1))


def test_a_field_gained_has_its_default_and_a_field_lost_is_dropped() -> None:
    before, after = MsgpackSerializer(), MsgpackSerializer()

    @dataclass
    class Before:
        kept: int
        lost: int

    @dataclass
    class After:
        kept: int
        gained: list[int] = field(default_factory=list)
        also: int = 7

    @dataclass
    class Needy:
        kept: int
        needed: int

    before.register(Before, "Thing")
    after.register(After, "Thing")
    data = before.dumps(Before(1, 2))
    assert after.loads(data) == After(1, [], 7)
    needy = MsgpackSerializer()
    needy.register(Needy, "Thing")
    with pytest.raises(DataCloneError, match="no field 'needed'"):
        needy.loads(data)


def test_a_member_that_is_gone_and_a_class_that_changed_its_kind_are_clear_errors() -> None:
    changed = MsgpackSerializer()
    changed.register(enum.Enum("Fewer", "GREEN"), "Color")
    changed.register(Color, "Point")
    with pytest.raises(DataCloneError, match="member 'RED' of the enum 'Color'"):
        changed.loads(SERIALIZER.dumps(Color.RED))
    with pytest.raises(DataCloneError, match="'Point' is now an enum"):
        changed.loads(SERIALIZER.dumps(Point(1)))
    swapped = MsgpackSerializer()
    swapped.register(Point, "Color")
    with pytest.raises(DataCloneError, match="'Color' is now a dataclass"):
        swapped.loads(SERIALIZER.dumps(Color.RED))


def test_a_definition_run_again_replaces_the_first() -> None:
    serializer = MsgpackSerializer()

    def define() -> type:
        @dataclass
        class Cell:
            a: int

        return serializer.register(Cell)

    first, second = define(), define()
    assert type(serializer.loads(serializer.dumps(first(1)))) is second


def test_two_classes_cannot_share_a_name() -> None:
    serializer = MsgpackSerializer()
    serializer.register(Point)
    with pytest.raises(ArgumentValueError, match="'Point' belongs to"):
        serializer.register(Key, "Point")
    with pytest.raises(DataCloneError):
        serializer.dumps(Key(part="a"))


@pytest.mark.parametrize("wrong", [int, _Stranger, Point(1), "Point", None, _Pair])
def test_only_enums_and_dataclasses_are_registered(wrong: object) -> None:
    with pytest.raises(ArgumentTypeError, match="Enum or a dataclass"):
        MsgpackSerializer().register(wrong)  # type: ignore[type-var]


def test_a_dataclass_that_cannot_be_restored_is_not_registered() -> None:
    @dataclass
    class Odd(list):
        a: int

    with pytest.raises(ArgumentTypeError, match="__new__ of its own"):
        MsgpackSerializer().register(Odd)


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "\ud800"])
def test_a_name_that_is_not_printable_is_refused(name: str) -> None:
    with pytest.raises(ArgumentValueError):
        MsgpackSerializer().register(Point, name)


def test_a_name_is_text() -> None:
    with pytest.raises(ArgumentTypeError):
        MsgpackSerializer().register(Point, 5)  # type: ignore[arg-type]


# --- reading bytes that are no value -------------------------------------------------------------


@settings(max_examples=500)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\xd9\x05ab")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@example(b"\xa1\xff")
@example(b"\x81\x90\x01")
@example(b"\x81\x81\x01\x01\x01")
def test_any_bytes_are_a_value_or_a_clear_error(data: bytes) -> None:
    try:
        SERIALIZER.loads(data)
    except DataCloneError:
        pass


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values, st.data())
def test_a_damaged_value_is_a_value_or_a_clear_error(value: object, data: st.DataObject) -> None:
    stored = bytearray(SERIALIZER.dumps([(), value]))
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    try:
        SERIALIZER.loads(bytes(stored))
    except DataCloneError:
        pass


@settings(max_examples=300)
@given(st.integers(0, 127), st.binary(max_size=40), st.lists(st.integers(0, 9), max_size=3))
def test_any_extension_is_a_value_or_a_clear_error(code: int, payload: bytes, items: list) -> None:
    extension = msgpack.ExtType(code, payload)
    for stored in ([extension, *items], extension, {"a": extension}, [1, extension]):
        try:
            value = SERIALIZER.loads(msgpack.packb(stored))
        except DataCloneError:
            continue
        assert "Mark" not in repr(value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "incomplete|Unpack"),
        (b"\x01\x02", "extra"),
        (b"\x91" * 5000, "StackError|too deep|nested"),
        (msgpack.packb(msgpack.ExtType(99, b"")), "extension code 99 is unknown"),
        (msgpack.packb(msgpack.ExtType(2, b"")), "not at the start of an array"),
        (msgpack.packb([1, msgpack.ExtType(3, b"")]), "not at the start of an array"),
        (msgpack.packb([msgpack.ExtType(3, b""), [1]]), "unhashable"),
        (msgpack.packb(msgpack.ExtType(9, b"abc")), ""),
        (msgpack.packb(msgpack.ExtType(10, b"abc")), "16"),
        (msgpack.packb(msgpack.ExtType(8, b"\x7f" * 40)), ""),
        (msgpack.packb(msgpack.ExtType(5, b"2026-01-01T00:00:00[../../etc/passwd]")), "time zone"),
        (msgpack.packb([msgpack.ExtType(12, b"Point"), "x"]), "within a field"),
        (msgpack.packb(msgpack.ExtType(11, b"Permission\x00x")), ""),
    ],
)
def test_garbage_is_a_clear_error(data: bytes, reason: str) -> None:
    with pytest.raises(DataCloneError, match="not a value that MsgpackSerializer wrote") as caught:
        SERIALIZER.loads(data)
    assert any(part in str(caught.value) for part in reason.split("|"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values, min_size=1, max_size=8))
def test_values_decoded_together_are_those_decoded_alone(written: list[object]) -> None:
    decoded = loads_many(SERIALIZER, [SERIALIZER.dumps(value) for value in written])
    assert decoded is not None
    assert same(decoded, written)


@pytest.mark.parametrize(
    "encoded",
    [
        [b"\x01\x02", b"\x03"],
        [b"\x01", b"\x02\x03"],
        [b"\x01\x02", b""],
        [b"", b"\x01\x02"],
        [b"\x92\x01", b"\x02"],
        [b"\x92\x01", b"\x02\x03\x04"],
        # The first swallows what stands between, the second has a number in its place.
        [b"\xc4\x09", b"\x01\x02"],
        [b"\xc4\x09", b"\xcb\x41\x01\x02\x03\x04\x05\x06\x07\x02"],
        [b"\x01\xc0\x92", b"\x02"],
        # The mark of a tuple, of a set and of a dataclass, with no array around it.
        [b"\xc7\x00\x02", b"\x01"],
        [b"\xc7\x00\x03", b"\x01"],
        [b"\xd4\x0cx", b"\x01"],
        [b"\x01", b"\xc7\x00\x02"],
        [b"\xc1", b"\x01"],
        [b"\x01", b"\xdd\xff\xff\xff\xff"],
        [b"\xa1\xff", b"\x01"],
    ],
)
def test_a_damaged_value_is_not_decoded_together_with_others(encoded: list[bytes]) -> None:
    assert loads_many(SERIALIZER, encoded) is None
    sound = SERIALIZER.dumps(("sound",))
    assert loads_many(SERIALIZER, [sound, *encoded, sound]) is None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values, min_size=1, max_size=4), st.data())
def test_values_decoded_together_hide_no_damage(written: list[object], data: st.DataObject) -> None:
    encoded = [bytearray(SERIALIZER.dumps(value)) for value in written]
    for _ in range(data.draw(st.integers(1, 3))):
        one = encoded[data.draw(st.integers(0, len(encoded) - 1))]
        one[data.draw(st.integers(0, len(one) - 1))] = data.draw(st.integers(0, 255))
    decoded = loads_many(SERIALIZER, [bytes(one) for one in encoded])
    try:
        alone = [SERIALIZER.loads(bytes(one)) for one in encoded]
    except DataCloneError:
        assert decoded is None
    else:
        assert decoded is None or same(decoded, alone)


def test_a_zone_that_the_machine_does_not_know_is_named() -> None:
    stored = msgpack.packb(msgpack.ExtType(5, b"2026-01-01T00:00:00[Mars/Base]"))
    with pytest.raises(DataCloneError, match=r"time zone Mars/Base.*tzdata"):
        SERIALIZER.loads(stored)


def test_reading_runs_no_constructor() -> None:
    @dataclass
    class Trap:
        a: int

        def __post_init__(self) -> None:
            raise AssertionError("constructed")

    serializer = MsgpackSerializer()
    serializer.register(Trap)
    mark = msgpack.ExtType(12, b"Trap")
    assert serializer.loads(msgpack.packb([mark, "a", 1])).a == 1


# --- JSON -------------------------------------------------------------------------------------


@given(json_values)
def test_json_values_come_back_equal_and_of_the_same_types(value: object) -> None:
    serializer = JsonSerializer()
    data = serializer.dumps(value)
    assert same(serializer.loads(data), value)
    assert json.loads(data) == value


@pytest.mark.parametrize(
    ("value", "path", "complaint"),
    [
        ({"a": [0, (1, 2)]}, 'value["a"][1] ', "builtins.tuple, which JSON does not have"),
        ({"a": {1: 2}}, 'value["a"] ', "has the key 1 of the type int at position 0"),
        ([b"x"], "value[0] ", "builtins.bytes"),
        ([math.nan], "value[0] ", "is nan"),
        (-math.inf, "value ", "is -inf"),
        ({"a": {1}}, 'value["a"] ', "builtins.set"),
        (Level.LOW, "value ", "Level"),
        ({"a": Kind.A}, 'value["a"] ', "Kind"),
        ({Kind.A: 1}, "value ", "of the type Kind"),
        ([OrderedDict()], "value[0] ", "OrderedDict"),
        (["\ud800"], "value[0] ", "lone surrogate"),
        ({"\ud800": 1}, "list(value)[0] ", "lone surrogate"),
        (_cyclic_dict(), 'value["self"][0] ', "refers back to value"),
        (_deep(501), "value[0]", "nested too deeply"),
        (_deep(50_000), "value[0]", "nested too deeply"),
        ([1 << 50_000], "value[0] ", "int of more than"),
    ],
)
def test_what_json_would_change_is_refused_with_its_path(value, path, complaint) -> None:
    with pytest.raises(DataCloneError) as caught:
        JsonSerializer().dumps(value)
    message = str(caught.value)
    assert message.startswith(path)
    assert complaint in message
    assert len(message) < 500


def test_json_stores_the_nesting_that_is_promised() -> None:
    value = _deep(499)
    assert JsonSerializer().loads(JsonSerializer().dumps(value)) == value


@given(st.binary(max_size=50))
@example(b"NaN")
@example(b"-Infinity")
@example(b"[" * 100_000)
@example(b"1" * 10_000)
@example(b"\xff\xfe1\x00")
def test_bytes_that_are_no_json_are_a_clear_error(data: bytes) -> None:
    try:
        JsonSerializer().loads(data)
    except DataCloneError:
        return
    json.loads(data.decode())


# --- pickle -----------------------------------------------------------------------------------


@given(values)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_pickled_values_come_back(value: object) -> None:
    serializer = PickleSerializer()
    assert same(serializer.loads(serializer.dumps(value)), value)


def test_pickle_stores_cycles() -> None:
    value = PickleSerializer().loads(PickleSerializer().dumps(_cyclic_dict()))
    assert value["self"][0] is value


@pytest.mark.parametrize("value", [lambda: 1, threading.Lock(), _deep(50_000)])
def test_what_pickle_refuses_is_refused(value: object) -> None:
    with pytest.raises(DataCloneError, match="pickle refuses it"):
        PickleSerializer().dumps(value)


@pytest.mark.parametrize("data", [b"", b"junk", b"cno_such_module\nname\n."])
def test_bytes_that_are_no_pickle_are_a_clear_error(data: bytes) -> None:
    with pytest.raises(DataCloneError, match="PickleSerializer"):
        PickleSerializer().loads(data)


def test_the_docstring_of_pickle_says_what_trusting_one_means() -> None:
    assert "runs whatever code" in (PickleSerializer.__doc__ or "")
