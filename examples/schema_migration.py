"""Schema migration: an object whose tables were made by an older version of the program.

    python examples/schema_migration.py [DIRECTORY]

Every object has a database of its own, so there is no moment at which all of them are migrated:
each is when it is next used. ``migrate()`` in the constructor applies the steps that this
object has not seen. Here the first two versions of a program follow each other.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from durable_storage import DurableObject, DurableObjectState, DurableObjectStorage, Runtime
from durable_storage.migrate import Step, migrate

VERSION_1: list[Step] = [
    "CREATE TABLE contacts(id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
]


def split_names(storage: DurableObjectStorage) -> None:
    """What SQL alone cannot do is a function; it and its record are one transaction."""
    for row in storage.sql.exec("SELECT id, name FROM contacts").to_array():
        first, _, last = row["name"].rpartition(" ")
        storage.sql.exec(
            "UPDATE contacts SET first = ?, last = ? WHERE id = ?", first, last, row["id"]
        )


VERSION_2: list[Step] = [
    *VERSION_1,  # steps are added at the end; those before stay as they are
    "ALTER TABLE contacts ADD COLUMN first TEXT; ALTER TABLE contacts ADD COLUMN last TEXT",
    split_names,
    "ALTER TABLE contacts DROP COLUMN name",
]


class ContactsVersion1(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        migrate(ctx.storage, VERSION_1)

    async def add(self, name: str) -> None:
        self.ctx.storage.sql.exec("INSERT INTO contacts(name) VALUES (?)", name)

    async def clear(self) -> None:
        await self.ctx.storage.delete_all()
        migrate(self.ctx.storage, VERSION_1)


class ContactsVersion2(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        self.steps_applied = migrate(ctx.storage, VERSION_2)

    async def applied(self) -> int:
        return self.steps_applied

    async def by_last_name(self) -> list[dict[str, str]]:
        return self.ctx.storage.sql.exec(
            "SELECT last, first FROM contacts ORDER BY last, first"
        ).to_array()


async def main(directory: str = "./data") -> None:
    async with Runtime(directory) as runtime:
        old = runtime.namespace(ContactsVersion1, name="Contacts").get_by_name("mine")
        try:
            await old.clear()
        except Exception as exc:  # after the first run, the objects are of version 2
            print("the older program refuses:", exc)
        else:
            for name in ("Ada Lovelace", "Grace Hopper", "Edsger W. Dijkstra"):
                await old.add(name)

    async with Runtime(directory) as runtime:
        new = runtime.namespace(ContactsVersion2, name="Contacts").get_by_name("mine")
        print(f"{await new.applied()} steps applied")
        for row in await new.by_last_name():
            print(f"{row['last']}, {row['first']}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
