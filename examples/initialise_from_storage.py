"""Initialise from storage: state that lives in memory and is loaded before the first call.

    python examples/initialise_from_storage.py [DIRECTORY]

What ``block_concurrency_while()`` runs in the constructor is done before any call is delivered, so
no method ever has to ask whether the state is there yet.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from durable_storage import DurableObject, DurableObjectState, Runtime


class Visitors(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        self.names: list[str] = []
        ctx.block_concurrency_while(self._load)

    async def _load(self) -> None:
        self.names = await self.ctx.storage.get("names", [])

    async def visit(self, name: str) -> list[str]:
        self.names.append(name)
        self.ctx.storage.put("names", self.names)
        return self.names.copy()  # results pass by reference: give the caller one of its own


async def main(directory: str = "./data") -> None:
    async with Runtime(directory) as runtime:
        page = runtime.namespace(Visitors).get_by_name("/index.html")
        for name in ("ada", "grace"):
            names = await page.visit(name)
        print(f"{len(names)} visits so far, the last by {names[-1]}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
