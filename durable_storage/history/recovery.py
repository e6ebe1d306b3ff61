"""Before SQLite opens the file: bring the log and the file together, and do a pending restore.

Afterwards there is no WAL, the database file is exactly the log's last commit, and ``base`` says
so. The ways to get there, cheapest first:

1. ``base`` still holds and there is no WAL: nothing to do.
2. The WAL is *explained*: it is known to go on from the log's last commit. Its commits are
   archived, then SQLite folds it.
3. Anything else (a foreign process, lost metadata, damage): the file is compared with what the
   log says it should be, and the difference is logged as one commit, in an epoch of its own so
   that no bookmark can come to name it by accident. Always right, and as slow as the file is
   large.

Every step may be cut short by a crash and is then done again. A disk that is too full for the log
does not keep the file from being opened: what is left to do is then told to the log (`Unlogged`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sqlite3
from array import array
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, final

from ..database.create import FIRST_PAGE
from ..database.soundness import check_file, check_version
from ..database.sqlerrors import primary_code
from ..errors import BookmarkError, DatabaseFileError
from .archive import archive_frames
from .block import Flags, encode
from .files import Files
from .image import Difference, Image, compare, difference_slices, page_size_of, pages_of
from .layout import Base, Intent, Layout, pack_identity, read_base, read_intent, read_times
from .pipeline import ahead
from .reader import HistoryReader
from .wal import HEADER_SIZE, WalHeader, parse_header

__all__ = [
    "Recovery",
    "RestoreGivenUpError",
    "Unlogged",
    "fold_what_is_left",
    "is_at_rest",
    "sync_file",
    "write_base",
]

SMALL_BYTES: Final = 256 * 1024

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class RestoreGivenUpError(OSError):
    """There was no room for a restore; the object is as it was."""


@final
@dataclass(frozen=True, slots=True)
class Unlogged:
    """A live WAL that the log has a part of, or none; what it goes on from is known."""

    salts: bytes
    generation: int
    archived: int
    """The last frame in the log."""


@final
class Recovery:
    """One opening of one object's history.

    Args:
        prepare: makes the directories and the identity, durably, before the first write.

    Attributes:
        was_closed: the last session closed everything, and there is nothing to do.
        restored: a restore was pending, and is done.
        is_short_of_room: the disk was too full for the log, and the file may be opened as it is.
        is_logged: even so, the file is the log's last commit; only ``base`` does not say so.
        unlogged: the WAL that is still to be archived, if that can be done while it goes on.
    """

    def __init__(
        self,
        reader: HistoryReader,
        files: Files,
        clock_ms: Callable[[], int],
        prepare: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._layout = reader.layout
        self._log = reader.log
        self._files = files
        self._clock_ms = clock_ms
        self._prepare = prepare
        self._restoring = False
        self._base: Base | None = None
        self.was_closed: bool = False
        self.restored: bool = False
        self.is_short_of_room: bool = False
        self.is_logged: bool = False
        self.unlogged: Unlogged | None = None

    def run(self) -> None:
        """Do all of it.

        Raises:
            DatabaseFileError: the file is no database, is damaged or of another version, or another
                process has it open.
            BookmarkError: a restore that was asked for cannot be done; it is given up, and the
                next open finds the object as it is.
            OSError: the disk refused. If it has no room for a restore, that is given up too;
                unless it is in the log already, then the next open finishes it.
        """
        base = self._base = read_base(self._layout.base)
        intent = read_intent(self._layout.intent)
        found = base is not None and self._log.open_at(base.number, base.segment, base.offset)
        self.was_closed = intent is None and found and self._is_idle() and self._base_holds()
        if intent is None and not self.was_closed:
            check_file(self._layout.database)
        if not found:
            self._log.recover(durable=base.number if base is not None else 0)
            if base is not None and self._log.head is None:
                self._begin_anew(intent)
        # After a crash in a restore the file may be anything: its content was not yet durable.
        logged = intent is not None and self._is_logged(intent)
        if not logged:
            if intent is not None:
                check_file(self._layout.database)
            with self._short_of_room(intent):
                self._settle()
        if intent is not None:
            with self._short_of_room(intent):
                self._restore(intent, logged=logged)
            self._clear_intent()
            self.restored = True
        if not self.was_closed:
            self._clear_scratch()

    def _clear_scratch(self) -> None:
        """Remove what a process that died half-way left of files that it needed for a while."""
        layout = self._layout
        for path in (layout.image, layout.new_journal, layout.snapshot_image):
            if os.path.exists(path):
                self._files.unlink(path)

    def _begin_anew(self, intent: Intent | None) -> None:
        """Take another id, because the whole log is lost: its positions will be used again."""
        lost = None if intent is None else self._reader.bookmark(intent.position)
        self._prepare()
        self._reader.rename(secrets.token_bytes(16))
        self._files.replace(self._layout.identity, pack_identity(self._reader.object_id))
        self._files.unlink(self._layout.base)
        self._files.sync_directory(self._layout.directory)
        self._base = None
        if lost is not None:
            self._clear_intent()
            raise BookmarkError(f"{lost} cannot be restored: the history that it needs is missing")

    @contextlib.contextmanager
    def _short_of_room(self, intent: Intent | None) -> Generator[None]:
        """Let the file be opened although there is no room for the log, but never before a restore.

        That would undo what is written meanwhile, if it waited.
        """
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            if intent is None or (self._restoring and self.is_logged):
                self.is_short_of_room = True
                return
            state = "is in the log already, and is finished once there is"
            kind = OSError
            if not self._is_logged(intent):
                self._clear_intent()
                state = "is given up, the object is as it was and can be opened"
                kind = RestoreGivenUpError
            bookmark = self._reader.bookmark(intent.position)
            message = f"{os.strerror(error.errno)}: no room to restore {bookmark}, which {state}"
            raise kind(error.errno, message, error.filename) from error

    # -- the file as it is

    def _settle(self) -> None:
        database, log = self._layout.database, self._log
        held = self._archive_held_wal()
        if _size(database) == 0:
            if log.head is not None:
                self._log_missing_file()
            return
        idle = self._is_idle()
        base_holds = self._base_holds()
        if idle and base_holds and not held:
            return
        page_size = _page_size(database)
        if not page_size or (idle and log.head is None and _is_new(database)):
            return  # whether it is a database at all, opening it will tell
        explained = self._fold(base_holds, log.head is None and _size(database) <= page_size)
        if not explained or held or (log.head is None and not _is_new(database)):
            self._log_file(database, Flags.OUTSIDE if log.head is not None else Flags.IMPORT)
        self.is_logged = self._log.head is not None
        self._finish()

    def _is_idle(self) -> bool:
        return _size(self._layout.wal) == 0 and _size(self._layout.journal) == 0

    def _base_holds(self) -> bool:
        base = self._base
        return (
            base is not None
            and base.position == self._log.position
            and base.matches(self._layout.database)
        )

    def _after(self, header: WalHeader, fresh: bool) -> tuple[int, int] | None:
        """Return the generation of a WAL and its last archived frame; None if it is a stranger."""
        log, base = self._log, self._base
        generation = log.position.generation
        if log.head is not None and log.head.block.salts == header.salts:
            return generation, log.position.frame
        follows = base is not None and (base.position, base.salts) == (log.position, header.salts)
        if follows or fresh:
            return generation + 1, 0
        return None

    def _fold(self, base_holds: bool, new: bool) -> bool:
        """Archive the WAL if it is explained, and fold it; false if it is not."""
        header = None
        after = None
        descriptor = -1
        if _size(self._layout.wal) >= HEADER_SIZE:
            descriptor = os.open(self._layout.wal, os.O_RDONLY | os.O_CLOEXEC)
            header = parse_header(os.pread(descriptor, HEADER_SIZE, 0))
        try:
            after = self._after(header, base_holds or new) if header is not None else None
            self._prepare()
            if _size(self._layout.wal):
                self._layout.hold_wal(self._files)
            connection = _connect(self._layout.database)
            try:
                check_version(connection, self._layout.database)
                # SQLite decides how many frames count. A passive checkpoint leaves them in place.
                committed, folded = _checkpoint(connection)
                if committed != folded:
                    raise _in_use(self._layout.database)
                explained = header is None and (base_holds or new)
                if header is not None and committed <= 0:
                    # No commit ever reached the disk in it.
                    explained = base_holds or new or (after is not None and after[1] == 0)
                elif header is not None and after is not None and after[1] <= committed:
                    self._archive(descriptor, header, after, committed)
                    explained = True
            except sqlite3.Error as error:
                if primary_code(error) == sqlite3.SQLITE_FULL:
                    raise OSError(errno.ENOSPC, str(error), self._layout.database) from error
                raise DatabaseFileError(
                    f"{self._layout.database} cannot be opened: {error}"
                ) from error
            finally:
                connection.close()
            return explained
        except (OSError, DatabaseFileError):
            if header is not None and after is not None:
                self._leave_wal(descriptor, header, after)
            raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _leave_wal(self, descriptor: int, header: WalHeader, after: tuple[int, int]) -> None:
        """Put the WAL back that could not be archived; it may go on, and is archived later."""
        # SQLite has folded it, so that nothing changes when it is read once more.
        if not os.path.exists(self._layout.wal):
            with contextlib.suppress(OSError):
                self._files.link(self._layout.held_wal, self._layout.wal)
        if os.path.exists(self._layout.wal) and header.last_sound_commit(descriptor) >= after[1]:
            self.unlogged = Unlogged(header.salts, *after)

    def _archive(
        self, descriptor: int, header: WalHeader, after: tuple[int, int], committed: int
    ) -> None:
        generation, frame = after
        if committed > frame:
            modified_ms = os.fstat(descriptor).st_mtime_ns // 1_000_000
            archive_frames(
                self._log,
                descriptor,
                header,
                epoch=self._log.position.epoch,
                generation=generation,
                after=frame,
                upto=committed,
                times=read_times(self._layout.times, header.salts),
                now_ms=min(modified_ms, self._clock_ms()),
            )
        self._log.sync()

    def _archive_held_wal(self) -> bool:
        """Archive the WAL of a connection that was closed behind our back; true if there is one."""
        layout = self._layout
        if not layout.released_wal():
            return False
        self._prepare()
        descriptor = os.open(layout.held_wal, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = parse_header(os.pread(descriptor, HEADER_SIZE, 0))
            # It was linked by the session that followed base, unless base knows a later one.
            base = self._base
            follows = base is None or (base.position == self._log.position and not base.salts)
            after = self._after(header, follows) if header is not None else None
            if header is None or after is None:
                return False
            committed = header.last_sound_commit(descriptor)
            if committed < after[1]:
                return False
            self._archive(descriptor, header, after, committed)
            return True
        finally:
            os.close(descriptor)

    # -- the file differs

    def _log_missing_file(self) -> None:
        """Log that the file is gone, and put an empty database in its place."""
        image = Image(self._layout.image, self._files)
        image.begin_empty()
        image.close()
        self._log_file(image.path, Flags.OUTSIDE)
        self._put_in_place(image)

    def _log_file(self, path: str, flags: int) -> None:
        """Log what a file has and the log has not as one commit."""
        log = self._log
        old = Image(self._layout.snapshot_image, self._files)
        try:
            if log.end_is_lost:
                old.begin(old.page_size, 0)  # begin anew with every page
            elif log.head is not None:
                try:
                    self._reader.materialize(self._reader.find(log.position), old)
                except BookmarkError:
                    old.begin(old.page_size, 0)  # damaged: as well
            difference = compare(old.path, path)
            if difference is not None:
                epoch = log.position.epoch + (log.head is not None)
                self._log_change(difference, path, flags, epoch)
        finally:
            old.remove()

    def _log_change(self, difference: Difference, path: str, flags: int, epoch: int) -> None:
        log = self._log
        with open(path, "rb", buffering=0) as file:
            time_ms = max(self._clock_ms(), log.last_time)
            slices = difference_slices(
                difference, file.fileno(), time_ms, flags, hurried=bool(flags & Flags.RESTORE)
            )
            log.append(ahead(encode, slices), epoch=epoch, generation=log.position.generation + 1)
        log.sync()

    # -- restore

    def _is_logged(self, intent: Intent) -> bool:
        head = self._log.head
        return (
            head is not None
            and head.block.number > intent.number
            and bool(head.block.flags & Flags.RESTORE)
        )

    def _restore(self, intent: Intent, *, logged: bool) -> None:
        """Log what the restore changes, and have SQLite change it in the file."""
        layout, log, reader = self._layout, self._log, self._reader
        self._restoring, self.is_logged = True, False
        now = layout.database if _size(layout.database) else os.devnull
        interrupted = _is_hot(layout.journal)
        image = Image(layout.image, self._files)
        try:
            if now != os.devnull:
                _refuse_sharing(now)
            seen = _status(now)
            if logged:
                changed = self._redo(now, image, interrupted=interrupted)
            else:
                changed = reader.rewind(now, reader.find(intent.position), image)
            difference = _difference(now, image, changed)
            image.write_journal(layout.new_journal, difference.pages)
            if not logged:
                with self._room_to_grow(image.pages * image.page_size - _size(now)):
                    self._keep_what_the_log_lacks(now, changed, image.pages)
                    self._log_change(difference, image.path, Flags.RESTORE, log.position.epoch + 1)
            if _status(now) != seen:
                raise _in_use(now)
            if now == os.devnull:
                self._put_in_place(image)
            else:
                self._play_back(layout.new_journal)
        except BookmarkError:
            self._clear_intent()
            raise
        finally:
            image.remove()

    def _redo(self, now: str, image: Image, *, interrupted: bool) -> bytes | None:
        """Put a restore that is in the log already into an image; return as `rewind` does.

        While its journal is there, nobody else can have written to the file. Otherwise somebody
        may have, between the crash and now, and only the whole is sure to be right.
        """
        if not interrupted or now == os.devnull:
            try:
                self._reader.materialize(self._reader.find(self._log.position), image)
            except BookmarkError:
                if now == os.devnull:
                    raise
            else:
                return None
        return self._reader.last_commit(now, image)

    def _keep_what_the_log_lacks(self, now: str, changed: bytes | None, pages: int) -> None:
        """Log the pages anew that a restore replaces, if the log is damaged where it has them.

        In the epoch that ends, of which the undo bookmark names the last commit.
        """
        lost = self._reader.lost_with(changed, pages)
        if lost is not None:
            kept = Difference(pages_of(lost, _page_size(now)), full=False)
            self._log_change(kept, now, Flags.OUTSIDE, self._log.position.epoch)

    @contextlib.contextmanager
    def _room_to_grow(self, size: int) -> Generator[None]:
        """Make sure that the disk has room for a larger file, before the log says that it is one.

        Until then a full disk leaves the object as it is; later it would keep it from being opened.
        """
        path = self._layout.snapshot_image
        descriptor = self._files.scratch(path)
        try:
            if size > 0 and hasattr(os, "posix_fallocate"):
                self._files.announce("write", path)
                os.posix_fallocate(descriptor, 0, size)
            yield
        finally:
            os.close(descriptor)
            os.unlink(path)

    def _put_in_place(self, image: Image) -> None:
        self._remove_logs_of_sqlite()
        # Neither that nor the content need be durable before the new name: until _finish has synced
        # the file, the next open does all of this again.
        self._files.rename(image.path, self._layout.database)
        self._finish()

    def _play_back(self, journal: str) -> None:
        """Have SQLite put the pages of a journal into the file.

        After a crash in between, whoever opens the file has SQLite do that first. Should a loss of
        power have taken the journal, the next open makes it again, out of the log.
        """
        layout, files = self._layout, self._files
        self._remove_logs_of_sqlite()
        files.rename(journal, layout.journal, durably=False)
        _connect(layout.database).close()
        # It would be played back once more, over what comes after.
        files.unlink(layout.journal)
        files.sync_directory(os.path.dirname(layout.database))
        self._finish()

    def _remove_logs_of_sqlite(self) -> None:
        # Next to another content they would be taken for its own. All of the WAL is in the log.
        for path in (self._layout.wal, self._layout.wal[:-3] + "shm", self._layout.journal):
            self._files.unlink(path)

    def _clear_intent(self) -> None:
        self._files.unlink(self._layout.intent)
        self._files.sync_directory(self._layout.directory)

    def _finish(self) -> None:
        """Record that the file is the log's last commit, and forget what led there."""
        # In this order: a WAL that is still held is taken to be the one that followed base.
        self._files.unlink(self._layout.times)
        self._files.unlink(self._layout.held_wal)
        if self._log.head is not None:
            status = sync_file(self._reader, self._files)
            self.is_logged = True
            write_base(self._reader, self._files, status)


