"""The command line while another process owns the directory, and after that one was killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from durable_storage import sync

from .rig import Counter, Shell, lines, write_lines

OWNER = """
import sys
from durable_storage import sync
from tests.unit.cli.rig import Counter
with sync.Runtime(sys.argv[1]) as runtime:
    counter = runtime.namespace(Counter).get_by_name("a")
    for number, line in enumerate(sys.stdin):
        print(counter.write(line.strip()), flush=True)
"""


class Owner:
    def __init__(self, data: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(data)],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def write(self, text: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture
def owner(data: Path) -> Generator[Callable[[], Owner]]:
    owners: list[Owner] = []

    def start() -> Owner:
        owners.append(Owner(data))
        return owners[-1]

    yield start
    for each in owners:
        each.end()


def texts(shell: Shell, data: Path) -> list[Any]:
    found = shell.json("sql", data, "Counter", "a", "SELECT text FROM line ORDER BY id")
    return [row[0] for row in found["rows"]]


def test_reading_shows_what_is_confirmed(
    shell: Shell, data: Path, tmp_path: Path, owner: Callable[[], Owner]
) -> None:
    write_lines(data, "before")
    running = owner()
    for n in range(3):
        bookmark = running.write(f"line {n}")
        assert texts(shell, data) == ["before", *(f"line {m}" for m in range(n + 1))]
        assert shell.json("ls", data)["running"] is True
        found = [
            each["bookmark"]
            for each in shell.json("history", data, "Counter", "a", "--every-moment")["timeline"]
        ]
        assert bookmark in found
    assert "in use by a running process" in shell("ls", data).out
    assert shell("check", data).code == 0
    assert shell("history", data, "Counter", "a", "verify").code == 0
    shell.json("history", data, "Counter", "a", "export", tmp_path / "x.sqlite", "--at", bookmark)
    shell.json("export", data, "Counter", "a", tmp_path / "y.sqlite")
    assert running.write("after")


def test_a_new_object_has_no_bookmarks_to_show_yet(
    shell: Shell, data: Path, owner: Callable[[], Owner]
) -> None:
    running = owner()
    running.write("one")
    assert texts(shell, data) == ["one"]
    assert shell.json("history", data, "Counter", "a")["timeline"]
    assert shell("history", data, "Counter", "a", "verify").code == 0
    assert shell("check", data).code == 0


def test_writing_is_refused(
    shell: Shell, data: Path, tmp_path: Path, owner: Callable[[], Owner]
) -> None:
    (bookmark,) = write_lines(data, "one")
    shell.json("export", data, "Counter", "a", tmp_path / "x.sqlite")
    running = owner()
    running.write("two")
    for command in (
        ("sql", data, "Counter", "a", "DELETE FROM line", "--write"),
        ("history", data, "Counter", "a", "restore", "--to", bookmark, "--yes"),
        ("import", tmp_path / "x.sqlite", data, "Counter", "b", "--exported"),
    ):
        refused = shell(*command)
        assert refused.code == 1
        assert str(running.process.pid) in refused.err
    running.end()
    assert lines(data) == ["one", "two"]


def test_what_a_killed_process_left_is_read_restored_and_goes_on(
    shell: Shell, data: Path, owner: Callable[[], Owner]
) -> None:
    running = owner()
    first = running.write("one")
    running.write("two")
    running.process.kill()
    running.process.wait()
    assert shell.json("ls", data)["running"] is False
    assert texts(shell, data) == ["one", "two"]
    assert shell("check", data).code == 0
    shell.json("history", data, "Counter", "a", "restore", "--to", first, "--yes")
    assert texts(shell, data) == ["one"]
    assert lines(data) == ["one"]


def test_a_directory_of_this_very_process_is_left_alone(shell: Shell, data: Path) -> None:
    with sync.Runtime(data) as runtime:
        runtime.namespace(Counter).get_by_name("a").write("one")
        refused = shell("ls", data)
        assert (refused.code, "this very process" in refused.err) == (1, True)


def test_the_module_runs_as_a_program(data: Path) -> None:
    write_lines(data, "one")
    done = subprocess.run(
        [sys.executable, "-m", "durable_storage", "ls", str(data)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Counter (sqlite), 1 object:" in done.stdout
    assert done.stderr == ""


def test_verify_counts_the_commits_that_are_in_the_wal(
    shell: Shell, data: Path, owner: Callable[[], Owner]
) -> None:
    write_lines(data, "before")
    command = ("history", data, "Counter", "a", "verify")
    closed = shell.json(*command)
    assert closed["commits_in_wal"] == 0
    assert "not archived yet" not in shell(*command).out
    running = owner()
    counts: list[int] = []
    for n in range(3):
        running.write(f"line {n}")
        found = shell.json(*command)
        assert found["commits"] == closed["commits"]
        counts.append(found["commits_in_wal"])
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]
    told = " ".join(shell(*command).out.split())
    assert f"not archived yet {counts[-1]} commits in the WAL" in told
    running.end()
    after = shell.json(*command)
    assert (after["commits"], after["commits_in_wal"]) == (closed["commits"] + counts[-1], 0)
