"""What *Start here* tells the reader to save and run, saved and run as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "start.md"
BLOCK = re.compile(r"```(?:\{code-block\} )?python\n(.*?)```", re.DOTALL)


def run(folder: Path, *command: str) -> str:
    result = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_first_object_and_the_first_test_work_as_written(tmp_path: Path) -> None:
    blocks: list[str] = BLOCK.findall(PAGE.read_text())
    (tmp_path / "notes.py").write_text(blocks[0])
    (tmp_path / "test_notes.py").write_text(blocks[-1])
    assert run(tmp_path, "notes.py") == "note 1\n['written in run 1']\n"
    assert run(tmp_path, "notes.py") == "note 2\n['written in run 1', 'written in run 2']\n"
    # Named, since a checkout that is only on the path has not told pytest of its plugin.
    plugins = ("-p", "durable_storage.pytest_plugin", "-p", "no:asyncio")
    assert " passed" in run(tmp_path, "-m", "pytest", "-q", *plugins)
