"""The autoencoder of Stable Diffusion (Rombach et al. 2022), names as in diffusers' ``AutoencoderKL``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intarsia.kernels.attention import attend
from intarsia.models.attention import feature_map, tokens_of
from intarsia.models.blocks import Downsample, ResBlock, Upsample
from intarsia.models.config_values import flag, number, refuse, whole, wholes
from intarsia.models.layers import GroupNorm

_KIND = "AutoencoderKL"
_EPS = 1e-6
_FIXED: dict[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "in_channels": (3,),
    "out_channels": (3,),
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
}


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    """Shape of the autoencoder; widths from the image's resolution downwards."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    latent_channels: int = 4
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    quant_conv: bool = True
    post_quant_conv: bool = True

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> KLConfig:
        """Read a diffusers ``AutoencoderKL`` config. WeightsError names what is not supported."""
        refuse(_KIND, config, _FIXED)
        return cls(
            block_out_channels=wholes(_KIND, config, "block_out_channels", (64,)),
            layers_per_block=whole(_KIND, config, "layers_per_block", 1),
            norm_num_groups=whole(_KIND, config, "norm_num_groups", 32),
            latent_channels=whole(_KIND, config, "latent_channels", 4),
            scaling_factor=number(_KIND, config, "scaling_factor", 0.18215),
            shift_factor=number(_KIND, config, "shift_factor", 0.0, positive=False),
            quant_conv=flag(_KIND, config, "use_quant_conv", True),
            post_quant_conv=flag(_KIND, config, "use_post_quant_conv", True),
        )

    @property
    def blocks(self) -> int:
        """Residual blocks on the way down and up, each of several tensors."""
        return len(self.block_out_channels) * (2 * self.layers_per_block + 1)


class MidAttention(nn.Module):
    """One head over all positions, added to the input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, eps=_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → ``[B, C, H, W]``."""
        height, width = x.shape[-2:]
        tokens = tokens_of(self.group_norm(x))
        one_head = tokens[:, None]
        attended = attend(self.to_q(one_head), self.to_k(one_head), self.to_v(one_head))
        out = self.to_out(attended[:, 0])
        return feature_map(out, height, width) + x


class _Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MidAttention(channels, groups)])
        self.resnets = nn.ModuleList(ResBlock(channels, channels, groups=groups, eps=_EPS) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.resnets
        x = self.attentions[0](before(x))
        out: Tensor = after(x)
        return out


class _Stage(nn.Module):
    """Residual blocks, then perhaps a change of resolution."""

    def __init__(self, resnets: list[ResBlock], *, down: bool = False, up: bool = False) -> None:
        super().__init__()
        width = resnets[-1].conv2.out_channels
        self.resnets = nn.ModuleList(resnets)
        self.downsamplers = nn.ModuleList([Downsample(width, one_sided=True)] if down else [])
        self.upsamplers = nn.ModuleList([Upsample(width)] if up else [])

    def forward(self, x: Tensor) -> Tensor:
        for layers in (self.resnets, self.downsamplers, self.upsamplers):
            for layer in layers:
                x = layer(x)
        return x


def _resnets(inputs: int, width: int, count: int, groups: int) -> list[ResBlock]:
    first = ResBlock(inputs, width, groups=groups, eps=_EPS)
    others = [ResBlock(width, width, groups=groups, eps=_EPS) for _ in range(count - 1)]
    return [first, *others]


class Encoder(nn.Module):
    """``[B, 3, H, W]`` → ``[B, 2 * latent channels, H/factor, W/factor]``: means, then log-variances."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        groups = config.norm_num_groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)

        self.down_blocks = nn.ModuleList()
        inputs = widths[0]
        for i, width in enumerate(widths):
            is_last = i == len(widths) - 1
            resnets = _resnets(inputs, width, config.layers_per_block, groups)
            self.down_blocks.append(_Stage(resnets, down=not is_last))
            inputs = width

        self.mid_block = _Middle(widths[-1], groups)
        self.conv_norm_out = GroupNorm(groups, widths[-1], eps=_EPS, silu=True)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)

        x = self.conv_norm_out(x)
        out: Tensor = self.conv_out(x)
        return out


class Decoder(nn.Module):
    """``[B, latent channels, h, w]`` → ``[B, 3, h*factor, w*factor]``."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        groups = config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = _Middle(widths[0], groups)

        self.up_blocks = nn.ModuleList()
        inputs = widths[0]
        for i, width in enumerate(widths):
            is_last = i == len(widths) - 1
            resnets = _resnets(inputs, width, config.layers_per_block + 1, groups)
            self.up_blocks.append(_Stage(resnets, up=not is_last))
            inputs = width

        self.conv_norm_out = GroupNorm(groups, widths[-1], eps=_EPS, silu=True)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        x = self.mid_block(x)
        for block in self.up_blocks:
            x = block(x)

        x = self.conv_norm_out(x)
        out: Tensor = self.conv_out(x)
        return out


class AutoencoderKL(nn.Module):
    """An :class:`~intarsia.models.autoencoder.Autoencoder` whose encoder gives a Gaussian; its mean is taken."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = channels = config.latent_channels
        downsamplings = len(config.block_out_channels) - 1
        self.factor = 2**downsamplings

        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.post_quant_conv else None

    def encode(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in -1..1 → scaled latents ``[B, C, H/factor, W/factor]``, the posterior's mode."""
        moments: Tensor = self.encoder(images)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean = moments[:, : self.latent_channels]
        return (mean - self.config.shift_factor) * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents ``[B, C, h, w]`` → ``[B, 3, h*factor, w*factor]``, about -1..1."""
        x = latents / self.config.scaling_factor + self.config.shift_factor
        if self.post_quant_conv is not None:
            x = self.post_quant_conv(x)
        images: Tensor = self.decoder(x)
        return images

    @torch.no_grad()
    def shrink(self, power: int) -> None:
        """Make everything between norms ``2**power`` times smaller, in place; latents and images stay the same.

        SDXL's autoencoder has feature maps beyond 65,504, the largest float16. Each of them goes into a norm, whose
        result does not depend on their scale if its epsilon is scaled too. Powers of two are exact, so this costs no
        time and no precision, except for weights that become subnormal in float16: they change by at most
        ``2**(power - 25)``, 2e-6 for a power of 6, a quarter of the rounding error of a weight of 0.03.
        """
        share = 0.5**power
        for module in self.modules():
            if isinstance(module, ResBlock):
                _multiply(share, module.conv1.weight, module.conv1.bias, module.conv2.weight, module.conv2.bias)
                if module.conv_shortcut is not None:
                    _multiply(share, module.conv_shortcut.bias)
            elif isinstance(module, MidAttention):
                _multiply(share, *module.to_out.parameters())
            elif isinstance(module, (Downsample, Upsample)):
                _multiply(share, module.conv.bias)
            elif isinstance(module, GroupNorm):
                module.eps *= share**2

        _multiply(share, *self.encoder.conv_in.parameters())
        _multiply(share, *self.decoder.conv_in.parameters())


def _multiply(share: float, *tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            tensor.mul_(share)
