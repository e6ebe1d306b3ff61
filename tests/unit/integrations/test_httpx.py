"""What an object sends out waits for its disk: ``GatedTransport`` and ``outgoing()``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest

from durable_storage import (
    ArgumentTypeError,
    ConcurrencyError,
    DurableObject,
    DurableObjectNamespace,
    ObjectResetError,
    Runtime,
    outgoing,
)
from durable_storage.integrations.httpx import GatedTransport
from durable_storage.testing import FaultInjector, ManualClock

pytestmark = pytest.mark.anyio

URL = "http://server/"


class Network(httpx.AsyncBaseTransport):
    """Notes what was sent, and can take its time to answer."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.answering = anyio.Event()
        self.answering.set()
        self.steps = 0
        self.ended = 0
        self.open_answers = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = b"".join([chunk async for chunk in request.stream])  # type: ignore[union-attr]
        self.sent.append(body.decode())
        try:
            while not self.answering.is_set():
                await anyio.lowlevel.checkpoint()
                self.steps += 1
        finally:
            self.ended += 1
        self.open_answers += 1
        return httpx.Response(200, stream=Answer(self))


class Answer(httpx.AsyncByteStream):
    def __init__(self, network: Network) -> None:
        self._network = network

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in (b"one ", b"two ", b"three"):
            await anyio.lowlevel.checkpoint()
            yield chunk

    async def aclose(self) -> None:
        self._network.open_answers -= 1


class Sender(DurableObject):
    """``env.client`` is its way out."""

    async def tell(self, text: str, *, write: bool = True) -> str:
        if write:
            self.ctx.storage.put("text", text)
        answer = await self.env.client.post(URL, content=text)
        self.ctx.storage.put("answer", answer.text)
        return answer.text

    async def write(self, text: str) -> None:
        self.ctx.storage.put("text", text)

    async def stored(self) -> Any:
        return await self.ctx.storage.get("text")

    async def violate_constraints(self) -> None:
        sql = self.ctx.storage.sql
        sql.exec(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY);"
            "CREATE TABLE child(id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
        )
        sql.exec("INSERT INTO child VALUES (1)")
        await self.env.client.post(URL, content="violated")

    async def tell_in_parallel(self) -> list[str]:
        self.ctx.storage.put("text", "parallel")
        answers: list[str] = []

        async def one(text: str) -> None:
            answers.append((await self.env.client.post(URL, content=text)).text)

        async with anyio.create_task_group() as group:
            group.start_soon(one, "a")
            group.start_soon(one, "b")
        return answers

    async def close_gate(self, closed: anyio.Event, open_again: anyio.Event) -> None:
        async def hold() -> None:
            closed.set()
            await open_again.wait()

        await self.ctx.block_concurrency_while(hold)

    async def upload(self, count: int) -> str:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(count):
                await anyio.lowlevel.checkpoint()
                self.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS pieces(number)")
                self.ctx.storage.sql.exec("INSERT INTO pieces VALUES (?)", number)
                yield f"{number} ".encode()

        answer = await self.env.client.post(URL, content=pieces())
        return str(answer.text)

    async def pieces(self) -> int:
        return len(self.ctx.storage.sql.exec("SELECT * FROM pieces").to_array())

    async def stream(self) -> list[str]:
        async with self.env.client.stream("GET", URL) as answer:
            return [chunk async for chunk in answer.aiter_text()]

    async def tell_then_abort(self) -> None:
        async with self.env.client.stream("GET", URL):
            self.ctx.abort("enough")

    async def abort(self) -> None:
        self.ctx.abort("enough")

    async def tell_in_transaction(self, text: str) -> str:
        async with self.ctx.storage.transaction():
            self.ctx.storage.put("text", text)
            return str((await self.env.client.post(URL, content=text)).text)

    async def run(self, callback: Callable[[Sender], Any]) -> Any:
        return await callback(self)


class Env:
    client: httpx.AsyncClient


@pytest.fixture
def faults() -> FaultInjector:
    return FaultInjector()


