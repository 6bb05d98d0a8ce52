"""`python -m benchmarks.step_profile`: what recording a step takes, and where a step's time goes, by kind of kernel.

Needs a CUDA device. Full-size networks with random weights, one session for each case; nothing here is compared with
anybody, so no check stands before the numbers: the pictures of the same cases are checked by `benchmarks.run`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import inlay
from benchmarks.cases import Case, chosen
from benchmarks.environment import environment
from benchmarks.jobs import requests
from benchmarks.measure import median
from benchmarks.networks import RandomBackend, register
from benchmarks.place import Place
from inlay.backends.torch.session import TorchSession
from inlay.engine.lanes import Lane
from inlay.engine.parts import opening
from inlay.engine.resolve import resolve, table_of

KINDS = (
    ("our step", r"^_step|^_langevin|^_pick"),
    ("our norms", r"^_normalise"),
    ("our token merging", r"^_nearest|^_rank|^_average"),
    ("our other layers", r"^_gate|^_add"),
    ("attention", r"flash|fmha|attention|sdpa|mha"),
    ("convolution", r"conv|fprop|dgrad|wgrad|winograd"),
    ("matrix product", r"gemm|cutlass|cublas|nvjet|splitk"),
    ("copies and layouts", r"copy|memcpy|memset|cat|transpose|nchwtonhwc|nhwctonchw|fill"),
)
"""Kinds of kernels by what their names contain; the first that fits."""

OTHER = "everything else"
CASES = ("S1", "S2", "S4", "S5-1024")


def kind_of(name: str) -> str:
    """What a kernel does, judged by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name.lower())), OTHER)


def grouped(kernels: Iterable[tuple[str, float, int]], steps: int) -> dict[str, dict[str, float]]:
    """Kernels (name, microseconds, launches) over some steps → milliseconds and launches of one step, by kind."""
    found: dict[str, dict[str, float]] = {}
    for name, took, often in kernels:
        kind = found.setdefault(kind_of(name), {"ms": 0.0, "launches": 0.0})
        kind["ms"] += took / 1e3 / steps
        kind["launches"] += often / steps
    return dict(sorted(found.items(), key=lambda item: -item[1]["ms"]))


def profiled(case: Case, place: Place, steps: int = 5) -> dict[str, Any]:
    """One case: seconds to record its step, milliseconds of a step, and of each kind of kernel in it."""
    registry = inlay.Registry(place.registry(case))
    first = resolve(requests(case, None)[0], registry)
    session = RandomBackend(str(place.device), None).open(opening(first.entry, first.parts))
    # libraries, kernels and attention are settled by another size, as they are in an engine under way
    _advance(_lanes(session, replace(case, size=case.size - 64), registry), 2)
    lanes = _lanes(session, case, registry)
    recording = _seconds(lambda: _advance(lanes, 1))
    stepping = [_seconds(lambda: _advance(lanes, 1)) for _ in range(steps)]
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        _seconds(lambda: _advance(lanes, steps))
    kernels = [(each.key, each.self_device_time_total, each.count) for each in profile.key_averages()]
    kernels = [each for each in kernels if each[1] > 0]
    found = {
        "recording_seconds": recording - median(stepping),
        "step_ms": 1e3 * median(stepping),
        "kinds": grouped(kernels, steps),
        "slowest": [
            {"kernel": name[:160], "ms": took / 1e3 / steps, "launches": often / steps}
            for name, took, often in sorted(kernels, key=lambda each: -each[1])[:25]
        ],
        "attention": session.runtime.attention,
    }
    session.close()
    return found


def _lanes(session: TorchSession, case: Case, registry: inlay.Registry) -> list[Lane]:
    """The case's lanes, begun."""
    lanes = []
    for request in requests(case, None):
        resolved = resolve(request, registry)
        shared, table = session.encode(resolved.inputs)[0], table_of(resolved.plan)
        for sample, seed in enumerate(resolved.plan.seeds):
            key, shape = resolved.plan.group, resolved.plan.latent_shape
            lanes.append(Lane(key, sample, seed, table, shape, lambda: session, lambda kept=shared: kept))
    for lane in lanes:
        lane.begin()
    torch.cuda.synchronize()
    return lanes


def _advance(lanes: Sequence[Lane], rows: int) -> None:
    for _ in range(rows):
        lanes[0].session().advance([lane.step() for lane in lanes])
        for lane in lanes:
            lane.cursor += 1


def _seconds(call: Any) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def table(found: dict[str, dict[str, Any]]) -> str:
    """A few lines for each case."""
    lines = []
    for name, each in found.items():
        lines.append(f"{name}: a step takes {each['step_ms']:.2f} ms, recording it {each['recording_seconds']:.2f} s")
        for kind, spent in each["kinds"].items():
            lines.append(f"  {spent['ms']:7.3f} ms {spent['launches']:6.0f} launches  {kind}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--out", type=Path, help="file for the JSON")
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("needs a CUDA device; torch sees none", file=sys.stderr)
        return 4
    device, found = torch.device("cuda"), {}
    register()
    with tempfile.TemporaryDirectory() as folder:
        for case in chosen(asked.cases, "cuda"):
            found[case.name] = profiled(case, Place(device, Path(folder), environment(device)))
            torch.cuda.empty_cache()
    print(table(found))
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
