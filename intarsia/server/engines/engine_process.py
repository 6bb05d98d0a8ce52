"""An engine in a process of its own: ``python -m intarsia.server.engines.engine_process``, started by a process host.

Jobs come in and ends go out as lines of :mod:`intarsia.server.engines.host_messages`. Input that ends means that the
server is gone: the process ends at once, and the server runs its jobs again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from intarsia.engine.result import Progress
from intarsia.errors import IntarsiaError
from intarsia.parent_pipe import ParentPipe
from intarsia.server.engines import host_messages as messages
from intarsia.server.engines.hosts import open_files
from intarsia.server.engines.job_runner import JobRunner, open_engine
from intarsia.server.engines.previews import Preview
from intarsia.server.logs import log_to_stderr
from intarsia.server.store.jobs import Ended, Stopped

__all__ = ["LOST", "main"]

LOST = 3
"""Exit code of a process whose device can be used no more; a new one is started in its place."""


class _Server:
    """The server, as a listener."""

    def __init__(self, write_log: Callable[[], None]) -> None:
        self._pipe = ParentPipe(LOST)
        self._write_log = write_log
        self.statistics: Callable[[], dict[str, float]] = dict

    def send(self, message: messages.Message) -> None:
        self._pipe.send(messages.encode(message))

    def progressed(self, job_id: int, progress: Progress) -> None:
        self.send(messages.Stepped(job_id, progress.step, progress.steps))

    def previewed(self, job_id: int, preview: Preview) -> None:
        self.send(messages.Previewed.of(job_id, preview))

    def ended(self, job_id: int, ended: Ended) -> None:
        if isinstance(ended, Stopped) and ended.lost:
            self._write_log()  # which says why
            os._exit(LOST)  # of the engine or its device: every other job of it is lost as well
        self.send(messages.JobEnded.of(job_id, ended))
        self.send(messages.Statistics(self.statistics()))

    def has_room(self) -> None:
        """The server counts for itself."""


def main() -> None:
    """Run jobs until the input ends."""
    server = _Server(log_to_stderr())
    first = sys.stdin.readline()
    if not first:
        return
    start = messages.decode(first)
    assert isinstance(start, messages.Start)
    try:
        files = open_files(Path(start.data), start.files)
        runner = JobRunner(open_engine(start.engine_settings, start.device), files, server)
    except IntarsiaError as exc:
        server.send(messages.Refused(str(exc)))
        return
    server.statistics = lambda: runner.statistics
    server.send(messages.Opened(runner.capacity))

    for line in sys.stdin:
        _act(messages.decode(line), runner, server)
    os._exit(LOST)


def _act(message: messages.Message, runner: JobRunner, server: _Server) -> None:
    if isinstance(message, messages.StartJob):
        runner.start(message.as_job)
        server.send(messages.Statistics(runner.statistics))
    elif isinstance(message, messages.Cancel):
        runner.cancel(message.job_id)
    elif isinstance(message, messages.OpenModels):
        server.send(messages.ModelsOpened(runner.open_models(message.models)))


if __name__ == "__main__":
    main()
