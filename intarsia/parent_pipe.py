"""The pipe from a child process to the process that started it."""

from __future__ import annotations

import os
import threading

__all__ = ["ParentPipe"]


class ParentPipe:
    """Standard output as a pipe for messages alone; whatever else prints in this process goes to standard error.

    Args:
        exit_code: of this process, which ends at once where its parent is gone.
    """

    def __init__(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, message: bytes) -> None:
        """Write one message, whole; may be called from any thread."""
        with self._lock:
            try:
                self._out.write(message)
                self._out.flush()
            except BrokenPipeError:
                os._exit(self._exit_code)
