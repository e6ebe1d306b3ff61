"""Unique numbers: invoice numbers without gaps and without duplicates, across restarts.

    python examples/unique_numbers.py [DIRECTORY]

Forty clients ask at once. Reading and writing the number need no lock: no other call to the
object gets between two of its storage operations.
"""

from __future__ import annotations

import asyncio
import sys

from durable_storage import DurableObject, Runtime


class InvoiceNumbers(DurableObject):
    async def next(self) -> int:
        number = await self.ctx.storage.get("last", 0) + 1
        # Not awaited, and yet no caller learns of the number before it is on the disk.
        self.ctx.storage.put("last", number)
        return number


async def main(directory: str = "./data") -> None:
    async with Runtime(directory) as runtime:
        shop = runtime.namespace(InvoiceNumbers).get_by_name("2026")
        numbers = await asyncio.gather(*(shop.next() for _ in range(40)))
    assert len(set(numbers)) == 40
    print(f"invoices {min(numbers)} to {max(numbers)}; run it again for the next forty")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
