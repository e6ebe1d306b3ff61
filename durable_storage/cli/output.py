"""Results on the terminal: as tables with rich, as plain text without it, or as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TextIO, final

from .failures import Failure
from .values import printable

__all__ = ["Facts", "Line", "Output", "Part", "Progress", "Table"]

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

_PROGRESS_EVERY_SECONDS: Final = 2.0


@final
@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings.

    Attributes:
        right: the columns to align at the right.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = field(default_factory=tuple[str, ...])


@final
@dataclass(frozen=True, slots=True)
class Facts:
    """Names with one value each."""

    title: str
    pairs: Sequence[tuple[str, str]]


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A sentence."""

    text: str


Part = Table | Facts | Line


class _Writer(Protocol):
    def write(self, part: Part) -> None: ...
    def progress(self, what: str) -> contextlib.AbstractContextManager[Progress]: ...


@final
class Output:
    """Where commands put what they found.

    Args:
        as_json: one JSON document instead of text.
        plain: no rich, even if it is installed.
    """

    def __init__(self, *, as_json: bool = False, plain: bool = False) -> None:
        self._as_json = as_json
        self._writer: _Writer = _Plain()
        # A pipe gets plain text, which programs can read.
        if not (as_json or plain) and sys.stdout.isatty():
            self._writer = _rich() or self._writer

    def result(self, data: Any, *parts: Part) -> None:
        """Show a command's result: ``data`` as JSON, ``parts`` as text."""
        if self._as_json:
            print(json.dumps(data, ensure_ascii=False, indent=2))
        else:
            for part in parts:
                self._writer.write(part)

    @contextlib.contextmanager
    def progress(self, what: str) -> Generator[Progress]:
        """Show on standard error, if that is a terminal, how far something long has come."""
        if not sys.stderr.isatty():
            yield lambda done, total: None
            return
        with self._writer.progress(what) as progress:
            yield progress

    def note(self, text: str) -> None:
        """Say on standard error what was done besides what was asked for."""
        print(printable(text), file=sys.stderr, flush=True)

    def confirm(self, question: str, refusal: str) -> None:
        """Go on only if the person at the terminal says yes.

        Args:
            question: what they are asked.
            refusal: what they are told if they do not.

        Raises:
            Failure: they do not, or there is nobody to ask.
        """
        if not sys.stdin.isatty():
            raise Failure(f"{question} There is nobody to ask here; add --yes. {refusal}")
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Failure(refusal)


@final
class _Plain:
    def write(self, part: Part) -> None:
        if isinstance(part, Line):
            print(printable(part.text))
            return
        if part.title:
            print(f"{printable(part.title)}:")
        if isinstance(part, Facts):
            width = max((len(name) for name, _ in part.pairs), default=0)
            for name, value in part.pairs:
                print(f"  {name:<{width}}  {printable(value)}".rstrip())
            return
        rows = [list(part.columns), *([printable(cell) for cell in row] for row in part.rows)]
        widths = [max(len(row[index]) for row in rows) for index in range(len(part.columns))]
        for row in rows:
            cells = [
                cell.rjust(width) if column in part.right else cell.ljust(width)
                for cell, width, column in zip(row, widths, part.columns, strict=True)
            ]
            print(("  " + "  ".join(cells)).rstrip())

    @contextlib.contextmanager
    def progress(self, what: str) -> Generator[Progress]:
        stream: TextIO = sys.stderr
        shown_at = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal shown_at
            now = time.monotonic()
            if total and now - shown_at >= _PROGRESS_EVERY_SECONDS:
                shown_at = now
                print(f"{what}: {100 * done // total} %", file=stream, flush=True)

        yield show


def _rich() -> _Writer | None:
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
        from rich.table import Table as RichTable
        from rich.text import Text
    except ImportError:
        return None

    console = Console()

    class Rich:
        def write(self, part: Part) -> None:
            if isinstance(part, Line):
                # Not broken into lines: what it says may be a command to copy.
                console.print(Text(printable(part.text)), soft_wrap=True)
                return
            table = RichTable(
                title=Text(printable(part.title)) if part.title else None,
                title_justify="left",
                show_header=isinstance(part, Table),
            )
            rows: Sequence[Sequence[str]]
            if isinstance(part, Facts):
                rows = part.pairs
                table.add_column(style="bold")
                table.add_column(overflow="fold")
            else:
                rows = part.rows
                for column in part.columns:
                    right = column in part.right
                    table.add_column(
                        column,
                        justify="right" if right else "left",
                        overflow="fold",
                        no_wrap=right,
                    )
            for row in rows:
                table.add_row(*(Text(printable(cell)) for cell in row))
            console.print(table)

        @contextlib.contextmanager
        def progress(self, what: str) -> Generator[Progress]:
            with Bar(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task(what, total=None)
                yield lambda done, total: bar.update(task, completed=done, total=total)

    return Rich()
