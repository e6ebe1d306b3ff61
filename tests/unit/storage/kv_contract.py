"""What every ``KvBackend`` promises, as one function that its tests run."""

from __future__ import annotations

import random

from durable_storage.storage.kv_backend import KvBackend

KEYS = [
    "", " ", "A", "a", "a/", "a/1", "a/2", "a0", "aa", "b", "größe", "ß", "\ud7ff", "\ue000",
    "\uffff", "😀", "😀1", "\U0010ffff", "\U0010ffffx", "with\0nul", "new\nline", "[", "(", "-", "+",
]  # fmt: skip


def model(
    data: dict[str, bytes],
    *,
    start: str | None = None,
    start_after: str | None = None,
    end: str | None = None,
    prefix: str | None = None,
    reverse: bool = False,
    limit: int | None = None,
) -> list[tuple[str, bytes]]:
    """What ``KvBackend.list`` should answer."""
    pairs = sorted(data.items(), key=lambda pair: pair[0].encode())
    pairs = [
        (key, value)
        for key, value in pairs
        if (start is None or key.encode() >= start.encode())
        and (start_after is None or key.encode() > start_after.encode())
        and (end is None or key.encode() < end.encode())
        and (prefix is None or key.startswith(prefix))
    ]
    if reverse:
        pairs.reverse()
    return pairs if limit is None else pairs[:limit]


async def check_contract(backend: KvBackend) -> None:
    """Compare a new, empty store with a dict over many random operations."""
    assert await backend.get(["missing"]) == {}
    assert await backend.get([]) == {}
    assert await backend.list() == []
    await backend.batch({}, set())
    await backend.batch({}, {"missing"})
    await backend.delete_all()
    generator = random.Random(7)
    data: dict[str, bytes] = {}
    for round_ in range(60):
        chosen = generator.sample(KEYS, 8)
        puts = {key: generator.randbytes(generator.randrange(20)) for key in chosen[:5]}
        deletes = set(chosen[5:])
        await backend.batch(puts, deletes)
        data |= puts
        for key in deletes:
            data.pop(key, None)
        asked = generator.sample(KEYS, 10)
        assert await backend.get(asked) == {key: data[key] for key in asked if key in data}
        options = {
            name: generator.choice(KEYS)
            for name in ("start", "start_after", "end", "prefix")
            if generator.random() < 0.35
        }
        reverse = generator.random() < 0.5
        limit = generator.choice([None, None, 1, 3])
        expected = model(data, **options, reverse=reverse, limit=limit)  # type: ignore[arg-type]
        found = await backend.list(**options, reverse=reverse, limit=limit)  # type: ignore[arg-type]
        assert found == expected, (options, reverse, limit)
        if round_ == 40:
            await backend.delete_all()
            data.clear()
            assert await backend.list() == []
    assert await backend.list() == model(data)
    many = {f"many/{number:05}": b"x" * 100 for number in range(2500)}
    await backend.batch(many, set(data))
    assert await backend.list(prefix="many/") == model(many)
    assert await backend.list(reverse=True, limit=1200) == model(many, reverse=True, limit=1200)
