"""Full-text search in the source of the running Python's standard library.

    python examples/code_search.py ./data                 index what is new or changed
    python examples/code_search.py ./data search WORD     ranked hits, with file and line

There is one object per top-level package, each with a full-text index in its own database and
its counters in key-value storage. A file is indexed in one event, so a crash leaves it indexed
whole or not at all, and the next run goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
import math
import re
import sys
import sysconfig
import time
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durable_storage import (
    DurableObject,
    DurableObjectNamespace,
    DurableObjectState,
    Runtime,
    RuntimeInUseError,
)

LIBRARY = Path(sysconfig.get_path("stdlib"))
LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}
AT_ONCE = 16
"""Files under way at a time: while some wait for the disk, others are read and cut up."""
OPEN_AT_ONCE = 32
"""An open object takes six file descriptors, and some systems give a process no more than 256."""

DEFINITION = re.compile(r"\s*(?:async\s+)?(?:def|class)\s+(\w+)")
PASSAGE_LINES = 100

Stamp = tuple[int, int]
"""Size and time of the last change of a file: what tells whether it has to be read again."""


@dataclass(frozen=True)
class Hit:
    file: str
    line: int
    text: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What one package has found, with what is needed to compare it with other packages."""

    passages: int
    matches: int
    hits: list[Hit]


class Package(DurableObject):
    """The index of one top-level package."""

    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.kv = ctx.storage.kv
        self.sql.exec("""
            CREATE TABLE IF NOT EXISTS files(
                path TEXT PRIMARY KEY, size INTEGER, changed INTEGER,
                first INTEGER, last INTEGER  -- its passages, by rowid
            );
            CREATE VIRTUAL TABLE IF NOT EXISTS passages USING fts5(
                name, code, file UNINDEXED, line UNINDEXED, tokenize = "unicode61 tokenchars '_'"
            );
        """)

    async def update(self, files: dict[str, Stamp]) -> list[str]:
        """Forget the files that are gone, and name those that are new or have changed."""
        known = {
            path: (size, changed)
            for path, size, changed in self.sql.exec("SELECT path, size, changed FROM files").raw()
        }
        for path in known.keys() - files.keys():
            self._forget(path)
        return [path for path, stamp in files.items() if known.get(path) != stamp]

    async def add(self, path: str, stamp: Stamp, source: str) -> None:
        """Index one file. Nothing in here waits, so all of it is one transaction."""
        self._forget(path)
        newest = self.sql.exec("SELECT max(rowid) AS id FROM passages").one()["id"] or 0
        last = newest
        for last, (line, name, code) in enumerate(passages(source), newest + 1):
            self.sql.exec(
                "INSERT INTO passages(rowid, name, code, file, line) VALUES (?, ?, ?, ?, ?)",
                last, name, code, path, line,
            )  # fmt: skip
        self.sql.exec("INSERT INTO files VALUES (?, ?, ?, ?, ?)", path, *stamp, newest + 1, last)
        self._count("files", 1)
        self._count("passages", last - newest)

    async def search(self, words: str, limit: int) -> Answer:
        """The passages in which ``words`` stand in this order, best first."""
        phrase = '"' + words.replace('"', '""') + '"'
        matches = self.sql.exec(
            "SELECT count(*) AS n FROM passages WHERE passages MATCH ?", phrase
        ).one()["n"]
        rows = self.sql.exec(
            """
            SELECT file, line, code, -bm25(passages, 5.0, 1.0) AS score
            FROM passages WHERE passages MATCH ? ORDER BY score DESC LIMIT ?
            """,
            phrase, limit,
        )  # fmt: skip
        hits = [
            Hit(row["file"], *locate(words, row["line"], row["code"]), row["score"]) for row in rows
        ]
        self._count("searches", 1)
        return Answer(self.kv.get("passages", 0), matches, hits)

    async def counters(self) -> dict[str, int]:
        return dict(self.kv.list())

    def _forget(self, path: str) -> None:
        for first, last in self.sql.exec(
            "DELETE FROM files WHERE path = ? RETURNING first, last", path
        ).raw():
            self.sql.exec("DELETE FROM passages WHERE rowid BETWEEN ? AND ?", first, last)
            self._count("files", -1)
            self._count("passages", first - last - 1)

    def _count(self, counter: str, by: int) -> None:
        self.kv.put(counter, self.kv.get(counter, 0) + by)


def passages(source: str) -> Iterator[tuple[int, str, str]]:
    """Cut a source at its definitions: (first line, name of the definition, text)."""
    begin, name, lines = 1, "", list[str]()
    for number, line in enumerate(source.splitlines(keepends=True), 1):
        definition = DEFINITION.match(line)
        if definition or len(lines) == PASSAGE_LINES:
            if lines:
                yield begin, name, "".join(lines)
            begin, lines = number, []
            name = definition[1] if definition else name
        lines.append(line)
    if lines:
        yield begin, name, "".join(lines)


