"""The rooms of the package, and which of them may know of which.

Every import counts: at the top of a file, inside a function, and for type checkers only.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "durable_storage"
ROOT = Path(__file__).parents[1] / PACKAGE

FOUNDATION = {"errors", "limits", "ids", "clock", "serializers"}
EDGES = {
    "testing",
    "workers",
    "__main__",
    "cli",
    "integrations",
    "sync",
    "pytest_plugin",
    "schedule",
}

# Each room may import itself, and the rooms named here.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "limits": {"errors"},
    "ids": {"errors"},
    "clock": {"errors"},
    "serializers": {"errors"},
    "log": FOUNDATION,
    "telemetry": FOUNDATION,
    "database": FOUNDATION,
    "history": FOUNDATION | {"database"},
    "gates": FOUNDATION,
    "storage": FOUNDATION | {"database", "history", "gates"},
    "state": FOUNDATION | {"database", "history", "gates", "storage", "object"},
    "object": FOUNDATION | {"database", "history", "gates", "storage", "state"},
    "migrate": FOUNDATION | {"storage"},
    "runtime": FOUNDATION | {"database", "history", "gates", "storage", "state", "object"},
}
# What logs and measures may be known everywhere above the foundation.
for _room in MAY_IMPORT.keys() - FOUNDATION:
    MAY_IMPORT[_room] |= {"log", "telemetry"}

IMPORTS_SQLITE = ("database", "history", "runtime.registry", "storage.legacy")
IMPORTS_ANYIO = ("clock", "gates", "storage", "state", "object", "runtime", *EDGES)
# Only the seam to the event loops may know one by name.
IMPORTS_EVENT_LOOPS = ("gates", *EDGES)
DEPENDENCIES = {"anyio", "msgpack", "typing_extensions"}
# Imported inside the function that needs them, with an error that names the extra.
EXTRAS = {"runtime.wrangler": {"json5"}}


@dataclass(frozen=True)
class Import:
    importer: str
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports_of(path: Path) -> Iterator[Import]:
    module = _module_name(path)
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = [PACKAGE, *package[: len(package) - (node.level - 1)]]
                origin = ".".join([*base, *([node.module] if node.module else [])])
            else:
                origin = node.module or ""
            for alias in node.names:
                yield Import(module, node.lineno, f"{origin}.{alias.name}")


def _all_imports() -> list[Import]:
    return [found for path in sorted(ROOT.rglob("*.py")) for found in _imports_of(path)]


IMPORTS = _all_imports()


def _within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(place) for place in places)


def _room_imported(found: Import) -> str | None:
    """Return the room an import leads to; ``""`` is the package itself."""
    parts = found.imported.split(".")
    if parts[0] != PACKAGE:
        return None
    if len(parts) == 1:
        return ""
    room = parts[1]
    exists = (ROOT / room).is_dir() or (ROOT / f"{room}.py").is_file()
    return room if exists else ""


def _room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_its_place() -> None:
    rooms = {_room(_module_name(path)) for path in ROOT.rglob("*.py")} - {""}
    assert rooms <= MAY_IMPORT.keys() | EDGES


def test_imports_run_one_way() -> None:
    wrong: list[str] = []
    for found in IMPORTS:
        importer, imported = _room(found.importer), _room_imported(found)
        if imported is None or importer == imported or importer in EDGES:
            continue
        if importer == "":
            # What users import is made of the rooms, and not of the edges.
            allowed = imported not in EDGES
        else:
            allowed = imported in MAY_IMPORT[importer]
        if not allowed:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("library", "importers"),
    [
        ("sqlite3", (*IMPORTS_SQLITE, *EDGES)),
        ("anyio", IMPORTS_ANYIO),
        ("asyncio", IMPORTS_EVENT_LOOPS),
        ("trio", IMPORTS_EVENT_LOOPS),
        ("pickle", ("serializers.pickles",)),
        ("ctypes", ("database.forks",)),
    ],
)
def test_a_library_is_imported_only_where_it_belongs(
    library: str, importers: tuple[str, ...]
) -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if _room(found.imported) == library and not _within(found.importer, importers)
    ]
    assert not wrong, "\n".join(wrong)


def test_only_edges_import_what_is_not_a_dependency() -> None:
    # Where trio may be named is the business of the test above; it is there if it runs.
    known = sys.stdlib_module_names | DEPENDENCIES | {PACKAGE, "trio"}
    wrong = [
        str(found)
        for found in IMPORTS
        if _room(found.importer) not in EDGES | {"telemetry"}
        and _room(found.imported) not in known | EXTRAS.get(found.importer, set())
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent
