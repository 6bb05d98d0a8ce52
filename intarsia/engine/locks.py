"""Locks that a forked process finds free, whichever thread held them."""

from __future__ import annotations

import os
import threading

__all__ = ["lock_across_forks"]


def lock_across_forks() -> threading.Lock:
    """A lock for the process's lifetime. A fork waits for it: its holder is not there in the child to release it."""
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
