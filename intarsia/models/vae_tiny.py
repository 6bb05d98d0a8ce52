"""The small autoencoder without norms (TAESD), names as in diffusers' ``AutoencoderTiny``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.models.config_values import number, refuse, whole, wholes

_KIND = "AutoencoderTiny"
_FIXED: dict[str, tuple[object, ...]] = {
    "act_fn": ("relu",),
    "in_channels": (3,),
    "out_channels": (3,),
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
}


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Shape of the autoencoder: widths and residual blocks per level, in the order in which they run."""

    encoder_widths: tuple[int, ...] = (64, 64, 64, 64)
    decoder_widths: tuple[int, ...] = (64, 64, 64, 64)
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    latent_channels: int = 4
    scaling_factor: float = 1.0
    shift_factor: float = 0.0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> TinyConfig:
        """Read a diffusers ``AutoencoderTiny`` config. WeightsError names what is not supported."""
        refuse(_KIND, config, _FIXED)
        default = cls()
        widths = wholes(_KIND, config, "encoder_block_out_channels", default.encoder_widths)

        def by_level(key: str, otherwise: tuple[int, ...], least: int = 1) -> tuple[int, ...]:
            return wholes(_KIND, config, key, otherwise, count=len(widths), least=least)

        return cls(
            encoder_widths=widths,
            decoder_widths=by_level("decoder_block_out_channels", default.decoder_widths),
            encoder_blocks=by_level("num_encoder_blocks", default.encoder_blocks, 0),
            decoder_blocks=by_level("num_decoder_blocks", default.decoder_blocks, 0),
            latent_channels=whole(_KIND, config, "latent_channels", default.latent_channels),
            scaling_factor=number(_KIND, config, "scaling_factor", default.scaling_factor),
            shift_factor=number(_KIND, config, "shift_factor", default.shift_factor, positive=False),
        )

    @property
    def blocks(self) -> int:
        """Residual blocks of encoder and decoder, each of several tensors."""
        return sum(self.encoder_blocks) + sum(self.decoder_blocks)


class TinyBlock(nn.Module):
    """Three 3x3 convolutions with ReLU, added to the input; ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def conv() -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 3, padding=1)

        self.conv = nn.Sequential(conv(), nn.ReLU(inplace=True), conv(), nn.ReLU(inplace=True), conv())

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → ``[B, C, H, W]``."""
        h: Tensor = self.conv(x)
        h += x
        return F.relu(h, inplace=True)


class _Layers(nn.Module):
    """A plain chain; it exists for the published name ``layers``."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class AutoencoderTiny(nn.Module):
    """An :class:`~intarsia.models.autoencoder.Autoencoder` of convolutions only.

    The chains work on images in 0..1 and on unscaled latents, which the decoder squashes to -3..3.
    """

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = config.latent_channels
        downsamplings = len(config.encoder_widths) - 1
        self.factor = 2**downsamplings
        self.encoder = _Layers(_encoder(config))
        self.decoder = _Layers(_decoder(config))

    def encode(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in -1..1 → scaled latents ``[B, C, H/factor, W/factor]``."""
        from_zero = images.add(1).div(2)
        latents: Tensor = self.encoder(from_zero)
        return (latents - self.config.shift_factor) * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents ``[B, C, h, w]`` → ``[B, 3, h*factor, w*factor]``, about -1..1."""
        unscaled = latents / self.config.scaling_factor + self.config.shift_factor
        squashed = torch.tanh(unscaled / 3) * 3
        images: Tensor = self.decoder(squashed)
        return images.mul(2).sub(1)


def _encoder(config: TinyConfig) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i, width in enumerate(config.encoder_widths):
        if i == 0:
            layers.append(nn.Conv2d(3, width, 3, padding=1))
        else:
            layers.append(nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
        layers += _blocks(width, config.encoder_blocks[i])

    last_width = config.encoder_widths[-1]
    layers.append(nn.Conv2d(last_width, config.latent_channels, 3, padding=1))
    return layers


def _decoder(config: TinyConfig) -> list[nn.Module]:
    widths = config.decoder_widths
    first = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
    layers: list[nn.Module] = [first, nn.ReLU(inplace=True)]
    for i, width in enumerate(widths):
        layers += _blocks(width, config.decoder_blocks[i])
        is_last = i == len(widths) - 1
        if not is_last:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))

    layers.append(nn.Conv2d(widths[-1], 3, 3, padding=1))
    return layers


def _blocks(width: int, count: int) -> list[TinyBlock]:
    return [TinyBlock(width) for _ in range(count)]
