"""The autoencoder: AutoencoderTiny's layout. The encoder is average pooling and stays so; the decoder is trained.

A trained encoder hides fine detail in its latents: twice as rough as pooled ones, and the UNet then spends its loss on
what nobody can predict. Pooled latents are smooth, and the decoder still finds sharp edges of flat shapes in them:
a pooled pixel says how much of it is covered.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from tools.train_tiny.records import log, save_atomic
from tools.train_tiny.scenes import Mixture, draw_scene
from tools.train_tiny.settings import AutoencoderSettings

CHANNELS = 32
ENCODER_BLOCKS = (0, 0, 1, 2)
DECODER_BLOCKS = (3, 2, 1, 0)
PICTURES = Mixture(empty=0.2, photographic=0.5)


def build() -> AutoencoderTiny:
    """An autoencoder whose encoder pools over 8×8 pixels, and whose untrained decoder enlarges that again.

    Latents, before scaling: 2·color − 1 for each color, and the same of the mean color over 24×24 pixels.
    """
    model = AutoencoderTiny(
        encoder_block_out_channels=(CHANNELS,) * 4,
        decoder_block_out_channels=(CHANNELS,) * 4,
        num_encoder_blocks=ENCODER_BLOCKS,
        num_decoder_blocks=DECODER_BLOCKS,
        latent_channels=4,
        upsample_fn="nearest",
    )
    _start_from_pooling(model)
    model.encoder.requires_grad_(False)
    return model


@torch.no_grad()
def _start_from_pooling(model: AutoencoderTiny) -> None:
    for side in (model.encoder, model.decoder):
        for module in side.modules():
            if module.__class__.__name__ == "AutoencoderTinyBlock":
                module.conv[-1].weight.zero_()
                module.conv[-1].bias.zero_()
    tap = torch.zeros(3, 3)
    tap[1, 1] = 1.0
    pool = torch.zeros(3, 3)
    pool[1:, 1:] = 0.25  # stride 2, padding 1: taps 1 and 2 are the two pixels that become one
    tent = torch.tensor([1.0, 2.0, 1.0])
    smooth = torch.outer(tent, tent) / 16  # after nearest enlargement: bilinear enlargement
    inward = [layer for layer in model.encoder.layers if isinstance(layer, torch.nn.Conv2d)]
    outward = [layer for layer in model.decoder.layers if isinstance(layer, torch.nn.Conv2d)]
    for layer in inward[:-1]:
        _carry_colours(layer, pool if layer.stride == (2, 2) else tap)
    for layer in outward[:-1]:
        _carry_colours(layer, tap if layer is outward[0] else smooth)
    outward[0].weight[:3] *= 0.5  # raw latents are 2·color − 1
    outward[0].bias[:3] = 0.5
    _carry_colours(inward[-1], tap)
    inward[-1].weight[:3] *= 2
    inward[-1].weight[3] = 0
    inward[-1].weight[3, :3] = 2 / 27
    inward[-1].bias[:] = -1.0
    outward[-1].weight.mul_(0.1)
    _carry_colours(outward[-1], tap)


def _carry_colours(layer: torch.nn.Conv2d, kernel: torch.Tensor) -> None:
    """Make the first three output channels the first three input channels, filtered by `kernel`."""
    layer.weight[:3] = 0
    for channel in range(3):
        layer.weight[channel, channel] = kernel
    if layer.bias is not None:
        layer.bias[:3] = 0


def differences(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Horizontal and vertical differences of neighbouring pixels, [N, C, H, W−1] and [N, C, H−1, W]."""
    return image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]


def _crops(pictures: list[np.ndarray], rng: np.random.Generator, batch: int, crop: int) -> torch.Tensor:
    chosen = []
    for _ in range(batch):
        picture = pictures[int(rng.integers(len(pictures)))]
        y, x = (int(rng.integers(0, picture.shape[0] - crop + 1)) for _ in range(2))
        part = picture[y : y + crop, x : x + crop]
        chosen.append(part[:, ::-1] if rng.random() < 0.5 else part)
    stacked = torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1


def loss_of(model: AutoencoderTiny, image: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """Loss terms of a batch [N, 3, H, W] in −1…1: differences in color, and at edges."""
    latents = model.encoder(image)
    drawn = model.decoder(latents + noise)
    edges = sum((ours - true).abs().mean() for ours, true in zip(differences(drawn), differences(image), strict=True))
    return {"l1": (drawn - image).abs().mean(), "edges": edges}


def train(settings: AutoencoderSettings, seed: int, folder: Path, device: torch.device) -> AutoencoderTiny:
    """Train, or take the finished weights in `folder`; a killed run goes on from its last checkpoint."""
    torch.manual_seed(seed)
    model = build().to(device, memory_format=torch.channels_last)
    decoder = model.decoder.parameters()
    optimiser = torch.optim.AdamW(decoder, lr=settings.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    path = folder / "autoencoder.pt"
    start = 0
    if path.exists():
        saved = torch.load(path, map_location=device)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        model.register_to_config(scaling_factor=saved["scaling_factor"])
        start = saved["step"]
    if start < settings.steps:
        pictures = [draw_scene("autoencoder", i, 256, PICTURES).picture for i in range(settings.scenes)]
        pictures += [draw_scene("autoencoder", i, 512, PICTURES).picture for i in range(settings.scenes // 10)]
    begun = time.time()
    for step in range(start, settings.steps):
        rng = np.random.default_rng([seed, step])
        rise, fall = min(1.0, (step + 1) / 50), 0.5 + 0.5 * np.cos(np.pi * step / settings.steps)
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * rise * max(float(fall), 0.02)
        image = _crops(pictures, rng, settings.batch, settings.crop).to(device)
        image = image.contiguous(memory_format=torch.channels_last)
        side = settings.crop // 8
        noise = torch.randn(settings.batch, 4, side, side).to(device) * settings.latent_noise
        terms = loss_of(model, image, noise)
        loss = terms["l1"] + 0.5 * terms["edges"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == settings.steps - 1:
            shown = {name: round(float(value.detach()), 5) for name, value in terms.items()}
            log(folder / "log.jsonl", stage="autoencoder", step=step, seconds=round(time.time() - begun, 1), **shown)
        if step % 500 == 499 or step == settings.steps - 1:
            _measure_scale(model, pictures, settings, device)
            save_atomic(
                {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "scaling_factor": model.config.scaling_factor,
                    "step": step + 1,
                },
                path,
            )
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _measure_scale(
    model: AutoencoderTiny, pictures: list[np.ndarray], settings: AutoencoderSettings, device: torch.device
) -> None:
    """Choose the scaling factor that gives latents a standard deviation of one."""
    image = _crops(pictures, np.random.default_rng(0), 128, settings.crop).to(device)
    latents = model.encoder(image)
    drawn = model.decoder(latents).clamp(-1, 1)
    model.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    print(
        "latents: std by channel",
        [round(float(v), 3) for v in latents.std(dim=(0, 2, 3))],
        "mean",
        [round(float(v), 3) for v in latents.mean(dim=(0, 2, 3))],
        "largest",
        round(float(latents.abs().max()), 3),
        "L1 (−1…1)",
        round(float((drawn - image).abs().mean()), 4),
        flush=True,
    )