def locate(words: str, first_line: int, code: str) -> tuple[int, str]:
    """The line of a passage that a hit is shown with: the first with all of ``words``."""
    pattern = re.compile(r"\W+".join(re.findall(r"\w+", words)), re.IGNORECASE)
    found = pattern.search(code)
    begin = found.start() if found else 0
    text = code[code.rfind("\n", 0, begin) + 1 :].partition("\n")[0]
    return first_line + code.count("\n", 0, begin), text.strip()


def rarity(passages: int, matches: int) -> float:
    """How much a word tells: the factor of BM25 that depends on the whole collection."""
    return max(math.log((passages - matches + 0.5) / (matches + 0.5)), 1e-6)


def library_files() -> dict[str, dict[str, Stamp]]:
    """Every source file of the library with its stamp, by top-level package."""
    packages: dict[str, dict[str, Stamp]] = defaultdict(dict)
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY).parts
        if not LEFT_OUT.intersection(parts):
            status = path.stat()
            package = parts[0].removesuffix(".py")
            packages[package]["/".join(parts)] = (status.st_size, status.st_mtime_ns)
    return packages


def read_source(path: Path) -> str:
    """The text of a source file; a few of the library's own tests are deliberately malformed."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError):
        return path.read_text(encoding="latin-1")


class Progress:
    """One line that is drawn again and again, or one line per tenth where nobody watches."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.began = time.monotonic()
        self.live = sys.stderr.isatty()

    def step(self, package: str) -> None:
        self.done += 1
        filled = 30 * self.done // self.total
        line = f"[{'#' * filled:30}] {self.done}/{self.total} files"
        if self.live:
            print(f"\r{line}  {package[:20]:20}", end="", file=sys.stderr, flush=True)
        elif self.done * 10 // self.total > (self.done - 1) * 10 // self.total:
            print(line, file=sys.stderr)

    def end(self) -> float:
        if self.live and self.done:
            print(file=sys.stderr)
        return time.monotonic() - self.began


async def indexed(packages: DurableObjectNamespace[Package]) -> list[str]:
    return [each.name async for each in packages.list_ids() if each.name is not None]


async def build(runtime: Runtime) -> None:
    packages = runtime.namespace(Package)
    found = library_files()
    found |= {name: {} for name in await indexed(packages) if name not in found}
    # Calls to many objects are made together: the disk then serves them together.
    changed = await asyncio.gather(
        *(packages.get_by_name(name).update(files) for name, files in found.items())
    )
    todo = [(name, path) for name, paths in zip(found, changed, strict=True) for path in paths]
    progress = Progress(len(todo))
    queue = iter(todo)

    async def worker() -> None:
        for name, path in queue:
            source = read_source(LIBRARY / path)
            await packages.get_by_name(name).add(path, found[name][path], source)
            progress.step(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())
    counters = await asyncio.gather(*(packages.get_by_name(name).counters() for name in found))
    files = sum(each.get("files", 0) for each in counters)
    passages = sum(each.get("passages", 0) for each in counters)
    print(f"added {progress.done} files in {progress.end():.1f} s")
    print(f"{files} files of {len(found)} packages are indexed, in {passages} passages")


async def search(runtime: Runtime, words: str, limit: int = 20) -> bool:
    packages = runtime.namespace(Package)
    names = await indexed(packages)
    answers = await asyncio.gather(
        *(packages.get_by_name(name).search(words, limit) for name in names)
    )
    # Every package has scored by how rare the words are in it; now it is how rare they are in all.
    overall = rarity(sum(a.passages for a in answers), sum(a.matches for a in answers))
    hits = [
        (hit.score / rarity(answer.passages, answer.matches) * overall, hit)
        for answer in answers
        for hit in answer.hits
    ]
    hits.sort(key=lambda scored: (-scored[0], scored[1].file, scored[1].line))
    lines = [f"{score:6.2f}  {hit.file}:{hit.line}: {hit.text}" for score, hit in hits[:limit]]
    if not names:
        print("nothing is indexed yet: run the same command without `search`", file=sys.stderr)
    elif not hits:
        print(f"nothing found for {words!r}", file=sys.stderr)
    else:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        total = sum(answer.matches for answer in answers)
        print(f"{len(lines)} of {total} passages", file=sys.stderr)
    return bool(hits)


async def main(arguments: list[str]) -> int:
    directory = arguments.pop(0) if arguments and arguments[0] != "search" else "./data"
    if arguments and (arguments[0] != "search" or len(arguments) < 2):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        async with Runtime(directory, max_open_objects=OPEN_AT_ONCE) as runtime:
            if not arguments:
                await build(runtime)
                print(f"try: python {sys.argv[0]} {directory} search deque")
                return 0
            return 0 if await search(runtime, " ".join(arguments[1:])) else 1
    except RuntimeInUseError as exc:
        print(exc, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
