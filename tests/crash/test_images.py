"""A sample of the crash images; all of them: ``python -m tests.crash.images --all``."""

from __future__ import annotations

import os
import pathlib
import random
import subprocess
import sys

import pytest

from .images import Known, crash_everywhere, outcomes_of
from .replay import Disk
from .scripts import SCRIPTS, make_everything_happen_often
from .tracing import MISSING, Operation, available, parse, record

# Every answer, and every so-many-th operation between them.
EVERY = 23

pytestmark = pytest.mark.skipif(not available(), reason=MISSING)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    from durable_storage.history import archive, commit_log, image, retention
    from durable_storage.storage import host

    for module, name in (
        (host, "FOLD_AT_BYTES"),
        (archive, "SLICE_SIZE"),
        (image, "SLICE_SIZE"),
        (retention, "SNAPSHOT_AFTER_MIN_BYTES"),
        (retention, "LOG_PER_SNAPSHOT"),
        (commit_log, "ARCHIVE_AHEAD_FRAMES"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    make_everything_happen_often()


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_crash_anywhere_leaves_what_was_answered_and_nothing_half_done(name: str) -> None:
    backend = ("asyncio", "trio")[sorted(SCRIPTS).index(name) % 2]
    result = crash_everywhere(name, backend, every=EVERY, seed=sum(name.encode()))
    assert result.operations > 200
    assert sum(result.images.values()) > 60


# -- the instrument itself


def traced(tmp_path: pathlib.Path, script: str) -> list[Operation]:
    root = tmp_path / "root"
    root.mkdir()
    program = f"import os; os.chdir({str(root)!r}); R = {str(root)!r}\n{script}"
    trace = str(tmp_path / "trace")
    done = record([sys.executable, "-S", "-c", program], trace)
    assert done.returncode == 0, done.stderr
    return parse(trace, str(root))


def image(operations: list[Operation], tmp_path: pathlib.Path, variant: str, seed: int = 0) -> dict[str, bytes]:  # fmt: skip
    disk = Disk(operations)
    for operation in operations:
        disk.play(operation)
    target = tmp_path / f"image-{variant}-{seed}"
    disk.build(str(target), variant, random.Random(seed))  # type: ignore[arg-type]
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file()
    }


WRITES = """
f = os.open(R + "/a", os.O_RDWR | os.O_CREAT)
os.pwrite(f, b"1" * 1000, 0)
os.fsync(f)
os.pwrite(f, b"2" * 1500, 0)
d = os.open(R, os.O_RDONLY)
os.fsync(d)
os.mkdir(R + "/sub")
g = os.open(R + "/sub/b", os.O_RDWR | os.O_CREAT)
os.write(g, b"3")
os.fsync(g)
os.rename(R + "/a", R + "/c")
"""


def test_the_disk_holds_everything_when_only_the_process_died(tmp_path: pathlib.Path) -> None:
    operations = traced(tmp_path, WRITES)
    assert image(operations, tmp_path, "kept") == {"c": b"2" * 1500, "sub/b": b"3"}


def test_the_disk_holds_what_was_synced_when_all_the_rest_is_lost(tmp_path: pathlib.Path) -> None:
    operations = traced(tmp_path, WRITES)
    # The directory of the second file was never synced, and neither was the rename.
    assert image(operations, tmp_path, "dropped") == {"a": b"1" * 1000}


def test_torn_writes_are_torn_at_sectors_and_synced_bytes_never_change(
    tmp_path: pathlib.Path,
) -> None:
    operations = traced(tmp_path, WRITES)
    seen = set()
    for seed in range(60):
        files = image(operations, tmp_path, "torn", seed)
        content = files.get("a", files.get("c", b""))
        assert len(content) >= 1000
        assert set(content) <= set(b"\x0012")
        seen.add(tuple(content[start : start + 1] for start in range(0, len(content), 512)))
    assert (b"2", b"1") in seen
    assert (b"1", b"2") in seen
    assert (b"2", b"2", b"2") in seen


def test_a_sync_covers_no_write_that_was_still_running_when_it_began() -> None:
    write = Operation(1, 5, 0, "write", node=1, data=b"late")
    sync = Operation(2, 6, 0, "sync", node=1)
    disk = Disk([])
    for operation in (Operation(0, 0, 0, "link", name="f", other=1), write, sync):
        disk.play(operation)
    assert disk._files[1].durable == b""
    disk.play(Operation(7, 8, 0, "sync", node=1))
    assert disk._files[1].durable == b"late"


def test_a_lost_answer_is_noticed(tmp_path: pathlib.Path) -> None:
    """The check fails for a library that answers before the disk has it."""
    marks = [{"begin": "Thing/x"}, {"end": "Thing/x"}, {"state": "Thing/x", "value": "after"}]
    operations = [
        Operation(number, number, 0, "mark", mark=mark) for number, mark in enumerate(marks)
    ]
    outcomes = outcomes_of(operations)
    known = Known()
    known.take(marks[0], outcomes, 0)
    assert known.possible == {"Thing/x": "after"}
    assert known.states == {}
    known.take(marks[1], outcomes, 1)
    assert known.states == {"Thing/x": "after"}


def test_a_missing_tracer_is_said_plainly() -> None:
    environment = {**os.environ, "PATH": os.path.dirname(sys.executable)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.images", "--all"],
        capture_output=True, text=True, env=environment, check=False,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 2
    assert "apt-get install strace" in done.stderr
