"""`python -m benchmarks.spinning [COUNT:MICROSECONDS ...]`: how long threads should spin before they sleep.

For torch and ONNX Runtime, alone on the machine and beside two busy processes: the seconds of an image (256 × 256,
8 evaluations, packaged model) with endless spinning, without any, as the package chooses it, and with the limits that
are given, as ratios to the better of the first two. Beside busy processes endless spinning takes minutes and is left
out. Each is measured in a process of its own, all of them in turns, ROUNDS times; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from statistics import median

from intarsia import spinning

ROUNDS = 3
IMAGES = 6
BUSY = 2

# What a process runs: first the limits, then its images, of which the first opens the model.
PROGRAM = """
import json, os, sys, time
import numpy as np
from intarsia import spinning
backend, microseconds, images = json.loads(sys.argv[1])
spinning.MICROSECONDS = microseconds
if "GOMP_SPINCOUNT" in os.environ:
    spinning.is_busy = lambda: False  # a limit that is to be measured
import intarsia
image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
mask = np.zeros((256, 256), np.uint8)
mask[80:170, 80:170] = 255
request = intarsia.InpaintRequest(init_image=image, mask_image=mask, prompt="a red circle", steps=8, seed=1,
                                  scheduler="euler")
with intarsia.Engine(backend, "cpu") as engine:
    times = []
    for _ in range(images + 1):
        began = time.perf_counter()
        engine.run(request)
        times.append(time.perf_counter() - began)
print(json.dumps(times[1:]))
"""

Limit = tuple[str, str, int]
"""A name, the value of ``GOMP_SPINCOUNT`` or a policy ("" for neither), and ONNX Runtime's microseconds."""


def limits(arguments: list[str]) -> list[Limit]:
    """What is always measured, and the limits of the command line."""
    found: list[Limit] = [("spinning", "ACTIVE", 0), ("sleeping", "PASSIVE", 0), ("chosen", "", spinning.MICROSECONDS)]
    for each in arguments:
        count, _, microseconds = each.partition(":")
        found.append((each, count, int(microseconds)))
    return found


def seconds(backend: str, limit: Limit) -> float:
    """The median of an image in a process with that limit."""
    _, value, microseconds = limit
    environment = {name: text for name, text in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    if value:
        environment["GOMP_SPINCOUNT" if value.isdigit() else "OMP_WAIT_POLICY"] = value
    command = [sys.executable, "-c", PROGRAM, json.dumps([backend, microseconds, IMAGES])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    times: list[float] = json.loads(done.stdout)
    return median(times)


def main(arguments: list[str]) -> None:
    """Measure and print, machine by machine."""
    measured = limits(arguments)
    for busy in (0, BUSY):
        beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            _print(f"{busy} busy processes beside it", measured[1:] if busy else measured)
        finally:
            for process in beside:
                process.kill()
                process.wait()


def _print(situation: str, measured: list[Limit]) -> None:
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for backend in ("torch", "onnx"):
            for limit in measured:
                times[backend, limit[0]].append(seconds(backend, limit))

    print(situation, flush=True)
    for backend in ("torch", "onnx"):
        medians = {name: median(times[backend, name]) for name, _, _ in measured}
        best = min(medians[name] for name in ("spinning", "sleeping") if name in medians)
        for name, value in medians.items():
            print(f"  {backend:5}  {name:14}  {value:6.3f} s  {value / best:5.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("limits", nargs="*", metavar="COUNT:MICROSECONDS")
    main(parser.parse_args().limits)
