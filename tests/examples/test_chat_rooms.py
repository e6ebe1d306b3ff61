"""The chat rooms through a real server process, with real clients."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from durable_storage import Runtime
from examples import chat_rooms

SCRIPT = Path(chat_rooms.__file__)


class Server:
    def __init__(self, directory: Path, *, command: list[str] | None = None) -> None:
        self.process = subprocess.Popen(
            command or [sys.executable, str(SCRIPT), str(directory), "0"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=SCRIPT.parents[1] if command else None,
        )
        assert self.process.stderr is not None
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                self.url = found[1]
                return
        raise AssertionError(self.said)

    def room(self, name: str, author: str, after: int = 0) -> str:
        return f"ws{self.url[4:]}/rooms/{name}/talk?author={author}&after={after}"

    def end(self, by: signal.Signals) -> int:
        self.process.send_signal(by)
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        self.process.stderr.close()
        return self.process.wait(30)


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    server = Server(directory)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)


async def heard(socket: ClientConnection) -> str:
    message = json.loads(await asyncio.wait_for(socket.recv(), 10))
    return f"{message['id']} {message['author']}: {message['text']}"


@pytest.mark.anyio
async def test_people_in_a_room_hear_each_other_and_no_other_room(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        async with (
            httpx.AsyncClient(base_url=server.url) as client,
            connect(server.room("lobby", "ada")) as ada,
            connect(server.room("lobby", "grace")) as grace,
            connect(server.room("kitchen", "edsger")) as edsger,
        ):
            await ada.send("hello")
            assert await heard(ada) == await heard(grace) == "1 ada: hello"
            await grace.send("good morning")
            assert await heard(ada) == await heard(grace) == "2 grace: good morning"
            said = await client.post(
                "/rooms/lobby/messages", json={"author": "post", "text": "a letter"}
            )
            assert said.status_code == 201
            assert said.json()["id"] == 3
            assert await heard(ada) == await heard(grace) == "3 post: a letter"
            await edsger.send("quiet here")
            assert await heard(edsger) == "1 edsger: quiet here"
            # Who comes later hears what was said, or what they have missed.
            async with connect(server.room("lobby", "alan", after=1)) as alan:
                assert await heard(alan) == "2 grace: good morning"
                assert await heard(alan) == "3 post: a letter"
            assert "Chat rooms" in (await client.get("/")).text


@pytest.mark.anyio
async def test_what_was_told_survives_the_death_of_the_server(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        async with connect(server.room("lobby", "ada")) as ada:
            for number in range(20):
                await ada.send(f"message {number}")
            told = [await heard(ada) for _ in range(20)]
            server.end(signal.SIGKILL)
            with pytest.raises(ConnectionClosed):
                await ada.recv()
    with serving(tmp_path / "data") as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            kept = (await client.get("/rooms/lobby/messages")).json()
            assert [f"{m['id']} {m['author']}: {m['text']}" for m in kept] == told
            after = await client.get("/rooms/lobby/messages", params={"after": 18, "limit": 1})
            assert [m["id"] for m in after.json()] == [19]


@pytest.mark.anyio
async def test_many_people_talk_at_once_and_all_hear_the_same_in_the_same_order(
    tmp_path: Path,
) -> None:
    people = 8
    with serving(tmp_path / "data") as server:

        async def talk(socket: ClientConnection) -> list[str]:
            for number in range(10):
                await socket.send(str(number))
            return [await heard(socket) for _ in range(people * 10)]

        sockets = [await connect(server.room("lobby", f"p{n}")) for n in range(people)]
        everything = await asyncio.gather(*(talk(socket) for socket in sockets))
        for socket in sockets:
            await socket.close()
    assert all(each == everything[0] for each in everything)
    assert [int(line.split()[0]) for line in everything[0]] == list(range(1, people * 10 + 1))


@pytest.mark.anyio
async def test_the_server_ends_in_order_while_people_are_there(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        async with connect(server.room("lobby", "ada")) as ada:
            await ada.send("hello")
            await heard(ada)
            code = await asyncio.to_thread(server.end, signal.SIGINT)
            with pytest.raises(ConnectionClosed):
                await ada.recv()
        assert code in (0, -signal.SIGINT)
        assert "shutdown complete" in server.said
        assert "Traceback" not in server.said
        assert "Warning" not in server.said


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"author": "ada", "text": ""}, 422),
        ({"author": "", "text": "x"}, 422),
        ({"author": "ada", "text": "x" * 3000}, 422),
        ({"text": "x"}, 422),
        ({"author": "ada", "text": "größe 🎉 \x00"}, 201),
    ],
)
async def test_only_messages_are_accepted(
    said: dict[str, str], status: int, tmp_path: Path
) -> None:
    app = chat_rooms.make_app(str(tmp_path / "data"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        answer = await client.post("/rooms/lobby/messages", json=said)
        assert answer.status_code == status
        messages = (await client.get("/rooms/lobby/messages")).json()
        assert [m["text"] for m in messages] == ([said["text"]] if status == 201 else [])


@pytest.mark.anyio
async def test_who_does_not_read_is_sent_away_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_rooms, "INBOX_MAX", 4)
    async with Runtime(tmp_path / "data") as runtime:
        room = runtime.namespace(chat_rooms.Room).get_by_name("lobby")
        slow, fast = chat_rooms.Member(), chat_rooms.Member()
        async with asyncio.TaskGroup() as group:
            group.create_task(room.join(slow, 0))
            listening = group.create_task(room.join(fast, 0))
            while await room.listeners() < 2:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0)
            for number in range(6):
                await room.say("ada", str(number))
                assert (await fast.inbox.get()).text == str(number)
            listening.cancel()
        assert slow.away.is_set()
        assert not fast.away.is_set()
        # Who comes back gets the newest of what was missed.
        back = chat_rooms.Member()
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(room.join(back, 1))
            assert [(await back.inbox.get()).text for _ in range(2)] == ["4", "5"]
            listening.cancel()
        assert await room.listeners() == 0
