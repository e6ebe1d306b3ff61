"""Wrangler's configuration: the same from every format, and clear about what it cannot mean."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from durable_storage.errors import ArgumentTypeError, ArgumentValueError, MigrationError
from durable_storage.runtime.migrations import Migration, apply_migrations
from durable_storage.runtime.registry import Registry
from durable_storage.runtime.wrangler import (
    DurableObjectBinding,
    WranglerConfig,
    WranglerWarning,
    read_wrangler,
)

PROJECT = Path(__file__).parent / "wrangler"
MIGRATIONS = (
    Migration("v1", new_sqlite_classes=["Room", "Counter"], new_classes=["Presence"]),
    Migration("v2", renamed_classes=[("Room", "ChatRoom")]),
    Migration("v3", deleted_classes=["Presence"]),
)
ROOMS = DurableObjectBinding("ROOMS", "ChatRoom")
COUNTERS = DurableObjectBinding("COUNTERS", "Counter")


@pytest.fixture(params=["toml", "jsonc"])
def project(request: pytest.FixtureRequest) -> Path:
    if request.param == "jsonc":
        pytest.importorskip("json5", reason="the extra 'wrangler' is not installed")
    return PROJECT / f"wrangler.{request.param}"


def test_the_top_level_of_a_real_project(project: Path) -> None:
    assert read_wrangler(project) == WranglerConfig(
        path=str(project),
        name="chat",
        environment=None,
        bindings=(ROOMS, COUNTERS),
        migrations=MIGRATIONS,
        vars={"GREETING": "hello", "LIMITS": {"messages": 100, "members": [1, 2, 3]}},
    )


def test_an_environment_inherits_migrations_but_neither_bindings_nor_vars(project: Path) -> None:
    staging = read_wrangler(project, environment="staging")
    assert staging.name == "chat-staging"
    assert staging.bindings == (ROOMS, COUNTERS)
    assert staging.vars == {"GREETING": "hello, staging"}
    assert staging.migrations == MIGRATIONS
    production = read_wrangler(project, environment="production")
    assert production.name == "chat-live"
    assert production.bindings == (ROOMS,)
    assert production.vars == {"GREETING": "welcome"}
    assert production.class_names == {"ChatRoom"}


def test_an_environment_may_have_its_own_migrations(project: Path) -> None:
    old = read_wrangler(project, environment="old")
    assert old.migrations == MIGRATIONS[:1]
    assert old.bindings == (DurableObjectBinding("ROOMS", "Room"),)
    assert old.vars == {}


def test_an_environment_that_is_not_there_is_refused_with_those_that_are(project: Path) -> None:
    with pytest.raises(ArgumentValueError, match="'prod'; it has 'staging', 'production', 'old'"):
        read_wrangler(project, environment="prod")


def test_the_formats_drive_the_same_registry(project: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    old = read_wrangler(project, environment="old")
    apply_migrations(registry, old.migrations, bound=old.class_names)
    assert {record.name for record in registry.namespaces()} == {"Room", "Counter", "Presence"}
    new = read_wrangler(project)
    assert apply_migrations(registry, new.migrations, bound=new.class_names) == ["v2", "v3"]
    assert {record.name for record in registry.namespaces()} == {"ChatRoom", "Counter"}
    registry.close()


def test_plain_json_needs_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "json5", None)
    for name in ("wrangler.json", "wrangler.jsonc"):
        (tmp_path / name).write_text('\ufeff{"name": "x"}', encoding="utf-8")
        assert read_wrangler(tmp_path / name).name == "x"
        (tmp_path / name).write_text('{"name": "x"} // comment', encoding="utf-8")
        with pytest.raises(ArgumentValueError, match=r"durable-storage\[wrangler\]"):
            read_wrangler(tmp_path / name)


def test_a_folder_is_searched_in_wranglers_order(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wrangler\.json"):
        read_wrangler(tmp_path)
    (tmp_path / "wrangler.toml").write_text('name = "toml"')
    assert read_wrangler(tmp_path).name == "toml"
    (tmp_path / "wrangler.json").write_text('{"name": "json"}')
    assert read_wrangler(str(tmp_path)).name == "json"


def test_a_parsed_configuration_is_taken_as_it_is() -> None:
    config = read_wrangler({"name": "x", "migrations": [{"tag": "v1", "new_classes": ["A"]}]})
    assert config.path is None
    assert config.migrations == (Migration("v1", new_classes=["A"]),)
    assert read_wrangler({}) == WranglerConfig(None, None, None, (), (), {})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wrangler.toml", "name = "),
        ("wrangler.toml", b"name = '\xff'"),
        ("wrangler.json", "{"),
        ("wrangler.jsonc", "{ // comment"),
        ("wrangler.json", "[" * 100_000),
        ("wrangler.toml", "a = " + "[" * 100_000),
        ("wrangler.yaml", "name: x"),
    ],
)
def test_what_cannot_be_parsed_is_refused(tmp_path: Path, name: str, content: str | bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArgumentValueError, match=name):
        read_wrangler(file)


def test_a_file_that_is_not_there_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_wrangler(tmp_path / "wrangler.toml")


def binding(**keys: object) -> dict[str, Any]:
    return {"name": "chat", "durable_objects": {"bindings": [keys]}}


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ([], ArgumentTypeError, "is a table, got list"),
        ({"name": 1}, ArgumentTypeError, "name is a string, got int"),
        ({"vars": []}, ArgumentTypeError, "vars is a table, got list"),
        ({"durable_objects": "x"}, ArgumentTypeError, "durable_objects is a table, got str"),
        (
            {"durable_objects": {"bindings": {}}},
            ArgumentTypeError,
            r"durable_objects\.bindings is a list of tables, got dict",
        ),
        (
            {"durable_objects": {"bindings": ["x"]}},
            ArgumentTypeError,
            r"durable_objects\.bindings\[0\] is a table, got str",
        ),
        (binding(name="A"), ArgumentValueError, r"bindings\[0\]\.class_name is missing"),
        (binding(class_name="A"), ArgumentValueError, r"bindings\[0\]\.name is missing"),
        (binding(name="", class_name="A"), ArgumentValueError, "name is missing or empty"),
        (binding(name="A", class_name=1), ArgumentTypeError, "class_name is a string, got int"),
        (
            binding(name="A", class_name="A", script_name="other"),
            ArgumentValueError,
            r"script_name is 'other', but the classes of another worker cannot be bound.*Remove",
        ),
        (
            {"durable_objects": {"bindings": [{"name": "A", "class_name": "A"}] * 2}},
            ArgumentValueError,
            r"bindings\[1\]\.name 'A' is used by another binding",
        ),
        (
            {**binding(name="A", class_name="A"), "vars": {"A": 1}},
            ArgumentValueError,
            "vars and a binding are both named 'A'",
        ),
        ({"migrations": {}}, ArgumentTypeError, "migrations is a list of tables, got dict"),
        ({"migrations": [{}]}, ArgumentValueError, r"migrations\[0\]\.tag is missing"),
        (
            {"migrations": [{"tag": "v1", "new_classes": "A"}]},
            ArgumentTypeError,
            r"migrations\[0\]: Migration\(new_classes=\) takes a list",
        ),
        (
            {"migrations": [{"tag": "v1", "renamed_classes": [{"from": "A"}]}]},
            ArgumentTypeError,
            "have the keys from, to",
        ),
        (
            {"migrations": [{"tag": "v1", "new_classes": [""]}]},
            ArgumentValueError,
            r"migrations\[0\]: Migration\(new_classes=\) is empty",
        ),
        (
            {"migrations": [{"tag": "v1", "new_classes": ["A", "A"]}]},
            MigrationError,
            "names the class 'A' twice",
        ),
        ({"env": {"x": 1}}, ArgumentTypeError, r"env\.x is a table, got int"),
        ({"env": {}}, ArgumentValueError, "no environment 'x'; it has none"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, config: Any, error: type[Exception], message: str
) -> None:
    file = tmp_path / "wrangler.json"
    file.write_text(json.dumps(config))
    environment = "x" if isinstance(config, dict) and "env" in config else None
    with pytest.raises(error, match=message):
        read_wrangler(file, environment=environment)


def test_keys_that_do_not_concern_durable_objects_are_passed_over_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_wrangler({"main": "x", "r2_buckets": [], "triggers": {"crons": []}, "anything": 1})


def test_each_key_about_durable_objects_that_is_not_understood_warns_once() -> None:
    config = binding(name="A", class_name="A", environment="staging")
    config["durable_objects"]["classes"] = []
    config["migrations"] = [{"tag": "v1", "new_classes": ["A"], "new_python_classes": []}]
    config["containers"] = [{"class_name": "A"}]
    with pytest.warns(WranglerWarning) as caught:
        found = read_wrangler(config)
    keys = sorted(str(warning.message).split(": ")[1].split(" ")[0] for warning in caught)
    assert keys == [
        "containers",
        "durable_objects.bindings[0].environment",
        "durable_objects.classes",
        "migrations[0].new_python_classes",
    ]
    assert found.class_names == {"A"}
