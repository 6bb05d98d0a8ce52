"""A worker process: jobs come in and records go out, as lines of :mod:`intarsia.batch.running.messages`.

``python -m intarsia.batch.running.worker``, started by :mod:`intarsia.batch.running.worker_pool`. Input that ends
without a last message means that the parent is dead: the process ends at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from intarsia.batch.ledger.error_kinds import is_fatal
from intarsia.batch.ledger.records import Record
from intarsia.batch.running import messages
from intarsia.batch.running.process import FATAL, state_of
from intarsia.batch.running.row_runner import RowRunner
from intarsia.batch.settings import Options
from intarsia.errors import IntarsiaError
from intarsia.parent_pipe import ParentPipe

__all__ = ["main"]


def main() -> None:
    """Run jobs until the input ends."""
    parent = _Parent()
    first = sys.stdin.readline()
    if not first.endswith("\n"):
        os._exit(FATAL)  # the parent was stopped before it had sent anything

    try:
        runner = _open(messages.decode(first))
    except IntarsiaError as exc:
        parent.send(messages.EngineRefused(type(exc).__name__, str(exc)))
        return
    parent.send(messages.Ready(runner.capacity))

    def deliver(record: Record, error: BaseException | None) -> None:
        if error is not None and is_fatal(error):
            parent.send(messages.Dying(str(error)))
            os._exit(FATAL)
        parent.send(messages.RowDone(record, state_of(runner.engine)))

    for line in sys.stdin:
        message = messages.decode(line)
        if isinstance(message, messages.RunJob):
            runner.submit(message.job, deliver)
        else:
            runner.close(cancel=isinstance(message, messages.Cancel))
            parent.send(messages.Bye(state_of(runner.engine)))
            return
    os._exit(FATAL)


def _open(message: messages.Message) -> RowRunner:
    assert isinstance(message, messages.Start)
    return RowRunner(Options.of(dict(message.options)), Path(message.out), message.device)


class _Parent:
    """The parent, which takes messages."""

    def __init__(self) -> None:
        self._pipe = ParentPipe(FATAL)

    def send(self, message: messages.Message) -> None:
        self._pipe.send(messages.encode(message))


if __name__ == "__main__":
    main()
