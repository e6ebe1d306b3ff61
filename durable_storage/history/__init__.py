"""The commit log of one object: point-in-time recovery of every commit it kept.

Layers, lowest first: `bookmarks`, `wal` and `files` (words and bytes), `block`, `segment` and
`snapshot` (what is on disk), `image` and `reader` (going back), `archive`, `retention` and
`recovery` (going on), `commit_log` (the whole).
"""

from .commit_log import CommitLog
from .reader import DiskUse, TimelineEntry
from .recovery import RestoreGivenUpError, fold_what_is_left, is_at_rest
from .settings import History
from .verify import Verification

__all__ = [
    "CommitLog",
    "DiskUse",
    "History",
    "RestoreGivenUpError",
    "TimelineEntry",
    "Verification",
    "fold_what_is_left",
    "is_at_rest",
]
