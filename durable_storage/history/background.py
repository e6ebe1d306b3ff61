"""Threads for work that nobody waits for: archiving ahead, snapshots, pruning."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final

__all__ = ["Background", "start_in_background"]

# More would only compete with each other and with the event loop for the processor.
THREADS: Final = 2

Background = Callable[[Callable[[], None]], object]


def start_in_background(work: Callable[[], None]) -> object:
    """Have a thread of the process do some work, soon."""
    return _threads().submit(_report_failure, work)


def _report_failure(work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException:
        kind, error, trace = sys.exc_info()
        thread = threading.current_thread()
        threading.excepthook(threading.ExceptHookArgs((kind, error, trace, thread)))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="durable-storage-history")


if hasattr(os, "register_at_fork"):
    # Threads do not survive a fork, and their work is the parent's.
    os.register_at_fork(after_in_child=_threads.cache_clear)
