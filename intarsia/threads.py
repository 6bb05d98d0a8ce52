"""Threads that start or fail with a clear error, and locks that survive a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from intarsia.errors import BackendError, one_line

__all__ = ["lock_across_forks", "start_thread"]


def start_thread(target: Callable[..., None], name: str, *arguments: Any) -> threading.Thread:
    """A daemon thread that runs.

    Raises:
        BackendError: the limit of threads or of memory is reached.
    """
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as exc:
        raise BackendError(f"thread {name} cannot be started: {one_line(exc)}") from exc
    return thread


def lock_across_forks() -> threading.Lock:
    """A lock for the process's lifetime. A fork waits for it: its holder is not there in the child to release it."""
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
