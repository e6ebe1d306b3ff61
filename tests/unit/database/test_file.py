from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from durable_storage.database import Database
from durable_storage.database.create import FileClaim
from durable_storage.errors import DatabaseFileError

from .rig import Rig


def test_a_new_file_is_one_page_in_wal_mode_that_sqlite_accepts(tmp_path: Path) -> None:
    path = tmp_path / "object.sqlite"
    Database(path).close()
    assert path.stat().st_size == 4096
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA page_size").fetchone() == (4096,)
    assert connection.execute("PRAGMA encoding").fetchone() == ("UTF-8",)
    connection.execute("CREATE TABLE t(a)")
    connection.close()


def test_the_file_and_its_wal_are_readable_by_their_owner_only(rig: Rig) -> None:
    rig.exec("CREATE TABLE t(a)")
    rig.commit()
    for name in (rig.path, Path(f"{rig.path}-wal")):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600


def test_what_was_committed_is_there_after_reopening(rig: Rig) -> None:
    assert rig.database.created
    rig.exec("CREATE TABLE t(a); INSERT INTO t VALUES(1)")
    rig.begin()
    rig.database.kv_put("k", "v")
    rig.reopen()
    assert not rig.database.created
    assert rig.rows("SELECT a FROM t") == [(1,)]
    assert rig.database.kv_get("k") == "v"


def test_what_was_not_committed_is_gone_after_closing(rig: Rig) -> None:
    rig.exec("CREATE TABLE t(a)")
    rig.commit()
    rig.exec("INSERT INTO t VALUES(1)")
    rig.database.close()
    rig.database = Database(rig.path)
    assert rig.rows("SELECT a FROM t") == []


def test_closing_folds_the_wal_and_may_be_repeated(rig: Rig) -> None:
    rig.exec("CREATE TABLE t(a)")
    rig.commit()
    rig.database.close()
    rig.database.close()
    assert sorted(os.listdir(rig.path.parent)) == ["object.sqlite"]


@pytest.mark.parametrize("length", [0, 1, 15, 16, 100, 4095])
def test_a_file_that_was_created_in_part_counts_as_new(tmp_path: Path, length: int) -> None:
    whole = tmp_path / "whole.sqlite"
    Database(whole).close()
    path = tmp_path / "part.sqlite"
    path.write_bytes(whole.read_bytes()[:length])
    database = Database(path)
    assert database.created
    database.close()
    assert path.read_bytes()[:100] == whole.read_bytes()[:100]


def test_a_page_of_zeros_counts_as_new(tmp_path: Path) -> None:
    path = tmp_path / "object.sqlite"
    path.write_bytes(bytes(4096))
    database = Database(path)
    assert database.created
    database.close()


@pytest.mark.parametrize("content", [b"hello, I am a text", b"x" * 10_000])
def test_a_file_that_is_not_a_database_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "object.sqlite"
    path.write_bytes(content)
    with pytest.raises(DatabaseFileError, match="not a SQLite database"):
        Database(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["object.sqlite"]


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseFileError, match="Is a directory"):
        Database(tmp_path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseFileError, match=r"cannot open .*No such file or directory"):
        Database(tmp_path / "missing" / "object.sqlite")


def test_a_database_of_a_newer_version_is_refused(rig: Rig) -> None:
    rig.begin()
    rig.database.meta_put("schema", 2)
    rig.commit()
    rig.database.close()
    with pytest.raises(DatabaseFileError, match="format version 2"):
        Database(rig.path)


def test_a_database_that_sqlite_made_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "object.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t(a)")
    connection.close()
    rig = Rig(path)
    assert not rig.database.created
    assert rig.rows("SELECT name FROM sqlite_master") == [("t",)]
    rig.database.close()


def test_a_second_opening_in_this_process_is_refused_and_the_first_goes_on(rig: Rig) -> None:
    rig.exec("CREATE TABLE t(a)")
    with pytest.raises(DatabaseFileError, match="open in this process already"):
        Database(rig.path)
    rig.exec("INSERT INTO t VALUES(1)")
    rig.commit()
    assert rig.rows("SELECT a FROM t") == [(1,)]


