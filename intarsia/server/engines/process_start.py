"""The start of an engine's process, by its host, or ahead of all hosts: beside what the server itself imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["end_process", "start_process", "started_ahead"]


def start_process() -> subprocess.Popen[bytes]:
    """A new process of an engine, which imports what it needs and then waits for its first message.

    Raises:
        OSError: no descriptors, processes or memory are left.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "intarsia.server.engines.engine_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a signal to the server's group is the server's; this ends with its pipe
        umask=0o077,  # its images are nobody else's, whenever it is started
    )


@contextmanager
def started_ahead(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes of engines; those that are still in the list at the block's end are ended."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with suppress(OSError):  # hosts start theirs then, and say what keeps them from it
            while len(processes) < count:
                processes.append(start_process())
        yield processes
    finally:
        for process in processes:
            end_process(process)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that nobody has sent anything, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