def is_at_rest(path: str, *, history: bool) -> bool:
    """Whether a file is new, or as the last session closed it: then it can be opened at once.

    What takes no time, as comparing a small file, does not count.
    """
    layout = Layout(os.path.abspath(path))
    try:
        if _size(layout.wal) or _size(layout.journal) or os.path.exists(layout.intent):
            return False
        if not history:
            return True
        if os.path.exists(layout.held_wal):
            return False
        if _size(layout.database) <= SMALL_BYTES:
            return True
        base = read_base(layout.base)
        return base is not None and base.matches(layout.database)
    except OSError:
        return False  # whoever prepares it is told why


def fold_what_is_left(path: str) -> None:
    """Fold the WAL of a process that is gone, if it can be; opening the file would read it all."""
    if os.path.exists(Layout(path).wal):
        with contextlib.suppress(DatabaseFileError, OSError):
            _connect(path).close()


def sync_file(reader: HistoryReader, files: Files) -> os.stat_result:
    """Make the database file durable, which must not be open, and return its status."""
    # The time of modification has to survive a power loss: the file is recognised by it.
    return files.sync_with_times(reader.layout.database)


def write_base(
    reader: HistoryReader, files: Files, status: os.stat_result, salts: bytes = b""
) -> None:
    """Durably record that the database file, without its WAL, is the log's last commit.

    ``status`` is that of the file, which is durable with its times. Or there are ``salts``, those
    of the WAL that goes on from there; without them the database must not be open.
    """
    layout, head = reader.layout, reader.log.durable_entry
    assert head is not None, "an empty log needs no base"
    if salts == head.block.salts:
        return  # the log has gone on into that WAL already, and says so itself
    base = Base(
        head.block.end,
        head.block.number,
        os.path.basename(head.segment),
        head.offset,
        status.st_size,
        status.st_mtime_ns,
        salts,
    )
    files.replace(layout.base, base.pack())


