"""The server's log on standard error: one line a message, in which nothing from outside can write another line."""

from __future__ import annotations

import logging
import time

from intarsia.printable import printable

__all__ = ["LineFormatter", "log_to_stderr"]


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


def log_to_stderr() -> None:
    """Send what intarsia logs to standard error; requests too, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    log = logging.getLogger("intarsia")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
