"""Class migrations: applied once, in order, as one; every mistake changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_storage.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    DatabaseFileError,
    MigrationError,
)
from durable_storage.runtime.directory import DataDirectory
from durable_storage.runtime.migrations import (
    Migration,
    RenamedClass,
    apply_migrations,
    plan_migrations,
    remove_deleted,
)
from durable_storage.runtime.registry import Registry

V1 = Migration("v1", new_sqlite_classes=["Counter"], new_classes=["Legacy"])
V2 = Migration("v2", renamed_classes=[("Counter", "Tally")])
V3 = Migration("v3", deleted_classes=["Legacy"])
ID = "ab" * 32


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    directory = DataDirectory(tmp_path / "data")
    yield directory
    directory.release()


@pytest.fixture
def registry(directory: DataDirectory) -> Iterator[Registry]:
    registry = Registry(directory.registry_path)
    yield registry
    registry.close()


def state(registry: Registry) -> object:
    return (
        registry.namespaces(),
        registry.applied_migrations(),
        registry.namespaces_to_remove(),
        registry.retired_names(),
        list(registry.alarms_all()),
    )


def classes(registry: Registry) -> dict[str, str]:
    return {record.name: record.backend for record in registry.namespaces()}


# ---------------------------------------------------------------- applying


def test_migrations_are_applied_once_in_order(registry: Registry) -> None:
    assert apply_migrations(registry, [V1], now_ms=5) == ["v1"]
    assert classes(registry) == {"Counter": "sqlite", "Legacy": "kv"}
    assert [record.declared_by for record in registry.namespaces()] == ["v1", "v1"]
    assert apply_migrations(registry, [V1]) == []
    assert plan_migrations(registry, [V1, V2, V3]) == ["v2", "v3"]
    assert classes(registry) == {"Counter": "sqlite", "Legacy": "kv"}
    assert apply_migrations(registry, [V1, V2, V3]) == ["v2", "v3"]
    assert classes(registry) == {"Tally": "sqlite"}
    assert registry.applied_tags() == ["v1", "v2", "v3"]


def test_a_new_directory_goes_through_the_whole_list(registry: Registry) -> None:
    assert apply_migrations(registry, (V1, V2, V3)) == ["v1", "v2", "v3"]
    assert classes(registry) == {"Tally": "sqlite"}
    tally = registry.find_namespace("Tally")
    assert tally is not None
    assert tally.unique_key == "Counter", "ids are the same as in a directory that took the steps"


def test_applied_migrations_are_known_after_reopening(directory: DataDirectory) -> None:
    first = Registry(directory.registry_path)
    apply_migrations(first, [V1])
    first.close()
    second = Registry(directory.registry_path)
    assert apply_migrations(second, [V1, V2]) == ["v2"]
    second.close()


def test_renaming_keeps_ids_objects_and_alarms(
    registry: Registry, directory: DataDirectory
) -> None:
    apply_migrations(registry, [V1])
    before = registry.ensure_namespace("Counter")
    path = Path(directory.prepare(before.folder, ID))
    path.write_bytes(b"data")
    registry.register_object(before.number, ID, name="x")
    registry.alarm_set(before.number, ID, 5)
    apply_migrations(registry, [V1, V2])
    after = registry.ensure_namespace("Tally")
    assert (after.number, after.unique_key, after.folder) == (
        before.number,
        before.unique_key,
        before.folder,
    )
    assert after.class_name == "Tally"
    assert [record.name for record in registry.objects(after.number)] == ["x"]
    assert registry.alarm_get(after.number, ID) == 5
    assert path.read_bytes() == b"data"


def test_the_old_name_of_a_renamed_class_is_not_quietly_created(registry: Registry) -> None:
    apply_migrations(registry, [V1, V2])
    with pytest.raises(MigrationError, match="renamed to 'Tally' by migration 'v2'"):
        registry.ensure_namespace("Counter")
    apply_migrations(registry, [V1, V2, Migration("v4", new_sqlite_classes=["Counter"])])
    anew = registry.ensure_namespace("Counter")
    assert anew.unique_key == "Counter~2", "the renamed class keeps the ids of the first"


def test_a_class_may_take_its_old_name_back(registry: Registry) -> None:
    back = Migration("v4", renamed_classes=[("Tally", "Counter")])
    apply_migrations(registry, [V1, V2, back])
    assert classes(registry) == {"Counter": "sqlite", "Legacy": "kv"}
    assert registry.ensure_namespace("Counter").unique_key == "Counter"


def test_deleting_removes_objects_alarms_and_files(
    registry: Registry, directory: DataDirectory
) -> None:
    apply_migrations(registry, [V1])
    legacy = registry.ensure_namespace("Legacy")
    counter = registry.ensure_namespace("Counter")
    for namespace in (legacy, counter):
        Path(directory.prepare(namespace.folder, ID)).write_bytes(b"data")
        registry.register_object(namespace.number, ID)
        registry.alarm_set(namespace.number, ID, 5)
    apply_migrations(registry, [V1, V2, V3])
    assert registry.count_alarms() == 1
    assert registry.objects(legacy.number) == []
    assert os.path.exists(directory.object_path(legacy.folder, ID))
    assert remove_deleted(registry, directory) == ["Legacy"]
    assert not os.path.exists(os.path.join(directory.path, legacy.folder))
    assert os.path.exists(directory.object_path(counter.folder, ID))
    assert remove_deleted(registry, directory) == []


def test_a_class_created_again_starts_empty(registry: Registry, directory: DataDirectory) -> None:
    apply_migrations(registry, [V1, V3])
    again = Migration("v4", new_sqlite_classes=["Legacy"])
    apply_migrations(registry, [V1, V3, again])
    anew = registry.ensure_namespace("Legacy")
    Path(directory.prepare(anew.folder, ID)).write_bytes(b"new")
    assert remove_deleted(registry, directory) == ["Legacy"]
    assert os.path.exists(directory.object_path(anew.folder, ID))
    assert anew.backend == "sqlite"


def test_a_class_that_was_only_used_may_be_declared_as_it_is(registry: Registry) -> None:
    used = registry.ensure_namespace("Counter")
    registry.ensure_namespace("Legacy", "kv")
    apply_migrations(registry, [V1])
    declared = registry.ensure_namespace("Counter")
    assert declared.number == used.number
    assert declared.declared_by == "v1"


def test_an_empty_list_means_that_migrations_are_not_managed_here(registry: Registry) -> None:
    apply_migrations(registry, [V1])
    assert apply_migrations(registry, []) == []
    assert classes(registry) == {"Counter": "sqlite", "Legacy": "kv"}


def test_a_bound_class_that_is_deleted_and_created_again_is_fine(registry: Registry) -> None:
    again = Migration("v4", new_classes=["Legacy"])
    apply_migrations(registry, [V1, V3, again], bound=["Legacy", "Unknown"])
    assert classes(registry) == {"Counter": "sqlite", "Legacy": "kv"}


# ---------------------------------------------------------------- mistakes

MISTAKES = {
    "a removed tag": ([V2], r"'v1' was applied to this directory but is not in the list"),
    "reordered tags": (
        [Migration("v0", new_classes=["Early"]), V1],
        r"number 1 was 'v1' when it was applied and is 'v0' now.*at the end",
    ),
    "other steps under an applied tag": (
        [Migration("v1", new_sqlite_classes=["Counter"])],
        r"'v1' was applied with other steps.*never changes",
    ),
    "a tag used twice": ([V1, Migration("v1")], r"'v1' is used twice"),
    "a class created twice": (
        [V1, Migration("v2", new_sqlite_classes=["Counter"])],
        r"'v2' creates the class 'Counter', which exists already.*delete the class in an earlier",
    ),
    "a class created twice, both pending": (
        [V1, Migration("v2", new_classes=["A"]), Migration("v3", new_classes=["A"])],
        r"'v3' creates the class 'A', which exists already",
    ),
    "another backend": (
        [V1, Migration("v2", new_classes=["Counter"])],
        r"for the 'kv' backend, but it exists on the 'sqlite' backend.*never changes.*copy the data",
    ),
    "legacy to sqlite": (
        [V1, Migration("v2", new_sqlite_classes=["Legacy"])],
        r"for the 'sqlite' backend, but it exists on the 'kv' backend",
    ),
    "renaming a missing class": (
        [V1, Migration("v2", renamed_classes=[("Nobody", "Somebody")])],
        r"renames the class 'Nobody', which does not exist; existing classes: 'Bound', 'Counter'",
    ),
    "renaming a renamed class": (
        [V1, V2, Migration("v3", renamed_classes=[("Counter", "Other")])],
        r"which does not exist \(it was renamed to 'Tally' by migration 'v2'\)",
    ),
    "renaming onto an existing class": (
        [V1, Migration("v2", renamed_classes=[("Counter", "Legacy")])],
        r"a class 'Legacy' exists already; delete it first",
    ),
    "deleting a missing class": (
        [V1, Migration("v2", deleted_classes=["Nobody"])],
        r"deletes the class 'Nobody', which does not exist",
    ),
    "deleting twice": (
        [V1, V3, Migration("v4", deleted_classes=["Legacy"])],
        r"which does not exist \(it was deleted by migration 'v3'\)",
    ),
    "deleting the class of a live binding": (
        [V1, Migration("v2", deleted_classes=["Bound"])],
        r"'Bound' was deleted by migration 'v2', but is still bound; remove the binding",
    ),
    "renaming the class of a live binding": (
        [V1, Migration("v2", renamed_classes=[("Bound", "Free")])],
        r"'Bound' was renamed to 'Free' by migration 'v2', but is still bound",
    ),
    "transferring from another script": (
        [V1, Migration("v2", transferred_classes=[("Theirs", "other-worker", "Ours")])],
        r"transfers the class 'Theirs' from the script 'other-worker', which is not supported",
    ),
    "a mistake behind good steps": (
        [V1, Migration("v2", new_sqlite_classes=["Fine"]), Migration("v3", deleted_classes=["No"])],
        r"'v3' deletes the class 'No'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_what_to_do_and_changes_nothing(registry: Registry, name: str) -> None:
    migrations, message = MISTAKES[name]
    bound = registry.ensure_namespace("Bound")
    registry.alarm_set(bound.number, ID, 5)
    apply_migrations(registry, [V1])
    before = state(registry)
    with pytest.raises(MigrationError, match=message):
        plan_migrations(registry, migrations, bound=["Bound"])
    with pytest.raises(MigrationError, match=message):
        apply_migrations(registry, migrations, bound=["Bound"])
    assert state(registry) == before


def test_a_binding_to_a_class_that_is_gone_is_refused_later_too(registry: Registry) -> None:
    apply_migrations(registry, [V1, V3])
    with pytest.raises(MigrationError, match="still bound"):
        apply_migrations(registry, [V1, V3], bound=["Legacy"])


@pytest.mark.parametrize(
    "steps",
    [
        {"new_sqlite_classes": ["A", "A"]},
        {"new_sqlite_classes": ["A"], "new_classes": ["A"]},
        {"new_classes": ["A"], "deleted_classes": ["A"]},
        {"renamed_classes": [("A", "A")]},
        {"renamed_classes": [("A", "B"), ("B", "C")]},
    ],
)
def test_a_class_is_named_once_per_migration(steps: dict[str, object]) -> None:
    with pytest.raises(MigrationError, match="twice"):
        Migration("v1", **steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ({"tag": 1}, ArgumentTypeError),
        ({"tag": ""}, ArgumentValueError),
        ({"new_sqlite_classes": "Counter"}, ArgumentTypeError),
        ({"new_classes": None}, ArgumentTypeError),
        ({"new_classes": [int]}, ArgumentTypeError),
        ({"deleted_classes": [""]}, ArgumentValueError),
        ({"renamed_classes": ["AB"]}, ArgumentTypeError),
        ({"renamed_classes": [("A",)]}, ArgumentTypeError),
        ({"renamed_classes": [{"from": "A", "into": "B"}]}, ArgumentTypeError),
        ({"renamed_classes": [("A", 2)]}, ArgumentTypeError),
        ({"transferred_classes": [("A", "B")]}, ArgumentTypeError),
    ],
)
def test_a_field_of_another_shape_is_refused(
    steps: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Migration(**{"tag": "v1", **steps})  # type: ignore[arg-type]


def test_what_is_no_migration_is_refused(registry: Registry) -> None:
    with pytest.raises(ArgumentTypeError):
        apply_migrations(registry, [{"tag": "v1"}])  # type: ignore[list-item]


def test_renames_are_written_in_three_ways() -> None:
    pair = Migration("v1", renamed_classes=[("A", "B")])
    wrangler = Migration("v1", renamed_classes=[{"from": "A", "to": "B"}])
    record = Migration("v1", renamed_classes=[RenamedClass("A", "B")])
    assert pair == wrangler == record
    assert pair.steps() == wrangler.steps()


def test_the_order_inside_a_step_is_not_part_of_it(registry: Registry) -> None:
    apply_migrations(registry, [Migration("v1", new_sqlite_classes=["A", "B"])])
    assert apply_migrations(registry, [Migration("v1", new_sqlite_classes=("B", "A"))]) == []


# ---------------------------------------------------------------- crashes

CRASH = """
import os, sys
from durable_storage.runtime import registry as module
from durable_storage.runtime.directory import DataDirectory
from durable_storage.runtime.migrations import Migration, apply_migrations, remove_deleted
directory = DataDirectory(sys.argv[1])
registry = module.Registry(directory.registry_path)
statements = 0
def trace(sql):
    global statements
    statements += 1
    if statements == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
