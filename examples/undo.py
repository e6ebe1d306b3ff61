"""Undo through bookmarks: a document that goes back to the state before any of its edits.

    python examples/undo.py [DIRECTORY]

A bookmark names a state of the whole object: its tables, its keys, its alarm. Here each edit notes
the bookmark of the state before it. The restore happens at the next start, which ``abort()``
makes at once; a restore is itself a commit, so it can be undone in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from durable_storage import DurableObject, ObjectResetError, Runtime


class Document(DurableObject):
    async def edit(self, text: str) -> None:
        storage = self.ctx.storage
        before = await storage.get_current_bookmark()
        storage.put({"text": text, "before": before})

    async def read(self) -> str:
        return await self.ctx.storage.get("text", "")

    async def before(self) -> str | None:
        """The bookmark of the state before the newest edit."""
        before: str | None = await self.ctx.storage.get("before")
        return before

    async def restore(self, bookmark: str) -> str:
        """Go back, or forward, to ``bookmark`` at the next start; the result undoes it."""
        return await self.ctx.storage.on_next_session_restore_bookmark(bookmark)

    async def restart(self) -> None:
        self.ctx.abort("restarted to restore a bookmark")


async def go_to(document: Document, bookmark: str) -> str:
    """Restore now. The call that restarts the object never gets an answer: it is an error."""
    undo = await document.restore(bookmark)
    with contextlib.suppress(ObjectResetError):
        await document.restart()
    return undo


async def main(directory: str = "./data") -> None:
    async with Runtime(directory) as runtime:
        document = runtime.namespace(Document).get_by_name("letter")
        for text in ("Dear Ada,", "Dear Ada, thank you", "Dear Ada, thank you for nothing"):
            await document.edit(text)
        print("written: ", await document.read())

        before = await document.before()
        assert before is not None
        redo = await go_to(document, before)
        print("undone:  ", await document.read())

        await go_to(document, redo)
        print("redone:  ", await document.read())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
