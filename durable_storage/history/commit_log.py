"""The commit log of one object: every commit stays restorable for as long as is promised.

Model: the database's WAL is the newest part of the log. It restarts only when we fold it, and we
fold it only when all of it is archived, that is copied into segments. A commit's `Position` is
the generation of the WAL, counted from the first, and its last frame there.

Invariants:
- Frames up to ``_archived`` are in the log; frames up to ``_committed`` are commits. What is
  behind may be anything (see `wal`).
- The WAL restarts only while nothing committed is missing in the log. If it does otherwise there
  is a gap: nothing is archived any more, and the next open compares the file with the log.
- ``base`` always names the state from which the live WAL goes on, or is recognisably out of date.

Threads: the owner of the connection calls `current_bookmark` and, with nobody else using the
connection, `archive`, `checkpointed` and `close`. `confirmed` comes from a thread that confirms,
and archiving ahead runs in a thread of ours; both may be concurrent with commits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import threading
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from typing import Final, Protocol, final

from ..database.faults import Faults
from ..errors import ArgumentTypeError, BookmarkError
from .archive import archive_frames
from .background import Background, start_in_background
from .block import CommitTime
from .bookmarks import BEGINNING, Position, moment
from .files import Files
from .layout import Intent, Layout, pack_identity, pack_time, read_identity, read_times
from .reader import DiskUse, HistoryReader, TimelineEntry
from .recovery import Recovery, Unlogged, sync_file, write_base
from .retention import make_snapshot, may_want_maintenance, prune, wants_snapshot
from .segment import SegmentLog, find_object_id
from .settings import History
from .snapshot import Snapshots
from .verify import Verification, verify
from .wal import HEADER_SIZE, WalHeader, parse_header

__all__ = ["CommitLog"]

# Archive this many frames while commits go on, so that little is left for when they may not.
ARCHIVE_AHEAD_FRAMES: Final = 512
# So many mean that commits are made faster than they are archived.
LAGGING_FRAMES: Final = 1024
# So few are left to be archived while commits may not go on, unless this often was not enough.
CAUGHT_UP_FRAMES: Final = 192
CATCH_UP_TRIES: Final = 4
TIMES_WRITTEN_EVERY_MS: Final = 50
# A log that cannot be written (a full disk) holds up the folding of the WAL until it is so large.
WAL_SIZE_MAX_BYTES: Final = 256 * 1024**2
SEGMENTS_PER_RETENTION: Final = 8


class AttachedDatabase(Protocol):
    """What the log needs of the object's database."""

    @property
    def resting_at(self) -> int | None: ...

    def confirm(self) -> None: ...

    def close(self) -> None: ...


