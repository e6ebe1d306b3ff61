"""Take one safeguard after the other out of a copy of the package: the tests must notice each.

python -m tests.mutation              all of them
python -m tests.mutation NAME...      those whose names contain one of the words
python -m tests.mutation --list
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from .mutants import MUTANTS, Mutant

ROOT = pathlib.Path(__file__).parents[2]


class Unchanged(Exception):
    """The text that a mutant changes is not there, or more than once."""


def copy(place: pathlib.Path) -> None:
    """Copy what the tests need."""
    ignore = shutil.ignore_patterns("__pycache__", ".git", "*.pyc")
    for folder in ("durable_storage", "tests", "examples"):
        shutil.copytree(ROOT / folder, place / folder, ignore=ignore)
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, place / file)


def mutate(place: pathlib.Path, mutant: Mutant) -> None:
    """Make the change.

    Raises:
        Unchanged: the text is not there exactly once.
    """
    path = place / "durable_storage" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.before) != 1:
        raise Unchanged(
            f"{mutant.name}: {mutant.file} has its text {text.count(mutant.before)} times, not once"
        )
    path.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")


def failing(place: pathlib.Path, tests: tuple[str, ...]) -> str | None:
    """The first test that fails in a copy, if one does."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode == 1 and not failed:
        raise RuntimeError(done.stdout)
    return failed[0].split(" - ")[0].split(" ", 1)[1] if failed else None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not options.names or any(n in m.name for n in options.names)]
    if options.list:
        print(*(mutant.name for mutant in chosen), sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as directory:
        # What fails without a change would notice everything.
        copy(pathlib.Path(directory))
        tests = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
        broken = failing(pathlib.Path(directory), tests)
    if broken is not None:
        print(f"{broken} fails by itself")
        return 2
    survivors = 0
    for mutant in chosen:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            place = pathlib.Path(directory)
            copy(place)
            mutate(place, mutant)
            noticed = failing(place, mutant.tests)
        survivors += noticed is None
        print(
            f"{mutant.name}: {noticed or 'NOBODY NOTICED'} ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
    print(f"{len(chosen)} safeguards taken out, {len(chosen) - survivors} noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
