from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from durable_storage import Runtime
from examples import code_search

SCRIPT = Path(code_search.__file__)
SECONDS_MAX = 60
MEMORY_MAX_BYTES = 300 * 1000**2


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300
    )


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def start(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit_files,
    )


def indexed(output: str) -> tuple[int, int]:
    """How many files the run says it has added, and how many there are now."""
    added = re.search(r"added (\d+) files", output)
    files = re.search(r"(\d+) files of \d+ packages are indexed", output)
    assert added is not None
    assert files is not None
    return int(added[1]), int(files[1])


def test_the_whole_library_is_indexed_and_a_kill_in_the_middle_loses_nothing(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    total = sum(len(files) for files in code_search.library_files().values())

    with start(data) as first:
        assert first.stderr is not None
        for line in first.stderr:
            if line.startswith("[#########"):
                break
        first.kill()
    assert first.wait() < 0

    with start(data) as second:
        output, errors = second.stdout, second.stderr
        assert output is not None
        assert errors is not None
        said = output.read()
        complaints = [line for line in errors if not line.startswith("[")]
        _, status, used = os.wait4(second.pid, 0)
        second.returncode = os.waitstatus_to_exitcode(status)
    assert second.returncode == 0, complaints
    assert not complaints
    added, files = indexed(said)
    assert files == total
    assert 0 < added < total
    assert used.ru_utime + used.ru_stime < SECONDS_MAX
    # Until it runs its own program, a child counts what its parent has.
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert used.ru_maxrss * unit < MEMORY_MAX_BYTES or used.ru_maxrss <= own

    third = run(data)
    assert third.returncode == 0, third.stderr
    assert indexed(third.stdout) == (0, total)

    found = run(data, "search", "ChainMap")
    assert found.returncode == 0, found.stderr
    score, place, text = found.stdout.splitlines()[0].split(maxsplit=2)
    file, line, _ = place.split(":")
    assert float(score) > 0
    shown = code_search.read_source(code_search.LIBRARY / file).splitlines()[int(line) - 1]
    assert text == shown.strip()
    assert "chainmap" in shown.lower()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "library"
    (root / "shapes").mkdir(parents=True)
    (root / "shapes" / "__init__.py").write_text("def area():\n    return 'round'\n")
    (root / "colours.py").write_text("# many\n\nclass Red:\n    shade = 'crimson'\n")
    monkeypatch.setattr(code_search, "LIBRARY", root)
    return root


async def build(data: Path) -> None:
    async with Runtime(data) as runtime:
        await code_search.build(runtime)


async def search(data: Path, words: str) -> bool:
    async with Runtime(data) as runtime:
        return await code_search.search(runtime, words)


@pytest.mark.anyio
async def test_only_what_changed_is_indexed_again(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    await build(data)
    assert indexed(capsys.readouterr().out) == (2, 2)

    (library / "colours.py").write_text("shade = 'scarlet'\n")
    (library / "sounds.py").write_text("loud = True\n")
    await build(data)
    assert indexed(capsys.readouterr().out) == (2, 3)
    assert not await search(data, "crimson")
    assert await search(data, "scarlet")

    (library / "sounds.py").unlink()
    await build(data)
    assert indexed(capsys.readouterr().out) == (0, 2)
    assert not await search(data, "loud")


@pytest.mark.anyio
async def test_a_hit_names_its_file_and_line(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await build(tmp_path / "data")
    capsys.readouterr()
    assert await search(tmp_path / "data", "CRIMSON")
    assert "colours.py:4: shade = 'crimson'" in capsys.readouterr().out


def test_search_before_anything_is_indexed_says_what_to_do(tmp_path: Path) -> None:
    result = run(tmp_path / "data", "search", "word")
    assert result.returncode == 1
    assert "nothing is indexed yet" in result.stderr


def test_a_directory_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with start(tmp_path / "data") as first:
        assert first.stderr is not None
        first.stderr.readline()
        second = run(tmp_path / "data")
        first.kill()
    assert second.returncode == 1
    assert "Traceback" not in second.stderr
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["data", "search"], ["data", "find", "word"]])
def test_other_arguments_show_the_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "search WORD" in result.stderr
