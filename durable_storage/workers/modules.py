"""Stand-ins for the modules that a Worker imports.

They are ``workers``, and the little of ``js`` and ``pyodide.ffi`` that code around objects uses.
"""

from __future__ import annotations

import datetime
import json
import sys
import types
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from ..clock import Clock, SystemClock
from .values import JsDict, to_js

__all__ = ["install", "installed"]

_clock: list[Clock] = [SystemClock()]


def _now() -> int:
    return _clock[0].time_ms()


def _date(when: float | str | None = None) -> datetime.datetime:
    if isinstance(when, str):
        return datetime.datetime.fromisoformat(when)
    moment = _now() if when is None else when
    return datetime.datetime.fromtimestamp(moment / 1000, tz=datetime.UTC)


def _from_entries(pairs: Iterable[Iterable[Any]]) -> JsDict:
    return JsDict({str(key): value for key, value in pairs})


def _to_js(value: Any, **_options: Any) -> Any:
    return to_js(value, tuples=True)


def _same(value: Any) -> Any:
    return value


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _module(name: str, **contents: Any) -> types.ModuleType:
    module = types.ModuleType(name, "A stand-in made by durable_storage.workers.")
    vars(module).update(contents)
    return module


def _stand_ins() -> dict[str, types.ModuleType]:
    space = types.SimpleNamespace
    js = _module(
        "js",
        Object=space(fromEntries=_from_entries),
        Date=space(now=_now, new=_date),
        JSON=space(stringify=_dumps, parse=json.loads),
        console=space(log=print, info=print, warn=print, error=print, debug=print),
        crypto=space(randomUUID=lambda: str(uuid.uuid4())),
    )
    ffi = _module(
        "pyodide.ffi",
        to_js=_to_js,
        create_proxy=_same,
        create_once_callable=_same,
        JsProxy=JsDict,
        JsException=type("JsException", (Exception,), {}),
        jsnull=None,
    )
    pyodide = _module("pyodide", ffi=ffi, __version__="0.0.0", __path__=[])
    # Not imported at the top: the package is what imports this module.
    workers = sys.modules[__package__ or "durable_storage.workers"]
    return {"workers": workers, "js": js, "pyodide": pyodide, "pyodide.ffi": ffi}


def install(*, clock: Clock | None = None) -> None:
    """Make ``import workers``, ``js`` and ``pyodide.ffi`` find the stand-ins in this process.

    A real ``js`` or ``pyodide`` that is imported already is left alone.

    Args:
        clock: what ``js.Date`` tells; default the clock of the machine.
    """
    _clock[0] = clock or SystemClock()
    for name, module in _stand_ins().items():
        if name == "workers":
            sys.modules[name] = module
        else:
            sys.modules.setdefault(name, module)


@contextmanager
def installed(*, clock: Clock | None = None) -> Generator[types.ModuleType]:
    """As `install`, for the duration of a ``with`` block; gives the ``workers`` module."""
    names = ("workers", "js", "pyodide", "pyodide.ffi")
    before = {name: sys.modules.get(name) for name in names}
    clock_before = _clock[0]
    install(clock=clock)
    try:
        yield sys.modules["workers"]
    finally:
        _clock[0] = clock_before
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
