"""``history``: an object's timeline, its verification, going back, and files of old moments."""

from __future__ import annotations

import os
import shlex
from typing import Any

from ..errors import BookmarkError
from ..history import CommitLog, TimelineEntry, Verification
from ..history.verify import verify
from .alarms import indexed_alarm
from .copies import install, make_plain
from .directory import Directory, StoredObject, owned
from .failures import FAILED, Failure
from .logs import (
    KEEP_ALL,
    View,
    commit_ms,
    commits_in_wal,
    moments,
    no_history,
    note_restored,
    now_ms,
    read_only,
    viewed,
)
from .output import Facts, Line, Output, Table
from .values import counted, parse_moment, size, time_text

__all__ = [
    "check_target",
    "export_moment",
    "restore",
    "show_timeline",
    "verification_data",
    "verify_history",
]


def show_timeline(
    directory: Directory,
    out: Output,
    namespace: str,
    name_or_id: str,
    *,
    limit: int | None,
    every_moment: bool,
) -> None:
    """Show the commits of an object, those that were archived together on one line.

    Args:
        directory: where it is.
        out: where the result goes.
        namespace: whose object.
        name_or_id: which object.
        limit: only the last so many lines.
        every_moment: a line for each moment that was recorded, without what it takes.
    """
    stored = directory.find(namespace, name_or_id)
    with viewed(stored) as view:
        use = view.log.disk_use()
        entries = list(view.log.timeline())
        if every_moment and view.reader is not None:
            moments_found = moments(view.reader)
            entries = [TimelineEntry(*each, 0, 0) for each in moments_found]
    shown = entries if limit is None else entries[max(0, len(entries) - limit) :]
    lines: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    for each in shown:
        bookmark = each.bookmark if view.named else None
        lines.append({"time_ms": each.time_ms, "bookmark": bookmark})
        rows.append([time_text(each.time_ms), bookmark or "(not archived yet)"])
        if not every_moment:
            lines[-1] |= {"commits": each.commits, "bytes": each.bytes}
            rows[-1] += [str(each.commits), size(each.bytes)]
    title = f"{stored.label}, {counted(len(entries), 'moment')}"
    if not every_moment:
        title = f"{stored.label}, {counted(sum(each.commits for each in entries), 'commit')}"
    if len(shown) < len(entries):
        title += f", the last {len(shown)} of {len(entries)} lines"
    columns = ("time", "bookmark") if every_moment else ("time", "bookmark", "commits", "size")
    out.result(
        {
            "namespace": stored.namespace.name,
            "id": stored.id,
            "name": stored.name,
            "timeline": lines,
            "log_bytes": use.log_bytes,
            "snapshot_bytes": use.snapshot_bytes,
        },
        Table(title, columns, rows, right=("commits", "size")),
    )


def verify_history(directory: Directory, out: Output, namespace: str, name_or_id: str) -> int:
    """Check every hash of an object's history; the exit code."""
    stored = directory.find(namespace, name_or_id)
    reader = read_only(stored)
    if reader is None:
        found = Verification(0, 0, 0, 0, (), ())
    else:
        with out.progress(f"verifying {stored.label}") as progress:
            found = verify(reader, progress)
    waiting = commits_in_wal(stored, reader)
    out.result(
        verification_data(found) | {"commits_in_wal": waiting},
        Facts(
            f"{stored.label}: {'sound' if found.sound else 'DAMAGED'}",
            [
                ("commits", str(found.commits)),
                *([("not archived yet", _in_wal(waiting))] if waiting else []),
                ("blocks", str(found.blocks)),
                ("snapshots", str(found.snapshots)),
                ("read", size(found.bytes)),
                *(("damage", each) for each in found.damages),
                *(("restorable", f"{first} to {last}") for first, last in found.restorable),
            ],
        ),
    )
    return 0 if found.sound else FAILED


def _in_wal(commits: int) -> str:
    return f"{counted(commits, 'commit')} in the WAL, which SQLite checks when it reads it"


