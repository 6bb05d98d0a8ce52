"""How long an operator's threads spin while they wait for their next work, before they sleep.

Threads that sleep at once cost an idle machine up to a quarter of its speed. On a busy machine threads that spin take
the cores from the very threads that they wait for. So they spin for a moment where the machine is idle when the first
engine opens, and sleep where it is busy (``python -m benchmarks.spinning`` measures both). ``OMP_WAIT_POLICY`` goes
before it: PASSIVE lets them sleep at once, ACTIVE lets them spin.
"""

from __future__ import annotations

import functools
import os

__all__ = ["COUNT", "MICROSECONDS", "is_busy", "limit_spinning", "onnx_runtime_settings"]

COUNT = 20_000
"""Turns of OpenMP's loop; each takes 10 to 50 ns."""

CYCLES = 20
"""Cycles of the processor, as a power of two: about as long, of OpenBLAS' threads. Its own are 26, and count at once:
as numpy is imported, each of them spins for 30 ms."""

_NO_CYCLES = 4

MICROSECONDS = 1000
"""Of ONNX Runtime's threads."""

_BUSY_SHARE = 0.5


@functools.cache
def is_busy() -> bool:
    """Whether other processes keep half of the cores busy; looked at once, as OpenMP reads its setting once.

    The number that want to run at this moment counts, and the average of the last minute.
    """
    return max(_running_elsewhere(), _average()) >= _BUSY_SHARE * (os.cpu_count() or 1)


def limit_spinning() -> None:
    """Limit the spinning of OpenMP's threads, which torch has, and of OpenBLAS', which numpy has.

    To be called before they are imported; those of what has been imported spin as they did.
    """
    policy = _policy()
    if not policy and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = "0" if is_busy() else str(COUNT)
    if policy != "ACTIVE" and "OPENBLAS_THREAD_TIMEOUT" not in os.environ:
        is_sleeping = policy == "PASSIVE" or is_busy()
        os.environ["OPENBLAS_THREAD_TIMEOUT"] = str(_NO_CYCLES if is_sleeping else CYCLES)


def onnx_runtime_settings() -> dict[str, str]:
    """Settings of a session of ONNX Runtime for its threads."""
    policy = _policy()
    if policy == "ACTIVE":
        return {"session.intra_op.allow_spinning": "1"}
    if policy == "PASSIVE" or is_busy():
        return {"session.intra_op.allow_spinning": "0"}
    # before 1.27 it is not known, and ignored
    return {"session.intra_op.spin_duration_us": str(MICROSECONDS)}


def _policy() -> str:
    return os.environ.get("OMP_WAIT_POLICY", "").strip().upper()


def _running_elsewhere() -> float:
    """Threads of other processes that run or want to; 0 where the system does not say it."""
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            running = file.read().split()[3].partition("/")[0]
    except (OSError, IndexError):
        return 0
    return int(running) - 1  # without this thread


def _average() -> float:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        return 0
