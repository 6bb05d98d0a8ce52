"""`python -m benchmarks.main_job`: the main job on this machine, beside diffusers' own pipeline.

512², 21 steps × strength 0.7 = 14 evaluations, guidance on, PIL in → PIL out, the packaged model in both,
same noise, interleaved A/B/A/B in one process. First the pictures are compared; only if they agree is
anything timed. Prints ratios of medians and writes a JSON record.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint
from PIL import Image

import inlay
from benchmarks.environment import environment
from benchmarks.jobs import GUIDANCE, SCHEDULER, SEED, SIZE, STEPS, STRENGTH, job, ours

AGREEMENT = 40.0
"""dB of PSNR before paste-back that both must agree to before either is timed."""


@dataclass
class Record:
    """One run; ``ratio`` stays None unless ``psnr_db`` reached the bar."""

    case: str
    psnr_db: float
    settings: dict[str, object]
    environment: dict[str, object]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    medians: dict[str, float] = field(default_factory=dict)
    ratio_diffusers_over_inlay: float | None = None
    peak_rss_mib_inlay_alone: float | None = None


def theirs(folder: Path) -> Callable[[], Image.Image]:
    """The job for diffusers' pipeline, float32, with our noise."""
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    made = getattr(diffusers, SCHEDULER).from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.scheduler = made
    noise = torch.from_numpy(inlay.noise(SEED, (4, SIZE // 8, SIZE // 8)))[None]
    inpaint.randn_tensor = lambda *args, **kwargs: noise.clone()
    image, mask, prompt = job()
    return lambda: pipeline(
        prompt=prompt, negative_prompt="", image=image, mask_image=mask, height=SIZE, width=SIZE, strength=STRENGTH,
        num_inference_steps=STEPS, guidance_scale=GUIDANCE,
    ).images[0]  # fmt: skip


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB, 8-bit."""
    error = np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def peak_alone() -> float:
    """Peak resident MiB of a process that runs our job twice and never imports diffusers."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.memory"], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def run(rounds: int) -> Record:
    """Compare, then time, interleaved."""
    with inlay.Engine("torch", "cpu") as engine:
        a, b = ours(engine), theirs(engine.registry.find(None).path)
        agreement = psnr(a().generated[0], b())
        settings = {"size": SIZE, "steps": STEPS, "strength": STRENGTH, "guidance": GUIDANCE, "scheduler": SCHEDULER}
        record = Record("main job, CPU, torch", agreement, settings, environment())
        if agreement < AGREEMENT:
            return record
        seconds: dict[str, list[float]] = {"inlay": [], "diffusers": []}
        for turn in range(rounds + 1):
            for name, call in (("inlay", a), ("diffusers", b)):
                began = time.perf_counter()
                call()
                if turn:  # the first round warms both up once more
                    seconds[name].append(time.perf_counter() - began)
    record.seconds = seconds
    record.medians = {name: statistics.median(times) for name, times in seconds.items()}
    record.peak_rss_mib_inlay_alone = peak_alone()
    record.ratio_diffusers_over_inlay = record.medians["diffusers"] / record.medians["inlay"]
    return record


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a folder for the JSON record")
    arguments = parser.parse_args()
    record = run(arguments.rounds)
    text = json.dumps(asdict(record), indent=2)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "cpu_main_job.json").write_text(text + "\n")
    print(text)
    return 0 if record.ratio_diffusers_over_inlay is not None else 1


if __name__ == "__main__":
    sys.exit(main())
