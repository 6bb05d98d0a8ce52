"""A worker process: jobs come in as lines of JSON, records go out as lines of JSON.

``python -m intarsia.batch.running.worker``, started by :mod:`intarsia.batch.running.worker_pool`. In: options; then
jobs; then ``{"end": true}`` (finish) or ``{"stop": true}`` (cancel what is in flight). Input that just ends means that
the parent is dead: the process ends at once.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

from intarsia.batch.ledger.error_kinds import is_fatal
from intarsia.batch.ledger.results import Record
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.row_runner import RowRunner
from intarsia.batch.settings import Options
from intarsia.errors import IntarsiaError

__all__ = ["FATAL", "main", "peak_memory", "state_of"]

FATAL = 70
"""Exit status of a process that cannot go on; its parent starts another."""


def main() -> None:
    """Until the input ends."""
    speaker = _Speaker()
    first = sys.stdin.readline()
    if not first.endswith("\n"):
        os._exit(FATAL)  # the parent was stopped before it had said anything
    order = json.loads(first)
    try:
        runner = RowRunner(Options.of(order["options"]), Path(order["out"]), order["device"])
    except IntarsiaError as exc:
        speaker.say({"refused": str(exc), "kind": type(exc).__name__})
        return
    speaker.say({"ready": runner.capacity})

    def deliver(record: Record, error: BaseException | None) -> None:
        if error is not None and is_fatal(error):
            speaker.say({"dying": str(error)})
            os._exit(FATAL)
        speaker.say({"record": record, **state_of(runner)})

    for line in sys.stdin:
        order = json.loads(line)
        if "end" in order or "stop" in order:
            runner.close(cancel="stop" in order)
            speaker.say({"bye": True, **state_of(runner)})
            return
        runner.submit(Job.parse(order), deliver)
    os._exit(FATAL)


class _Speaker:
    """The way to the parent. Whatever else prints in this process goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def say(self, message: dict[str, Any]) -> None:
        with self._lock:
            try:
                self._out.write(json.dumps(message, ensure_ascii=False) + "\n")
                self._out.flush()
            except BrokenPipeError:
                os._exit(FATAL)  # nobody listens any more


def state_of(runner: RowRunner) -> dict[str, Any]:
    """How a runner's process stands: evaluations, pictures in them, slots for them, peak memory in MiB."""
    counters = runner.engine.counters
    counted = {"evaluations": counters.evaluations, "lane_rows": counters.lane_rows, "slots": counters.slots}
    state = counted | {"memory": round(peak_memory(), 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        state["device_memory"] = round(torch.cuda.max_memory_allocated() / (1 << 20), 1)
    return state


def peak_memory() -> float:
    """This process's peak resident memory in MiB."""
    try:
        # ru_maxrss below is inherited: a small child of a large parent would report the parent's.
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
