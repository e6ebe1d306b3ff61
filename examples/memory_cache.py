"""In-memory cache: answers that are expensive to compute, kept while the object is in memory.

    python examples/memory_cache.py [DIRECTORY]

The object is the only one that changes its data, so what it has once computed stays right until
it changes the data itself. An object that is reset or closed starts with an empty cache, never
with a stale one. The words counted are those of the licence of this project.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

from durable_storage import DurableObject, DurableObjectState, Runtime

TEXT = Path(__file__).parents[1] / "LICENSE"


class WordStatistics(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS words(word TEXT)")
        self.cache: dict[int, dict[str, int]] = {}
        self.computed = 0

    async def add(self, text: str) -> int:
        words = re.findall(r"\w+", text.lower())
        with self.ctx.storage.transaction_sync():
            for word in words:
                self.ctx.storage.sql.exec("INSERT INTO words VALUES (?)", word)
        self.cache.clear()
        return len(words)

    async def most_frequent(self, count: int) -> dict[str, int]:
        if count not in self.cache:
            self.computed += 1
            rows = self.ctx.storage.sql.exec(
                "SELECT word, count(*) FROM words GROUP BY word ORDER BY 2 DESC, 1 LIMIT ?", count
            )
            self.cache[count] = dict(rows.raw())
        return self.cache[count].copy()

    async def clear(self) -> None:
        await self.ctx.storage.delete_all()
        self.ctx.storage.sql.exec("CREATE TABLE words(word TEXT)")
        self.cache.clear()


async def main(directory: str = "./data") -> None:
    async with Runtime(directory) as runtime:
        statistics = runtime.namespace(WordStatistics).get_by_name("licence")
        await statistics.clear()
        print(f"{await statistics.add(TEXT.read_text())} words added")
        for _ in range(1000):
            await statistics.most_frequent(5)
        frequent = await statistics.most_frequent(5)
        print("most frequent:", ", ".join(f"{word} ({n})" for word, n in frequent.items()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
