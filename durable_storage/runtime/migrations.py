"""Class migrations: how the namespaces of a directory follow the classes of the program.

A migration is a tag and its steps. Applied tags are recorded in the registry; the declared list
must begin with them, in their order and with their steps, and what follows is applied now.

Everything pending is planned first, against a picture of the namespaces, so that a mistake
changes nothing. The plan is then carried out in one durable transaction of the registry: a
crash leaves all of it or none. The folders of deleted classes are removed afterwards, and again
at the next opening if that was cut short (``remove_deleted``).

The rules are those of Cloudflare's page "Durable Objects migrations". Three are ours: a
class that was only used so far may be declared by the backend it has; a class may be named
once per migration; no list at all (``()``) means that migrations are not managed here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from ..errors import ArgumentTypeError, ArgumentValueError, MigrationError
from .directory import DataDirectory
from .registry import Backend, NamespaceNumber, Registry

__all__ = [
    "Migration",
    "RenamedClass",
    "TransferredClass",
    "apply_migrations",
    "plan_migrations",
    "remove_deleted",
]


@final
@dataclass(frozen=True, slots=True)
class RenamedClass:
    """The class ``from_class`` is called ``to_class`` from now on; its objects stay."""

    from_class: str
    to_class: str


@final
@dataclass(frozen=True, slots=True)
class TransferredClass:
    """The class ``from_class`` of another script; understood, and refused with directions."""

    from_class: str
    from_script: str
    to_class: str


_Renamed = RenamedClass | tuple[str, str] | Mapping[str, str]
_Transferred = TransferredClass | tuple[str, str, str] | Mapping[str, str]


@final
@dataclass(frozen=True, slots=True)
class Migration:
    """One migration, applied once and for all.

    Args:
        tag: its name, unique in the list; never change, remove or reorder one that was applied.
        new_sqlite_classes: classes to create.
        new_classes: classes to create on the legacy key-value backend.
        renamed_classes: ``(old, new)`` pairs, or wrangler's ``{"from": old, "to": new}``.
        deleted_classes: classes to delete with all their objects' data and alarms.
        transferred_classes: ``(old, script, new)``, or wrangler's ``from``, ``from_script``,
            ``to``; refused when applied.

    Raises:
        ArgumentTypeError: a field has another shape.
        ArgumentValueError: a name is empty.
        MigrationError: a class is named twice.
    """

    tag: str
    new_sqlite_classes: Sequence[str] = ()
    new_classes: Sequence[str] = ()
    renamed_classes: Sequence[_Renamed] = ()
    deleted_classes: Sequence[str] = ()
    transferred_classes: Sequence[_Transferred] = ()

    def __post_init__(self) -> None:
        _check_name(self.tag, "Migration(tag=)")
        for field in ("new_sqlite_classes", "new_classes", "deleted_classes"):
            names = _sequence(getattr(self, field), field)
            for name in names:
                _check_name(name, f"Migration({field}=)")
            object.__setattr__(self, field, names)
        renamed = tuple(
            RenamedClass(*_parts(entry, "renamed_classes", ("from", "to")))
            for entry in _sequence(self.renamed_classes, "renamed_classes")
        )
        transferred = tuple(
            TransferredClass(*_parts(entry, "transferred_classes", ("from", "from_script", "to")))
            for entry in _sequence(self.transferred_classes, "transferred_classes")
        )
        object.__setattr__(self, "renamed_classes", renamed)
        object.__setattr__(self, "transferred_classes", transferred)
        seen: set[str] = set()
        for name in self._class_names():
            if name in seen:
                raise MigrationError(
                    f"migration {self.tag!r} names the class {name!r} twice; "
                    "give each step a migration of its own"
                )
            seen.add(name)

    @property
    def renames(self) -> tuple[RenamedClass, ...]:
        """``renamed_classes`` in one shape."""
        return tuple(entry for entry in self.renamed_classes if isinstance(entry, RenamedClass))

    @property
    def transfers(self) -> tuple[TransferredClass, ...]:
        """``transferred_classes`` in one shape."""
        return tuple(
            entry for entry in self.transferred_classes if isinstance(entry, TransferredClass)
        )

    def _class_names(self) -> list[str]:
        names = [*self.new_sqlite_classes, *self.new_classes, *self.deleted_classes]
        for renamed in self.renames:
            names += [renamed.from_class, renamed.to_class]
        return names + [transferred.to_class for transferred in self.transfers]

    def steps(self) -> str:
        """What it does, as canonical JSON: equal for migrations that do the same."""
        steps: dict[str, object] = {
            "new_sqlite_classes": sorted(self.new_sqlite_classes),
            "new_classes": sorted(self.new_classes),
            "renamed_classes": sorted([step.from_class, step.to_class] for step in self.renames),
            "deleted_classes": sorted(self.deleted_classes),
        }
        return json.dumps({name: value for name, value in steps.items() if value})


@dataclass(frozen=True, slots=True)
class _Class:
    """A class in the picture that planning draws; ``number`` is ``None`` until it is created."""

    backend: Backend
    number: NamespaceNumber | None
    declared: bool


_Action = Callable[[Registry, int], None]


@final
@dataclass(frozen=True, slots=True)
class _Plan:
    tags: tuple[str, ...]
    actions: tuple[_Action, ...]


_SAME_TAG_RULE: Final = "an applied migration never changes; restore it and put changes behind it"


def plan_migrations(
    registry: Registry, migrations: Sequence[Migration], *, bound: Collection[str] = ()
) -> list[str]:
    """The tags that ``apply_migrations`` would apply; nothing is changed.

    Raises:
        MigrationError: as ``apply_migrations``.
    """
    return list(_plan(registry, migrations, bound).tags)


def apply_migrations(
    registry: Registry,
    migrations: Sequence[Migration],
    *,
    bound: Collection[str] = (),
    now_ms: int = 0,
) -> list[str]:
    """Apply what is pending, durably and as one; return its tags.

    Call it before any object is open, and ``remove_deleted`` after it.

    Args:
        registry: the directory's.
        migrations: all of them, the applied ones included; empty means nothing is checked.
        bound: names of the classes that bindings refer to; they must exist afterwards.
        now_ms: recorded as the time.

    Raises:
        MigrationError: the list or a step breaks a rule; nothing was changed.
    """
    plan = _plan(registry, migrations, bound)
    if plan.tags:
        with registry.transaction():
            for action in plan.actions:
                action(registry, now_ms)
    return list(plan.tags)


def remove_deleted(registry: Registry, directory: DataDirectory) -> list[str]:
    """Remove the folders of deleted classes; return their names. Safe to repeat after a crash.

    Raises:
        DatabaseFileError: a folder could not be removed; the next call tries again.
    """
    removed: list[str] = []
    for namespace in registry.namespaces_to_remove():
        directory.remove_namespace(namespace.folder)
        registry.namespace_removed(namespace.number)
        removed.append(namespace.name)
    return removed


def _plan(registry: Registry, migrations: Sequence[Migration], bound: Collection[str]) -> _Plan:
    for migration in migrations:
        if not isinstance(migration, Migration):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(
                f"migrations= takes Migration objects, got {type(migration).__name__}"
            )
    pending = _pending(registry, migrations)
    classes = {
        record.name: _Class(record.backend, record.number, record.declared_by is not None)
        for record in registry.namespaces()
    }
    gone = registry.retired_names()
    actions: list[_Action] = []
    for migration in pending:
        _plan_one(migration, classes, gone, actions)
    for name in sorted(bound):
        if name in gone and name not in classes:
            raise MigrationError(
                f"the class {name!r} {gone[name]}, but is still bound; "
                "remove the binding (or bind the new name) first"
            )
    return _Plan(tuple(migration.tag for migration in pending), tuple(actions))


def _pending(registry: Registry, migrations: Sequence[Migration]) -> Sequence[Migration]:
    tags = [migration.tag for migration in migrations]
    for position, tag in enumerate(tags):
        if tag in tags[:position]:
            raise MigrationError(f"the migration tag {tag!r} is used twice; tags must be unique")
    if not migrations:
        return ()
    applied = registry.applied_migrations()
    for position, done in enumerate(applied):
        if done.tag not in tags:
            raise MigrationError(
                f"the migration {done.tag!r} was applied to this directory but is not in the "
                f"list any more; {_SAME_TAG_RULE}"
            )
        if tags[position] != done.tag:
            raise MigrationError(
                f"the migrations are in another order: number {position + 1} was {done.tag!r} "
                f"when it was applied and is {tags[position]!r} now; keep the applied ones in "
                "their order and put new ones at the end"
            )
        if migrations[position].steps() != done.steps:
            raise MigrationError(
                f"the migration {done.tag!r} was applied with other steps ({done.steps}); "
                f"{_SAME_TAG_RULE}"
            )
    return migrations[len(applied) :]


def _plan_one(
    migration: Migration,
    classes: dict[str, _Class],
    gone: dict[str, str],
    actions: list[_Action],
) -> None:
    # A class is named once per migration, so the order of the steps does not matter.
    tag = migration.tag
    for transferred in migration.transfers:
        raise MigrationError(
            f"migration {tag!r} transfers the class {transferred.from_class!r} from the script "
            f"{transferred.from_script!r}, which is not supported: a directory has no scripts. "
            f"Remove the step; to take data over, open the other script's directory with this "
            f"program and add renamed_classes=[({transferred.from_class!r}, "
            f"{transferred.to_class!r})]"
        )
    backends: tuple[tuple[Backend, Sequence[str]], ...] = (
        ("sqlite", migration.new_sqlite_classes),
        ("kv", migration.new_classes),
    )
    for backend, names in backends:
        for name in names:
            _plan_new(tag, name, backend, classes, actions)
            gone.pop(name, None)
    for renamed in migration.renames:
        old, new = renamed.from_class, renamed.to_class
        existing = classes.get(old)
        if existing is None:
            raise MigrationError(
                f"migration {tag!r} renames the class {old!r}, which does not exist"
                f"{_hint(gone, old)}; existing classes: {_listed(classes)}"
            )
        if new in classes:
            raise MigrationError(
                f"migration {tag!r} renames {old!r} to {new!r}, but a class {new!r} exists "
                f"already; delete it first (deleted_classes=[{new!r}]) or choose another name"
            )
        reason = f"was renamed to {new!r} by migration {tag!r}"
        classes[new] = _Class(existing.backend, existing.number, declared=True)
        del classes[old]
        gone[old] = reason
        gone.pop(new, None)
        actions.append(_rename(old, new, reason))
    for name in migration.deleted_classes:
        if name not in classes:
            raise MigrationError(
                f"migration {tag!r} deletes the class {name!r}, which does not exist"
                f"{_hint(gone, name)}; existing classes: {_listed(classes)}"
            )
        reason = f"was deleted by migration {tag!r}"
        del classes[name]
        gone[name] = reason
        actions.append(_delete(name, reason))
    actions.append(_record(tag, migration.steps()))


def _plan_new(
    tag: str,
    name: str,
    backend: Backend,
    classes: dict[str, _Class],
    actions: list[_Action],
) -> None:
    existing = classes.get(name)
    if existing is None:
        classes[name] = _Class(backend, None, declared=True)
        actions.append(_create(name, backend, tag))
        return
    if existing.backend != backend:
        raise MigrationError(
            f"migration {tag!r} declares the class {name!r} for the {backend!r} backend, but it "
            f"exists on the {existing.backend!r} backend, and the backend of an existing class "
            "never changes; remove the step, or create another class and copy the data"
        )
    if existing.declared:
        raise MigrationError(
            f"migration {tag!r} creates the class {name!r}, which exists already; remove it from "
            "the step, or delete the class in an earlier migration"
        )
    classes[name] = _Class(backend, existing.number, declared=True)
    actions.append(_declare(name, tag))


def _create(name: str, backend: Backend, tag: str) -> _Action:
    def act(registry: Registry, now_ms: int) -> None:
        registry.create_namespace(name, backend, declared_by=tag, now_ms=now_ms)

    return act


def _declare(name: str, tag: str) -> _Action:
    def act(registry: Registry, now_ms: int) -> None:
        registry.declare_namespace(_number(registry, name), tag)

    return act


def _rename(old: str, new: str, reason: str) -> _Action:
    def act(registry: Registry, now_ms: int) -> None:
        registry.rename_namespace(_number(registry, old), new, reason=reason)

    return act


def _delete(name: str, reason: str) -> _Action:
    def act(registry: Registry, now_ms: int) -> None:
        registry.delete_namespace(_number(registry, name), reason=reason)

    return act


def _record(tag: str, steps: str) -> _Action:
    def act(registry: Registry, now_ms: int) -> None:
        registry.record_migration(tag, steps, now_ms=now_ms)

    return act


def _number(registry: Registry, name: str) -> NamespaceNumber:
    namespace = registry.find_namespace(name)
    if namespace is None:
        raise AssertionError(f"the plan names the class {name!r}, which is not there")
    return namespace.number


def _listed(classes: Collection[str]) -> str:
    return ", ".join(repr(name) for name in sorted(classes)) or "none"


def _hint(gone: Mapping[str, str], name: str) -> str:
    return f" (it {gone[name]})" if name in gone else ""


def _check_name(name: object, what: str) -> str:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"{what} takes str, got {type(name).__name__}")
    if not name:
        raise ArgumentValueError(f"{what} is empty")
    return name


def _sequence(value: object, field: str) -> tuple[object, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ArgumentTypeError(
            f"Migration({field}=) takes a list, got {type(value).__name__}: {value!r}"
        )
    return tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - checked next


def _parts(entry: object, field: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    parts: list[object]
    if isinstance(entry, RenamedClass):
        parts = [entry.from_class, entry.to_class]
    elif isinstance(entry, TransferredClass):
        parts = [entry.from_class, entry.from_script, entry.to_class]
    elif isinstance(entry, Mapping):
        found: dict[object, object] = dict(entry)  # pyright: ignore[reportUnknownArgumentType] - checked here
        if set(found) != set(keys):
            raise ArgumentTypeError(
                f"Migration({field}=) entries have the keys {', '.join(keys)}; got {found!r}"
            )
        parts = [found[key] for key in keys]
    else:
        parts = list(_sequence(entry, field))
    if len(parts) != len(keys):
        raise ArgumentTypeError(
            f"Migration({field}=) entries are ({', '.join(keys)}); got {entry!r}"
        )
    return tuple(_check_name(part, f"Migration({field}=)") for part in parts)
