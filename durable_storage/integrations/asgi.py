"""A runtime in a Starlette or FastAPI application.

Needs the extra ``asgi``::

    app = FastAPI(
        lifespan=lifespan(lambda: Runtime("./data"), Room),
        exception_handlers=exception_handlers,
    )
    Rooms = Annotated[DurableObjectNamespace[Room], Depends(namespace_of(Room))]

    @app.get("/rooms/{name}")
    async def read(name: str, rooms: Rooms) -> list[Message]:
        return await rooms.get_by_name(name).messages()
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from ..errors import ArgumentTypeError, DurableStorageError, ObjectResetError, OverloadedError
from ..object import DurableObject
from ..runtime.namespace import DurableObjectNamespace
from ..runtime.runtime import Runtime

__all__ = ["exception_handlers", "lifespan", "namespace_of"]

O = TypeVar("O", bound=DurableObject)  # noqa: E741 - the object's class


def lifespan(
    runtime: Callable[[], Runtime], *classes: type[DurableObject]
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """The ``lifespan`` of an application that has a runtime: ``app.state.runtime``.

    The runtime is entered before the first request and closed after the last. An application with
    a lifespan of its own uses this one in it: ``async with lifespan(...)(app): yield``.

    Args:
        runtime: makes a new runtime each time the application starts, for example
            ``lambda: Runtime("./data")``.
        *classes: classes whose namespaces are made at the start, so that the alarms of their
            objects run before anybody calls one.
    """
    if isinstance(runtime, Runtime) or not callable(runtime):
        raise ArgumentTypeError(
            "lifespan() takes a function that makes a Runtime, since one can be entered once: "
            f"lifespan(lambda: Runtime(...)); got {type(runtime).__name__}"
        )

    @asynccontextmanager
    async def span(app: Any) -> AsyncGenerator[None]:
        async with runtime() as entered:
            for cls in classes:
                entered.namespace(cls)
            app.state.runtime = entered
            try:
                yield
            finally:
                del app.state.runtime

    return span


def namespace_of(
    cls: type[O], *, name: str | None = None
) -> Callable[[HTTPConnection], Coroutine[Any, Any, DurableObjectNamespace[O]]]:
    """A function that gives the namespace of ``cls`` for a request or a WebSocket.

    With FastAPI it is a dependency: ``Depends(namespace_of(Room))``; with Starlette it is called:
    ``await namespace_of(Room)(request)``.

    Args:
        cls: the class of the objects.
        name: as for `Runtime.namespace`.
    """

    # Not a plain function: FastAPI would run it in a worker thread.
    async def namespace(connection: HTTPConnection) -> DurableObjectNamespace[O]:
        runtime = getattr(connection.app.state, "runtime", None)
        if not isinstance(runtime, Runtime):
            raise DurableStorageError(
                "the application has no runtime: give it lifespan=lifespan(lambda: Runtime(...)), "
                "and see to it that the lifespan runs (httpx.ASGITransport alone does not)"
            )
        return runtime.namespace(cls, name=name)

    return namespace


async def _unavailable(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})


async def _reset(request: Request, error: Exception) -> Response:
    if getattr(error, "retryable", False):
        return await _unavailable(request, error)
    return JSONResponse({"detail": "the object was reset"}, 500)


exception_handlers: Final[
    dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]
] = {OverloadedError: _unavailable, ObjectResetError: _reset}
"""What an application answers when an object cannot (503 where trying again helps, else 500)."""
