"""A data directory as commands see it: its namespaces and objects, read without owning it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final, final

from ..errors import ArgumentValueError
from ..ids import id_from_name, id_from_string
from ..runtime.directory import DataDirectory
from ..runtime.registry import NamespaceRecord, Registry
from .copies import copied, working_on_copy
from .failures import Failure

__all__ = ["Directory", "Owned", "StoredObject", "opened", "owned"]

_ID: Final = re.compile(r"[0-9a-fA-F]{64}")
_FILE: Final = re.compile(r"([0-9a-f]{64})\.sqlite")
_JURISDICTIONS: Final = (None, "eu", "fedramp", "fedramp-high")


@final
@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object.

    Attributes:
        path: its file, which need not exist.
        created_ms: when it was first used; None if the registry does not know it.
        alarm_ms: when the registry will look at its alarm.
    """

    namespace: NamespaceRecord
    id: str
    name: str | None
    path: str
    created_ms: int | None
    alarm_ms: int | None

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.namespace.name} {self.name or self.id}"

    @property
    def has_history(self) -> bool:
        """Whether it keeps a log."""
        return os.path.isdir(self.path + "-history")


@final
class Directory:
    """See the module. Made by `opened` and `owned`.

    Attributes:
        path: the directory.
        registry: its registry, or a copy of it.
        running: whether a process seems to own it; for what is said, not for what is safe.
    """

    def __init__(self, path: str, registry: Registry, *, running: bool) -> None:
        self.path = path
        self.registry = registry
        self.running = running

    def namespaces(self) -> list[NamespaceRecord]:
        """Every namespace, oldest first."""
        return self.registry.namespaces()

    def namespace(self, name: str) -> NamespaceRecord:
        """The namespace of that name.

        Raises:
            Failure: there is none.
        """
        found = self.registry.find_namespace(name)
        if found is None:
            known = ", ".join(record.name for record in self.namespaces()) or "none"
            raise Failure(f"{self.path} has no namespace {name!r}; it has: {known}")
        return found

    def object_path(self, namespace: NamespaceRecord, object_id: str) -> str:
        """Where the file of an object is or would be."""
        folders = (self.path, namespace.folder, object_id[:2], object_id[2:4])
        return os.path.join(*folders, object_id + ".sqlite")

    def files(self, namespace: NamespaceRecord) -> Iterator[str]:
        """The ids of the objects that have a file, in order."""
        top = os.path.join(self.path, namespace.folder)
        for first in _entries(top):
            for second in _entries(os.path.join(top, first)):
                for name in _entries(os.path.join(top, first, second)):
                    found = _FILE.fullmatch(name)
                    if found is not None and name.startswith(first + second):
                        yield found[1]

    def objects(self, namespace: NamespaceRecord) -> Iterator[StoredObject]:
        """Every object that the registry knows or that has a file, in order of id."""
        files = iter(self.files(namespace))
        file = next(files, None)
        for record in self.registry.iterate_objects(namespace.number):
            while file is not None and file < record.id:
                yield self._object(namespace, file)
                file = next(files, None)
            if file == record.id:
                file = next(files, None)
            yield self._object(namespace, record.id)
        while file is not None:
            yield self._object(namespace, file)
            file = next(files, None)

    def _object(
        self, namespace: NamespaceRecord, object_id: str, name: str | None = None
    ) -> StoredObject:
        record = self.registry.object(namespace.number, object_id)
        return StoredObject(
            namespace,
            object_id,
            name if record is None or record.name is None else record.name,
            self.object_path(namespace, object_id),
            None if record is None else record.created_ms,
            self.registry.alarm_get(namespace.number, object_id),
        )

    def find(self, namespace_name: str, name_or_id: str) -> StoredObject:
        """The object of that name or id, which has a file.

        Raises:
            Failure: there is none.
        """
        namespace = self.namespace(namespace_name)
        if _ID.fullmatch(name_or_id):
            with contextlib.suppress(ArgumentValueError):
                digits = str(id_from_string(namespace.unique_key, name_or_id))
                if os.path.exists(self.object_path(namespace, digits)):
                    return self._object(namespace, digits)
        for jurisdiction in _JURISDICTIONS:
            digits = self.id_of(namespace, name_or_id, jurisdiction)
            if os.path.exists(self.object_path(namespace, digits)):
                return self._object(namespace, digits, name_or_id)
        raise Failure(
            f"the namespace {namespace.name!r} has no object {name_or_id!r}; "
            f"list them with: ls {self.path} {namespace.name}"
        )

    def id_of(self, namespace: NamespaceRecord, name: str, jurisdiction: str | None = None) -> str:
        """The id of the object of a name.

        Raises:
            Failure: no object can have that name.
        """
        try:
            return str(id_from_name(namespace.unique_key, name, jurisdiction))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - one of the known
        except ArgumentValueError as exc:
            raise Failure(str(exc)) from exc


@final
class Owned:
    """A directory that this process owns, so that it can write.

    Attributes:
        directory: the directory.
        lock: what holds it.
    """

    def __init__(self, directory: Directory, lock: DataDirectory) -> None:
        self.directory = directory
        self.lock = lock


@contextlib.contextmanager
def opened(path: str) -> Generator[Directory]:
    """Give a directory to read, through a copy of its registry.

    Raises:
        Failure: it is no data directory.
    """
    _check(path)
    owner = _running_owner(path)
    if owner == os.getpid():
        # Closing a file that is read here would drop the locks that SQLite holds on it.
        raise Failure(f"{path!r} is in use by this very process; look into it from another one")
    registry_path = os.path.join(path, "registry.sqlite")
    with copied(registry_path) as copy:
        with working_on_copy(registry_path):
            registry = Registry(copy)
        try:
            yield Directory(path, registry, running=owner is not None)
        finally:
            registry.close()


@contextlib.contextmanager
def owned(path: str, *, create: bool = False) -> Generator[Owned]:
    """Give a directory to write, which nobody else owns meanwhile.

    Args:
        path: the directory.
        create: make it if it is missing.

    Raises:
        Failure: it is no data directory.
        RuntimeInUseError: a runtime owns it.
    """
    if not create or os.path.exists(path):
        _check(path, may_be_empty=create)
    lock = DataDirectory(path)
    try:
        registry = Registry(lock.registry_path)
        try:
            yield Owned(Directory(path, registry, running=False), lock)
        finally:
            registry.close()
    finally:
        lock.release()


def _check(path: str, *, may_be_empty: bool = False) -> None:
    if not os.path.isdir(path):
        raise Failure(f"there is no directory {path!r}")
    if not os.path.exists(os.path.join(path, "registry.sqlite")):
        if may_be_empty and not os.listdir(path):
            return
        raise Failure(f"{path!r} is not a data directory: it has no registry.sqlite")


def _running_owner(path: str) -> int | None:
    """The pid of the process that seems to own a directory."""
    # Asked without locking, because a runtime that starts at that moment would be refused. The
    # owner writes its pid and erases it at its end.
    try:
        with open(os.path.join(path, "owner.lock"), "rb") as file:
            pid = int(file.read(32))
        os.kill(pid, 0)
    except PermissionError:
        return -1  # of another user
    except (OSError, ValueError, OverflowError):
        return None
    return pid


def _entries(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
