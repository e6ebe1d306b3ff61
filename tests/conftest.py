from __future__ import annotations

import pytest

from .stateful.profiles import choose


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long`` makes the property tests try far more."""
    parser.addoption("--long", action="store_true", help="try far more random cases")


def pytest_configure(config: pytest.Config) -> None:
    """Choose how much is tried."""
    choose(config)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every test that is marked ``anyio`` on both event loops."""
    return request.param
