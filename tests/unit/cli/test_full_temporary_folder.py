"""Commands that read work on copies, and say so when there is no room for them."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_storage.cli import checking, copies, directory
from durable_storage.errors import DatabaseFileError
from durable_storage.history.files import Files
from durable_storage.runtime.registry import Registry

from .rig import Shell, object_file, write_lines

NO_ROOM = "there is no room for a copy of "
READING = {
    "ls": ("ls", "DIR"),
    "show": ("show", "DIR", "Counter", "a"),
    "sql": ("sql", "DIR", "Counter", "a", "SELECT 1"),
    "check": ("check", "DIR"),
    "history": ("history", "DIR", "Counter", "a"),
    "export": ("export", "DIR", "Counter", "a", "FILE"),
    "history export": ("history", "DIR", "Counter", "a", "export", "FILE"),
}


@pytest.fixture(params=READING.values(), ids=READING)
def run(
    request: pytest.FixtureRequest, shell: Shell, data: Path, tmp_path: Path
) -> Callable[[], str]:
    """Runs a command that cannot be done and makes no file, and gives what it says."""
    places = {"DIR": str(data), "FILE": str(tmp_path / "made.sqlite")}

    def run() -> str:
        result = shell(*(places.get(word, word) for word in request.param))
        assert result.code == 1
        assert not os.path.exists(places["FILE"])
        return result.out + result.err

    return run


def sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


def test_there_may_be_no_room_for_files(
    run: Callable[[], str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(data, "one")

    def copyfile(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source)

    monkeypatch.setattr(copies.shutil, "copyfile", copyfile)
    told = run()
    assert f"{NO_ROOM}{data / 'registry.sqlite'} in {tempfile.gettempdir()}; set TMPDIR" in told


def test_there_may_be_no_room_to_open_the_copy_of_the_registry(
    run: Callable[[], str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(data, "one")

    def open_registry(path: str) -> Registry:
        raise DatabaseFileError(f"{path} is damaged") from sqlite_error("SQLITE_IOERR_SHMSIZE")

    monkeypatch.setattr(directory, "Registry", open_registry)
    told = run()
    assert f"{NO_ROOM}{data / 'registry.sqlite'} in " in told
    assert "damaged" not in told


@pytest.mark.parametrize("command", ["history", "history export"])
def test_there_may_be_no_room_to_archive_in_the_copy(
    shell: Shell, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    write_lines(data, "one")
    leave_a_wal(object_file(data))

    def write(self: Files, descriptor: int, path: str, *_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Files, "write", write)
    places = {"DIR": str(data), "FILE": str(tmp_path / "made.sqlite")}
    result = shell(*(places.get(word, word) for word in READING[command]))
    assert result.code == 1
    assert f"{NO_ROOM}{object_file(data)} in " in result.err
    assert not os.path.exists(places["FILE"])


def leave_a_wal(path: Path) -> None:
    """Write to an object as a process does that is killed then."""
    copy = path.with_name("copy.sqlite")
    copy.write_bytes(path.read_bytes())
    connection = sqlite3.connect(copy, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("INSERT INTO line(text) VALUES ('two')")
    path.with_name(path.name + "-wal").write_bytes(Path(f"{copy}-wal").read_bytes())
    connection.close()
    copy.unlink()


def test_a_check_without_room_finds_no_damage(
    shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(data, "one")
    monkeypatch.setattr(checking, "sqlite3", FullSqlite)
    result = shell("check", data)
    assert result.code == 1
    assert NO_ROOM in result.err
    assert result.out == ""


class FullSqlite:
    """Stands in for the module, and for a connection."""

    Error = sqlite3.Error

    @classmethod
    def connect(cls, path: str, **options: object) -> FullSqlite:
        return cls()

    def execute(self, sql: str) -> None:
        raise sqlite_error("SQLITE_IOERR_SHMSIZE")

    def close(self) -> None:
        pass


def test_what_sqlite_says_of_a_full_disk_is_known(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "full.sqlite", isolation_level=None)
    connection.execute("CREATE TABLE t(v)")
    connection.execute("PRAGMA max_page_count=2")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    with pytest.raises(sqlite3.OperationalError) as other:
        connection.execute("SELECT nothing")
    connection.close()
    assert copies.lacks_room(full.value)
    assert not copies.lacks_room(other.value)
    assert not copies.lacks_room(sqlite3.ProgrammingError("Cannot operate on a closed database."))
