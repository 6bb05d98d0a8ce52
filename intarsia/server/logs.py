"""The log on standard error, of a server and of its engines' processes.

It has one line for each message, in which nothing from outside can write another line.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from logging.handlers import QueueHandler, QueueListener

from intarsia.printable import printable

__all__ = ["LineFormatter", "log_to_stderr"]

log = logging.getLogger("intarsia")

# Messages that wait to be written.
_MOST = 10_000

# Seconds that the process's end waits for the last of them.
_LAST = 1.0


class LineFormatter(logging.Formatter):
    """Time in UTC, level, and the message as one printable line; a traceback follows on lines that are marked."""

    def __init__(self) -> None:
        self.converter = time.gmtime
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The first line."""
        return printable(super().formatMessage(record).replace("\n", " "))

    def formatException(self, ei: object) -> str:
        """The traceback, so that no line of it can be taken for a message."""
        trace = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(f"  | {printable(line)}" for line in trace.split("\n"))


class _Dropping(QueueHandler):
    """Hands messages to the thread that writes them. Where nobody reads standard error, the newest are dropped."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """As it is: it stays in this process, and is formatted where it is written."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)


def log_to_stderr() -> Callable[[], None]:
    """Send what intarsia logs to standard error, requests too, a line each; and what others log as a warning or worse.

    So are exceptions that end a thread. A thread of its own writes: a pipe that nobody reads must not hold replies up.

    Returns:
        What waits for the last messages to be written, for a process that ends itself without Python's own exit.
    """
    writer = logging.StreamHandler()
    writer.setFormatter(LineFormatter())
    messages: queue.Queue[logging.LogRecord] = queue.Queue(_MOST)
    listener = QueueListener(messages, writer)
    listener.start()
    write_rest = partial(_write_rest, messages)
    atexit.register(write_rest)

    # Of uvicorn, asyncio and others by way of the root, whose level is left at warnings.
    logging.getLogger().addHandler(_Dropping(messages))
    logging.getLogger("intarsia").setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = _log_end_of_thread
    return write_rest


def _write_rest(messages: queue.Queue[logging.LogRecord]) -> None:
    """Let the last messages be written before the process ends, if they can be."""
    until = time.monotonic() + _LAST
    while messages.unfinished_tasks and time.monotonic() < until:
        time.sleep(0.01)


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is SystemExit or ended.exc_value is None:
        return
    name = ended.thread.name if ended.thread is not None else "unknown"
    log.error("the thread %s has ended by an exception", name, exc_info=ended.exc_value)
