"""HTTP requests that leave an object only when its disk holds what they say.

Needs the extra ``httpx``::

    client = httpx.AsyncClient(transport=GatedTransport())

Used inside an object, every request waits for the object's output gate, and its answer for the
input gate. A request body that is made by an asynchronous generator is code of the event, and each
piece of it waits as the request does. While the network works, the gates are not asked: a
connection that objects share is never held up by one of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Self, final

import httpx

from ..errors import ArgumentTypeError
from ..gates.event import Frame
from ..gates.loop import Loop
from ..gates.outgoing import carry, current_frame, inside

__all__ = ["GatedTransport"]

# Bodies up to this long are read at once.
SHORT_MAX_BYTES: Final = 65_536


@final
class GatedTransport(httpx.AsyncBaseTransport):
    """A transport of ``httpx.AsyncClient`` that passes the gates of the object that uses it.

    Redirects and retries are requests of their own, and wait too. Outside of every object it is the
    transport it wraps. One client may serve any number of objects. An answer that says it is short
    is read at once; one that is read piece by piece keeps its connection until it is closed.

    Args:
        transport: what sends the requests; default a new ``httpx.AsyncHTTPTransport()``. Options
            such as ``verify``, ``http2`` and ``limits`` belong to it, not to the client.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        if transport is not None and not isinstance(transport, httpx.AsyncBaseTransport):
            raise ArgumentTypeError(
                f"GatedTransport wraps an httpx.AsyncBaseTransport, got {type(transport).__name__}"
            )
        self._transport = httpx.AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request when the output gate lets it.

        Raises:
            ObjectDead: the object was reset; if its writes could not be confirmed, nothing was
                sent.
        """
        frame = current_frame(Loop.running())
        if frame is None:
            return await self._transport.handle_async_request(request)
        question = request.stream
        if isinstance(question, _Question):
            # Sent once more, for example with credentials this time.
            question = question.stream
        if isinstance(question, httpx.AsyncByteStream) and not isinstance(
            question, httpx.ByteStream
        ):
            request.stream = _Question(question, frame)
        arrived: httpx.Response | None = None

        async def deliver() -> httpx.Response:
            nonlocal arrived
            response = arrived = await self._transport.handle_async_request(request)
            if _is_short(response):
                response.stream = await _whole(response.stream)
                arrived = None
            return response

        try:
            response = await carry(deliver, frame=frame)
        except BaseException:
            if arrived is not None:
                # Nobody will read it, and its connection must go back. Not by code that is being
                # cancelled or killed.
                frame.life.loop.spawn(arrived.aclose)
            raise
        if isinstance(response.stream, httpx.AsyncByteStream) and not isinstance(
            response.stream, httpx.ByteStream
        ):
            response.stream = _Answer(response.stream)
        return response

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)


@final
class _Question(httpx.AsyncByteStream):
    """A request's body that is made by code of an event, while the request is under way."""

    def __init__(self, stream: httpx.AsyncByteStream, frame: Frame) -> None:
        self.stream = stream
        self._frame = frame

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self.stream)
        while (chunk := await inside(self._frame, lambda: _next(chunks))) is not None:
            yield chunk

    async def aclose(self) -> None:
        await self.stream.aclose()


@final
class _Answer(httpx.AsyncByteStream):
    """An answer's body that arrives from the network, outside of the event that reads it."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        while (chunk := await carry(lambda: _next(chunks), withhold=False)) is not None:
            yield chunk

    async def aclose(self) -> None:
        frame = current_frame(Loop.running())
        if frame is not None and frame.life.broken is not None:
            # What code of a dead object awaits is cancelled, and the connection must go back.
            frame.life.loop.spawn(self._stream.aclose)
        else:
            await carry(lambda: _closed(self._stream), withhold=False)


def _is_short(response: httpx.Response) -> bool:
    length = response.headers.get("Content-Length", "")
    return length.isascii() and length.isdecimal() and int(length) <= SHORT_MAX_BYTES


async def _whole(stream: object) -> httpx.ByteStream:
    """The body read to its end, so that its connection need not wait for the input gate."""
    assert isinstance(stream, httpx.AsyncByteStream)
    try:
        return httpx.ByteStream(b"".join([chunk async for chunk in stream]))
    finally:
        await stream.aclose()


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        return None


async def _closed(stream: httpx.AsyncByteStream) -> None:
    await stream.aclose()
