"""Whatever a test left open is closed when it ends, as the end of its process would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .rig import Session


@pytest.fixture(autouse=True)
def _closed_in_the_end(  # pyright: ignore[reportUnusedFunction] - by pytest
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    opened: list[Session] = []
    genuine = Session.__init__

    def noted(session: Session, *arguments: Any, **settings: Any) -> None:
        genuine(session, *arguments, **settings)
        opened.append(session)

    monkeypatch.setattr(Session, "__init__", noted)
    yield
    for session in opened:
        session.database.close()
