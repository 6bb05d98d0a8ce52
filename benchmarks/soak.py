"""`python -m benchmarks.soak BACKEND`: resident memory against requests of mixed shapes, in one process.

Prints a line for every twentieth of the requests: how many there were, resident MiB, file descriptors, threads and
entries in the temporary folder. With --reopen every request has an engine of its own. With --trim, malloc gives back
what was freed before it is looked at, so that only what is held counts. Reads /proc, so Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import random
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import intarsia
from benchmarks.jobs import PROMPT, pictures

_POINTS = 20


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a process holds after a number of requests; ``temporary`` counts what lies in the temporary folder."""

    requests: int
    resident_mib: float
    descriptors: int
    threads: int
    temporary: int


def point(requests: int) -> Point:
    """What this process holds now."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return Point(
        requests=requests,
        resident_mib=round(kib / 1024, 1),
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=threading.active_count(),
        temporary=len(os.listdir(tempfile.gettempdir())),
    )


def trimmed_point(requests: int) -> Point:
    """What this process holds once unreachable objects are collected and free pages are back with the system."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # a C library without malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
    return point(requests)


def drawn(rng: random.Random, smallest: int, largest: int) -> intarsia.InpaintRequest:
    """One request of any shape in steps of 8 pixels, any documented scheduler, with and without guidance."""
    width, height = (8 * rng.randint(smallest // 8, largest // 8) for _ in range(2))
    image, mask = pictures(width, height)
    return intarsia.InpaintRequest(
        prompt=PROMPT, init_image=image, mask_image=mask, width=width, height=height, samples=rng.randint(1, 2),
        steps=rng.randint(3, 6), guidance_scale=rng.choice([1.0, 7.5]), seed=rng.randrange(2**31),
        scheduler=rng.choice(intarsia.schedulers.NAMES),
    )  # fmt: skip


def soak(
    run: Callable[[intarsia.InpaintRequest], object],
    count: int,
    sizes: tuple[int, int],
    measured: Callable[[int], Point] = point,
) -> list[Point]:
    """Run the requests one after the other; prints the points as they come."""
    rng, points = random.Random(0), [measured(0)]
    print("requests  resident MiB  descriptors  threads  temporary", flush=True)
    for number in range(1, count + 1):
        run(drawn(rng, *sizes))
        if number % max(1, count // _POINTS) == 0:
            now = measured(number)
            points.append(now)
            line = f"{number:8}  {now.resident_mib:12}  {now.descriptors:11}  {now.threads:7}  {now.temporary:9}"
            print(line, flush=True)
    return points


def _alone(backend: str, request: intarsia.InpaintRequest) -> None:
    with intarsia.Engine(backend, "cpu") as engine:
        engine.run(request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=["null", "onnx", "torch"])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--smallest", type=int, default=64, help="least width and height in pixels")
    parser.add_argument("--largest", type=int, default=256, help="greatest width and height in pixels")
    parser.add_argument("--reopen", action="store_true", help="an engine for each request")
    parser.add_argument("--trim", action="store_true", help="what malloc holds free does not count")
    parser.add_argument("--json", type=Path, help="where the points are written")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if asked.reopen:
            run: Callable[[intarsia.InpaintRequest], object] = partial(_alone, asked.backend)
        else:
            run = stack.enter_context(intarsia.Engine(asked.backend, "cpu")).run
        sizes = (asked.smallest, asked.largest)
        points = soak(run, asked.requests, sizes, trimmed_point if asked.trim else point)
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(each) for each in points], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
