"""Work on large databases streams: memory does not grow with them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from .rig import Session

ROOT = Path(__file__).parents[3]
DATABASE_MIB = 100
PEAK_MAX_MIB = 64

REOPEN = """
import sys
sys.path.insert(0, {root!r})
from tests.unit.history.rig import Session

def peak_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak_mib()
session = Session({path!r})
print(peak_mib() - before)
session.close()
"""


def file_hash(session: Session) -> str:
    """Return a digest of the database file, but for the counter of its changes."""
    with open(session.path, "rb") as file:
        file.seek(100)
        return hashlib.file_digest(file, "blake2b").hexdigest()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_restoring_a_large_database_takes_little_memory(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)")
    for _ in range(4):
        session.run(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {DATABASE_MIB // 4})"
            " INSERT INTO t SELECT CAST(randomblob(512 * 1024) || zeroblob(512 * 1024) AS BLOB) FROM n",
        )
    session.fold()
    bookmark, state = session.log.current_bookmark(), file_hash(session)
    session.run("DELETE FROM t")
    session.vacuum()
    session.log.request_restore(bookmark)
    session.close()
    script = REOPEN.format(root=str(ROOT), path=session.path)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert float(result.stdout) < PEAK_MAX_MIB
    session = Session(session.path)
    session.close()
    assert file_hash(session) == state
