"""Random programs over an object's storage, and a plain model of what they must see."""

from __future__ import annotations

import copy
import datetime
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
from hypothesis import strategies as st

from durable_storage import DurableObject, SqlError

KEYS = ("", "a", "aa", "b", "\ud7ff", "\ue000", "\U0010ffff", "z" * 40)
FAR_AWAY_MS = 4_000_000_000_000

values = st.one_of(
    st.integers(-(2**70), 2**70),
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.floats(allow_nan=False),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.sampled_from(["x" * 5000, b"y" * 9000]),
)
keys = st.sampled_from(KEYS)
apis = st.sampled_from(["async", "sync"])

_leaves = st.one_of(
    st.tuples(st.just("put"), keys, values, apis),
    st.tuples(st.just("put_many"), st.dictionaries(keys, values, max_size=3)),
    st.tuples(st.just("delete"), keys, apis),
    st.tuples(st.just("delete_many"), st.lists(keys, max_size=3)),
    st.tuples(st.just("get"), keys, apis, st.booleans()),
    st.tuples(st.just("get_many"), st.lists(keys, max_size=4)),
    st.tuples(
        st.just("list"),
        st.one_of(st.none(), keys),
        st.one_of(st.none(), keys),
        st.one_of(st.none(), keys),
        st.booleans(),
        st.one_of(st.none(), st.integers(1, 3)),
        apis,
    ),
    st.tuples(st.just("insert"), st.integers(0, 9), st.text(max_size=3)),
    st.tuples(st.just("update"), st.integers(0, 9)),
    st.tuples(st.just("remove"), st.integers(0, 9)),
    st.tuples(st.just("select"), st.booleans()),
    st.tuples(st.just("violate"), st.integers(0, 9)),
    st.tuples(st.just("set_alarm"), st.integers(0, 99)),
    st.tuples(st.just("delete_alarm")),
    st.tuples(st.just("get_alarm")),
    st.tuples(st.just("pause")),
    st.tuples(st.just("sync")),
    st.tuples(st.just("mutate"), keys),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    block = st.lists(inner, max_size=5)
    end = st.sampled_from(["keep", "raise", "rollback"])
    return st.one_of(
        st.tuples(st.just("transaction"), block, end, st.booleans()),
        st.tuples(st.just("savepoint"), block, st.sampled_from(["keep", "raise"]), st.booleans()),
    )


operations = st.recursive(_leaves, _nested, max_leaves=6)
events = st.tuples(
    st.lists(operations, max_size=7),
    st.sampled_from(["return", "return", "raise", "abort", "delete_all"]),
)
betweens = st.sampled_from(["nothing", "nothing", "evict", "restart", "fold"])
programs = st.lists(st.tuples(events, betweens), min_size=1, max_size=6)


class Undone(Exception):
    """Ends a transaction, or an event, on purpose."""


@dataclass
class Model:
    kv: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, str] = field(default_factory=dict)
    alarm: int | None = None

    def copy(self) -> Model:
        return copy.deepcopy(self)


