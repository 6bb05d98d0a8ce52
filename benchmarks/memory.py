"""`python -m benchmarks.memory`: peak resident MiB of a process that runs the main job twice on the CPU."""

from __future__ import annotations

import os
import resource

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import inlay
from benchmarks.jobs import ours

if __name__ == "__main__":
    with inlay.Engine("torch", "cpu") as engine:
        call = ours(engine)
        call()
        call()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