@final
class CommitLog:
    """The history of one object whose file is open, or about to be. Made by `open`.

    Attributes:
        closing: it is being closed, or was.
        restored: opening it has done a pending restore.
    """

    def __init__(
        self,
        reader: HistoryReader,
        files: Files,
        settings: History,
        clock_ms: Callable[[], int],
        faults: Faults | None,
    ) -> None:
        self._reader = reader
        self._layout = reader.layout
        self._log = reader.log
        self._files = files
        self._settings = settings
        self._clock_ms = clock_ms
        self._start: Background = start_in_background
        self._maintenance_files = Files(_Interruptible(self, faults))
        self._database: AttachedDatabase | None = None
        self.closing: bool = False
        self.restored: bool = False
        self._prepared = False
        # Held while that is done, by the first thread to need it.
        self._preparing = threading.Lock()
        self._restore_requested = False
        self._was_closed = False

        # Held for moments only: what is known of the WAL.
        self._lock = threading.Lock()
        self._wal = -1
        self._raw_header = b""
        self._header: WalHeader | None = None
        self._generation = 0
        self._committed = 0
        self._archived = 0
        # What confirming() saw last. While a COMMIT runs this may be a commit in the making, so
        # it bounds times and nothing else.
        self._seen = 0
        self._confirmed = 0
        # What is durable once the disk was asked: what was seen the time before, or all of it when
        # no COMMIT was running.
        self._settling = 0
        self._settled = 0
        self._times: list[CommitTime] = []
        self._last_time = 0
        self._times_file = -1
        self._written = 0
        self._write_times_at = 0
        # When the last commit was made, if `committing` is told of them.
        self._made_ms: int | None = None
        self._restarted = False
        self._gap = False
        # Since the log was last archived for a fold, a COMMIT may have been refused by the disk.
        self._doubtful = False
        # The WAL that was there already, of which recovery could not archive the rest.
        self._unlogged: Unlogged | None = None

        # Held while the log is appended to.
        self._archiving = threading.Lock()
        self._ahead = False
        # Held while base is written.
        self._recording = threading.Lock()
        # Held while files are removed or snapshots made.
        self._maintaining = threading.Lock()

    # -- opening

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        settings: History,
        clock_ms: Callable[[], int],
        faults: Faults | None = None,
    ) -> CommitLog:
        """Bring history and file together before the file is opened, and do a pending restore.

        After a crash it archives what the WAL holds; a file that the log does not explain is
        compared with it, and the difference becomes one commit. On a full disk all that has to
        wait, and the file may be opened nevertheless.

        Raises:
            DatabaseFileError: the file is no database, or another process has it open.
            BookmarkError: a restore that was asked for cannot be done. It is given up: the next
                open succeeds with the object as it is.
            OSError: the disk refused. If it has no room for a restore, that is given up as well,
                unless it is in the log already: then the next open finishes it.
        """
        files = Files(faults)
        layout = Layout(os.path.abspath(path))
        reader = _reader(layout, files, settings)
        log = cls(reader, files, settings, clock_ms, faults)
        recovery = Recovery(reader, files, clock_ms, log._prepare)
        try:
            recovery.run()
        except BaseException:
            reader.log.close()
            raise
        log._last_time = log._log.last_time
        log._was_closed = recovery.was_closed
        log.restored = recovery.restored
        if recovery.is_short_of_room:
            log._unlogged = recovery.unlogged
            log._restarted = recovery.is_logged
            log._gap = recovery.unlogged is None and not recovery.is_logged
        return log

    @classmethod
    def finish_restore(
        cls,
        path: str | os.PathLike[str],
        *,
        settings: History,
        clock_ms: Callable[[], int],
        faults: Faults | None = None,
    ) -> bool:
        """Do a pending restore of an object that is to be opened without history.

        If it waited until history is on again, it would undo what is written meanwhile.

        Returns:
            Whether there was one.

        Raises:
            DatabaseFileError: as `open`.
            BookmarkError: as `open`.
            OSError: as `open`.
        """
        if not os.path.exists(Layout(os.path.abspath(path)).intent):
            return False
        log = cls.open(path, settings=settings, clock_ms=clock_ms, faults=faults)
        log.close()
        return log.restored

    def attach(self, database: AttachedDatabase) -> None:
        """Take note of the database that is open now; the log closes it when it is closed."""
        self._database = database
        self._generation = self._log.position.generation
        # A session that writes little folds nothing, and maintains nothing. Not after a crash: then
        # the times of the last commits are a guess, and may seem older than they are.
        if self._was_closed and may_want_maintenance(
            self._reader, self._clock_ms() - self._settings.retention_ms
        ):
            self._start(self._maintain)

    def _prepare(self) -> None:
        """Make the directories and the identity durable, once in an object's life."""
        if self._prepared:
            return
        with self._preparing:
            if not self._prepared and not (
                os.path.isdir(self._layout.segments)
                and os.path.isdir(self._layout.snapshots)
                and read_identity(self._layout.identity) is not None
            ):
                self._layout.make_directories(self._files)
                self._files.replace(self._layout.identity, pack_identity(self._reader.object_id))
            self._prepared = True

    # -- observing the WAL; all with the lock held

    def _observe(self) -> None:
        """Note what was committed since the last time; no COMMIT is running."""
        header = self._look()
        if header is None:
            return
        found = header.last_commit(self._wal, self._committed)
        new = found > self._committed
        if new and self._doubtful and not header.is_complete(self._wal, found):
            # A COMMIT that the disk refused has left the head of its last frame behind.
            found = max(self._committed, header.last_sound_commit(self._wal))
        self._committed = self._seen = found
        self._note_time(self._clock_ms() if self._made_ms is None else self._made_ms)

    def _look(self) -> WalHeader | None:
        """Return the header of the WAL, of the generation that is there now."""
        if self._wal < 0:
            try:
                self._wal = os.open(self._layout.wal, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        raw = os.pread(self._wal, HEADER_SIZE, 0)
        if raw != self._raw_header:
            self._meet(raw)
        return self._header

    def _meet(self, raw: bytes) -> None:
        """Begin a generation if the WAL did."""
        header = parse_header(raw)
        if header is None:
            return  # being written
        if self._header is not None:
            if self._seen > self._archived:
                self._gap = True
            self._restarted = True
        self._raw_header = raw
        self._header = header
        self._generation += 1
        self._committed = self._archived = self._seen = self._confirmed = 0
        self._settling = self._settled = 0
        self._times = []
        self._written = 0
        unlogged, self._unlogged = self._unlogged, None
        if unlogged is not None:
            if unlogged.salts == header.salts:
                self._generation, self._archived = unlogged.generation, unlogged.archived
                self._times = [
                    item
                    for item in read_times(self._layout.times, header.salts)
                    if item[0] > self._archived
                ]
                self._written = self._times[-1][0] if self._times else 0
            else:
                self._gap = True

    def _note_time(self, time_ms: int) -> None:
        """Note when the commits up to the one seen last had been made, if there are new ones."""
        if self._seen <= (self._times[-1][0] if self._times else self._archived):
            return
        if time_ms > self._last_time or not self._times:
            self._last_time = max(time_ms, self._last_time)
            self._times.append((self._seen, self._last_time))
        else:
            self._times[-1] = (self._seen, self._last_time)
        # After a crash, what was not written is as old as the WAL.
        # Of a gap nothing is archived, but a WAL that was closed before may still be.
        if self._last_time >= self._write_times_at and not self._gap:
            self._write_times_at = self._last_time + TIMES_WRITTEN_EVERY_MS
            with contextlib.suppress(OSError):  # a full disk: later, with those of then
                self._write_times()

    def _write_times(self) -> None:
        if self._times_file < 0:
            self._files.make_directory(self._layout.directory)
            self._layout.hold_wal(self._files, durably=self._made_ms is None)
            self._times_file = self._files.append_to(self._layout.times)
        assert self._header is not None, "there are no times without a WAL"
        salts = self._header.salts
        start = bisect_right(self._times, self._written, key=lambda item: item[0])
        records = [pack_time(salts, *item) for item in self._times[start:]]
        self._files.append(self._times_file, self._layout.times, b"".join(records))
        self._written = self._times[-1][0]

    # -- the hooks

    def committing(self) -> None:
        """See when a commit is made; call it right before each, where none is confirmed.

        The commits before it are looked up once in a millisecond, when there is another one.
        """
        now_ms = self._clock_ms()
        if now_ms != self._made_ms:
            with self._lock:
                if self._made_ms is not None:
                    self._observe()
                self._made_ms = now_ms

    def confirming(self) -> None:
        """See which commits are about to be made durable; call it right before that.

        May run in any thread, also while commits are made.
        """
        database = self._database
        assert database is not None, "attach() comes first"
        with self._lock:
            before = database.resting_at
            header = self._header
            seen = header.last_commit(self._wal, self._seen) if header is not None else 0
            if seen > self._seen:
                self._seen = seen
            elif (header := self._look()) is not None:
                # Nothing was added, which is also what a WAL that has restarted looks like.
                self._seen = header.last_commit(self._wal, self._seen)
            is_quiet = before is not None and database.resting_at == before
            self._settling = self._seen if is_quiet else self._confirmed

    def confirmed(self, time_ms: int) -> None:
        """Record the time of the commits that were made durable; call it right after that."""
        with self._lock:
            self._note_time(time_ms)
            self._settled, self._confirmed = self._settling, self._seen
            restarted = self._restarted
            ahead = self._settled - self._archived >= ARCHIVE_AHEAD_FRAMES and not self._ahead
            self._ahead = self._ahead or ahead
        if restarted:
            self._record_restart()
        if ahead:
            self._start(self._archive_ahead)

    @property
    def seen_bytes(self) -> int:
        """How much of the WAL was in use when it was last confirmed."""
        return self._header.offset(self._seen + 1) if self._header is not None else 0

    def catch_up(self, done: Callable[[], object]) -> None:
        """Archive what is confirmed in the background, durably, then call ``done`` there.

        Less is left for `archive` then. May be called at any time, also of a log that was closed.
        """

        def work() -> None:
            try:
                # None is begun beside this, which archive() would have to wait for.
                self._ahead = True
                for _ in range(CATCH_UP_TRIES):
                    self._archive_settled()
                    if self._settled - self._archived < CAUGHT_UP_FRAMES:
                        break
                with self._archiving, self._undone_if_refused():
                    self._log.sync()
            finally:
                done()

        self._start(work)

    def _archive_ahead(self) -> None:
        try:
            self._archive_settled()
        finally:
            self._ahead = False

    def _archive_settled(self) -> None:
        with self._archiving:
            with self._lock:
                upto = self._settled
                source = self._wal, self._header
            with self._undone_if_refused():
                if self._is_commit(source, upto):
                    lagging = upto - self._archived >= LAGGING_FRAMES
                    self._archive(source, upto, hurried=lagging)

    @contextlib.contextmanager
    def _undone_if_refused(self) -> Generator[None, None, None]:
        """Leave a full disk for archive() to deal with; the log may have lost its last blocks."""
        try:
            yield
        except OSError:
            with self._lock:
                self._archived = self._archived_frame()

    def _is_commit(self, source: tuple[int, WalHeader | None], frame: int) -> bool:
        """Whether a frame that confirmed() saw is a commit, and not still in the making."""
        descriptor, header = source
        return (
            header is not None
            and frame > 0
            and header.is_commit(descriptor, frame)
            and header.is_complete(descriptor, frame)
        )

    def archive(self) -> bool:
        """Copy every commit of the WAL into the log, durably, so that the WAL can be folded.

        Nobody else may use the connection, from now until `checkpointed`.

        Returns:
            False if the log cannot be written now (a full disk): the WAL must not be folded, and
            nothing is lost. Once the WAL is very large, true nevertheless: history then has a
            gap, which the next open closes with one commit.

        Raises:
            OSError: the WAL itself cannot be synced.
        """
        with self._archiving:
            with self._lock:
                self._doubtful = True
                self._ahead = False
                self._observe()
                upto = self._committed
                source = self._wal, self._header
            if self._restarted:
                self._record_restart()
            if self._header is None or self._gap:
                return True
            # What the log holds must be in the WAL too, and before it is folded its name must be
            # durable: a WAL of an earlier session that reappears would be taken for it.
            assert self._database is not None, "attach() comes first"
            self._database.confirm()
            try:
                self._archive(source, upto, hurried=not self.closing)
                self._log.sync()
            except OSError:
                with self._lock:
                    self._archived = self._archived_frame()
                    if os.fstat(self._wal).st_size < WAL_SIZE_MAX_BYTES:
                        return False
                    self._gap = True
            return True

    def may_lag(self) -> bool:
        """Whether the WAL may be folded while `archive` runs, as long as it is not started anew.

        Nobody else may use the connection. Should `archive` fail then, the WAL must never be
        written again: the object is to be opened anew, which finds it under its second name.
        """
        with self._lock:
            # The log has to name the WAL, because base knows the database file as it is now.
            named = self._archived > 0 and self._log.durable.generation == self._generation
            unarchived = self.seen_bytes
        return (
            named
            and not self._gap
            and self._layout.holds_wal()
            # That opening is an outage; a full disk shall not be the cause.
            and shutil.disk_usage(self._layout.directory).free > 2 * unarchived
        )

    def _archive(
        self, source: tuple[int, WalHeader | None], upto: int, *, hurried: bool = False
    ) -> None:
        descriptor, header = source
        if header is None or upto <= self._archived or self._gap:
            return
        self._prepare()
        with self._lock:
            times = list(self._times)
        archive_frames(
            self._log,
            descriptor,
            header,
            epoch=self._log.position.epoch,
            generation=self._generation,
            after=self._archived,
            upto=upto,
            times=times,
            now_ms=max(self._clock_ms(), self._last_time),
            hurried=hurried,
        )
        with self._lock:
            self._archived = upto
            del self._times[: bisect_right(self._times, upto, key=lambda item: item[0])]

    def _archived_frame(self) -> int:
        position = self._log.position
        return position.frame if position.generation == self._generation else 0

    def checkpointed(self) -> None:
        """Take note that the WAL was folded and has restarted."""
        with self._lock:
            self._observe()
            self._doubtful = False
        self._start(self._record_restart_and_maintain)

    def _record_restart_and_maintain(self) -> None:
        # The next confirmation waits for it, and the next bookmark; commits need not.
        self._record_restart()
        self._maintain()

    def _record_restart(self) -> None:
        """Durably name the WAL that goes on from the log's last commit, before it matters."""
        with self._recording:
            header = self._header
            if not self._restarted or header is None:
                return
            with contextlib.suppress(OSError):  # a full disk: the next call tries again
                if self._gap:
                    self._files.unlink(self._layout.base)
                    self._files.sync_directory(self._layout.directory)
                else:
                    status = os.stat(self._layout.database)
                    write_base(self._reader, self._files, status, header.salts)
                self._restarted = False

    def close(self) -> None:
        """Archive everything, close the database, and leave a file that opens fast.

        Raises:
            OSError: the disk refused; the next open recovers.
        """
        if self.closing:
            return
        self.closing = True
        try:
            archived = self._database is not None and self.archive()
            if self._database is not None:
                self._database.close()
            if archived and not self._gap and not os.path.exists(self._layout.wal):
                self._leave()
        finally:
            self.abandon()

    def _leave(self) -> None:
        if self._log.head is None or self._header is None:
            return  # nothing was written
        self._files.unlink(self._layout.times)
        self._files.unlink(self._layout.held_wal)
        status = sync_file(self._reader, self._files)
        write_base(self._reader, self._files, status)

    def abandon(self) -> None:
        """Let go of everything at once, because the database broke; the next open recovers."""
        self.closing = True
        with self._maintaining, self._archiving, self._recording, self._lock:
            self._header = None
            self._log.close()
            for descriptor in (self._wal, self._times_file):
                if descriptor >= 0:
                    os.close(descriptor)
            self._wal = self._times_file = -1
        if self._database is not None:
            self._database.close()

    # -- bookmarks

    def current_bookmark(self) -> str:
        """Return the bookmark of the last COMMIT, which need not be confirmed yet.

        For the thread of the connection, while no transaction is open.

        Raises:
            BookmarkError: commits are not logged any more until the object is opened anew.
        """
        self._prepare()
        position = self._position()
        self._name_wal()
        return self._reader.bookmark(position)

    def _name_wal(self) -> None:
        """Have the WAL named durably that holds what a bookmark is about to name.

        Raises:
            BookmarkError: the disk refused, and after a crash the bookmark would name nothing.
        """
        self._record_restart()
        if self._restarted and not self._gap:
            raise BookmarkError(
                "the object's last commits have no bookmarks: there was no room to note which log "
                "they are in. Make room on the disk"
            )

    def _position(self) -> Position:
        with self._lock:
            self._observe()
            self._require_no_gap()
            if self._committed:
                return Position(self._log.position.epoch, self._generation, self._committed)
            return self._log.position

    def _require_no_gap(self) -> None:
        if self._gap:
            raise BookmarkError(
                "the object's last commits have no bookmarks: there was no room for them in its "
                "history. Make room on the disk, and let the object be opened anew"
            )

    def bookmark_for_time(self, time_ms: int) -> str:
        """Return the bookmark of the last commit at or before a time (ms since the epoch).

        Raises:
            ArgumentTypeError: the time is not an integer.
            BookmarkError: the time is before history begins, or in the future.
        """
        if not isinstance(time_ms, int) or isinstance(time_ms, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - callers
            raise ArgumentTypeError(f"a time is an int, got {type(time_ms).__name__}")
        now_ms = self._clock_ms()
        if time_ms > now_ms:
            raise BookmarkError(
                f"the time {moment(time_ms)} is in the future: it is {moment(now_ms)} now"
            )
        self._prepare()
        self._name_wal()
        with self._lock:
            self._observe()
            index = bisect_right(self._times, time_ms, key=lambda item: item[1])
            if index:
                self._require_no_gap()
                frame = self._times[index - 1][0]
                position = Position(self._log.position.epoch, self._generation, frame)
                return self._reader.bookmark(position)
            first = self._times[0][1] if self._times else now_ms
        if self._log.head is None:
            raise BookmarkError(
                f"the time {moment(time_ms)} is before this object's history begins, which is at "
                f"{moment(first)}"
            )
        return self._reader.bookmark(self._reader.at_time(time_ms).position)

    def request_restore(self, bookmark: str) -> str:
        """Have the next open restore a bookmark, and return the bookmark that undoes it.

        Durable when it returns. Another request replaces it. The undo bookmark names the last
        commit before the restore, also one that is still to come.

        Raises:
            BookmarkError: the bookmark cannot be restored; the message says what can be.
        """
        position = self._reader.parse(bookmark)
        current = self._position()
        if not self._is_live(position, current):
            self._reader.find(position)
        self._prepare()
        self._name_wal()
        self._restore_requested = True
        self._files.replace(self._layout.intent, Intent(position, self._log.number).pack())
        return self._reader.bookmark(Position.end_of(current.epoch))

    def _is_live(self, position: Position, current: Position) -> bool:
        """Whether a position names a commit that may not be archived yet."""
        if position == Position.end_of(current.epoch) or position == current != BEGINNING:
            return True
        with self._lock:
            return (
                self._header is not None
                and position[:2] == current[:2]
                and 0 < position.frame <= current.frame
                and self._header.is_commit(self._wal, position.frame)
            )

    # -- maintenance

    def _maintain(self) -> None:
        """Make a snapshot or drop old segments, when it is time; another fold tries again."""
        with contextlib.suppress(OSError, BookmarkError), self._maintaining:
            if self.closing or self._restore_requested:
                # Begun late, and the files may be another session's by now; or what is dropped
                # may be what the next session needs.
                return
            head = self._log.head
            if head is not None and wants_snapshot(self._reader):
                make_snapshot(self._reader, head, self._maintenance_files)
            self._prune(self._clock_ms(), self._maintenance_files)

    def prune(self, now_ms: int) -> int:
        """Drop what is older than the retention, and return the bytes freed.

        Raises:
            BookmarkError: the history that is kept needs something that is damaged.
            OSError: the disk refused.
        """
        with self._maintaining:
            return self._prune(now_ms, self._files)

    def _prune(self, now_ms: int, files: Files) -> int:
        return prune(self._reader, now_ms - self._settings.retention_ms, files)

    # -- looking at it

    def timeline(self) -> Iterator[TimelineEntry]:
        """Yield runs of commits, oldest first; the ones not archived yet come last."""
        yield from self._reader.timeline()
        with self._lock:
            self._observe()
            times = list(self._times)
            generation = self._generation
        for frame, time_ms in times:
            position = Position(self._log.position.epoch, generation, frame)
            yield TimelineEntry(time_ms, self._reader.bookmark(position), 1, 0)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> Verification:
        """Read the whole history and check every hash; what is in the WAL is SQLite's to check."""
        with self._maintaining:
            return verify(self._reader, progress)

    def export(self, destination: str | os.PathLike[str], bookmark: str | None = None) -> None:
        """Write a plain SQLite file of the database as of a bookmark, or of the last commit.

        Raises:
            BookmarkError: the bookmark cannot be had.
            OSError: the file cannot be written; nothing is left there.
        """
        self.archive()
        position = self._reader.parse(bookmark) if bookmark is not None else self._log.position
        with self._maintaining:
            target = self._reader.find(position)
            self._reader.export(os.path.abspath(destination), target, self._files)

    def disk_use(self) -> DiskUse:
        """Return how many bytes the history takes."""
        return self._reader.disk_use()

    @property
    def gap(self) -> bool:
        """Whether commits are not archived any more until the object is opened anew."""
        return self._gap


@final
class _Interruptible:
    """Fails the file operations of maintenance once the log is being closed."""

    def __init__(self, log: CommitLog, faults: Faults | None) -> None:
        self._log = log
        self._faults = faults

    def before(self, operation: str, path: str) -> None:
        if self._log.closing:
            raise OSError(errno.ECANCELED, "the log is being closed")
        if self._faults is not None:
            self._faults.before(operation, path)


def _reader(layout: Layout, files: Files, settings: History) -> HistoryReader:
    object_id = (
        read_identity(layout.identity) or find_object_id(layout.segments) or secrets.token_bytes(16)
    )
    log = SegmentLog(
        layout.segments,
        files,
        object_id=object_id,
        segment_size_bytes=settings.segment_size_bytes,
        segment_age_ms=max(1, settings.retention_ms // SEGMENTS_PER_RETENTION),
    )
    snapshots = Snapshots(layout.snapshots, files, object_id=object_id)
    return HistoryReader(layout, log, snapshots, object_id)
