from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_storage.database import MISSING, Stored
from durable_storage.database.kv import after_prefix
from durable_storage.errors import ArgumentValueError, SqlError, SqlLimitError
from durable_storage.limits import Limits

from .rig import Rig


@pytest.fixture
def kv(rig: Rig) -> Rig:
    rig.begin()
    return rig


@pytest.mark.parametrize("value", [None, 0, -(2**63), 1.5, "", "text", b"", b"\0\xff", "a\0b"])
def test_values_keep_their_type(kv: Rig, value: Stored) -> None:
    kv.database.kv_put("k", value)
    found = kv.database.kv_get("k")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("key", ["", "a", "a\0b", "\0", "ä", "\uffff", "\U0001f600", "x" * 5000])
def test_any_string_is_a_key(kv: Rig, key: str) -> None:
    assert kv.database.kv_get(key) is MISSING
    kv.database.kv_put(key, 1)
    assert kv.database.kv_get(key) == 1
    assert kv.database.kv_delete(key)
    assert not kv.database.kv_delete(key)
    assert kv.database.kv_get(key) is MISSING


def test_a_lone_surrogate_is_refused(kv: Rig) -> None:
    with pytest.raises(ArgumentValueError):
        kv.database.kv_put("\ud800", 1)
    with pytest.raises(ArgumentValueError):
        kv.database.kv_get("\ud800")
    with pytest.raises(ArgumentValueError):
        kv.database.kv_put("k", 2**63)


def test_missing_is_false_and_says_what_it_is() -> None:
    assert not MISSING
    assert repr(MISSING) == "MISSING"


def test_reads_create_nothing_and_writes_create_the_table(kv: Rig) -> None:
    count = "SELECT name FROM sqlite_master"
    kv.database.kv_get("k")
    kv.database.meta_get("k")
    kv.database.meta_delete("k")
    assert list(kv.database.kv_list()) == []
    assert kv.rows(count) == []
    kv.database.kv_delete("k")
    assert kv.rows(count) == [("_cf_KV",)]
    kv.database.meta_put("alarm", 1)
    assert kv.rows(count) == [("_cf_KV",), ("_cf_METADATA",)]
    assert kv.database.meta_get("schema") == 1


def test_many_are_put_at_once_from_any_iterable(kv: Rig) -> None:
    kv.database.kv_put_many((f"k{number}", number) for number in range(1000))
    kv.database.kv_put_many([("k1", "one")])
    kv.database.kv_put_many([])
    assert kv.database.kv_get("k1") == "one"
    assert len(list(kv.database.kv_list())) == 1000


def test_key_and_value_together_may_be_as_long_as_a_value(kv: Rig) -> None:
    value = b"x" * (2_097_152 - 1)
    kv.database.kv_put("k", value)
    kv.database.kv_put_many([("l", value), ("m", b"small")])
    assert kv.database.kv_get("k") == value
    assert dict(kv.database.kv_list())["l"] == value
    assert kv.database.kv_get("m") == b"small"
    with pytest.raises(SqlLimitError, match="SQLITE_TOOBIG"):
        kv.database.kv_put("k", b"x" * 2_200_000)
    with pytest.raises(SqlLimitError, match="SQLITE_TOOBIG"):
        kv.exec("SELECT zeroblob(2097153)")


def test_a_list_is_lazy_and_sees_what_is_put_behind_its_position(kv: Rig) -> None:
    kv.database.kv_put_many([("a", 1), ("b", 2), ("d", 4), ("f", 6)])
    rows = kv.database.kv_list()
    assert next(rows) == ("a", 1)
    kv.database.kv_put("e", 5)
    kv.database.kv_delete("f")
    assert list(rows) == [("b", 2), ("d", 4), ("e", 5)]


def test_the_order_is_that_of_utf_8_bytes(kv: Rig) -> None:
    keys = ["\U0001f600", "\uffff", "\ue000", "\ud7ff", "b", "B", "a\0", "a", ""]
    kv.database.kv_put_many([(key, None) for key in keys])
    expected = sorted(keys, key=lambda key: key.encode())
    assert [key for key, _ in kv.database.kv_list()] == expected
    assert [key for key, _ in kv.database.kv_list(reverse=True)] == expected[::-1]


@pytest.mark.parametrize(
    ("prefix", "after"),
    [
        ("a", "b"),
        ("ab\U0010ffff", "ac"),
        ("\ud7ff", "\ue000"),
        ("\U0010ffff", None),
        ("\U0010ffff\U0010ffff", None),
        ("", None),
    ],
)
def test_the_string_after_a_prefix(prefix: str, after: str | None) -> None:
    assert after_prefix(prefix) == after


_KEYS = st.text(
    st.sampled_from(["\0", "a", "b", "\x7f", "\ud7ff", "\ue000", "\uffff", "\U0010ffff"]),
    max_size=3,
)
_OPTIONAL = st.none() | _KEYS


@settings(max_examples=150, deadline=None)
@given(
    keys=st.sets(_KEYS, max_size=20),
    start=_OPTIONAL,
    start_after=_OPTIONAL,
    end=_OPTIONAL,
    prefix=_OPTIONAL,
    reverse=st.booleans(),
    limit=st.none() | st.integers(1, 10) | st.just(2**70),
)
def test_a_list_is_what_a_plain_filter_gives(
    keys: set[str],
    start: str | None,
    start_after: str | None,
    end: str | None,
    prefix: str | None,
    reverse: bool,
    limit: int | None,
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(Path(directory) / "object.sqlite")
        rig.begin()
        rig.database.kv_put_many([(key, key) for key in keys])
        found = rig.database.kv_list(
            start=start,
            start_after=start_after,
            end=end,
            prefix=prefix,
            reverse=reverse,
            limit=limit,
        )
        expected = sorted(
            (
                key
                for key in keys
                if (start is None or key >= start)
                and (start_after is None or key > start_after)
                and (end is None or key < end)
                and key.startswith(prefix or "")
            ),
            reverse=reverse,
        )
        assert [key for key, _ in found] == expected[:limit]
        rig.database.close()


def test_a_full_database_refuses_a_key(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "object.sqlite", Limits(database_size_max_bytes=10 * 4096))
    rig.begin()
    rig.database.kv_put("k", 1)
    rig.commit()
    rig.begin()
    with pytest.raises(SqlError, match="SQLITE_FULL"):
        rig.database.kv_put("l", b"x" * 100_000)
    rig.database.rollback()
    assert list(rig.database.kv_list()) == [("k", 1)]
    rig.database.close()
