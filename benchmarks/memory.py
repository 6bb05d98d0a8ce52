"""`python -m benchmarks.memory BACKEND`: peak resident MiB of a process that runs the main job twice on the CPU."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import inlay
from benchmarks.cases import CASES
from benchmarks.jobs import requests


def peak_alone(backend: str) -> float:
    """Peak resident MiB of a process that runs our main job and never imports diffusers' pipelines."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", backend], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    request = requests(next(case for case in CASES if case.name == "cpu"), None)[0]
    with inlay.Engine(sys.argv[1], "cpu") as engine:
        engine.run(request)
        engine.run(request)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
