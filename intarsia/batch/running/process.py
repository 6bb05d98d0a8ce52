"""A process that runs rows: the exit status when it cannot go on, its peak memory, its counters."""

from __future__ import annotations

import resource
import sys

from intarsia.backends.device_memory import peak_device_bytes
from intarsia.batch.ledger.run_stats import WorkerState
from intarsia.engine.engine import Engine

__all__ = ["FATAL", "peak_memory", "state_of"]

FATAL = 70
"""Exit status of a process that cannot go on; another is started in its place."""


def state_of(engine: Engine) -> WorkerState:
    """The counters of this process's engine, and its peak memory."""
    counters = engine.counters
    return WorkerState(
        evaluations=counters.evaluations,
        lane_rows=counters.lane_rows,
        slots=counters.slots,
        memory=round(peak_memory(), 1),
        device_memory=round((peak_device_bytes() or 0) / (1 << 20), 1),
    )


def peak_memory() -> float:
    """This process's peak resident memory in MiB."""
    try:
        # ru_maxrss below is inherited: a small child of a large parent would report the parent's.
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        units_per_mib = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_mib