def _difference(now: str, image: Image, changed: bytes | None) -> Difference:
    """Return what a restore has to log: always something, because an epoch ends with it."""
    if changed is not None:
        return Difference(pages_of(changed, image.page_size), full=False)
    return compare(now, image.path) or Difference(array("I", [1]), full=False)


def _connect(path: str) -> sqlite3.Connection:
    """Return a connection that has read the WAL, and leaves none behind when it is closed."""
    try:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    except sqlite3.Error as error:
        raise DatabaseFileError(f"{path} cannot be opened: {error}") from error
    try:
        for pragma in ("locking_mode=EXCLUSIVE", "wal_autocheckpoint=0", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise DatabaseFileError(f"{path} cannot be put into WAL mode")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if error.sqlite_errorname in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            raise _in_use(path) from error
        if primary_code(error) == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, str(error), path) from error
        raise DatabaseFileError(f"{path} cannot be opened: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _is_hot(journal: str) -> bool:
    """Whether SQLite would play a rollback journal back."""
    try:
        with open(journal, "rb", buffering=0) as file:
            return file.read(1) not in (b"", b"\0")
    except FileNotFoundError:
        return False


def _refuse_sharing(path: str) -> None:
    """Refuse a file that is open elsewhere, before anything is changed."""
    try:
        _connect(path).close()
    except DatabaseFileError as error:
        # What is damaged may be what the restore is for.
        if isinstance(error.__cause__, sqlite3.OperationalError):
            raise


def _checkpoint(connection: sqlite3.Connection) -> tuple[int, int]:
    """Fold the WAL and return how many frames were committed to it, and how many are folded."""
    _, committed, folded = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return committed, folded


def _in_use(path: str) -> DatabaseFileError:
    return DatabaseFileError(
        f"{path} is open already, in this process or another; close it there first"
    )


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _status(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _page_size(path: str) -> int:
    with open(path, "rb", buffering=0) as file:
        return page_size_of(file.fileno())


def _is_new(path: str) -> bool:
    """Whether the file is still the one page that it was created as, or what a crash left of it."""
    with open(path, "rb", buffering=0) as file:
        content = file.read(len(FIRST_PAGE) + 1)
    return len(content) <= len(FIRST_PAGE) and FIRST_PAGE.startswith(content.rstrip(b"\0"))
