"""Painters: functions from tasks to images. The measurement takes any of them; these are diffusers'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, LCMScheduler, StableDiffusionInpaintPipeline
from PIL import Image

from tools.train_tiny.networks import encode_text


@dataclass(frozen=True, eq=False)
class Task:
    """One image to paint: uint8 [S, S, 3], bool [S, S] (true: to be painted), what, and from which noise."""

    picture: np.ndarray
    mask: np.ndarray
    prompt: str
    seed: int


Painter = Callable[[Sequence[Task]], list[np.ndarray]]


@dataclass(frozen=True)
class Sampling:
    """How a painter samples; the defaults are those that the model's bar is set at."""

    steps: int = 20
    guidance: float = 4.0
    clip_skip: int = 2  # as the documented requests count: 1 is the last layer, 2 the one before it
    scheduler: str = "DPM++ 2M Karras"  # or "LCM"
    strength: float = 1.0


def _scheduler(name: str, config: Any) -> Any:
    if name == "LCM":
        return LCMScheduler.from_config(config)
    return DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True)


def diffusers_painter(
    model: Path, sampling: Sampling, device: str = "cpu", change: Callable[[Any], None] | None = None
) -> Painter:
    """Images of diffusers' own pipeline, float32; `change` is given the pipeline once, to put adapters into it."""
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(model, dtype=torch.float32).to(device)
    pipeline.scheduler = _scheduler(sampling.scheduler, pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    if change is not None:
        change(pipeline)

    @torch.no_grad()
    def texts(prompts: list[str]) -> torch.Tensor:
        # The pipeline's own clip_skip looks for `text_encoder.text_model`, which transformers 5 no longer has.
        prompts = [pipeline.maybe_convert_prompt(prompt, pipeline.tokenizer) for prompt in prompts]
        ids = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        layers_back = torch.full((len(prompts),), sampling.clip_skip)
        return encode_text(pipeline.text_encoder, ids.to(device), layers_back.to(device))

    def paint(tasks: Sequence[Task]) -> list[np.ndarray]:
        wanted, unwanted = texts([task.prompt for task in tasks]), texts([""] * len(tasks))
        drawn = pipeline(
            prompt_embeds=wanted,
            negative_prompt_embeds=unwanted,
            image=[Image.fromarray(task.picture) for task in tasks],
            mask_image=[Image.fromarray((task.mask * 255).astype(np.uint8)) for task in tasks],
            height=tasks[0].picture.shape[0],
            width=tasks[0].picture.shape[1],
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance if any(task.prompt for task in tasks) else 1.0,  # nothing to guide
            strength=sampling.strength,
            generator=[torch.Generator().manual_seed(task.seed) for task in tasks],
            output_type="np",
        ).images
        return [(image * 255).round().astype(np.uint8) for image in drawn]

    return paint


_PAINTERS: dict[tuple[Path, Sampling], Painter] = {}  # of a worker process: loaded once


def _paint_in_worker(model: Path, sampling: Sampling, tasks: Sequence[Task]) -> list[np.ndarray]:
    torch.set_num_threads(1)
    if (model, sampling) not in _PAINTERS:
        _PAINTERS[model, sampling] = diffusers_painter(model, sampling)
    return _PAINTERS[model, sampling](tasks)


def parallel_painter(model: Path, sampling: Sampling, processes: int, batch: int = 4) -> Painter:
    """The same images, drawn by worker processes of one thread each, `batch` at a time."""
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))

    def paint(tasks: Sequence[Task]) -> list[np.ndarray]:
        batches = [tasks[start : start + batch] for start in range(0, len(tasks), batch)]
        drawn = pool.map(partial(_paint_in_worker, model, sampling), batches)
        return [picture for pictures in drawn for picture in pictures]

    return paint
