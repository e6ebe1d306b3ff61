from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_storage.errors import ArgumentTypeError, ArgumentValueError
from durable_storage.ids import (
    DurableObjectId,
    check_jurisdiction,
    check_location_hint,
    id_from_name,
    id_from_string,
    new_unique_id,
)

RECORDED = {
    "page-views": "d9e45547f588e11d6290a2b836da8a30673d483ec40757469718434a9bac97c7",
    "": "2b6d38aa170bf0433318a45935cce9a77f0f2b639cadfa093225b2e54cac6826",
    "größe 🎉": "ba18ee81d48ceb216c46755a5b9a2e538d0752cf787ff4b48c7d6e57367f9c2d",
}
JURISDICTIONS = ["eu", "fedramp", "fedramp-high"]
HINTS = ["wnam", "enam", "sam", "weur", "eeur", "apac", "apac-ne", "apac-se", "oc", "afr", "me"]

names = st.text(st.characters(codec="utf-8"))
jurisdictions = st.sampled_from([None, *JURISDICTIONS])


@pytest.mark.parametrize(("name", "digits"), RECORDED.items())
def test_names_give_the_ids_of_the_original_runtime(name: str, digits: str) -> None:
    made = id_from_name("ns", name)
    assert made.to_string() == str(made) == digits
    assert made.name == name
    assert made.jurisdiction is None


@given(
    key=st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    name=names,
    jurisdiction=jurisdictions,
)
def test_an_id_read_from_its_digits_is_equal_and_knows_its_jurisdiction(
    key, name, jurisdiction
) -> None:
    for made in (id_from_name(key, name, jurisdiction), new_unique_id(key, jurisdiction)):
        read = id_from_string(key, str(made))
        assert read == made
        assert hash(read) == hash(made)
        assert read.equals(made)
        assert read.jurisdiction == jurisdiction
        assert read.name is None


def test_unique_ids_differ_and_have_no_name() -> None:
    made = [new_unique_id("ns") for _ in range(100)]
    assert len(set(made)) == 100
    assert {one.name for one in made} == {None}


def test_an_id_is_not_equal_to_its_digits() -> None:
    made = id_from_name("ns", "a")
    assert made != str(made)
    assert not made.equals(str(made))


def test_digits_may_be_upper_case() -> None:
    made = id_from_name("ns", "page-views")
    assert id_from_string("ns", str(made).upper()) == made


@pytest.mark.parametrize("jurisdiction", JURISDICTIONS)
def test_every_jurisdiction_has_ids_of_its_own(jurisdiction) -> None:
    others = {str(id_from_name("ns", "a", other)) for other in [None, *JURISDICTIONS]}
    assert len(others) == 4
    made = id_from_name("ns", "a", jurisdiction)
    assert made.jurisdiction == jurisdiction
    assert id_from_string("ns", str(made), jurisdiction) == made


def test_an_id_of_another_jurisdiction_is_refused_where_one_is_asked_for() -> None:
    plain, european = id_from_name("ns", "a"), id_from_name("ns", "a", "eu")
    with pytest.raises(ArgumentValueError, match="has none"):
        id_from_string("ns", str(plain), "eu")
    with pytest.raises(ArgumentValueError, match="belongs to 'eu'"):
        id_from_string("ns", str(european), "fedramp")


@given(names)
def test_an_id_of_another_namespace_is_refused(name) -> None:
    with pytest.raises(ArgumentValueError, match="not valid for this namespace"):
        id_from_string("other", str(id_from_name("ns", name)))


@given(st.binary(min_size=32, max_size=32))
def test_digits_that_no_namespace_made_are_refused(whole) -> None:
    with pytest.raises(ArgumentValueError, match="not valid for this namespace"):
        id_from_string("ns", whole.hex())


@pytest.mark.parametrize(
    "digits",
    [
        "",
        "a" * 63,
        "a" * 65,
        "g" * 64,
        " " + "a" * 63,
        "a" * 64 + "\n",
        "٣" * 64,
        "0x" + "a" * 62,
        "a" * 10**6,
    ],
)
def test_what_is_not_64_hex_digits_is_refused(digits: str) -> None:
    with pytest.raises(ArgumentValueError, match="64 hex digits") as caught:
        id_from_string("ns", digits)
    assert len(str(caught.value)) < 300
    with pytest.raises(ArgumentValueError, match="64 hex digits"):
        DurableObjectId(digits)


@pytest.mark.parametrize("wrong", [None, 5, b"a" * 64])
def test_names_and_digits_are_strings(wrong) -> None:
    with pytest.raises(ArgumentTypeError):
        id_from_name("ns", wrong)
    with pytest.raises(ArgumentTypeError):
        id_from_string("ns", wrong)


def test_a_name_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ArgumentValueError, match="surrogate"):
        id_from_name("ns", "a\ud800")


def test_a_namespace_key_cannot_imitate_a_jurisdiction() -> None:
    with pytest.raises(ArgumentValueError, match="NUL"):
        id_from_name("ns\0eu", "a")


@pytest.mark.parametrize("wrong", ["", "us", "EU", "eu "])
def test_an_unknown_jurisdiction_is_refused_everywhere(wrong) -> None:
    calls = [
        lambda: check_jurisdiction(wrong),
        lambda: id_from_name("ns", "a", wrong),
        lambda: new_unique_id("ns", wrong),
        lambda: id_from_string("ns", RECORDED["page-views"], wrong),
    ]
    for call in calls:
        with pytest.raises(ArgumentValueError, match="known are eu, fedramp, fedramp-high"):
            call()


@pytest.mark.parametrize("hint", [None, *HINTS])
def test_every_location_hint_is_taken(hint) -> None:
    assert check_location_hint(hint) == hint


def test_an_unknown_location_hint_is_refused() -> None:
    with pytest.raises(ArgumentValueError, match="known are wnam"):
        check_location_hint("mars")
    with pytest.raises(ArgumentTypeError):
        check_location_hint(5)


def test_an_id_is_immutable() -> None:
    made = id_from_name("ns", "a")
    with pytest.raises(AttributeError):
        made.name = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        made._hex = "b"
    with pytest.raises(AttributeError):
        del made._hex


def test_an_id_can_be_copied_and_pickled() -> None:
    made = id_from_name("ns", "a", "eu")
    for same in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert (same, same.name, same.jurisdiction) == (made, "a", "eu")


def test_the_repr_shows_everything() -> None:
    made = id_from_name("ns", "a", "eu")
    assert repr(made) == f"DurableObjectId('{made}', name='a', jurisdiction='eu')"
