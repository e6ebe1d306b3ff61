"""Recording what a process does to the files below a directory, as operations in order.

The system calls are those of SQLite and of this package alike, so nothing has to be trusted to
report itself. A call of one thread may overlap a call of another: an operation has a start and an
end, counted in lines of the trace, and a sync covers only what had ended when it started.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CALLS = (
    "openat,open,creat,close,dup,dup2,dup3,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,"
    "sync_file_range,ftruncate,truncate,fallocate,rename,renameat,renameat2,link,linkat,unlink,"
    "unlinkat,mkdir,mkdirat,rmdir,symlink,symlinkat,copy_file_range,sendfile,utimensat,"
    "fstat,stat,lstat,newfstatat"
)
# None of these may touch the directory: they are not modelled.
UNKNOWN = {
    "writev",
    "sync_file_range",
    "truncate",
    "symlink",
    "symlinkat",
    "copy_file_range",
    "sendfile",
    "utimensat",
    "creat",
}
MISSING = "strace is needed to record system calls: apt-get install strace"


def available() -> bool:
    """Whether system calls can be recorded here."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(
        ["strace", "-f", "-o", os.devnull, "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


@dataclass
class Operation:
    start: int
    end: int
    time_ns: int
    kind: str
    """write, truncate, sync, create, link, unlink, rename, mkdir, modified or mark."""
    node: int = 0
    """The file or directory it is about; of names, the directory."""
    name: str = ""
    offset: int = 0
    data: bytes = b""
    other: int = 0
    other_name: str = ""
    whole: bool = False
    """Of a sync: fsync, which also makes the time of modification durable."""
    mark: Any = None


@dataclass
class _Call:
    start: int
    end: int
    time_ns: int
    name: str
    text: str
    result: int


def record(command: Sequence[str], trace: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and write its system calls to ``trace``."""
    traced = ["strace", "-f", "-qq", "-v", "-xx", "-ttt", "-s", "100000000", "-o", trace]
    traced += ["-e", f"trace={CALLS}", "-e", "signal=none", *command]
    return subprocess.run(traced, capture_output=True, text=True, check=False, **options)


_LINE = re.compile(r"(\d+) +(\d+)\.(\d{6}) (.*)\n?")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_RESULT = re.compile(r"(\w+)\((.*)\) += (-?\d+)(?:<.*)?(?: \w+ \(.*\))?")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def _calls(trace: str) -> list[_Call]:
    calls: list[_Call] = []
    unfinished: dict[str, tuple[int, int, str]] = {}
    with open(trace, encoding="ascii") as lines:
        for number, line in enumerate(lines):
            parsed = _LINE.fullmatch(line)
            if parsed is None:
                raise ValueError(f"unexpected line in the trace: {line[:200]!r}")
            pid, seconds, microseconds, text = parsed.groups()
            time_ns = (int(seconds) * 1_000_000 + int(microseconds)) * 1000
            if text.startswith(("+++", "---")):
                continue
            if text.endswith("<unfinished ...>"):
                unfinished[pid] = number, time_ns, text.removesuffix("<unfinished ...>").rstrip()
                continue
            start, resumed = number, _RESUMED.fullmatch(text)
            if resumed is not None:
                start, time_ns, head = unfinished.pop(pid)
                text = head + resumed.group(2)
            result = _RESULT.fullmatch(text)
            if result is None:
                if text.endswith("= ?"):  # the process ended during it
                    continue
                raise ValueError(f"unexpected call in the trace: {text[:200]!r}")
            name, arguments, value = result.groups()
            calls.append(_Call(start, number, time_ns, name, arguments, int(value)))
    return calls


def _strings(text: str) -> list[bytes]:
    return [bytes.fromhex(found.replace("\\x", "")) for found in _STRING.findall(text)]


class _Parser:
    """Follows descriptors and names through the calls."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self.nodes: dict[str, int] = {root: 0}
        self.directories = {0}
        self._next = 1
        # descriptor -> (node, path), of files and directories below the root.
        self._open: dict[int, tuple[int, str]] = {}
        self._paths: dict[int, str] = {}
        self._positions: dict[int, int] = {}
        self._appending: set[int] = set()
        self._sizes: dict[int, int] = {}
        self._contents: dict[int, bytearray] = {}

    def parse(self, calls: list[_Call]) -> None:
        # In the order in which they ended, except that closing a descriptor frees it at once.
        order = sorted(calls, key=lambda c: c.start if c.name == "close" else c.end)
        for call in order:
            if call.result >= 0:
                self._parse(call)

    def _add(self, call: _Call, kind: str, **fields: Any) -> None:
        self.operations.append(Operation(call.start, call.end, call.time_ns, kind, **fields))

    def _inside(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + "/")

    def _at(self, call: _Call, index: int, base: str) -> str:
        """The path that an *at call means."""
        path = _strings(call.text)[index].decode()
        if not os.path.isabs(path) and base != "AT_FDCWD":
            known = self._paths.get(int(base))
            if known is None:
                return "/outside"
            path = os.path.join(known, path)
        return os.path.normpath(path) if os.path.isabs(path) else "/outside"

    def _new(self, directory: bool = False) -> int:
        node = self._next
        self._next += 1
        if directory:
            self.directories.add(node)
        return node

    def _parse(self, call: _Call) -> None:
        name, text = call.name, call.text
        first = text.split(",", 1)[0]
        if name == "openat":
            self._opened(call, self._at(call, 0, first), text)
        elif name == "open":
            self._opened(call, self._at(call, 0, "AT_FDCWD"), text)
        elif name == "close":
            self._open.pop(int(first), None)
            self._paths.pop(int(first), None)
        elif name in ("dup", "dup2", "dup3"):
            if int(first) in self._open:
                raise ValueError("a descriptor was duplicated")
        elif name == "write" and first == "1":
            for line in _strings(text)[0].splitlines():
                if line.startswith(b"@"):
                    self._add(call, "mark", mark=json.loads(line[1:]))
        elif name in ("write", "pwrite64", "pwritev", "pwritev2"):
            self._written(call, int(first))
        elif name in ("fsync", "fdatasync"):
            opened = self._open.get(int(first))
            if opened is not None:
                self._add(call, "sync", node=opened[0], whole=name == "fsync")
        elif name == "ftruncate":
            opened = self._open.get(int(first))
            if opened is not None:
                size = int(text.rsplit(",", 1)[1])
                self._cut(call, opened[0], size)
        elif name == "fallocate":
            opened = self._open.get(int(first))
            if opened is not None:
                mode, offset, length = map(int, text.split(", ")[1:])
                if mode:
                    raise ValueError(f"fallocate is modelled without modes: {text}")
                size = max(offset + length, self._sizes.get(opened[0], 0))
                self._cut(call, opened[0], size)
        elif name in ("rename", "renameat", "renameat2", "link", "linkat"):
            self._named(call)
        elif name in ("unlink", "rmdir", "unlinkat"):
            self._removed(call, first)
        elif name in ("mkdir", "mkdirat"):
            path = self._at(call, 0, first if name == "mkdirat" else "AT_FDCWD")
            if self._inside(path):
                node = self.nodes[path] = self._new(directory=True)
                self._add(call, "mkdir", name=os.path.basename(path), other=node,
                          node=self.nodes[os.path.dirname(path)])  # fmt: skip
        elif name in ("fstat", "stat", "lstat", "newfstatat"):
            self._status(call, first)
        elif name in UNKNOWN:
            descriptor = first.isdigit() and int(first) in self._open
            if descriptor or any(
                self._inside(os.path.normpath(s.decode("latin-1"))) for s in _strings(text)
            ):
                raise ValueError(f"{name} is not modelled: {text[:200]}")

    def _opened(self, call: _Call, path: str, flags: str) -> None:
        self._open.pop(call.result, None)
        self._paths[call.result] = path
        if not self._inside(path):
            return
        node = self.nodes.get(path)
        if node is None:
            node = self.nodes[path] = self._new()
            parent = self.nodes[os.path.dirname(path)]
            self._add(call, "link", node=parent, name=os.path.basename(path), other=node)
        if "O_TRUNC" in flags:
            self._cut(call, node, 0)
        self._open[call.result] = node, path
        self._positions[call.result] = 0
        self._appending.discard(call.result)
        if "O_APPEND" in flags:
            self._appending.add(call.result)

    def _written(self, call: _Call, descriptor: int) -> None:
        opened = self._open.get(descriptor)
        if opened is None:
            return
        node = opened[0]
        data = b"".join(_strings(call.text))[: call.result]
        if call.name in ("pwrite64", "pwritev"):
            offset = int(call.text.rsplit(",", 1)[1])
        elif call.name == "pwritev2":
            offset = int(call.text.rsplit(",", 2)[1])
        elif descriptor in self._appending:
            offset = self._sizes.get(node, 0)
        else:
            offset = self._positions[descriptor]
            self._positions[descriptor] += call.result
        self._put(call, node, offset, data)

    def _put(self, call: _Call, node: int, offset: int, data: bytes) -> None:
        self._sizes[node] = max(self._sizes.get(node, 0), offset + len(data))
        content = self._contents.setdefault(node, bytearray())
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self._add(call, "write", node=node, offset=offset, data=data)

    def _cut(self, call: _Call, node: int, size: int) -> None:
        self._sizes[node] = size
        content = self._contents.setdefault(node, bytearray())
        del content[size:]
        content.extend(bytes(size - len(content)))
        self._add(call, "truncate", node=node, offset=size)

    def _named(self, call: _Call) -> None:
        if "at" in call.name:
            parts = call.text.split(", ")
            source = self._at(call, 0, parts[0])
            target = self._at(call, 1, parts[2])
        else:
            source, target = (self._at(call, index, "AT_FDCWD") for index in (0, 1))
        if not self._inside(source) and not self._inside(target):
            return
        node = self.nodes[source]
        assert node not in self.directories, "directories are not renamed"
        if call.name.startswith("rename"):
            del self.nodes[source]
            kind = "rename"
        else:
            kind = "link"
        self.nodes[target] = node
        parent = self.nodes[os.path.dirname(target)]
        if kind == "link":
            self._add(call, "link", node=parent, name=os.path.basename(target), other=node)
        else:
            self._add(call, "rename", node=self.nodes[os.path.dirname(source)], other=parent,
                      name=os.path.basename(source), other_name=os.path.basename(target))  # fmt: skip

    def _removed(self, call: _Call, first: str) -> None:
        path = self._at(call, 0, first if call.name == "unlinkat" else "AT_FDCWD")
        if self._inside(path):
            del self.nodes[path]
            self._add(call, "unlink", name=os.path.basename(path),
                      node=self.nodes[os.path.dirname(path)])  # fmt: skip

    def _status(self, call: _Call, first: str) -> None:
        seconds = re.search(r"st_mtime=(\d+)", call.text)
        nanoseconds = re.search(r"st_mtime_nsec=(\d+)", call.text)
        if seconds is None or nanoseconds is None:
            return
        if call.name == "fstat" or (call.name == "newfstatat" and "AT_EMPTY_PATH" in call.text):
            opened = self._open.get(int(first)) if first.isdigit() else None
            node = opened[0] if opened is not None else None
        else:
            base = first if call.name == "newfstatat" else "AT_FDCWD"
            node = self.nodes.get(self._at(call, 0, base))
        if node is not None and node not in self.directories:
            time_ns = int(seconds.group(1)) * 10**9 + int(nanoseconds.group(1))
            self._add(call, "modified", node=node, offset=time_ns)


def parse(trace: str, root: str) -> list[Operation]:
    """The operations below ``root``, and the marks that the process wrote to its output."""
    parser = _Parser(root)
    parser.parse(_calls(trace))
    return parser.operations


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of the tests."""
    return [sys.executable, "-B", "-m", module, *arguments]
