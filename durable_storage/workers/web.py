"""``Request`` and ``Response``: just enough of the web's types to call ``fetch`` handlers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http import HTTPMethod, HTTPStatus
from http.client import HTTPMessage
from typing import Any, Self, cast, final

from ..errors import ArgumentTypeError

__all__ = ["FetchResponse", "Headers", "Request", "Response"]

Headers = HTTPMessage
"""Headers: names are looked up whatever their case."""

_Given = Mapping[str, str] | Iterable[tuple[str, str]] | HTTPMessage | None
_Bytes = bytes


def headers_of(given: _Given = None) -> HTTPMessage:
    """The headers that a mapping or pairs mean."""
    headers = HTTPMessage()
    if given is not None:
        named = cast("Mapping[str, str]", given) if hasattr(given, "items") else None
        pairs = cast("Iterable[tuple[str, str]]", given) if named is None else named.items()
        for name, value in pairs:
            headers[name] = str(value)
    return headers


class _Body:
    """A body that can be read once."""

    _content: bytes | None
    body_used: bool
    headers: HTTPMessage

    def _set_body(self, body: object) -> None:
        self.body_used = False
        if body is None or isinstance(body, bytes):
            self._content = body
        elif isinstance(body, str):
            self._content = body.encode()
            if "content-type" not in self.headers:
                self.headers["content-type"] = "text/plain;charset=UTF-8"
        else:
            raise ArgumentTypeError(f"a body is a str, bytes or None, got {type(body).__name__}")

    @property
    def body(self) -> bytes | None:
        """The body, without reading it."""
        return self._content

    @property
    def bodyUsed(self) -> bool:  # noqa: N802
        """Whether the body has been read."""
        return self.body_used

    async def bytes(self) -> _Bytes:
        """The body.

        Raises:
            OSError: it has been read already.
        """
        if self.body_used:
            raise OSError("Body already used")
        self.body_used = self._content is not None
        return self._content or b""

    async def buffer(self) -> _Bytes:
        """The body."""
        return await self.bytes()

    async def arrayBuffer(self) -> _Bytes:  # noqa: N802
        """The body."""
        return await self.bytes()

    async def text(self) -> str:
        """The body, decoded from UTF-8."""
        return (await self.bytes()).decode("utf-8", "replace")


@final
class Request(_Body):
    """A request.

    Args:
        input: the URL, or a request to copy.
        method: default ``GET``.
        headers: a mapping or pairs.
        body: text or bytes.

    Attributes:
        url: as given.
        method: an ``HTTPMethod``, which is a ``str``.
        headers: names are looked up whatever their case.
        cf: always None.
    """

    url: str
    method: HTTPMethod
    cf = None

    def __init__(
        self,
        input: str | Request,
        /,
        *,
        method: str | None = None,
        headers: _Given = None,
        body: str | bytes | None = None,
        **_options: object,
    ) -> None:
        source = input if isinstance(input, Request) else None
        self.url = source.url if source is not None else str(input)
        given = method or (source.method if source is not None else "GET")
        self.method = HTTPMethod(str(given).upper())
        self.headers: HTTPMessage = headers_of(
            headers if headers is not None or source is None else source.headers
        )
        self._set_body(body if body is not None or source is None else source.body)
        if self._content is not None and self.method in (HTTPMethod.GET, HTTPMethod.HEAD):
            raise ArgumentTypeError("Request with a GET or HEAD method cannot have a body.")

    @staticmethod
    def new(input: str | Request, options: Mapping[str, Any] | None = None) -> Request:
        """A request as JavaScript code makes one: with an options object."""
        return Request(input, **dict(options or {}))

    def __repr__(self) -> str:
        return f"Request(method={self.method.value!r}, url={self.url!r})"

    def clone(self) -> Request:
        """A copy whose body is read on its own."""
        if self.body_used:
            raise OSError("Body already used")
        return Request(self)

    async def json(self, **options: Any) -> Any:
        """The body, read as JSON."""
        return json.loads(await self.text(), **options)


class FetchResponse(_Body):
    """What a ``fetch`` gives.

    Attributes:
        status: the code.
        headers: names are looked up whatever their case.
    """

    def __init__(
        self,
        body: str | bytes | None = None,
        status: HTTPStatus | int | None = None,
        status_text: str = "",
        headers: _Given = None,
        web_socket: object = None,
        **options: Any,
    ) -> None:
        self.status: int = int(status or HTTPStatus.OK)
        self.status_text: str = status_text or str(options.get("statusText", ""))
        self.headers: HTTPMessage = headers_of(headers)
        self.url = ""
        self.web_socket = web_socket
        self._set_body(body)

    @property
    def ok(self) -> bool:
        """Whether the code is 200 to 299."""
        return 200 <= self.status < 300

    @property
    def statusText(self) -> str:  # noqa: N802
        """The text beside the code."""
        return self.status_text

    def clone(self) -> Self:
        """A copy whose body is read on its own."""
        return type(self)(self._content, self.status, self.status_text, self.headers)

    def replace_body(self, body: str | bytes | None) -> Self:
        """A copy with another body."""
        return type(self)(body, self.status, self.status_text, self.headers)

    def json(self, *arguments: Any, **options: Any) -> Any:
        """``await response.json()`` reads the body; ``Response.json(data)`` makes a response."""
        if isinstance(cast("object", self), FetchResponse):
            return self._json()
        return Response.from_json(self, *arguments, **options)

    async def _json(self) -> Any:
        return json.loads(await self.text())


class Response(FetchResponse):
    """A response.

    Args:
        body: text, bytes or None.
        status: the code; default 200.
        status_text: the text beside the code.
        headers: a mapping or pairs.
    """

    def __repr__(self) -> str:
        return f"Response(status={self.status})"

    @staticmethod
    def new(body: str | bytes | None = None, options: Mapping[str, Any] | None = None) -> Response:
        """A response as JavaScript code makes one: with an options object."""
        return Response(body, **dict(options or {}))

    @staticmethod
    def from_json(
        data: Any,
        status: HTTPStatus | int = HTTPStatus.OK,
        status_text: str = "",
        headers: _Given = None,
    ) -> Response:
        """A response with ``data`` as JSON."""
        response = Response(json.dumps(data).encode(), status, status_text, headers)
        if "content-type" not in response.headers:
            response.headers["content-type"] = "application/json"
        return response

    @staticmethod
    def redirect(url: str, status: HTTPStatus | int = HTTPStatus.FOUND) -> Response:
        """A response that leads to ``url``."""
        return Response(None, status, headers={"location": url})
