"""Stand-ins for the modules that a Worker imports.

They are ``workers``, and the little of ``js`` and ``pyodide.ffi`` that code around objects uses.
Any other name can be imported from both too, so that a module which needs it elsewhere loads; to
use it is an error.
"""

from __future__ import annotations

import datetime
import json
import sys
import types
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Never, final

from ..clock import Clock, SystemClock
from ..errors import ArgumentTypeError, DurableStorageError
from . import web
from .values import JsDict, to_js

__all__ = ["import_from_javascript", "install", "installed"]

_clock: list[Clock] = [SystemClock()]


def _now() -> int:
    return _clock[0].time_ms()


class _Date(datetime.datetime):
    """A moment with the few methods that code around objects uses of JavaScript's ``Date``."""

    def getTime(self) -> int:  # noqa: N802
        return round(self.timestamp() * 1000)

    def toISOString(self) -> str:  # noqa: N802
        text = self.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
        return text.removesuffix("+00:00") + "Z"


def _date(when: float | str | datetime.datetime | None = None) -> _Date:
    if isinstance(when, str):
        when = datetime.datetime.fromisoformat(when)
    if isinstance(when, datetime.datetime):
        return _Date.fromtimestamp(when.timestamp(), tz=datetime.UTC)
    moment = _now() if when is None else when
    return _Date.fromtimestamp(moment / 1000, tz=datetime.UTC)


class _JsProxy:
    """What ``isinstance(value, JsProxy)`` asks for: nothing, since every value is Python's own."""


@final
class _Missing:
    """Something of JavaScript that is not stood in for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self) -> Never:
        raise NotImplementedError(
            f"durable_storage.workers does not stand in for {self._name}; monkeypatch it in the "
            "module under test"
        )

    def __call__(self, *_arguments: Any, **_options: Any) -> Never:
        self._refuse()

    def __getattr__(self, attribute: str) -> Never:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        self._refuse()


def _missing(module: str) -> Callable[[str], Any]:
    def find(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        # The types of pyodide.ffi are kinds of JsProxy.
        return _JsProxy if name.startswith("Js") else _Missing(f"{module}.{name}")

    return find


def _run_sync(_awaitable: Any) -> Never:
    raise NotImplementedError(
        "run_sync() switches stacks, which only Pyodide can: await it instead, or monkeypatch "
        "`run_sync` in the module under test"
    )


def import_from_javascript(module_name: str) -> Any:
    """The module ``cloudflare:workers``; there are no others.

    Raises:
        ImportError: another module.
    """
    if module_name != "cloudflare:workers":
        raise ImportError(f"durable_storage.workers has no JavaScript module {module_name!r}")
    return sys.modules[__package__ or "durable_storage.workers"]


def _from_entries(pairs: Iterable[Iterable[Any]]) -> JsDict:
    return JsDict({str(key): value for key, value in pairs})


def _values(value: dict[str, Any]) -> list[Any]:
    return list(value.values())


def _entries(value: dict[str, Any]) -> list[list[Any]]:
    return [list(pair) for pair in value.items()]


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
        Object=space(
            fromEntries=_from_entries,
            keys=list,
            values=_values,
            entries=_entries,
        ),
        Date=space(now=_now, new=_date),
        Headers=space(new=web.headers_of),
        Request=web.Request,
        Response=web.Response,
        undefined=None,
        __getattr__=_missing("js"),
        JSON=space(stringify=_dumps, parse=json.loads),
        console=space(log=print, info=print, warn=print, error=print, debug=print),
        crypto=space(randomUUID=lambda: str(uuid.uuid4())),
    )
    ffi = _module(
        "pyodide.ffi",
        to_js=_to_js,
        create_proxy=_same,
        create_once_callable=_same,
        run_sync=_run_sync,
        JsProxy=_JsProxy,
        # There, whatever the runtime refuses is one of these.
        JsException=DurableStorageError,
        JsNull=type(None),
        jsnull=None,
        __getattr__=_missing("pyodide.ffi"),
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
    if clock is not None and (isinstance(clock, type) or not isinstance(clock, Clock)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(f"clock= takes a Clock, got {clock!r}")
    _clock[0] = SystemClock() if clock is None else clock
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
