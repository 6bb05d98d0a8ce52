"""Threads that are started, or an error that says that the system has none to give."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from intarsia.errors import BackendError

__all__ = ["start_thread"]


def start_thread(target: Callable[..., None], name: str, *arguments: Any) -> threading.Thread:
    """A daemon thread that runs.

    Raises:
        BackendError: the limit of threads or of memory is reached.
    """
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as exc:
        raise BackendError(f"thread {name} cannot be started: {str(exc) or type(exc).__name__}") from exc
    return thread
