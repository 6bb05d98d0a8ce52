"""`python -m benchmarks.float8`: what precision fp8 costs in quality on the packaged model, simulated on a CPU.

Fixed scenes that the model was not trained on; each is painted in float32 and with products in e4m3, same noise. The
error is that of the whole generated image. The judge says whether the asked color and shape are there. The
references of the kernels simulate them: they quantize as those do, and add up in float32, where a GPU has fewer bits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

import intarsia
from benchmarks.environment import environment
from benchmarks.merging import ACCURACY_GOAL, Sampling
from intarsia.backends.torch.backend import TorchBackend
from intarsia.execution import FP8, PRECISIONS, STANDARD
from tools.train_tiny.judge import judge
from tools.train_tiny.scenes import MEASURING, draw_scene

PSNR_GOAL = 35.0
"""dB to float32, over all pictures together."""


@dataclass(frozen=True)
class Painted:
    """One scene: the squared error of its image (mean, in levels), and what the judge found in each precision."""

    error: float
    colour: dict[str, bool]
    shape: dict[str, bool]


@cache
def _engine(precision: str) -> intarsia.Engine:
    """One for each precision in each process, on one thread."""
    torch.set_num_threads(1)
    TorchBackend.simulates = True
    return intarsia.Engine("torch", "cpu", precision=precision)


def paint_scene(index: int, size: int, token_merging: float = 0.0, sampling: Sampling = Sampling()) -> Painted:
    """A scene in both precisions."""
    scene = draw_scene("measure", index, size, MEASURING)
    request = intarsia.InpaintRequest(
        model="intarsia-tiny", prompt=scene.caption, init_image=scene.background, mask_image=scene.mask,
        seed=1000 + index, width=size, height=size, token_merging=token_merging, **asdict(sampling),
    )  # fmt: skip
    drawn = {precision: _engine(precision).run(request).drawn[0] for precision in PRECISIONS}
    found = {name: judge(picture, scene.background, scene.mask) for name, picture in drawn.items()}
    error = np.mean((drawn[FP8].astype(np.float64) - drawn[STANDARD]) ** 2)
    return Painted(
        float(error),
        {name: each.colour == scene.colour for name, each in found.items()},
        {name: each.shape == scene.shape for name, each in found.items()},
    )


def decibels(error: float) -> float:
    """PSNR of a mean squared error in 8-bit levels; that of equal images is what rounding leaves."""
    return 10 * math.log10(255**2 / max(error, 1 / 12))


def summary(painted: Sequence[Painted]) -> dict[str, Any]:
    """Over all scenes of a size."""
    errors = [each.error for each in painted]
    return {
        "scenes": len(painted),
        "psnr": decibels(statistics.fmean(errors)),
        "median": decibels(statistics.median(errors)),
        "worst": decibels(max(errors)),
        **{
            what: {name: statistics.fmean(getattr(each, what)[name] for each in painted) for name in PRECISIONS}
            for what in ("colour", "shape")
        },
    }


def missed(found: dict[str, Any]) -> list[str]:
    """Goals that a summary does not reach."""
    lost = {what: abs(found[what][STANDARD] - found[what][FP8]) for what in ("colour", "shape")}
    names = [what for what, share in lost.items() if share > ACCURACY_GOAL]
    return (["psnr"] if found["psnr"] < PSNR_GOAL else []) + names


def main() -> int:
    """Command line; 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--token-merging", type=float, default=0.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a folder for the JSON record")
    asked = parser.parse_args()
    record: dict[str, Any] = {
        "case": "precision fp8 against float32, packaged model, simulated on a CPU",
        "sampling": asdict(Sampling()),
        "token_merging": asked.token_merging,
        "environment": environment(),
        "sizes": {},
    }
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
        for size in asked.sizes:
            work = partial(paint_scene, size=size, token_merging=asked.token_merging)
            record["sizes"][str(size)] = found = summary(list(pool.map(work, range(asked.scenes))))
            print(f"{size}: {json.dumps(found)}", flush=True)
            if asked.out:
                asked.out.mkdir(parents=True, exist_ok=True)
                (asked.out / "cpu_float8.json").write_text(json.dumps(record, indent=1) + "\n")
    return 1 if any(missed(found) for found in record["sizes"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
