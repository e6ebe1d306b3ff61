"""A data directory to look into, and the command line called as a function."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from durable_storage import (
    DurableObject,
    DurableObjectState,
    Serializer,
    TransactionError,
    sync,
)
from durable_storage.cli.main import main


class Counter(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS line(id INTEGER PRIMARY KEY, text)")

    async def write(self, text: str) -> str:
        self.ctx.storage.sql.exec("INSERT INTO line(text) VALUES (?)", text)
        self.ctx.storage.put("newest", {"text": text})
        try:
            return await self.ctx.storage.get_current_bookmark()
        except TransactionError:
            return "there is no history"

    async def lines(self) -> list[str]:
        return [row["text"] for row in self.ctx.storage.sql.exec("SELECT text FROM line")]

    async def remind(self, when: datetime.datetime | None) -> None:
        if when is None:
            self.ctx.storage.delete_alarm()
        else:
            self.ctx.storage.set_alarm(when)

    async def reminder(self) -> datetime.datetime | None:
        return await self.ctx.storage.get_alarm()

    async def alarm(self) -> None:
        pass


class Old(DurableObject):
    async def put(self, key: str, value: object) -> None:
        self.ctx.storage.put(key, value)


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Shell:
    """``python -m durable_storage`` in this process, which must not own the directory."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | os.PathLike[str]) -> Result:
        self._capsys.readouterr()
        try:
            code = main([os.fspath(each) for each in arguments])
        except SystemExit as exc:
            code = int(str(exc.code))
        found = self._capsys.readouterr()
        assert "Traceback" not in found.err
        return Result(code, found.out, found.err)

    def json(self, *arguments: str | os.PathLike[str]) -> Any:
        result = self(*arguments, "--json")
        assert result.code == 0, result.err
        return result.data


def write_lines(
    path: Path,
    *texts: str,
    name: str = "a",
    serializer: Serializer | None = None,
    **options: Any,
) -> list[str]:
    """Write lines into an object, and give the bookmark after each."""
    with sync.Runtime(path, serializer=serializer, **options) as runtime:
        counter = runtime.namespace(Counter).get_by_name(name)
        return [counter.write(text) for text in texts]


def lines(path: Path, name: str = "a") -> list[str]:
    """What an object holds, read by a runtime."""
    with sync.Runtime(path) as runtime:
        return runtime.namespace(Counter).get_by_name(name).lines()


def files_of(path: Path) -> dict[str, bytes]:
    """Every file of a directory with its content and time of modification."""
    return {
        str(each.relative_to(path)): each.read_bytes() + str(each.stat().st_mtime_ns).encode()
        for each in sorted(path.rglob("*"))
        if each.is_file()
    }


def object_file(path: Path, name: str = "a") -> Path:
    """The file of an object of the class Counter."""
    from durable_storage.ids import id_from_name

    (found,) = path.glob(f"Counter-*/*/*/{id_from_name('Counter', name)}.sqlite")
    return found
