"""A stand-in for the ``workers`` module of Cloudflare's Python Workers.

A Durable Object class written for Cloudflare runs unmodified on a `durable_storage.Runtime`, in an
ordinary process. Everything here translates names, options and values; the behaviour is the
library's. Three ways to make ``from workers import DurableObject`` find it: the setting
``durable_workers = true`` of pytest, the fixture ``durable_workers``, or `install`.
"""

from __future__ import annotations

from typing import Any, Never

from .bindings import (
    DurableObjectId,
    DurableObjectNamespace,
    DurableObjectStub,
    Env,
    bind,
    env,
)
from .modules import import_from_javascript, install, installed
from .objects import (
    AlarmInvocationInfo,
    DurableObject,
    DurableObjectAbort,
    DurableObjectContext,
    ExecutionContext,
    WorkerEntrypoint,
    WorkflowEntrypoint,
    entrypoint,
    handler,
    waitUntil,
)
from .storage import (
    DurableObjectStorage,
    DurableObjectTransaction,
    SqlStorage,
    SqlStorageCursor,
    SyncKvStorage,
)
from .values import JsArray, JsDict, JsMap, from_js, to_js
from .web import FetchResponse, Headers, Request, Response

__all__ = [
    "AlarmInvocationInfo",
    "DurableObject",
    "DurableObjectAbort",
    "DurableObjectContext",
    "DurableObjectId",
    "DurableObjectNamespace",
    "DurableObjectStorage",
    "DurableObjectStub",
    "DurableObjectTransaction",
    "Env",
    "ExecutionContext",
    "FetchResponse",
    "Headers",
    "JsArray",
    "JsDict",
    "JsMap",
    "Request",
    "Response",
    "SqlStorage",
    "SqlStorageCursor",
    "SyncKvStorage",
    "WorkerEntrypoint",
    "WorkflowEntrypoint",
    "bind",
    "entrypoint",
    "env",
    "fetch",
    "handler",
    "import_from_javascript",
    "install",
    "installed",
    "python_from_rpc",
    "python_to_rpc",
    "waitUntil",
    "wait_until",
]

python_from_rpc = from_js
python_to_rpc = to_js
wait_until = waitUntil


async def fetch(*_arguments: Any, **_options: Any) -> Never:
    """Refused: there is no network behind this module; replace the name in your own module.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        "durable_storage.workers does not reach the network; monkeypatch `fetch` in the module "
        "under test"
    )
