"""What the guide shows on a terminal is what is printed there."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path

import pytest

from .rig import Shell

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "command-line.md"


def blocks(language: str) -> list[str]:
    text = GUIDE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def without_what_varies(printed: str) -> list[str]:
    for pattern, word in (
        (r"\b[0-9a-f]{64}\b", "ID"),
        (r"\b\d{4}-\d\d-\d\dT\S+Z", "TIME"),
        (r"\b[\d.]+ (?:KiB|B)\b", "SIZE"),
    ):
        printed = re.sub(pattern, word, printed)
    return [" ".join(line.split()) for line in printed.splitlines()]


def test_the_terminal_shows_what_the_guide_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    monkeypatch.chdir(tmp_path)
    page = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    exec(compile(blocks("python")[0], str(GUIDE), "exec"), page.__dict__)
    (session,) = blocks("console")
    commands = session.split("$ python -m durable_storage ")[1:]
    assert commands
    for each in commands:
        command, shown = each.split("\n", 1)
        done = shell(*shlex.split(command))
        assert done.code == 0, done.err
        assert without_what_varies(done.out) == without_what_varies(shown)