@pytest.fixture
async def network() -> Network:
    return Network()


@pytest.fixture
async def senders(
    faults: FaultInjector, network: Network, tmp_path: Path
) -> AsyncIterator[DurableObjectNamespace[Sender]]:
    env = Env()
    async with (
        httpx.AsyncClient(transport=GatedTransport(network)) as env.client,
        Runtime(tmp_path / "data", env=env, faults=faults, clock=ManualClock()) as runtime,
    ):
        yield runtime.namespace(Sender)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def settle() -> None:
    for _ in range(50):
        await anyio.lowlevel.checkpoint()


async def test_a_request_is_not_sent_before_the_disk_holds_what_was_written(
    senders: DurableObjectNamespace[Sender], network: Network, faults: FaultInjector
) -> None:
    sender = senders.get_by_name("a")
    answers: list[str] = []

    async def tell() -> None:
        answers.append(await sender.tell("hello"))

    async with anyio.create_task_group() as group:
        with faults.hold("fdatasync", path="*.sqlite-wal") as held:
            group.start_soon(tell)
            await held.reached()
            await settle()
            assert network.sent == []
            held.release()
        await until(lambda: network.sent == ["hello"])
    assert answers == ["one two three"]


async def test_a_request_that_wrote_nothing_waits_for_what_its_event_could_have_seen(
    senders: DurableObjectNamespace[Sender], network: Network, faults: FaultInjector
) -> None:
    sender = senders.get_by_name("a")
    with faults.hold("fdatasync", path="*.sqlite-wal") as held:
        async with anyio.create_task_group() as group:
            group.start_soon(sender.write, "secret")
            await held.reached()
            group.start_soon(lambda: sender.tell("secret", write=False))
            await settle()
            assert network.sent == []
            held.release()
    assert network.sent == ["secret"]


async def test_nothing_is_sent_when_the_disk_refuses(
    senders: DurableObjectNamespace[Sender], network: Network, faults: FaultInjector
) -> None:
    sender = senders.get_by_name("a")
    faults.fail("fdatasync", path="*.sqlite-wal")
    with pytest.raises(ObjectResetError, match="durable"):
        await sender.tell("hello")
    assert network.sent == []
    assert await sender.stored() != "unsaid"


async def test_nothing_is_sent_when_the_commit_fails(
    senders: DurableObjectNamespace[Sender], network: Network
) -> None:
    sender = senders.get_by_name("a")
    with pytest.raises(ObjectResetError, match="constraints"):
        await sender.violate_constraints()
    assert network.sent == []


async def test_outside_of_objects_requests_pass_through(network: Network) -> None:
    async with httpx.AsyncClient(transport=GatedTransport(network)) as client:
        assert (await client.post(URL, content="hello")).text == "one two three"
    assert network.sent == ["hello"]
    assert network.open_answers == 0


async def test_cancelling_while_it_waits_sends_nothing_and_keeps_the_writes(
    senders: DurableObjectNamespace[Sender], network: Network, faults: FaultInjector
) -> None:
    sender = senders.get_by_name("a")
    with faults.hold("fdatasync", path="*.sqlite-wal") as held:
        async with anyio.create_task_group() as group:
            group.start_soon(sender.tell, "hello")
            await held.reached()
            group.cancel_scope.cancel()
        held.release()
    assert network.sent == []
    assert await sender.stored() == "hello"


async def test_cancelling_a_request_under_way_ends_it(
    senders: DurableObjectNamespace[Sender], network: Network
) -> None:
    sender = senders.get_by_name("a")
    network.answering = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(sender.tell, "hello")
        await until(lambda: network.steps > 0)
        group.cancel_scope.cancel()
    assert network.ended == 1
    network.answering.set()
    assert await sender.tell("again") == "one two three"


