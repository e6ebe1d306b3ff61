"""The comparison itself: what it has to tell apart, and what it has to accept."""

from __future__ import annotations

import math

import pytest

from durable_storage import LimitExceededError, ObjectResetError, SqlError, TransactionError

from .opslang import UNDEFINED, Unsupported, UseResults, decode, difference, same, same_error

STEP = {"op": "get", "args": []}


@pytest.mark.parametrize(
    ("recorded", "got"),
    [
        (5, 5.0),
        (9007199254740992, 9007199254740993),
        ({"$num": "NaN"}, math.nan),
        ({"$num": "-0"}, 0),
        ({"$undefined": True}, None),
        ({"$undefined": True}, UNDEFINED),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"$map": [["a", 1], ["b", 2]]}, {"a": 1, "b": 2}),
        ({"$set": [2, 1]}, {1, 2}),
        ({"$bytes": "AQI="}, b"\x01\x02"),
        (
            {"$longBytes": {"length": 0, "sha256": ""}, "k": 1},
            {"$longBytes": {"length": 0, "sha256": ""}, "k": 1},
        ),
        ({"$date": 0}, decode({"$date": 0})),
        ({"$map": [[{"k": 1}, "v"]]}, decode({"$map": [[{"k": 1}, "v"]]})),
    ],
)
def test_one_value_in_two_spellings_is_the_same(recorded: object, got: object) -> None:
    assert same(decode(recorded, expected=True), got)


@pytest.mark.parametrize(
    ("recorded", "got"),
    [
        (1, True),
        (True, 1),
        (None, UNDEFINED),
        (None, 0),
        ("1", 1),
        ({"$bigint": "9007199254740993"}, 9007199254740992),
        ({"$map": [["a", 1], ["b", 2]]}, {"b": 2, "a": 1}),
        ({"a": None}, {}),
        ([1, 2], (1, 2)),
        ({"$bytes": "AQI="}, b"\x01"),
        ({"$set": [1]}, [1]),
        ({"$longString": {"utf16Length": 2, "utf8Length": 2, "sha256": "00"}}, "ab"),
    ],
)
def test_different_values_are_told_apart(recorded: object, got: object) -> None:
    assert not same(decode(recorded, expected=True), got)


def test_cyclic_values_are_compared_without_end() -> None:
    recorded = {"self": {"$cycle": 0}, "list": [{"$cycle": 1}]}
    assert same(decode(recorded, expected=True), decode(recorded))
    assert not same(decode(recorded, expected=True), {"self": None, "list": []})


def test_an_unknown_encoding_is_reported_instead_of_guessed() -> None:
    with pytest.raises(Unsupported, match="surprise"):
        decode({"$surprise": 1})


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("x", ValueError("x")),
        ("no such table: t: SQLITE_ERROR", SqlError("no such table: t: SQLITE_ERROR")),
        (
            'near "x": syntax error at offset 3: SQLITE_ERROR',
            SqlError('near "x": syntax error: SQLITE_ERROR'),
        ),
        ("string or blob too big: SQLITE_TOOBIG", LimitExceededError("too large")),
        ("crash", ObjectResetError("crash")),
        ("Cannot get() on rolled back transaction", TransactionError("txn was rolled back")),
    ],
)
def test_the_same_refusal_is_recognised(message: str, error: Exception) -> None:
    assert same_error({"message": message}, error)


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        ({"message": "x"}, ValueError("y")),
        ({"message": "no such table: t: SQLITE_ERROR"}, SqlError("no such table: u: SQLITE_ERROR")),
        ({"message": "no such table: t: SQLITE_ERROR"}, SqlError("no such table: t: SQLITE_AUTH")),
        ({"message": "Cannot get() on rolled back transaction"}, ValueError("rolled back")),
        ({"message": "anything", "messageLoose": True}, AttributeError("a bug")),
    ],
)
def test_another_refusal_is_told_apart(expected: dict[str, object], error: Exception) -> None:
    assert not same_error(expected, error)


def test_either_answer_of_two_versions_is_accepted() -> None:
    expected = {"value": 1, "variants": [{"workerd": "newer", "outcome": {"value": 2}}]}
    assert difference(STEP, expected, {"value": 1}, 0) is None
    assert difference(STEP, expected, {"value": 2}, 0) is None
    assert difference(STEP, expected, {"value": 3}, 0) is not None


def test_outcomes_of_cursor_uses_are_compared_one_by_one() -> None:
    expected = {"value": [{"value": 1}, {"error": {"message": "e"}}]}
    assert (
        difference(
            STEP, expected, {"value": UseResults([{"value": 1}, {"error": ValueError("e")}])}, 0
        )
        is None
    )
    assert (
        difference(STEP, expected, {"value": UseResults([{"value": 1}, {"value": 2}])}, 0)
        is not None
    )
    assert difference(STEP, expected, {"value": UseResults([{"value": 1}])}, 0) is not None


def test_a_dead_event_is_not_a_mere_error() -> None:
    expected = {"eventError": {"message": "crash"}}
    assert difference(STEP, expected, {"eventError": ObjectResetError("crash")}, 0) is None
    assert difference(STEP, expected, {"error": ValueError("crash")}, 0) is not None
    assert difference(STEP, {"value": 1}, {"eventError": ObjectResetError("crash")}, 0) is not None
