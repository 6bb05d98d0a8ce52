"""Time, memory and error of calls."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image

Call = Callable[[], object]


def synchronise() -> None:
    """Wait until the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call: Call) -> float:
    """Wall time of one call, the device idle before and after."""
    synchronise()
    began = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - began


def interleaved(
    calls: Mapping[str, Call], warmups: int, runs: int, most_seconds: float = math.inf
) -> dict[str, list[float]]:
    """Wall times of each call, in turns: A B A B …, the first ``warmups`` turns left out.

    After ``most_seconds`` no further turn begins, once there are three to take a median of.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for turn in range(warmups + runs):
        if turn >= warmups + min(3, runs) and time.perf_counter() - began > most_seconds:
            break
        for name, call in calls.items():
            took = seconds(call)
            if turn >= warmups:
                times[name].append(took)
    return times


def median(times: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(times)


def p95(times: Sequence[float]) -> float:
    """The smallest time that at least 95 % of the runs did not exceed (nearest rank)."""
    return sorted(times)[math.ceil(0.95 * len(times)) - 1]


def rms(pictures: Sequence[Image.Image], reference: Sequence[Image.Image]) -> float:
    """Root of the mean squared difference, in 8-bit levels. ValueError where the images do not pair up."""
    if [one.size for one in pictures] != [other.size for other in reference]:
        raise ValueError(f"{len(pictures)} pictures and {len(reference)} references do not pair up")
    squares = [
        np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)
        for one, other in zip(pictures, reference, strict=True)
    ]
    return float(np.mean(squares) ** 0.5)


def memory(call: Call) -> dict[str, float] | None:
    """Peak device memory in MiB while a call runs; ``added`` is what it took beyond what was there before."""
    if not torch.cuda.is_available():
        return None
    synchronise()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    synchronise()
    peak = torch.cuda.max_memory_allocated()
    return {
        "allocated": peak / 2**20,
        "reserved": torch.cuda.max_memory_reserved() / 2**20,
        "added": (peak - before) / 2**20,
    }


def nearest(samples: Iterable[torch.Tensor], reference: torch.Tensor) -> float:
    """Largest relative RMS difference of samples ``[C, h, w]`` from those of ``reference`` that they are nearest to.

    Lanes are decoded in an order of their own, so which is whose is not known; images are compared one by one.
    """
    reference = reference.double().cpu()
    size = float(reference.square().mean().sqrt())
    differences = [(sample.double().cpu() - reference).square().mean(dim=(1, 2, 3)).sqrt() for sample in samples]
    return max(float(each.min()) for each in differences) / size