class Interpreter:
    """Runs operations against a storage and the model, and compares what they give."""

    def __init__(self) -> None:
        self.model = Model()
        self.committed = Model()
        """What a reset goes back to."""
        self.explicit = 0
        """Transactions that are open: inside of them nothing is committed."""
        self.savepoints = 0

    def _commit(self) -> None:
        if not self.explicit:
            self.committed = self.model.copy()

    async def run(self, storage: Any, block: list[Any]) -> None:
        for operation in block:
            kind, *arguments = operation
            await getattr(self, kind)(storage, *arguments)

    def run_sync(self, storage: Any, block: list[Any]) -> None:
        """As `run`, for code that may not wait: what would is left out."""
        for operation in block:
            kind, *arguments = operation
            if kind in ("pause", "sync", "transaction"):
                continue
            coroutine = getattr(self, kind)(storage, *arguments)
            try:
                coroutine.send(None)
            except StopIteration:
                continue
            raise AssertionError(f"{kind} suspended in a transaction_sync()")

    # -- keys and values

    async def put(self, storage: Any, key: str, value: Any, api: str) -> None:
        if api == "sync":
            storage.kv.put(key, value)
        else:
            storage.put(key, value)
        self.model.kv[key] = copy.deepcopy(value)

    async def put_many(self, storage: Any, pairs: dict[str, Any]) -> None:
        await storage.put(pairs)
        self.model.kv.update(copy.deepcopy(pairs))

    async def delete(self, storage: Any, key: str, api: str) -> None:
        found = storage.kv.delete(key) if api == "sync" else await storage.delete(key)
        assert found == (key in self.model.kv)
        self.model.kv.pop(key, None)

    async def delete_many(self, storage: Any, some: list[str]) -> None:
        found = await storage.delete(some)
        assert found == len(set(some) & self.model.kv.keys())
        for key in some:
            self.model.kv.pop(key, None)

    async def get(self, storage: Any, key: str, api: str, no_cache: bool) -> None:
        if api == "sync":
            found = storage.kv.get(key, "absent")
        else:
            found = await storage.get(key, "absent", no_cache=no_cache)
        _same(found, self.model.kv.get(key, "absent"))

    async def get_many(self, storage: Any, some: list[str]) -> None:
        found = await storage.get(some)
        wanted = sorted(set(some) & self.model.kv.keys(), key=_bytes)
        _same(found, {key: self.model.kv[key] for key in wanted})
        assert list(found) == wanted

    async def list(
        self,
        storage: Any,
        start: str | None,
        end: str | None,
        prefix: str | None,
        reverse: bool,
        limit: int | None,
        api: str,
    ) -> None:
        options = {"start": start, "end": end, "prefix": prefix, "reverse": reverse, "limit": limit}
        if api == "sync":
            found = dict(storage.kv.list(**options))
        else:
            found = await storage.list(**options)
        wanted = [
            key
            for key in sorted(self.model.kv, key=_bytes, reverse=reverse)
            if (start is None or _bytes(key) >= _bytes(start))
            and (end is None or _bytes(key) < _bytes(end))
            and (prefix is None or key.startswith(prefix))
        ][:limit]
        assert list(found) == wanted
        _same(found, {key: self.model.kv[key] for key in wanted})

    async def mutate(self, storage: Any, key: str) -> None:
        """What a reader does with what it was given changes nothing."""
        found = storage.kv.get(key)
        if isinstance(found, list):
            found.append("mine")
        elif isinstance(found, dict):
            found["mine"] = 1
        _same(storage.kv.get(key), self.model.kv.get(key))

    # -- SQL

    async def insert(self, storage: Any, key: int, text: str) -> None:
        storage.sql.exec("INSERT OR REPLACE INTO t VALUES (?, ?)", key, text)
        self.model.rows[key] = text

    async def update(self, storage: Any, key: int) -> None:
        storage.sql.exec("UPDATE t SET b = b || '+' WHERE a >= ?", key)
        for each in self.model.rows:
            if each >= key:
                self.model.rows[each] += "+"

    async def remove(self, storage: Any, key: int) -> None:
        storage.sql.exec("DELETE FROM t WHERE a = ?", key)
        self.model.rows.pop(key, None)

    async def select(self, storage: Any, raw: bool) -> None:
        cursor = storage.sql.exec("SELECT a, b FROM t ORDER BY a")
        wanted = sorted(self.model.rows.items())
        if raw:
            assert list(cursor.raw()) == wanted
        else:
            assert cursor.to_array() == [{"a": a, "b": b} for a, b in wanted]

    async def violate(self, storage: Any, key: int) -> None:
        """A statement that fails undoes itself, and nothing else."""
        if key not in self.model.rows:
            return
        try:
            storage.sql.exec(
                "INSERT INTO t SELECT a + 1000, b FROM t UNION ALL SELECT ?, 'again'", key
            )
        except SqlError:
            pass
        else:
            raise AssertionError("a key was inserted twice")

    # -- alarms

    async def set_alarm(self, storage: Any, when: int) -> None:
        await storage.set_alarm(FAR_AWAY_MS + when)
        self.model.alarm = FAR_AWAY_MS + when

    async def delete_alarm(self, storage: Any) -> None:
        await storage.delete_alarm()
        self.model.alarm = None

    async def get_alarm(self, storage: Any) -> None:
        found = await storage.get_alarm()
        wanted = self.model.alarm
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        assert found == (
            None if wanted is None else epoch + datetime.timedelta(milliseconds=wanted)
        )

    # -- turns and transactions

    async def pause(self, storage: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self._commit()

    async def sync(self, storage: Any) -> None:
        await storage.sync()
        self._commit()

    async def transaction(self, storage: Any, block: list[Any], end: str, as_context: bool) -> None:
        self._commit()
        before = self.model.copy()
        self.explicit += 1

        async def body(txn: Any) -> None:
            await self.run(storage, block)
            if end == "raise":
                raise Undone
            if end == "rollback":
                txn.rollback()

        try:
            if as_context:
                async with storage.transaction() as txn:
                    await body(txn)
            else:
                await storage.transaction(body)
        except Undone:
            assert end == "raise"
        finally:
            self.explicit -= 1
        if end != "keep":
            self.model = before
        self._commit()

    async def savepoint(self, storage: Any, block: list[Any], end: str, as_context: bool) -> None:
        before = self.model.copy()

        def body() -> None:
            self.run_sync(storage, block)
            if end == "raise":
                raise Undone

        try:
            if as_context:
                with storage.transaction_sync():
                    body()
            else:
                storage.transaction_sync(body)
        except Undone:
            assert end == "raise"
            self.model = before


def _bytes(text: str) -> bytes:
    return text.encode()


def _same(found: Any, wanted: Any) -> None:
    assert found == wanted
    assert type(found) is type(wanted)


class Programmed(DurableObject):
    """Runs one event of a program."""

    def __init__(self, ctx: Any, env: Interpreter) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")

    async def alarm(self) -> None:
        raise AssertionError("no alarm is due")

    async def event(self, block: list[Any], end: str) -> None:
        interpreter: Interpreter = self.env
        interpreter._commit()
        await interpreter.run(self.ctx.storage, block)
        if end == "raise":
            interpreter._commit()
            raise Undone
        if end == "abort":
            interpreter.model = interpreter.committed.copy()
            self.ctx.abort("on purpose")
        if end == "delete_all":
            alarm = interpreter.model.alarm
            self.ctx.storage.delete_all()
            self.ctx.storage.sql.exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
            interpreter.model = Model(alarm=alarm)
        interpreter._commit()

    async def check(self) -> None:
        interpreter: Interpreter = self.env
        await interpreter.list(self.ctx.storage, None, None, None, False, None, "sync")
        await interpreter.select(self.ctx.storage, True)
        await interpreter.get_alarm(self.ctx.storage)