def test_a_claim_is_for_every_name_of_the_file_and_ends_with_whoever_has_it(
    tmp_path: Path,
) -> None:
    path, link = tmp_path / "object.sqlite", tmp_path / "link.sqlite"
    Database(path).close()
    link.hardlink_to(path)
    (tmp_path / "directory").symlink_to(tmp_path)
    names = (path, link, tmp_path / "directory" / "object.sqlite")
    claim = FileClaim(str(path))
    for name in names:
        with pytest.raises(DatabaseFileError, match="open in this process already"):
            FileClaim(str(name))
    claim.release()
    for name in names:
        FileClaim(str(name)).release()
    lost = FileClaim(str(path))
    del lost
    FileClaim(str(link)).release()


def test_a_file_that_is_missing_can_be_claimed_once(tmp_path: Path) -> None:
    claim = FileClaim(str(tmp_path / "object.sqlite"))
    with pytest.raises(DatabaseFileError, match="open in this process already"):
        FileClaim(str(tmp_path / "object.sqlite"))
    claim.release()
    with pytest.raises(DatabaseFileError, match="No such file or directory"):
        FileClaim(str(tmp_path / "missing" / "object.sqlite"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_has_neither_the_claims_of_its_parent_nor_its_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, threading\n"
        "from durable_storage.database.create import DatabaseFile, FileClaim\n"
        "claim = FileClaim(sys.argv[1])\n"
        "held, go_on = threading.Event(), threading.Event()\n"
        "class Slow:\n"
        "    def before(self, operation, path):\n"
        "        held.set()\n"
        "        go_on.wait()\n"
        "threading.Thread(target=DatabaseFile, args=(sys.argv[2], Slow())).start()\n"
        "held.wait()\n"
        "os.register_at_fork(before=go_on.set)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    FileClaim(sys.argv[1]).release()\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "claim.release()\n"
    )
    names = [str(tmp_path / name) for name in ("a.sqlite", "b.sqlite")]
    subprocess.run([sys.executable, "-c", code, *names], check=True, timeout=60)


def test_another_process_is_kept_out_from_the_moment_of_opening(rig: Rig) -> None:
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "try:\n"
        "    connection.execute('SELECT * FROM sqlite_master').fetchall()\n"
        "except sqlite3.OperationalError as error:\n"
        "    print(error)\n"
        "connection.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(rig.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "database is locked\n"


def test_a_database_in_use_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "object.sqlite"
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "connection.execute('CREATE TABLE t(a)')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "connection.close()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        path_is_made = path.exists()
        assert path_is_made
        with pytest.raises(DatabaseFileError, match="in use by another process"):
            Database(path)
        assert other.stdin is not None
        other.stdin.close()


_OPEN = (
    "from durable_storage.database import Database\n"
    "from durable_storage.errors import DatabaseFileError\n"
    "try:\n"
    "    Database(sys.argv[1]).close()\n"
    "except DatabaseFileError as error:\n"
    "    print('refused:', error)\n"
    "else:\n"
    "    print('opened')\n"
)


@pytest.fixture
def open_place(tmp_path: Path) -> Path:
    """Return a directory that everybody can reach."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    place = tmp_path / "place"
    place.mkdir()
    return place


def _open_as_nobody(path: Path) -> str:
    # Imported before the rights of root, which no permission stops, are given up.
    prelude = (
        "import os, sys\n"
        "from durable_storage.database import Database\n"
        "if os.getuid() == 0:\n    os.setgid(65534)\n    os.setuid(65534)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + _OPEN, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_read_only_directory_is_refused(open_place: Path) -> None:
    path = open_place / "object.sqlite"
    Database(path).close()
    path.chmod(0o666)
    open_place.chmod(0o555)
    try:
        output = _open_as_nobody(path)
    finally:
        open_place.chmod(0o755)
    assert "refused" in output
    assert "read-only" in output


def test_a_read_only_file_is_refused(open_place: Path) -> None:
    path = open_place / "object.sqlite"
    Database(path).close()
    path.chmod(0o444)
    open_place.chmod(0o777)
    output = _open_as_nobody(path)
    assert "refused" in output
    assert "Permission denied" in output
