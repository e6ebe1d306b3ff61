"""Cloudflare Durable Objects storage for Python, embedded in the application.

Subclass `DurableObject`, and every object gets a private SQLite database, runs one event at a
time, and never says anything to the outside that its disk does not hold.
"""

from .clock import Clock, SystemClock
from .database.cursor import SqlStorageCursor
from .errors import (
    ArgumentTypeError,
    ArgumentValueError,
    BookmarkError,
    ConcurrencyError,
    DatabaseFileError,
    DataCloneError,
    DurableStorageError,
    LimitExceededError,
    MigrationError,
    ObjectDead,
    ObjectResetError,
    OverloadedError,
    RuntimeInUseError,
    SqlError,
    TransactionError,
)
from .gates.outgoing import outgoing
from .history import History
from .ids import DurableObjectId
from .limits import Limits
from .object import DurableObject
from .runtime.migrations import Migration
from .runtime.namespace import DurableObjectNamespace
from .runtime.resident import AlarmInvocationInfo
from .runtime.runtime import Runtime
from .serializers import JsonSerializer, MsgpackSerializer, PickleSerializer, Serializer
from .state import DurableObjectState
from .storage.kv_backend import KvBackend, PartialDeleteError, SqliteKvBackend
from .storage.sql import SqlStorage
from .storage.storage import DurableObjectStorage
from .storage.sync_kv import SyncKvStorage
from .storage.transaction import DurableObjectTransaction

__version__ = "0.1.0"

__all__ = [
    "AlarmInvocationInfo",
    "ArgumentTypeError",
    "ArgumentValueError",
    "BookmarkError",
    "Clock",
    "ConcurrencyError",
    "DataCloneError",
    "DatabaseFileError",
    "DurableObject",
    "DurableObjectId",
    "DurableObjectNamespace",
    "DurableObjectState",
    "DurableObjectStorage",
    "DurableObjectTransaction",
    "DurableStorageError",
    "History",
    "JsonSerializer",
    "KvBackend",
    "LimitExceededError",
    "Limits",
    "Migration",
    "MigrationError",
    "MsgpackSerializer",
    "ObjectDead",
    "ObjectResetError",
    "OverloadedError",
    "PartialDeleteError",
    "PickleSerializer",
    "Runtime",
    "RuntimeInUseError",
    "Serializer",
    "SqlError",
    "SqlStorage",
    "SqlStorageCursor",
    "SqliteKvBackend",
    "SyncKvStorage",
    "SystemClock",
    "TransactionError",
    "__version__",
    "outgoing",
]
