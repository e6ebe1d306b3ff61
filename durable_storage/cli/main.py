"""The arguments of the command line, and what becomes of errors."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from ..errors import DurableStorageError
from .checking import check_directory
from .directory import opened
from .failures import DONE, FAILED, Failure
from .looking import list_objects, show_object
from .moving import export_object, import_file
from .output import Output
from .query import run_sql
from .timeline import export_moment, restore, show_timeline, verify_history

__all__ = ["main"]

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 not done or damage found, 2 wrong use."""
    # Not as defaults of the parser, which would be those of every command too, and there overwrite
    # what was said before the command.
    unless_given = argparse.Namespace(json=False, plain=False)
    parsed = _parser().parse_args(arguments, unless_given)
    # Python has none where the shell has closed it.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        code = _run(parsed, Output(as_json=parsed.json, plain=parsed.plain))
        sys.stdout.flush()
        return code
    except Failure as exc:
        return _complain(str(exc), exc.code)
    except (DurableStorageError, sqlite3.Error) as exc:
        return _complain(str(exc), FAILED)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        return _complain(f"{where}{exc.strerror or exc}", FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)


def _nowhere() -> TextIO:
    return open(os.devnull, "w")


def _complain(text: str, code: int) -> int:
    sys.stdout.flush()
    print(f"durable_storage: {text}", file=sys.stderr)
    return code


def _run(given: argparse.Namespace, out: Output) -> int:
    command: str = given.command
    if command == "sql":
        run_sql(
            given.directory,
            out,
            given.namespace,
            given.object,
            given.query,
            given.bindings,
            write=given.write,
        )
        return DONE
    if command == "import":
        import_file(
            given.file, given.directory, out, given.namespace, given.name, exported=given.exported
        )
        return DONE
    action: str | None = getattr(given, "action", None)
    if action == "restore":
        restore(given.directory, out, given.namespace, given.object, given.to, yes=given.yes)
        return DONE
    with opened(given.directory) as directory:
        if command == "ls":
            list_objects(directory, out, given.namespace)
        elif command == "show":
            show_object(directory, out, given.namespace, given.object, limit=given.limit)
        elif command == "check":
            return check_directory(directory, out, given.namespace)
        elif command == "export":
            export_object(directory, out, given.namespace, given.object, given.file)
        elif action == "verify":
            return verify_history(directory, out, given.namespace, given.object)
        elif action == "export":
            export_moment(directory, out, given.namespace, given.object, given.file, given.at)
        else:
            show_timeline(
                directory,
                out,
                given.namespace,
                given.object,
                limit=given.limit,
                every_moment=given.every_moment,
            )
    return DONE


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document"
    )
    common.add_argument(
        "--plain", action="store_true", default=argparse.SUPPRESS, help="plain text, no tables"
    )
    parser = argparse.ArgumentParser(
        prog="python -m durable_storage",
        description="Look into a data directory, and repair one that no runtime uses.",
        parents=[common],
        epilog="Exit codes: 0 done, 1 not done or damage found, 2 wrong use.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *positionals: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        for each in positionals:
            _positional(command, each)
        return command

    listing = add("ls", "List namespaces and objects.", "directory")
    _optional_namespace(listing)
    show = add(
        "show", "Show an object's tables, keys and alarm.", "directory", "namespace", "object"
    )
    _limit(show, 10, "so many rows of each table, and so many keys")
    sql = add(
        "sql", "Run SQL on an object's database.", "directory", "namespace", "object", "query"
    )
    sql.add_argument(
        "bindings", nargs="*", metavar="VALUE", help="values of the last statement's parameters"
    )
    sql.add_argument("--write", action="store_true", help="allow changes; no runtime may run")
    check = add("check", "Check the registry, every object and every history.", "directory")
    _optional_namespace(check)
    add(
        "export",
        "Write an object as a plain SQLite file.",
        "directory",
        "namespace",
        "object",
        "file",
    )
    importing = add(
        "import", "Make an object of a plain SQLite file.", "file", "directory", "namespace"
    )
    importing.add_argument("name", metavar="NAME", help="the new object's name")
    importing.add_argument(
        "--exported",
        action="store_true",
        help="the file is an export of this library: take its keys and its alarm too",
    )
    _history(
        add("history", "Show an object's commits.", "directory", "namespace", "object"), common
    )
    return parser


def _history(history: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    _limit(history, None, "only the last so many lines")
    history.add_argument(
        "--every-moment", action="store_true", help="a line for each moment that was recorded"
    )
    actions = history.add_subparsers(dest="action", metavar="ACTION")
    restoring = actions.add_parser(
        "restore", help="take the object back to a moment", parents=[common]
    )
    restoring.add_argument(
        "--to", required=True, metavar="TIME|BOOKMARK", help="such as 2026-01-31T12:00:00Z"
    )
    restoring.add_argument("--yes", action="store_true", help="do not ask")
    actions.add_parser("verify", help="check every hash of the history", parents=[common])
    exporting = actions.add_parser(
        "export", help="write a plain SQLite file of any moment", parents=[common]
    )
    _positional(exporting, "file")
    exporting.add_argument(
        "--at", metavar="TIME|BOOKMARK", help="the moment; by default the last commit"
    )


_POSITIONALS = {
    "directory": ("DIR", "the data directory"),
    "namespace": ("NAMESPACE", "usually the name of a class"),
    "object": ("NAME_OR_ID", "an object's name, or its 64 hex digits"),
    "file": ("FILE.sqlite", "a plain SQLite file"),
    "query": ("QUERY", "SQL; - reads it from standard input"),
}


def _positional(command: argparse.ArgumentParser, name: str) -> None:
    metavar, text = _POSITIONALS[name]
    command.add_argument(name, metavar=metavar, help=text)


def _optional_namespace(command: argparse.ArgumentParser) -> None:
    command.add_argument("namespace", nargs="?", metavar="NAMESPACE", help="only this one")


def _limit(command: argparse.ArgumentParser, default: int | None, text: str) -> None:
    command.add_argument("--limit", type=_count, default=default, metavar="N", help=text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give 0 or more")
    return int(text)
