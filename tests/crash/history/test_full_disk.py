"""A disk that refuses what the log wants: the object goes on, and history loses nothing."""

from __future__ import annotations

import errno
import os
import random
import shutil

import pytest

from durable_storage import BookmarkError

from .test_crash import place  # noqa: F401 - a fixture
from .workload import Workload, check, shrink_constants


class FullDisk(Workload):
    """A workload on a disk that has no room for the log now and then."""

    failing = False
    refused = 0

    def _point(self, number: int, operation: str, path: str) -> None:
        super()._point(number, operation, path)
        if self.failing and "-history" in path and self.chance.random() < 0.3:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def _step(self) -> None:
        # What must tell its caller whether it happened is left alone.
        self.failing = self.chance.random() < 0.5
        try:
            kind = self.chance.random()
            if kind < 0.5:
                self._commit()
            elif kind < 0.7:
                self._confirm()
            elif kind < 0.9:
                self._fold()
            else:
                self._reopen()
        finally:
            self.failing = False
        if self.chance.random() < 0.4:
            super()._step()

    def _bookmark(self) -> None:
        try:
            super()._bookmark()
        except BookmarkError:
            assert self.session is not None
            assert self.session.log.gap

    def _restore(self) -> None:
        try:
            super()._restore()
        except BookmarkError:
            assert self.session is not None
            assert self.session.log.gap
            self.known.attempted = None

    def _reopen(self) -> None:
        assert self.session is not None
        generation = f"-{self.session.log._generation:08x}-"
        try:
            self._close()
        except OSError:
            self._acknowledge()
        if self.failing:
            # Closed while the log has no room: the next open finds the state, as one commit.
            for bookmark in [item for item in self.known.bookmarks if generation in item]:
                del self.known.bookmarks[bookmark]
        while True:
            try:
                self._open()
            except OSError:
                self.failing = False
                continue
            return


@pytest.mark.parametrize("seed", range(40))
def test_a_disk_that_is_full_now_and_then_costs_no_commit_and_no_bookmark(
    place: str,  # noqa: F811
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shrink_constants(monkeypatch)
    root = os.path.join(place, "live")
    os.mkdir(root)
    workload = FullDisk(root, seed)
    workload.run(monkeypatch, 80)
    assert workload.refused > 5
    copy = os.path.join(place, "copy")
    shutil.copytree(root, copy)
    for path in ("object.sqlite",):  # a copy is recognised by its times
        status = os.stat(os.path.join(root, path))
        os.utime(os.path.join(copy, path), ns=(status.st_atime_ns, status.st_mtime_ns))
    check(copy, workload.known, power=False, chance=random.Random(seed))
