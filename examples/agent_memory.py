"""Memory of an AI agent: every conversation an object, with full-text search and reminders.

    python examples/agent_memory.py [DIRECTORY]             talk to it: note, ask, remind
    python examples/agent_memory.py [DIRECTORY] < SCRIPT    the same, without a terminal

The agent here is a stand-in that answers with what it remembers; a language model would be given
the same passages. Messages, their index and the schedules of the reminders are in one database, so
that what is said and what is planned can never disagree.
"""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from durable_storage import DurableObject, DurableObjectState, Runtime
from durable_storage.migrate import migrate
from durable_storage.schedule import Schedules


@dataclass(frozen=True)
class Message:
    id: int
    role: str
    text: str
    said_at: float


class Conversation(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.schedules = Schedules(self)
        migrate(
            ctx.storage,
            [
                """
                CREATE TABLE messages(
                    id INTEGER PRIMARY KEY, role TEXT NOT NULL, text TEXT NOT NULL,
                    said_at REAL NOT NULL
                );
                CREATE VIRTUAL TABLE messages_index USING fts5(
                    text, content = messages, content_rowid = id, tokenize = porter
                );
                CREATE TRIGGER index_message AFTER INSERT ON messages BEGIN
                    INSERT INTO messages_index(rowid, text) VALUES (new.id, new.text);
                END;
                """
            ],
        )

    async def say(self, role: str, text: str) -> None:
        self.sql.exec(
            "INSERT INTO messages(role, text, said_at) VALUES (?, ?, ?)",
            role, text, datetime.now(UTC).timestamp(),
        )  # fmt: skip

    async def recent(self, count: int = 20) -> list[Message]:
        newest_first = self.sql.exec(
            "SELECT * FROM messages ORDER BY id DESC LIMIT ?", count, row_type=Message
        )
        return newest_first.to_array()[::-1]

    async def recall(self, question: str, count: int = 3) -> list[Message]:
        """The messages that have most to do with a question, best first."""
        words = {f'"{word}"' for word in re.findall(r"\w+", question) if len(word) > 3}
        if not words:
            return []
        return self.sql.exec(
            """
            SELECT messages.* FROM messages_index AS found
            JOIN messages ON messages.id = found.rowid
            WHERE messages_index MATCH ? AND role = 'user' ORDER BY rank LIMIT ?
            """,
            " OR ".join(sorted(words)), count, row_type=Message,
        ).to_array()  # fmt: skip

    async def answer(self, question: str) -> str:
        found = await self.recall(question)
        answer = " / ".join(message.text for message in found) or "I know nothing about that."
        await self.say("assistant", answer)
        return answer

    async def remind(self, text: str, after: timedelta) -> None:
        self.schedules.once(f"reminder {uuid.uuid4()}", after, "_remind", text)

    async def _remind(self, text: str) -> None:
        await self.say("assistant", f"Reminder: {text}")

    async def alarm(self) -> None:
        await self.schedules.run_due()


async def talk(conversation: Conversation, line: str) -> str:
    command, _, rest = line.partition(" ")
    match command:
        case "note" if rest:
            await conversation.say("user", rest)
            return "noted"
        case "ask" if rest:
            return await conversation.answer(rest)
        case "remind" if re.match(r"\d+ \S", rest):
            seconds, _, text = rest.partition(" ")
            await conversation.remind(text, timedelta(seconds=int(seconds)))
            return f"in {seconds} seconds"
        case "log":
            messages = await conversation.recent()
            return "\n".join(f"{message.role}: {message.text}" for message in messages)
        case _:
            return "note TEXT, ask QUESTION, remind SECONDS TEXT, or log"


async def main(directory: str = "./data") -> None:
    async with Runtime(directory) as runtime:
        conversation = runtime.namespace(Conversation).get_by_name("me")
        if sys.stdin.isatty():
            print(await talk(conversation, ""), "(end with Ctrl-D)")
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip():
                print(await talk(conversation, line.strip()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
