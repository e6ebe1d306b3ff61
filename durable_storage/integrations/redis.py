"""A store on Redis for objects of the legacy backend (extra ``redis``).

Two keys of Redis hold one object: a sorted set in which all members have the score 0, so that
Redis orders the names by their bytes, and a hash of the values. Both names share a hash tag, so
a cluster keeps them on one node. A batch is one ``MULTI``/``EXEC``, a listing one script: both
are atomic.

A batch is as durable as the server makes a command: for what the output gate promises it needs
``appendonly yes`` with ``appendfsync always``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, cast, final

from redis.asyncio import Redis

from ..errors import ArgumentTypeError, ArgumentValueError

__all__ = ["RedisKvBackend"]

# KEYS: names, values. ARGV: lower bound, upper bound, "1" when reversed, limit or -1.
# Lua's unpack() has a limited stack, hence the portions.
_LIST: Final = """
local reverse = ARGV[3] == '1'
local names
if reverse then
    names = redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[2], ARGV[1], 'LIMIT', 0, ARGV[4])
else
    names = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[4])
end
local values = {}
for first = 1, #names, 1000 do
    local last = math.min(first + 999, #names)
    for _, value in ipairs(redis.call('HMGET', KEYS[2], unpack(names, first, last))) do
        values[#values + 1] = value
    end
end
return {names, values}
"""


class _Pipeline(Protocol):
    def execute_command(self, *command: str | bytes | int) -> object: ...
    def execute(self) -> Awaitable[object]: ...


class _Client(Protocol):
    """What is used of the client, which is only partly typed."""

    def execute_command(self, *command: str | bytes | int) -> Awaitable[Any]: ...
    def get_connection_kwargs(self) -> Mapping[str, object]: ...
    def pipeline(self, *, transaction: bool) -> AbstractAsyncContextManager[_Pipeline]: ...


@final
class RedisKvBackend:
    """A ``KvBackend`` on Redis. Runs on asyncio only, as its client does.

    Args:
        client: a client of ``redis.asyncio`` that does not decode responses; it may be shared,
            and stays open when the store is closed.
        prefix: what the object's two keys begin with; different for every object.

    Raises:
        ArgumentTypeError: ``client`` is not such a client, or ``prefix`` no ``str``.
        ArgumentValueError: the client decodes responses, or the prefix cannot be a hash tag.
        redis.exceptions.RedisError: (any call) the server cannot be reached, or refuses.
    """

    def __init__(self, client: Redis, prefix: str) -> None:
        if not isinstance(client, Redis):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(
                f"RedisKvBackend takes a redis.asyncio.Redis, got {type(client).__name__}"
            )
        if not isinstance(prefix, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(f"the prefix is a str, got {type(prefix).__name__}")
        if not prefix or "{" in prefix or "}" in prefix:
            raise ArgumentValueError(
                f"the prefix must be neither empty nor hold braces, got {prefix!r}"
            )
        self._client = cast(_Client, client)
        if self._client.get_connection_kwargs().get("decode_responses"):
            raise ArgumentValueError(
                "values are bytes: create the client without decode_responses=True"
            )
        self._names: Final = f"{{{prefix}}}:names"
        self._values: Final = f"{{{prefix}}}:values"

    async def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See ``KvBackend.get``."""
        if not keys:
            return {}
        values: Sequence[object] = await self._client.execute_command(
            "HMGET", self._values, *(_encoded(key) for key in keys)
        )
        return {
            key: value for key, value in zip(keys, values, strict=True) if isinstance(value, bytes)
        }

    async def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[str, bytes]]:
        """See ``KvBackend.list``."""
        least, most = _bounds(start, start_after, end, prefix)
        answer: tuple[Sequence[bytes], Sequence[object]] = await self._client.execute_command(
            "EVAL",
            _LIST,
            2,
            self._names,
            self._values,
            least,
            most,
            b"1" if reverse else b"0",
            -1 if limit is None else min(limit, 2**31 - 1),
        )
        pairs = zip(*answer, strict=True)
        return [(_decoded(name), value) for name, value in pairs if isinstance(value, bytes)]

    async def batch(self, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        """See ``KvBackend.batch``."""
        if not puts and not deletes:
            return
        commands: list[tuple[str | bytes, ...]] = []
        if deletes:
            removed = [_encoded(key) for key in deletes]
            commands.append(("ZREM", self._names, *removed))
            commands.append(("HDEL", self._values, *removed))
        if puts:
            scored: list[bytes] = []
            pairs: list[bytes] = []
            for key, value in puts.items():
                name = _encoded(key)
                scored += (b"0", name)
                pairs += (name, bytes(value))
            commands.append(("ZADD", self._names, *scored))
            commands.append(("HSET", self._values, *pairs))
        await self._atomically(commands)

    async def delete_all(self) -> None:
        """See ``KvBackend.delete_all``; atomic here."""
        await self._atomically([("UNLINK", self._names, self._values)])

    async def close(self) -> None:
        """See ``KvBackend.close``; the client stays open, whoever made it closes it."""

    async def _atomically(self, commands: Sequence[tuple[str | bytes, ...]]) -> None:
        async with self._client.pipeline(transaction=True) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # queued, not sent
            await pipeline.execute()


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _bounds(
    start: str | None, start_after: str | None, end: str | None, prefix: str | None
) -> tuple[bytes, bytes]:
    """The range in the words of ZRANGEBYLEX: the tightest of the lower and of the upper bounds."""
    # (key, 1 when itself left out) sorts by how far the bound reaches.
    lower: list[tuple[bytes, int]] = []
    upper: list[bytes] = []
    if start is not None:
        lower.append((_encoded(start), 0))
    if start_after is not None:
        lower.append((_encoded(start_after), 1))
    if end is not None:
        upper.append(_encoded(end))
    if prefix:
        first = _encoded(prefix)
        lower.append((first, 0))
        # No byte of UTF-8 is 0xff, so this is above everything that begins with the prefix.
        upper.append(first + b"\xff")
    least = b"-"
    if lower:
        key, left_out = max(lower)
        least = (b"(" if left_out else b"[") + key
    return least, b"(" + min(upper) if upper else b"+"
