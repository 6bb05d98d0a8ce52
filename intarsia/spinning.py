"""How long an operator's threads spin while they wait for their next work, before they sleep.

Threads that sleep at once cost an idle machine a third of its speed. Threads that spin for long take a busy machine
from the very threads that they wait for. So they spin for a moment only (``python -m benchmarks.spinning`` measures
it). ``OMP_WAIT_POLICY`` goes before it: PASSIVE lets them sleep at once, ACTIVE lets them spin.
"""

from __future__ import annotations

import os

__all__ = ["COUNT", "MICROSECONDS", "limit_spinning", "onnx_runtime_settings"]

COUNT = 20_000
"""Turns of OpenMP's loop; each takes 10 to 50 ns."""

MICROSECONDS = 1000
"""Of ONNX Runtime's threads."""


def limit_spinning() -> None:
    """Limit the spinning of OpenMP's threads, which torch has; to be called before torch is imported."""
    if not _policy() and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = str(COUNT)


def onnx_runtime_settings() -> dict[str, str]:
    """Settings of a session of ONNX Runtime for its threads."""
    policy = _policy()
    if policy == "PASSIVE":
        return {"session.intra_op.allow_spinning": "0"}
    if policy == "ACTIVE":
        return {"session.intra_op.allow_spinning": "1"}
    # before 1.27 it is not known, and ignored
    return {"session.intra_op.spin_duration_us": str(MICROSECONDS)}


def _policy() -> str:
    return os.environ.get("OMP_WAIT_POLICY", "").strip().upper()
