from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from durable_storage import History, JsonSerializer, PickleSerializer, sync
from durable_storage.cli import output

from .rig import Counter, Old, Shell, files_of, lines, object_file, write_lines

WHEN = datetime.datetime(2050, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def test_ls_lists_namespaces_and_objects(shell: Shell, data: Path) -> None:
    with sync.Runtime(data) as runtime:
        counters = runtime.namespace(Counter)
        counters.get_by_name("b").write("x")
        counters.get_by_name("a").write("x")
        counters.get_by_name("a").remind(WHEN)
        unnamed = counters.new_unique_id()
        counters.get(unnamed).write("x")
        runtime.namespace(Old, storage="kv").get_by_name("old").put("k", 1)
    found = shell.json("ls", data)
    assert found["running"] is False
    counter, old = found["namespaces"]
    assert (counter["name"], counter["backend"]) == ("Counter", "sqlite")
    objects = {each["name"]: each for each in counter["objects"]}
    assert set(objects) == {"a", "b", None}
    assert objects[None]["id"] == str(unnamed)
    assert objects["a"]["alarm_ms"] == int(WHEN.timestamp() * 1000)
    assert objects["b"]["alarm_ms"] is None
    assert objects["a"]["size_bytes"] > 4096
    assert objects["a"]["history_bytes"] > 100
    assert objects["a"]["last_commit_ms"] > 1_700_000_000_000
    assert [each["name"] for each in old["objects"]] == ["old"]
    assert shell.json("ls", data, "Old")["namespaces"] == [old]
    text = shell("ls", data).out
    assert "Counter (sqlite), 3 objects" in text
    assert "2050-01-02T03:04:05.000Z" in text


def test_show_gives_tables_keys_and_alarm(shell: Shell, data: Path) -> None:
    with sync.Runtime(data) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        for n in range(12):
            counter.write(f"line {n}")
        counter.remind(WHEN)
        digits = str(counter.id)
    found = shell.json("show", data, "Counter", "a")
    (table,) = found["tables"]
    assert (table["name"], table["row_count"]) == ("line", 12)
    assert table["columns"] == ["id", "text"]
    assert table["rows"][0] == [1, "line 0"]
    assert len(table["rows"]) == 10
    assert found["keys"] == {"newest": {"text": "line 11"}}
    assert found["alarm_ms"] == int(WHEN.timestamp() * 1000)
    assert found["id"] == digits
    assert shell.json("show", data, "Counter", digits) == found
    text = shell("show", data, "Counter", "a", "--limit", "2").out
    assert "2 of 12 rows" in text
    assert "{'text': 'line 11'}" in text


def test_values_of_every_kind_are_shown(shell: Shell, data: Path) -> None:
    class Keeper(Counter):
        async def keep(self) -> None:
            put = self.ctx.storage.put
            put("bytes", b"\x00\xff")
            put("set", {1})
            put("pairs", {1: "one"})
            put("time", WHEN)
            put("escape", "\x1b[31mred")
            put("float", float("inf"))

    with sync.Runtime(data) as runtime:
        runtime.namespace(Keeper).get_by_name("a").keep()
    assert shell.json("show", data, "Keeper", "a")["keys"] == {
        "bytes": {"$bytes": "AP8="},
        "escape": "\x1b[31mred",
        "float": {"$float": "inf"},
        "pairs": {"$pairs": [[1, "one"]]},
        "set": {"$set": [1]},
        "time": {"$time": "2050-01-02T03:04:05+00:00"},
    }
    text = shell("show", data, "Keeper", "a").out
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text


def test_keys_of_the_legacy_backend_are_shown_without_its_own(shell: Shell, data: Path) -> None:
    with sync.Runtime(data) as runtime:
        runtime.namespace(Old, storage="kv").get_by_name("a").put("key", [1, 2])
    found = shell.json("show", data, "Old", "a")
    assert found["keys"] == {"key": [1, 2]}
    assert found["tables"] == []
    assert shell("sql", data, "Old", "a", "SELECT 1").code == 1


def test_a_pickle_is_not_loaded(shell: Shell, data: Path) -> None:
    write_lines(data, "x", serializer=PickleSerializer())
    assert "runs code" in shell.json("show", data, "Counter", "a")["keys"]["newest"]["$undecoded"]
    assert "runs code" in shell("show", data, "Counter", "a").out


def test_values_of_the_json_serializer_are_decoded(shell: Shell, data: Path) -> None:
    write_lines(data, "x", serializer=JsonSerializer())
    found = shell.json("show", data, "Counter", "a")
    assert (found["serializer"], found["keys"]) == ("json", {"newest": {"text": "x"}})


def test_looking_changes_no_file(shell: Shell, data: Path, tmp_path: Path) -> None:
    write_lines(data, "one", "two")
    before = files_of(data)
    for command in (
        ("ls", data),
        ("show", data, "Counter", "a"),
        ("sql", data, "Counter", "a", "SELECT * FROM line"),
        ("check", data),
        ("history", data, "Counter", "a"),
        ("history", data, "Counter", "a", "verify"),
        ("export", data, "Counter", "a", tmp_path / "one.sqlite"),
        ("history", data, "Counter", "a", "export", tmp_path / "two.sqlite"),
    ):
        assert shell(*command).code == 0
    assert files_of(data) == before


def test_an_object_without_history_is_shown(shell: Shell, data: Path) -> None:
    write_lines(data, "x", history=History(enabled=False))
    assert shell.json("ls", data)["namespaces"][0]["objects"][0]["last_commit_ms"] > 0
    assert shell.json("show", data, "Counter", "a")["history_bytes"] == 0
    refused = shell("history", data, "Counter", "a")
    assert refused.code == 1
    assert "no history" in refused.err


def test_an_object_that_the_registry_has_lost_is_listed(shell: Shell, data: Path) -> None:
    write_lines(data, "x")
    path = object_file(data)
    other = "0" * 64
    moved = path.parents[2] / "00" / "00" / f"{other}.sqlite"
    moved.parent.mkdir(parents=True)
    moved.write_bytes(path.read_bytes())
    names = [each["id"] for each in shell.json("ls", data)["namespaces"][0]["objects"]]
    assert names[0] == other


def test_mistakes_are_told_in_a_sentence(shell: Shell, data: Path, tmp_path: Path) -> None:
    write_lines(data, "x")
    for command, words in (
        (("ls", tmp_path / "nothing"), "there is no directory"),
        (("ls", tmp_path), "not a data directory"),
        (("show", data, "Nothing", "a"), "it has: Counter"),
        (("show", data, "Counter", "nobody"), "no object 'nobody'"),
        (("show", data, "Counter", "0" * 64), "no object"),
        (("sql", data, "Counter", "a", "SELEKT 1"), "syntax error"),
        (("sql", data, "Counter", "a", "SELECT nil FROM line"), "no such column"),
    ):
        result = shell(*command)
        assert result.code == 1
        assert result.out == ""
        assert words in result.err
    for wrong in ((), ("nonsense",), ("ls",), ("show", data), ("ls", data, "--limit", "2")):
        assert shell(*wrong).code == 2
    assert shell("show", data, "Counter", "a", "--limit", "-1").code == 2
    assert shell("--help").code == 0


def test_sql_reads_with_values_and_from_standard_input(
    shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    write_lines(data, "one", "two", "three")
    query = "SELECT text FROM line WHERE id > ? AND text <> ?"
    found = shell.json("sql", data, "Counter", "a", query, "1", "three")
    assert found == {"columns": ["text"], "rows": [["two"]]}
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT count(*) AS n FROM line"))
    assert shell.json("sql", data, "Counter", "a", "-")["rows"] == [[3]]


def test_sql_writes_only_when_told_to(shell: Shell, data: Path) -> None:
    write_lines(data, "one", "two")
    delete = ("sql", data, "Counter", "a", "DELETE FROM line WHERE id = 1")
    refused = shell(*delete)
    assert (refused.code, "--write" in refused.err) == (1, True)
    assert shell.json("sql", data, "Counter", "a", "SELECT id FROM line")["rows"] == [[1], [2]]
    assert shell.json(*delete, "--write")["changes"] == 1
    assert shell.json("sql", data, "Counter", "a", "SELECT id FROM line")["rows"] == [[2]]
    failed = shell("sql", data, "Counter", "a", "DELETE FROM line; SELECT x FROM y", "--write")
    assert failed.code == 1
    assert shell.json("sql", data, "Counter", "a", "SELECT id FROM line")["rows"] == [[2]]
    assert shell.json("sql", data, "Counter", "a", "SELECT 1 AS x", "--write")["rows"] == [[1]]


def test_a_change_by_sql_can_be_undone(shell: Shell, data: Path) -> None:
    before = write_lines(data, "one", "two")[-1]
    shell.json("sql", data, "Counter", "a", "DELETE FROM line", "--write")
    shell.json("history", data, "Counter", "a", "restore", "--to", before, "--yes")
    assert shell.json("sql", data, "Counter", "a", "SELECT id FROM line")["rows"] == [[1], [2]]


@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_gets_tables_with_rich_and_text_without(
    shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch, rich: bool
) -> None:
    if rich:
        pytest.importorskip("rich", reason="the extra 'cli' is not installed")
    else:
        import sys

        for name in [each for each in sys.modules if each.split(".")[0] == "rich"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "rich", None)
        monkeypatch.setitem(sys.modules, "rich.console", None)
    write_lines(data, "[bold]one[/bold]")
    monkeypatch.setattr(output.sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(output.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    text = shell("show", data, "Counter", "a").out
    assert "[bold]one[/bold]" in text
    assert ("┃" in text) == rich
    assert "┃" not in shell("show", data, "Counter", "a", "--plain").out
    assert shell("check", data).code == 0
    assert "sound" in shell("history", data, "Counter", "a", "verify").out


@pytest.mark.parametrize(
    "command",
    [
        ("ls", "DIR"),
        ("history", "DIR", "Counter", "a"),
        ("history", "DIR", "Counter", "a", "verify"),
    ],
    ids=["command", "optional action", "action"],
)
def test_json_and_plain_may_stand_before_and_behind_every_word(
    shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    pytest.importorskip("rich", reason="the extra 'cli' is not installed")
    monkeypatch.setattr(output.sys.stdout, "isatty", lambda: True)
    write_lines(data, "one")
    words = [str(data) if word == "DIR" else word for word in command]
    expected = shell.json(*words)
    assert "┃" in shell(*words).out or "│" in shell(*words).out
    for place in range(len(words)):
        assert shell(*words[:place], "--json", *words[place:]).data == expected
        plain = shell(*words[:place], "--plain", *words[place:])
        assert (plain.code, "│" in plain.out, "┃" in plain.out) == (0, False, False)


def test_a_query_that_is_no_sql_is_told_what_is_wrong_with_it(data: Path, shell: Shell) -> None:
    write_lines(data, "one")
    for query, told in (
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("DELETE FROM nowhere", "no such table: nowhere"),
        ("DELETE FROM line", "add --write"),
        ("SELECT 1; SELEC 1", "add --write"),
    ):
        result = shell("sql", data, "Counter", "a", query)
        assert result.code == 1
        assert told in result.err
    assert lines(data) == ["one"]


def test_one_of_something_is_not_called_many(data: Path, shell: Shell) -> None:
    write_lines(data, "one")
    assert "Counter (sqlite), 1 object:" in shell("ls", data).out
    shown = shell("show", data, "Counter", "a").out
    assert "table line, 1 row:" in shown
    assert "key-value storage, 1 key:" in shown
    assert "Counter a, 1 commit:" in shell("history", data, "Counter", "a", "--limit", "1").out
    changed = shell("sql", data, "Counter", "a", "--write", "DELETE FROM line")
    assert changed.out == "done, 1 row changed\n"
