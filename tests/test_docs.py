"""Run the code of the documentation.

Every block marked ``python`` in ``README.md`` and ``docs/`` is run, page by page and in order: the
blocks of a page share their names, and their event loop, so that ``await`` may stand at the top.
A block that begins with ``# raises NAME`` has to raise it. Blocks in another language, or marked
``{code-block} python``, are only shown. Examples in docstrings are run too.
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import inspect
import pkgutil
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

import durable_storage
import durable_storage.integrations

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if page.is_file() and "_build" not in page.parts
]
BLOCK = re.compile(
    r"^(?P<indent> *)```python *\n(?P<code>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL
)
RAISES = re.compile(r"# raises (\w+)")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    code: str

    def run(self, module: types.ModuleType, runner: asyncio.Runner) -> None:
        # Blank lines in front, so that a traceback shows the line of the page.
        source = "\n" * self.line + self.code
        code = compile(source, str(self.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(eval(code, module.__dict__))
        else:
            exec(code, module.__dict__)


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")),
            "".join(line.removeprefix(found["indent"]) for line in found["code"].splitlines(True)),
        )
        for found in BLOCK.finditer(text)
    ]


PAGES_WITH_CODE = [page for page in PAGES if _blocks(page)]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_on_the_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    # Dataclasses look up the module that they are defined in.
    monkeypatch.setitem(sys.modules, "page", module)
    with asyncio.Runner() as runner:
        for block in _blocks(page):
            expected = RAISES.match(block.code)
            if expected is None:
                block.run(module, runner)
                continue
            with pytest.raises(BaseException) as caught:
                block.run(module, runner)
            assert expected[1] in [kind.__name__ for kind in type(caught.value).__mro__]


def test_the_reference_has_every_module_that_is_imported_by_its_name() -> None:
    described = {
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
    }
    integrations = pkgutil.iter_modules(durable_storage.integrations.__path__)
    assert described == {
        "durable_storage",
        *(f"durable_storage.{name}" for name in ("migrate", "schedule", "sync")),
        *(f"durable_storage.{name}" for name in ("testing", "workers")),
        *(f"durable_storage.integrations.{module.name}" for module in integrations),
    }


def _modules() -> list[str]:
    found = pkgutil.walk_packages(durable_storage.__path__, "durable_storage.")
    return [module.name for module in found if not module.name.endswith("__main__")]


@pytest.mark.parametrize("name", _modules())
def test_the_examples_in_docstrings_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("durable_storage"):
            raise
        pytest.skip(f"{exc.name} is not installed")
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, optionflags=flags).failed == 0
