"""Training of a LoRA or LoHa that fills shapes in another way, on the packaged network."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tools.train_tiny import networks
from tools.train_tiny.denoiser import draw_batch, loss_of
from tools.train_tiny.scenes import Mixture
from tools.train_tiny_parts import loop
from tools.train_tiny_parts.adapters import attach, file_tensors
from tools.train_tiny_parts.effects import EFFECTS, drawn
from tools.train_tiny_parts.examples import draw
from tools.train_tiny_parts.loop import Run
from tools.train_tiny_parts.packaged import batches_of_truth, packaged
from tools.train_tiny_parts.settings import AdapterSettings

MIXTURE = Mixture(empty=0.12, photographic=0.1)
NOISE_ALONE = 0.25  # of the inputs, as at the start of sampling


def train(name: str, settings: AdapterSettings, seed: int, folder: Path) -> Path:
    """Train one adapter; returns its file in `folder`."""
    torch.manual_seed(seed)
    nets = packaged()
    adapters = attach(nets.unet, settings.kind, settings.rank, settings.alpha)
    plan, shares = batches_of_truth(), networks.signal_shares().float()
    scenes = draw(settings.scenes, 256, MIXTURE, partial(drawn, effect=EFFECTS[settings.effect]))
    odds = np.full(settings.scenes, 1 / settings.scenes)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        batch = draw_batch(scenes, odds, plan, rng, settings.batch, NOISE_ALONE, torch.device("cpu"))
        return loss_of(nets, batch, shares, plan).mean()

    run = Run(name=name, seed=seed, steps=settings.steps, rate=settings.rate, folder=folder)
    loop.train(run, torch.nn.ModuleList(adapters.values()), loss)
    target = folder / f"{name}.safetensors"
    save_file(file_tensors(nets.unet, adapters), target, metadata(name, settings))
    return target


def metadata(name: str, settings: AdapterSettings) -> dict[str, str]:
    """What the file says of itself, under the keys of kohya's scripts and of ModelSpec."""
    said = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": name,
        "modelspec.architecture": "intarsia-tiny/lora",
        "modelspec.license": "MIT",
        "ss_base_model_version": "intarsia-tiny",
        "ss_network_dim": str(settings.rank),
        "ss_network_alpha": str(settings.alpha),
    }
    if settings.kind == "loha":
        return {**said, "ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "loha"}'}
    return {**said, "ss_network_module": "networks.lora"}
