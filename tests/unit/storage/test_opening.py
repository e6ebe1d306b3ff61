"""What `DurableObjectState.open` refuses, and what it opens although something is in the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from durable_storage import ArgumentTypeError, DurableObjectState, Runtime

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("setting", ["limits", "serializer", "history", "clock"])
@pytest.mark.parametrize("bad", [5, 0, "", dict])
async def test_a_setting_of_another_type_is_refused_before_there_is_a_file(
    tmp_path: Path, setting: str, bad: Any
) -> None:
    with pytest.raises(ArgumentTypeError, match=setting):
        DurableObjectState.open(tmp_path / "a.sqlite", **{setting: bad})
    if bad:
        with pytest.raises(ArgumentTypeError, match=setting):
            Runtime(tmp_path, **{setting: bad})
    assert not os.listdir(tmp_path)