async def test_requests_of_child_tasks_wait_too(
    senders: DurableObjectNamespace[Sender], network: Network, faults: FaultInjector
) -> None:
    sender = senders.get_by_name("a")
    with faults.hold("fdatasync", path="*.sqlite-wal") as held:
        async with anyio.create_task_group() as group:
            group.start_soon(sender.tell_in_parallel)
            await held.reached()
            await settle()
            assert network.sent == []
            held.release()
    assert sorted(network.sent) == ["a", "b"]


async def test_the_network_goes_on_while_the_gate_is_closed_and_the_answer_waits(
    senders: DurableObjectNamespace[Sender], network: Network
) -> None:
    sender = senders.get_by_name("a")
    network.answering = anyio.Event()
    closed, open_again = anyio.Event(), anyio.Event()
    answers: list[str] = []

    async def tell() -> None:
        answers.append(await sender.tell("hello"))

    async with anyio.create_task_group() as group:
        group.start_soon(tell)
        await until(lambda: network.steps > 0)
        group.start_soon(sender.close_gate, closed, open_again)
        await closed.wait()
        steps = network.steps
        await until(lambda: network.steps > steps)
        network.answering.set()
        await until(lambda: network.ended == 1)
        await settle()
        assert answers == []
        open_again.set()
    assert answers == ["one two three"]
    assert network.open_answers == 0


async def test_a_body_made_on_the_way_is_code_of_the_event(
    senders: DurableObjectNamespace[Sender], network: Network, faults: FaultInjector
) -> None:
    sender = senders.get_by_name("a")
    pieces = 0
    class_ = type(network)

    async def slowly(self: Network, request: httpx.Request) -> httpx.Response:
        nonlocal pieces
        async for _ in request.stream:  # type: ignore[union-attr]
            pieces += 1
        return httpx.Response(200, content=b"done")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_, "handle_async_request", slowly)
        # Each piece is only sent when what its code wrote is confirmed.
        with faults.hold("fdatasync", path="*.sqlite-wal") as held:
            async with anyio.create_task_group() as group:
                group.start_soon(sender.upload, 2)
                await held.reached()
                await settle()
                assert pieces == 0
                held.release()
        assert pieces == 2
        # And its code runs when the input gate lets it.
        closed, open_again = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(sender.close_gate, closed, open_again)
            group.start_soon(sender.upload, 3)
            await closed.wait()
            await settle()
            assert pieces == 2
            open_again.set()
    assert pieces == 5
    assert await sender.pieces() == 5


async def test_an_answer_can_be_read_piece_by_piece(
    senders: DurableObjectNamespace[Sender], network: Network
) -> None:
    assert await senders.get_by_name("a").stream() == ["one ", "two ", "three"]
    assert network.open_answers == 0


async def test_a_reset_ends_a_request_that_is_under_way(
    senders: DurableObjectNamespace[Sender], network: Network
) -> None:
    sender = senders.get_by_name("a")
    network.answering = anyio.Event()
    errors: list[BaseException] = []

    async def tell() -> None:
        try:
            await sender.tell("hello")
        except ObjectResetError as exc:
            errors.append(exc)

    async with anyio.create_task_group() as group:
        group.start_soon(tell)
        await until(lambda: network.steps > 0)
        with pytest.raises(ObjectResetError, match="enough"):
            await sender.abort()
        await until(lambda: len(errors) == 1)
    assert network.ended == 1
    network.answering.set()
    assert await sender.tell("again") == "one two three"


async def test_a_reset_while_an_answer_is_open_gives_its_connection_back(
    senders: DurableObjectNamespace[Sender], network: Network
) -> None:
    sender = senders.get_by_name("a")
    with pytest.raises(ObjectResetError, match="enough"):
        await sender.tell_then_abort()
    await until(lambda: network.open_answers == 0)
    assert await sender.tell("again") == "one two three"


async def test_inside_a_transaction_a_request_does_not_wait_for_its_end(
    senders: DurableObjectNamespace[Sender], network: Network
) -> None:
    assert await senders.get_by_name("a").tell_in_transaction("hello") == "one two three"
    assert network.sent == ["hello"]


