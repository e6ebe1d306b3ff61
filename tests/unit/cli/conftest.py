from __future__ import annotations

from pathlib import Path

import pytest

from .rig import Shell


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"