def verification_data(found: Verification) -> dict[str, Any]:
    """A verification as JSON."""
    return {
        "sound": found.sound,
        "blocks": found.blocks,
        "commits": found.commits,
        "snapshots": found.snapshots,
        "bytes": found.bytes,
        "damages": list(found.damages),
        "restorable": [list(each) for each in found.restorable],
    }


def _bookmark(log: CommitLog, moment: str) -> str:
    parsed = parse_moment(moment)
    return parsed if isinstance(parsed, str) else log.bookmark_for_time(parsed)


def check_target(file: str) -> str:
    """The path of a file that is to be made.

    Raises:
        Failure: it exists, or its folder does not.
    """
    if not file:
        raise Failure("the name of the file to write is empty")
    target = os.path.abspath(file)
    if os.path.lexists(target):
        raise Failure(f"{file} exists already; remove it, or name another file")
    if not os.path.isdir(os.path.dirname(target)):
        raise Failure(f"there is no folder {os.path.dirname(target)}")
    return target


def export_moment(
    directory: Directory, out: Output, namespace: str, name_or_id: str, file: str, at: str | None
) -> None:
    """Write a plain SQLite file of an object as of a moment, by default its last commit."""
    target = check_target(file)
    stored = directory.find(namespace, name_or_id)
    if at is not None:
        parse_moment(at)  # a mistake in it is told before anything is copied
    with viewed(stored) as view:
        bookmark = _bookmark(view.log, at) if at is not None else None
        try:
            view.log.export(target, bookmark)
        except BookmarkError:
            if bookmark is None:
                raise
            # The log is damaged; but pages that were not changed since need not come out of it.
            _restore_copy(view, bookmark)
            install(view.path, target)
    written = os.path.getsize(target)
    out.result(
        {"file": target, "bookmark": bookmark, "size_bytes": written},
        Line(f"wrote {file} ({size(written)})" + (f" as of {bookmark}" if bookmark else "")),
    )


def _restore_copy(view: View, bookmark: str) -> None:
    view.log.request_restore(bookmark)
    view.log.close()
    CommitLog.open(view.path, settings=KEEP_ALL, clock_ms=now_ms).close()
    make_plain(view.path)


def restore(
    path: str, out: Output, namespace: str, name_or_id: str, moment: str, *, yes: bool
) -> None:
    """Take an object back to a moment, after asking. The restore can be undone."""
    parse_moment(moment)
    with owned(path) as owner:
        directory = owner.directory
        stored = directory.find(namespace, name_or_id)
        if not stored.has_history:
            raise no_history(stored)
        with indexed_alarm(directory.registry, stored) as expect_restore:
            log = CommitLog.open(stored.path, settings=KEEP_ALL, clock_ms=now_ms)
            try:
                if log.restored:
                    note_restored(out, stored)
                bookmark = _bookmark(log, moment)
                if not yes:
                    out.confirm(
                        f"Restore {stored.label}, last written {time_text(_last_time(log))}, to "
                        f"{bookmark}{_made(stored, bookmark)}?",
                        "Nothing else was changed." if log.restored else "Nothing was changed.",
                    )
                expect_restore()
                undo = log.request_restore(bookmark)
            finally:
                log.close()
            CommitLog.open(stored.path, settings=KEEP_ALL, clock_ms=now_ms).close()
        alarm_ms = directory.registry.alarm_get(stored.namespace.number, stored.id)
    words = shlex.join([path, namespace, name_or_id])
    out.result(
        {"restored": bookmark, "undo": undo, "alarm_ms": alarm_ms},
        Line(f"{stored.label} is restored to {bookmark}."),
        Line(f"To undo it: python -m durable_storage history {words} restore --to {undo}"),
    )


def _last_time(log: CommitLog) -> int | None:
    times = [each.time_ms for each in log.timeline()]
    return times[-1] if times else None


def _made(stored: StoredObject, bookmark: str) -> str:
    made = commit_ms(stored, bookmark)
    return "" if made is None else f", written {time_text(made)}"