async def test_only_a_transport_of_httpx_can_be_wrapped() -> None:
    with pytest.raises(ArgumentTypeError, match="AsyncBaseTransport, got str"):
        GatedTransport("http://server")  # type: ignore[arg-type]


async def serve(stream: anyio.abc.SocketStream) -> None:
    """The smallest server that keeps a connection."""
    buffered = b""
    async with stream:
        while True:
            while b"\r\n\r\n" not in buffered:
                try:
                    buffered += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
            buffered = buffered.partition(b"\r\n\r\n")[2]
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


async def test_objects_share_one_real_connection(tmp_path: Path) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    env = Env()

    class Asker(DurableObject):
        async def ask(self) -> str:
            self.ctx.storage.put("asked", True)
            return str((await self.env.client.get(f"http://127.0.0.1:{port}/")).text)

        async def ask_alone(self) -> Any:
            return await self.ctx.block_concurrency_while(self.ask)

    transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1))
    async with listener, anyio.create_task_group() as servers:
        servers.start_soon(listener.serve, serve)
        async with (
            httpx.AsyncClient(transport=GatedTransport(transport), timeout=20) as env.client,
            Runtime(tmp_path / "data", env=env) as runtime,
        ):
            askers = runtime.namespace(Asker)
            # A critical section needs the only connection that other events of its object use.
            async with anyio.create_task_group() as group:
                for number in range(10):
                    asker = askers.get_by_name(str(number % 2))
                    group.start_soon(asker.ask if number % 3 else asker.ask_alone)
        servers.cancel_scope.cancel()


async def test_outgoing_sends_by_any_callback_once_the_disk_agrees(
    senders: DurableObjectNamespace[Sender], faults: FaultInjector
) -> None:
    sender = senders.get_by_name("a")
    sent: list[str] = []

    async def publish(topic: str, *, text: str) -> int:
        await anyio.lowlevel.checkpoint()
        sent.append(f"{topic}: {text}")
        return len(sent)

    async def work(self: Sender) -> int:
        self.ctx.storage.put("text", "hello")
        return await outgoing(publish, "news", text="hello")

    with faults.hold("fdatasync", path="*.sqlite-wal") as held:
        async with anyio.create_task_group() as group:
            group.start_soon(sender.run, work)
            await held.reached()
            await settle()
            assert sent == []
            held.release()
    assert sent == ["news: hello"]

    async def plainly(self: Sender) -> int:
        return await outgoing(len, "hello")

    assert await sender.run(plainly) == 5
    assert await outgoing(publish, "outside", text="of objects") == 2


async def test_an_exception_of_what_was_sent_arrives(
    senders: DurableObjectNamespace[Sender],
) -> None:
    async def refuse() -> None:
        raise ConnectionRefusedError("nobody listens")

    async def work(self: Sender) -> str:
        try:
            await outgoing(refuse)
        except ConnectionRefusedError as exc:
            return str(exc)
        return "sent"

    assert await senders.get_by_name("a").run(work) == "nobody listens"


async def test_what_is_sent_works_for_nobody_and_cannot_break_into_a_critical_section(
    senders: DurableObjectNamespace[Sender],
) -> None:
    sender = senders.get_by_name("a")
    closed, open_again = anyio.Event(), anyio.Event()
    errors: list[str] = []

    async def work(self: Sender) -> None:
        async def write_on_the_way() -> None:
            await closed.wait()
            try:
                self.ctx.storage.kv.put("text", "foreign")
            except ConcurrencyError as exc:
                errors.append(str(exc))
            open_again.set()

        await outgoing(write_on_the_way)

    async with anyio.create_task_group() as group:
        group.start_soon(sender.run, work)
        await settle()
        group.start_soon(sender.close_gate, closed, open_again)
    assert len(errors) == 1
    assert await sender.stored() is None


async def test_outgoing_takes_something_to_call() -> None:
    with pytest.raises(ArgumentTypeError, match="callable, got int"):
        await outgoing(5)  # type: ignore[call-overload]
