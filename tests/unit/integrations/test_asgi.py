"""The runtime of a Starlette or FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import anyio
import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from durable_storage import (
    ArgumentTypeError,
    DurableObject,
    DurableObjectNamespace,
    DurableStorageError,
    ObjectResetError,
    OverloadedError,
    Runtime,
)
from durable_storage.integrations.asgi import exception_handlers, lifespan, namespace_of
from durable_storage.testing import ManualClock

pytestmark = pytest.mark.anyio

RUNS: list[str] = []


class Counter(DurableObject):
    async def increment(self) -> int:
        value: int = await self.ctx.storage.get("value", 0) + 1
        self.ctx.storage.put("value", value)
        return value

    async def later(self) -> None:
        self.ctx.storage.set_alarm(timedelta(minutes=1))

    async def alarm(self) -> None:
        RUNS.append("alarm")

    async def fail(self, error: Exception) -> None:
        raise error


Counters = Annotated[DurableObjectNamespace[Counter], Depends(namespace_of(Counter))]


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def fastapi_app(path: Path, **options: Any) -> FastAPI:
    app = FastAPI(
        lifespan=lifespan(lambda: Runtime(path, **options), Counter),
        exception_handlers=exception_handlers,
    )

    @app.post("/{name}")
    async def increment(name: str, counters: Counters) -> int:
        return await counters.get_by_name(name).increment()

    @app.get("/overloaded")
    async def overloaded() -> None:
        raise OverloadedError("too much at once")

    @app.get("/reset")
    async def reset(retryable: bool) -> None:
        raise ObjectResetError("the secret reason", retryable=retryable)

    return app


async def test_fastapi_finds_the_namespace_and_starts_again(tmp_path: Path) -> None:
    app = fastapi_app(tmp_path)
    for expected in (1, 2):
        async with app.router.lifespan_context(app), client_of(app) as client:
            assert isinstance(app.state.runtime, Runtime)
            assert (await client.post("/home")).json() == expected
            assert (await client.post(f"/new{expected}")).json() == 1
        assert not hasattr(app.state, "runtime")


async def test_starlette_calls_it_with_the_request(tmp_path: Path) -> None:
    async def increment(request: Request) -> JSONResponse:
        counters = await namespace_of(Counter, name="renamed")(request)
        assert counters.name == "renamed"
        return JSONResponse(await counters.get_by_name("home").increment())

    app = Starlette(
        routes=[Route("/", increment)],
        lifespan=lifespan(lambda: Runtime(tmp_path)),
        exception_handlers=exception_handlers,
    )
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert [(await client.get("/")).json() for _ in range(2)] == [1, 2]


async def test_alarms_of_the_classes_run_though_nobody_calls(tmp_path: Path) -> None:
    RUNS.clear()
    clock = ManualClock()
    async with Runtime(tmp_path, clock=clock) as runtime:
        await runtime.namespace(Counter).get_by_name("a").later()
    app = fastapi_app(tmp_path, clock=clock)
    async with app.router.lifespan_context(app):
        await clock.advance(timedelta(minutes=1))
    assert RUNS == ["alarm"]


async def test_it_can_be_part_of_a_lifespan(tmp_path: Path) -> None:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(lambda: Runtime(tmp_path))(app):
            app.state.counters = app.state.runtime.namespace(Counter)
            yield

    app = FastAPI(lifespan=own)
    async with app.router.lifespan_context(app):
        assert await app.state.counters.get_by_name("a").increment() == 1


async def test_what_an_object_cannot_do_has_a_status(tmp_path: Path) -> None:
    app = fastapi_app(tmp_path)
    async with client_of(app) as client:
        answer = await client.get("/overloaded")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json() == {"detail": "too much at once"}
        assert (await client.get("/reset", params={"retryable": True})).status_code == 503
        answer = await client.get("/reset", params={"retryable": False})
        assert answer.status_code == 500
        assert "secret" not in answer.text


async def test_without_the_lifespan_the_error_says_so(tmp_path: Path) -> None:
    app = fastapi_app(tmp_path)
    async with client_of(app) as client:
        with pytest.raises(DurableStorageError, match="lifespan"):
            await client.post("/home")


async def test_a_runtime_that_cannot_start_keeps_the_application_from_starting(
    tmp_path: Path,
) -> None:
    app = fastapi_app(tmp_path)
    async with Runtime(tmp_path):
        with pytest.raises(DurableStorageError, match="another runtime"):
            async with app.router.lifespan_context(app):
                raise AssertionError
    assert not hasattr(app.state, "runtime")


async def test_a_runtime_is_made_at_each_start() -> None:
    with pytest.raises(ArgumentTypeError, match="function that makes a Runtime"):
        lifespan(Runtime())  # type: ignore[arg-type] - refusing it is the point
    with pytest.raises(ArgumentTypeError, match="got str"):
        lifespan("./data")  # type: ignore[arg-type] - refusing it is the point


async def test_many_requests_at_once_are_counted_once_each(tmp_path: Path) -> None:
    app = fastapi_app(tmp_path)
    values: list[int] = []
    async with app.router.lifespan_context(app), client_of(app) as client:

        async def call() -> None:
            values.append((await client.post("/home")).json())

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(call)
    assert sorted(values) == list(range(1, 21))
