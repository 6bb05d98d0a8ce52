"""The loop of every training here: steps that are pure functions of (seed, step), a log, checkpoints, an average."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tools.train_tiny.records import log, save_atomic

LOG_EVERY, SAVE_EVERY = 20, 20


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: its name, how long it is, how fast it learns, and where its files lie."""

    name: str
    seed: int
    steps: int
    rate: float
    folder: Path
    decay: float = 0.0  # of the moving average; 0 keeps the last step alone


def rate_at(step: int, steps: int, rate: float) -> float:
    """The learning rate: a short rise, then half a cosine to zero."""
    return rate * min(1.0, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def train(run: Run, trained: nn.Module, loss_of: Callable[[np.random.Generator], torch.Tensor]) -> None:
    """Train the parameters that require a gradient, from the last checkpoint on; they end as their moving average."""
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    average = [parameter.detach().clone() for parameter in parameters]
    optimiser = torch.optim.AdamW(parameters, lr=run.rate, betas=(0.9, 0.99), weight_decay=1e-3)
    checkpoint = run.folder / f"{run.name}.pt"
    first = _resume(checkpoint, parameters, average, optimiser) if checkpoint.exists() else 0

    begun, seen = time.time(), []
    for step in range(first, run.steps):
        optimiser.param_groups[0]["lr"] = rate_at(step, run.steps, run.rate)
        loss = loss_of(np.random.default_rng([run.seed, step]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        decay = min(run.decay, (1 + step) / (10 + step))  # the average follows closely at first
        torch._foreach_lerp_(average, [parameter.detach() for parameter in parameters], 1 - decay)

        seen.append(float(loss.detach()))
        done = step + 1
        if done % LOG_EVERY == 0:
            mean, seconds = round(sum(seen) / len(seen), 5), round(time.time() - begun, 1)
            log(run.folder / "log.jsonl", stage=run.name, step=done, loss=mean, seconds=seconds)
            seen.clear()
        if done % SAVE_EVERY == 0 or done == run.steps:
            own = [parameter.detach() for parameter in parameters]
            state = {"own": own, "average": average, "optimiser": optimiser.state_dict(), "step": done}
            save_atomic(state, checkpoint)
    _replace(parameters, average)


@torch.no_grad()
def _replace(tensors: Sequence[torch.Tensor], by: Sequence[torch.Tensor]) -> None:
    for tensor, other in zip(tensors, by, strict=True):
        tensor.copy_(other)


@torch.no_grad()
def _resume(
    checkpoint: Path,
    parameters: list[nn.Parameter],
    average: list[torch.Tensor],
    optimiser: torch.optim.Optimizer,
) -> int:
    """Put a checkpoint's state back; returns the number of steps that were done."""
    saved = torch.load(checkpoint)
    _replace(parameters, saved["own"])
    _replace(average, saved["average"])
    optimiser.load_state_dict(saved["optimiser"])
    return int(saved["step"])
