"""A runtime for one test: fast, on a manual clock, and checked for what the test left behind."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from ..errors import ArgumentTypeError, DurableStorageError
from ..runtime import alarms
from ..runtime.runtime import Runtime
from .clock import ManualClock
from .faults import FaultInjector
from .places import temporary_directory

__all__ = ["runtime_for_test"]

GRACE_SECONDS = 1.0


@asynccontextmanager
async def runtime_for_test(
    options: Mapping[str, Any] | None = None,
    *,
    clock: ManualClock | None = None,
    faults: FaultInjector | None = None,
) -> AsyncGenerator[Runtime]:
    """A runtime in a temporary directory; what ``durable_runtime`` is made of.

    Args:
        options: of `Runtime`, over the defaults: ``durability="os"``, and the other arguments.
        clock: default a new `ManualClock`.
        faults: default a new `FaultInjector`.

    Raises:
        AssertionError: at the end, if the test was fine otherwise: an event or background work is
            still under way, or a file of the runtime is still open.
    """
    if options is not None and not isinstance(options, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(
            f"runtime_for_test() takes a mapping of options, got {type(options).__name__}"
        )
    if faults is None:
        faults = FaultInjector()
    # The spread of alarm retries: the same in every run.
    alarms.JITTER.seed(0)
    with temporary_directory() as directory:
        settings: dict[str, Any] = {
            "path": directory,
            "durability": "os",
            "clock": ManualClock() if clock is None else clock,
            "faults": faults,
            **(options or {}),
        }
        runtime = await Runtime(**settings).__aenter__()
        path = runtime.path
        failed = True
        left: list[str] = []
        try:
            yield runtime
            failed = False
        finally:
            with anyio.CancelScope(shield=True):
                left = await _under_way(runtime)
                faults.clear()
                try:
                    await runtime.close()
                except (DurableStorageError, OSError):
                    if not faults.power_is_lost:
                        raise
            if not failed:
                left += _open_files(path)
                if left:
                    raise AssertionError("the test left behind: " + "; ".join(left))


async def _under_way(runtime: Runtime) -> list[str]:
    """What still runs, after a moment's grace; it is ended."""
    if runtime.closing:
        return []
    with anyio.move_on_after(GRACE_SECONDS):
        await runtime._quiet()  # pyright: ignore[reportPrivateUsage]
    left: list[str] = []
    for resident in runtime._all_residents():  # pyright: ignore[reportPrivateUsage]
        life = resident.host.life
        if life is None or resident.idle:
            continue
        found = [
            f"{count} {what}{'s' if count > 1 else ''}"
            for count, what in (
                (life.events, "event"),
                (life.background, "background task"),
            )
            if count
        ]
        left.append(f"{' and '.join(found) or 'a critical section'} of {life.name} still running")
    if left:
        runtime._break_all("was reset: its test has ended")  # pyright: ignore[reportPrivateUsage]
    return left


def _open_files(path: str) -> list[str]:
    """Open descriptors of files below ``path``, where the system can tell."""
    found: set[str] = set()
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return []
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith(path + os.sep):
            found.add(os.path.relpath(target, path))
    return [f"the open file {name}" for name in sorted(found)]