registry._connection.set_trace_callback(trace)
apply_migrations(registry, [
    Migration("v1", new_sqlite_classes=["Counter"], new_classes=["Legacy"]),
    Migration("v2", renamed_classes=[("Counter", "Tally")]),
    Migration("v3", deleted_classes=["Legacy"]),
])
remove_deleted(registry, directory)
print("done", statements)
"""


def test_a_crash_leaves_the_state_before_or_the_state_after(tmp_path: Path) -> None:
    origin = DataDirectory(tmp_path / "origin")
    registry = Registry(origin.registry_path)
    apply_migrations(registry, [V1])
    legacy = registry.ensure_namespace("Legacy")
    Path(origin.prepare(legacy.folder, ID)).write_bytes(b"data")
    registry.alarm_set(legacy.number, ID, 5)
    registry.close()
    origin.release()
    outcomes: list[str] = []
    at = 1
    while "done" not in outcomes:
        place = tmp_path / str(at)
        shutil.copytree(tmp_path / "origin", place)
        child = subprocess.run(
            [sys.executable, "-c", CRASH, str(place), str(at)], capture_output=True, text=True
        )
        assert child.returncode in (0, -9), child.stderr
        directory = DataDirectory(place)
        registry = Registry(directory.registry_path)
        file = Path(directory.object_path(legacy.folder, ID))
        if registry.applied_tags() == ["v1"]:
            assert classes(registry) == {"Counter": "sqlite", "Legacy": "kv"}
            assert registry.count_alarms() == 1
            assert file.exists()
            outcomes.append("before")
        else:
            assert registry.applied_tags() == ["v1", "v2", "v3"]
            assert classes(registry) == {"Tally": "sqlite"}
            assert registry.count_alarms() == 0
            outcomes.append("after" if child.returncode else "done")
        apply_migrations(registry, [V1, V2, V3])
        remove_deleted(registry, directory)
        assert not file.exists()
        assert registry.namespaces_to_remove() == []
        registry.close()
        directory.release()
        at += 4 if at > 6 else 1
    assert "before" in outcomes


def test_a_removal_that_fails_is_tried_at_the_next_opening(
    registry: Registry, directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_migrations(registry, [V1])
    folder = registry.ensure_namespace("Legacy").folder
    Path(directory.prepare(folder, ID)).write_bytes(b"data")
    apply_migrations(registry, [V1, V3])

    def rmtree(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(DatabaseFileError, match="tried again"):
            remove_deleted(registry, directory)
    assert [record.name for record in registry.namespaces_to_remove()] == ["Legacy"]
    assert remove_deleted(registry, directory) == ["Legacy"]


def test_a_disk_that_fails_while_applying_changes_nothing(registry: Registry) -> None:
    apply_migrations(registry, [V1])
    before = state(registry)
    pages = registry._connection.execute("PRAGMA page_count").fetchone()[0]
    registry._connection.execute(f"PRAGMA max_page_count={pages}")
    many = Migration("v2", new_sqlite_classes=[f"Class{number}" for number in range(500)])
    with pytest.raises(Exception, match="full") as caught:
        apply_migrations(registry, [V1, many])
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert state(registry) == before
    registry._connection.execute("PRAGMA max_page_count=1000000")
    assert apply_migrations(registry, [V1, many]) == ["v2"]
