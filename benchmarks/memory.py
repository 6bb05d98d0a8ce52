"""`python -m benchmarks.memory BACKEND BEGAN`: a process that runs the main job twice on the CPU.

Prints the seconds from BEGAN (its parent's clock, just before it was started) to the first image, and peak resident
MiB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import intarsia
from benchmarks.cases import CASES
from benchmarks.jobs import requests
from intarsia.batch.running.process import peak_memory


def alone(backend: str) -> dict[str, float]:
    """Cold start in seconds and peak resident MiB of a process that runs our main job and never imports diffusers."""
    command = [sys.executable, "-m", "benchmarks.memory", backend, str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = done.stdout.split()[-2:]
    return {"cold_start_seconds_alone": float(seconds), "peak_rss_mib_alone": float(peak)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend")
    parser.add_argument("began", type=float)
    arguments = parser.parse_args()
    request = requests(next(case for case in CASES if case.name == "cpu"), None)[0]
    with intarsia.Engine(arguments.backend, "cpu") as engine:
        engine.run(request)
        print(time.time() - arguments.began)
        engine.run(request)
    print(peak_memory())
