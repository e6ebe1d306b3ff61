from __future__ import annotations

import datetime
import errno
import io
import os
import sqlite3
from pathlib import Path

import pytest

from durable_storage import SystemClock, sync
from durable_storage.cli.values import time_text
from durable_storage.history import CommitLog

from .rig import Counter, Old, Shell, lines, object_file, write_lines

WHEN = datetime.datetime(2050, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
LATER = WHEN + datetime.timedelta(days=1)


class Asker(Counter):
    async def ask(self, bookmark: str) -> str:
        return await self.ctx.storage.on_next_session_restore_bookmark(bookmark)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def timeline(shell: Shell, data: Path, *options: str) -> list[dict[str, object]]:
    return shell.json("history", data, "Counter", "a", *options)["timeline"]


def restore(shell: Shell, data: Path, moment: str) -> str:
    found = shell.json("history", data, "Counter", "a", "restore", "--to", moment, "--yes")
    return found["undo"]


def test_the_timeline_has_a_line_for_what_was_archived_together(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    last = write_lines(data, "two", "three")[-1]
    found = timeline(shell, data)
    assert len(found) >= 2
    assert [each["bookmark"] for each in found] == sorted(each["bookmark"] for each in found)
    assert found[-1]["bookmark"] >= last
    assert all(each["bytes"] for each in found)
    assert timeline(shell, data, "--limit", "1") == found[-1:]
    assert timeline(shell, data, "--limit", "0") == []
    text = shell("history", data, "Counter", "a", "--limit", "1").out
    assert f"the last 1 of {len(found)} lines" in text


def test_an_empty_log_of_sqlite_is_none(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    found = timeline(shell, data)
    Path(f"{object_file(data)}-wal").touch()
    assert timeline(shell, data) == found


def test_the_timeline_can_have_every_moment(shell: Shell, data: Path) -> None:
    bookmarks = write_lines(data, "one", "two")
    found = [each["bookmark"] for each in timeline(shell, data, "--every-moment")]
    assert bookmarks[-1] in found


def test_an_object_is_restored_to_a_bookmark_and_back(shell: Shell, data: Path) -> None:
    first, _ = write_lines(data, "one", "two")
    undo = restore(shell, data, first)
    assert lines(data) == ["one"]
    undo_of_undo = restore(shell, data, undo)
    assert lines(data) == ["one", "two"]
    restore(shell, data, undo_of_undo)
    assert lines(data) == ["one"]
    assert shell("check", data).code == 0


def test_an_object_is_restored_to_a_time(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    made = timeline(shell, data)[-1]["time_ms"]
    assert isinstance(made, int)
    write_lines(data, "two")
    restore(shell, data, str(made))
    assert lines(data) == ["one"]
    write_lines(data, "three")
    when = datetime.datetime.fromtimestamp(made / 1000, datetime.UTC)
    restore(shell, data, when.isoformat())
    assert lines(data) == ["one"]


def test_the_alarm_index_follows_a_restore(shell: Shell, data: Path) -> None:
    def set_alarm(when: datetime.datetime | None) -> str:
        with sync.Runtime(data) as runtime:
            counter = runtime.namespace(Counter).get_by_name("a")
            counter.remind(when)
            return counter.write("x")

    none, early, _ = set_alarm(None), set_alarm(WHEN), set_alarm(LATER)

    def indexed() -> int | None:
        return shell.json("ls", data)["namespaces"][0]["objects"][0]["alarm_ms"]

    assert indexed() == int(LATER.timestamp() * 1000)
    restore(shell, data, early)
    assert indexed() == int(WHEN.timestamp() * 1000)
    restore(shell, data, none)
    assert indexed() is None
    assert shell("check", data).code == 0


def test_a_restore_asks_first(shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = write_lines(data, "one", "two")
    command = ("history", data, "Counter", "a", "restore", "--to", first)
    refused = shell(*command)
    assert (refused.code, "--yes" in refused.err) == (1, True)
    monkeypatch.setattr("sys.stdin", Terminal("no\n"))
    refused = shell(*command)
    assert (refused.code, "Nothing was changed" in refused.err) == (1, True)
    assert lines(data) == ["one", "two"]
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    accepted = shell(*command)
    assert accepted.code == 0
    assert "Restore Counter a" in accepted.err
    assert "To undo it: python -m durable_storage history" in accepted.out
    assert lines(data) == ["one"]


class Late:
    """A clock that is late by so many milliseconds."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.late_ms = 0

    def time_ms(self) -> int:
        return self._clock.time_ms() - self.late_ms

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep_until(self, deadline: float) -> None:
        await self._clock.sleep_until(deadline)


def test_a_restore_asks_with_the_time_of_the_commit_itself(
    shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Late()
    bookmarks: list[str] = []
    with sync.Runtime(data, clock=clock) as runtime:
        counter = runtime.namespace(Counter).get_by_name("a")
        for hours in (3, 2, 1):
            clock.late_ms = hours * 3_600_000
            bookmarks.append(counter.write(f"{hours} hours ago"))
    moments = timeline(shell, data, "--every-moment")
    assert len(timeline(shell, data)) < len(moments)
    made = {each["bookmark"]: each["time_ms"] for each in moments}

    def asked(bookmark: str) -> str:
        monkeypatch.setattr("sys.stdin", Terminal("no\n"))
        return shell("history", data, "Counter", "a", "restore", "--to", bookmark).err

    for bookmark in bookmarks:
        assert f"to {bookmark}, written {time_text(made[bookmark])}?" in asked(bookmark)
    end_of_epoch = restore(shell, data, bookmarks[0])
    assert f"to {end_of_epoch}, written {time_text(made[bookmarks[-1]])}?" in asked(end_of_epoch)


def test_a_moment_that_cannot_be_is_refused(shell: Shell, data: Path) -> None:
    (bookmark,) = write_lines(data, "one")
    (foreign,) = write_lines(data, "one", name="b")
    command = ("history", data, "Counter", "a", "restore", "--yes", "--to")
    for wrong, words in (
        ("yesterday", "neither a bookmark nor a time"),
        (bookmark.upper(), "`history` lists"),
        ("2026-01-01T00:00:00", "time zone"),
        ("2026-01-01", "write 2026-01-01T00:00:00Z"),
        ("1700000000", "seconds"),
    ):
        result = shell(*command, wrong)
        assert result.code == 2
        assert words in result.err
    for impossible, words in (
        (foreign, "another object"),
        ("2001-01-01T00:00:00Z", "before"),
        ("2150-01-01T00:00:00Z", "future"),
        ("00000009-" + bookmark[9:], "another object"),
    ):
        result = shell(*command, impossible)
        assert result.code == 1
        assert words in result.err
    assert shell(*command[:-1]).code == 2
    assert lines(data) == ["one"]


def test_any_moment_is_exported_as_a_plain_file(shell: Shell, data: Path, tmp_path: Path) -> None:
    first, _ = write_lines(data, "one", "two")
    export = ("history", data, "Counter", "a", "export")
    assert shell.json(*export, tmp_path / "then.sqlite", "--at", first)["bookmark"] == first
    assert shell.json(*export, tmp_path / "now.sqlite")["bookmark"] is None
    for name, expected in (("then", ["one"]), ("now", ["one", "two"])):
        connection = sqlite3.connect(tmp_path / f"{name}.sqlite")
        assert [row[0] for row in connection.execute("SELECT text FROM line")] == expected
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        connection.close()
    refused = shell(*export, tmp_path / "now.sqlite")
    assert (refused.code, "exists already" in refused.err) == (1, True)
    assert shell(*export, tmp_path / "no" / "now.sqlite").code == 1
    assert "is empty" in shell(*export, "").err
    assert shell(*export, tmp_path / "x.sqlite", "--at", "soon").code == 2


def test_a_restore_that_was_asked_for_is_not_shown_as_done(
    shell: Shell, data: Path, tmp_path: Path
) -> None:
    with sync.Runtime(data) as runtime:
        asker = runtime.namespace(Asker, name="Counter").get_by_name("a")
        first = asker.write("one")
        asker.write("two")
        asker.ask(first)
    shell.json("history", data, "Counter", "a", "export", tmp_path / "x.sqlite")
    connection = sqlite3.connect(tmp_path / "x.sqlite")
    assert connection.execute("SELECT count(*) FROM line").fetchone() == (2,)
    connection.close()
    assert lines(data) == ["one"]


def test_verify_tells_damage_and_what_is_left(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    write_lines(data, "two" * 1000)
    command = ("history", data, "Counter", "a", "verify")
    sound = shell.json(*command)
    assert sound["sound"] is True
    assert sound["commits"] >= 2
    (segment,) = (
        object_file(data).with_name(object_file(data).name + "-history") / "log"
    ).iterdir()
    content = bytearray(segment.read_bytes())
    content[-3] ^= 1
    segment.write_bytes(content)
    damaged = shell(*command, "--json")
    assert damaged.code == 1
    assert damaged.data["sound"] is False
    assert damaged.data["restorable"]
    assert "DAMAGED" in shell(*command).out


def test_a_moment_that_can_be_restored_can_be_exported_although_the_log_is_damaged(
    shell: Shell, data: Path, tmp_path: Path
) -> None:
    write_lines(data, "one" * 10_000)  # on pages of its own
    bookmark, _ = write_lines(data, "two", "three")
    (segment,) = (
        object_file(data).with_name(object_file(data).name + "-history") / "log"
    ).iterdir()
    content = bytearray(segment.read_bytes())
    content[200] ^= 1
    segment.write_bytes(content)
    export = ("history", data, "Counter", "a", "export")
    assert shell("history", data, "Counter", "a", "verify").code == 1
    target = tmp_path / "then.sqlite"
    assert shell.json(*export, target, "--at", bookmark)["bookmark"] == bookmark
    connection = sqlite3.connect(target)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = [row[0] for row in connection.execute("SELECT text FROM line")]
    assert rows == ["one" * 10_000, "two"]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()
    assert segment.read_bytes() == content


def test_an_object_of_the_legacy_backend_has_no_history_and_says_why(
    data: Path, shell: Shell
) -> None:
    with sync.Runtime(data) as runtime:
        runtime.namespace(Old, storage="kv").get_by_name("a").put("key", 1)
    for command in ((), ("verify",), ("restore", "--to", "2026-01-31T12:00:00Z", "--yes")):
        result = shell("history", data, "Old", "a", *command)
        assert result.code == 1
        assert "Old a is of the legacy backend, which keeps no history" in result.err


def ask_for_a_restore_with_its_alarm(data: Path) -> str:
    """Leave a restore pending that brings an alarm back; gives the bookmark that undoes it."""
    with sync.Runtime(data) as runtime:
        asker = runtime.namespace(Asker, name="Counter").get_by_name("a")
        asker.remind(WHEN)
        first = asker.write("one")
        asker.remind(None)
        asker.write("two")
        return asker.ask(first)


PENDING = "The restore that Counter a was waiting for is done.\n"


@pytest.mark.parametrize("answer", [None, "no\n"], ids=["nobody to ask", "no"])
def test_a_declined_restore_has_the_alarm_of_a_pending_one_indexed(
    shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    undo = ask_for_a_restore_with_its_alarm(data)
    if answer is not None:
        monkeypatch.setattr("sys.stdin", Terminal(answer))
    declined = shell("history", data, "Counter", "a", "restore", "--to", undo)
    assert declined.code == 1
    assert declined.err.startswith(PENDING)
    assert "Nothing else was changed." in declined.err
    assert_restored_with_its_alarm(shell, data)


@pytest.mark.parametrize(
    "command",
    [
        ("history", "restore", "--yes", "--to", "2001-01-01T00:00:00Z"),
        ("sql", "INSERT INTO line(text) VALUES (1", "--write"),
    ],
    ids=["restore", "sql"],
)
def test_a_command_that_fails_has_the_alarm_of_a_pending_restore_indexed(
    shell: Shell, data: Path, command: tuple[str, ...]
) -> None:
    ask_for_a_restore_with_its_alarm(data)
    failed = shell(command[0], data, "Counter", "a", *command[1:])
    assert failed.code == 1
    assert failed.err.startswith(PENDING)
    assert_restored_with_its_alarm(shell, data)


def test_sql_that_writes_has_the_alarm_of_a_pending_restore_indexed(
    shell: Shell, data: Path
) -> None:
    ask_for_a_restore_with_its_alarm(data)
    done = shell("sql", data, "Counter", "a", "DELETE FROM line WHERE 0", "--write")
    assert (done.code, done.err) == (0, PENDING)
    assert_restored_with_its_alarm(shell, data)


def assert_restored_with_its_alarm(shell: Shell, data: Path) -> None:
    (stored,) = shell.json("ls", data)["namespaces"][0]["objects"]
    assert stored["alarm_ms"] == int(WHEN.timestamp() * 1000)
    assert shell("check", data).code == 0
    assert lines(data) == ["one"]


def test_a_restore_that_still_waits_for_room_keeps_its_object_looked_at(
    shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for_a_restore_with_its_alarm(data)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(CommitLog, "open", full)
        refused = shell("sql", data, "Counter", "a", "DELETE FROM line", "--write")
    assert (refused.code, "No space left" in refused.err) == (1, True)
    (stored,) = shell.json("ls", data)["namespaces"][0]["objects"]
    assert stored["alarm_ms"] < int(WHEN.timestamp() * 1000)
    assert lines(data) == ["one"]
