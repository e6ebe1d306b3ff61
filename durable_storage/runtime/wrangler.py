"""Configuration files of wrangler: what they say about durable objects.

The meaning of the keys is that of Cloudflare's page "Wrangler configuration": an environment
inherits ``name`` and ``migrations``, but neither bindings nor ``vars``. Keys that have nothing
to do with durable objects are passed over in silence; those that have, and are not understood,
get one ``WranglerWarning`` each.
"""

from __future__ import annotations

import json
import os
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast, final

from ..errors import ArgumentTypeError, ArgumentValueError
from .migrations import Migration

__all__ = ["DurableObjectBinding", "WranglerConfig", "WranglerWarning", "read_wrangler"]

# In wrangler's own order of preference.
_FILE_NAMES: Final = ("wrangler.json", "wrangler.jsonc", "wrangler.toml")
_NAMES_OF_STEPS: Final = (
    "new_sqlite_classes",
    "new_classes",
    "renamed_classes",
    "deleted_classes",
    "transferred_classes",
)

_Table = Mapping[str, object]


@final
class WranglerWarning(UserWarning):
    """A key about durable objects was not understood and is ignored."""


@final
@dataclass(frozen=True, slots=True)
class DurableObjectBinding:
    """``env.<name>`` is the namespace of the class ``class_name``."""

    name: str
    class_name: str


@final
@dataclass(frozen=True, slots=True)
class WranglerConfig:
    """What a configuration says, for one environment.

    Attributes:
        path: the file; ``None`` when the configuration was given as a mapping.
        name: of the worker, ``None`` if it has none.
        environment: which; ``None`` is the top level.
        bindings: of durable objects, in the order of the file.
        migrations: in the order of the file; ready for ``Runtime(migrations=…)``.
        vars: plain values for ``runtime.env``.
    """

    path: str | None
    name: str | None
    environment: str | None
    bindings: tuple[DurableObjectBinding, ...]
    migrations: tuple[Migration, ...]
    vars: Mapping[str, object]

    @property
    def class_names(self) -> frozenset[str]:
        """The classes that must be given: those of the bindings."""
        return frozenset(binding.class_name for binding in self.bindings)


def read_wrangler(
    config: str | os.PathLike[str] | Mapping[str, Any], *, environment: str | None = None
) -> WranglerConfig:
    """Read a configuration.

    Args:
        config: a ``.toml``, ``.json`` or ``.jsonc`` file, a folder with ``wrangler.json``,
            ``wrangler.jsonc`` or ``wrangler.toml`` in it, or what such a file parses to.
        environment: a name under ``env``; ``None`` is the top level.

    Raises:
        FileNotFoundError: there is no such file.
        ArgumentTypeError: a key has another type than wrangler gives it.
        ArgumentValueError: the file cannot be parsed, the environment is not in it, a binding is
            of another worker's class, or a name is used twice.
        MigrationError: a migration contradicts itself.
    """
    if isinstance(config, Mapping):
        path = None
        root = _table(config, "the configuration")
    elif not isinstance(config, (str, os.PathLike)):
        raise ArgumentTypeError(
            f"a configuration is a path or a mapping, got {type(config).__name__}"
        )
    else:
        path = _find(os.fspath(config))
        root = _table(_parse(path), path)
    return _Reader(path or "the configuration").read(root, path, environment)


def _find(path: str) -> str:
    if not os.path.isdir(path):
        return path
    for name in _FILE_NAMES:
        candidate = os.path.join(path, name)
        if os.path.isfile(candidate):
            return candidate
    raise FileNotFoundError(2, f"no {', '.join(_FILE_NAMES[:-1])} or {_FILE_NAMES[-1]} in", path)


