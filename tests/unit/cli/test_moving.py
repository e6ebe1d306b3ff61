from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_storage import DurableObject, sync
from durable_storage.cli import moving

from .rig import Counter, Old, Shell, lines, write_lines
from .test_looking import WHEN


@pytest.fixture
def plain(tmp_path: Path) -> Callable[..., Path]:
    def make(*statements: str, before: str = "PRAGMA user_version = 0") -> Path:
        path = tmp_path / "plain.sqlite"
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path)
        connection.execute(before)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()
        return path

    return make


class Reader(DurableObject):
    async def read(self, query: str) -> list[tuple[object, ...]]:
        return list(self.ctx.storage.sql.exec(query).raw())


def read(data: Path, name: str, query: str) -> list[tuple[object, ...]]:
    with sync.Runtime(data) as runtime:
        return runtime.namespace(Reader).get_by_name(name).read(query)


def test_a_plain_file_becomes_an_object(
    shell: Shell, data: Path, plain: Callable[..., Path]
) -> None:
    file = plain(
        "CREATE TABLE city(name TEXT PRIMARY KEY, people INTEGER)",
        "CREATE INDEX by_people ON city(people)",
        "CREATE VIEW large AS SELECT name FROM city WHERE people > 200000",
        "INSERT INTO city VALUES ('Ghent', 265000), ('Bruges', 119000)",
    )
    content = file.read_bytes()
    found = shell.json("import", file, data, "Reader", "cities")
    assert found["name"] == "cities"
    assert file.read_bytes() == content
    assert read(data, "cities", "SELECT name FROM large") == [("Ghent",)]
    assert shell("check", data).code == 0
    assert shell.json("ls", data)["namespaces"][0]["objects"][0]["name"] == "cities"


def test_an_imported_object_has_its_history_from_then_on(
    shell: Shell, data: Path, plain: Callable[..., Path]
) -> None:
    file = plain("CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    shell.json("import", file, data, "Reader", "x")
    (entry,) = shell.json("history", data, "Reader", "x")["timeline"]
    read(data, "x", "DELETE FROM t")
    command = ("history", data, "Reader", "x", "restore", "--yes", "--to", entry["bookmark"])
    shell.json(*command)
    assert read(data, "x", "SELECT a FROM t") == [(1,)]


def test_a_file_in_another_form_is_brought_into_ours(
    shell: Shell, data: Path, plain: Callable[..., Path]
) -> None:
    file = plain("CREATE TABLE t(a)", "INSERT INTO t VALUES (1)", before="PRAGMA page_size=1024")
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("INSERT INTO t VALUES (2)")
    connection.commit()
    shell.json("import", file, data, "Reader", "x")
    connection.close()
    assert read(data, "x", "SELECT a FROM t") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE TABLE _cf_evil(a)", "_cf_"),
        ("CREATE TABLE _CF_KV(key)", "_cf_"),
        ("CREATE VIEW _cf_view AS SELECT 1", "_cf_"),
        ("CREATE TABLE _cf_KV(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID", "--exported"),
        ("CREATE VIEW v AS SELECT sqlite_version()", "not auth"),
        ("CREATE VIRTUAL TABLE f USING fts3(a)", "'fts3'"),
        ("create virtual table f\nusing\n'FTS4'(a)", "'FTS4'"),
        ("INSERT INTO t VALUES(1), (zeroblob(3000000))", "too big"),
        (f"CREATE TABLE wide({','.join(f'c{n}' for n in range(200))})", "cannot"),
    ],
)
def test_a_file_that_cannot_be_an_object_is_refused(
    shell: Shell, data: Path, plain: Callable[..., Path], statement: str, words: str
) -> None:
    write_lines(data)
    file = plain("CREATE TABLE t(a)", statement)
    refused = shell("import", file, data, "Reader", "x")
    assert refused.code == 1
    assert words in refused.err
    assert shell.json("ls", data)["namespaces"] in ([], [shell.json("ls", data)["namespaces"][0]])
    assert shell("show", data, "Reader", "x").code == 1


def test_modules_that_objects_have_are_taken_over(
    shell: Shell, data: Path, plain: Callable[..., Path]
) -> None:
    file = plain("CREATE VIRTUAL TABLE f USING FTS5(a)", "INSERT INTO f VALUES('words of a text')")
    shell.json("import", file, data, "Reader", "x")
    found = shell.json("sql", data, "Reader", "x", "SELECT a FROM f WHERE f MATCH 'words'")
    assert "words of a text" in json.dumps(found)


def test_what_an_import_left_that_was_killed_is_removed(
    shell: Shell, data: Path, plain: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = plain("CREATE TABLE t(a)")

    def die(source: str, target: str) -> None:
        Path(f"{target}.12345.new").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(moving, "install", die)
        assert shell("import", file, data, "Reader", "x").code == 130
    assert list(data.rglob("*.new"))
    shell.json("import", file, data, "Reader", "x")
    assert not list(data.rglob("*.new"))


def test_text_in_utf_16_is_refused(shell: Shell, data: Path, plain: Callable[..., Path]) -> None:
    file = plain("CREATE TABLE t(a)", before="PRAGMA encoding='UTF-16'")
    assert "UTF-16" in shell("import", file, data, "Reader", "x").err


def test_what_is_no_database_is_refused(shell: Shell, data: Path, tmp_path: Path) -> None:
    assert shell("import", tmp_path / "nothing", data, "Reader", "x").code == 1
    file = tmp_path / "text"
    file.write_text("no database" * 1000)
    refused = shell("import", file, data, "Reader", "x")
    assert (refused.code, "not a database" in refused.err) == (1, True)


def test_an_object_is_not_replaced(shell: Shell, data: Path, plain: Callable[..., Path]) -> None:
    write_lines(data, "one")
    refused = shell("import", plain("CREATE TABLE t(a)"), data, "Counter", "a")
    assert (refused.code, "already" in refused.err) == (1, True)
    assert lines(data) == ["one"]


def test_a_folder_of_other_things_is_not_made_a_data_directory(
    shell: Shell, tmp_path: Path, plain: Callable[..., Path]
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "letter").write_text("dear")
    assert shell("import", plain("CREATE TABLE t(a)"), folder, "Reader", "x").code == 1
    assert [each.name for each in folder.iterdir()] == ["letter"]


def test_the_legacy_backend_takes_no_file(
    shell: Shell, data: Path, plain: Callable[..., Path]
) -> None:
    with sync.Runtime(data) as runtime:
        runtime.namespace(Old, storage="kv").get_by_name("a").put("k", 1)
    assert "legacy" in shell("import", plain("CREATE TABLE t(a)"), data, "Old", "x").err


def test_an_object_moves_with_keys_and_alarm(shell: Shell, data: Path, tmp_path: Path) -> None:
    with sync.Runtime(data) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        counter.write("one")
        counter.remind(WHEN)
    file = tmp_path / "moved.sqlite"
    assert shell.json("export", data, "Counter", "a", file)["size_bytes"] == file.stat().st_size
    assert shell("export", data, "Counter", "a", file).code == 1
    other = tmp_path / "other"
    assert shell("import", file, other, "Counter", "b").code == 1
    shell.json("import", file, other, "Counter", "b", "--exported")
    assert lines(other, "b") == ["one"]
    shown = shell.json("show", other, "Counter", "b")
    assert shown["keys"] == {"newest": {"text": "one"}}
    (entry,) = shell.json("ls", other)["namespaces"][0]["objects"]
    assert entry["alarm_ms"] == shown["alarm_ms"] == int(WHEN.timestamp() * 1000)
    assert shell("check", other).code == 0
