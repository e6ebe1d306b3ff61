"""Every safeguard that ``python -m tests.mutation`` takes out is where it looks for it."""

from __future__ import annotations

import pathlib

import pytest

from .__main__ import Unchanged, copy, mutate
from .mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_safeguard_is_in_the_code_exactly_once(mutant: Mutant, tmp_path: pathlib.Path) -> None:
    copy(tmp_path)
    mutate(tmp_path, mutant)
    with pytest.raises(Unchanged):
        mutate(tmp_path, mutant)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_tests_that_must_notice_it_exist(mutant: Mutant) -> None:
    root = pathlib.Path(__file__).parents[2]
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert (root / file).is_file()
        assert name.partition("[")[0] in (root / file).read_text(encoding="utf-8")
