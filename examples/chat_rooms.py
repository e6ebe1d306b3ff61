"""Chat rooms on FastAPI: HTTP and WebSockets, every room an object, its history in SQL.

    python examples/chat_rooms.py [DIRECTORY] [PORT]     then open http://127.0.0.1:8000

The same with uvicorn's own command, from the folder above: ``uvicorn examples.chat_rooms:app``.

A message is told to nobody before the disk holds it, so nobody can have read what a crash then
takes away. A client that comes back asks for what it has missed with ``&after=ID``.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from durable_storage import DurableObject, DurableObjectNamespace, DurableObjectState, Runtime
from durable_storage.integrations.asgi import exception_handlers, lifespan, namespace_of
from durable_storage.migrate import migrate

# A client that is so many messages behind is sent away; it can come back and ask for them.
INBOX_MAX = 1000


@dataclass(frozen=True)
class Message:
    id: int
    author: str
    text: str
    said_at: str


@dataclass(eq=False)
class Member:
    """Somebody who listens: what was not sent to them yet, and whether they were sent away."""

    inbox: asyncio.Queue[Message] = field(default_factory=lambda: asyncio.Queue(INBOX_MAX))
    away: asyncio.Event = field(default_factory=asyncio.Event)


class Room(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        migrate(
            ctx.storage,
            [
                """
                CREATE TABLE messages(
                    id INTEGER PRIMARY KEY, author TEXT NOT NULL, text TEXT NOT NULL,
                    said_at TEXT NOT NULL
                )
                """
            ],
        )
        self.members: set[Member] = set()
        # The newest message that was told; those above it are not on the disk yet.
        self.told: int = ctx.storage.sql.exec(
            "SELECT coalesce(max(id), 0) AS newest FROM messages"
        ).one()["newest"]

    async def messages(self, after: int = 0, limit: int = 100) -> list[Message]:
        return self.ctx.storage.sql.exec(
            "SELECT * FROM messages WHERE id > ? ORDER BY id LIMIT ?",
            after, limit, row_type=Message,
        ).to_array()  # fmt: skip

    async def say(self, author: str, text: str) -> Message:
        said_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        message = self.ctx.storage.sql.exec(
            "INSERT INTO messages(author, text, said_at) VALUES (?, ?, ?) RETURNING *",
            author, text, said_at, row_type=Message,
        ).one()  # fmt: skip
        # The library cannot see what goes to the members' inboxes: this waits for the disk.
        await self.ctx.storage.sync()
        self._tell(message.id)
        return message

    def _tell(self, newest: int) -> None:
        """Pass on, in their order, the messages up to one that the disk holds."""
        told = self.ctx.storage.sql.exec(
            "SELECT * FROM messages WHERE id > ? AND id <= ? ORDER BY id",
            self.told, newest, row_type=Message,
        ).to_array()  # fmt: skip
        self.told = max(self.told, newest)
        for member in [*self.members]:
            self._pass_on(member, told)

    def _pass_on(self, member: Member, messages: list[Message]) -> None:
        try:
            for message in messages:
                member.inbox.put_nowait(message)
        except asyncio.QueueFull:
            member.away.set()
            self.members.discard(member)

    async def join(self, member: Member, after: int) -> None:
        """Fill the inbox with what came after a message, until cancelled or sent away.

        Of what is past, with the newest only, as many as leave room for more.

        The event lasts as long as somebody listens, and so the room stays in memory.
        """
        await self.ctx.storage.sync()
        past = self.ctx.storage.sql.exec(
            "SELECT * FROM messages WHERE id > ? AND id <= ? ORDER BY id DESC LIMIT ?",
            after, self.told, INBOX_MAX // 2, row_type=Message,
        ).to_array()  # fmt: skip
        self.members.add(member)
        self._pass_on(member, past[::-1])
        try:
            await member.away.wait()
        finally:
            self.members.discard(member)

    async def listeners(self) -> int:
        return len(self.members)


class Said(BaseModel):
    author: str = Field(min_length=1, max_length=40)
    text: str = Field(min_length=1, max_length=2000)


Rooms = Annotated[DurableObjectNamespace[Room], Depends(namespace_of(Room))]


def make_app(directory: str = "./data") -> FastAPI:
    app = FastAPI(
        title="Chat rooms",
        lifespan=lifespan(lambda: Runtime(directory), Room),
        exception_handlers=exception_handlers,
    )

    @app.get("/rooms/{name}/messages")
    async def read(
        name: str,
        rooms: Rooms,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[Message]:
        return await rooms.get_by_name(name).messages(after, limit)

    @app.post("/rooms/{name}/messages", status_code=201)
    async def say(name: str, said: Said, rooms: Rooms) -> Message:
        return await rooms.get_by_name(name).say(said.author, said.text)

    @app.websocket("/rooms/{name}/talk")
    async def talk(
        socket: WebSocket,
        name: str,
        rooms: Rooms,
        author: Annotated[str, Query(min_length=1, max_length=40)],
        after: int = 0,
    ) -> None:
        room = rooms.get_by_name(name)
        member = Member()

        async def read_all() -> None:
            async for text in socket.iter_text():
                if text.strip():
                    await room.say(author, text[:2000])

        async def write_all() -> None:
            while True:
                await socket.send_json(asdict(await member.inbox.get()))

        await socket.accept()
        # The first of the three to end, ends the others.
        tasks = [
            asyncio.create_task(part)
            for part in (room.join(member, after), read_all(), write_all())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if member.away.is_set():
                await socket.close(1013, "too far behind; come back")
        except WebSocketDisconnect:
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return PAGE

    return app


PAGE = """<!doctype html><meta charset="utf-8"><title>Chat rooms</title>
<style>body{font:16px sans-serif;max-width:40rem;margin:2rem auto}#log{min-height:12rem}</style>
<form id="go"><input id="room" value="lobby" required> <input id="author" placeholder="your name"
 required> <button>Enter</button></form><div id="log"></div>
<form id="say"><input id="text" size="50" autocomplete="off"> <button>Say</button></form>
<script>
let socket, newest = 0;
const at = id => document.getElementById(id);
function enter() {
  const where = `ws://${location.host}/rooms/${encodeURIComponent(at("room").value)}/talk`;
  const author = encodeURIComponent(at("author").value);
  socket = new WebSocket(`${where}?author=${author}&after=${newest}`);
  socket.onmessage = event => {
    const message = JSON.parse(event.data), line = document.createElement("p");
    newest = message.id;
    line.textContent = `${message.author}: ${message.text}`;
    at("log").append(line);
  };
  const mine = socket;
  socket.onclose = () => { if (mine === socket) setTimeout(enter, 1000); };
}
at("go").onsubmit = event => {
  event.preventDefault(); newest = 0; at("log").replaceChildren();
  const old = socket; enter(); if (old) old.close();
};
at("say").onsubmit = event => {
  event.preventDefault(); socket.send(at("text").value); at("text").value = "";
};
</script>"""

app = make_app()


def main(directory: str = "./data", port: str = "8000") -> None:
    import uvicorn

    uvicorn.run(make_app(directory), host="127.0.0.1", port=int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
