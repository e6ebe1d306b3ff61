"""The pytest plugin: loaded by itself wherever the package is installed.

Fixtures: ``durable_runtime``, ``durable_clock``, ``durable_faults``, ``durable_options``,
``durable_workers``. Settings: ``durable_workers``, and the options ``--durable-workers`` and
``--durable-seed``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

# What is under test is imported when a test asks for it, so that its coverage is measured.
if TYPE_CHECKING:
    from .runtime.runtime import Runtime
    from .testing import FaultInjector, ManualClock

__all__: list[str] = []

NEEDS_ASYNC = (
    "durable_runtime is for async tests: mark the test with pytest.mark.anyio, or with "
    "pytest.mark.asyncio if pytest-asyncio is installed"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the settings."""
    group = parser.getgroup("durable_storage")
    group.addoption(
        "--durable-workers",
        action="store_true",
        help="make `import workers` find durable_storage.workers",
    )
    group.addoption(
        "--durable-seed",
        type=int,
        default=None,
        help="let find_races() replay this seed alone",
    )
    parser.addini(
        "durable_workers",
        "make `import workers` find durable_storage.workers",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Follow the settings, before any test module is imported."""
    if config.getoption("--durable-workers", default=False) or config.getini("durable_workers"):
        from .workers import install

        install()
    seed = config.getoption("--durable-seed", default=None)
    if seed is not None:
        os.environ["DURABLE_STORAGE_SEED"] = str(seed)


@pytest.fixture
def durable_clock() -> ManualClock:
    """The clock of ``durable_runtime``; ``await durable_clock.advance(...)`` moves it."""
    from .testing import ManualClock

    return ManualClock()


@pytest.fixture
def durable_faults() -> FaultInjector:
    """The fault injector of ``durable_runtime``; asking for it makes durability ``"disk"``."""
    from .testing import FaultInjector

    return FaultInjector()


@pytest.fixture
def durable_options() -> dict[str, Any]:
    """Arguments of the ``Runtime`` that ``durable_runtime`` opens; override it to give some."""
    return {}


@pytest.fixture
def durable_runtime(
    request: pytest.FixtureRequest,
    durable_clock: ManualClock,
    durable_faults: FaultInjector,
    durable_options: dict[str, Any],
) -> Generator[Runtime]:
    """An open ``Runtime``: temporary directory, manual clock, durability ``"os"``.

    At the end it is an error if an event, background work or an open file is left.
    """
    # Not an async fixture: then only one of anyio and pytest-asyncio would run it.
    if "anyio_backend" in request.fixturenames:
        from anyio.pytest_plugin import extract_backend_and_options, get_runner

        arguments: dict[str, Any] = {
            "request": request,
            "durable_clock": durable_clock,
            "durable_faults": durable_faults,
            "durable_options": durable_options,
        }
        backend, options = extract_backend_and_options(request.getfixturevalue("anyio_backend"))
        with get_runner(backend, options) as runner:
            yield from runner.run_asyncgen_fixture(_open, arguments)
    elif request.config.pluginmanager.has_plugin("asyncio"):
        yield request.getfixturevalue(f"_durable_runtime_{_loop_scope(request)}")
    else:
        pytest.fail(NEEDS_ASYNC, pytrace=False)


async def _open(
    request: pytest.FixtureRequest,
    durable_clock: ManualClock,
    durable_faults: FaultInjector,
    durable_options: dict[str, Any],
) -> AsyncGenerator[Runtime]:
    from .testing.session import runtime_for_test

    options = dict(durable_options)
    if "durable_faults" in request.node.fixturenames:
        options.setdefault("durability", "disk")
    async with runtime_for_test(options, clock=durable_clock, faults=durable_faults) as runtime:
        yield runtime


def _loop_scope(request: pytest.FixtureRequest) -> str:
    """Whose event loop pytest-asyncio runs the test on; a runtime works on its own loop only."""
    item: pytest.Item = request.node
    marker = item.get_closest_marker("asyncio")
    options: Mapping[str, object] = {} if marker is None else marker.kwargs
    try:
        default: object = request.config.getini("asyncio_default_test_loop_scope")
    except (KeyError, ValueError):
        default = None
    return str(options.get("loop_scope") or options.get("scope") or default or "function")


def _declare(scope: str) -> None:
    async def opened(
        request: pytest.FixtureRequest,
        durable_clock: ManualClock,
        durable_faults: FaultInjector,
        durable_options: dict[str, Any],
    ) -> AsyncGenerator[Runtime]:
        opening = asynccontextmanager(_open)
        async with opening(request, durable_clock, durable_faults, durable_options) as runtime:
            yield runtime

    # In its strict mode pytest-asyncio runs only the fixtures that it was given.
    asyncio: Any = importlib.import_module("pytest_asyncio")
    name = f"_durable_runtime_{scope}"
    try:
        globals()[name] = asyncio.fixture(name=name, loop_scope=scope)(opened)
    except TypeError:
        # Versions before 0.24 have one loop for each test.
        globals()[name] = asyncio.fixture(name=name)(opened)


if importlib.util.find_spec("pytest_asyncio") is not None:
    for _scope in ("function", "class", "module", "package", "session"):
        _declare(_scope)


@pytest.fixture
def durable_workers(durable_clock: ManualClock) -> Generator[ModuleType]:
    """Make ``import workers`` find the stand-in during the test, and give that module."""
    from .workers import installed

    with installed(clock=durable_clock) as module:
        yield module
