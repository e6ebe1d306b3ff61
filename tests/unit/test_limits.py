from __future__ import annotations

import dataclasses
import math

import pytest

from durable_storage.errors import ArgumentTypeError, ArgumentValueError
from durable_storage.limits import Limits

FIELDS = [field.name for field in dataclasses.fields(Limits)]


def test_the_defaults_are_the_documented_limits() -> None:
    limits = Limits()
    assert limits.columns == limits.parameters == 100
    assert limits.statement_size_max_bytes == 100_000
    assert limits.function_arguments == 32
    assert limits.like_pattern_size_max_bytes == 50
    assert limits.value_size_max_bytes == 2 * 1024 * 1024
    assert limits.database_size_max_bytes == 10 * 1024**3
    assert limits.keys_per_call == 128
    assert (limits.legacy_key_size_max_bytes, limits.legacy_value_size_max_bytes) == (
        2048,
        128 * 1024,
    )


@pytest.mark.parametrize("field", FIELDS)
def test_every_limit_can_be_lowered_and_raised(field: str) -> None:
    assert getattr(Limits(**{field: 1}), field) == 1
    assert getattr(Limits(**{field: 10**12}), field) == 10**12


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_that_is_not_positive_is_refused(field: str, value: int) -> None:
    with pytest.raises(ArgumentValueError, match=field):
        Limits(**{field: value})


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["1", None, True, 1j])
def test_a_limit_that_is_not_a_number_is_refused(field: str, value: object) -> None:
    with pytest.raises(ArgumentTypeError, match=field):
        Limits(**{field: value})  # type: ignore[arg-type]


def test_only_seconds_may_be_fractions() -> None:
    assert Limits(critical_section_seconds=0.5).critical_section_seconds == 0.5
    with pytest.raises(ArgumentTypeError, match="columns"):
        Limits(columns=0.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentValueError):
        Limits(critical_section_seconds=math.nan)


def test_limits_do_not_change_once_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().columns = 5  # type: ignore[misc]