def _parse(path: str) -> object:
    kind = os.path.splitext(path)[1].lower()
    if kind not in (".toml", ".json", ".jsonc"):
        raise ArgumentValueError(
            f"{path!r} is no wrangler configuration: it ends in {kind!r}, not in .toml, .json or "
            ".jsonc"
        )
    with open(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
        if kind == ".toml":
            return tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ArgumentValueError(f"{path!r} cannot be parsed: {exc}") from exc
    try:
        return cast(object, json.loads(text))
    except json.JSONDecodeError as exc:
        return _parse_with_comments(path, text, exc)
    except RecursionError as exc:
        raise ArgumentValueError(f"{path!r} cannot be parsed: it is nested too deep") from exc


def _parse_with_comments(path: str, text: str, plain: json.JSONDecodeError) -> object:
    # wrangler accepts comments and trailing commas in .json too.
    try:
        import json5  # only here: an extra that most programs do not need
    except ModuleNotFoundError:
        raise ArgumentValueError(
            f"{path!r} is not plain JSON ({plain}); to read comments and trailing commas, install "
            "the extra: pip install 'durable-storage[wrangler]'"
        ) from plain
    try:
        return cast(object, json5.loads(text))
    except (ValueError, RecursionError) as exc:
        raise ArgumentValueError(f"{path!r} cannot be parsed: {exc}") from exc


@final
class _Reader:
    """Walks one configuration; ``source`` begins its messages."""

    def __init__(self, source: str) -> None:
        self._source = source

    def read(self, root: _Table, path: str | None, environment: str | None) -> WranglerConfig:
        section, where = root, ""
        name = self._optional_text(root, "name", "")
        if environment is not None:
            environments = self._table_at(root, "env", "")
            if environment not in environments:
                known = ", ".join(repr(known) for known in environments) or "none"
                raise ArgumentValueError(
                    f"{self._source}: there is no environment {environment!r}; it has {known}"
                )
            where = f"env.{environment}."
            section = self._table_at(environments, environment, "env.")
            top_name = name
            name = self._optional_text(section, "name", where)
            if name is None and top_name is not None:
                name = f"{top_name}-{environment}"
        # Not the other way round: an empty list of the environment replaces the inherited one.
        migrations = section if "migrations" in section else root
        bindings = self._bindings(section, where, name)
        variables = dict(self._table_at(section, "vars", where))
        for binding in bindings:
            if binding.name in variables:
                raise ArgumentValueError(
                    f"{self._source}: {where}vars and a binding are both named {binding.name!r}"
                )
        for ignored in ("containers", "durable_object", "durableObjects"):
            if ignored in section:
                self._warn(f"{where}{ignored}")
        return WranglerConfig(
            path=path,
            name=name,
            environment=environment,
            bindings=bindings,
            migrations=self._migrations(migrations, where if migrations is section else ""),
            vars=variables,
        )

    def _bindings(
        self, section: _Table, where: str, worker: str | None
    ) -> tuple[DurableObjectBinding, ...]:
        durable_objects = self._table_at(section, "durable_objects", where)
        where += "durable_objects."
        self._warn_about_others(durable_objects, ("bindings",), where)
        bindings: list[DurableObjectBinding] = []
        for place, entry in self._tables_at(durable_objects, "bindings", where):
            binding = DurableObjectBinding(
                self._text(entry, "name", place), self._text(entry, "class_name", place)
            )
            script = self._optional_text(entry, "script_name", place)
            if script is not None and script != worker:
                raise ArgumentValueError(
                    f"{self._source}: {place}script_name is {script!r}, but the classes of another "
                    f"worker cannot be bound: only this program's run here. Remove script_name and "
                    f"pass the class {binding.class_name!r}, or give the program its own stub"
                )
            self._warn_about_others(entry, ("name", "class_name", "script_name"), place)
            if any(binding.name == other.name for other in bindings):
                raise ArgumentValueError(
                    f"{self._source}: {place}name {binding.name!r} is used by another binding"
                )
            bindings.append(binding)
        return tuple(bindings)

    def _migrations(self, section: _Table, where: str) -> tuple[Migration, ...]:
        migrations: list[Migration] = []
        for place, entry in self._tables_at(section, "migrations", where):
            self._warn_about_others(entry, ("tag", *_NAMES_OF_STEPS), place)
            tag = self._text(entry, "tag", place)
            steps = {name: entry[name] for name in _NAMES_OF_STEPS if name in entry}
            try:
                migrations.append(Migration(tag, **cast("dict[str, Any]", steps)))
            except ArgumentTypeError as exc:
                raise ArgumentTypeError(f"{self._source}: {place[:-1]}: {exc}") from exc
            except ArgumentValueError as exc:
                raise ArgumentValueError(f"{self._source}: {place[:-1]}: {exc}") from exc
        return tuple(migrations)

    def _warn_about_others(self, table: _Table, known: Sequence[str], where: str) -> None:
        for key in table:
            if key not in known:
                self._warn(where + key)

    def _warn(self, key: str) -> None:
        warnings.warn(
            f"{self._source}: {key} concerns durable objects and is not supported; it is ignored",
            WranglerWarning,
            stacklevel=2,
        )

    # ------------------------------------------------------------------ shapes

    def _table_at(self, table: _Table, key: str, where: str) -> _Table:
        value = table.get(key)
        return {} if value is None else _table(value, f"{self._source}: {where}{key}")

    def _tables_at(self, table: _Table, key: str, where: str) -> list[tuple[str, _Table]]:
        value = table.get(key)
        if value is None:
            return []
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ArgumentTypeError(
                f"{self._source}: {where}{key} is a list of tables, got {type(value).__name__}"
            )
        found: list[tuple[str, _Table]] = []
        for index, entry in enumerate(cast("Sequence[object]", value)):
            place = f"{where}{key}[{index}]"
            found.append((place + ".", _table(entry, f"{self._source}: {place}")))
        return found

    def _text(self, table: _Table, key: str, where: str) -> str:
        value = self._optional_text(table, key, where)
        if not value:
            raise ArgumentValueError(f"{self._source}: {where}{key} is missing or empty")
        return value

    def _optional_text(self, table: _Table, key: str, where: str) -> str | None:
        value = table.get(key)
        if value is not None and not isinstance(value, str):
            raise ArgumentTypeError(
                f"{self._source}: {where}{key} is a string, got {type(value).__name__}"
            )
        return value


def _table(value: object, what: str) -> _Table:
    if not isinstance(value, Mapping):
        raise ArgumentTypeError(f"{what} is a table, got {type(value).__name__}")
    return cast(_Table, value)
