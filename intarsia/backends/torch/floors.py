"""The roofline: the least cost of one step and one job of the published networks, counted on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn

from intarsia import schedulers
from intarsia.backends.protocol import Inputs, Step
from intarsia.backends.torch.counting import Count, count
from intarsia.backends.torch.session import TorchSession
from intarsia.execution import Execution
from intarsia.models.configs import UNETS, VAES
from intarsia.models.loading import Parts
from intarsia.models.text import TextEncoding
from intarsia.models.unet import UNet
from intarsia.models.vae_kl import AutoencoderKL

__all__ = ["GOAL", "RATE", "Floor", "diffusers_forward", "floors", "forward", "network", "parameters", "step"]

RATE = 790e12
"""FLOP/s of one H200 in dense half-precision products, measured; its data sheet says 990."""

GOAL = 480
"""Most operations of one SD1.5 step."""

Network = TypeVar("Network", bound=nn.Module)

_TOKENS = 77
_FACTOR = 8


@dataclass(frozen=True)
class Floor:
    """One line of the roofline.

    ``expected`` is the TFLOP that was counted when the goals were set: of SD1.5 with both branches computed throughout.
    """

    work: str
    count: Count
    expected: float

    @property
    def tflop(self) -> float:
        return self.count.flops / 1e12

    @property
    def milliseconds(self) -> float:
        """At :data:`RATE`."""
        return 1e3 * self.count.flops / RATE


def floors() -> Iterator[Floor]:
    """All lines, as they are counted."""
    for size, expected in ((512, 1.607), (768, 4.30), (1024, 9.35)):
        yield Floor(f"SD1.5-inpaint UNet {size}², one guided step", forward("sd15-inpaint", size), expected)
    yield Floor("SDXL UNet 1024², one guided step", forward("sdxl", 1024), 13.52)
    for size, into, out in ((512, 1.12, 2.51), (1024, 4.88, 10.47)):
        yield Floor(f"VAE encode {size}²", encode(size), into)
        yield Floor(f"VAE decode {size}²", decode(size), out)
    yield Floor("S1: SD1.5-inpaint 512², 14 evaluations", job("sd15-inpaint", 512, 14), 27.3)
    yield Floor("S2: SDXL 1024², 30 steps, no encode", forward("sdxl", 1024).times(30) + decode(1024), 416)
    yield Floor("S3: SDXL-inpaint 1024², 14 evaluations", job("sdxl-inpaint", 1024, 14), 210)


def job(family: str, size: int, evaluations: int) -> Count:
    """Evaluations, the image and the masked image in, one image out."""
    return forward(family, size).times(evaluations) + encode(size).times(2) + decode(size)


@cache
def network(family: str) -> UNet:
    """A UNet on the meta device, half precision, channels last."""
    return _laid_out(UNet, UNETS[family])


@cache
def _autoencoder() -> AutoencoderKL:
    return _laid_out(AutoencoderKL, VAES["sd15"])


def parameters(family: str) -> int:
    """Parameters of a UNet."""
    return sum(parameter.numel() for parameter in network(family).parameters())


@cache
def forward(family: str, size: int) -> Count:
    """One evaluation with guidance (two branches) at ``size``² pixels, without what is computed once for a prompt.

    As a session does it: before the first cross-attention, SD1.5's branches are computed as one.
    """
    unet = network(family)
    side, config = size // _FACTOR, unet.config
    copies = 2 if config.added_inputs else 1
    sample = _half(copies, config.in_channels, side, side).to(memory_format=torch.channels_last)
    with torch.no_grad():
        pooled = _half(1, 1280) if config.added_inputs else None
        emb = unet.embed(_half(1), pooled, _half(1, 6) if config.added_inputs else None).expand(2, -1)
        cross_kv = unet.cross_kv(_half(2, _TOKENS, config.cross_attention_dim[0]))
    return count(lambda: unet(sample, emb, cross_kv))


@cache
def encode(size: int) -> Count:
    """One image → latents."""
    vae, image = _autoencoder(), _half(1, 3, size, size).to(memory_format=torch.channels_last)
    return count(lambda: vae.encode(image))


@cache
def decode(size: int) -> Count:
    """One image's latents → image."""
    side = size // _FACTOR
    vae, latents = _autoencoder(), _half(1, 4, side, side).to(memory_format=torch.channels_last)
    return count(lambda: vae.decode(latents))


@cache
def step(family: str, size: int) -> Count:
    """One guided step of a session with one lane: network, guidance, table row, next input."""
    unet = network(family)
    width, side = unet.config.cross_attention_dim[0], size // _FACTOR
    text = _Text(width, 1280 if unet.config.added_inputs else 0)
    parts = Parts(unet=unet, vae=_autoencoder(), text=cast(Any, text), scheduler={}, index={})
    session = TorchSession(parts, torch.device("meta"), Execution())
    inputs = Inputs(
        prompt="",
        negative_prompt="",
        clip_skip=1,
        guidance_scale=7.5,
        image=np.zeros((size, size, 3), np.uint8),
        mask=np.zeros((size, size), bool),
        latent_mask=np.zeros((side, side), np.float32),
    )
    conditioning, _ = session.encode(inputs)
    table = schedulers.table("DPMSolverMultistepScheduler", 21, karras=True, strength=0.7)
    state = session.start(conditioning, table, np.zeros((4, side, side), np.float32))
    session.advance([Step(state, 4)])  # places the lane, once
    return count(lambda: session.advance([Step(state, 5)]))


def diffusers_forward(size: int) -> Count | None:
    """diffusers' own SD1.5-inpaint network, one evaluation with guidance; None where it is not installed."""
    if find_spec("diffusers") is None:
        return None
    from diffusers import UNet2DConditionModel

    settings = {"in_channels": 9, "cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**settings).half()  # all other settings are its defaults
    sample, text = _half(2, 9, size // _FACTOR, size // _FACTOR), _half(2, _TOKENS, 768)
    timestep = torch.ones((), device="meta", dtype=torch.int64)
    return count(lambda: unet(sample, timestep, text, return_dict=False))


@dataclass(frozen=True)
class _Text:
    """Stands for the text encoders: vectors of the right shape."""

    width: int
    pooled: int

    def encode(self, prompts: Sequence[str], clip_skip: int = 1) -> TextEncoding:
        rows = len(prompts)
        return TextEncoding(_half(rows, _TOKENS, self.width), _half(rows, self.pooled) if self.pooled else None)


def _half(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=torch.float16)


def _laid_out(kind: Callable[[Any], Network], config: object) -> Network:
    with torch.device("meta"):
        network = kind(config)
    network.half().eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
