"""The store on Redis, against a real server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from durable_storage import DurableObject, ObjectResetError, Runtime
from durable_storage.errors import ArgumentTypeError, ArgumentValueError
from durable_storage.storage.kv_backend import KvBackend
from durable_storage.testing import ManualClock

from .kv_contract import check_contract

redis = pytest.importorskip("redis", reason="the extra 'redis' is not installed")

from redis.asyncio import Redis  # noqa: E402
from redis.asyncio.retry import Retry  # noqa: E402
from redis.backoff import NoBackoff  # noqa: E402
from redis.exceptions import ConnectionError as RedisConnectionError  # noqa: E402
from redis.exceptions import ResponseError  # noqa: E402

from durable_storage.integrations.redis import RedisKvBackend  # noqa: E402

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the client knows no other event loop


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server here; Debian's package of that name has it")
    folder = tmp_path_factory.mktemp("redis")
    options = {
        "port": "0",
        "unixsocket": str(folder / "socket"),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    with subprocess.Popen(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        log: list[str] = []
        for line in server.stdout:
            log.append(line)
            if "ready to accept connections" in line:
                break
        else:
            pytest.fail("redis-server did not start:\n" + "".join(log))
        yield folder / "socket"
        server.terminate()
        server.stdout.read()


@pytest.fixture
async def client(socket: Path) -> AsyncIterator[Redis]:
    client = Redis(unix_socket_path=str(socket))
    await client.flushall()
    yield client
    await client.aclose()


async def test_the_redis_store_keeps_the_contract(client: Redis) -> None:
    backend: KvBackend = RedisKvBackend(client, "ns/object")
    await check_contract(backend)
    await backend.close()


async def test_an_object_is_two_keys_in_one_slot_and_leaves_none(client: Redis) -> None:
    backend = RedisKvBackend(client, "ns/object")
    await backend.batch({"a": b"1", "b": b"2"}, set())
    keys = sorted(await client.keys())
    assert keys == [b"{ns/object}:names", b"{ns/object}:values"]
    await backend.batch({}, {"a", "b"})
    assert await client.keys() == []
    await backend.batch({"a": b"1"}, set())
    await backend.delete_all()
    assert await client.keys() == []


async def test_objects_do_not_see_each_other(client: Redis) -> None:
    one, other = RedisKvBackend(client, "one"), RedisKvBackend(client, "other")
    await one.batch({"a": b"1"}, set())
    await other.batch({"a": b"2"}, set())
    await one.delete_all()
    assert await other.list() == [("a", b"2")]


async def test_what_is_written_is_there_for_the_next_store(client: Redis) -> None:
    first = RedisKvBackend(client, "object")
    await first.batch({"a": b"\0\xff"}, set())
    await first.close()
    assert await RedisKvBackend(client, "object").get(["a"]) == {"a": b"\0\xff"}


async def test_closing_a_store_leaves_the_client_open(client: Redis) -> None:
    backend = RedisKvBackend(client, "object")
    await backend.close()
    await backend.close()
    assert await client.ping()


async def test_a_batch_that_the_server_refuses_changes_nothing(client: Redis) -> None:
    backend = RedisKvBackend(client, "object")
    await backend.batch({"a": b"1"}, set())
    await client.config_set("maxmemory", "1")
    try:
        with pytest.raises(ResponseError):
            await backend.batch({"a": b"2", "b": b"2"}, {"c"})
    finally:
        await client.config_set("maxmemory", "0")
    assert await backend.list() == [("a", b"1")]


async def test_a_server_that_is_gone_is_an_error(tmp_path: Path) -> None:
    client = Redis(unix_socket_path=str(tmp_path / "nobody"), retry=Retry(NoBackoff(), 0))
    backend = RedisKvBackend(client, "object")
    with pytest.raises(RedisConnectionError):
        await backend.get(["a"])
    with pytest.raises(RedisConnectionError):
        await backend.batch({"a": b"1"}, set())
    await client.aclose()


async def test_a_reader_never_sees_half_a_batch(client: Redis) -> None:
    backend = RedisKvBackend(client, "object")
    await backend.batch({"a": b"0", "b": b"0"}, set())

    async def write() -> None:
        for number in range(100):
            value = str(number).encode()
            await backend.batch({"a": value, "b": value}, set())

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        for _ in range(100):
            (_, first), (_, second) = await backend.list()
            assert first == second


async def test_wrong_arguments_are_refused(client: Redis) -> None:
    with pytest.raises(ArgumentTypeError):
        RedisKvBackend("redis://localhost", "object")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError):
        RedisKvBackend(client, b"object")  # type: ignore[arg-type]
    for prefix in ("", "a{b", "}"):
        with pytest.raises(ArgumentValueError):
            RedisKvBackend(client, prefix)
    decoding = Redis(decode_responses=True)
    with pytest.raises(ArgumentValueError, match="decode_responses"):
        RedisKvBackend(decoding, "object")
    await decoding.aclose()


class Counter(DurableObject):
    async def increment(self) -> int:
        value: int = await self.ctx.storage.get("value", 0)
        self.ctx.storage.put("value", value + 1)
        return value + 1

    async def fill(self, count: int) -> None:
        for number in range(count):
            self.ctx.storage.put(f"{number:04}", number)
        self.ctx.storage.set_alarm(timedelta(hours=1))

    async def last(self, count: int) -> list[str]:
        return list(await self.ctx.storage.list(reverse=True, limit=count, end="v"))

    async def empty(self) -> None:
        await self.ctx.storage.delete_all()

    async def alarm(self) -> None:
        self.ctx.storage.put("rung", True)

    async def everything(self) -> dict[str, object]:
        return await self.ctx.storage.list()


async def test_objects_of_a_runtime_live_in_it(client: Redis, tmp_path: Path) -> None:
    clock = ManualClock()

    def backend(namespace: str, object_id: str) -> RedisKvBackend:
        return RedisKvBackend(client, f"{namespace}:{object_id}")

    def runtime() -> Runtime:
        return Runtime(tmp_path, kv_backend=backend, clock=clock)

    async with runtime() as opened:
        counter = opened.namespace(Counter, storage="kv").get_by_name("a")
        numbers: list[int] = []

        async def increment() -> None:
            numbers.append(await counter.increment())

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(increment)
        assert sorted(numbers) == list(range(1, 21))
        await counter.fill(300)
    async with runtime() as opened:
        counter = opened.namespace(Counter, storage="kv").get_by_name("a")
        assert await counter.last(2) == ["0299", "0298"]
        await clock.advance(hours=1)
        assert (await counter.everything())["rung"] is True
        await counter.empty()
        assert await counter.increment() == 1
        assert await counter.everything() == {"value": 1}


async def test_a_server_that_refuses_breaks_the_output_gate(client: Redis) -> None:
    async with Runtime(kv_backend=lambda *names: RedisKvBackend(client, ":".join(names))) as opened:
        counter = opened.namespace(Counter, storage="kv").get_by_name("a")
        assert await counter.increment() == 1
        # The server refuses writes from now on, as one whose disk is full does.
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(ObjectResetError, match="could not be made durable"):
                await counter.increment()
        finally:
            await client.config_set("maxmemory", 0)
        assert await counter.increment() == 2
