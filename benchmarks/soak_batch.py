"""The memory of a batch's worker over many rows: `python -m benchmarks.soak_batch [--rows 2000] [--backend onnx]`.

Rows of mixed shapes, 64 to 128 pixels a side, one or two samples, two steps each, go through one worker process on the
packaged model. A curve of its resident memory, threads and descriptors against rows done is printed as it grows; it
should be level after the first few hundred rows, since a batch of a night has a hundred thousand.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from intarsia import batch

SIDES = tuple(range(64, 129, 8))
SCHEDULERS = (
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DDIMScheduler",
    "EulerAncestralDiscreteScheduler",
)


def manifest(folder: Path, rows: int, sides: tuple[int, ...] = SIDES) -> Path:
    """Images and masks of all pairs of sides, and rows that take them at random."""
    rng = np.random.default_rng(0)
    shapes = [(width, height) for width in sides for height in sides]
    for width, height in shapes:
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 : width // 2] = 255
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{width}x{height}.png")
        Image.fromarray(mask).save(folder / f"{width}x{height}-mask.png")

    path = folder / "manifest.jsonl"
    with path.open("w") as file:
        for number, index in enumerate(rng.integers(len(shapes), size=rows).tolist()):
            file.write(json.dumps(row(number, *shapes[index])) + "\n")
    return path


def row(number: int, width: int, height: int) -> dict[str, object]:
    """A row that is quickly done."""
    return {
        "id": f"row-{number}",
        "init_image": f"{width}x{height}.png",
        "mask_image": f"{width}x{height}-mask.png",
        "prompt": f"a red circle {number}",
        "width": width,
        "height": height,
        "steps": 2,
        "strength": 1.0,
        "samples": 1 + number % 2,
        "scheduler": SCHEDULERS[number % len(SCHEDULERS)],
    }


def workers() -> list[int]:
    """The processes that this one has started."""
    children: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        children += map(int, (thread / "children").read_text().split())
    return children


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A worker at one moment.

    Attributes:
        rows: done by then.
        resident: MiB.
        descriptors, threads, temporary: open files, threads, entries of the folder for temporary files.
    """

    rows: int
    resident: float
    descriptors: int
    threads: int
    temporary: int

    def __str__(self) -> str:
        return f"{self.rows:7d} {self.resident:10.1f} {self.descriptors:11d} {self.threads:8d} {self.temporary:9d}"


def sample(rows: int, process: int) -> Sample:
    """Look at a worker now."""
    folder = Path(f"/proc/{process}")
    resident = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Sample(
        rows=rows,
        resident=resident / (1 << 20),
        descriptors=len(list((folder / "fd").iterdir())),
        threads=len(list((folder / "task").iterdir())),
        temporary=len(os.listdir(tempfile.gettempdir())),
    )


@dataclass
class Curve:
    """Samples of the one worker of a run, taken when so many rows are done; the run calls it with its numbers."""

    marks: Iterator[int]
    samples: list[Sample] = field(default_factory=list)
    mark: int = 1

    def __call__(self, stats: batch.RunStats) -> None:
        if stats.finished < self.mark:
            return
        for process in workers()[:1]:
            self.samples.append(sample(stats.finished, process))
            print(self.samples[-1], flush=True)
        self.mark = next(self.marks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--points", type=int, default=8)
    arguments = parser.parse_args()

    print("   rows  RSS (MiB) descriptors  threads temporary")
    step = max(1, arguments.rows // arguments.points)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        options = batch.Options(backend=arguments.backend, device="cpu", workers=1, threads=2)
        marks = iter(range(step, 10 * arguments.rows, step))
        stats = batch.run(manifest(Path(folder), arguments.rows), Path(folder) / "out", options, Curve(marks))
        seconds = time.perf_counter() - began
    print(f"{dict(stats.status)} in {seconds:.0f} s; peak {stats.to_dict()['peak_memory_mib']:.0f} MiB")


if __name__ == "__main__":
    main()
