"""One object's SQLite file: synchronous, and the only place that knows ``sqlite3``."""

from __future__ import annotations

from .connection import Database
from .cursor import SqlStorageCursor
from .faults import Faults
from .kv import MISSING, Missing, Stored

__all__ = ["MISSING", "Database", "Faults", "Missing", "SqlStorageCursor", "Stored"]
