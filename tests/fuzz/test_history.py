"""Damaged history and foreign bookmarks: noticed, and never served."""

from __future__ import annotations

import os
import pathlib
import random
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_storage.errors import ArgumentTypeError, BookmarkError
from durable_storage.history import archive, commit_log, image, retention
from durable_storage.history.bookmarks import BEGINNING, Position, format_bookmark, parse_bookmark

from ..unit.history.rig import ManualTime, Session

OBJECT_ID = bytes(range(16))
FLIPS = 60
BOOKMARKS = [
    line.replace("\\n", "\n").replace("\\0", "\0").replace("\\ud800", "\ud800")
    for line in (pathlib.Path(__file__).parent / "corpus" / "bookmarks.txt")
    .read_text(encoding="utf-8")
    .split("\n")
]


@pytest.fixture
def built(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, str]]:
    """A closed object with several segments and snapshots; its bookmarks, and what they lead to."""
    monkeypatch.setattr(archive, "SLICE_SIZE", 4 * 4120)
    monkeypatch.setattr(image, "SLICE_SIZE", 4 * 4120)
    monkeypatch.setattr(retention, "SNAPSHOT_AFTER_MIN_BYTES", 30 * 4096)
    monkeypatch.setattr(retention, "LOG_PER_SNAPSHOT", 2)
    monkeypatch.setattr(commit_log, "ARCHIVE_AHEAD_FRAMES", 5)
    path = str(tmp_path / "object" / "object.sqlite")
    os.mkdir(tmp_path / "object")
    chance = random.Random(5)
    clock = ManualTime()
    session = Session(path, clock)
    session.run("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    bookmarks: dict[str, str] = {}
    for number in range(24):
        clock.now_ms += 500
        text = chance.randbytes(chance.randint(10, 3000)).hex()
        session.run(("INSERT OR REPLACE INTO t VALUES (?, ?)", str(number % 9), text))  # type: ignore[arg-type] - a statement and its values
        session.confirm()
        bookmarks[session.log.current_bookmark()] = session.content()
        if number % 5 == 4:
            session.fold()
    session.close()
    return path, bookmarks


def _damaged(path: str, target: str) -> Session:
    shutil.copytree(os.path.dirname(path), target)
    return Session(os.path.join(target, "object.sqlite"), ManualTime(1_050_000))


def test_a_flipped_bit_is_noticed_and_never_served(
    built: tuple[str, dict[str, str]], tmp_path: pathlib.Path
) -> None:
    path, bookmarks = built
    history = pathlib.Path(path + "-history")
    files = sorted(
        p for p in history.rglob("*") if p.is_file() and p.suffix in (".segment", ".snapshot")
    )
    assert len(files) > 3
    chance = random.Random(11)
    lost = 0
    for number in range(FLIPS):
        file = chance.choice(files)
        whole = file.read_bytes()
        at = chance.randrange(len(whole))
        broken = bytearray(whole)
        broken[at] ^= 1 << chance.randrange(8)
        file.write_bytes(broken)
        target = str(tmp_path / f"flip{number}")
        try:
            session = _damaged(path, target)
            verification = session.log.verify()
            wrong = []
            for bookmark, expected in bookmarks.items():
                try:
                    if session.exported(bookmark) != expected:
                        wrong.append(bookmark)
                except BookmarkError:
                    lost += 1
            where = f"bit at {at} of {file.name}"
            assert not wrong, f"{where}: {wrong} lead elsewhere"
            assert session.content() == list(bookmarks.values())[-1], f"{where}: the object changed"
            assert not verification.sound, f"{where}: not noticed"
            session.close()
        finally:
            file.write_bytes(whole)
            shutil.rmtree(target, ignore_errors=True)
    assert lost


@given(text=st.one_of(st.text(max_size=70), st.from_regex(r"[0-9a-f]{8}(-[0-9a-f]{8}){2}-[0-9a-f]{32}", fullmatch=True)))  # fmt: skip
def test_any_text_that_was_not_given_out_is_no_bookmark(text: str) -> None:
    with pytest.raises(BookmarkError):
        parse_bookmark(OBJECT_ID, text)


@pytest.mark.parametrize("text", BOOKMARKS, ids=ascii)
def test_no_text_of_the_corpus_is_a_bookmark(text: str) -> None:
    with pytest.raises(BookmarkError):
        parse_bookmark(OBJECT_ID, text)


numbers = st.integers(0, 2**32 - 1)


@given(parts=st.tuples(numbers, numbers, numbers), other=st.tuples(numbers, numbers, numbers))
def test_bookmarks_come_back_compare_as_their_positions_and_are_of_one_object(
    parts: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    position, second = Position(*parts), Position(*other)
    bookmark = format_bookmark(OBJECT_ID, position)
    assert parse_bookmark(OBJECT_ID, bookmark) == position
    if position != second:
        assert (bookmark < format_bookmark(OBJECT_ID, second)) == (position < second)
    with pytest.raises(BookmarkError, match="another object"):
        parse_bookmark(b"x" * 16, bookmark)
    with pytest.raises(BookmarkError):
        parse_bookmark(OBJECT_ID, bookmark.upper() if bookmark.upper() != bookmark else "")


@given(at=st.integers(0, 58), digit=st.sampled_from("0123456789abcdef-xA "))
def test_a_bookmark_with_one_wrong_character_is_refused(at: int, digit: str) -> None:
    bookmark = format_bookmark(OBJECT_ID, BEGINNING)
    wrong = bookmark[:at] + digit + bookmark[at + 1 :]
    if wrong != bookmark:
        with pytest.raises(BookmarkError):
            parse_bookmark(OBJECT_ID, wrong)


@pytest.mark.parametrize("value", [None, 1, b"0", ["x"]])
def test_what_is_no_text_is_no_bookmark(value: object) -> None:
    with pytest.raises(ArgumentTypeError):
        parse_bookmark(OBJECT_ID, value)  # type: ignore[arg-type] - refusing it is the point
