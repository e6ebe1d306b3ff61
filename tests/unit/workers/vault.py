"""A Durable Object as one writes it for Cloudflare: nothing here knows what it runs on.

Every ``check_`` method is called from outside and asserts inside the object.
"""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlparse

from js import Date, Object, WebSocketPair
from pyodide.ffi import JsException, JsProxy, to_js
from workers import DurableObject, Response
from workers import env as top_level_env


class Vault(DurableObject):
    def __init__(self, ctx, env):
        super().__init__(ctx, env)
        self.storage = ctx.storage

        async def initialize():
            await self.storage.put("initialized", True)

        self.ctx.blockConcurrencyWhile(initialize)

    async def fetch(self, request):
        path = urlparse(request.url).path
        if path == "/health":
            return Response("alive")
        if path == "/echo":
            return Response.json({"method": request.method, "body": await request.text()})
        return Response("nothing here", status=404)

    @contextmanager
    def _fruits(self):
        self.ctx.storage.sql.exec("DROP TABLE IF EXISTS fruit")
        self.ctx.storage.sql.exec("CREATE TABLE fruit (id INTEGER PRIMARY KEY, name TEXT)")
        for name in ("apple", "banana", "cherry"):
            self.ctx.storage.sql.exec("INSERT INTO fruit (name) VALUES (?)", name)
        try:
            yield
        finally:
            self.ctx.storage.sql.exec("DROP TABLE fruit")

    # -- keys and values

    async def check_constructor_ran(self):
        assert await self.storage.get("initialized") is True

    async def check_put_get(self):
        await self.storage.deleteAll()
        await self.storage.put("k", "v")
        assert await self.storage.get("k") == "v"

    async def check_missing_key(self):
        assert await self.storage.get("no such key") is None

    async def check_put_many(self):
        await self.storage.deleteAll()
        await self.storage.put({"a": 1, "b": 2, "c": 3})
        assert [await self.storage.get(key) for key in "abc"] == [1, 2, 3]

    async def check_get_many(self):
        await self.storage.deleteAll()
        await self.storage.put({"b": 2, "a": 1})
        found = await self.storage.get(["b", "missing", "a"])
        assert found.get("a") == 1
        assert found["b"] == 2
        assert found.get("missing") is None
        assert list(found) == list(found.keys()) == ["a", "b"]
        assert len(found) == found.size == 2

    async def check_delete(self):
        await self.storage.put("k", 1)
        assert await self.storage.delete("k") is True
        assert await self.storage.delete("k") is False

    async def check_delete_many(self):
        await self.storage.put({"a": 1, "b": 2, "c": 3})
        assert await self.storage.delete(["a", "b", "missing"]) == 2

    async def check_list_prefix(self):
        await self.storage.deleteAll()
        await self.storage.put({"user:1": "x", "user:2": "y", "zebra": "z"})
        found = await self.storage.list({"prefix": "user:"})
        assert len(found) == 2
        assert found["user:1"] == "x"
        assert list(found) == ["user:1", "user:2"]

    async def check_list_options(self):
        await self.storage.deleteAll()
        for number in range(6):
            await self.storage.put(f"n{number}", number)
        assert list(await self.storage.list({"start": "n2", "end": "n4"})) == ["n2", "n3"]
        assert list(await self.storage.list({"startAfter": "n2", "limit": 2})) == ["n3", "n4"]
        assert list(await self.storage.list({"reverse": True, "limit": 1})) == ["n5"]
        assert list((await self.storage.list()).values()) == [0, 1, 2, 3, 4, 5]

    async def check_delete_all(self):
        await self.storage.put("k", 1)
        await self.storage.deleteAll()
        assert await self.storage.get("k") is None
        assert len(await self.storage.list()) == 0

    async def check_value_types(self):
        when = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
        values = {
            "text": "häé 🙂",
            "int": 42,
            "float": 3.25,
            "true": True,
            "none": None,
            "list": [1, "two", None],
            "dict": {"nested": {"deep": [1]}},
            "set": {1, 2},
            "bytes": b"\x00\xff",
            "date": when,
        }
        await self.storage.put(values)
        for key in ("text", "int", "float", "true", "none", "list", "dict", "set", "bytes"):
            assert await self.storage.get(key) == values[key], key
        assert await self.storage.get("true") is True
        assert (await self.storage.get("dict")).nested.deep == [1]
        assert (await self.storage.get("date")).timestamp() == when.timestamp()

    async def check_write_options(self):
        await self.storage.put("k", 1, {"allowUnconfirmed": True, "noCache": True})
        assert await self.storage.get("k", {"allowConcurrency": True}) == 1

    async def check_sync_kv(self):
        self.storage.kv.put("kv:1", {"a": 1})
        assert self.storage.kv.get("kv:1").a == 1
        assert [[key, value] for key, value in self.storage.kv.list({"prefix": "kv:"})] == [
            ["kv:1", {"a": 1}]
        ]
        assert self.storage.kv.delete("kv:1") is True

    # -- SQL

    async def check_sql_rows(self):
        with self._fruits():
            rows = self.storage.sql.exec("SELECT id, name FROM fruit ORDER BY id").toArray()
            assert len(rows) == 3
            assert rows[0]["name"] == "apple"
            assert rows[1].name == "banana"

    async def check_sql_one(self):
        with self._fruits():
            row = self.storage.sql.exec("SELECT count(*) AS n FROM fruit").one()
            assert row.n == row["n"] == 3
            message = ""
            try:
                self.storage.sql.exec("SELECT * FROM fruit").one()
            except Exception as error:
                message = str(error)
            assert "exactly one" in message

    async def check_sql_columns(self):
        with self._fruits():
            cursor = self.storage.sql.exec("SELECT id, name FROM fruit")
            assert list(cursor.columnNames) == ["id", "name"]
            cursor.toArray()
            del cursor

    async def check_sql_raw(self):
        with self._fruits():
            query = "SELECT id, name FROM fruit ORDER BY id LIMIT 2"
            assert [list(row) for row in self.storage.sql.exec(query).raw()] == [
                [1, "apple"],
                [2, "banana"],
            ]
            assert len(self.storage.sql.exec(query).raw().toArray()) == 2

    async def check_sql_next(self):
        with self._fruits():
            cursor = self.storage.sql.exec("SELECT name FROM fruit ORDER BY id LIMIT 1")
            step = cursor.next()
            assert step.done is False
            assert step.value.name == "apple"
            assert cursor.next()["done"] is True

    async def check_sql_iteration(self):
        with self._fruits():
            cursor = self.storage.sql.exec("SELECT name FROM fruit ORDER BY id")
            names = [row["name"] for row in cursor]
            del cursor
            assert names == ["apple", "banana", "cherry"]

    async def check_sql_metering(self):
        self.storage.sql.exec("CREATE TABLE metered (id INTEGER PRIMARY KEY)")
        written = self.storage.sql.exec("INSERT INTO metered VALUES (1), (2)")
        written.toArray()
        assert written.rowsWritten == 2
        read = self.storage.sql.exec("SELECT * FROM metered")
        read.toArray()
        assert read.rowsRead >= 2
        del written, read
        self.storage.sql.exec("DROP TABLE metered")

    async def check_half_read_cursor_can_be_dropped(self):
        self.storage.sql.exec("CREATE TABLE half (id INTEGER PRIMARY KEY)")
        self.storage.sql.exec("INSERT INTO half VALUES (1), (2), (3), (4)")
        cursor = self.storage.sql.exec("SELECT * FROM half")
        cursor.next()
        del cursor
        self.storage.sql.exec("DROP TABLE half")

    async def check_database_size(self):
        assert self.storage.sql.databaseSize >= 4096

    # -- alarms

    async def check_alarm(self):
        await self.storage.deleteAlarm()
        assert await self.storage.getAlarm() is None
        naive = datetime.now() + timedelta(minutes=1)
        await self.storage.setAlarm(naive)
        assert abs(await self.storage.getAlarm() - naive.timestamp() * 1000) < 1
        aware = datetime.now(UTC) + timedelta(minutes=2)
        await self.storage.setAlarm(aware)
        assert abs(await self.storage.getAlarm() - aware.timestamp() * 1000) < 1
        await self.storage.setAlarm(aware.timestamp() * 1000 + 5000)
        assert await self.storage.getAlarm() > aware.timestamp() * 1000
        await self.storage.deleteAlarm()
        assert await self.storage.getAlarm() is None

    # -- transactions and gates

    async def check_transaction(self):
        await self.storage.deleteAll()

        async def transfer(txn):
            await txn.put("balance", 10)
            return await txn.get("balance")

        assert await self.storage.transaction(transfer) == 10
        assert await self.storage.get("balance") == 10

    async def check_transaction_rollback(self):
        await self.storage.put("balance", 10)

        async def fail(txn):
            await txn.put("balance", 0)
            raise ValueError("no")

        try:
            await self.storage.transaction(fail)
        except ValueError:
            pass

        async def undo(txn):
            await txn.put("balance", 0)
            txn.rollback()

        await self.storage.transaction(undo)
        assert await self.storage.get("balance") == 10

    async def check_transaction_sync(self):
        self.storage.sql.exec("CREATE TABLE ledger (v)")

        def fail():
            self.storage.sql.exec("INSERT INTO ledger VALUES (1)")
            raise ValueError("no")

        try:
            self.storage.transactionSync(fail)
        except ValueError:
            pass
        count = "SELECT count(*) AS n FROM ledger"
        assert self.storage.transactionSync(lambda: self.storage.sql.exec(count).one().n) == 0
        self.storage.sql.exec("DROP TABLE ledger")

    async def check_block_concurrency_while(self):
        async def work():
            await self.storage.put("inside", "yes")
            return 42

        assert await self.ctx.blockConcurrencyWhile(work) == 42
        assert await self.storage.get("inside") == "yes"

    async def check_sync(self):
        self.storage.put("synced", 1)
        await self.storage.sync()
        assert await self.storage.get("synced") == 1

    # -- identity

    async def check_id(self):
        digits = self.ctx.id.toString()
        assert isinstance(digits, str)
        assert len(digits) == 64
        assert str(self.ctx.id) == digits
        assert self.ctx.id.name == "main"

    async def check_env(self):
        namespace = self.env.VAULT
        assert namespace.idFromName("main").equals(self.ctx.id)
        assert namespace.idFromString(self.ctx.id.toString()) == self.ctx.id
        assert namespace.newUniqueId().toString() != namespace.newUniqueId().toString()
        other = namespace.getByName("other")
        assert await other.echo("hello") == "hello"

    async def check_env_of_the_module(self):
        assert top_level_env.VAULT.idFromName("main").equals(self.ctx.id)

    # -- what comes from JavaScript

    async def check_converted_arguments(self):
        await self.storage.deleteAll()
        await self.storage.put(to_js({"b": 1, "a": (1, 2)}, dict_converter=Object.fromEntries))
        found = await self.storage.list(to_js({"prefix": "a"}, dict_converter=Object.fromEntries))
        assert found.to_py() == {"a": [1, 2]}

    async def check_results_are_no_proxies(self):
        await self.storage.put("k", {"a": 1})
        for value in (await self.storage.get("k"), await self.storage.list()):
            assert isinstance(value, dict)
            assert not isinstance(value, JsProxy)

    async def check_refusals_are_js_exceptions(self):
        message = ""
        try:
            self.storage.sql.exec("SELEKT")
        except JsException as error:
            message = str(error)
        assert "SELEKT" in message

    async def check_dates(self):
        await self.storage.setAlarm(Date.new(Date.now() + 60_000))
        due = Date.new(await self.storage.getAlarm())
        assert due.getTime() == await self.storage.getAlarm()
        assert Date.new(due.toISOString()).getTime() == due.getTime()
        await self.storage.deleteAlarm()

    # -- called from outside

    async def connect(self):
        return WebSocketPair.new()

    async def echo(self, value):
        return value

    async def describe(self, data):
        return {"received": data, "more": True}

    async def later(self, key):
        async def work():
            await self.storage.put(key, "done")

        self.ctx.waitUntil(work())

    async def read(self, key):
        return await self.storage.get(key)

    async def stop(self):
        await self.storage.put("lost", 1)
        try:
            self.ctx.abort("stop here")
        except Exception:
            raise AssertionError("abort() cannot be caught as an Exception") from None


class Plain(DurableObject):
    """It has no ``alarm`` and does not call ``super().__init__``."""

    def __init__(self, state, env):
        self.state = state

    async def on_fetch(self, request, env, ctx):
        return Response(f"{request.method} {ctx.id.name}")


class Older(DurableObject):
    """Its handlers have the prefix of before, and take no more than they need."""

    async def on_fetch(self, request):
        if request.method == "POST":
            await self.ctx.storage.setAlarm(Date.now() + 1000)
        return Response(str(await self.ctx.storage.get("rung")))

    async def on_alarm(self, alarm_info):
        await self.ctx.storage.put("rung", alarm_info.retryCount)


class Ticker(DurableObject):
    async def start(self):
        await self.ctx.storage.setAlarm(datetime.now() + timedelta(minutes=5))

    async def alarm(self, alarm_info):
        seen = await self.ctx.storage.get("seen") or []
        seen.append([alarm_info.retryCount, alarm_info.isRetry])
        await self.ctx.storage.put("seen", seen)
        if len(seen) == 1:
            raise RuntimeError("the first try fails")

    async def seen(self):
        return await self.ctx.storage.get("seen")
